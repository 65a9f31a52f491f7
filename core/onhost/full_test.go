//go:build linux

package onhost

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fill is a box whose disk is small, and a script that fills it to the last byte.
func fullBox(t *testing.T) (b *box, fill string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: only root can mount a small disk to fill")
	}
	b = newBox(t)
	if err := unix.Mount("tmpfs", b.root, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("SKIPPED: a small disk can't be mounted here: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(b.root, unix.MNT_DETACH) })
	return b, "cat /dev/zero >" + filepath.Join(b.root, "fill") + " 2>/dev/null; "
}

func TestJobThatFillsTheDisk(t *testing.T) {
	t.Parallel()
	b, fill := fullBox(t)
	res, _ := b.job(sh("r/n/s/1", fill+"exit 6"), nil)
	if res.Exit != 6 || res.Lost {
		t.Errorf("%+v", res)
	}
}

func TestGuardOnAFullDisk(t *testing.T) {
	t.Parallel()
	b, fill := fullBox(t)
	g := leased("n", "exit 0", "exit 0")
	b.arm(g)
	fireAt := inDir(guardDir(b.root, g.Key)+"/1", fileLease)
	at, err := now()
	if err != nil {
		t.Fatal(err)
	}
	at.Since -= 2 * time.Hour
	old := filepath.Join(b.root, "old-lease") // prepared: there is no room for it later
	if err := writeJSON(old, at); err != nil {
		t.Fatal(err)
	}
	j := sh("r/n/capture/1", fill+"mv "+old+" "+fireAt+"; exec sleep 60")
	j.Guard, j.Settle = g.Key, true
	res, _ := b.job(j, nil)
	if res.Exit != 128+15 || !res.Void {
		t.Errorf("%+v", res)
	}
	if st := b.paid(g.Key); st.State != Fired {
		t.Errorf("%+v", st)
	}
}
