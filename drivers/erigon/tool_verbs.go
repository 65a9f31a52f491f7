package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

const (
	retireUsage       = "--datadir DIR [--erigon PROGRAM]  seg retire: build and merge all that can be in files"
	indexUsage        = "--datadir DIR [--erigon PROGRAM] [--rebuild]  seg index: build the indexes that are missing, or all"
	clearIndexesUsage = "--datadir DIR [--erigon PROGRAM]  seg clearIndexing: remove all indexes and both salts"
)

// retireVerb is "@self retire". It ends well if no merge is left half done.
func retireVerb(ctx context.Context, args []string) int {
	return runTool(ctx, args, os.Stdout, os.Stderr, retire)
}

// indexVerb is "@self index". It ends well if every data file has its indexes.
func indexVerb(ctx context.Context, args []string) int {
	return runTool(ctx, args, os.Stdout, os.Stderr, index)
}

// clearIndexesVerb is "@self clear-indexes". It ends well if no index and no salt is left.
func clearIndexesVerb(ctx context.Context, args []string) int {
	return runTool(ctx, args, os.Stdout, os.Stderr, clearIndexes)
}

type toolVerb func(ctx context.Context, args []string, stdout, stderr io.Writer) error

func runTool(ctx context.Context, args []string, stdout, stderr io.Writer, verb toolVerb) int {
	return exitCode(verb(ctx, args, stdout, stderr), stderr)
}

// mergeable tells files that retire merges; those of caplin are frozen at birth.
func mergeable(name string) bool {
	f, err := parseName(name)
	return err == nil && (f.Family == familyBlock || f.Family == familyState)
}

// retire runs seg retire, and once more where overlaps are left: right after a recovery that is normal. Its last line
// "Done" says nothing, since it is written when it fails as well.
func retire(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	t, err := newToolFlags("retire", "erigon").open(args, stdout, stderr)
	if err != nil {
		return err
	}
	before, err := t.look(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	var left []checkFinding
	var after sight
	for again := range 2 {
		if again > 0 {
			t.say("%s: %s; retiring once more", left[0].File, left[0].Text)
		}
		if err := t.run(ctx, &toolRun{args: []string{"seg", "retire", "--datadir", t.datadir}}); err != nil {
			return err
		}
		if after, err = t.see(ctx); err != nil {
			return err
		}
		left = t.findings(after, func(f checkFinding) bool { return f.Rule == "overlap" && mergeable(f.File) })
		if len(left) == 0 {
			break
		}
	}
	if err := firstOf("retiring twice", left); err != nil {
		return fmt.Errorf("%w; see erigon seg remove_overlaps", err)
	}
	if err := t.settled(ctx, after, before, began); err != nil {
		return err
	}
	if err := t.dropUnfinished(after.all); err != nil {
		return err
	}
	gone, came, other := changed(before, after.all)
	t.say("retired: %d files new, %d merged or removed, %d changed", len(came), len(gone), len(other))
	return t.dropStaleTorrents(before, after.all)
}

func index(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	f := newToolFlags("index", "erigon")
	rebuild := f.Bool("rebuild", false, "remove and build all of them; the salts stay")
	t, err := f.open(args, stdout, stderr)
	if err != nil {
		return err
	}
	argv := []string{"seg", "index", "--datadir", t.datadir}
	if *rebuild {
		argv = append(argv, "--rebuild")
	}
	before, err := t.look(ctx)
	if err != nil {
		return err
	}
	if err := t.run(ctx, &toolRun{args: argv}); err != nil {
		return err
	}
	after, err := t.see(ctx)
	if err != nil {
		return err
	}
	left := t.findings(after, func(f checkFinding) bool { return f.Rule == "missing-index" || f.Rule == "salt" })
	if err := firstOf("seg index", left); err != nil {
		return err
	}
	_, came, other := changed(before, after.all)
	t.say("indexed: %d files new, %d changed", len(came), len(other))
	return t.dropStaleTorrents(before, after.all)
}

// clearIndexes runs seg clearIndexing, which says nothing: what counts is what lies there afterwards.
func clearIndexes(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	t, err := newToolFlags("clear-indexes", "erigon").open(args, stdout, stderr)
	if err != nil {
		return err
	}
	before, err := t.look(ctx)
	if err != nil {
		return err
	}
	if err := t.run(ctx, &toolRun{args: []string{"seg", "clearIndexing", "--datadir", t.datadir}}); err != nil {
		return err
	}
	after, err := t.look(ctx)
	if err != nil {
		return err
	}
	for name := range after {
		if f, err := parseName(name); err == nil {
			if _, isIndex := dataOf(f.series()); isIndex || f.Family == familySalt {
				return fmt.Errorf("after seg clearIndexing %s is still there: is it Erigon's own, and may its folder be written to?", name)
			}
		}
	}
	gone, came, _ := changed(before, after)
	for _, name := range gone {
		if !clearedName(name) {
			return fmt.Errorf("seg clearIndexing removed %s, which is no index: restore it", name)
		}
	}
	t.say("cleared: %d files removed, %d new; every index will have another hash", len(gone), len(came))
	return t.dropStaleTorrents(before, after)
}

// clearedName tells what clearing may remove: indexes, salts, whatever lies in accessor/, and torrents of those.
func clearedName(name string) bool {
	if data, _, ok := torrentOf(name); ok {
		name = data
	}
	if strings.HasPrefix(name, "accessor/") {
		return true
	}
	f, err := parseName(name)
	if err != nil {
		return strings.HasSuffix(name, ".idx")
	}
	_, isIndex := dataOf(f.series())
	return isIndex || f.Family == familySalt
}
