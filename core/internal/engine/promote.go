package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"

	"github.com/snapfw/snapfw/core/internal/manifest"
)

// Keys of what is rebuilt from the pointers.
const (
	indexKey  = "index.json"
	indexPage = "index.html"
)

// promote is the commit: one small Put a pointer. Nodes that got through are promoted, or all or none.
func (r *Run) promote(ctx context.Context) error {
	if !r.publishes() {
		return nil
	}
	ready := r.nodes(func(n *Node) bool { return n.Proved })
	this := move{name: "point consumers at it"}
	if r.Settings.AllOrNothing && len(ready) < len(r.state.Nodes) {
		if slices.ContainsFunc(r.state.Nodes, func(n *Node) bool { return n.Captured && !n.Proved && n.Failed == nil }) {
			return nil // they may still get through, when the run is carried on
		}
		for _, n := range ready {
			r.nodeFailed(n, this, errors.New("all_or_nothing: another node got no further"))
		}
		return nil
	}
	for _, n := range ready {
		if n.Promoted {
			continue
		}
		if err := r.promoteNode(ctx, n); err != nil {
			r.nodeFailed(n, this, err)
		}
	}
	if !slices.ContainsFunc(ready, func(n *Node) bool { return !n.inPlace() }) {
		return nil
	}
	return r.index(ctx)
}

func (r *Run) promoteNode(ctx context.Context, n *Node) error {
	if n.inPlace() {
		return r.promoteList(ctx, n)
	}
	prefix, key := n.Uploaded.Prefix, n.Uploaded.Pointer
	body, err := r.get(ctx, prefix+"/"+manifest.File)
	if err != nil {
		return err
	}
	if manifest.SHA256(body) != n.Uploaded.Manifest {
		return fmt.Errorf("the manifest of %s changed since it was checked", prefix)
	}
	m, err := manifest.Parse(body)
	if err != nil {
		return err
	}
	old, err := r.pointer(ctx, key)
	if err != nil {
		if nerr := r.note(n.Name, "the published pointer %s is replaced: %v", key, err); nerr != nil {
			return nerr
		}
		old = manifest.Pointer{}
	}
	if old.Prefix != "" && old.Prefix != prefix && old.Taken.After(m.Taken) {
		return &RefusedError{fmt.Sprintf("%s points at a newer snapshot, %s, already", key, old.Prefix)}
	}
	next, err := old.Next(m, body, r.Clock.Now()).Encode()
	if err != nil {
		return err
	}
	if err := r.put(ctx, key, next); err != nil {
		return err
	}
	back, err := r.get(ctx, key)
	if err != nil {
		return err
	}
	if !bytes.Equal(back, next) {
		return fmt.Errorf("%s came back other than it was put; something else writes to this bucket", key)
	}
	if err := r.Sink.Delete(ctx, r.Sink.Target, prefix+"/"+manifest.MarkFile); err != nil {
		return fmt.Errorf("delete the mark: %w", err)
	}
	return r.fact(factPromoted, n.Name, "", nil)
}

// index rebuilds the two indexes from the pointers that it names already and those of this run.
func (r *Run) index(ctx context.Context) error {
	keys := []string{}
	for _, n := range r.state.Nodes {
		if n.Plan != nil && !n.inPlace() {
			keys = append(keys, n.Plan.Publish.Pointer)
		}
	}
	if body, err := r.get(ctx, indexKey); err == nil && body != nil {
		if old, err := manifest.ParseIndex(body); err == nil {
			for _, s := range old.Series {
				keys = append(keys, s.Key)
			}
		}
	}
	slices.Sort(keys)
	pointers := map[string]manifest.Pointer{}
	for _, key := range slices.Compact(keys) {
		p, err := r.pointer(ctx, key)
		if err != nil {
			if err := r.note("", "index: %s is left out: %v", key, err); err != nil {
				return err
			}
			continue
		}
		if p.Prefix != "" {
			pointers[key] = p
		}
	}
	x := manifest.NewIndex(pointers, r.Clock.Now())
	page, err := x.HTML(r.state.Begun.Chain + " snapshots")
	if err != nil {
		return err
	}
	body, err := x.Encode()
	if err != nil {
		return err
	}
	if err := r.put(ctx, indexKey, body); err != nil {
		return err
	}
	return r.put(ctx, indexPage, page)
}

// prune deletes what the policy lets go, and what failed runs left. The pointer forgets a
// snapshot before its first object is deleted, and its manifest goes first, so that nobody begins
// to read what is going away. What can't be deleted now is deleted next time.
func (r *Run) prune(ctx context.Context) error {
	if !r.publishes() {
		return nil
	}
	for _, n := range r.nodes(func(n *Node) bool { return n.Promoted && !n.Pruned }) {
		if err := r.pruneSeries(ctx, n); err != nil {
			what := "old snapshots were not deleted"
			if n.inPlace() {
				what = "what nobody names was not deleted"
			}
			if nerr := r.note(n.Name, "%s: %v", what, err); nerr != nil {
				return nerr
			}
			continue
		}
		if err := r.fact(factPruned, n.Name, "", nil); err != nil {
			return err
		}
	}
	return nil
}

func (r *Run) pruneSeries(ctx context.Context, n *Node) error {
	if n.inPlace() {
		return r.tidy(ctx, n)
	}
	key := n.Uploaded.Pointer
	p, err := r.pointer(ctx, key)
	if err != nil {
		return err
	}
	folder := path.Dir(key)
	series, err := manifest.Series(folder, r.Sink.List(ctx, r.Sink.Target, folder+"/"), p)
	if err != nil {
		return err
	}
	drop := manifest.Prune(series, r.Settings.Keep, p, r.Clock.Now())
	if len(drop) == 0 {
		return nil
	}
	var prefixes []string
	for _, s := range drop {
		prefixes = append(prefixes, s.Prefix)
	}
	if without := p.Without(prefixes...); len(without.Previous) != len(p.Previous) {
		body, err := without.Encode()
		if err != nil {
			return err
		}
		if err := r.put(ctx, key, body); err != nil {
			return err
		}
		if err := r.index(ctx); err != nil {
			return err
		}
	}
	for _, s := range drop {
		if err := r.note(n.Name, "deleted %s: %d objects, %s", s.Prefix, s.Files, manifest.Size(s.Bytes)); err != nil {
			return err
		}
		if err := r.drop(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// drop deletes a snapshot's manifest, then the rest.
func (r *Run) drop(ctx context.Context, s manifest.Stored) error {
	for rest := s.Keys; len(rest) > 0; {
		some := min(len(rest), 1000)
		if s.Whole && len(rest) == len(s.Keys) {
			some = 1
		}
		if err := r.Sink.Delete(ctx, r.Sink.Target, rest[:some]...); err != nil {
			return fmt.Errorf("delete %s: %w", s.Prefix, err)
		}
		rest = rest[some:]
	}
	return nil
}
