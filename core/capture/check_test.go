package capture

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCheck(t *testing.T) {
	d := newDB(t, t.TempDir())
	d.tables(5, "one")
	must(t, os.MkdirAll(filepath.Join(d.to, newName), 0o755))
	c, err := Check(context.Background(), CheckOptions{From: d.dir, To: d.to, Never: []string{"*.key"}})
	must(t, err)
	if c.Method == Copy || c.Files != 9 || c.Bytes == 0 || c.Free <= c.Need {
		t.Errorf("checked: %+v", c)
	}
	names, err := os.ReadDir(d.to)
	must(t, err)
	if len(names) != 0 {
		t.Errorf("check left %v", names)
	}
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(d.dir, "000000.ldb"), &st))
	if st.Nlink != 1 {
		t.Errorf("the trial link is there still")
	}
	c, err = Check(context.Background(), CheckOptions{From: d.dir, To: d.to, Method: Copy})
	must(t, err)
	if c.Method != Copy || c.Need < c.Bytes {
		t.Errorf("checked: %+v", c)
	}
}

func TestCheckRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(d *db)
		words string
	}{
		"a key":              {func(d *db) { d.put("node.key", "secret") }, "node.key"},
		"a key further down": {func(d *db) { d.put("deep/er/blskeys/0.key", "secret") }, "0.key"},
		"a folder of keys":   {func(d *db) { d.put("deep/keystore/UTC--1", "secret") }, "keystore"},
		"a link to a key": {func(d *db) {
			must(d.t, os.Symlink("/etc/hostname", filepath.Join(d.dir, "x.key")))
		}, "x.key"},
		"no files":    {func(d *db) { must(d.t, os.RemoveAll(d.dir)); must(d.t, os.Mkdir(d.dir, 0o755)) }, "holds no files"},
		"no database": {func(d *db) { must(d.t, os.RemoveAll(d.dir)) }, "is not there"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDB(t, t.TempDir())
			d.tables(2, "one")
			test.spoil(d)
			_, err := Check(context.Background(), CheckOptions{From: d.dir, To: d.to, Never: []string{"*.key", "keystore"}})
			refused(t, err, test.words)
		})
	}
	d := newDB(t, t.TempDir())
	d.tables(2, "one")
	if _, err := Check(context.Background(), CheckOptions{From: d.dir, To: d.to, Never: []string{"[a"}}); err == nil {
		t.Error("a pattern that is none was accepted")
	}
}

// A bind mount has the same device number and still can't be linked to: only a trial tells.
func TestCheckFindsABindMount(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: only root can make a bind mount")
	}
	d := newDB(t, t.TempDir())
	d.tables(2, "one")
	if err := unix.Mount(d.dir, d.dir, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("SKIPPED: no bind mounts here: %v", err)
	}
	defer unix.Unmount(d.dir, unix.MNT_DETACH)
	c, err := Check(context.Background(), CheckOptions{From: d.dir, To: d.to})
	must(t, err)
	if c.Method != Copy {
		t.Errorf("checked: %+v", c)
	}
	if c := d.mustTake(Auto); c.Method != Copy {
		t.Errorf("captured: %+v", c)
	}
	d.holds("one")
}

func TestCheckWantsRoom(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: only root can mount a small tmpfs")
	}
	small := t.TempDir()
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=66m"); err != nil {
		t.Skipf("SKIPPED: no tmpfs here: %v", err)
	}
	defer unix.Unmount(small, unix.MNT_DETACH)
	d := newDB(t, t.TempDir())
	d.tables(2, "one")
	d.to = Dir(filepath.Join(small, "db"))
	if _, err := Check(context.Background(), CheckOptions{From: d.dir, To: d.to}); err != nil {
		t.Fatal(err)
	}
	must(t, os.Truncate(filepath.Join(d.dir, "000001.ldb"), 3<<20))
	_, err := Check(context.Background(), CheckOptions{From: d.dir, To: d.to})
	refused(t, err, "MiB free", "make room")

	// What fills the disk in the middle of a take leaves nothing behind.
	must(t, os.WriteFile(filepath.Join(d.dir, "000001.ldb"), bytes.Repeat([]byte("x"), 70<<20), 0o644))
	if _, err := d.take(Auto); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("take on a full disk: %v", err)
	}
	var st unix.Statfs_t
	must(t, unix.Statfs(small, &st))
	if int64(st.Bfree)*st.Bsize < 65<<20 {
		t.Errorf("only %d MiB are free again", int64(st.Bfree)*st.Bsize>>20)
	}
}

// As another user, who owns the folder for the copy but not the database.
func TestCheckNamesTheOwner(t *testing.T) {
	const nobody = 65534
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: only root can become another user")
	}
	if on, err := os.ReadFile("/proc/sys/fs/protected_hardlinks"); err != nil || strings.TrimSpace(string(on)) != "1" {
		t.Skip("SKIPPED: fs.protected_hardlinks is off here")
	}
	parent, err := os.MkdirTemp("", "capture")
	must(t, err)
	defer os.RemoveAll(parent)
	must(t, os.Chmod(parent, 0o777))
	d := newDB(t, parent)
	d.tables(2, "one")
	binary := filepath.Join(parent, "capture.test")
	b, err := os.ReadFile(os.Args[0])
	must(t, err)
	must(t, os.WriteFile(binary, b, 0o755))
	as := func(args ...string) (string, int) {
		cmd := exec.Command(binary, args...)
		cmd.Env = []string{asChild + "=capture"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		out, _ := cmd.CombinedOutput()
		return string(out), cmd.ProcessState.ExitCode()
	}
	must(t, os.Chmod(d.list, 0o644))
	out, code := as("check", "--from", d.dir, "--to", d.to)
	if code != 3 || !strings.Contains(out, "belongs to root") || !strings.Contains(out, "log in as root") {
		t.Errorf("check ended with %d: %s", code, out)
	}
	// One foreign file among one's own is enough.
	must(t, exec.Command("chown", "-R", fmt.Sprint(nobody), d.dir).Run())
	must(t, os.Chown(filepath.Join(d.dir, "deep", "000001.ldb"), 0, 0))
	out, code = as("check", "--from", d.dir, "--to", d.to)
	if code != 3 || !strings.Contains(out, "deep/000001.ldb belongs to root") {
		t.Errorf("check ended with %d: %s", code, out)
	}
	must(t, os.Chown(filepath.Join(d.dir, "deep", "000001.ldb"), nobody, nobody))
	out, code = as("check", "--from", d.dir, "--to", d.to)
	var c Checked
	if err := json.Unmarshal([]byte(out), &c); code != 0 || err != nil || c.Files != 6 {
		t.Errorf("check ended with %d: %s", code, out)
	}
}

func TestWarm(t *testing.T) {
	d := newDB(t, t.TempDir())
	d.tables(20, "one")
	ctx := context.Background()
	o := WarmOptions{From: d.dir, To: d.to}
	w, err := Warm(ctx, o)
	must(t, err)
	if w.Method == Copy || w.Files != 0 {
		t.Fatalf("warmed where links work: %+v", w)
	}
	o.Method = Copy
	var done, total int64
	o.Progress = func(d, t int64) { done, total = d, t }
	w, err = Warm(ctx, o)
	must(t, err)
	if w.Files != 24 || w.Copied != w.Bytes || done != w.Bytes || total != w.Bytes {
		t.Fatalf("warmed: %+v, progress %d of %d", w, done, total)
	}
	if w, err = Warm(ctx, o); err != nil || w.Files != 24 || w.Copied != 0 {
		t.Fatalf("warmed again: %+v, %v", w, err)
	}
	// The node goes on: one file is gone, one is new, one is written to.
	must(t, os.Remove(filepath.Join(d.dir, "000019.ldb")))
	d.put("CURRENT", content("one", "CURRENT"))
	d.put("000020.ldb", content("one", "000020.ldb"))
	if w, err = Warm(ctx, o); err != nil || w.Files != 24 || w.Copied != 2*int64(len(content("one", "CURRENT")))+3*50 {
		t.Fatalf("warmed a third time: %+v, %v", w, err)
	}
	d.put("CURRENT", content("one", "CURRENT"))
	items, err := readListFile(d.list)
	must(t, err)
	for i := range items {
		if items[i].Name == "000019.ldb" {
			items[i].Name = "000020.ldb"
		}
	}
	must(t, WriteList(d.list, items))
	c := d.mustTake(Copy)
	if c.Copied != 1 || c.Reused != 23 {
		t.Fatalf("captured: %+v", c)
	}
	d.holds("one")
	_, err = d.seal(0)
	must(t, err)
	onlyWhole(t, d)

	// What the copy holds is not copied beforehand once more.
	if w, err = Warm(ctx, o); err != nil || w.Copied != int64(len(content("one", "CURRENT"))) && w.Copied != 0 {
		t.Fatalf("warmed after a capture: %+v, %v", w, err)
	}
	if c = d.mustTake(Copy); c.Copied != 0 || c.Reused != 24 {
		t.Fatalf("captured: %+v", c)
	}
	d.holds("one")
}

// A warm pass that was killed has lost at most the files it was at.
func TestWarmCarriesOn(t *testing.T) {
	d := newDB(t, t.TempDir())
	d.tables(20, "one")
	o := WarmOptions{From: d.dir, To: d.to, Method: Copy}
	_, err := Warm(context.Background(), o)
	must(t, err)
	file := filepath.Join(d.to, warmRecords)
	b, err := os.ReadFile(file)
	must(t, err)
	lines := bytes.SplitAfter(b, []byte("\n"))
	torn := append(bytes.Join(lines[:10], nil), lines[10][:30]...)
	must(t, os.WriteFile(file, torn, 0o644))
	w, err := Warm(context.Background(), o)
	must(t, err)
	if w.Files != 24 || w.Copied >= w.Bytes || w.Copied == 0 {
		t.Errorf("warmed: %+v", w)
	}
	if c := d.mustTake(Copy); c.Reused != 24 {
		t.Errorf("captured: %+v", c)
	}
	d.holds("one")
}
