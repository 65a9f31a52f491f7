package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// process names a process so that another one with its pid is not taken for it.
type process struct {
	PID   int    `json:"pid"`
	Start string `json:"start"` // clock ticks since boot, field 22 of /proc/PID/stat
	Boot  string `json:"boot"`
}

func nameProcess(pid int) (process, error) {
	_, start, err := stat(pid)
	if err != nil {
		return process{}, err
	}
	return process{PID: pid, Start: start, Boot: boot()}, nil
}

// alive tells whether it runs; a zombie does not.
func (p process) alive() bool {
	if p.PID <= 0 {
		return false
	}
	state, start, err := stat(p.PID)
	return err == nil && start == p.Start && boot() == p.Boot && state != "Z" && state != "X"
}

// kill sends a signal if it still is that process.
func (p process) kill(s unix.Signal) error {
	if !p.alive() {
		return nil
	}
	if err := unix.Kill(p.PID, s); err != nil && err != unix.ESRCH {
		return fmt.Errorf("signal %d: %w", p.PID, err)
	}
	return nil
}

func stat(pid int) (state, start string, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", "", err
	}
	// The program's name, in brackets, may hold spaces and brackets.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 20 {
		return "", "", fmt.Errorf("/proc/%d/stat is short", pid)
	}
	return f[0], f[19], nil
}

func boot() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

// locked runs f while it holds an exclusive lock on a file, which the kernel frees whatever dies.
func locked(path string, f func() error) error {
	l, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	defer l.Close()
	for {
		err := unix.Flock(int(l.Fd()), unix.LOCK_EX)
		if err == nil {
			return f()
		}
		if err != unix.EINTR {
			return fmt.Errorf("lock %s: %w", path, err)
		}
	}
}
