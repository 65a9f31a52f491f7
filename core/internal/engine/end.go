package engine

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/snapfw/snapfw/core"
)

// Exit codes of a run and of the command line.
const (
	ExitDone        = 0
	ExitFailed      = 1  // and every node is up
	ExitUsage       = 2  // the command line or the configuration
	ExitRefused     = 3  // by a check or a judge
	ExitLocked      = 4  // by another run
	ExitParked      = 5  // waiting for somebody
	ExitDown        = 10 // a node is down
	ExitInterrupted = 130
)

// Outcome is how a run ended in this process.
type Outcome struct {
	Exit   int
	Err    error // nil when Exit is 0
	Closed bool  // nothing is left to carry on
}

// runFailed journals what keeps the whole run from going on. "Not now" is no failure.
func (r *Run) runFailed(m move, err error) error {
	if reason, skip := core.IsSkip(err); skip {
		return errors.Join(err, r.fact(factSkipped, "", "", reason))
	}
	if r.interrupted(err) {
		return err
	}
	return errors.Join(err, r.fact(factFailed, "", "", Failure{Move: m.name, Err: err.Error(), Refused: isRefused(err)}))
}

// nodeFailed journals what keeps a node from going on. Being put back to look again is not
// that yet, "not now" neither, and a node that is captured is carried on later when somebody gave the run up.
func (r *Run) nodeFailed(n *Node, m move, err error) error {
	if !strings.HasPrefix(err.Error(), n.Name+": ") { // a refusal says it a line
		err = fmt.Errorf("%s: %w", n.Name, err)
	}
	if errors.Is(err, errAgain) && n.Plans < 3 {
		return err
	}
	if reason, skip := core.IsSkip(err); skip {
		return errors.Join(err, r.fact(factSkipped, n.Name, "", reason))
	}
	if errors.Is(err, errParked) {
		return err
	}
	r.mu.Lock()
	n.halted = true
	r.mu.Unlock()
	var away unreachable
	if n.Captured && (r.interrupted(err) || errors.As(err, &away)) {
		if r.ctx.Err() == nil {
			r.mu.Lock()
			r.away = err
			r.mu.Unlock()
			return errors.Join(err, r.note(n.Name, "%s: %v", m.name, err))
		}
		return err
	}
	// What is to be replaced in place was prepared for hours: it is carried on. Once bytes were replaced it has to be.
	if n.Captured && n.inPlace() && (!isRefused(err) || n.committed()) {
		return errors.Join(err, r.fact(factStuck, n.Name, "", Failure{Move: m.name, Err: err.Error()}))
	}
	f := Failure{Move: m.name, Err: err.Error(), Refused: isRefused(err), Usage: fieldErrors(err)}
	if r.ctx.Err() != nil && strings.Contains(f.Err, context.Canceled.Error()) {
		f.Err = n.Name + ": interrupted" // whoever is told has to see that nothing is broken
	}
	return errors.Join(err, r.fact(factFailed, n.Name, "", f))
}

// takeNode captures a node and lets it go, again where a step wants the node put back and looked at
// again: it did not stop cleanly and needs to repair itself.
func (r *Run) takeNode(ctx context.Context, n *Node, tails *sync.WaitGroup) {
	n.back = make(chan struct{})
	defer close(n.back)
	moves := scoped(wave)
	for {
		err := r.walkNode(ctx, n, moves)
		r.goOn(ctx, n, tails)
		r.walkNode(ctx, n, scoped(back))
		if !errors.Is(err, errAgain) || n.Failed != nil {
			return
		}
		r.View.Note(n.Name, fmt.Sprintf("%v: it was put back and is looked at again", err))
		if n.Unwell != nil {
			r.nodeFailed(n, moves[0], errors.New(n.Unwell.Err))
			return
		}
		look := slices.DeleteFunc(scoped(each), func(m move) bool { return !m.plan })
		if r.walkNode(ctx, n, look) != nil {
			return
		}
	}
}

// cameBack waits until a node that this process stopped came back, or did not.
func (n *Node) cameBack() {
	if n.back != nil {
		<-n.back
	}
}

func (r *Run) interrupted(err error) bool {
	return r.ctx.Err() != nil || errors.Is(err, context.Canceled)
}

func isRefused(err error) bool {
	var refused *RefusedError
	return errors.As(err, &refused)
}

// untouched tells whether no node was stopped or changed by this run.
func (r *Run) untouched() bool {
	return !slices.ContainsFunc(r.state.Nodes, func(n *Node) bool { return !n.Stopped.IsZero() || n.Captured })
}

// over tells whether nothing is left to do for a node.
func (r *Run) over(n *Node) bool {
	if n.Down() || n.Armed || n.Owes(phaseFreeze) {
		return false
	}
	return !n.Captured || n.Failed != nil || n.Promoted || !r.publishes() && n.Sealed
}

// release gives back what the run holds: the copy on the host (it stays where the run publishes
// nothing: it is the result), what the host remembers, the locks. For a node that is to be carried on
// everything but the locks stays.
func (r *Run) release(ctx context.Context) error {
	var errs []error
	clean := map[core.Addr]bool{}
	for _, n := range r.state.Nodes {
		if n.young == nil && r.ctx.Err() == nil { // it did not get that far
			errs = append(errs, r.keepYoung(ctx, n))
		}
		n.grewYoung()
		if !n.Touched {
			continue
		}
		if _, seen := clean[n.Addr]; !seen {
			clean[n.Addr] = true
		}
		if !r.over(n) && !n.Parked {
			clean[n.Addr] = false
			r.pause(ctx, n)
			continue
		}
		if err := r.giveUpStage(ctx, n); err != nil {
			errs = append(errs, r.note(n.Name, "clean up: %v", err))
		}
		if n.Released {
			continue
		}
		if err := r.releaseNode(ctx, n); err != nil {
			r.View.Note(n.Name, fmt.Sprintf("clean up: %v", err))
			errs = append(errs, r.note(n.Name, "clean up: %v", err))
		}
	}
	for addr, ok := range clean {
		if !ok {
			continue
		}
		if m, err := r.Machine(ctx, addr, r.Driver); err == nil {
			if err := m.Forget(ctx, r.ID); err != nil {
				r.View.Note("", fmt.Sprintf("clean up %s: %v", m, err))
			}
		}
	}
	r.unlock()
	return errors.Join(errs...)
}

// pause ends the upload of a run that somebody gave up and may carry on later.
func (r *Run) pause(ctx context.Context, n *Node) {
	if r.ctx.Err() == nil || n.Down() {
		return
	}
	m, err := r.machine(ctx, n)
	if err == nil {
		err = m.EndJobs(ctx, r.ID+"/"+n.Name)
	}
	if err != nil {
		r.View.Note(n.Name, fmt.Sprintf("end what is running there: %v", err))
	}
}

func (r *Run) releaseNode(ctx context.Context, n *Node) error {
	keep := n.Captured && !r.publishes() && n.Failed == nil
	m, err := r.machine(ctx, n)
	if err != nil {
		return err
	}
	for i := len(n.Debts) - 1; i >= 0; i-- {
		d := n.Debts[i]
		if keep {
			if err := r.fact(factPaid, n.Name, d.Step, Paid{d.Phase, d.Step, "kept"}); err != nil {
				return err
			}
			continue
		}
		if err := r.payDebt(ctx, m, n, d); err != nil {
			return err
		}
	}
	if keep {
		if err := r.fact(factKept, n.Name, "", nil); err != nil {
			return err
		}
	}
	return r.fact(factReleased, n.Name, "", nil)
}

func (r *Run) unlock() {
	for i := len(r.unlocks) - 1; i >= 0; i-- {
		r.unlocks[i]()
	}
	r.unlocks = nil
}

// announce tells people how it ended. It never fails the run.
func (r *Run) announce(ctx context.Context) error {
	for _, n := range r.state.Nodes {
		if n.Failed != nil && !n.Failed.Usage && !r.wasTold(NewsFailed, n.Name) {
			kind := NewsFailed
			if n.Failed.Refused {
				kind = NewsRefused
			}
			news := News{Kind: kind, Run: r.ID, Node: n.Name, Text: n.Failed.Move + ": " + n.Failed.Err}
			if n.Judged != nil && n.Failed.Refused {
				news.Report = n.Judged.Report
			}
			r.tell(ctx, news)
		}
		switch {
		case n.Parked && n.Parks == 1:
			r.tell(ctx, News{Kind: NewsParked, Run: r.ID, Node: n.Name, Text: r.waitsFor() + r.forced(), Report: n.Judged.Report})
		case n.Stuck != nil && n.Failed == nil:
			if err := r.tellStuck(ctx, n); err != nil {
				return err
			}
		case n.Promoted && n.Aging != nil:
		case n.NothingNew():
			r.tell(ctx, News{Kind: NewsDone, Run: r.ID, Node: n.Name, Text: fmt.Sprintf("%s: nothing new, it is published already%s", n.Uploaded.Pointer, r.forced())})
		case n.Promoted && n.inPlace():
			r.tell(ctx, News{Kind: NewsDone, Run: r.ID, Node: n.Name, Text: fmt.Sprintf("%s is published%s", n.Uploaded.Pointer, r.forced())})
		case n.Promoted:
			r.tell(ctx, News{Kind: NewsDone, Run: r.ID, Node: n.Name, Text: fmt.Sprintf("%s is published at %s%s", n.Name, n.Uploaded.Prefix, r.forced())})
		case n.Stays && n.Failed == nil && n.Unwell == nil && n.Plan.Data == "":
			r.tell(ctx, News{Kind: NewsDone, Run: r.ID, Node: n.Name, Text: fmt.Sprintf("%s of %s is done%s", r.state.Begun.Intent.Name, n.Name, r.forced())})
		case n.Stays && n.Failed == nil && n.Unwell == nil:
			r.tell(ctx, News{Kind: NewsDone, Run: r.ID, Node: n.Name, Text: fmt.Sprintf("the copy of %s stays in %s", n.Name, n.Plan.Data)})
		}
	}
	r.tellAging(ctx)
	if f := r.state.Failed; f != nil {
		kind := NewsFailed
		if f.Refused {
			kind = NewsRefused
		}
		r.tell(ctx, News{Kind: kind, Run: r.ID, Node: "", Text: f.Move + ": " + f.Err})
	}
	return nil
}

// tellStuck tells people why a run gets no further, and says it once a reason: a schedule tries it every few minutes.
func (r *Run) tellStuck(ctx context.Context, n *Node) error {
	text := n.Stuck.Move + ": " + n.Stuck.Err
	if sameReason(n.Told, text) {
		return nil
	}
	news := News{Kind: NewsFailed, Run: r.ID, Node: n.Name, Text: text}
	if n.Judged != nil {
		news.Report = n.Judged.Report
	}
	r.tell(ctx, news)
	return r.fact(factTold, n.Name, "", text)
}

// tellAging tells people, whatever else becomes of the run, that what is published was not made young by it.
func (r *Run) tellAging(ctx context.Context) {
	for _, n := range r.state.Nodes {
		if n.Aging != nil && n.aged {
			r.tell(ctx, News{Kind: NewsFailed, Run: r.ID, Node: n.Name, Text: n.aging()})
		}
	}
}

func (n *Node) aging() string {
	what := ""
	if n.Promoted {
		what = n.Plan.Publish.Pointer + " is published, but "
	}
	return fmt.Sprintf("%swhat the list names is not kept young, and a bucket that expires objects will delete it; the next release tries again: %s", what, n.Aging.Err)
}

// Times, counts and the names of requests differ each time.
var passing = regexp.MustCompile(`\b[0-9A-Za-z]*[0-9][0-9A-Za-z]*\b`)

func sameReason(a, b string) bool {
	return passing.ReplaceAllString(a, "0") == passing.ReplaceAllString(b, "0")
}

func (r *Run) tell(ctx context.Context, n News) {
	r.mu.Lock()
	r.told[n.Kind+" "+n.Node] = true
	r.mu.Unlock()
	if r.Tell != nil {
		r.Tell(ctx, n)
	}
}

func (r *Run) wasTold(kind, node string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.told[kind+" "+node]
}

// close writes how the run ended, unless something is left to carry on.
func (r *Run) close(ctx context.Context, err error) Outcome {
	out := r.outcome(ctx, err)
	if slices.ContainsFunc(r.state.Nodes, func(n *Node) bool { return !r.over(n) }) {
		return out
	}
	c := Closed{Exit: out.Exit}
	if out.Err != nil {
		c.Err = out.Err.Error()
	}
	if ferr := r.fact(factClosed, "", "", c); ferr != nil {
		return Outcome{Exit: ExitFailed, Err: errors.Join(out.Err, ferr)}
	}
	out.Closed = true
	return out
}

// outcome finds the exit code: the worst thing that an operator has to know comes first.
func (r *Run) outcome(ctx context.Context, err error) Outcome {
	errs := []error{err}
	down, failed, refused, accident, unwell, parked := false, false, false, false, false, false
	for _, n := range r.state.Nodes {
		if n.Stuck != nil && n.Failed == nil {
			errs = append(errs, fmt.Errorf("%s\n(%s)", n.Stuck.Err, r.wayOn(n)))
			failed, accident = true, true
		}
		parked = parked || n.Parked
		if n.Promoted && n.Aging != nil {
			errs = append(errs, fmt.Errorf("%s: %s", n.Name, n.aging()))
			failed, accident = true, true
		}
		if n.Unwell != nil {
			unwell = true
			errs = append(errs, fmt.Errorf("%s: %s", n.Name, n.Unwell.Err))
		}
		down = down || n.Down()
		if n.Failed != nil {
			failed = true
			refused, accident = refused || n.Failed.Refused, accident || !n.Failed.Refused
			if err == nil {
				errs = append(errs, errors.New(n.Failed.Err))
			}
		}
	}
	all := errors.Join(errs...)
	if ctx.Err() != nil && err != nil && errors.Is(err, context.Canceled) && len(errs) == 1 {
		all = nil // that it was given up is said below
	}
	var locked *LockedError
	_, skip := core.IsSkip(err)
	switch {
	case down:
		return Outcome{Exit: ExitDown, Err: errors.Join(errors.New("a node is down: `snapfw up` tries to start it"), all)}
	case ctx.Err() != nil:
		return Outcome{Exit: ExitInterrupted, Err: errors.Join(errors.New("interrupted"), all)}
	case errors.As(err, &locked):
		return Outcome{Exit: ExitLocked, Err: all}
	case fieldErrors(err):
		return Outcome{Exit: ExitUsage, Err: err}
	case isRefused(err) || refused && !accident && !unwell:
		return Outcome{Exit: ExitRefused, Err: all}
	case skip:
		return Outcome{Exit: ExitDone, Err: err}
	case err != nil || failed || unwell:
		return Outcome{Exit: ExitFailed, Err: all}
	case parked && !r.dry:
		return Outcome{Exit: ExitParked, Err: errors.New(r.waitsFor())}
	case !r.dry && slices.ContainsFunc(r.state.Nodes, func(n *Node) bool { return !r.over(n) }):
		why := errors.New("a machine could not be reached")
		if r.away != nil {
			why = r.away
		}
		return Outcome{Exit: ExitFailed, Err: fmt.Errorf("%w; the copy is whole: `snapfw resume %s` carries on", why, r.ID)}
	}
	return Outcome{Exit: ExitDone}
}

// wayOn says what to do about a node that is stuck.
func (r *Run) wayOn(n *Node) string {
	if n.committed() {
		return fmt.Sprintf("published files were replaced and the list that fits them is not published yet: `snapfw resume %s` carries on", r.ID)
	}
	return fmt.Sprintf("what was done stays: `snapfw resume %s` carries on, `snapfw cancel %s` gives it up", r.ID, r.ID)
}

func (r *Run) waitsFor() string { return r.state.WaitsFor() }

// WaitsFor tells people what a parked run waits for, and what to do then; "" if it is not parked.
func (s *State) WaitsFor() string {
	parked := false
	for _, n := range s.Nodes {
		parked = parked || n.Parked
		switch {
		case !n.Parked:
		case n.Proposed.URL != "":
			return fmt.Sprintf("waiting for the review at %s: once it is merged, `snapfw resume %s` publishes", n.Proposed.URL, s.Run)
		case n.Proposed.Branch != "":
			return fmt.Sprintf("waiting for branch %s to be merged into %s: then `snapfw resume %s` publishes", n.Proposed.Branch, n.Proposed.Base, s.Run)
		}
	}
	if !parked {
		return ""
	}
	return fmt.Sprintf("waiting for somebody: `snapfw show %s` has the report, `snapfw approve %s --reason \"…\"` and then `snapfw resume %s` publish", s.Run, s.Run, s.Run)
}

// forced says why conditions or a judge were bypassed, for whoever is told how it ended.
func (r *Run) forced() string {
	if in := r.state.Begun.Intent; in.Force {
		return " (forced: " + in.Reason + ")"
	}
	return ""
}

func fieldErrors(err error) bool {
	var fe core.FieldErrors
	return errors.As(err, &fe)
}
