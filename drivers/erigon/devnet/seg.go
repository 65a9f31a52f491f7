package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// segCommand is one subcommand of "erigon seg".
type segCommand struct {
	names []string
	usage string
	lock  bool
	flags func(*flag.FlagSet)
	run   func(*segRun) error
}

// segRun is one run of a subcommand.
type segRun struct {
	*program
	d       *datadir
	log     *logger
	behave  conduct
	flags   *flag.FlagSet
	builder *builder
}

func (r *segRun) str(name string) string { return r.flags.Lookup(name).Value.String() }
func (r *segRun) on(name string) bool    { return r.str(name) == "true" }

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, strings.Split(s, ",")...); return nil }

func none(*flag.FlagSet) {}

var segCommands = []segCommand{
	{[]string{"ls"}, "List all files with their words count", false, none, runLs},
	{[]string{"du"}, "Show disk usage", false, func(f *flag.FlagSet) { f.Bool("json", false, ""); f.Bool("v", false, "") }, runDu},
	{[]string{"accessor", "index"}, "Create all missed indices for snapshots", true, func(f *flag.FlagSet) { f.Bool("rebuild", false, "Force rebuild") }, runIndex},
	{[]string{"retire"}, "create snapshots from the specified block number", true, none, runRetire},
	{[]string{"remove_overlaps"}, "remove overlaps from e3 files", true, none, runRemoveOverlaps},
	{[]string{"rm-state-snapshots", "rm-state-segments", "rm-state"}, "", true, rmStateFlags, runRmState},
	{[]string{"txnum"}, "", false, func(f *flag.FlagSet) { f.Int64("block", -1, ""); f.Int64("txnum", -1, "") }, runTxnum},
	{[]string{"integrity"}, "run slow validation of files. use --check to run single", true, integrityFlags, runIntegrity},
	{[]string{"publishable"}, "Check if snapshot is publishable by a webseed client", false, none, runPublishable},
	{[]string{"clearIndexing"}, "Clear all indexing data", true, none, runClearIndexing},
}

// seg is "erigon seg NAME --datadir D …". The datadir is made where it is not there, before anything else, as Erigon does.
func (p *program) seg(args []string) error {
	if len(args) == 0 || args[0] == "--help" || args[0] == "help" {
		for _, c := range segCommands {
			fmt.Fprintf(p.stdout, "   %-40s %s\n", strings.Join(c.names, ", "), c.usage)
		}
		return nil
	}
	for _, c := range segCommands {
		for _, name := range c.names {
			if name == args[0] {
				return p.runSeg(c, args[1:])
			}
		}
	}
	fmt.Fprintf(p.stdout, "No help topic for '%s'\n", args[0])
	os.Exit(3) // urfave/cli
	return nil
}

func (p *program) runSeg(c segCommand, args []string) error {
	fl := flag.NewFlagSet(c.names[0], flag.ContinueOnError)
	fl.SetOutput(io.Discard)
	dir := fl.String("datadir", "", "Data directory for the databases")
	for _, name := range []string{"verbosity", "log.console.verbosity", "log.dir.path"} {
		fl.String(name, "", "")
	}
	c.flags(fl)
	if err := fl.Parse(args); errors.Is(err, flag.ErrHelp) {
		return p.segHelp(c, fl)
	} else if err != nil {
		fmt.Fprintf(p.stdout, "Incorrect Usage: %v\n\n", err)
		p.segHelp(c, fl)
		return err
	}
	d, err := newDatadir(*dir)
	if err != nil {
		return err
	}
	if c.lock {
		if err := d.flock(); err != nil {
			return err
		}
		defer d.unlock()
	}
	behave, err := d.behave()
	if err != nil {
		return err
	}
	return c.run(&segRun{program: p, d: d, log: openLog(p.stderr, d.dir, "erigon"), behave: behave, flags: fl})
}

func (p *program) segHelp(c segCommand, fl *flag.FlagSet) error {
	fmt.Fprintf(p.stdout, "NAME:\n   erigon snapshots %s\n\nOPTIONS:\n", c.names[0])
	fl.VisitAll(func(f *flag.Flag) {
		value := " value"
		if b, ok := f.Value.(interface{ IsBoolFlag() bool }); ok && b.IsBoolFlag() {
			value = ""
		}
		fmt.Fprintf(p.stdout, "   --%s%s   %s\n", f.Name, value, f.Usage)
	})
	return nil
}

// open reads the chain's database; Erigon would begin a new one.
func (r *segRun) open() (*builder, error) {
	st, err := r.d.readChain()
	if errors.Is(err, os.ErrNotExist) {
		return nil, errors.New("mdbx: MDBX_NOTFOUND: chain config not found, label: chaindata")
	}
	if err != nil {
		return nil, err
	}
	r.builder = &builder{d: r.d, st: st, log: r.log, sync: true, slow: r.behave.wait("slow")}
	return r.builder, nil
}

func percent(i, n int) string { return fmt.Sprintf("%.2f%%", 100*float64(i)/float64(max(n, 1))) }

// crash ends the process as a panic does.
func (r *segRun) crash(why string) {
	fmt.Fprintf(r.stderr, "panic: %s\n\ngoroutine 1 [running]:\nmain.main()\n", why)
	os.Exit(2)
}

// runRetire logs "Done" when it fails, too: with Erigon that line is deferred.
func runRetire(r *segRun) error {
	defer r.log.info("Done")
	b, err := r.open()
	if err != nil {
		return err
	}
	if _, err := b.missedIndexes(r.ctx, "retire", func(kind) bool { return true }); err != nil {
		return err
	}
	files, _, err := r.d.list()
	if err != nil {
		return err
	}
	r.log.info("retiring blocks", "from", end(of(files, blockKinds()[0]))*1000, "to", b.st.Head)
	if err := b.build(r.ctx, "snapshots", b.st.blockTargets()); err != nil {
		return err
	}
	if r.behave.is("retire-crash") {
		if err := r.d.writeHalf(b.st); err != nil {
			return err
		}
		r.crash("runtime error: index out of range [0] with length 0")
	}
	r.log.info("pruning blocks")
	r.log.info("Pruning has ended", "deleted blocks", b.made*1000)
	r.log.info("Work on state history snapshots")
	r.log.info("Build state history snapshots")
	if files, _, err = r.d.list(); err != nil {
		return err
	}
	if r.behave.is("retire-leaves-overlap") {
		return r.leaveOverlap(b)
	}
	if err := b.build(r.ctx, "snapshots", b.st.stateTargets(files)); err != nil {
		return err
	}
	r.log.info("Prune state history")
	return b.pruned()
}

// leaveOverlap writes a file whose range others hold, and ends well.
func (r *segRun) leaveOverlap(b *builder) error {
	k := kind{"domain", "accounts", "kv", "v2.0"}
	return r.d.writeFile(k.name(span{0, 1}), b.st.dataOf(k, span{0, 1}), true)
}

// writeHalf leaves what a kill in the middle of a merge leaves: the first half of a .tmp file.
func (d *datadir) writeHalf(st chainState) error {
	k := kind{"domain", "accounts", "kv", "v2.0"}
	half := io.LimitReader(st.dataOf(k, span{0, st.Frozen}), st.bytesOf(k, span{0, st.Frozen})/2)
	if err := d.writeFile("domain/half", half, false); err != nil {
		return err
	}
	return os.Rename(d.snap("domain/half"), d.snap(k.name(span{0, st.Frozen}))+".tmp")
}

func runIndex(r *segRun) error {
	defer r.log.info("Done")
	b, err := r.open()
	if err != nil {
		return err
	}
	if r.on("rebuild") {
		if r.behave.is("rebuild-panics") { // as it is up to 3.4
			r.crash("not implemented")
		}
		if err := r.d.clearIndexes(); err != nil {
			return err
		}
	}
	state := 0
	for i, which := range []func(kind) bool{func(k kind) bool { return !k.isState() }, func(k kind) bool { return k.isState() }} {
		if r.behave.is("index-crash") && i == 1 {
			return errors.New("BuildMissedAccessors: no space left on device")
		}
		n, err := b.missedIndexes(r.ctx, "snapshots", which)
		if err != nil {
			return err
		}
		state += n
	}
	if r.behave.is("index-leaves-one") {
		files, _, err := r.d.list()
		if err != nil {
			return err
		}
		for _, f := range files {
			if f.ext == "kvei" {
				r.d.remove(f.name)
				break
			}
		}
	}
	r.log.info("[snapshots] built indexes", "count", state)
	return nil
}

// clearIndexes is index --rebuild: all indexes with their torrents, but not the salts.
func (d *datadir) clearIndexes() error {
	files, _, err := d.list()
	for _, f := range files {
		switch f.ext {
		case "idx", "bt", "kvi", "kvei", "vi", "efi":
			d.remove(f.name)
		}
	}
	return err
}

// runClearIndexing removes indexes and both salts, so that the next ones are all different. It says nothing.
func runClearIndexing(r *segRun) error {
	if err := os.RemoveAll(r.d.snap("accessor")); err != nil {
		return err
	}
	if err := r.d.clearIndexes(); err != nil {
		return err
	}
	if !r.behave.is("clear-leaves-one") {
		r.d.remove("salt-state.txt")
	}
	r.d.remove("salt-blocks.txt")
	return nil
}

func runRemoveOverlaps(r *segRun) error {
	defer r.log.info("Done")
	b, err := r.open()
	if err != nil {
		return err
	}
	files, _, err := r.d.list()
	if err != nil {
		return err
	}
	return b.removeMerged(r.ctx, b.st.stateTargets(files))
}

func runTxnum(r *segRun) error {
	defer r.log.info("Done")
	b, err := r.open()
	if err != nil {
		return err
	}
	block, tx := r.flags.Lookup("block").Value.(flag.Getter).Get().(int64), r.flags.Lookup("txnum").Value.(flag.Getter).Get().(int64)
	if block < 0 && tx < 0 {
		return errors.New("provide atleast one positive value -- either block or txnum")
	}
	if block >= 0 && tx >= 0 {
		return errors.New("both block and txnum can't be provided")
	}
	per, step := b.st.TxPerBlock, max(b.st.StepSize, 1)
	if tx >= 0 {
		r.log.info("out", "txNum", tx, "block", uint64(tx)/max(per, 1))
		return nil
	}
	if uint64(block) > b.st.Head {
		return fmt.Errorf("block not found: %d", block)
	}
	first, last := uint64(block)*per, uint64(block+1)*per-1
	r.log.info("out", "block", block, "min_txnum", first, "max_txnum", last, "min_step", first/step, "max_step", last/step)
	return nil
}

func runLs(r *segRun) error {
	defer r.log.info("Done")
	files, _, err := r.d.list()
	if err != nil {
		return err
	}
	for _, f := range files {
		if f.ext == "seg" {
			r.log.info(filepath.Base(f.name), "words", f.len()*1000)
		}
	}
	return nil
}

func runDu(r *segRun) error {
	files, _, err := r.d.list()
	if err != nil {
		return err
	}
	var total int64
	var tip, step uint64
	for _, f := range files {
		if info, err := os.Stat(r.d.snap(f.name)); err == nil {
			total += info.Size()
		}
		if f.typ == "headers" {
			tip = max(tip, f.to*1000)
		}
		if f.ext == "kv" {
			step = max(step, f.to)
		}
	}
	if r.on("json") {
		fmt.Fprintf(r.stdout, `{"detected_mode":"archive","total_size":%d,"blocks_to":%d,"steps_to":%d}`+"\n", total, tip, step)
		return nil
	}
	fmt.Fprintf(r.stdout, "mode: archive\ntotal: %.2fGB\n", float64(total)/math.Pow(1024, 3))
	return nil
}

// budgetOf is how long checks may take; 0 is without a limit.
func budgetOf(s string) time.Duration {
	d, _ := time.ParseDuration(s)
	return d
}
