package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// stopOptions say how long a node may take to end.
type stopOptions struct {
	wait      time.Duration
	killAfter time.Duration // 0 is never
	tell      time.Duration // how often to say that it still runs
}

// stopNode tells the node to end and waits until it is gone and its lock is free. An
// Erigon that is killed in the middle of a merge leaves half-merged files, so that is done only
// where killAfter says so. A second call goes on waiting for the same process.
func stopNode(ctx context.Context, datadir string, o stopOptions, out io.Writer) error {
	p, err := lockIsHeld(datadir)
	if err != nil {
		return err
	}
	if p == nil {
		fmt.Fprintf(out, "erigon does not run on %s\n", datadir)
		return nil
	}
	if _, err := lookAtLaunch(*p); err != nil {
		return err
	}
	if _, err := readLaunch(datadir); err != nil {
		return declinef("erigon is left running, since it could not be started again: %v", err)
	}
	pidfd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return fmt.Errorf("take hold of %s: %w", p, err)
	}
	defer unix.Close(pidfd)
	if !p.alive() { // the number is another's by now, and so is the descriptor
		return fmt.Errorf("%s ended while it was looked at: run it again", p)
	}
	since, err := tellToEnd(datadir, *p, pidfd, out)
	if err != nil {
		return err
	}
	w := stopping{datadir: datadir, p: *p, pidfd: pidfd, since: since, stopOptions: o, out: out}
	return w.await(ctx)
}

// toldToEnd is what stopping.json holds: the process that was signalled, since Erigon ends in order at the first
// signal and at once, with a panic, when it gets ten.
type toldToEnd struct {
	Process process   `json:"process"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
	Times   int       `json:"times"`
}

const (
	tellAgain = time.Minute // for a call that died between noting the signal and sending it
	tellMost  = 5
)

func tellToEnd(datadir string, p process, pidfd int, out io.Writer) (since time.Time, err error) {
	file := filepath.Join(snapfwDir(datadir), stoppingFile)
	now := time.Now().UTC()
	var told toldToEnd
	if b, err := os.ReadFile(file); err != nil || json.Unmarshal(b, &told) != nil || told.Process != p {
		told = toldToEnd{Process: p, First: now}
	}
	if told.Times >= tellMost || told.Times > 0 && now.Sub(told.Last) < tellAgain {
		fmt.Fprintf(out, "%s was told to end at %s\n", p, told.First.Format(time.RFC3339))
		return told.First, nil
	}
	told.Last = now
	told.Times++
	// Before the signal: in doubt it is noted and not sent, rather than the other way round.
	if err := writeWhole(file, 0o600, func(w io.Writer) error { return json.NewEncoder(w).Encode(told) }); err != nil {
		return now, fmt.Errorf("note that it is told to end: %w", err)
	}
	sig, name := unix.SIGINT, "SIGINT"
	if s, err := statusOf(p.PID); err == nil && s.Ignored>>(unix.SIGINT-1)&1 == 1 {
		sig, name = unix.SIGTERM, "SIGTERM" // a shell without job control started it; Erigon ends the same way
	}
	if err := unix.PidfdSendSignal(pidfd, sig, nil, 0); err != nil && err != unix.ESRCH {
		return now, fmt.Errorf("send %s to %s: %w", name, p, err)
	}
	fmt.Fprintf(out, "sent %s to %s\n", name, p)
	return told.First, nil
}

// wasTold tells whether this very process was told to end.
func wasTold(datadir string, p process) bool {
	var told toldToEnd
	b, err := os.ReadFile(filepath.Join(snapfwDir(datadir), stoppingFile))
	return err == nil && json.Unmarshal(b, &told) == nil && told.Process == p && told.Times > 0
}

// stopping waits for a process that was told to end.
type stopping struct {
	stopOptions
	datadir string
	p       process
	pidfd   int
	since   time.Time
	killed  bool
	out     io.Writer
}

func (w *stopping) await(ctx context.Context) error {
	limit := w.wait
	if w.killAfter > 0 {
		limit = max(limit, w.killAfter+time.Minute)
	}
	begin := time.Now()
	told := begin
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		free, err := w.look()
		if err != nil || free {
			return err
		}
		if w.killAfter > 0 && !w.killed && time.Since(w.since) >= w.killAfter {
			fmt.Fprintf(w.out, "%s still runs after %s: it is killed, as --kill-after says; run retire before anything is published\n", w.p, w.killAfter)
			if err := unix.PidfdSendSignal(w.pidfd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
				return fmt.Errorf("kill %s: %w", w.p, err)
			}
			w.killed = true
		}
		if time.Since(begin) >= limit {
			return fmt.Errorf("%s still runs %s after it was told to end, and nothing was killed: see the end of its log, and run launch stop again to go on waiting",
				w.p, time.Since(w.since).Round(time.Second))
		}
		if time.Since(told) >= w.tell {
			told = time.Now()
			fmt.Fprintf(w.out, "%s still runs, %s after it was told to end\n", w.p, time.Since(w.since).Round(time.Second))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("interrupted: %s was told to end, and goes on doing so", w.p)
		case <-time.After(pause):
		}
	}
}

// look tells whether the process is gone and the lock free. A node that took the lock since then was started by somebody.
func (w *stopping) look() (free bool, err error) {
	if w.p.alive() {
		return false, nil
	}
	p, err := lockIsHeld(w.datadir)
	if err != nil {
		return false, err
	}
	if p == nil {
		os.Remove(filepath.Join(snapfwDir(w.datadir), stoppingFile)) // it names a process that is gone; nobody misses it
		fmt.Fprintf(w.out, "%s is gone, and the lock is free\n", w.p)
		return true, nil
	}
	if p.PID > 0 && startedAfter(*p, w.since) && toolOf(argvOf(p.PID)) == "" {
		return false, fmt.Errorf("%s is gone, but something has started erigon again (%s): stop what looks after it, a unit, a container or a script, and configure that", w.p, p)
	}
	return false, nil
}

// startedAfter tells whether a process is younger than a moment. Linux counts a process's start in hundredths of
// a second since the machine was started.
func startedAfter(p process, t time.Time) bool {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return false
	}
	begun := time.Duration(p.Start+1) * 10 * time.Millisecond
	return begun > time.Duration(now.Nano())-time.Since(t)
}

// goneNode waits until nobody holds the lock; it declines if somebody still does.
func goneNode(ctx context.Context, datadir string, wait time.Duration) error {
	begin := time.Now()
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		p, err := lockIsHeld(datadir)
		if p == nil || err != nil {
			return err
		}
		if time.Since(begin) >= wait {
			return declinef("the lock of %s is held by %s: %s", datadir, p, whatIs(*p))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// whatIs says what a process is, for people.
func whatIs(p process) string {
	argv := argvOf(p.PID)
	switch tool := toolOf(argv); {
	case len(argv) == 0:
		return "see what it is, and end it"
	case tool != "":
		return fmt.Sprintf("%q; wait until it has ended", tool)
	}
	return fmt.Sprintf("%q; stop it with launch stop", masked(argv)[0])
}
