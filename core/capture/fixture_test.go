package capture

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/snapfw/snapfw/core"
	"golang.org/x/sys/unix"
)

// The test binary is also the processes that tests kill.
const asChild = "SNAPFW_CAPTURE_TEST"

func TestMain(m *testing.M) {
	switch os.Getenv(asChild) {
	case "":
		os.Exit(m.Run())
	case "capture":
		os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	case "writer":
		os.Exit(writer(os.Args[1], os.Args[2]))
	}
	panic("unknown child")
}

func child(t *testing.T, what string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asChild+"="+what, "GORACE=atexit_sleep_ms=0") // else each exit takes a second under -race
	cmd.Stderr = os.Stderr
	return cmd
}

// db is a database of plain files on some directory, and where its copy goes.
type db struct {
	t    testing.TB
	dir  string
	to   string
	list string
}

func newDB(t testing.TB, parent string) *db {
	t.Helper()
	d := &db{t: t, dir: filepath.Join(parent, "db"), list: filepath.Join(t.TempDir(), "live.jsonl")}
	d.to = Dir(d.dir)
	must(t, os.MkdirAll(d.dir, 0o755))
	return d
}

// put replaces a file of the database, by a new inode.
func (d *db) put(name, body string) {
	d.t.Helper()
	file := filepath.Join(d.dir, name)
	must(d.t, os.MkdirAll(filepath.Dir(file), 0o755))
	if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
		d.t.Fatal(err)
	}
	must(d.t, os.WriteFile(file, []byte(body), 0o644))
}

// tables makes numbered tables and the small files beside them, all of one generation, and
// writes the live list.
func (d *db) tables(n int, generation string) {
	d.t.Helper()
	items := []Item{{"CURRENT", ModeCopy}, {"MANIFEST-000001", ModeCopy}, {"deep/er/000001.log", ModeCopy}}
	for i := range n {
		items = append(items, Item{fmt.Sprintf("%06d.ldb", i), ModeLink})
	}
	items = append(items, Item{"deep/000001.ldb", ModeLink})
	for _, item := range items {
		d.put(item.Name, content(generation, item.Name))
	}
	must(d.t, WriteList(d.list, items))
}

func content(generation, name string) string {
	return strings.Repeat(generation+" "+name+"\n", 50)
}

func (d *db) take(m Method) (Captured, error) {
	d.t.Helper()
	return Take(context.Background(), TakeOptions{From: d.dir, To: d.to, List: d.list, Method: m})
}

func (d *db) mustTake(m Method) Captured {
	d.t.Helper()
	c, err := d.take(m)
	must(d.t, err)
	return c
}

func (d *db) seal(verify float64) (Sealed, error) {
	d.t.Helper()
	return Seal(context.Background(), SealOptions{To: d.to, Verify: verify})
}

// holds checks that the copy is whole and of one generation.
func (d *db) holds(generation string) {
	d.t.Helper()
	p, err := openPlace(d.to)
	must(d.t, err)
	defer p.close()
	c, recs, err := p.load()
	must(d.t, err)
	if c.Files != len(recs) || len(recs) == 0 {
		d.t.Fatalf("captured.json says %d files, the records name %d", c.Files, len(recs))
	}
	for _, rec := range recs {
		b, err := os.ReadFile(filepath.Join(d.to, DataName, rec.Name))
		must(d.t, err)
		if string(b) != content(generation, rec.Name) {
			d.t.Fatalf("%s is not of generation %s: %.40q", rec.Name, generation, b)
		}
	}
}

func entriesOf(t testing.TB, to string) map[string]core.Entry {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(to, EntriesName))
	must(t, err)
	all := map[string]core.Entry{}
	last := ""
	for line := range bytes.Lines(b) {
		var e core.Entry
		must(t, json.Unmarshal(line, &e))
		if e.Name <= last {
			t.Fatalf("entries are not sorted: %q after %q", e.Name, last)
		}
		last = e.Name
		all[e.Name] = e
	}
	return all
}

func sumFile(t testing.TB, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	must(t, err)
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// refused checks that an error is a refusal which says these words.
func refused(t testing.TB, err error, words ...string) {
	t.Helper()
	r, ok := err.(*RefusedError)
	if !ok {
		t.Fatalf("want a refusal, got %v", err)
	}
	for _, w := range words {
		if !strings.Contains(r.Reason, w) {
			t.Fatalf("the refusal %q does not say %q", r.Reason, w)
		}
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited too long until %s", what)
		}
	}
}

// otherFS returns a directory on another file system than the test's own.
func otherFS(t testing.TB) string {
	t.Helper()
	var here, there unix.Stat_t
	must(t, unix.Stat(t.TempDir(), &here))
	if unix.Stat("/dev/shm", &there) != nil || here.Dev == there.Dev {
		t.Skip("SKIPPED: no second file system (/dev/shm) on this machine: copies across file systems are not tested")
	}
	dir, err := os.MkdirTemp("/dev/shm", "capture")
	if err != nil {
		t.Skipf("SKIPPED: /dev/shm is not writable: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// reflinkFS mounts a file system that can clone, on a loop device.
func reflinkFS(t testing.TB, mib int64) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: only root can mount an xfs to try clones on")
	}
	mkfs, err := exec.LookPath("mkfs.xfs")
	if err != nil {
		t.Skip("SKIPPED: mkfs.xfs is not installed (xfsprogs): clones are not tested")
	}
	image := filepath.Join(t.TempDir(), "xfs")
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, mib<<20))
	if out, err := exec.Command(mkfs, "-q", "-m", "reflink=1", image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.xfs: %v: %s", err, out)
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: no loop mount here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}
