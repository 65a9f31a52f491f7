package engine

import (
	"context"
	"fmt"
	"slices"

	"github.com/snapfw/snapfw/core/internal/journal"
)

// Load reads a run as its journal tells it.
func Load(fsys journal.FS, run string) (*State, error) {
	facts, err := journal.Read(fsys, run)
	if err != nil {
		return nil, err
	}
	s, err := Fold(run, facts)
	if err != nil {
		return nil, fmt.Errorf("read the journal of %s: %w", run, err)
	}
	return s, nil
}

// All lists every run, oldest first. A journal that can't be read is an error: it may owe somebody a node.
func All(fsys journal.FS) ([]*State, error) {
	names, err := journal.Runs(fsys)
	if err != nil {
		return nil, err
	}
	var all []*State
	for _, run := range names {
		s, err := Load(fsys, run)
		if err != nil {
			return nil, fmt.Errorf("%w; look at it, then move the file away", err)
		}
		all = append(all, s)
	}
	// A name tells the second: a run that is refused at once may have the next one in the same.
	slices.SortStableFunc(all, func(a, b *State) int { return a.Started.Compare(b.Started) })
	return all, nil
}

// Open lists the runs of a chain that are not closed, oldest first; every chain's if chain is "".
func Open(fsys journal.FS, chain string) ([]*State, error) {
	all, err := All(fsys)
	return slices.DeleteFunc(all, func(s *State) bool {
		return s.Closed != nil || s.Begun.Chain == "" || chain != "" && s.Begun.Chain != chain
	}), err
}

// CarryOn walks every open run of a chain to its end: what is owed is paid, what was captured
// is published. One that waits for its review keeps no newer one from that: a release that died before it had a list to
// propose stands beside it. It stops at the first one that stays open otherwise: its node needs somebody.
func CarryOn(ctx context.Context, d Deps, chain string) (Outcome, error) {
	open, err := Open(d.Journals, chain)
	if err != nil {
		return Outcome{}, err
	}
	last := Outcome{Closed: true}
	for _, s := range open[min(1, len(open)):] {
		if err := letGo(ctx, d, s); err != nil {
			return Outcome{}, err
		}
	}
	for _, s := range open {
		r, err := Resume(d, s.Run)
		if err != nil {
			return Outcome{}, err
		}
		if d.View != nil {
			d.View.Note("", "an earlier run is not over: carrying on with "+s.Run)
		}
		out := r.Go(ctx)
		if !out.Closed && out.Exit != ExitParked {
			return out, nil
		}
		if !out.Closed {
			last = out
			continue
		}
		if out.Err != nil && d.View != nil {
			d.View.Note("", fmt.Sprintf("%s ended: %v", s.Run, out.Err))
		}
	}
	return last, nil
}

// letGo gives back what the dead process of a run holds, a node that is down and its lock, so that an older run which is
// carried on first is not in its way. What can't be given back is told, and tried again when it is carried on.
func letGo(ctx context.Context, d Deps, s *State) error {
	if slices.ContainsFunc(s.Nodes, func(n *Node) bool { return n.Parked }) {
		return nil // it holds nothing
	}
	r, err := Resume(d, s.Run)
	if err != nil {
		return err
	}
	r.unlockNodes(context.WithoutCancel(ctx))
	r.Up(ctx, "")
	return nil
}

// supersede closes the chain's runs that wait for a review: this one has a list of its own to propose, judged and with nothing
// of it in the stage yet. Before that a newer run may end without anything, and theirs is still good. From here on it is the
// only one with a stage, which whoever ends next empties.
func (r *Run) supersede(ctx context.Context) error {
	r.superseding.Lock()
	defer r.superseding.Unlock()
	if hasStage(r.state) {
		return nil
	}
	open, err := Open(r.Journals, r.state.Begun.Chain)
	if err != nil {
		return err
	}
	d := r.Deps
	d.View = unseen{}
	d.LockChain = func(context.Context, string, string) (func(), error) { return func() {}, nil } // this run has it
	for _, s := range open {
		if s.Run == r.ID || !hasStage(s) {
			continue
		}
		old, err := Resume(d, s.Run)
		if err != nil {
			return err
		}
		r.View.Note("", fmt.Sprintf("%s waits for its review: this newer run supersedes it", s.Run))
		if out := old.Cancel(ctx, "superseded by "+r.ID, false); !out.Closed {
			return fmt.Errorf("supersede %s: %v", s.Run, out.Err) // its refusal is not this run's
		}
	}
	return nil
}

func hasStage(s *State) bool {
	return slices.ContainsFunc(s.Nodes, func(n *Node) bool { return n.Chosen != nil && n.Failed == nil })
}
