package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// process is one life of a process: its number may be used again, its start is not.
type process struct {
	PID   int
	Start uint64 // in clock ticks since the machine was started; 0 where it can't be seen
}

// lockHolder returns the process that has the database open, nil if none has. It does not
// touch the lock: a node that tries it at that moment would die.
func lockHolder(db string) (*process, error) {
	lock := find(filepath.Join(db, "LOCK"))
	if lock.Err != "" {
		return nil, errors.New(lock.Err)
	}
	table, err := os.ReadFile("/proc/locks")
	if err != nil {
		return nil, fmt.Errorf("read the table of locks: %w", err)
	}
	// "1: FLOCK  ADVISORY  WRITE 3412 08:01:1835041 0 EOF": number, then device and inode. The device
	// is not stat's on every file system, so it is not compared.
	suffix := []byte(":" + strconv.FormatUint(lock.Inode, 10))
	for _, line := range bytes.Split(table, []byte("\n")) {
		f := bytes.Fields(line)
		if len(f) < 6 || string(f[1]) != "FLOCK" || string(f[3]) != "WRITE" || !bytes.HasSuffix(f[5], suffix) {
			continue
		}
		pid, err := strconv.Atoi(string(f[4]))
		if err != nil {
			return nil, fmt.Errorf("read the table of locks: %w", err)
		}
		return &process{pid, startOf(pid)}, nil
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
