package engine

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/internal/journal"
	"github.com/snapfw/snapfw/core/internal/review"
	"github.com/snapfw/snapfw/core/onhost"
)

// Kinds of fact. A run is what these say; State is nothing but their sum.
const (
	factBegun    = "begun"    // Begun: what was asked for
	factOnward   = "onward"   // another process carries on
	factNode     = "node"     // core.Node: one that takes part
	factLooked   = "looked"   // Looked: a driver ran a command to look
	factStatus   = "status"   // core.Status before anything was touched
	factPlan     = "plan"     // core.Plan; a later one replaces it
	factReady    = "ready"    // Prepare is done
	factArmed    = "armed"    // onhost.GuardState
	factStopping = "stopping" // the node is about to be stopped
	factOwed     = "owed"     // Debt: an undo, from the moment before its Do
	factDoing    = "doing"    // Doing: a job is about to be started
	factDid      = "did"      // onhost.Result of that job
	factPaid     = "paid"     // Paid
	factCaptured = "captured" // the watershed
	factDisarmed = "disarmed"
	factUp       = "up"      // Up: the node answered again
	factHealthy  = "healthy" // … and moves on
	factUnwell   = "unwell"  // Failure: … or does not
	factSealed   = "sealed"
	factJudged   = "judged"   // Judged
	factChosen   = "chosen"   // Chosen
	factProposed = "proposed" // review.Opened
	factParked   = "parked"   // waiting for somebody
	factApproved = "approved" // Reviewed: by hand
	factReviewed = "reviewed" // Reviewed
	factMoving   = "moving"   // bytes under published names are about to be replaced
	factReplaced = "replaced"
	factStuck    = "stuck"    // Failure: this node can be carried on later
	factTold     = "told"     // string: that this node is stuck, and why
	factUploaded = "uploaded" // Uploaded
	factVerified = "verified"
	factProved   = "proved"
	factPromoted = "promoted"
	factPruned   = "pruned"
	factAging    = "aging"  // Failure: what is published was not made young
	factYoung    = "young"  // … and then it was
	factKept     = "kept"   // the copy stays on the host
	factFailed   = "failed" // Failure: this node gets no further
	factSkipped  = "skipped"
	factReleased = "released"
	factNote     = "note"   // something that an operator may want to know
	factClosed   = "closed" // Closed: the run is over
)

// Begun is what was asked for.
type Begun struct {
	Chain   string      `json:"chain"`
	Driver  string      `json:"driver"`
	Intent  core.Intent `json:"intent"`
	Publish bool        `json:"publish"`
	Version string      `json:"version,omitempty"`
	User    string      `json:"user,omitempty"`
	Config  string      `json:"config,omitempty"` // path of the file
	Nodes   []string    `json:"nodes,omitempty"`  // --node; empty is all
}

// Looked is a command that a driver ran on a host.
type Looked struct {
	Argv []string `json:"argv"`
	Exit int      `json:"exit"`
	Err  string   `json:"err,omitempty"`
}

// Debt is an undo that is owed.
type Debt struct {
	Phase string       `json:"phase"` // phasePrepare, phaseFreeze, phaseCapture
	Step  string       `json:"step"`
	Undo  core.Command `json:"undo"`
}

// Starts tells whether the undo starts a node: `snapfw up` pays it. The others are paid when the run is carried on or closed.
func (d Debt) Starts() bool { return d.Phase == phaseFreeze }

// Doing is a job that is about to be started.
type Doing struct {
	Job  string   `json:"job"`
	Argv []string `json:"argv"`
}

// Paid is a debt that is settled.
type Paid struct {
	Phase string `json:"phase"`
	Step  string `json:"step"`
	By    string `json:"by"` // "snapfw", "guard", "kept"
}

// Up says when a node answered again, and how long it did not.
type Up struct {
	Down time.Duration `json:"down"`
}

// Uploaded is what an upload did.
type Uploaded struct {
	Prefix   string        `json:"prefix"`
	Pointer  string        `json:"pointer"`
	Files    int           `json:"files"`
	Bytes    int64         `json:"bytes"`     // of the snapshot
	NewFiles int           `json:"new_files"` // not held by the previous snapshot
	NewBytes int64         `json:"new_bytes"`
	Sent     *core.Sent    `json:"sent,omitempty"`     // what really travelled, where the sink says so
	Manifest string        `json:"manifest,omitempty"` // sha256, once it is verified
	Took     time.Duration `json:"took"`
}

// Sealed is what a seal left.
type Sealed struct {
	Kept  map[string]string `json:"kept"`
	Files int               `json:"files"`
	Bytes int64             `json:"bytes"`
}

// Failure is why a node or a run got no further.
type Failure struct {
	Move    string `json:"move"`
	Err     string `json:"err"`
	Refused bool   `json:"refused,omitempty"` // by a check or a verb, not by an accident
	Usage   bool   `json:"usage,omitempty"`   // something was asked for that can't be done: who typed it knows
}

// Closed is how a run ended.
type Closed struct {
	Exit int    `json:"exit"`
	Err  string `json:"err,omitempty"`
}

// State is a run as its journal tells it.
type State struct {
	Run     string
	Begun   Begun
	Started time.Time
	Ended   time.Time
	Onward  int // how often another process carried on
	Nodes   []*Node
	Notes   []string
	Failed  *Failure // the run itself, before a node was touched
	Skipped string
	Closed  *Closed
}

// Node is one node of a run.
type Node struct {
	core.Node
	there      map[string]core.Object // what the bucket held when it was listed last, by this process; no fact tells it
	listedAt   time.Time
	young      chan struct{} // closed when what was published is young, or could not be made so
	aged       bool          // Aging is of this process
	proposal   *proposal     // read and rendered by this process
	halted     bool          // it gets no further in this process
	back       chan struct{} // closed when it came back, or did not; nil where this process did not stop it
	Before     *core.Status
	Plan       *core.Plan
	Plans      int
	Ready      bool
	Armed      bool
	Stopped    time.Time // when the first freeze began; of the latest plan
	Debts      []Debt    // owed, oldest first
	Jobs       map[string]jobCount
	Kept       map[string]string
	Captured   bool
	CapturedAt time.Time
	Up         *Up
	Healthy    bool
	Unwell     *Failure
	Sealed     bool
	Files      int   // of the copy
	Bytes      int64 // of the copy
	Judged     *Judged
	Chosen     *Chosen
	Uploaded   *Uploaded
	Verified   bool
	Proposed   *review.Opened
	Parked     bool // now
	Parks      int  // how often it was
	Approved   *Reviewed
	Reviewed   *Reviewed
	Replacing  bool
	Replaced   bool
	Stuck      *Failure // why it got no further in the process that was last
	Told       string   // why it was stuck, as people were told last
	Proved     bool
	Promoted   bool
	Pruned     bool
	Aging      *Failure // why what is published was not made young
	Stays      bool     // the copy stays on the host
	Released   bool
	Failed     *Failure
	Skipped    string
	Touched    bool // something was done to it
}

// jobCount tells how often a step was begun and whether the last time came to an end.
type jobCount struct {
	begun int
	open  bool
}

// Node returns a node by name, or nil.
func (s *State) Node(name string) *Node {
	for _, n := range s.Nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// Owes tells whether an undo of a phase is owed.
func (n *Node) Owes(phase string) bool {
	for _, d := range n.Debts {
		if d.Phase == phase {
			return true
		}
	}
	return false
}

// Down tells whether the node may be down as far as the journal knows. One that answered since the
// stop is up, even where an undo could not be paid: it may never have stopped.
func (n *Node) Down() bool {
	return n.Up == nil && (n.Owes(phaseFreeze) || !n.Stopped.IsZero())
}

// committed tells whether bytes under published names may have been replaced: there is no way back, only on.
func (n *Node) committed() bool {
	return n.Replacing || n.Replaced && n.Chosen != nil && n.Chosen.Replaced > 0
}

// Fold makes a State of facts.
func Fold(run string, facts []journal.Fact) (*State, error) {
	s := &State{Run: run}
	for i, f := range facts {
		if err := s.add(f); err != nil {
			return nil, fmt.Errorf("fact %d (%s): %w", i+1, f.Kind, err)
		}
	}
	return s, nil
}

// add folds one fact in. Facts of kinds that it does not know are left alone, so that an
// older snapfw reads what a newer one wrote.
func (s *State) add(f journal.Fact) error {
	s.Ended = f.Time
	if f.Node == "" || f.Kind == factNode {
		return s.addRun(f)
	}
	n := s.Node(f.Node)
	if n == nil {
		return fmt.Errorf("node %q was not named", f.Node)
	}
	return n.add(f)
}

func (s *State) addRun(f journal.Fact) error {
	switch f.Kind {
	case factBegun:
		s.Started = f.Time
		return decode(f, &s.Begun)
	case factOnward:
		s.Onward++
		for _, n := range s.Nodes {
			n.Stuck, n.Parked = nil, false
		}
	case factNode:
		n := &Node{Jobs: map[string]jobCount{}, Kept: map[string]string{}}
		if err := decode(f, &n.Node); err != nil {
			return err
		}
		if s.Node(n.Name) == nil {
			s.Nodes = append(s.Nodes, n)
		}
	case factFailed:
		s.Failed = new(Failure)
		return decode(f, s.Failed)
	case factSkipped:
		return decode(f, &s.Skipped)
	case factNote:
		var text string
		if err := decode(f, &text); err != nil {
			return err
		}
		s.Notes = append(s.Notes, text)
	case factClosed:
		s.Closed = new(Closed)
		return decode(f, s.Closed)
	}
	return nil
}

func (n *Node) add(f journal.Fact) error {
	switch f.Kind {
	case factStatus:
		n.Before = new(core.Status)
		return decode(f, n.Before)
	case factPlan:
		n.Plan = new(core.Plan)
		n.Plans++
		n.Stopped, n.Up = time.Time{}, nil
		return decode(f, n.Plan)
	case factReady:
		n.Ready = true
	case factArmed:
		n.Armed, n.Touched = true, true
	case factDisarmed:
		n.Armed = false
	case factStopping:
		n.Stopped, n.Up, n.Unwell, n.Healthy = f.Time, nil, nil, false
	case factOwed:
		var d Debt
		if err := decode(f, &d); err != nil {
			return err
		}
		n.Touched = true
		n.settle(d.Phase, d.Step)
		n.Debts = append(n.Debts, d)
	case factPaid:
		var p Paid
		if err := decode(f, &p); err != nil {
			return err
		}
		n.settle(p.Phase, p.Step)
	case factDoing:
		c := n.Jobs[f.Step]
		n.Jobs[f.Step] = jobCount{c.begun + 1, true}
		n.Touched = true
	case factDid:
		var r onhost.Result
		if err := decode(f, &r); err != nil {
			return err
		}
		n.Jobs[f.Step] = jobCount{n.Jobs[f.Step].begun, false}
	case factKept:
		n.Stays = true
	case factCaptured:
		n.Captured, n.CapturedAt = true, f.Time
		return decode(f, &n.Kept)
	case factUp:
		n.Up = new(Up)
		return decode(f, n.Up)
	case factHealthy:
		n.Healthy, n.Unwell = true, nil
	case factUnwell:
		n.Unwell = new(Failure)
		return decode(f, n.Unwell)
	case factSealed:
		d := Sealed{Kept: n.Kept}
		if err := decode(f, &d); err != nil {
			return err
		}
		n.Sealed, n.Files, n.Bytes = true, d.Files, d.Bytes
	case factJudged:
		n.Judged = new(Judged)
		return decode(f, n.Judged)
	case factChosen:
		n.Chosen = new(Chosen)
		return decode(f, n.Chosen)
	case factProposed:
		n.Proposed = new(review.Opened)
		return decode(f, n.Proposed)
	case factParked:
		n.Parked = true
		n.Parks++
	case factApproved:
		n.Approved = new(Reviewed)
		return decode(f, n.Approved)
	case factReviewed:
		n.Parked, n.Reviewed = false, new(Reviewed)
		return decode(f, n.Reviewed)
	case factMoving:
		n.Replacing = true
	case factReplaced:
		n.Replaced = true
	case factStuck:
		if n.inPlace() && !n.Verified {
			n.Uploaded = nil // what did not arrive is sent again
		}
		n.Stuck = new(Failure)
		return decode(f, n.Stuck)
	case factTold:
		return decode(f, &n.Told)
	case factUploaded:
		n.Uploaded = new(Uploaded)
		return decode(f, n.Uploaded)
	case factVerified:
		n.Verified = true
		if n.Uploaded == nil {
			return fmt.Errorf("verified before it was uploaded")
		}
		return decode(f, &n.Uploaded.Manifest)
	case factProved:
		n.Proved = true
	case factPromoted:
		n.Promoted = true
	case factAging:
		n.Aging = new(Failure)
		return decode(f, n.Aging)
	case factYoung:
		n.Aging = nil
	case factPruned:
		n.Pruned = true
	case factReleased:
		n.Released = true
	case factFailed:
		n.Parked, n.Failed = false, new(Failure)
		return decode(f, n.Failed)
	case factSkipped:
		return decode(f, &n.Skipped)
	}
	return nil
}

func (n *Node) settle(phase, step string) {
	var left []Debt
	for _, d := range n.Debts {
		if d.Phase != phase || d.Step != step {
			left = append(left, d)
		}
	}
	n.Debts = left
}

func decode(f journal.Fact, into any) error {
	if len(f.Data) == 0 {
		return nil
	}
	return json.Unmarshal(f.Data, into)
}
