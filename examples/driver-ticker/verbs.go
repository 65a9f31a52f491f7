package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/capture"
)

// sight is what the verb look prints.
type sight struct {
	Runs   bool
	Height uint64
	Made   time.Time // when the head was made
	Now    time.Time // by the same clock
}

func look(_ context.Context, args []string) int {
	if len(args) != 1 {
		return fail(errors.New("look wants DIR"))
	}
	s := sight{Runs: process(args[0]) != 0, Now: time.Now()}
	head := filepath.Join(args[0], "db", "HEAD")
	height, err := number(head)
	if err != nil {
		return fail(err)
	}
	info, err := os.Stat(head)
	if err != nil {
		return fail(err)
	}
	s.Height, s.Made = height, info.ModTime()
	return fail(json.NewEncoder(os.Stdout).Encode(s))
}

// stop asks the node to end and waits for it. That the process is gone does not say that it ended in order: the
// node says so itself. Where it does not, the verdict is "start it and look at it again" (core.ExitAgain).
func stop(ctx context.Context, args []string) int {
	if len(args) != 1 {
		return fail(errors.New("stop wants DIR"))
	}
	for pid := process(args[0]); pid != 0; pid = process(args[0]) {
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && err != syscall.ESRCH {
			return fail(err)
		}
		select {
		case <-ctx.Done(): // the step's time is over, or the run was given up
			return fail(errors.New("it does not end"))
		case <-time.After(50 * time.Millisecond):
		}
	}
	if _, err := os.Stat(filepath.Join(args[0], "clean")); err != nil {
		fmt.Fprintln(os.Stderr, "it ended without closing its database:", err)
		return core.ExitAgain
	}
	return core.ExitDone
}

// live names what makes up the database: each block once, which never changes and may be
// linked, and HEAD, which is copied. What the node left half made is not named.
func live(_ context.Context, args []string) int {
	if len(args) != 2 {
		return fail(errors.New("live wants DIR and FILE"))
	}
	height, err := number(filepath.Join(args[0], "db", "HEAD"))
	if err != nil {
		return fail(err)
	}
	items := []capture.Item{{Name: "HEAD", Mode: capture.ModeCopy}}
	for h := uint64(1); h <= height; h++ {
		items = append(items, capture.Item{Name: fmt.Sprintf("%08d.block", h), Mode: capture.ModeLink})
	}
	return fail(capture.WriteList(args[1], items))
}

// process returns the node's process, or 0 if there is none. The node holds a lock while it
// runs, so a number that another process has by now is not taken for it.
func process(dir string) int {
	f, err := os.Open(filepath.Join(dir, "lock"))
	if err != nil {
		return 0
	}
	defer f.Close()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) == nil {
		return 0
	}
	pid, err := number(filepath.Join(dir, "pid"))
	if err != nil {
		return 0
	}
	return int(pid)
}

func number(file string) (uint64, error) {
	body, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(body)), 10, 32)
}

// fail says an error and returns the exit code.
func fail(err error) int {
	if err == nil {
		return core.ExitDone
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}
