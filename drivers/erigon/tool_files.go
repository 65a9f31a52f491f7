package main

import (
	"context"
	"fmt"
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
	return all, eachFile(ctx, t.datadir, true, func(name string, st *unix.Stat_t, _ bool) error {
		all[name] = seenOf(st)
		return nil
	})
}

func seenOf(st *unix.Stat_t) seen { return seen{st.Ino, st.Size, st.Mtim.Nano()} }

// sight is what one walk over snapshots/ finds: a look, and what the checks want to know.
type sight struct {
	all map[string]seen
	in  checkInput
	at  time.Time // when it ended
}

func (t *tool) see(ctx context.Context) (sight, error) {
	s := sight{all: map[string]seen{}}
	err := eachFile(ctx, t.datadir, true, func(name string, st *unix.Stat_t, published bool) error {
		s.all[name] = seenOf(st)
		if published {
			s.in.Files = append(s.in.Files, checkFileOf(name, st))
		}
		return nil
	})
	s.at = time.Now()
	if err != nil {
		return s, err
	}
	return s, s.in.read(filepath.Join(t.datadir, "snapshots"))
}

// settle is how long files have to stay as they are.
var settle = 200 * time.Millisecond

// settled sees that nobody works on the files: the lock is free and they stay as they were seen first. That they did so
// since a look before will do.
func (t *tool) settled(ctx context.Context, first sight, before map[string]seen, at time.Time) error {
	if first.at.Sub(at) >= settle && maps.Equal(before, first.all) {
		return t.unused()
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(settle - time.Since(first.at)):
	}
	files, other := 0, ""
	err := eachFile(ctx, t.datadir, true, func(name string, st *unix.Stat_t, _ bool) error {
		if files++; first.all[name] != seenOf(st) {
			other = name
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case other != "":
		return fmt.Errorf("%s still changes: something works on %s", other, t.datadir)
	case files != len(first.all):
		return fmt.Errorf("files come or go: something works on %s", t.datadir)
	}
	return t.unused()
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

// findings applies some of the checks to the files as they were seen; what the configuration excuses is left out.
func (t *tool) findings(s sight, only func(checkFinding) bool) []checkFinding {
	return slices.DeleteFunc(check(s.in, t.skip), func(f checkFinding) bool { return f.Severity != severityRefuse || !only(f) })
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
	for name, was := range before {
		if is, ok := after[name]; !ok {
			gone = append(gone, name)
		} else if is != was {
			other = append(other, name)
		}
	}
	for name := range after {
		if _, ok := before[name]; !ok {
			came = append(came, name)
		}
	}
	for _, names := range [][]string{gone, came, other} {
		slices.Sort(names)
	}
	return gone, came, other
}
