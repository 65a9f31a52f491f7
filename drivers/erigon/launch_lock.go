package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/snapfw/snapfw/drivers/proclocks"
)

// declined is why something must not be done. A verb ends with code 3 then.
type declined struct{ why string }

func (e *declined) Error() string { return e.why }

func declinef(format string, args ...any) error { return &declined{fmt.Sprintf(format, args...)} }

// errUsage ends a verb with code 2; what is wrong was printed.
var errUsage = errors.New("wrong arguments")

// isDatadir declines a path under which there is no snapshots folder. Erigon itself makes a whole tree for
// a mistyped path, and every later look would be at that.
func isDatadir(datadir string) error {
	if !filepath.IsAbs(datadir) {
		return declinef("--datadir %q is no absolute path", datadir)
	}
	dir := filepath.Join(datadir, "snapshots")
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return declinef("there is no folder %s: name the data folder of an Erigon that has snapshots", dir)
	}
	return nil
}

// process is one life of a process: its number may be used again, its start is not.
type process struct {
	PID   int
	Start uint64 // in clock ticks since the machine was started; 0 where it can't be seen
}

func (p process) String() string {
	if p.PID <= 0 {
		return "a process that can't be seen from here (of another container or user)"
	}
	return "pid " + strconv.Itoa(p.PID)
}

// alive tells whether the process that was seen still runs.
func (p process) alive() bool { return p.Start != 0 && startOf(p.PID) == p.Start }

// lockHolder returns the process that holds Erigon's lock of a datadir, nil if none does. The file
// being there means nothing. It does not try the lock: an Erigon that begins at that moment would end.
func lockHolder(datadir string) (*process, error) {
	var lock unix.Stat_t
	if err := unix.Stat(filepath.Join(datadir, "LOCK"), &lock); err == unix.ENOENT {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("look at the datadir's LOCK: %w", err)
	}
	held, err := proclocks.Of(&lock)
	if err != nil {
		return nil, err
	}
	for _, l := range held {
		p := process{l.PID, startOf(l.PID)}
		open, known := hasOpen(l.PID, &lock)
		switch {
		case open:
			return &p, nil
		case known && p.Start != 0 && l.Dev != deviceOf(lock.Dev):
			continue // the same number in another file system
		case !known && p.Start != 0:
			return &p, nil // of another user
		}
		// Who took it is gone, and has left it to a child.
		if heir := whoHasOpen(&lock); heir != nil {
			return heir, nil
		}
		if l.Dev == deviceOf(lock.Dev) {
			return &process{}, nil
		}
	}
	return nil, nil
}

func deviceOf(dev uint64) string { return fmt.Sprintf("%02x:%02x", unix.Major(dev), unix.Minor(dev)) }

// hasOpen tells whether a process has a file open; known is false where that can't be looked at.
func hasOpen(pid int, file *unix.Stat_t) (open, known bool) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	names, err := os.ReadDir(dir)
	if err != nil {
		return false, errors.Is(err, fs.ErrNotExist)
	}
	for _, n := range names {
		var st unix.Stat_t
		if unix.Stat(filepath.Join(dir, n.Name()), &st) == nil && st.Dev == file.Dev && st.Ino == file.Ino {
			return true, true
		}
	}
	return false, true
}

func whoHasOpen(file *unix.Stat_t) *process {
	names, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, n := range names {
		pid, err := strconv.Atoi(n.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if open, _ := hasOpen(pid, file); open {
			return &process{pid, startOf(pid)}
		}
	}
	return nil
}

// lockIsHeld tells who holds the lock, also where the table can't say it: it then tries the lock for an
// instant, as a reader. Use it only while nothing is about to start Erigon.
func lockIsHeld(datadir string) (*process, error) {
	p, err := lockHolder(datadir)
	if p != nil || err != nil {
		return p, err
	}
	release, err := takeLock(datadir, unix.LOCK_SH, false)
	if errors.Is(err, unix.EWOULDBLOCK) {
		// It may have been taken since the table was read.
		if p, err := lockHolder(datadir); p != nil || err != nil {
			return p, err
		}
		// On some file systems the table has other numbers than stat.
		var lock unix.Stat_t
		if unix.Stat(filepath.Join(datadir, "LOCK"), &lock) == nil {
			if p := whoHasOpen(&lock); p != nil {
				return p, nil
			}
		}
		return &process{}, nil
	}
	if err != nil {
		return nil, err
	}
	release()
	return nil, nil
}

// holdDatadir keeps Erigon out of a datadir until release: it takes the lock that Erigon takes. It declines
// where somebody holds it.
func holdDatadir(datadir string, how int) (release func(), err error) {
	release, err = takeLock(datadir, how, how == unix.LOCK_EX)
	if errors.Is(err, unix.EWOULDBLOCK) {
		p, err := lockHolder(datadir)
		if err != nil || p == nil {
			p = &process{}
		}
		return nil, declinef("erigon is running on %s (%s): stop it first", datadir, p)
	}
	return release, err
}

// takeLock takes the lock as a reader or a writer. Where there is no LOCK file nobody holds one;
// it is made if asked for.
func takeLock(datadir string, how int, create bool) (release func(), err error) {
	flags := os.O_RDONLY
	if create {
		flags |= os.O_CREATE
	}
	f, err := os.OpenFile(filepath.Join(datadir, "LOCK"), flags|unix.O_NOFOLLOW, 0o644)
	if errors.Is(err, fs.ErrNotExist) && !create {
		return func() {}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the datadir's LOCK: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock the datadir: %w", err)
	}
	return func() { f.Close() }, nil
}
