package engine

import (
	"bytes"
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

const proveFile = "prove.jsonl"

// replace moves what was parked to its key, inside the storage, and takes the old bytes out of the cache. A
// consumer may see the new bytes before the list that names them: that is the one exception to "nobody
// sees half", it was reviewed, and it is as short as a copy inside the storage.
func (r *Run) replace(ctx context.Context, n *Node) error {
	if !n.inPlace() || n.Reviewed == nil || n.Replaced {
		return nil
	}
	some, err := r.staged(ctx, n, stagedSent)
	if err != nil {
		return err
	}
	if len(some) == 0 {
		return r.fact(factReplaced, n.Name, "", nil)
	}
	parked, err := r.list(ctx, r.stage()+"/", nil)
	if err != nil {
		return err
	}
	var moves []core.Move
	var keys []string
	now := map[string]core.Entry{}
	for _, u := range some {
		key := keyOf(n, u.Name)
		keys = append(keys, key)
		if !u.Replace {
			continue
		}
		from := r.stage() + "/" + key
		if o, ok := parked[from]; !ok || o.Size != u.Size {
			return r.lost(n, from+" is gone from the bucket, or another")
		}
		moves, now[key] = append(moves, core.Move{From: from, To: key, Size: u.Size}), u.Entry
	}
	if len(moves) > 0 && !n.Replacing {
		if err := r.whole(ctx, n, now); err != nil {
			return err
		}
		if err := r.fact(factMoving, n.Name, "", nil); err != nil {
			return err
		}
	}
	if err := r.move(ctx, n, moves); err != nil {
		return err
	}
	if len(now) > 0 {
		there, err := r.listed(ctx, n)
		if err != nil {
			return err
		}
		if err := r.remember(ctx, n, now, there); err != nil {
			return err
		}
	}
	if err := r.purge(ctx, r.Sink, keys); err != nil {
		return err
	}
	return r.fact(factReplaced, n.Name, "", nil)
}

// move copies inside the storage; it carries on where it was.
func (r *Run) move(ctx context.Context, n *Node, moves []core.Move) error {
	if len(moves) == 0 {
		return nil
	}
	n.there = nil
	copier, ok := r.Sink.Sink.(core.Copier)
	if !ok {
		return fmt.Errorf("sink %s can't copy inside the storage: %w", r.Sink.Name, core.ErrUnsupported)
	}
	return r.retry(ctx, n, "copy inside the storage", func() error {
		done := 0
		for _, err := range copier.Copy(ctx, r.Sink.Target, moves) {
			if err != nil {
				return fmt.Errorf("copy inside the storage: %w", err)
			}
			done++
		}
		if done != len(moves) {
			return fmt.Errorf("copy inside the storage: %d of %d were copied", done, len(moves))
		}
		return nil
	})
}

// purge takes keys out of the cache in front of a sink, if there is one.
func (r *Run) purge(ctx context.Context, s *Sink, keys []string) error {
	purger, ok := s.Sink.(core.Purger)
	if !ok || len(keys) == 0 {
		return nil
	}
	return r.retry(ctx, nil, "purge", func() error {
		err := purger.Purge(ctx, s.Target, keys...)
		if errors.Is(err, core.ErrUnsupported) {
			return nil
		}
		return err
	})
}

// proveChanges has the plan's proof read what changed through the address that consumers use.
func (r *Run) proveChanges(ctx context.Context, n *Node) error {
	if n.Reviewed == nil || !n.Replaced || n.Proved {
		return nil
	}
	some, err := r.staged(ctx, n, stagedSent)
	if err != nil {
		return err
	}
	front, err := r.front(ctx, r.Sink)
	if err != nil {
		return err
	}
	switch {
	case len(some) == 0:
	case front.url == "":
		if err := r.note(n.Name, "sink %s has no public address, so nothing is read back through it", r.Sink.Name); err != nil {
			return err
		}
	default:
		m, err := r.machine(ctx, n)
		if err != nil {
			return err
		}
		if err := m.Write(ctx, n.Plan.Owner, path.Join(path.Dir(n.Plan.Data), proveFile), bytes.NewReader(lines(some))); err != nil {
			return fmt.Errorf("write %s: %w", proveFile, err)
		}
		if err := r.steps(ctx, n, phaseProve, n.Plan.Prove); err != nil {
			return err
		}
	}
	return r.fact(factProved, n.Name, "", nil)
}

// promoteList is the commit of a release: one Put of the list, only over the list that was judged, and only if the
// storage holds all that it names. Then what consumers read is read back.
func (r *Run) promoteList(ctx context.Context, n *Node) error {
	list, err := r.kept(ctx, n, stagedList)
	if err != nil {
		return err
	}
	s, key := r.lists(), n.Plan.Publish.Pointer
	now, o, err := r.getFrom(ctx, s, key)
	if err != nil {
		return err
	}
	if !bytes.Equal(now, list) {
		if err := r.whole(ctx, n, nil); err != nil {
			return err
		}
		if err := r.putList(ctx, s, key, list, o); err != nil {
			return err
		}
		if s == r.Sink {
			r.stored(n, key, list)
		}
	}
	if now, _, err = r.getFrom(ctx, s, key); err != nil {
		return err
	}
	if !bytes.Equal(now, list) {
		return fmt.Errorf("%s came back other than it was put; something else writes to this bucket", key)
	}
	if err := r.purge(ctx, s, []string{key}); err != nil {
		return err
	}
	if err := r.seen(ctx, s, key, list); err != nil {
		return err
	}
	return r.fact(factPromoted, n.Name, "", nil)
}

// putList overwrites only what was read, where the storage can tell.
func (r *Run) putList(ctx context.Context, s *Sink, key string, list []byte, o core.Object) error {
	c := core.Condition{IfMatch: o.ETag, IfNoneMatch: o.Key == ""}
	lost := false
	err := r.retry(ctx, nil, "put "+key, func() error {
		_, err := s.Put(ctx, s.Target, key, list, c)
		if errors.Is(err, core.ErrUnsupported) {
			_, err = s.Put(ctx, s.Target, key, list, core.Condition{})
		}
		if lost = errors.Is(err, core.ErrCondition); lost || err == nil {
			return nil
		}
		return about("put "+key, err)
	})
	if err == nil && lost {
		return fmt.Errorf("%s was replaced by somebody else in this very moment: it is judged again when the run is resumed", key)
	}
	return err
}

// clearStages empties the stages of this chain's runs. Only a run that has one does it, and no other one that is open has:
// a newer run supersedes those that wait before it chooses.
func (r *Run) clearStages(ctx context.Context) error {
	// Another chain's name may begin with this one's.
	ours := regexp.MustCompile("^" + regexp.QuoteMeta(stageRoot+"/"+r.state.Begun.Chain+"-") + runTime + "/")
	parked, err := r.list(ctx, stageRoot+"/"+r.state.Begun.Chain+"-", ours.MatchString)
	if err != nil {
		return err
	}
	keys := slices.Sorted(maps.Keys(parked))
	// The list of what a run keeps goes last: without it the rest could not be told.
	slices.SortStableFunc(keys, func(a, b string) int { return strings.Count(b, "/") - strings.Count(a, "/") })
	for len(keys) > 0 {
		some := keys[:min(1000, len(keys))]
		if err := r.Sink.Delete(ctx, r.Sink.Target, some...); err != nil {
			return fmt.Errorf("empty the stage: %w", err)
		}
		keys = keys[len(some):]
	}
	return nil
}

// giveUpStage withdraws the proposal of a node that gets no further, and what waited for it.
func (r *Run) giveUpStage(ctx context.Context, n *Node) error {
	if !n.inPlace() || n.Failed == nil || n.Chosen == nil {
		return nil
	}
	return errors.Join(r.withdraw(ctx, n, n.Failed.Err), r.clearStages(ctx))
}

// proofTime is how long a cache may go on serving what was purged.
const proofTime = 5 * time.Minute
