package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/snapfw/snapfw/core"
)

const launchUsage = `launch save --datadir DIR                      remember how the erigon that runs on DIR was started
launch stop --datadir DIR --wait 30m [--kill-after 1h]
launch gone --datadir DIR [--wait 30s]         is the lock free?
launch start --datadir DIR [--wait 60s] [--settle 5s]
launch status --datadir DIR [--json]
launch flags --datadir DIR [--json] | --for-chain NAME [--datadir DIR]`

// launchVerb is "@self launch": it stops and starts an Erigon that no unit and no container looks after. It exits
// with 0 when it is so, 2 for wrong arguments, 3 when it must not be done, 1 for anything else.
func launchVerb(ctx context.Context, args []string) int {
	return runLaunch(ctx, args, os.Stdout, os.Stderr)
}

// launchWords are the verbs of the verb.
var launchWords = map[string]func(ctx context.Context, args []string, stdout, stderr io.Writer) error{
	"save": launchSave, "stop": launchStop, "gone": launchGone, "start": launchStart, "status": launchStatus, "flags": launchFlags,
}

func runLaunch(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 || launchWords[args[0]] == nil {
		fmt.Fprintln(stderr, launchUsage)
		return 2
	}
	return exitCode(launchWords[args[0]](ctx, args[1:], stdout, stderr), stderr)
}

// exitCode prints why a verb ends, and is the code that says so.
func exitCode(err error, stderr io.Writer) int {
	var no *declined
	switch {
	case err == nil:
		return core.ExitDone
	case errors.Is(err, errUsage):
		return 2
	}
	fmt.Fprintln(stderr, err)
	if errors.As(err, &no) {
		return core.ExitRefused
	}
	return 1
}

// parseWords parses the flags of a verb that takes --datadir and no other words.
func parseWords(f *flag.FlagSet, args []string, datadir *string, stderr io.Writer) error {
	f.SetOutput(stderr)
	if datadir != nil {
		f.StringVar(datadir, "datadir", "", "Erigon's data folder")
	}
	if err := f.Parse(args); err != nil {
		return errUsage // the flag set has said what is wrong
	}
	if f.NArg() > 0 || datadir != nil && *datadir == "" {
		fmt.Fprintf(stderr, "%s needs --datadir DIR, and takes no other words\n", f.Name())
		return errUsage
	}
	if datadir != nil {
		return isDatadir(*datadir)
	}
	return nil
}

func launchSave(_ context.Context, args []string, stdout, stderr io.Writer) error {
	var datadir string
	if err := parseWords(flag.NewFlagSet("launch save", flag.ContinueOnError), args, &datadir, stderr); err != nil {
		return err
	}
	p, err := lockHolder(datadir)
	if err != nil {
		return err
	}
	if p == nil {
		return declinef("erigon does not run on %s, so it can't be seen how it is launched: start it by hand once", datadir)
	}
	l, err := lookAtLaunch(*p)
	if err != nil {
		return err
	}
	again, err := saveLaunch(datadir, l)
	if err != nil {
		return err
	}
	if unit := unitOf(p.PID); unit != "" {
		fmt.Fprintf(stderr, "%s belongs to %s: name that unit in the configuration, since systemd may start erigon again while it should be down\n", p, unit)
	}
	if again {
		fmt.Fprintf(stdout, "%s is launched as it was before\n", p)
		return nil
	}
	fmt.Fprintf(stdout, "saved how %s was launched\n", p)
	return nil
}

func launchStop(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var datadir string
	o := stopOptions{tell: 30 * time.Second}
	f := flag.NewFlagSet("launch stop", flag.ContinueOnError)
	f.DurationVar(&o.wait, "wait", 30*time.Minute, "how long it may take")
	f.DurationVar(&o.killAfter, "kill-after", 0, "kill it then; 0 is never")
	if err := parseWords(f, args, &datadir, stderr); err != nil {
		return err
	}
	return stopNode(ctx, datadir, o, stdout)
}

func launchGone(ctx context.Context, args []string, _, stderr io.Writer) error {
	var datadir string
	f := flag.NewFlagSet("launch gone", flag.ContinueOnError)
	wait := f.Duration("wait", 30*time.Second, "how long to wait for it")
	if err := parseWords(f, args, &datadir, stderr); err != nil {
		return err
	}
	return goneNode(ctx, datadir, *wait)
}

func launchStart(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var datadir string
	var o startOptions
	f := flag.NewFlagSet("launch start", flag.ContinueOnError)
	f.DurationVar(&o.wait, "wait", time.Minute, "how long it may take until it holds the lock")
	f.DurationVar(&o.settle, "settle", 5*time.Second, "how long it has to stay")
	if err := parseWords(f, args, &datadir, stderr); err != nil {
		return err
	}
	return startNode(ctx, datadir, o, stdout)
}

// launchState is what launch status prints.
type launchState struct {
	Held  bool     `json:"held"`
	PID   int      `json:"pid,omitempty"`
	Argv  []string `json:"argv,omitempty"` // values that may be secret are masked
	Exe   string   `json:"exe,omitempty"`
	Tool  string   `json:"tool,omitempty"` // what holds the lock is no node but this
	Unit  string   `json:"unit,omitempty"` // of systemd
	UID   int      `json:"uid"`            // of who holds it
	Saved bool     `json:"saved"`
}

func launchStatus(_ context.Context, args []string, stdout, stderr io.Writer) error {
	var datadir string
	f := flag.NewFlagSet("launch status", flag.ContinueOnError)
	asJSON := f.Bool("json", false, "print JSON")
	if err := parseWords(f, args, &datadir, stderr); err != nil {
		return err
	}
	p, err := lockHolder(datadir)
	if err != nil {
		return err
	}
	var s launchState
	_, err = readLaunch(datadir)
	s.Saved = err == nil
	if p != nil {
		argv := argvOf(p.PID)
		s.Held, s.PID, s.Argv, s.Tool, s.Unit = true, p.PID, masked(argv), toolOf(argv), unitOf(p.PID)
		s.Exe = link(fmt.Sprint(p.PID), "exe")
		if status, err := statusOf(p.PID); err == nil {
			s.UID = status.UID
		}
	}
	if *asJSON {
		e := json.NewEncoder(stdout)
		e.SetEscapeHTML(false)
		return e.Encode(s)
	}
	switch {
	case !s.Held:
		fmt.Fprintf(stdout, "nobody holds the lock of %s; launch saved: %t\n", datadir, s.Saved)
	default:
		fmt.Fprintf(stdout, "%s holds the lock of %s: %q; launch saved: %t\n", p, datadir, s.Argv, s.Saved)
	}
	return nil
}
