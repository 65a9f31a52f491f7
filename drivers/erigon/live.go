package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapfw/snapfw/core/capture"
)

// liveVerb is "@self live": it writes the list of what belongs into a view of snapshots/, as "@core capture" reads
// it. It exits with 0 when the list is written, 2 for wrong arguments, 3 when there is no view to be taken now.
func liveVerb(ctx context.Context, args []string) int {
	return exitCode(runLive(ctx, args, os.Stdout, os.Stderr), os.Stderr)
}

func runLive(_ context.Context, args []string, stdout, stderr io.Writer) error {
	var datadir string
	f := flag.NewFlagSet("live", flag.ContinueOnError)
	to := f.String("to", "", "the list's file")
	if err := parseWords(f, args, &datadir, stderr); err != nil {
		return err
	}
	if *to == "" {
		fmt.Fprintln(stderr, "live needs --to FILE")
		return errUsage
	}
	// As a reader, so that several may look, and no Erigon begins a merge meanwhile.
	release, err := holdDatadir(datadir, unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer release()
	items, left, err := liveSet(filepath.Join(datadir, "snapshots"))
	if err != nil {
		return err
	}
	for _, l := range left {
		fmt.Fprintf(stderr, "%s is left out: %s\n", l.Name, l.Why)
	}
	if err := os.MkdirAll(filepath.Dir(*to), 0o755); err != nil {
		return fmt.Errorf("make the list's folder: %w", err)
	}
	if err := capture.WriteList(*to, items); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%d files belong into the view\n", len(items))
	return nil
}

// liveSet lists what is published from a snapshots folder, sorted by name, and what lies beside and is not.
//
// A finished segment or index never changes again under its name, as Erigon replaces files by renaming. Salts,
// settings and torrents are small and are written anew, so the view gets its own.
//
// It declines a folder in which something is being written, and one with nothing to publish.
func liveSet(root string) (items []capture.Item, left []torrentNews, err error) {
	l, err := listSnapshots(root)
	if len(l.halves) > 0 {
		return nil, nil, unfinishedError(l.halves)
	}
	if errors.Is(err, errChanging) {
		return nil, nil, declinef("%v", err)
	}
	if err != nil {
		return nil, nil, err
	}
	if len(l.unfit) > 0 {
		return nil, nil, declinef("%d files can't be published as they are, such as %s: %s", len(l.unfit), l.unfit[0].Name, l.unfit[0].Why)
	}
	torrents := make(map[string]bool, len(l.torrents))
	for _, name := range l.torrents {
		torrents[name] = true
	}
	segments := 0
	for _, f := range l.data {
		name, reason := parse(f.name)
		if reason != "" {
			left = append(left, torrentNews{Name: f.name, Why: string(reason)})
			continue
		}
		mode := capture.ModeLink
		if !name.ranged() {
			mode = capture.ModeCopy
		} else {
			segments++
		}
		items = append(items, capture.Item{Name: f.name, Mode: mode})
		var st unix.Stat_t
		torrent := f.name + torrentExt
		if torrents[torrent] && unix.Lstat(filepath.Join(root, torrent), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
			items = append(items, capture.Item{Name: torrent, Mode: capture.ModeCopy})
		}
	}
	if segments == 0 {
		return nil, nil, declinef("there is nothing to publish in %s: is this the right datadir, and is retire through?", root)
	}
	slices.SortFunc(items, func(a, b capture.Item) int { return strings.Compare(a.Name, b.Name) })
	return items, left, nil
}

// unfinishedError declines a folder in which files are that somebody was still writing: what such a file is to become, or
// was made from, may be half of a merge.
func unfinishedError(names []string) error {
	more := ""
	if n := len(names) - 10; n > 0 {
		names, more = names[:10], fmt.Sprintf(" and %d more", n)
	}
	return declinef("somebody was still writing %s%s: run retire; remove what it leaves, and restore the file that a .part was", strings.Join(names, ", "), more)
}
