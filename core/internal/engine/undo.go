package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/onhost"
)

// errVoid: the guard started the node before the copy was whole.
var errVoid = errors.New("the guard on the host started the node again before the copy was whole: the copy is void")

// guardKey is a new one for every plan: a guard that was settled is never armed again.
func (r *Run) guardKey(n *Node) string { return fmt.Sprintf("%s.%s.%d", r.ID, n.Name, n.Plans) }

// arm leaves on the node's machine what starts the node again if nobody else does: every
// undo of Freeze, from the last step to the first.
func (r *Run) arm(ctx context.Context, n *Node) error {
	g := onhost.Guard{
		Key: r.guardKey(n), Run: r.ID, Node: n.Name,
		After: r.maxDown(n) + r.Settings.Margin, Lease: r.Settings.Lease, Reboot: !n.Plan.Returns,
	}
	for i := len(n.Plan.Freeze) - 1; i >= 0; i-- {
		if u := n.Plan.Freeze[i].Undo; u != nil {
			job := r.job(n, *u)
			job.ID = fmt.Sprintf("%s/%s/guard.%s/1", r.ID, n.Name, slug(n.Plan.Freeze[i].Name))
			g.Undo = append(g.Undo, job)
		}
	}
	if len(g.Undo) == 0 {
		return nil
	}
	m, err := r.machine(ctx, n)
	if err != nil {
		return err
	}
	// Owed before it is armed: a guard that nobody remembers would stay.
	if err := r.fact(factArmed, n.Name, "", g.Key); err != nil {
		return err
	}
	st, err := m.Arm(ctx, g)
	if err != nil {
		return fmt.Errorf("arm the guard: %w", err)
	}
	if st.State != onhost.Armed {
		return fmt.Errorf("arm the guard: it is %s", st.State)
	}
	if st.Note != "" {
		return r.note(n.Name, "guard: %s", st.Note)
	}
	return nil
}

// maxDown is how long a node may be down where nobody says.
const maxDown = 5 * time.Minute

func (r *Run) maxDown(n *Node) time.Duration {
	return cmp.Or(r.Settings.MaxDown, n.Plan.MaxDown, maxDown)
}

// watch renews the guard's lease until stop is called, and ends the returned context when
// the guard has fired or the node was down for as long as it may be.
func (r *Run) watch(ctx context.Context, n *Node) (context.Context, func()) {
	ctx, end := context.WithCancelCause(ctx)
	limit, stopped := r.maxDown(n), n.Stopped
	tick, fired := r.Settings.Lease/3, r.renewal(n)
	go func() {
		for {
			left := limit - r.Clock.Now().Sub(stopped)
			if stopped.IsZero() {
				left = tick // it was down before: its time is not ours
			}
			if left <= 0 {
				end(fmt.Errorf("the node was down for %s, as long as it may be (max_downtime)", limit))
				return
			}
			if r.Clock.Sleep(ctx, min(tick, left)) != nil {
				return
			}
			if fired(ctx) {
				end(errVoid)
				return
			}
		}
	}()
	return ctx, func() { end(nil) }
}

// renewal returns what renews the lease of the guard that is armed now and tells whether it has
// fired. A machine that can't be asked just now says nothing: if that lasts, the guard fires and
// the job reports it.
func (r *Run) renewal(n *Node) func(context.Context) bool {
	armed, key, node := n.Armed, r.guardKey(n), &Node{Node: n.Node}
	return func(ctx context.Context) bool {
		if !armed {
			return false
		}
		ask, cancel := context.WithTimeout(ctx, r.Settings.Lease/2)
		defer cancel()
		m, err := r.machine(ask, node)
		if err != nil {
			return false
		}
		st, err := m.Renew(ask, key)
		return err == nil && fired(st)
	}
}

func fired(st onhost.GuardState) bool { return st.State == onhost.Fired || st.State == onhost.Returned }

// thaw pays the undo of Freeze, whatever happened. It is right also when nothing was frozen.
func (r *Run) thaw(ctx context.Context, n *Node) error {
	if len(r.owed(n, phaseFreeze)) == 0 && !n.Armed {
		return nil
	}
	renew, stop := context.WithCancel(ctx)
	again := r.renewal(n)
	go r.every(renew, r.Settings.Lease/3, func() { again(renew) })
	defer stop()
	if err := r.pay(ctx, n); err != nil {
		r.tell(ctx, News{Kind: NewsDown, Run: r.ID, Node: n.Name, Text: fmt.Sprintf("%s is down: %v", n.Name, err)})
		return r.fact(factUnwell, n.Name, "", Failure{Move: "let the node go", Err: err.Error()})
	}
	return nil
}

// pay pays every undo of Freeze, the newest first. What the guard paid is marked, not done again: an
// operator may have decided otherwise since. One that has fired and not paid yet goes on trying, and so do
// we: an undo is safe to run twice, and the reason for which it failed may be gone.
func (r *Run) pay(ctx context.Context, n *Node) error {
	deadline := r.Clock.Now().Add(r.Settings.UndoTries)
	wait := time.Second
	for {
		err := r.payOnce(ctx, n)
		if err == nil {
			return nil
		}
		if r.Clock.Now().Add(wait).After(deadline) {
			return fmt.Errorf("%w; the guard on the host goes on trying; `snapfw up %s` tries again", err, n.Name)
		}
		if !r.wasTold(NewsUndoFailed, n.Name) {
			r.tell(ctx, News{Kind: NewsUndoFailed, Run: r.ID, Node: n.Name, Text: fmt.Sprintf("%s could not be started at once, it is tried again: %v", n.Name, err)})
		}
		r.View.Note(n.Name, fmt.Sprintf("undo: %v; tried again in %s", err, wait))
		if err := r.Clock.Sleep(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, 30*time.Second)
	}
}

func (r *Run) payOnce(ctx context.Context, n *Node) error {
	m, err := r.machine(ctx, n)
	if err != nil {
		return err
	}
	acted := false // the guard: then it has ended the jobs
	if n.Armed {
		st, err := m.Guard(ctx, r.guardKey(n))
		if err != nil {
			return fmt.Errorf("ask the guard: %w", err)
		}
		if acted = fired(st); acted && st.Paid {
			return r.paidByGuard(ctx, m, n, st)
		}
	}
	if !n.Captured && !acted {
		if err := m.EndJobs(ctx, r.ID+"/"+n.Name); err != nil {
			return fmt.Errorf("end what is running: %w", err)
		}
	}
	for _, d := range r.owed(n, phaseFreeze) {
		if err := r.payDebt(ctx, m, n, d); err != nil {
			return err
		}
	}
	if !n.Armed {
		return nil
	}
	st, err := m.Disarm(ctx, r.guardKey(n))
	if err != nil {
		return fmt.Errorf("disarm the guard: %w", err)
	}
	return r.fact(factDisarmed, n.Name, "", st.State)
}

// owed returns the undos of a phase that are owed, the newest first. A node's tail may owe others meanwhile.
func (r *Run) owed(n *Node, phase string) (debts []Debt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range slices.Backward(n.Debts) {
		if d.Phase == phase {
			debts = append(debts, d)
		}
	}
	return debts
}

func (r *Run) payDebt(ctx context.Context, m Machine, n *Node, d Debt) error {
	job := r.job(n, d.Undo)
	if _, err := r.do(ctx, m, n, phaseUndo+"."+d.Phase+"."+d.Step, job, nil); err != nil {
		return fmt.Errorf("undo of %q: %w", d.Step, err)
	}
	return r.fact(factPaid, n.Name, d.Step, Paid{d.Phase, d.Step, "snapfw"})
}

// paidByGuard waits for the guard to have paid and marks the debts.
func (r *Run) paidByGuard(ctx context.Context, m Machine, n *Node, st onhost.GuardState) error {
	for _, d := range r.owed(n, phaseFreeze) {
		if err := r.fact(factPaid, n.Name, d.Step, Paid{d.Phase, d.Step, "guard"}); err != nil {
			return err
		}
	}
	if err := r.fact(factDisarmed, n.Name, "", st.State); err != nil {
		return err
	}
	r.tell(ctx, News{Kind: NewsGuardPaid, Run: r.ID, Node: n.Name, Text: fmt.Sprintf("the guard on %s started %s again", m, n.Name)})
	return r.note(n.Name, "the guard on the host started the node again")
}

// leftBehind settles what another process left: a node that is not captured is given back and closed as failed,
// one that is captured is only let go. Nobody's node is stopped by a run that came back.
func (r *Run) leftBehind(ctx context.Context) error {
	if err := r.lock(ctx); err != nil {
		return err
	}
	giveBack := context.WithoutCancel(ctx)
	for _, n := range r.state.Nodes {
		if !n.Touched {
			continue
		}
		r.View.Move(n.Name, "let the node go")
		if err := r.thaw(giveBack, n); err != nil {
			return err
		}
		if !n.Stopped.IsZero() && !n.Healthy {
			if err := r.healthy(giveBack, n); err != nil {
				return err
			}
		}
	}
	r.unlockNodes(giveBack)
	for _, n := range r.state.Nodes {
		if n.Captured || n.Failed != nil || n.Skipped != "" {
			continue
		}
		f := Failure{Move: "take the copy", Err: "an earlier process of this run ended before the node was captured; take a new snapshot"}
		if err := r.fact(factFailed, n.Name, "", f); err != nil {
			return err
		}
	}
	return nil
}

// unlockNodes has release or Up give back the locks on the machines: the process that took them is gone.
func (r *Run) unlockNodes(ctx context.Context) {
	for _, n := range r.state.Nodes {
		r.unlocks = append(r.unlocks, func() {
			if m, err := r.machine(ctx, n); err == nil && m.Unlock(ctx, r.lockName(n), r.ID) != nil {
				r.View.Note(n.Name, "its lock stays until its lease is over")
			}
		})
	}
}

// Up pays every undo of Freeze that is owed, on one node or on all, sees the nodes come
// back, and does nothing else.
func (r *Run) Up(ctx context.Context, node string) Outcome {
	defer r.journal.Close()
	r.ctx = ctx
	err := r.lock(ctx)
	defer r.unlock()
	if err != nil {
		return r.outcome(ctx, err)
	}
	for _, n := range r.state.Nodes {
		if node != "" && n.Name != node || !n.Down() && !n.Armed {
			continue
		}
		r.View.Move(n.Name, "let the node go")
		err = errors.Join(err, r.thaw(ctx, n), r.healthy(ctx, n))
	}
	return r.outcome(ctx, err)
}

// healthy waits for a node that was stopped to answer and then to move on, and measures how long it was down.
// A node that does not is journalled and told, but what was captured of it is good.
func (r *Run) healthy(ctx context.Context, n *Node) error {
	if n.Stopped.IsZero() || n.Healthy {
		return nil
	}
	settle := n.Plan.Settle
	if settle == 0 {
		settle = 10 * time.Minute
	}
	owed := len(r.owed(n, phaseFreeze)) > 0
	if owed {
		settle = 0 // nobody could start it: one look, it may have been started by hand
	}
	deadline := r.Clock.Now().Add(settle)
	wait, said := 200*time.Millisecond, r.Clock.Now()
	for {
		why := r.healthyNow(ctx, n)
		if why == nil {
			return nil
		}
		var jerr journalError
		if errors.As(why, &jerr) {
			return why
		}
		if r.Clock.Now().Add(wait).After(deadline) {
			if owed && n.Unwell != nil {
				return nil // why it could not be started is said and told
			}
			return r.unwell(ctx, n, why, settle)
		}
		if r.Clock.Now().Sub(said) > 15*time.Second {
			said = r.Clock.Now()
			r.View.Note(n.Name, fmt.Sprintf("waiting until %s at the latest: %v", deadline.Format("15:04:05"), why))
		}
		if err := r.Clock.Sleep(ctx, wait); err != nil {
			return err
		}
		wait = min(wait*3/2, 3*time.Second)
	}
}

type journalError struct{ error }

func (e journalError) Unwrap() error { return e.error }

// healthyNow looks once: nil when the node is up, its checks are good and it has a new block.
func (r *Run) healthyNow(ctx context.Context, n *Node) error {
	h, err := r.host(ctx, n)
	if err != nil {
		return err
	}
	s, err := r.Chain.Status(ctx, n.Node, h)
	if err != nil {
		return err
	}
	if !s.Up {
		return &RefusedError{refusal(n.Name, false, s.Failed(true))}
	}
	if n.Up == nil {
		down := r.Clock.Now().Sub(n.Stopped)
		if err := r.fact(factUp, n.Name, "", Up{down}); err != nil {
			return journalError{err}
		}
		r.View.Note(n.Name, fmt.Sprintf("up again: it was down for %s", down.Round(time.Second/10)))
		if r.resumed || r.wasTold(NewsUndoFailed, n.Name) || r.wasTold(NewsGuardPaid, n.Name) {
			r.tell(ctx, News{Kind: NewsUp, Run: r.ID, Node: n.Name, Text: fmt.Sprintf("%s is up again", n.Name)})
		}
	}
	if r.ctx.Err() != nil {
		return nil // somebody gave the run up: it is up, and nobody wants to wait for its next block
	}
	if bad := s.Failed(r.state.Begun.Intent.Force); len(bad) > 0 {
		return &RefusedError{refusal(n.Name, true, bad)}
	}
	if n.Before != nil && s.Height <= n.Before.Height && s.Height > 0 {
		return fmt.Errorf("no new block: height is %d, and was %d before the stop", s.Height, n.Before.Height)
	}
	if err := r.fact(factHealthy, n.Name, "", core.Status{Up: true, Version: s.Version, Height: s.Height, Hash: s.Hash, HeadTime: s.HeadTime}); err != nil {
		return journalError{err}
	}
	return nil
}

func (r *Run) unwell(ctx context.Context, n *Node, why error, after time.Duration) error {
	f := Failure{Move: "see that it came back", Err: fmt.Sprintf("not well %s after it was started: %v", after, why)}
	if n.Up == nil {
		r.tell(ctx, News{Kind: NewsDown, Run: r.ID, Node: n.Name, Text: n.Name + ": " + f.Err})
	} else {
		r.tell(ctx, News{Kind: NewsUnwell, Run: r.ID, Node: n.Name, Text: n.Name + ": " + f.Err})
	}
	return r.fact(factUnwell, n.Name, "", f)
}

// Cancel closes a run for good: nodes are given back, copies are dropped, nothing is promoted. One that has replaced
// published bytes is not closed, unless it is forced: until it is through, no list fits what is published.
func (r *Run) Cancel(ctx context.Context, reason string, force bool) Outcome {
	defer r.journal.Close()
	r.ctx = ctx
	for _, n := range r.state.Nodes {
		if n.committed() && !n.Promoted && n.Failed == nil && !force {
			r.unlock()
			return Outcome{Exit: ExitRefused, Err: &RefusedError{fmt.Sprintf(
				"run %s has begun to replace published files, and the published list does not fit them until it is through: `snapfw resume %s` carries on. "+
					"If it can't get through, `snapfw cancel %s --force --reason \"…\"` gives it up; release again at once then", r.ID, r.ID, r.ID)}}
		}
	}
	err := r.leftBehind(ctx)
	if err == nil {
		for _, n := range r.nodes(func(n *Node) bool { return !n.Promoted }) {
			if m, merr := r.machine(ctx, n); merr == nil {
				err = errors.Join(err, m.EndJobs(ctx, r.ID+"/"+n.Name))
			}
			err = errors.Join(err, r.fact(factFailed, n.Name, "", Failure{Move: "cancel", Err: "cancelled: " + reason}))
		}
	}
	err = errors.Join(err, r.release(ctx))
	out := r.close(ctx, err)
	if out.Exit == ExitFailed && err == nil {
		return Outcome{Exit: ExitDone, Closed: out.Closed}
	}
	return out
}
