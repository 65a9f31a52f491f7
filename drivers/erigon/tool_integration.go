package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
)

const (
	regenUsage             = "--datadir DIR [--integration PROGRAM] [--erigon PROGRAM] --domain X[,Y]  make types of state anew: from blocks, or by executing the last steps again"
	rebuildCommitmentUsage = "--datadir DIR [--integration PROGRAM]  make the commitment domain anew"
	compactDomainsUsage    = "--datadir DIR [--integration PROGRAM] [--domain X]…  write domains anew without what is dead, and their indexes"
)

// regenVerb is "@self regen".
func regenVerb(ctx context.Context, args []string) int {
	return runTool(ctx, args, os.Stdout, os.Stderr, regen)
}

// rebuildCommitmentVerb is "@self rebuild-commitment".
func rebuildCommitmentVerb(ctx context.Context, args []string) int {
	return runTool(ctx, args, os.Stdout, os.Stderr, rebuildCommitment)
}

// compactDomainsVerb is "@self compact-domains".
func compactDomainsVerb(ctx context.Context, args []string) int {
	return runTool(ctx, args, os.Stdout, os.Stderr, compactDomains)
}

// executed are the types that only executing blocks makes.
var executed = []string{"accounts", "storage", "code"}

// regen makes types of state anew. Types that are traced from blocks: all their files go, then custom trace makes them. Types that come
// of execution: the last files of all types go, and execution is set back to where the files then end; the node goes on from there.
// What failed in the middle is gone on with when it is run again.
func regen(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	f := newToolFlags("regen", "integration")
	var types nameList
	f.Var(&types, "domain", "the types to make anew")
	erigon := f.String("erigon", "", "erigon, whose rm-state is needed (default: beside integration, else in PATH)")
	t, err := f.open(args, stdout, stderr)
	if err != nil {
		return err
	}
	if fault := regenFault(types); fault != "" {
		return declinef("%s", fault)
	}
	rm, err := t.sibling("erigon", *erigon)
	if err != nil {
		return err
	}
	if allOf(types, executed) {
		return t.executeAgain(ctx, rm, types)
	}
	return t.retrace(ctx, rm, types)
}

func allOf(types, known []string) bool {
	return !slices.ContainsFunc(types, func(d string) bool { return !slices.Contains(known, d) })
}

// regenFault is why these types can't be made anew in one go; "" if they can.
func regenFault(types []string) string {
	traced, run := strings.Join(regenerated, " "), strings.Join(executed, " ")
	for _, d := range types {
		switch {
		case d == "commitment":
			return "commitment is not made anew from blocks: use rebuild-commitment"
		case !slices.Contains(regenerated, d) && !slices.Contains(executed, d):
			return fmt.Sprintf("%q is none of %s, and none of %s", d, traced, run)
		}
	}
	switch {
	case len(types) == 0:
		return fmt.Sprintf("say which domains: one or more of %s, or of %s", traced, run)
	case allOf(types, regenerated), allOf(types, executed):
		return ""
	}
	return fmt.Sprintf("%s: make either %s anew, or %s, one after the other", strings.Join(types, ","), traced, run)
}

// words begins a command of integration.
func (t *tool) words(command string, more ...string) []string {
	argv := append(strings.Fields(command), "--datadir", t.datadir)
	if t.chain != "" {
		argv = append(argv, "--chain", t.chain)
	}
	return append(argv, more...)
}

func (t *tool) retrace(ctx context.Context, rm *tool, types nameList) error {
	what := "regen " + types.String()
	r, err := t.remembered(what)
	if err != nil {
		return err
	}
	if r == nil {
		before, err := t.look(ctx)
		if err != nil {
			return err
		}
		r = &removal{What: what, Ends: map[string]uint64{}}
		for s, end := range endsOf(before, types) {
			r.Ends[s.String()] = end
		}
		if len(r.Ends) == 0 {
			return declinef("there is no file of %s: is it switched on for this node?", types.String())
		}
		err = rm.rmState(ctx, rmStateOrder{all: true, domains: types}, r)
	} else {
		err = t.finish(r)
	}
	if err != nil {
		return err
	}
	if err := t.trace(ctx, types); err != nil {
		return err
	}
	if err := t.reaches(ctx, "stage_custom_trace", r.Ends); err != nil {
		return err
	}
	t.say("%s made anew; retire, index, integrity and torrents come next", types.String())
	return t.forget()
}

func (t *tool) executeAgain(ctx context.Context, rm *tool, types nameList) error {
	what := "regen " + types.String()
	r, err := t.remembered(what)
	if err != nil {
		return err
	}
	if r == nil {
		r = &removal{What: what}
		if r.Executed, err = t.executedBlock(ctx); err == nil {
			err = rm.rmState(ctx, rmStateOrder{latest: true}, r)
		}
	} else {
		err = t.finish(r)
	}
	if err != nil {
		return err
	}
	if err := t.run(ctx, &toolRun{args: t.words("stage_exec", "--reset")}); err != nil {
		return err
	}
	is, err := t.executedBlock(ctx)
	if err != nil {
		return err
	}
	if is >= r.Executed && r.Executed > 0 {
		return fmt.Errorf("stage_exec --reset ended well, but execution is at block %d as before: do not start erigon, it would leave a gap", is)
	}
	t.say("execution was set back from block %d to %d: erigon executes the rest when it is up; once it has caught up, run fix retire, which indexes and checks, too", r.Executed, is)
	return t.forget()
}

// setBack empties the database of what lies beyond the files' new end: Erigon has pruned what was in files, so there
// would be a gap between the two (Erigon says so itself after rm-state). Types that are traced from blocks are made anew at once.
func (t *tool) setBack(ctx context.Context, program string, types nameList) error {
	i, err := t.sibling("integration", program)
	if err != nil {
		return err
	}
	untraced := func(d string) bool { return !slices.Contains(regenerated, d) }
	if len(types) > 0 && !slices.ContainsFunc(types, untraced) {
		if err := i.trace(ctx, types); err != nil {
			return err
		}
		t.say("%s made anew from the blocks", types.String())
		return nil
	}
	was, err := i.executedBlock(ctx)
	if err != nil {
		return err
	}
	if err := i.run(ctx, &toolRun{args: i.words("stage_exec", "--reset")}); err != nil {
		return err
	}
	is, err := i.executedBlock(ctx)
	if err == nil {
		t.say("execution was at block %d and is at %d: erigon executes the rest when it is up", was, is)
	}
	return err
}

// trace makes types anew from blocks. With --reset it empties the database's tables and returns; the run after that does the work.
func (t *tool) trace(ctx context.Context, types nameList) error {
	domains := "--domain=" + types.String()
	for _, argv := range [][]string{t.words("stage_custom_trace", domains, "--reset"), t.words("stage_custom_trace", domains)} {
		if err := t.run(ctx, &toolRun{args: argv}); err != nil {
			return err
		}
	}
	return nil
}

// executedBlock asks print_stages how far execution is.
func (t *tool) executedBlock(ctx context.Context) (block uint64, err error) {
	found := false
	err = t.run(ctx, &toolRun{args: t.words("print_stages"), output: func(line string) {
		f := strings.Fields(line)
		if len(f) >= 2 && f[0] == "Execution" && !found {
			n, err := strconv.ParseUint(f[1], 10, 64)
			block, found = n, err == nil
		}
	}})
	if err == nil && !found {
		err = fmt.Errorf("print_stages does not say where execution is")
	}
	return block, err
}

// endsOf is how far each series of data of some types reaches.
func endsOf(files map[string]seen, types []string) map[series]uint64 {
	ends := map[series]uint64{}
	for name := range files {
		f, err := parseName(name)
		if err != nil || f.Family != familyState || !slices.Contains(types, f.Type) {
			continue
		}
		if _, isIndex := dataOf(f.series()); !isIndex {
			ends[f.series()] = max(ends[f.series()], f.To)
		}
	}
	return ends
}

// reaches sees that every series is there again without a gap, and as far as it was.
func (t *tool) reaches(ctx context.Context, after string, want map[string]uint64) error {
	now, err := t.look(ctx)
	if err != nil {
		return err
	}
	var files []named
	for name := range now {
		if f, err := parseName(name); err == nil {
			files = append(files, named{fileName: f, Name: name})
		}
	}
	all := bySeries(files)
	ends := map[string]uint64{}
	for s, of := range all {
		ends[s.String()] = endOf(of)
		if _, asked := want[s.String()]; !asked {
			continue
		}
		if gaps := gapsOf(s, inspect(of)); len(gaps) > 0 {
			return fmt.Errorf("after %s: nothing of %s holds %d-%d", after, s, gaps[0].From, gaps[0].To)
		}
	}
	for _, s := range slices.Sorted(maps.Keys(want)) {
		if ends[s] < want[s] {
			return fmt.Errorf("after %s: %s ends at step %d, and has to reach %d", after, s, ends[s], want[s])
		}
	}
	return nil
}

func rebuildCommitment(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	t, err := newToolFlags("rebuild-commitment", "integration").open(args, stdout, stderr)
	if err != nil {
		return err
	}
	help, err := t.help(ctx)
	if err != nil {
		return err
	}
	command := "commitment rebuild"
	if slices.Contains(strings.Fields(help), "commitment_rebuild") {
		command = "commitment_rebuild"
	}
	before, err := t.look(ctx)
	if err != nil {
		return err
	}
	commitment := series{"domain", "commitment", "kv"}
	want := map[string]uint64{commitment.String(): endsOf(before, []string{"accounts"})[series{"domain", "accounts", "kv"}]}
	var refused string
	r := &toolRun{args: t.words(command), answer: func(question string) string {
		// It removes the old files by itself, and asks whether that is meant.
		if strings.Contains(question, "commitment files with state trie") {
			return "1"
		}
		refused = "Erigon asks something that this program does not know: " + clipped(strings.TrimSpace(question), 300)
		return "4"
	}}
	if err := t.run(ctx, r); err != nil {
		return err
	}
	if refused != "" {
		return &declined{refused}
	}
	if err := t.reaches(ctx, command, want); err != nil {
		return err
	}
	after, err := t.look(ctx)
	if err != nil {
		return err
	}
	if !madeAnew(before, after, commitment) {
		return fmt.Errorf("%s ended well, and wrote no file of %s", command, commitment)
	}
	t.say("commitment made anew; retire, index, integrity and torrents come next")
	return t.dropStaleTorrents(before, after)
}

// madeAnew tells whether any file of a series is another one than before.
func madeAnew(before, after map[string]seen, s series) bool {
	for name, is := range after {
		if f, err := parseName(name); err == nil && f.series() == s && before[name] != is {
			return true
		}
	}
	return false
}

func compactDomains(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	f := newToolFlags("compact-domains", "integration")
	var types nameList
	f.Var(&types, "domain", "only this domain")
	t, err := f.open(args, stdout, stderr)
	if err != nil {
		return err
	}
	for _, d := range types {
		if !slices.Contains(domains, d) {
			return declinef("there is no domain %s: name one of %s", d, strings.Join(domains, " "))
		}
	}
	before, err := t.look(ctx)
	if err != nil {
		return err
	}
	argv := t.words("compact_domains", "--replace-in-datadir", "--build-idx")
	for _, d := range types {
		argv = append(argv, "--domain="+d)
	}
	if err := t.run(ctx, &toolRun{args: argv}); err != nil {
		return err
	}
	after, err := t.see(ctx)
	if err != nil {
		return err
	}
	if err := compacted(before, after.all, types); err != nil {
		return err
	}
	left := t.findings(after, func(f checkFinding) bool { return f.Rule == "missing-index" && strings.HasSuffix(f.File, ".kv") })
	if err := firstOf("compact_domains", left); err != nil {
		return err
	}
	t.say("compacted; index, integrity and torrents come next")
	return t.dropStaleTorrents(before, after.all)
}

// compacted sees that every .kv is still there and that at least one was replaced.
func compacted(before, after map[string]seen, types []string) error {
	replaced := 0
	for name, was := range before {
		f, err := parseName(name)
		if err != nil || f.Ext != "kv" {
			continue
		}
		is, there := after[name]
		if !there {
			return fmt.Errorf("after compact_domains %s is gone: restore it", name)
		}
		if is != was && (len(types) == 0 || slices.Contains(types, f.Type)) {
			replaced++
		}
	}
	if replaced == 0 {
		return fmt.Errorf("compact_domains ended well, and replaced no file")
	}
	return nil
}
