package main

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// seen is what tells whether a file is still the one that it was.
type seen struct {
	inode uint64
	size  int64
	time  int64
}

// look lists the files in snapshots/ by name, and what they are.
func (t *tool) look(ctx context.Context) (map[string]seen, error) {
	all := map[string]seen{}
	dir := filepath.Join(t.datadir, "snapshots")
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || ctx.Err() != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		all[strings.TrimPrefix(path, dir+"/")] = seen{st.Ino, st.Size, st.Mtim.Nano()}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look at snapshots: %w", err)
	}
	return all, ctx.Err()
}

// settle is how long files have to stay as they are.
var settle = 200 * time.Millisecond

// settled sees that nobody works on the files: the lock is free and they stay as they are. It returns its last look.
func (t *tool) settled(ctx context.Context) (map[string]seen, error) {
	first, err := t.look(ctx)
	if err != nil {
		return nil, err
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(settle):
	}
	second, err := t.look(ctx)
	if err != nil {
		return nil, err
	}
	for name, is := range second {
		if first[name] != is {
			return nil, fmt.Errorf("%s still changes: something works on %s", name, t.datadir)
		}
	}
	if len(first) != len(second) {
		return nil, fmt.Errorf("files come or go: something works on %s", t.datadir)
	}
	return second, t.unused()
}

// dropStaleTorrents removes the torrents of files that are gone or are other ones than before. Erigon's downloader never makes a torrent
// anew that is there, and renames the data when they differ.
func (t *tool) dropStaleTorrents(before, after map[string]seen) error {
	dropped := 0
	for name := range after {
		data, _, ok := torrentOf(name)
		if !ok || before[name] != after[name] {
			continue
		}
		was, had := before[data]
		if is, has := after[data]; had && has && is == was || !had && !has {
			continue
		}
		if err := os.Remove(filepath.Join(t.datadir, "snapshots", filepath.FromSlash(name))); err != nil {
			return fmt.Errorf("remove a stale torrent: %w", err)
		}
		dropped++
	}
	if dropped > 0 {
		t.say("%d stale torrents removed", dropped)
	}
	return nil
}

// dropUnfinished removes .tmp files of snapshots: whoever wrote them is gone, since the lock is free.
func (t *tool) dropUnfinished(files map[string]seen) error {
	for name := range files {
		stem := name
		for strings.HasSuffix(stem, ".tmp") {
			stem = strings.TrimSuffix(stem, ".tmp")
		}
		if _, err := parseName(stem); stem == name || err != nil {
			continue
		}
		if err := os.Remove(filepath.Join(t.datadir, "snapshots", filepath.FromSlash(name))); err != nil {
			return fmt.Errorf("remove an unfinished file: %w", err)
		}
		t.say("%s removed: a merge that was killed had left it", name)
	}
	return nil
}

// findings applies some of the checks to the files as they lie there; what the configuration excuses is left out.
func (t *tool) findings(ctx context.Context, only func(checkFinding) bool) ([]checkFinding, error) {
	in, err := walkSnapshots(ctx, t.datadir, false)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(check(in, t.skip), func(f checkFinding) bool { return f.Severity != severityRefuse || !only(f) }), nil
}

// firstOf makes an error of findings.
func firstOf(after string, all []checkFinding) error {
	if len(all) == 0 {
		return nil
	}
	more := ""
	if len(all) > 1 {
		more = fmt.Sprintf(" (and %d more)", len(all)-1)
	}
	return fmt.Errorf("after %s: %s: %s%s", after, all[0].File, all[0].Text, more)
}

// changed compares two looks: what went, what came, and what is another file than before.
func changed(before, after map[string]seen) (gone, came, other []string) {
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if is, ok := after[name]; !ok {
			gone = append(gone, name)
		} else if is != before[name] {
			other = append(other, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if _, ok := before[name]; !ok {
			came = append(came, name)
		}
	}
	return gone, came, other
}
