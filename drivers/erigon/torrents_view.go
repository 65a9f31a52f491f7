package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// A view is taken anew for each release, and to make thousands of small files takes a disk seconds. So the torrents of
// a view lie in a folder that stays, beside the remembered sums, and the view gets links to them.

// torrentStore is the folder that stays, for a sums file.
func torrentStore(sumsFile string) string {
	return filepath.Join(filepath.Dir(sumsFile), "torrents")
}

// torrent is where the torrent of a data file is kept.
func (t *torrenting) torrent(name string) string {
	dir := t.snapshots
	if t.store != "" {
		dir = t.store
	}
	return filepath.Join(dir, filepath.FromSlash(name)) + torrentExt
}

// changed is what a torrent must not be older than. What a view holds as a copy has the time of the copy, so there the
// sums alone tell.
func (t *torrenting) changed(id fileIdent) time.Time {
	if t.store != "" {
		return time.Time{}
	}
	return time.Unix(0, id.Mtime)
}

// openStore makes the folders that the torrents of the data files need.
func (t *torrenting) openStore() error {
	if t.store == "" {
		t.kept = openFolders(t.snapshots)
		return nil
	}
	t.kept = openFolders(t.store)
	if t.dry {
		return nil
	}
	for dir := range t.byFolder() {
		if err := os.MkdirAll(filepath.Join(t.store, dir), 0o755); err != nil {
			return fmt.Errorf("keep torrents: %w", err)
		}
	}
	return nil
}

// byFolder cuts the list of data files into those of each folder, by their places in the list.
func (t *torrenting) byFolder() map[string][]int {
	all := map[string][]int{}
	for i, f := range t.list.data {
		dir := path.Dir(f.name)
		all[dir] = append(all[dir], i)
	}
	return all
}

// fewTorrents are read faster than the sums are written anew to remember them. It is a variable for tests.
var fewTorrents = 100

// learn remembers the torrents that were read or written, so that the next run need not read them. They are on the disk then:
// what is remembered must not outlive them when the machine dies.
func (t *torrenting) learn() error {
	fresh := 0
	for _, r := range t.good {
		if r.read {
			fresh++
		}
	}
	if t.store != "" && len(t.written) > 0 || fresh > fewTorrents {
		if err := syncAll(t.kept.root); err != nil {
			return fmt.Errorf("sync %s: %w", t.kept.root, err)
		}
	}
	if fresh <= fewTorrents {
		return nil
	}
	now := time.Now()
	for i, r := range t.good {
		if r.read && older(r.file, now.Add(-mtimeTick)) { // else a write to it might go unseen
			t.sums.learn(t.list.data[i].ident, r.rightTorrent)
		}
	}
	return nil
}

// linkStore gives the view its torrents, and forgets those whose data is gone. It works on several folders at a time: who changes
// names in one waits for its lock.
func (t *torrenting) linkStore() error {
	if t.store == "" {
		return nil
	}
	view := openFolders(t.snapshots)
	defer view.close()
	var wg sync.WaitGroup
	places := make(chan struct{}, foldersAtOnce)
	all := slices.Collect(maps.Values(t.byFolder()))
	errs := make([]error, len(all))
	for n, files := range all {
		wg.Go(func() {
			places <- struct{}{}
			errs[n] = t.linkFolder(view, files)
			<-places
		})
	}
	wg.Wait()
	return errors.Join(append(errs, t.forgetGone())...)
}

// foldersAtOnce are as many as disks and file systems of most machines get on with.
const foldersAtOnce = 4

// linkFolder links the torrents of some data files of one folder into the view.
func (t *torrenting) linkFolder(view *folders, files []int) error {
	for _, i := range files {
		if t.good[i].infohash == "" {
			continue
		}
		name := t.list.data[i].name + torrentExt
		from, file, err := t.kept.in(name)
		if err != nil {
			return fmt.Errorf("give the view its torrents: %w", err)
		}
		to, _, err := view.in(name)
		if err == nil {
			err = linkAt(from, file, to)
		}
		if err != nil {
			return fmt.Errorf("give the view its torrents: %s: %w", name, err)
		}
		st, err := statAt(to, file)
		if err != nil || identOfStat(&st) != t.good[i].file {
			return fmt.Errorf("%s was written anew meanwhile: run this again", t.torrent(t.list.data[i].name))
		}
	}
	t.wrote(t.path(t.list.data[files[0]].name))
	return nil
}

// forgetGone removes the kept torrents of which no data is there any more.
func (t *torrenting) forgetGone() error {
	wanted := make(map[string]bool, len(t.list.data))
	for _, f := range t.list.data {
		wanted[f.name] = true
	}
	err := filepath.WalkDir(t.store, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.Contains(e.Name(), torrentExt) {
			return err
		}
		if name, ok := strings.CutSuffix(path[len(t.store)+1:], torrentExt); ok && wanted[name] {
			return nil
		}
		return os.Remove(path)
	})
	if err != nil {
		return fmt.Errorf("forget torrents of what is gone: %w", err)
	}
	return nil
}
