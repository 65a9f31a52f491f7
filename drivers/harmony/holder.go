package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/snapfw/snapfw/drivers/proclocks"
)

// process is one life of a process: its number may be used again, its start is not.
type process struct {
	PID   int
	Start uint64 // in clock ticks since the machine was started; 0 where it can't be seen
}

// lockHolder returns the process that has the database open, nil if none has. It does not
// touch the lock: a node that tries it at that moment would die.
func lockHolder(db string) (*process, error) {
	path := filepath.Join(db, "LOCK")
	lock := find(path)
	if lock.Err != "" {
		return nil, errors.New(lock.Err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, fmt.Errorf("look at the database's LOCK: %w", err)
	}
	held, err := proclocks.Of(&st)
	if err != nil {
		return nil, err
	}
	for _, l := range held {
		if l.Write { // the device is not stat's on every file system, so it is not compared
			return &process{l.PID, startOf(l.PID)}, nil
		}
	}
	return nil, nil
}

// startOf reads when a process started from /proc/PID/stat (proc(5), field 22); 0 if it can't be seen.
func startOf(pid int) uint64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The program's name, in brackets, may hold anything.
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 20 || f[0][0] == 'Z' { // a zombie has ended
		return 0
	}
	n, err := strconv.ParseUint(string(f[19]), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// alive tells whether the process that was seen still runs.
func (p process) alive() bool { return p.Start != 0 && startOf(p.PID) == p.Start }
