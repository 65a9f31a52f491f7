// Package proclocks tells what drivers share: who holds an flock(2), without touching it. A node that tries its lock in the
// moment in which somebody else tries it too would end.
package proclocks

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Lock is a line of /proc/locks that is of an flock somebody holds.
type Lock struct {
	PID   int    // who took it; it may be gone and have left it to a child
	Write bool   // not shared with others
	Dev   string // "fe:00"; on some file systems it is not stat's
}

const (
	onePiece  = 3 << 10 // bytes: a table that is shorter fits in a piece, of a page
	lookAgain = 100     // times, where a table may have lost lines
)

// Of returns the locks on a file, by what stat says of it. Locks of other file systems whose inode has the same number are among
// them: compare Dev where that can be trusted.
//
// The kernel hands /proc/locks out in pieces of a page at most, and looks up by number where it was: each lock that somebody gives
// back meanwhile makes it skip another, and each new one tells one twice. So a table of several pieces that does not have the lock proves nothing. Then those who have
// the file open are asked, where we may look at them, and the table again and again.
func Of(file *unix.Stat_t) ([]Lock, error) {
	for try := range lookAgain {
		table, whole, err := read()
		if err != nil {
			return nil, fmt.Errorf("read the table of locks: %w", err)
		}
		if held := parse(table, file.Ino); len(held) > 0 || whole {
			return held, nil
		}
		if try > 0 {
			continue
		}
		if held, all := ofOpen(file); len(held) > 0 || all {
			return held, nil
		}
	}
	return nil, nil
}

// read reads the table, and tells whether it came in one piece: then it is as it was in one moment.
func read() (table []byte, whole bool, err error) {
	f, err := os.Open("/proc/locks")
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	buf := make([]byte, 64<<10) // a piece is no larger than what is asked for
	for pieces := 0; ; pieces++ {
		n, err := f.Read(buf)
		table = append(table, buf[:n]...)
		if errors.Is(err, io.EOF) {
			return table, pieces <= 1 && len(table) < onePiece, nil
		}
		if err != nil {
			return nil, false, err
		}
	}
}

// parse finds who holds an flock on an inode:
//
//	1: FLOCK  ADVISORY  WRITE 3412 fe:00:1835041 0 EOF
//
// A line of one who waits has "->" before FLOCK (proc_locks(5)).
func parse(table []byte, inode uint64) (held []Lock) {
	suffix := []byte(":" + strconv.FormatUint(inode, 10))
	for line := range bytes.SplitSeq(table, []byte("\n")) {
		f := bytes.Fields(line)
		if len(f) < 6 || string(f[1]) != "FLOCK" || !bytes.HasSuffix(f[5], suffix) {
			continue
		}
		pid, err := strconv.Atoi(string(f[4]))
		if err != nil {
			continue
		}
		held = append(held, Lock{pid, string(f[3]) == "WRITE", string(bytes.TrimSuffix(f[5], suffix))})
	}
	return held
}

// ofOpen asks the processes that have the file open: /proc/PID/fdinfo/FD has the lines of the locks that were taken by this
// descriptor (proc_pid_fdinfo(5)). all tells whether every process could be looked at.
func ofOpen(file *unix.Stat_t) (held []Lock, all bool) {
	processes, err := filepath.Glob("/proc/[0-9]*")
	all = err == nil
	for _, dir := range processes {
		fds, err := os.ReadDir(filepath.Join(dir, "fd"))
		all = all && (err == nil || errors.Is(err, fs.ErrNotExist)) // else it is another user's
		for _, fd := range fds {
			var st unix.Stat_t
			if unix.Stat(filepath.Join(dir, "fd", fd.Name()), &st) != nil || st.Dev != file.Dev || st.Ino != file.Ino {
				continue
			}
			info, err := os.ReadFile(filepath.Join(dir, "fdinfo", fd.Name()))
			if err != nil {
				all = false
				continue
			}
			held = append(held, parse(bytes.ReplaceAll(info, []byte("lock:\t"), nil), file.Ino)...)
		}
	}
	return held, all
}
