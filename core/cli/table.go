package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/snapfw/snapfw/core/internal/engine"
	"github.com/snapfw/snapfw/core/internal/manifest"
)

// RunSummary is a run as --output json shows it. Its keys are stable.
type RunSummary struct {
	Run     string        `json:"run"`
	Chain   string        `json:"chain"`
	Intent  string        `json:"intent"`
	State   string        `json:"state"` // done, failed, skipped, open, parked
	Exit    int           `json:"exit"`
	Error   string        `json:"error,omitempty"`
	Forced  string        `json:"forced,omitempty"`
	Started time.Time     `json:"started"`
	Ended   time.Time     `json:"ended,omitzero"`
	Nodes   []NodeSummary `json:"nodes"`
	Notes   []string      `json:"notes,omitempty"`
}

// NodeSummary is a node of a run.
type NodeSummary struct {
	Node          string  `json:"node"`
	State         string  `json:"state"` // published, kept, done (a repair), captured, parked, failed, untouched, down
	Height        string  `json:"height,omitempty"`
	Hash          string  `json:"hash,omitempty"`
	DownSeconds   float64 `json:"down_seconds"`
	Files         int     `json:"files"`
	Bytes         int64   `json:"bytes"`
	UploadedFiles int     `json:"uploaded_files"`
	UploadedBytes int64   `json:"uploaded_bytes"`
	Published     string  `json:"published,omitempty"`
	NothingNew    bool    `json:"nothing_new,omitempty"` // it was published before
	Copy          string  `json:"copy,omitempty"`
	Review        string  `json:"review,omitempty"` // where its list is reviewed: an address, else the branch
	Branch        string  `json:"branch,omitempty"` // that is reviewed
	Base          string  `json:"base,omitempty"`   // that it is to be merged into
	Report        string  `json:"report,omitempty"` // the judge's, Markdown
	Error         string  `json:"error,omitempty"`
}

func summary(st *engine.State, out engine.Outcome) RunSummary {
	r := RunSummary{
		Run: st.Run, Chain: st.Begun.Chain, Intent: st.Begun.Intent.Name, State: stateOf(st), Exit: out.Exit,
		Forced: st.Begun.Intent.Reason, Started: st.Started, Nodes: []NodeSummary{}, Notes: st.Notes,
	}
	if st.Closed != nil {
		r.Ended = st.Ended
	}
	if out.Err != nil {
		r.Error = out.Err.Error()
	}
	for _, n := range st.Nodes {
		r.Nodes = append(r.Nodes, nodeSummary(n))
	}
	return r
}

func nodeSummary(n *engine.Node) NodeSummary {
	s := NodeSummary{Node: n.Name, State: nodeState(n), NothingNew: n.NothingNew(), Height: n.Kept["height"], Hash: n.Kept["hash"], Files: n.Files, Bytes: n.Bytes}
	if n.Up != nil {
		s.DownSeconds = n.Up.Down.Seconds()
	}
	if u := n.Uploaded; u != nil {
		s.UploadedFiles, s.UploadedBytes = u.NewFiles, u.NewBytes
		if u.Sent != nil {
			s.UploadedFiles, s.UploadedBytes = u.Sent.Files, u.Sent.Bytes
		}
		if n.Promoted {
			s.Published = u.Prefix
			if n.Plan.Publish.InPlace {
				s.Published = u.Pointer
			}
		}
	}
	if n.Judged != nil {
		s.Report = n.Judged.Report
	}
	if n.Proposed != nil {
		s.Review, s.Branch, s.Base = cmp.Or(n.Proposed.URL, n.Proposed.Branch), n.Proposed.Branch, n.Proposed.Base
	}
	if n.Stays && n.Plan != nil {
		s.Copy = n.Plan.Data
	}
	switch {
	case n.Failed != nil:
		s.Error = n.Failed.Err
	case n.Stuck != nil:
		s.Error = n.Stuck.Err
	case n.Unwell != nil:
		s.Error = n.Unwell.Err
	}
	return s
}

func nodeState(n *engine.Node) string {
	switch {
	case n.Down():
		return "down"
	case n.Failed != nil:
		return "failed"
	case n.Promoted:
		return "published"
	case n.Stays && n.Plan != nil && n.Plan.Data == "":
		return "done" // a repair
	case n.Stays:
		return "kept"
	case n.Parked:
		return "parked"
	case n.Captured:
		return "captured"
	case n.Skipped != "":
		return "skipped"
	}
	return "untouched"
}

func stateOf(st *engine.State) string {
	switch {
	case st.Closed == nil && slices.ContainsFunc(st.Nodes, func(n *engine.Node) bool { return n.Parked }):
		return "parked"
	case st.Closed == nil:
		return "open"
	case st.Skipped != "":
		return "skipped"
	case st.Closed.Exit == engine.ExitDone:
		return "done"
	}
	return "failed"
}

// printTable is the end of a run for people.
func (a *app) printTable(st *engine.State) {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tHEIGHT\tDOWN\tCAPTURED\tUPLOADED\tWHERE")
	for _, n := range st.Nodes {
		s := nodeSummary(n)
		down, uploaded, where := "-", "-", "-"
		if n.Up != nil {
			down = seconds(n.Up.Down)
		}
		if n.Uploaded != nil {
			uploaded = fmt.Sprintf("%s in %s", manifest.Size(s.UploadedBytes), files(s.UploadedFiles))
		}
		switch {
		case s.NothingNew:
			where = s.Published + ": nothing new, published already"
		case s.Published != "":
			where = s.Published
		case s.Copy != "":
			where = s.Copy + " on " + machineName(n)
		case s.State != "captured":
			where = strings.ToUpper(s.State)
		}
		captured := "-"
		if s.Files > 0 {
			captured = fmt.Sprintf("%s in %s", manifest.Size(s.Bytes), files(s.Files))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", n.Name, dash(s.Height), down, captured, uploaded, where)
	}
	w.Flush()
}

func machineName(n *engine.Node) string {
	if n.Addr.Host == "" {
		return "this machine"
	}
	return n.Addr.Host
}

func files(n int) string { return count(n, "file") }

// count is a number of things: "1 node", "2 nodes".
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

func seconds(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return d.Round(time.Second).String()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
