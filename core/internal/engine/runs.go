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
// is published. It stops at the first one that stays open: its node needs somebody.
func CarryOn(ctx context.Context, d Deps, chain string) (Outcome, error) {
	open, err := Open(d.Journals, chain)
	if err != nil {
		return Outcome{}, err
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
		if !out.Closed {
			return out, nil
		}
		if out.Err != nil && d.View != nil {
			d.View.Note("", fmt.Sprintf("%s ended: %v", s.Run, out.Err))
		}
	}
	return Outcome{Closed: true}, nil
}
