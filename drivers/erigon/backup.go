package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const backupUsage = `backup --datadir DIR --into DIR [--only snapshots,chaindata,…]
backup drop DIR`

// backupManifest is in every backup, from before there is anything else in it: only what has one is ever removed.
const backupManifest = ".snapfw-backup.json"

// backup is what a manifest holds.
type backup struct {
	Of     string     `json:"of"`
	Only   []string   `json:"only,omitempty"`
	Dev    uint64     `json:"dev"` // of the backup's own folder: a manifest that was copied elsewhere counts for nothing
	Ino    uint64     `json:"ino"`
	Begun  time.Time  `json:"begun"`
	Done   *time.Time `json:"done,omitempty"` // none: it is not whole
	Files  int        `json:"files"`
	Linked int        `json:"linked"` // share an inode with the datadir
	Cloned int        `json:"cloned"`
	Copied int        `json:"copied"`
	Bytes  int64      `json:"bytes"`
	Read   int64      `json:"copied_bytes"`
	Left   []string   `json:"left_out,omitempty"`
}

// backupVerb is "@self backup". It exits with 0 when the backup is whole, or dropped, 2 for wrong arguments, 3 when
// it must not be done, 1 for anything else.
func backupVerb(ctx context.Context, args []string) int {
	return exitCode(runBackup(ctx, args, os.Stdout, os.Stderr), os.Stderr)
}

func runBackup(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) == 2 && args[0] == "drop" {
		return dropBackup(args[1], stdout)
	}
	var datadir string
	f := flag.NewFlagSet("backup", flag.ContinueOnError)
	f.Usage = func() { fmt.Fprintln(stderr, backupUsage) }
	into := f.String("into", "", "a folder that is new or empty, on the same file system")
	only := f.String("only", "", "folders of the datadir, by comma; else all of it")
	if err := parseWords(f, args, &datadir, stderr); err != nil {
		return err
	}
	if *into == "" {
		f.Usage()
		return errUsage
	}
	b := &backingUp{datadir: filepath.Clean(datadir), into: filepath.Clean(*into), stdout: stdout}
	if *only != "" {
		b.only = strings.Split(*only, ",")
	}
	if err := b.places(); err != nil {
		return err
	}
	if slices.Equal(b.only, []string{"snapshots"}) {
		return b.alive(ctx) // Erigon may run: its snapshots are replaced by renaming only
	}
	release, err := holdDatadir(datadir, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer release()
	return b.run(ctx)
}

// backingUp is a backup in the making.
type backingUp struct {
	datadir string
	into    string
	only    []string
	stdout  io.Writer

	files []backupFile
	dirs  []string
	made  backup
	clone bool // the file system can clone
	count restoreCount
}

// backupFile is one file, relative to the datadir.
type backupFile struct {
	name string
	size int64
	used int64 // bytes on the disk
	copy bool  // it may change under its name
}

// places declines folders that a backup can't be made of or in.
func (b *backingUp) places() error {
	if !filepath.IsAbs(b.into) {
		return declinef("--into %q is no absolute path", b.into)
	}
	real, err := filepath.EvalSymlinks(b.datadir)
	if err != nil {
		return fmt.Errorf("look at the datadir: %w", err)
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(b.into))
	if err != nil {
		return declinef("the folder of %s is not there: make it first", b.into)
	}
	b.datadir, b.into = real, filepath.Join(parent, filepath.Base(b.into))
	if within(b.into, b.datadir) || within(b.datadir, b.into) {
		return declinef("%s and the datadir %s must not lie in each other", b.into, b.datadir)
	}
	for _, name := range b.only {
		info, err := os.Lstat(filepath.Join(b.datadir, name))
		if name == "" || strings.Contains(name, "/") || strings.HasPrefix(name, ".") || err != nil || !info.IsDir() {
			return declinef("--only %q: it is no folder of %s", name, b.datadir)
		}
	}
	entries, err := os.ReadDir(b.into)
	if err == nil && len(entries) > 0 {
		return declinef("%s is not empty: name a new folder, or remove that backup with backup drop", b.into)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return declinef("%s is no folder that a backup can be put into: %v", b.into, err)
	}
	return sameFilesystem(b.datadir, parent)
}

// within tells whether a path lies in a folder or is it.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// alive backs up the snapshots of an Erigon that may run. It begins anew if files were merged meanwhile.
func (b *backingUp) alive(ctx context.Context) error {
	const tries = 5
	for try := 1; ; try++ {
		err := b.run(ctx)
		if !errors.Is(err, errChanging) || try == tries {
			return err
		}
		*b = backingUp{datadir: b.datadir, into: b.into, only: b.only, stdout: b.stdout}
	}
}

func (b *backingUp) run(ctx context.Context) error {
	if err := b.list(); err != nil {
		return err
	}
	making := b.into + ".new"
	if err := removeBackup(making); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Mkdir(making, 0o755); err != nil {
		return fmt.Errorf("make the backup's folder: %w", err)
	}
	id, err := identOf(making)
	if err != nil {
		return err
	}
	b.made.Of, b.made.Only, b.made.Dev, b.made.Ino, b.made.Begun = b.datadir, b.only, id.Dev, id.Ino, time.Now().UTC()
	if err := b.note(making); err != nil {
		return err
	}
	if err := b.fill(ctx, making); err != nil {
		// What is half is for nobody.
		if e := removeBackup(making); e != nil {
			return errors.Join(err, e)
		}
		return err
	}
	now := time.Now().UTC()
	b.made.Done = &now
	if err := b.note(making); err != nil {
		return err
	}
	if err := syncAll(making); err != nil {
		return fmt.Errorf("make the backup durable: %w", err)
	}
	// The system call: os.Rename replaces no folder, not even an empty one.
	if err := unix.Rename(making, b.into); err != nil {
		return fmt.Errorf("give the backup its name: %w", err)
	}
	if err := syncFolder(filepath.Dir(b.into)); err != nil {
		return err
	}
	m := b.made
	fmt.Fprintf(b.stdout, "%s: %d files, %d linked, %d cloned, %d copied (%.2f GB)\n", b.into, m.Files, m.Linked, m.Cloned, m.Copied, float64(m.Read)/1e9)
	for _, name := range m.Left {
		fmt.Fprintf(b.stdout, "left out: %s\n", name)
	}
	return nil
}

func (b *backingUp) note(dir string) error {
	return writeWhole(filepath.Join(dir, backupManifest), 0o644, func(w io.Writer) error {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(b.made)
	})
}

// syncAll writes out the file system that a folder is on.
func syncAll(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Syncfs(int(d.Fd()))
}

// dropBackup removes a backup that backup made. One that is not there is gone already.
func dropBackup(dir string, stdout io.Writer) error {
	if !filepath.IsAbs(dir) {
		return declinef("%q is no absolute path", dir)
	}
	dir = filepath.Clean(dir)
	found := false
	for _, d := range []string{dir, dir + ".dropping", dir + ".new"} {
		err := removeBackup(d)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		found = found || err == nil
	}
	if !found {
		fmt.Fprintf(stdout, "there is no backup at %s\n", dir)
		return nil
	}
	fmt.Fprintf(stdout, "%s is dropped\n", dir)
	return nil
}

// removeBackup removes a folder if its own manifest is in it, and declines to otherwise. The manifest goes last, so that
// a removal that was cut off can be carried on with.
func removeBackup(dir string) error {
	id, err := identOf(dir)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, backupManifest), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return declinef("%s has no %s, so it is none of our backups: look at it, and remove it by hand", dir, backupManifest)
	}
	defer f.Close()
	var m backup
	if err := json.NewDecoder(io.LimitReader(f, 1<<20)).Decode(&m); err != nil || m.Dev != id.Dev || m.Ino != id.Ino {
		return declinef("the %s in %s is of another folder: look at it, and remove it by hand", backupManifest, dir)
	}
	if target := strings.TrimSuffix(dir, ".dropping") + ".dropping"; target != dir {
		if err := os.Rename(dir, target); err != nil {
			return fmt.Errorf("put the backup aside: %w", err)
		}
		dir = target
	}
	for _, e := range entries {
		if e.Name() == backupManifest {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("remove the backup: %w", err)
		}
	}
	return os.RemoveAll(dir)
}
