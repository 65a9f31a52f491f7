package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/snapfw/snapfw/core/capture"
)

// viewUnchangedVerb is "@self view-unchanged": it sees that what was captured is what still lies there (erigon issue 14394).
// It exits with 0 if it is so, 2 for wrong arguments, 3 if a file changed.
func viewUnchangedVerb(ctx context.Context, args []string) int {
	return exitCode(runViewUnchanged(ctx, args, os.Stdout, os.Stderr), os.Stderr)
}

func runViewUnchanged(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var datadir string
	f := flag.NewFlagSet("view-unchanged", flag.ContinueOnError)
	list := f.String("list", "", "the list that live wrote")
	view := f.String("copy", "", "the view: a plan's Data")
	if err := parseWords(f, args, &datadir, stderr); err != nil {
		return err
	}
	if *list == "" || *view == "" {
		fmt.Fprintln(stderr, "view-unchanged needs --list FILE and --copy DIR")
		return errUsage
	}
	file, err := os.Open(*list)
	if err != nil {
		return fmt.Errorf("read the live list: %w", err)
	}
	defer file.Close()
	items, err := capture.ReadList(file)
	if err != nil {
		return err
	}
	records, err := capturedFiles(filepath.Dir(filepath.Clean(*view)))
	if err != nil {
		return err
	}
	merged := 0
	for _, item := range items {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		gone, err := unchangedSince(filepath.Join(datadir, "snapshots"), *view, item.Name, records)
		if err != nil {
			return err
		}
		if gone {
			merged++
		}
	}
	fmt.Fprintf(stdout, "%d files are what they were; %d of them are merged away by now and live on in the view\n", len(items), merged)
	return nil
}

// capturedFile is a line of what core/capture notes of a copy: the file it took, and its own unless it is linked.
type capturedFile struct {
	Name string     `json:"name"`
	How  string     `json:"how"`
	Src  fileIdent  `json:"src"`
	Own  *fileIdent `json:"own"`
}

// capturedFiles reads what is noted of the copy in a place, by name.
func capturedFiles(place string) (map[string]capturedFile, error) {
	c, err := capture.Read(place)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(place, filepath.Base(c.List)))
	if err != nil {
		return nil, fmt.Errorf("read what was captured: %w", err)
	}
	defer f.Close()
	all := map[string]capturedFile{}
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		var r capturedFile
		if err := json.Unmarshal(sc.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("read what was captured: line %d: %w", len(all)+1, err)
		}
		all[r.Name] = r
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("read what was captured: %w", err)
	}
	return all, nil
}

// unchangedSince looks at one file in the datadir and in the view. That it is gone from the datadir is no change of it:
// a running Erigon merges files and removes the parts. Torrents are made anew on both sides, and are proved by themselves.
func unchangedSince(snapshots, view, name string, records map[string]capturedFile) (gone bool, err error) {
	if _, _, ok := torrentOf(name); ok {
		return false, nil
	}
	r, ok := records[name]
	if !ok {
		return false, declinef("%s was not captured: take the copy again", name)
	}
	is, err := identOf(filepath.Join(snapshots, filepath.FromSlash(name)))
	switch {
	case errors.Is(err, os.ErrNotExist):
		gone = true
	case err != nil:
		return false, err
	case is != r.Src:
		return false, declinef("%s is not the file that was captured: it was written anew since, so take the copy again", name)
	}
	own := r.Src
	if r.Own != nil {
		own = *r.Own
	}
	is, err = identOf(filepath.Join(view, filepath.FromSlash(name)))
	if err != nil {
		return gone, declinef("%s is no longer in the view: take the copy again: %v", name, err)
	}
	if is != own {
		return gone, declinef("%s changed in the view: take the copy again", name)
	}
	return gone, nil
}

func identOf(file string) (fileIdent, error) {
	var st unix.Stat_t
	if err := unix.Lstat(file, &st); err != nil {
		return fileIdent{}, &os.PathError{Op: "look at", Path: file, Err: err}
	}
	return identOfStat(&st), nil
}
