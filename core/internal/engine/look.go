package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/snapfw/snapfw/core"
)

func (r *Run) lock(ctx context.Context) error {
	if r.locked {
		return nil
	}
	unlock, err := r.LockChain(ctx, r.state.Begun.Chain, r.ID)
	if err != nil {
		return err
	}
	r.locked = true
	r.unlocks = append(r.unlocks, unlock)
	return nil
}

var nodeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// name asks the driver for the nodes. What was asked for with --node takes part, and what is on hold
// does not; a wave that is not whole keeps the later ones from being touched.
func (r *Run) name(ctx context.Context) error {
	if len(r.state.Nodes) > 0 {
		return nil
	}
	all, err := r.Chain.Nodes(ctx, r.Config)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, n := range all {
		if !nodeName.MatchString(n.Name) || seen[n.Name] {
			return fmt.Errorf("the driver named a node %q: a name is unique and of letters, digits and . _ -", n.Name)
		}
		seen[n.Name] = true
	}
	chosen := r.state.Begun.Nodes
	for _, name := range chosen {
		if !seen[name] {
			return &RefusedError{fmt.Sprintf("chain %s has no node %q; it has %s", r.state.Begun.Chain, name, names(all))}
		}
	}
	heldWave := -1
	slices.SortStableFunc(all, func(a, b core.Node) int { return a.Wave - b.Wave })
	for _, n := range all {
		if len(chosen) > 0 && !slices.Contains(chosen, n.Name) {
			continue
		}
		if heldWave >= 0 && n.Wave > heldWave {
			return core.Skipf("a node of wave %d is on hold, and %s must not be captured before it", heldWave, n.Name)
		}
		if until, held := r.Held(r.state.Begun.Chain, n.Name); held {
			heldWave = n.Wave
			if err := r.note(n.Name, "on hold until %s: left alone", until.Format(time.RFC3339)); err != nil {
				return err
			}
			continue
		}
		if err := r.fact(factNode, n.Name, "", n); err != nil {
			return err
		}
	}
	if len(r.state.Nodes) == 0 {
		return core.Skipf("every node is on hold")
	}
	return nil
}

func names(nodes []core.Node) string {
	var s []string
	for _, n := range nodes {
		s = append(s, n.Name)
	}
	return strings.Join(s, ", ")
}

// look asks the driver where the node is, and refuses where a check stands in the way.
func (r *Run) look(ctx context.Context, n *Node) error {
	if n.Captured {
		return nil
	}
	h, err := r.host(ctx, n)
	if err != nil {
		return err
	}
	s, err := r.Chain.Status(ctx, n.Node, h)
	if err != nil {
		return fmt.Errorf("look at %s: %w", n.Name, err)
	}
	if err := r.fact(factStatus, n.Name, "", s); err != nil {
		return err
	}
	if r.Down && !s.Up {
		return r.note(n.Name, "it is down, and stays so: %s may be done all the same", r.state.Begun.Intent.Name)
	}
	force := r.state.Begun.Intent.Force
	if bad := s.Failed(force); len(bad) > 0 || !s.Up {
		return &RefusedError{refusal(n.Name, s.Up, bad)}
	}
	for _, c := range s.Failed(false) {
		if err := r.note(n.Name, "bypassed by --force (%s): %s: want %s, got %s", r.state.Begun.Intent.Reason, c.Name, c.Want, c.Got); err != nil {
			return err
		}
	}
	return nil
}

func refusal(node string, up bool, bad []core.Check) string {
	var lines []string
	if !up {
		lines = append(lines, node+" does not answer")
	}
	for _, c := range bad {
		line := fmt.Sprintf("%s: %s: want %s, got %s", node, c.Name, c.Want, c.Got)
		if c.Fix != "" {
			line += "; " + c.Fix
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// lockNode takes the lock on the node's machine and keeps it until release.
func (r *Run) lockNode(ctx context.Context, n *Node) error {
	m, err := r.machine(ctx, n)
	if err != nil {
		return err
	}
	name := r.lockName(n)
	l, err := m.Lock(ctx, name, r.ID, 4*r.Settings.Lease)
	if err != nil {
		return fmt.Errorf("lock %s on %s: %w", n.Name, m, err)
	}
	if !l.Taken {
		return &LockedError{fmt.Sprintf("%s on %s", n.Name, m), l.Holder, l.Until}
	}
	renew, stop := context.WithCancel(context.WithoutCancel(ctx))
	go r.every(renew, r.Settings.Lease, func() { m.RenewLock(renew, name, r.ID, 4*r.Settings.Lease) })
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unlocks = append(r.unlocks, func() {
		stop()
		if err := m.Unlock(context.WithoutCancel(ctx), name, r.ID); err != nil {
			r.View.Note(n.Name, fmt.Sprintf("unlock: %v; the lock ends by itself", err))
		}
	})
	return nil
}

func (r *Run) lockName(n *Node) string { return r.state.Begun.Chain + "." + n.Name }

func (r *Run) every(ctx context.Context, d time.Duration, f func()) {
	for r.Clock.Sleep(ctx, d) == nil {
		f()
	}
}

// plan asks the driver how, checks the answer and writes it down.
func (r *Run) plan(ctx context.Context, n *Node) error {
	if n.Plan != nil && !n.redo() {
		return nil
	}
	h, err := r.host(ctx, n)
	if err != nil {
		return err
	}
	in := r.state.Begun.Intent
	in.Again = n.Plans
	if r.Settings.Verify != "" {
		in.Args = maps.Clone(in.Args)
		in.Args["verify"] = r.Settings.Verify
	}
	p, err := r.Chain.Plan(ctx, n.Node, h, in)
	if err != nil {
		return fmt.Errorf("plan for %s: %w", n.Name, err)
	}
	if err := CheckPlan(p); err != nil {
		return fmt.Errorf("the driver's plan for %s: %w", n.Name, err)
	}
	return r.fact(factPlan, n.Name, "", p)
}

// redo tells whether a plan was tried, put back, and is to be made anew.
func (n *Node) redo() bool { return !n.Stopped.IsZero() && !n.Captured }

func (r *Run) prepare(ctx context.Context, n *Node) error {
	if n.Ready {
		return nil
	}
	if err := r.steps(ctx, n, phasePrepare, n.Plan.Prepare); err != nil {
		return err
	}
	return r.fact(factReady, n.Name, "", nil)
}

// CheckPlan refuses a plan that breaks a rule of the contract. Secrets must not lie on a
// host's disk, so no step that a guard may have to pay or that runs while the node is down
// names one; root is for absolute system programs only.
func CheckPlan(p core.Plan) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if p.Data != "" && (!path.IsAbs(p.Data) || path.Clean(p.Data) != p.Data) {
		bad("Data %q is not a clean absolute path", p.Data)
	}
	if p.Publish.InPlace && p.Publish.Pointer == "" {
		bad("keys are replaced in place, and no Pointer names them")
	}
	for _, key := range []string{p.Publish.Prefix, p.Publish.Pointer} {
		if key != "" {
			if path.IsAbs(key) || path.Clean(key) != key || strings.HasPrefix(key, "..") || strings.HasPrefix(key, ".") {
				bad("%q is no key: a key is a clean relative path", key)
			}
		}
	}
	seen := map[string]bool{}
	phases := []struct {
		name  string
		steps []core.Step
		bare  bool
	}{
		{phasePrepare, p.Prepare, false}, {phaseFreeze, p.Freeze, true}, {phaseCapture, p.Capture, true},
		{phaseSeal, p.Seal, false}, {phaseProve, p.Prove, false},
	}
	for _, ph := range phases {
		for _, s := range ph.steps {
			id := ph.name + "." + slug(s.Name)
			if slug(s.Name) == "" || seen[id] {
				bad("%s: step %q: a name is unique in its phase and not empty", ph.name, s.Name)
			}
			seen[id] = true
			errs = append(errs, checkCommand(ph.name+": "+s.Name, s.Do, ph.bare))
			if s.Undo != nil {
				errs = append(errs, checkCommand(ph.name+": undo of "+s.Name, *s.Undo, true))
			}
		}
	}
	return errors.Join(errs...)
}

func checkCommand(where string, c core.Command, bare bool) error {
	if len(c.Argv) == 0 || c.Argv[0] == "" {
		return fmt.Errorf("%s: no program", where)
	}
	if c.User == "root" && !path.IsAbs(c.Argv[0]) {
		return fmt.Errorf("%s: root runs absolute system programs only, not %q", where, c.Argv[0])
	}
	if c.Dir != "" && !path.IsAbs(c.Dir) {
		return fmt.Errorf("%s: directory %q is not absolute", where, c.Dir)
	}
	if c.End != "" && c.End != "TERM" && c.End != "INT" {
		return fmt.Errorf("%s: ends by TERM or INT, not by %q", where, c.End)
	}
	for k, v := range c.Env {
		if bare && strings.HasPrefix(v, "secret:") {
			return fmt.Errorf("%s: %s is a secret, and a guard that may have to run it lies on a disk", where, k)
		}
	}
	return nil
}
