package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/internal/manifest"
)

// Buckets expire objects by their age, and what is published has to stay however old it is. So it is made young at the
// beginning of each release, whatever becomes of that, and again at its end, when other objects are named.

// recent is how old a list of the bucket may be that choose compares with.
const recent = time.Minute

// keepYoung begins to make young what is published now, and does not wait for it: it stands in no move's way before choose.
func (r *Run) keepYoung(ctx context.Context, n *Node) error {
	if !r.publishes() || !n.inPlace() || n.Captured {
		return nil
	}
	young := make(chan struct{})
	n.young = young
	go func() {
		defer close(young)
		err := r.youngNow(ctx, n)
		if err != nil && ctx.Err() == nil {
			err = r.aging(n, err)
		}
		if err != nil {
			r.View.Note(n.Name, fmt.Sprintf("keep what is published: %v", err))
		}
	}()
	return nil
}

// grewYoung waits until keepYoung is done.
func (n *Node) grewYoung() {
	if n.young != nil {
		<-n.young
	}
}

// youngNow makes young what the published list names, and what lies beside it under the same name and one more extension.
func (r *Run) youngNow(ctx context.Context, n *Node) error {
	copier, ok := r.Sink.Sink.(core.Copier)
	if !ok {
		return nil
	}
	body, entries, _, err := r.published(ctx, n)
	if err != nil || body == nil {
		return nil // the judge reads it too, and says what is wrong with it
	}
	known, there, err := r.held(ctx, n)
	if err != nil {
		return err
	}
	listed, stays := map[string]bool{}, map[string]bool{}
	for _, e := range entries {
		key := keyOf(n, e.Name)
		listed[key], stays[key] = true, true
	}
	for key := range there {
		if listed[strings.TrimSuffix(key, path.Ext(key))] {
			stays[key] = true
		}
	}
	return r.refresh(ctx, n, copier, known, stays)
}

// aging writes down that what is published was not made young: nothing is wrong yet, and it will be.
func (r *Run) aging(n *Node, err error) error {
	n.aged = true
	return errors.Join(r.note(n.Name, "what is published is not kept young: %v", err),
		r.fact(factAging, n.Name, "", Failure{Move: "keep what is published", Err: err.Error()}))
}

// tidy makes young what the storage would expire, deletes what was not named for longer than the grace period, and
// empties the stage. None of these keeps the others from being tried.
func (r *Run) tidy(ctx context.Context, n *Node) error {
	all, err := r.staged(ctx, n, stagedAll)
	if err != nil {
		return err
	}
	named := map[string]bool{}
	for _, u := range all {
		named[keyOf(n, u.Name)] = true
	}
	known, _, err := r.holds(ctx, n)
	if yerr := r.stayYoung(ctx, n, known, named, err); yerr != nil || err != nil {
		return errors.Join(err, yerr)
	}
	return errors.Join(r.sweep(ctx, n, known, named), r.clearStages(ctx))
}

// stayYoung makes young what is published from now on; err is why it can't even be looked at. That it can't is told, and
// no error: the list is published.
func (r *Run) stayYoung(ctx context.Context, n *Node, known manifest.Objects, named map[string]bool, err error) error {
	copier, ok := r.Sink.Sink.(core.Copier)
	if !ok {
		return nil
	}
	if err == nil {
		err = r.refresh(ctx, n, copier, known, named)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return err
	case err != nil:
		return r.aging(n, err)
	case n.Aging != nil:
		return r.fact(factYoung, n.Name, "", nil)
	}
	return nil
}

// sweep marks what is no longer named, and deletes what was not named for longer than the grace period.
func (r *Run) sweep(ctx context.Context, n *Node, known manifest.Objects, named map[string]bool) error {
	gone, faded := r.fade(&known, named)
	if len(gone) > 0 {
		if err := r.Sink.Delete(ctx, r.Sink.Target, gone...); err != nil {
			return fmt.Errorf("delete what nobody names: %w", err)
		}
		if err := r.purge(ctx, r.Sink, gone); err != nil {
			return err
		}
		if err := r.note(n.Name, "deleted %d objects that were not named for %s: %s", len(gone), r.Settings.Grace, few(gone)); err != nil {
			return err
		}
	}
	if !faded {
		return nil
	}
	return r.putObjects(ctx, n, known)
}

// fade updates when keys were last named, and returns the keys whose time is over, and whether anything changed.
func (r *Run) fade(known *manifest.Objects, named map[string]bool) (gone []string, changed bool) {
	now := r.Clock.Now().UTC()
	for _, key := range slices.Sorted(maps.Keys(known.Objects)) {
		o := known.Objects[key]
		switch {
		case named[key] && o.Unnamed != nil:
			o.Unnamed = nil
		case !named[key] && o.Unnamed == nil:
			o.Unnamed = &now
		case !named[key] && now.Sub(*o.Unnamed) > r.Settings.Grace:
			gone, changed = append(gone, key), true
			delete(known.Objects, key)
			continue
		default:
			continue
		}
		known.Objects[key], changed = o, true
	}
	return gone, changed
}

// refresh asks the sink to make young what stays, the list and the memory of it too: it knows which objects are old enough to
// be due. Where the oldest is young enough to be left, so are all, and nobody asks for the rest. What is named
// and gone is an error, once the rest is young.
func (r *Run) refresh(ctx context.Context, n *Node, copier core.Copier, known manifest.Objects, named map[string]bool) error {
	there := n.there
	var moves []core.Move
	var gone []string
	stay := func(key string) {
		moves = append(moves, core.Move{From: key, To: key, Size: there[key].Size})
	}
	for _, key := range slices.Sorted(maps.Keys(named)) {
		if _, ok := there[key]; !ok {
			gone = append(gone, key)
			continue
		}
		stay(key)
	}
	for _, f := range r.own(n) {
		if _, ok := there[f.key]; ok && f.sink == r.Sink {
			stay(f.key)
		} else if err := r.refreshOne(ctx, f.sink, f.key); err != nil {
			return err
		}
	}
	due, err := r.due(ctx, copier, moves, there)
	if err != nil {
		return err
	}
	if due {
		if err := r.renew(ctx, r.Sink, copier, moves); err != nil {
			return err
		}
		if err := r.learn(ctx, n, known, named); err != nil {
			return err
		}
	}
	if len(gone) > 0 {
		return fmt.Errorf("the list names what the bucket does not hold: %s; a release that gets through sends it", few(gone))
	}
	return nil
}

// due asks for the oldest alone, and tells whether it was stored anew.
func (r *Run) due(ctx context.Context, copier core.Copier, moves []core.Move, there map[string]core.Object) (bool, error) {
	if len(moves) == 0 {
		return false, nil
	}
	oldest := slices.MinFunc(moves, func(a, b core.Move) int { return there[a.To].Modified.Compare(there[b.To].Modified) })
	err := r.renew(ctx, r.Sink, copier, []core.Move{oldest})
	if errors.Is(err, core.ErrUnsupported) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	now, err := r.list(ctx, oldest.To, func(key string) bool { return key == oldest.To })
	if err != nil {
		return false, err
	}
	was, is := there[oldest.To], now[oldest.To]
	return was.ETag != is.ETag || !was.Modified.Equal(is.Modified), nil
}

// learn remembers what was stored anew: a copy onto itself may have another ETag.
func (r *Run) learn(ctx context.Context, n *Node, known manifest.Objects, named map[string]bool) error {
	before := n.there
	there, err := r.listed(ctx, n)
	if err != nil {
		return err
	}
	changed := false
	for key, k := range known.Objects {
		// Only what was the remembered object before is it now.
		if o, ok := there[key]; ok && named[key] && o.Size == k.Size && k.Is(before[key]) && (o.ETag != k.ETag || !o.Modified.Equal(k.Modified)) {
			k.ETag, k.Modified = o.ETag, o.Modified
			known.Objects[key], changed = k, true
		}
	}
	if !changed {
		return nil
	}
	return r.putObjects(ctx, n, known)
}

// place is where a small object of a release's own lies.
type place struct {
	sink *Sink
	key  string
}

// own are the list and the memory of objects: they expire like others.
func (r *Run) own(n *Node) []place {
	return []place{{r.lists(), n.Plan.Publish.Pointer}, {r.Sink, objectsKey(n)}}
}

// refreshOne makes one object young, if it is there.
func (r *Run) refreshOne(ctx context.Context, s *Sink, key string) error {
	copier, ok := s.Sink.(core.Copier)
	if !ok {
		return nil
	}
	body, _, err := r.getFrom(ctx, s, key)
	if err != nil || body == nil {
		return err
	}
	if err := r.renew(ctx, s, copier, []core.Move{{From: key, To: key}}); !errors.Is(err, core.ErrUnsupported) {
		return err
	}
	return nil
}

// renew has a sink store keys anew that the storage would expire.
func (r *Run) renew(ctx context.Context, s *Sink, copier core.Copier, moves []core.Move) error {
	return r.retry(ctx, nil, "make young", func() error {
		for _, err := range copier.Copy(ctx, s.Target, moves) {
			if err != nil {
				return fmt.Errorf("make young what stays: %w", err)
			}
		}
		return nil
	})
}
