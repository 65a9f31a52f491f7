//go:build linux

package onhost

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// holder is what lock/NAME/holder.json says. In the boot in which it was written the lease is
// measured by the clock that never leaps, later by the wall clock.
type holder struct {
	Run   string
	Since time.Time
	Until time.Time
	Boot  string
	End   time.Duration // since that boot
}

func (h holder) held(boot string) bool {
	switch {
	case h.Run == "":
		return false
	case h.Boot == boot:
		return sinceBoot() < h.End
	}
	return time.Now().Before(h.Until)
}

func (h holder) state(run string) LockState {
	return LockState{Taken: h.Run != "" && h.Run == run, Holder: h.Run, Since: h.Since, Until: h.Until}
}

// lockTake takes a lock that is free, stale or this run's already.
func lockTake(c *call) error { return c.lease(func(free bool) bool { return free }) }

// lockRenew prolongs a lock that this run has, even if its lease is over, as long as nobody
// else took it.
func lockRenew(c *call) error { return c.lease(func(bool) bool { return false }) }

// lease gives the lock to the run if the run has it, or if may says so of a lock that is free.
func (c *call) lease(may func(free bool) bool) error {
	if err := c.want("NAME", "RUN", "LEASE"); err != nil {
		return err
	}
	run := c.args[1]
	d, err := time.ParseDuration(c.args[2])
	if err != nil || d <= 0 {
		return usagef("lease %q is no duration such as 5m", c.args[2])
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	return c.locked(func(path string, h holder) error {
		if h.Run != run && !may(!h.held(boot)) {
			return c.print(h.state(run))
		}
		now := time.Now()
		if h.Run != run {
			h = holder{Run: run, Since: now}
		}
		h.Until, h.Boot, h.End = now.Add(d), boot, sinceBoot()+d
		if err := writeJSON(path, h); err != nil {
			return fmt.Errorf("write lock: %w", err)
		}
		return c.print(h.state(run))
	})
}

// lockFree gives a lock back; one that the run has not is left alone. What it prints is the
// lock as it is now.
func lockFree(c *call) error {
	if err := c.want("NAME", "RUN"); err != nil {
		return err
	}
	run := c.args[1]
	return c.locked(func(path string, h holder) error {
		if h.Run == run {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("free lock: %w", err)
			}
			h = holder{}
		}
		return c.print(h.state(run))
	})
}

// locked calls f with the holder's file and what it says, and nobody else does at that moment.
func (c *call) locked(f func(path string, h holder) error) error {
	for i, what := range []string{"lock", "run"} {
		if err := checkName(what, c.args[i]); err != nil {
			return usagef("%v", err)
		}
	}
	dir := filepath.Join(c.root, "lock", c.args[0])
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	l, err := lockFile(filepath.Join(dir, "flock"), true)
	if err != nil {
		return err
	}
	defer l.Close()
	path := filepath.Join(dir, "holder.json")
	var h holder
	if err := readJSON(path, &h); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w; if no run is going on, remove this file", err)
	}
	return f(path, h)
}
