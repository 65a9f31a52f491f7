package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const integrityUsage = "--datadir DIR [--erigon PROGRAM] [--check A,B] [--skip NAME]… [--budget D] [--sample X] [--seed N]  seg integrity, with a verdict that counts"

// integrityVerb is "@self integrity". It ends well if every check that should run did, and passed.
func integrityVerb(ctx context.Context, args []string) int {
	return runTool(ctx, args, os.Stdout, os.Stderr, integrity)
}

// nameList is a flag of names, given several times or separated by commas.
type nameList []string

func (l *nameList) String() string { return strings.Join(*l, ",") }

func (l *nameList) Set(s string) error {
	for name := range strings.SplitSeq(s, ",") {
		if !plainName.MatchString(name) {
			return fmt.Errorf("%q is no name", name)
		}
		*l = append(*l, name)
	}
	return nil
}

var plainName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9]{0,63}$`)

type integrityOptions struct {
	checks, skip nameList
	budget       time.Duration
	sample       float64
	seed         string
}

func integrity(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	f := newToolFlags("integrity", "erigon")
	var o integrityOptions
	f.Var(&o.checks, "check", "run these checks only")
	f.Var(&o.skip, "skip", "leave this check out")
	f.DurationVar(&o.budget, "budget", 0, "how long checks may take; what does not end in it is a failure")
	f.Float64Var(&o.sample, "sample", 0, "ratio of samples, above 0 and up to 1")
	f.Func("seed", "the seed of samples", func(s string) error {
		o.seed = s
		_, err := strconv.ParseInt(s, 10, 64)
		return err
	})
	t, err := f.open(args, stdout, stderr)
	if err != nil {
		return err
	}
	argv, err := t.integrityArgs(ctx, o)
	if err != nil {
		return err
	}
	r := &toolRun{args: argv, judge: lineJudge{Checks: true, Skip: o.skip}}
	if err := t.run(ctx, r); err != nil {
		return err
	}
	if err := r.judge.passed(o.checks); err != nil {
		return &toolError{err, "; the whole log: " + r.log}
	}
	if err := t.sayBlind(ctx, o.checks, r.judge.Started); err != nil {
		return &toolError{err, "; the whole log: " + r.log}
	}
	if r.judge.Seed != "" {
		t.say("samples were taken with --seed %s", r.judge.Seed)
	}
	t.say("%d checks passed: %s", len(r.judge.Started), strings.Join(r.judge.Started, " "))
	return nil
}

// integrityArgs makes the command's arguments of those that this version of Erigon knows. What it does not know is declined, and not left out.
func (t *tool) integrityArgs(ctx context.Context, o integrityOptions) ([]string, error) {
	argv := []string{"seg", "integrity", "--datadir", t.datadir}
	if len(o.checks)+len(o.skip) == 0 && o.budget == 0 && o.sample == 0 && o.seed == "" {
		return argv, nil
	}
	if o.sample < 0 || o.sample > 1 || o.budget < 0 {
		return nil, declinef("--sample is a ratio above 0 and up to 1, and --budget is no negative time")
	}
	help, err := t.help(ctx, "seg", "integrity")
	if err != nil {
		return nil, err
	}
	if err := knows(help, append(slices.Clone(o.checks), o.skip...), t.program); err != nil {
		return nil, err
	}
	for _, fl := range []struct{ name, value string }{
		{"check", strings.Join(o.checks, ",")}, {"skip-check", strings.Join(o.skip, ",")},
		{"integrity.budget", nonZero(o.budget.String(), o.budget == 0)},
		{"sample", nonZero(strconv.FormatFloat(o.sample, 'f', -1, 64), o.sample == 0)}, {"seed", o.seed},
	} {
		if fl.value == "" {
			continue
		}
		if !hasFlag(help, fl.name) {
			return nil, declinef("this Erigon's integrity has no --%s: do without, or name the checks to run with --check", fl.name)
		}
		argv = append(argv, "--"+fl.name+"="+fl.value)
	}
	return argv, nil
}

func nonZero(s string, zero bool) string {
	if zero {
		return ""
	}
	return s
}

// blind says what a check that passes does not look at, without a word of its own. all tells whether that is everything it is for.
type blind struct {
	why string
	all bool
}

func blindOf(check string, inv *inventory) (b blind, found bool) {
	rcache := len(inv.series[series{"domain", "rcache", "kv"}]) > 0
	switch {
	case strings.HasPrefix(check, "CommitmentHist"):
		return blind{"there is no history of commitment", true}, !inv.anyHistory("commitment")
	case check == "RCacheNoDups", check == "ReceiptRootIntegrity":
		return blind{"there is no rcache (--persist.receipts)", true}, !rcache
	case check == "Publishable":
		return blind{"there is no rcache (--persist.receipts), so nothing of it was asked for", false}, !rcache
	case check == "TorrentPieces":
		return blind{"files without a torrent and bytes after a torrent's length were not looked at; snapfw hashes what it publishes", false}, true
	}
	return blind{}, false
}

// sayBlind tells people which checks passed and looked at nothing, or not at all of it. One that was asked for by name, and found nothing to
// look at, did not pass.
func (t *tool) sayBlind(ctx context.Context, asked, started []string) error {
	in, err := walkSnapshots(ctx, t.datadir, false)
	if err != nil {
		return err
	}
	inv := newInventory(in)
	for _, check := range started {
		b, found := blindOf(check, inv)
		switch {
		case !found:
		case b.all && slices.Contains(asked, check):
			return fmt.Errorf("%s was asked for, and says that it passed, and looked at nothing: %s", check, b.why)
		case b.all:
			t.say("%s passed and looked at nothing: %s", check, b.why)
		default:
			t.say("%s passed, but %s", check, b.why)
		}
	}
	return nil
}
