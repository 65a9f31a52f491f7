//go:build linux

package onhost

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// proc names a process such that another one with the same pid is not taken for it.
type proc struct {
	PID   int
	Boot  string
	Start uint64 // field 22 of /proc/PID/stat: ticks since the boot
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// sinceBoot goes on while the machine sleeps and knows no leaps.
func sinceBoot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("CLOCK_BOOTTIME: " + err.Error()) // in every Linux since 2.6.39
	}
	return time.Duration(ts.Nano())
}

func procOf(pid int) (proc, error) {
	boot, err := bootID()
	if err != nil {
		return proc{}, err
	}
	start, _, err := stat(pid)
	if err != nil && unix.Kill(pid, 0) != unix.EPERM { // hidepid hides another user's
		return proc{}, err
	}
	return proc{pid, boot, start}, nil
}

// stat reads the start time and the state of a process.
func stat(pid int) (start uint64, state byte, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	return parseStat(string(b))
}

// parseStat reads /proc/PID/stat; the program's name in it may hold anything, ")" too.
func parseStat(s string) (start uint64, state byte, err error) {
	i := strings.LastIndexByte(s, ')')
	f := strings.Fields(s[i+1:])
	if i < 0 || len(f) < 20 {
		return 0, 0, fmt.Errorf("read stat of a process: %q", s)
	}
	start, err = strconv.ParseUint(f[19], 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("read stat of a process: %w", err)
	}
	return start, f[0][0], nil
}

// alive tells whether this very process runs. A zombie does not.
func (p proc) alive() bool {
	if p.PID <= 0 {
		return false
	}
	if boot, err := bootID(); err != nil || boot != p.Boot {
		return false
	}
	start, state, err := stat(p.PID)
	if err != nil {
		return unix.Kill(p.PID, 0) == unix.EPERM
	}
	return state != 'Z' && state != 'X' && (start == p.Start || p.Start == 0)
}

// aliveIn tells whether the process that a file of a folder names runs.
func aliveIn(path string) bool {
	var p proc
	return readJSON(path, &p) == nil && p.alive()
}
