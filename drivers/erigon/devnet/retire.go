package main

import (
	"context"
	"os"
	"slices"
	"time"
)

// target is what lies in snapshots/ after all merges, for a number of blocks (thousands) and of steps.
type target struct {
	kind  kind
	spans []span
}

func (st chainState) blocksFrozen() uint64 { return st.Head / 1000 }

// steps that may be in files: executed whole, and not beyond the block files.
func (st chainState) steps() uint64 {
	return min(st.Executed, st.blocksFrozen()*1000) * st.TxPerBlock / st.StepSize
}

func (st chainState) blockTargets() (all []target) {
	for _, k := range blockKinds() {
		all = append(all, target{k, blockSpans(st.blocksFrozen())})
	}
	return all
}

// stateTargets leaves out a type that the database can't supply: between its files and what the database still
// holds there is a hole, as after rm-state without a reset and a new execution.
func (st chainState) stateTargets(files []file) (all []target) {
	n := st.steps()
	add := func(k kind, spans func(uint64) []span) {
		to := n
		if have := end(of(files, k)); have < st.From[k.typ] {
			to = have
		}
		all = append(all, target{k, spans(to)})
	}
	for _, k := range domainKinds(st.Receipts) {
		add(k, domainSpans)
	}
	for _, k := range historyKinds(st.Receipts) {
		add(k, func(n uint64) []span { return historySpans(n, st.Frozen) })
	}
	return all
}

// builder builds and merges files, one after the other.
type builder struct {
	d     *datadir
	st    chainState
	log   *logger
	sync  bool
	slow  time.Duration // for each file
	made  int
	total int
}

// build makes what a target lacks: the data first, then indexes, and at last removes what was merged. When ctx ends between
// two files it stops there: that is how a plain stop catches a merge in the middle.
func (b *builder) build(ctx context.Context, what string, targets []target) error {
	files, _, err := b.d.list()
	if err != nil {
		return err
	}
	var missing []file
	for _, t := range targets {
		have := of(files, t.kind)
		for _, s := range t.spans {
			if !slices.ContainsFunc(have, func(f file) bool { return f.holds(s) }) {
				missing = append(missing, file{t.kind, s, t.kind.name(s)})
			}
		}
	}
	b.total = len(missing)
	for i, f := range missing {
		if err := b.pause(ctx); err != nil {
			return err
		}
		if err := b.d.writeFile(f.name, b.st.dataOf(f.kind, f.span), b.sync); err != nil {
			return err
		}
		if err := b.pause(ctx); err != nil {
			return err
		}
		if _, err := b.d.buildIndexes(f, files, b.sync); err != nil {
			return err
		}
		b.made++
		b.log.info("["+what+"] Building snapshot", "file", f.name, "progress", percent(i+1, b.total))
	}
	return b.removeMerged(ctx, targets)
}

// pause waits for as long as a file is told to take.
func (b *builder) pause(ctx context.Context) error {
	if b.slow == 0 {
		return ctx.Err()
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(b.slow):
		return nil
	}
}

// removeMerged removes data and indexes whose range a longer file of their kind holds, with their torrents.
func (b *builder) removeMerged(ctx context.Context, targets []target) error {
	files, _, err := b.d.list()
	if err != nil {
		return err
	}
	for _, t := range targets {
		have := of(files, t.kind)
		for _, f := range have {
			if !slices.ContainsFunc(have, func(o file) bool { return o.span != f.span && o.holds(f.span) }) {
				continue
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			for _, k := range append([]kind{f.kind}, f.indexes()...) {
				for _, old := range of(files, k) {
					if old.span == f.span {
						b.d.remove(old.name)
					}
				}
			}
		}
	}
	return nil
}

// remove removes a file and its torrent.
func (d *datadir) remove(name string) {
	os.Remove(d.snap(name))
	os.Remove(d.snap(name) + ".torrent")
}

// missedIndexes builds all indexes that are not there.
func (b *builder) missedIndexes(ctx context.Context, what string, which func(kind) bool) (made int, err error) {
	files, _, err := b.d.list()
	if err != nil {
		return 0, err
	}
	for i, f := range files {
		if !which(f.kind) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return made, err
		}
		n, err := b.d.buildIndexes(f, files, b.sync)
		if err != nil {
			return made, err
		}
		if made += n; n > 0 {
			if err := b.pause(ctx); err != nil {
				return made, err
			}
			b.log.info("["+what+"] Indexing", "progress", percent(i+1, len(files)), "file", f.name)
		}
	}
	return made, nil
}

// pruned remembers that the database no longer holds what is in files.
func (b *builder) pruned() error {
	files, _, err := b.d.list()
	if err != nil {
		return err
	}
	if b.st.From == nil {
		b.st.From = map[string]uint64{}
	}
	for _, t := range b.st.stateTargets(files) {
		if have := end(of(files, t.kind)); have >= b.st.From[t.kind.typ] {
			b.st.From[t.kind.typ] = have
		}
	}
	return b.d.writeChain(b.st)
}
