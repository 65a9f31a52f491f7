//go:build linux

package onhost

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// woken waits on an alarm for longer than the test may take, and wants it to be woken by what do does.
func woken(t *testing.T, a *alarm, do func() error) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		a.wait(time.Hour)
		close(done)
	}()
	if err := do(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("nothing woke it")
	}
}

func TestAlarm(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := procOf(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeJSON(inDir(dir, fileSupervisor), p); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	a := newAlarm(dir, w)
	defer a.off()
	if a.end < 0 {
		if _, err := unix.PidfdOpen(os.Getpid(), 0); err == unix.ENOSYS {
			t.Skip("SKIPPED: this kernel has no pidfds")
		}
		t.Fatal("no alarm was set for a process that runs")
	}
	if !a.heard() {
		t.Error("nobody is said to listen")
	}
	woken(t, a, func() error { defer cmd.Wait(); return cmd.Process.Kill() })
	if a.end >= 0 {
		t.Error("the end would be told again and again")
	}
	if again := newAlarm(dir, w); again.end >= 0 {
		t.Error("an alarm was set for a process that is gone")
	}
	woken(t, a, r.Close)
	if a.heard() {
		t.Error("somebody is said to listen")
	}
}
