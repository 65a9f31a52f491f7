package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/internal/config"
	"github.com/snapfw/snapfw/core/internal/engine"
	"github.com/snapfw/snapfw/core/internal/manifest"
)

// ChainStatus is a chain as `status --output json` shows it.
type ChainStatus struct {
	Chain string       `json:"chain"`
	Error string       `json:"error,omitempty"`
	Nodes []NodeStatus `json:"nodes"`
	Open  []string     `json:"open_runs"` // parked ones too

	Parked []ParkedRun `json:"parked_runs"`
}

// ParkedRun waits for somebody to let its list through.
type ParkedRun struct {
	Run    string    `json:"run"`
	Since  time.Time `json:"since"`
	Review string    `json:"review,omitempty"` // where: an address, else the branch; "" is by hand: `snapfw approve`
	Branch string    `json:"branch,omitempty"`
	Base   string    `json:"base,omitempty"`
	waits  string    // for what, and what to do then
}

// NodeStatus is one node of it.
type NodeStatus struct {
	Node     string        `json:"node"`
	Machine  string        `json:"machine"`
	Up       bool          `json:"up"`
	Version  string        `json:"version,omitempty"`
	Height   uint64        `json:"height,omitempty"`
	HeadTime time.Time     `json:"head_time,omitzero"`
	Checks   []CheckStatus `json:"checks"`
	Error    string        `json:"error,omitempty"`
	Hold     time.Time     `json:"hold_until,omitzero"`
	Owed     []string      `json:"owed"` // what runs that are not over owe it
	pays     []string      // what pays each of them
	LastGood time.Time     `json:"last_good,omitzero"` // when its newest published snapshot was captured
}

// CheckStatus is a core.Check.
type CheckStatus struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Want   string `json:"want"`
	Got    string `json:"got"`
	Fix    string `json:"fix,omitempty"`
	Safety bool   `json:"safety"` // it protects data: --force does not bypass it
}

func (a *app) statusCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "status", Short: "the nodes, their checks, what is owed, the age of the last good snapshot", Args: cobra.NoArgs,
		Long: `Look at the nodes of a chain, or of all: where they are, each check with what was expected and
what was found, what runs that are not over owe them, and how old the last good
snapshot is. Exit code 0 when every node is well, 1 when one could not be looked at, 3 when a check
fails, 10 when a node is down.`,
	}
	a.chainFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := a.open(cmd.Context(), cmd)
		if err != nil {
			return err
		}
		names := s.file.ChainNames()
		if a.chain != "" {
			names = []string{a.chain}
		}
		runs, err := engine.All(s.journals())
		if err != nil {
			return err
		}
		all := []ChainStatus{}
		for _, name := range names {
			cs, err := s.chainStatus(cmd.Context(), name, runs)
			if err != nil {
				return err
			}
			all = append(all, cs)
		}
		s.view.Close()
		if a.json() {
			if err := a.printJSON(all); err != nil {
				return err
			}
		} else {
			a.printStatus(all, time.Now())
		}
		return statusExit(all)
	}
	return cmd
}

func (s *session) chainStatus(ctx context.Context, name string, runs []*engine.State) (ChainStatus, error) {
	c, driver, err := s.chain(ctx, name)
	if err != nil {
		return ChainStatus{}, err
	}
	nodes, err := driver.Nodes(ctx, c.Own)
	if err != nil {
		return ChainStatus{}, s.place(c.Name, err)
	}
	holds, err := s.holds()
	if err != nil {
		return ChainStatus{}, err
	}
	cs := ChainStatus{Chain: c.Name, Nodes: make([]NodeStatus, len(nodes)), Open: []string{}, Parked: []ParkedRun{}}
	for _, st := range runs {
		if st.Begun.Chain == c.Name && st.Closed == nil {
			cs.Open = append(cs.Open, st.Run)
			cs.parked(st)
		}
	}
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Add(1)
		go func() {
			defer wg.Done()
			ns := s.nodeStatus(ctx, c, driver, n)
			if until, held := holds.held(c.Name, n.Name); held {
				ns.Hold = until
			}
			ns.fromRuns(c.Name, runs)
			cs.Nodes[i] = ns
		}()
	}
	wg.Wait()
	return cs, nil
}

// parked adds a run that waits for its review.
func (cs *ChainStatus) parked(st *engine.State) {
	for _, n := range st.Nodes {
		if n.Parked {
			s := nodeSummary(n)
			cs.Parked = append(cs.Parked, ParkedRun{st.Run, st.Started, s.Review, s.Branch, s.Base, st.WaitsFor()})
			return
		}
	}
}

func (s *session) nodeStatus(ctx context.Context, c config.Chain, driver core.Chain, n core.Node) NodeStatus {
	ns := NodeStatus{Node: n.Name, Machine: n.Addr.Host, Checks: []CheckStatus{}, Owed: []string{}}
	m, err := s.machine(ctx, n.Addr, c.Driver)
	if err != nil {
		ns.Error = err.Error()
		return ns
	}
	ns.Machine = m.String()
	st, err := driver.Status(ctx, n, m)
	if err != nil {
		ns.Error = err.Error()
		return ns
	}
	ns.Up, ns.Version, ns.Height, ns.HeadTime = st.Up, st.Version, st.Height, st.HeadTime
	for _, c := range st.Checks {
		ns.Checks = append(ns.Checks, CheckStatus(c))
	}
	return ns
}

// fromRuns adds what the journals know of a node.
func (ns *NodeStatus) fromRuns(chain string, runs []*engine.State) {
	for _, st := range runs {
		n := st.Node(ns.Node)
		if st.Begun.Chain != chain || n == nil {
			continue
		}
		if n.Promoted && n.CapturedAt.After(ns.LastGood) {
			ns.LastGood = n.CapturedAt
		}
		if st.Closed != nil {
			continue
		}
		for _, d := range n.Debts {
			pays := fmt.Sprintf("`snapfw resume %s` or `snapfw cancel %s` pays", st.Run, st.Run)
			if d.Starts() {
				pays = fmt.Sprintf("`snapfw up %s` pays", ns.Node)
			}
			ns.Owed, ns.pays = append(ns.Owed, fmt.Sprintf("undo of %q (%s)", d.Step, st.Run)), append(ns.pays, pays)
		}
	}
}

func statusExit(all []ChainStatus) error {
	code := engine.ExitDone
	for _, cs := range all {
		for _, n := range cs.Nodes {
			switch {
			case n.Error != "":
				code = max(code, engine.ExitFailed)
			case !n.Up:
				code = engine.ExitDown
			case slices.ContainsFunc(n.Checks, func(c CheckStatus) bool { return !c.OK }):
				code = max(code, engine.ExitRefused)
			}
		}
	}
	if code == engine.ExitDone {
		return nil
	}
	return &exitError{code, nil}
}

func (a *app) printStatus(all []ChainStatus, now time.Time) {
	for _, cs := range all {
		a.printf("%s\n", cs.Chain)
		w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "  NODE\tMACHINE\tSTATE\tHEIGHT\tHEAD\tLAST GOOD SNAPSHOT\tVERSION")
		for _, n := range cs.Nodes {
			head, last := "-", "none"
			if !n.HeadTime.IsZero() {
				head = seconds(now.Sub(n.HeadTime).Truncate(time.Second)) + " old"
			}
			if !n.LastGood.IsZero() {
				last = manifest.Age(now.Sub(n.LastGood)) + " ago"
			}
			fmt.Fprintf(w, "  %s\t%s\t%s\t%d\t%s\t%s\t%s\n", n.Node, n.Machine, n.word(), n.Height, head, last, dash(n.Version))
		}
		w.Flush()
		for _, n := range cs.Nodes {
			a.printNodeTroubles(n)
		}
		open := cs.Open
		for _, p := range cs.Parked {
			open = slices.DeleteFunc(slices.Clone(open), func(run string) bool { return run == p.Run })
			a.printf("  parked: %s is %s\n", p.Run, p.waits)
		}
		if len(open) > 0 {
			a.printf("  not over: %s; `snapfw resume` carries on\n", strings.Join(open, ", "))
		}
	}
}

func (n NodeStatus) word() string {
	switch {
	case n.Error != "":
		return "unknown"
	case !n.Up:
		return "down"
	case slices.ContainsFunc(n.Checks, func(c CheckStatus) bool { return !c.OK }):
		return "not well"
	}
	return "well"
}

func (a *app) printNodeTroubles(n NodeStatus) {
	if n.Error != "" {
		a.printf("  %s: %s\n", n.Node, n.Error)
	}
	for _, c := range n.Checks {
		if c.OK {
			continue
		}
		a.printf("  %s: %s: want %s, got %s", n.Node, c.Name, c.Want, c.Got)
		if c.Fix != "" {
			a.printf("; %s", c.Fix)
		}
		a.printf("\n")
	}
	if !n.Hold.IsZero() {
		a.printf("  %s: on hold until %s\n", n.Node, n.Hold.Format(time.RFC3339))
	}
	for i, o := range n.Owed {
		a.printf("  %s: owed: %s; %s\n", n.Node, o, n.pays[i])
	}
}

// knowsNode refuses a name that is no node of a chain.
func (s *session) knowsNode(ctx context.Context, c config.Chain, driver core.Chain, name string) error {
	nodes, err := driver.Nodes(ctx, c.Own)
	if err != nil {
		return s.place(c.Name, err)
	}
	return isNode(c.Name, nodes, name)
}

func isNode(chain string, nodes []core.Node, name string) error {
	var known []string
	for _, n := range nodes {
		if n.Name == name {
			return nil
		}
		known = append(known, n.Name)
	}
	return usage("chain %s has no node %q; it has %s", chain, name, strings.Join(known, ", "))
}

// parseUntil reads a time, a duration from now, or "now".
func parseUntil(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, usage("--until is missing: write a time (2026-11-22T06:00:00Z), a duration (6h, 2d) or now")
	}
	if text == "now" {
		return now, nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	d, err := config.ParseDuration(text)
	if err != nil {
		return time.Time{}, usage("--until %q: want a time (2026-11-22T06:00:00Z), a duration (6h, 2d) or now", text)
	}
	return now.Add(d), nil
}
