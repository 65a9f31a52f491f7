// Package engine is the order of a run: a value that can be read, [order], and the few moves
// that it names. A run is what its journal says is not done, so there is no code for
// resuming: another process folds the facts into a [State] and walks the same order again.
package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/internal/journal"
	"github.com/snapfw/snapfw/core/internal/manifest"
	"github.com/snapfw/snapfw/core/internal/review"
)

// move is one line of the order.
type move struct {
	name  string
	scope scope
	node  func(*Run, context.Context, *Node) error // scopes each, wave and tail
	run   func(*Run, context.Context) error        // scopes once and last
	// always: also after an earlier move of its node failed, and on a context that
	// ignores that the run was given up.
	always bool
	plan   bool // it is part of `snapfw plan`, which changes nothing
	// applies tells where it has something to do; elsewhere it is not shown. nil: everywhere. The node is nil for once.
	applies func(*Run, *Node) bool
}

type scope int

const (
	once scope = iota // for the run
	each              // for every node, side by side
	wave              // for every node of a wave, side by side, one wave after the other
	back              // for every node of a wave after that, whatever happened; the next wave waits for it
	tail              // for a node as soon as it is captured, while it comes back and others are being captured still
	last              // for the run, whatever happened
)

// order is what a run does. Until "arm the node's own way back" no node is touched, and whatever is
// wrong by then, on any node, ends the run with every node as it was. The copies' room is made on all
// nodes before the first is stopped, so that a full disk on one of them is no surprise
// after another was stopped.
var order = []move{
	{"lock the chain", once, nil, (*Run).lock, false, false, nil},
	{"name the nodes", once, nil, (*Run).name, false, true, nil},
	{"look at every node", each, (*Run).look, nil, false, true, nil}, // not healthy: refuse, or skip if it is only not now
	{"lock every node", each, (*Run).lockNode, nil, false, false, nil},
	{"write the plan down", each, (*Run).plan, nil, false, true, nil},         // `snapfw plan` stops here and prints it
	{"try every sink", each, (*Run).preflight, nil, false, false, publishing}, // from the hosts, with the real upload command
	{"make room", each, (*Run).prepare, nil, false, false, preparing},
	// Before the bucket expires it. It is not waited for: the bucket is listed while the node is stopped. A run that ends before does it at its end.
	{"keep what is published", each, (*Run).keepYoung, nil, false, false, aging},

	{"arm the node's own way back", wave, (*Run).arm, nil, false, false, stopping},
	{"make the data stand still", wave, (*Run).freeze, nil, false, false, stopping},
	{"take the copy", wave, (*Run).capture, nil, false, false, copying},
	{"let the node go", back, (*Run).thaw, nil, true, false, stopping},
	{"see that it came back", back, (*Run).healthy, nil, true, false, stopping},

	{"seal the copy", tail, (*Run).seal, nil, false, false, sealing},
	{"judge the change", tail, (*Run).judge, nil, false, false, replacing},     // against what is published now
	{"upload", tail, (*Run).upload, nil, false, false, publishing},             // new names; replacements are parked
	{"check what arrived", tail, (*Run).verify, nil, false, false, publishing}, // in the storage

	{"wait for the review", each, (*Run).review, nil, false, false, replacing}, // may park the run for days
	{"judge again", each, (*Run).judgeAgain, nil, false, false, replacing},     // against what is published by then
	{"move the staged bytes", each, (*Run).replace, nil, false, false, replacing},
	{"prove it", each, (*Run).prove, nil, false, false, publishing},                // through the address consumers use
	{"point consumers at it", once, nil, (*Run).promote, false, false, publishing}, // the commit: one small Put a pointer
	{"delete what is too old", once, nil, (*Run).prune, false, false, publishing},
	{"clean up", last, nil, (*Run).release, false, false, nil},     // the linked copy goes: it pins deleted tables
	{"tell people", last, nil, (*Run).announce, false, false, nil}, // never fails the run
}

// Where moves apply.

func publishing(r *Run, _ *Node) bool { return r.publishes() }
func replacing(r *Run, n *Node) bool  { return r.publishes() && n.inPlace() }
func aging(r *Run, n *Node) bool      { return replacing(r, n) && !n.Captured }
func preparing(_ *Run, n *Node) bool  { return n.Plan != nil && len(n.Plan.Prepare) > 0 }
func stopping(_ *Run, n *Node) bool   { return n.Plan != nil && len(n.Plan.Freeze) > 0 }
func copying(_ *Run, n *Node) bool    { return n.Plan != nil && len(n.Plan.Capture) > 0 }
func sealing(_ *Run, n *Node) bool    { return n.Plan != nil && len(n.Plan.Seal) > 0 }

// Settings is what an operator decides for a chain.
type Settings struct {
	Publish      bool
	MaxDown      time.Duration // 0: as the plan says, else five minutes
	Lease        time.Duration // of a guard and of the locks
	Margin       time.Duration // that the guard waits longer than snapfw
	UndoTries    time.Duration // how long snapfw itself tries to pay an undo before it leaves that to the guard
	AllOrNothing bool
	Keep         manifest.Policy
	UploadRate   int64
	Transfers    int
	UploadTries  int
	Nice         int
	Idle         bool
	ReadRate     int64         // bytes a second that a job reads, where it can be told
	Verify       string        // "", "full" or "sample:N": sums that are remembered are read again
	Wait         time.Duration // for a review, before the run parks; below 0 for as long as it takes
	Grace        time.Duration // that an object stays after it was last named, where keys are replaced in place
}

// Deps is what a run stands on.
type Deps struct {
	Version  string
	Chain    core.Chain
	Driver   string          // the plugin's name: whose "@self" a plan means
	Config   json.RawMessage // the driver's part of the configuration
	Sink     *Sink           // nil: nothing is published
	Lists    *Sink           // where the pointer lies, if not in Sink
	Review   review.Place    // where lists are reviewed; nil: `snapfw approve`
	Here     string          // this machine's name, for a review of what it itself holds
	Down     bool            // the intent may be carried out on a node that is down
	Machine  func(ctx context.Context, addr core.Addr, plugin string) (Machine, error)
	Journals journal.FS
	// LockChain locks a chain on this machine; it fails with a *LockedError.
	LockChain func(ctx context.Context, chain, run string) (unlock func(), err error)
	Held      func(chain, node string) (until time.Time, held bool) // snapfw hold
	Tell      func(ctx context.Context, n News)
	View      View
	Clock     Clock
	Settings  Settings
}

// Run is one run in this process.
type Run struct {
	ID string
	Deps

	ctx      context.Context // the run's own; ends when somebody gives it up
	journal  *journal.Journal
	mu       sync.Mutex // guards state
	state    *State
	resumed  bool
	dry      bool
	locked   bool     // the chain is
	unlocks  []func() // paid in reverse by release
	told     map[string]bool
	readings readings
	away     error // why a node that is captured got no further, where that is nobody's verdict: a machine that was not reached

	superseding sync.Mutex // held while older runs are closed
}

// New begins a run: its journal is made and says what was asked for.
func New(d Deps, id string, begun Begun) (*Run, error) {
	r, facts, err := open(d, id)
	if err != nil {
		return nil, err
	}
	if len(facts) > 0 {
		r.journal.Close()
		return nil, fmt.Errorf("a run %s exists already", id)
	}
	return r, r.fact(factBegun, "", "", begun)
}

// Resume opens a run that is not closed, to carry on from what its journal says. It takes the chain's lock
// before it touches the journal, which may be another process's: then the error is a *LockedError.
func Resume(d Deps, id string) (*Run, error) {
	s, err := Load(d.Journals, id)
	if err != nil {
		return nil, err
	}
	unlock, err := d.LockChain(context.Background(), s.Begun.Chain, id)
	if err != nil {
		return nil, err
	}
	r, facts, err := open(d, id)
	if err != nil {
		unlock()
		return nil, err
	}
	if len(facts) == 0 || r.state.Closed != nil {
		r.journal.Close()
		unlock()
		return nil, fmt.Errorf("run %s is over: there is nothing to carry on", id)
	}
	r.resumed, r.locked, r.unlocks = true, true, []func(){unlock}
	r.Settings.Publish = r.state.Begun.Publish
	return r, r.fact(factOnward, "", "", nil)
}

func open(d Deps, id string) (*Run, []journal.Fact, error) {
	if d.Clock == nil {
		d.Clock = wallClock{}
	}
	if d.View == nil {
		d.View = unseen{}
	}
	j, facts, err := journal.Open(d.Journals, id, d.Clock.Now)
	if err != nil {
		return nil, nil, err
	}
	state, err := Fold(id, facts)
	if err != nil {
		j.Close()
		return nil, nil, fmt.Errorf("read the journal of %s: %w", id, err)
	}
	return &Run{ID: id, Deps: d, journal: j, state: state, told: map[string]bool{}}, facts, nil
}

// State is the run as it is now. It is not to be changed, and only whole after Go.
func (r *Run) State() *State { return r.state }

// Go walks the order and returns how the run ended. A run that ended is closed in its
// journal, but for one whose node is down or could not be reached: that one is
// carried on by the next process, or by Pay.
func (r *Run) Go(ctx context.Context) Outcome {
	defer r.journal.Close()
	r.ctx = ctx
	err := r.walk(ctx)
	for _, m := range order {
		if m.scope == last {
			r.View.Move("", m.name)
			err = errors.Join(err, m.run(r, context.WithoutCancel(ctx)))
		}
	}
	return r.close(ctx, err)
}

// Plan walks the moves that only look, and leaves a plan a node in the State.
func (r *Run) Plan(ctx context.Context) Outcome {
	defer r.journal.Close()
	r.ctx, r.dry = ctx, true
	return r.outcome(ctx, r.walk(ctx))
}

// walk runs the order's moves, group by group of one scope.
func (r *Run) walk(ctx context.Context) error {
	if r.resumed {
		if err := r.leftBehind(ctx); err != nil {
			return err
		}
	}
	var tails sync.WaitGroup
	defer tails.Wait()
	for i := 0; i < len(order); {
		j := i
		for j < len(order) && order[j].scope == order[i].scope {
			j++
		}
		if err := r.group(ctx, order[i:j], &tails); err != nil {
			return err
		}
		if order[i].scope == each && r.parked() { // while tails run, nodes are theirs
			return nil // what follows is for the process that carries on
		}
		i = j
	}
	return nil
}

func (r *Run) group(ctx context.Context, moves []move, tails *sync.WaitGroup) error {
	switch moves[0].scope {
	case once:
		for _, m := range moves {
			if r.dry && !m.plan {
				continue
			}
			if err := context.Cause(ctx); err != nil {
				return err
			}
			if m.applies == nil || m.applies(r, nil) {
				r.View.Move("", m.name)
			}
			if err := m.run(r, ctx); err != nil {
				return r.runFailed(m, err)
			}
		}
	case each:
		for _, m := range moves {
			if r.dry && !m.plan {
				continue
			}
			if err := r.side(ctx, r.nodes(nil), []move{m}); err != nil || r.parked() {
				return err
			}
		}
	case wave:
		if r.dry {
			return nil
		}
		r.waves(ctx, tails)
	case back: // waves walks them
	case tail:
		tails.Wait()
	}
	return nil
}

// parked tells whether every node waits for somebody.
func (r *Run) parked() bool {
	some := r.nodes(nil)
	return len(some) > 0 && !slices.ContainsFunc(some, func(n *Node) bool { return !n.Parked })
}

// waves captures the nodes wave by wave. A node's tail begins as soon as it is captured; the next
// wave begins when every node of this one is captured and came back.
func (r *Run) waves(ctx context.Context, tails *sync.WaitGroup) {
	for _, n := range r.nodes(nil) { // what an earlier process of this run captured
		r.goOn(ctx, n, tails)
	}
	for _, nodes := range r.byWave() {
		var captures sync.WaitGroup
		for _, n := range nodes {
			captures.Go(func() { r.takeNode(ctx, n, tails) })
		}
		captures.Wait()
		for _, n := range nodes {
			if !n.Captured || n.Unwell != nil {
				return // the next waves are not touched; what was captured is carried on
			}
		}
	}
}

// goOn walks the tail of a node that is captured, in the background.
func (r *Run) goOn(ctx context.Context, n *Node, tails *sync.WaitGroup) {
	if n.Captured && n.Failed == nil {
		tails.Go(func() { r.walkNode(ctx, n, scoped(tail)) })
	}
}

// side walks moves for some nodes side by side. While no node has been touched an error
// of one is the run's; afterwards it is that node's alone.
func (r *Run) side(ctx context.Context, nodes []*Node, moves []move) error {
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Add(1)
		go func() {
			defer wg.Done()
			errs[i] = r.walkNode(ctx, n, moves)
		}()
	}
	wg.Wait()
	if moves[0].node != nil && r.untouched() {
		return errors.Join(errs...)
	}
	return nil
}

// walkNode walks moves for one node; the first error is journalled as the node's failure.
func (r *Run) walkNode(ctx context.Context, n *Node, moves []move) error {
	var first error
	for _, m := range moves {
		c := ctx
		if m.always {
			c = context.WithoutCancel(ctx)
		} else if first != nil || r.failed(n) {
			continue
		} else if err := context.Cause(ctx); err != nil {
			first = fmt.Errorf("%s: %w", n.Name, err)
			continue
		}
		switch {
		case m.applies != nil && !m.applies(r, n):
		case m.scope == back && n.Captured:
			r.View.Note(n.Name, m.name) // what it is in is its tail
		default:
			r.View.Move(n.Name, m.name)
		}
		if err := m.node(r, c, n); err != nil && first == nil {
			first = r.nodeFailed(n, m, err)
		}
	}
	return first
}

// failed tells whether a node got a failure: in its tail, or when it was let go.
func (r *Run) failed(n *Node) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return n.Failed != nil || n.halted
}

// nodes returns the nodes that take part, go on in this process and satisfy a condition.
func (r *Run) nodes(ok func(*Node) bool) []*Node {
	var some []*Node
	for _, n := range r.state.Nodes {
		if n.Failed == nil && n.Skipped == "" && !n.halted && (ok == nil || ok(n)) {
			some = append(some, n)
		}
	}
	return some
}

// byWave returns the nodes that are still to be captured, in waves. A run that another process
// began captures nobody: a node is not stopped by a run that came back days later.
func (r *Run) byWave() [][]*Node {
	if r.resumed {
		return nil
	}
	byWave := map[int][]*Node{}
	most := 0
	for _, n := range r.nodes(func(n *Node) bool { return !n.Captured }) {
		byWave[n.Wave] = append(byWave[n.Wave], n)
		most = max(most, n.Wave)
	}
	var waves [][]*Node
	for w := 0; w <= most; w++ {
		if len(byWave[w]) > 0 {
			waves = append(waves, byWave[w])
		}
	}
	return waves
}

func scoped(s scope) []move {
	var moves []move
	for _, m := range order {
		if m.scope == s {
			moves = append(moves, m)
		}
	}
	return moves
}

// fact journals and folds one fact. It returns after the fact is durable.
func (r *Run) fact(kind, node, step string, data any) error {
	f := journal.Fact{Time: r.Clock.Now().UTC(), Kind: kind, Node: node, Step: step}
	if data != nil {
		raw, err := json.Marshal(data)
		if err != nil {
			return fmt.Errorf("journal %s: %w", kind, err)
		}
		f.Data = raw
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.journal.Append(f); err != nil {
		return err
	}
	return r.state.add(f)
}

func (r *Run) note(node, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	r.View.Note(node, text)
	if node != "" {
		text = node + ": " + text
	}
	return r.fact(factNote, "", "", text)
}
