package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
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
	if t.store == "" || t.dry {
		return nil
	}
	var files []string
	for _, f := range t.list.data {
		files = append(files, t.torrent(f.name))
	}
	for _, dir := range foldersOf(files) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("keep torrents: %w", err)
		}
	}
	return nil
}

// linkStore gives the view its torrents, durably, and forgets those whose data is gone.
func (t *torrenting) linkStore() error {
	if t.store == "" {
		return nil
	}
	if len(t.written) > 0 {
		if err := syncAll(t.store); err != nil {
			return fmt.Errorf("sync %s: %w", t.store, err)
		}
		t.written = nil
	}
	wanted := map[string]bool{}
	for _, f := range t.list.data {
		kept, file := t.torrent(f.name), t.path(f.name)+torrentExt
		wanted[kept] = true
		if _, good := t.entries[f.name]; !good {
			continue
		}
		err := os.Link(kept, file)
		if errors.Is(err, fs.ErrExist) {
			if err = os.Remove(file); err == nil {
				err = os.Link(kept, file)
			}
		}
		if err != nil {
			return fmt.Errorf("give the view its torrents: %w", err)
		}
		t.wrote(file)
	}
	err := filepath.WalkDir(t.store, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || wanted[path] || !strings.Contains(e.Name(), torrentExt) {
			return err
		}
		return os.Remove(path)
	})
	if err != nil {
		return fmt.Errorf("forget torrents of what is gone: %w", err)
	}
	return nil
}
