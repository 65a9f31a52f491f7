//go:build linux

package onhost

import (
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// alarm is what ends a wait beside a job: its supervisor ends, or nobody reads what is said of it. A wait that only looks now and then
// is the longer late the longer the job takes, and while a node is down each of its jobs is waited for.
type alarm struct {
	end    int // a pidfd of the supervisor, which is readable once that ended; -1 if there is none
	reader int // where reports go; -1 if that is no file
}

// newAlarm makes one for the job of a folder. Where the kernel has no pidfds (before Linux 5.3), or the supervisor is
// gone, nothing but the reader's end wakes.
func newAlarm(dir string, reports io.Writer) *alarm {
	a := &alarm{-1, -1}
	if f, ok := reports.(*os.File); ok {
		a.reader = int(f.Fd())
	}
	var p proc
	if readJSON(inDir(dir, fileSupervisor), &p) != nil || p.PID <= 0 {
		return a
	}
	end, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return a
	}
	if a.end = end; !p.alive() { // by now, another process may have its number
		a.off()
	}
	return a
}

func (a *alarm) off() {
	if a.end >= 0 {
		unix.Close(a.end)
	}
	a.end = -1
}

// wait returns after d, or as soon as something happened. The supervisor's end is told once.
func (a *alarm) wait(d time.Duration) {
	// A negative descriptor is passed over; without events only errors and hang-ups are told.
	fds := []unix.PollFd{{Fd: int32(a.end), Events: unix.POLLIN}, {Fd: int32(a.reader)}}
	unix.Poll(fds, max(1, int(d.Milliseconds())))
	if fds[0].Revents != 0 {
		a.off()
	}
}

// heard tells whether somebody still has the other end of the pipe or socket.
func (a *alarm) heard() bool {
	fds := []unix.PollFd{{Fd: int32(a.reader)}}
	n, err := unix.Poll(fds, 0)
	return err != nil || n == 0 || fds[0].Revents&(unix.POLLERR|unix.POLLHUP) == 0
}
