package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"

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
	source, copied := openFolders(filepath.Join(datadir, "snapshots")), openFolders(*view)
	defer source.close()
	defer copied.close()
	var merged atomic.Int64
	err = inShares(items, func(item capture.Item) error {
		gone, err := unchangedSince(source, copied, item.Name, records)
		if gone {
			merged.Add(1)
		}
		return errors.Join(ctx.Err(), err)
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%d files are what they were; %d of them are merged away by now and live on in the view\n", len(items), merged.Load())
	return nil
}

// inShares does something with each, on all processors, and returns the error of the first one in order that failed.
func inShares[T any](all []T, do func(T) error) error {
	n := runtime.GOMAXPROCS(0)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for w := range n {
		wg.Go(func() {
			for i := w * len(all) / n; i < (w+1)*len(all)/n && errs[w] == nil; i++ {
				errs[w] = do(all[i])
			}
		})
	}
	wg.Wait()
	return cmp.Or(errs...)
}

// capturedFiles reads what is noted of the copy in a place, by name.
func capturedFiles(place string) (map[string]*capture.Record, error) {
	records, err := capture.Records(place)
	if err != nil {
		return nil, err
	}
	all := make(map[string]*capture.Record, len(records))
	for i := range records {
		all[records[i].Name] = &records[i]
	}
	return all, nil
}

// unchangedSince looks at one file in the datadir and in the view. That it is gone from the datadir is no change of it:
// a running Erigon merges files and removes the parts. Torrents are made anew on both sides, and are proved by themselves.
func unchangedSince(snapshots, view *folders, name string, records map[string]*capture.Record) (gone bool, err error) {
	if _, _, ok := torrentOf(name); ok {
		return false, nil
	}
	r, ok := records[name]
	if !ok {
		return false, declinef("%s was not captured: take the copy again", name)
	}
	is, err := snapshots.ident(name)
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
	is, err = view.ident(name)
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
