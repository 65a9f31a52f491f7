package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const rmStateUsage = "--datadir DIR [--erigon PROGRAM] (--step FROM-TO | --latest) [--domain X]… [--dry-run] [--integration PROGRAM]  seg rm-state: remove files of state"

// rmStateVerb is "@self rm-state". It ends well if exactly the files are gone that a dry run listed before.
func rmStateVerb(ctx context.Context, args []string) int {
	return runTool(ctx, args, os.Stdout, os.Stderr, rmState)
}

// rmStateOrder is what to remove. Erigon's form without steps removes every file of the domains, or all state; only regen may
// ask for that, with domains, by setting all.
type rmStateOrder struct {
	step    string
	latest  bool
	all     bool
	domains nameList
}

func rmState(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	f := newToolFlags("rm-state", "erigon")
	var o rmStateOrder
	f.StringVar(&o.step, "step", "", "remove files within these steps: FROM-TO")
	f.BoolVar(&o.latest, "latest", false, "remove the last files")
	f.Var(&o.domains, "domain", "only of this domain or index")
	dry := f.Bool("dry-run", false, "list what would go, one a line")
	integration := f.String("integration", "", "set the database back to where the files then end, by this program")
	t, err := f.open(args, stdout, stderr)
	if err != nil {
		return err
	}
	argv, err := o.args(t.datadir)
	if err != nil {
		return err
	}
	r, err := t.remembered(strings.Join(argv[1:], " "))
	if err != nil {
		return err
	}
	switch {
	case *dry && r != nil:
		return t.printNames(r.Remove)
	case *dry:
		list, err := t.rmStateList(ctx, o)
		if err != nil {
			return err
		}
		return t.printNames(list)
	case r != nil:
		err = t.finish(r)
	default:
		r = &removal{What: strings.Join(argv[1:], " ")}
		err = t.rmState(ctx, o, r)
	}
	if err == nil && *integration != "" {
		err = t.setBack(ctx, *integration, o.domains)
	}
	if err != nil {
		return err
	}
	if err := t.printNames(r.Remove); err != nil {
		return err
	}
	t.say("%d files removed", len(r.Remove))
	return t.forget()
}

func (t *tool) printNames(names []string) error {
	for _, name := range names {
		if _, err := fmt.Fprintln(t.stdout, name); err != nil {
			return err
		}
	}
	return nil
}

var stepRange = regexp.MustCompile(`^[0-9]{1,12}-[0-9]{1,12}$`)

// args refuses every form that removes more than it says: none, and a range that is empty, which Erigon takes for "all".
func (o rmStateOrder) args(datadir string) ([]string, error) {
	argv := []string{"seg", "rm-state", "--datadir", datadir}
	switch {
	case o.all && (o.step != "" || o.latest || len(o.domains) == 0):
		return nil, declinef("all steps are removed of named domains only")
	case o.all:
	case o.step != "" && o.latest:
		return nil, declinef("give --step or --latest: Erigon would ignore the second one")
	case o.latest:
		argv = append(argv, "--latest")
	case !stepRange.MatchString(o.step):
		return nil, declinef("rm-state needs --step FROM-TO or --latest: without one Erigon removes every file of state")
	default:
		var from, to uint64
		if _, err := fmt.Sscanf(o.step, "%d-%d", &from, &to); err != nil || from >= to {
			return nil, declinef("--step %s is no range of steps: Erigon would take it for all of them", o.step)
		}
		argv = append(argv, "--step="+o.step)
	}
	for _, d := range o.domains {
		if !isLower(d) {
			return nil, declinef("%q is no domain", d)
		}
		argv = append(argv, "--domain="+d)
	}
	return argv, nil
}

// rmAnswer answers Erigon's questions: yes to the one about what was ordered, no to those that would remove more.
func rmAnswer(o rmStateOrder, refused *string) func(string) string {
	return func(question string) string {
		switch {
		case strings.Contains(question, "remove ALL"):
			*refused = "Erigon would remove all commitment files that hold the trie, or all files: leave commitment out with --domain, or use rebuild-commitment"
		case o.latest && strings.Contains(question, "remove latest snapshot files"):
			return "1"
		default:
			*refused = "Erigon asks something that this program does not know: " + clipped(strings.TrimSpace(question), 300)
		}
		return "4"
	}
}

const dryLine = "[dry-run] rm "

// rmStateList is a dry run: the names relative to snapshots/ of files that are there and would go, with their torrents, sorted.
func (t *tool) rmStateList(ctx context.Context, o rmStateOrder) ([]string, error) {
	argv, err := o.args(t.datadir)
	if err != nil {
		return nil, err
	}
	now, err := t.look(ctx)
	if err != nil {
		return nil, err
	}
	var list []string
	var stray, refused string
	r := &toolRun{args: append(argv, "--dry-run"), answer: rmAnswer(o, &refused), output: func(line string) {
		path, ok := strings.CutPrefix(line, dryLine)
		if !ok {
			return
		}
		name, err := filepath.Rel(filepath.Join(t.datadir, "snapshots"), path)
		name = filepath.ToSlash(name)
		if _, there := now[name]; err == nil && there {
			list = append(list, name)
			return
		}
		if err != nil || !safeName(name) {
			stray = path
		}
	}}
	if err := t.run(ctx, r); err != nil {
		return nil, err
	}
	if refused != "" {
		return nil, &declined{refused}
	}
	if stray != "" {
		return nil, declinef("its dry run names %s, which does not lie in snapshots/", clipped(stray, 200))
	}
	for _, name := range list {
		if err := o.covers(name); err != nil {
			return nil, err
		}
	}
	if len(list) == 0 {
		return nil, declinef("nothing matches: no file of state would go")
	}
	slices.Sort(list)
	return slices.Compact(list), t.sameAs(ctx, now)
}

// covers declines a file that was not ordered to go: a domain matches any part of a name in Erigon.
func (o rmStateOrder) covers(name string) error {
	if data, _, ok := torrentOf(name); ok {
		name = data
	}
	if unfinished(name) {
		return nil // all .tmp files go
	}
	f, err := parseName(name)
	if err != nil || f.Family != familyState || len(o.domains) > 0 && !slices.Contains(o.domains, f.Type) {
		return declinef("its dry run would remove %s, which was not ordered", name)
	}
	return nil
}

// sameAs sees that a dry run changed nothing.
func (t *tool) sameAs(ctx context.Context, before map[string]seen) error {
	after, err := t.look(ctx)
	if err != nil {
		return err
	}
	gone, came, other := changed(before, after)
	if len(gone)+len(came)+len(other) > 0 {
		return fmt.Errorf("files changed during a dry run: %s", clipped(strings.Join(slices.Concat(gone, came, other), " "), 300))
	}
	return nil
}

// rmState removes what a dry run lists, which is remembered in r first, and sees that this went and nothing else.
func (t *tool) rmState(ctx context.Context, o rmStateOrder, r *removal) (err error) {
	if r.Remove, err = t.rmStateList(ctx, o); err != nil {
		return err
	}
	argv, err := o.args(t.datadir)
	if err != nil {
		return err
	}
	before, err := t.look(ctx)
	if err != nil {
		return err
	}
	if err := t.remember(*r); err != nil {
		return err
	}
	var refused string
	err = t.run(ctx, &toolRun{args: argv, answer: rmAnswer(o, &refused)})
	if err == nil && refused != "" {
		err = &declined{refused}
	}
	after, lookErr := t.look(context.WithoutCancel(ctx))
	if lookErr != nil {
		return errors.Join(err, lookErr)
	}
	if err == nil {
		return exactly(r.Remove, before, after)
	}
	if gone, _, _ := changed(before, after); len(gone) == 0 {
		err = errors.Join(err, t.forget()) // it never began
	}
	return err
}

// exactly sees that what a dry run listed is gone, and that nothing else happened.
func exactly(list []string, before, after map[string]seen) error {
	for _, name := range list {
		if _, there := after[name]; there {
			return fmt.Errorf("rm-state ended well, but %s is still there", name)
		}
	}
	gone, came, other := changed(before, after)
	for _, name := range gone {
		if !slices.Contains(list, name) {
			return fmt.Errorf("rm-state removed %s, which its dry run did not name: restore it", name)
		}
	}
	if len(came)+len(other) > 0 {
		return fmt.Errorf("files changed while others were removed: %s", clipped(strings.Join(append(came, other...), " "), 300))
	}
	return nil
}
