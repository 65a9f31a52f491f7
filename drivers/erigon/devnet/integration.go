package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// integrationRun is one run of a command of integration.
type integrationRun struct {
	*program
	d      *datadir
	log    *logger
	b      *builder
	behave conduct

	domains    []string
	reset      bool
	replace    bool
	buildIndex bool
}

var integrationCommands = map[string]func(*integrationRun) error{
	"print_stages":       (*integrationRun).printStages,
	"stage_custom_trace": (*integrationRun).customTrace,
	"stage_exec":         (*integrationRun).stageExec,
	"commitment_rebuild": (*integrationRun).rebuildCommitment,
	"compact_domains":    (*integrationRun).compact,
	"purify_domains":     (*integrationRun).compact,
}

// integration is the second program. What goes wrong is logged, and the exit code is 0; an interrupt is not even logged.
func (p *program) integration(args []string) error {
	if len(args) == 0 || args[0] == "--help" || args[0] == "help" {
		fmt.Fprint(p.stdout, "Usage:\n  integration [command]\n\nAvailable Commands:\n")
		for _, name := range []string{"commitment_rebuild", "compact_domains", "print_stages", "stage_custom_trace", "stage_exec"} {
			fmt.Fprintf(p.stdout, "  %-28s\n", name)
		}
		return nil
	}
	run, ok := integrationCommands[args[0]]
	if !ok {
		return fmt.Errorf("Error: unknown command %q for \"integration\"", args[0]) //nolint:staticcheck // cobra's words
	}
	r, err := p.openIntegration(args)
	if err != nil {
		return err
	}
	if r == nil {
		return nil
	}
	if r.behave.is("integration-fails") {
		err = errors.New("told to fail: mdbx_env_open: permission denied")
	} else if !r.behave.is("integration-does-nothing") || args[0] == "print_stages" {
		begin := time.Now()
		err = run(r)
		r.log.info("total", "took", time.Since(begin).Round(time.Millisecond))
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		r.log.error(err.Error())
	}
	return nil
}

func (p *program) openIntegration(args []string) (*integrationRun, error) {
	fl := flag.NewFlagSet(args[0], flag.ContinueOnError)
	fl.SetOutput(io.Discard)
	dir := fl.String("datadir", "", "")
	chain := fl.String("chain", "", "")
	reset := fl.Bool("reset", false, "")
	replace := fl.Bool("replace-in-datadir", false, "")
	index := fl.Bool("build-idx", false, "")
	fl.Bool("squeeze", true, "")
	fl.Uint64("block", 0, "")
	fl.String("batchSize", "", "")
	var domains list
	fl.Var(&domains, "domain", "")
	if err := fl.Parse(args[1:]); err != nil {
		return nil, fmt.Errorf("Error: %v", strings.Replace(err.Error(), "flag provided but not defined: -", "unknown flag: --", 1))
	}
	d, err := newDatadir(*dir)
	if err != nil {
		return nil, err
	}
	log := openLog(p.stderr, d.dir, "integration")
	st, err := d.readChain()
	if err == nil && *chain != "" && *chain != st.Chain {
		err = fmt.Errorf("unexpected chain %q, database is of %q", *chain, st.Chain)
	}
	if err != nil {
		log.error("Opening DB", "error", err)
		return nil, nil
	}
	behave, err := d.behave()
	if err != nil {
		return nil, err
	}
	b := &builder{d: d, st: st, log: log, sync: true, slow: behave.wait("slow")}
	return &integrationRun{
		program: p, d: d, log: log, b: b, behave: behave, domains: domains, reset: *reset, replace: *replace, buildIndex: *index,
	}, nil
}

func (r *integrationRun) printStages() error {
	st := r.b.st
	fmt.Fprintf(r.stdout, "\nstage_at\tprune_at\n")
	for _, s := range []struct {
		name string
		at   uint64
	}{{"OtterSync", 0}, {"Headers", st.Head}, {"BlockHashes", st.Head}, {"Bodies", st.Head}, {"Senders", st.Head}, {"Execution", st.Executed}, {"TxLookup", st.Head}, {"Finish", st.Executed}} {
		fmt.Fprintf(r.stdout, "%-20s %d\t0\n", s.name, s.at)
	}
	fmt.Fprintf(r.stdout, "--\nblocks: segments=%d, indices=%d\n\n", st.blocksFrozen()*1000, st.blocksFrozen()*1000)
	return nil
}

// customTrace makes types of state anew from blocks. With --reset it empties the database's tables of those types, and that is all it does:
// as with Erigon, a second run without it does the work.
func (r *integrationRun) customTrace() error {
	traced := append([]string{"receipt", "rcache"}, traceTypes...)
	for _, t := range r.domains {
		if !slices.Contains(traced, t) {
			return fmt.Errorf("unknown domain %q", t)
		}
	}
	files, _, err := r.d.list()
	if err != nil {
		return err
	}
	if r.reset {
		for _, t := range r.domains {
			r.b.st.From[t] = r.endOf(files, t)
		}
		return r.d.writeChain(r.b.st)
	}
	if r.behave.is("new-bytes") {
		if r.b.st.Generation == nil {
			r.b.st.Generation = map[string]int{}
		}
		for _, t := range r.domains {
			r.b.st.Generation[t]++
		}
	}
	var all []target
	for _, t := range r.b.st.stateTargets(files) {
		if slices.Contains(r.domains, t.kind.typ) {
			all = append(all, t)
		}
	}
	if err := r.b.build(r.ctx, "custom_trace", all); err != nil {
		return err
	}
	r.log.info("SpawnCustomTrace finish")
	return r.b.pruned()
}

// endOf is how far all files of a type reach.
func (r *integrationRun) endOf(files []file, typ string) uint64 {
	at, found := uint64(0), false
	for _, k := range append(domainKinds(r.b.st.Receipts), historyKinds(r.b.st.Receipts)...) {
		if k.typ == typ {
			if have := end(of(files, k)); !found || have < at {
				at, found = have, true
			}
		}
	}
	return at
}

// stageExec executes blocks; with --reset it takes execution back to where the files end, and does no more.
func (r *integrationRun) stageExec() error {
	files, _, err := r.d.list()
	if err != nil {
		return err
	}
	st := &r.b.st
	if r.reset {
		st.Executed = end(of(files, kind{"domain", "accounts", "kv", ""})) * st.StepSize / max(st.TxPerBlock, 1)
		for _, t := range append(slices.Clone(stateTypes), traceTypes...) {
			st.From[t] = r.endOf(files, t)
		}
		r.log.info("Reset execution")
		return r.d.writeChain(*st)
	}
	for st.Executed < st.Head {
		if err := r.b.pause(r.ctx); err != nil {
			return err
		}
		st.Executed = min(st.Head, st.Executed+20_000)
		r.log.info("[4/6 Execution] Executed blocks", "number", st.Executed, "blk/s", "1000")
	}
	return r.d.writeChain(*st)
}

// rebuildCommitment deletes commitment's files, after a question, and makes them anew.
func (r *integrationRun) rebuildCommitment() error {
	if r.reset {
		return r.stageExec()
	}
	files, _, err := r.d.list()
	if err != nil {
		return err
	}
	q := rmRequest{step: "0-999999", domains: []string{"commitment"}, in: r.stdin, out: r.stdout}
	if err := r.d.rmState(q); errors.Is(err, errAnswered) {
		return nil // os.Exit(0)
	} else if err != nil {
		return err
	}
	var all []target
	for _, a := range of(files, kind{"domain", "accounts", "kv", ""}) {
		all = append(all, target{kind{"domain", "commitment", "kv", "v2.0"}, []span{a.span}})
	}
	r.log.info("[commitment_rebuild] starting", "ranges", len(all))
	return r.b.build(r.ctx, "commitment_rebuild", all)
}

// compact rewrites domains. With --replace-in-datadir the new files take the place of the old ones, whose .bt and .kvei go; --build-idx makes them anew.
func (r *integrationRun) compact() error {
	if r.buildIndex && !r.replace {
		return errors.New("--build-idx needs --replace-in-datadir")
	}
	files, _, err := r.d.list()
	if err != nil {
		return err
	}
	for _, f := range files {
		if f.ext != "kv" || len(r.domains) > 0 && !slices.Contains(r.domains, f.typ) {
			continue
		}
		if !r.replace {
			r.log.info("Compacted files has been saved", "file", f.name)
			continue
		}
		if err := r.d.writeFile(f.name, r.b.st.dataOf(f.kind, f.span), true); err != nil {
			return err
		}
		for _, k := range f.indexes() {
			if k.ext != "kvi" {
				r.d.remove(k.name(f.span))
			}
		}
		r.log.info("Compacted files has been saved", "file", f.name)
	}
	if r.buildIndex {
		_, err = r.b.missedIndexes(r.ctx, "compact", kind.isState)
	}
	return err
}
