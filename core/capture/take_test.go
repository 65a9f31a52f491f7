package capture

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func inodeOf(t testing.TB, file string) uint64 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(file, &st))
	return st.Ino
}

func TestTakeLinksTablesAndCopiesTheRest(t *testing.T) {
	d := newDB(t, t.TempDir())
	d.tables(20, "one")
	d.put("999999.ldb", "left by a compaction that was not finished")
	var before unix.Stat_t
	must(t, unix.Stat(filepath.Join(d.dir, "000003.ldb"), &before))

	c := d.mustTake(Link)
	if c.Method != Link || c.Linked != 21 || c.Copied != 3 || c.Files != 24 || c.Cloned+c.Reused != 0 {
		t.Fatalf("captured: %+v", c)
	}
	d.holds("one")
	var linked unix.Stat_t
	must(t, unix.Stat(filepath.Join(d.to, DataName, "000003.ldb"), &linked))
	if linked.Ino != before.Ino || linked.Mtim != before.Mtim || linked.Mode != before.Mode || linked.Uid != before.Uid {
		t.Errorf("a table was touched: %+v, was %+v", linked, before)
	}
	for _, name := range []string{"CURRENT", "deep/er/000001.log"} {
		if inodeOf(t, filepath.Join(d.dir, name)) == inodeOf(t, filepath.Join(d.to, DataName, name)) {
			t.Errorf("%s, which the node writes to, is linked", name)
		}
	}
	if _, err := os.Lstat(filepath.Join(d.to, DataName, "999999.ldb")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that the list does not name is in the copy: %v", err)
	}
	if r, err := Read(d.to); err != nil || r.Data != c.Data || !r.When.Equal(c.When) {
		t.Errorf("Read: %+v, %v", r, err)
	}

	d.tables(10, "two")
	d.mustTake(Link)
	d.holds("two")
	if _, err := os.Lstat(filepath.Join(d.to, DataName, "000015.ldb")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the first copy's files are in the second: %v", err)
	}
}

func TestTakeAcrossFileSystems(t *testing.T) {
	d := newDB(t, t.TempDir())
	d.to = Dir(filepath.Join(otherFS(t), "db"))
	d.tables(20, "one")
	c := d.mustTake(Auto)
	if c.Method != Copy || c.Copied != 24 || c.Linked != 0 {
		t.Fatalf("captured: %+v", c)
	}
	d.holds("one")
	if _, err := d.take(Link); err == nil {
		t.Error("linked across file systems")
	} else {
		refused(t, err, "can't be linked")
	}
	d.holds("one")

	// Only what changed is copied again.
	kept := inodeOf(t, filepath.Join(d.to, DataName, "000003.ldb"))
	d.put("CURRENT", content("one", "CURRENT"))
	c = d.mustTake(Auto)
	if c.Copied != 1 || c.Reused != 23 {
		t.Fatalf("captured: %+v", c)
	}
	d.holds("one")
	if inodeOf(t, filepath.Join(d.to, DataName, "000003.ldb")) != kept {
		t.Error("an unchanged file is another one")
	}
	// A copy that somebody started a node on is not what was copied any more.
	must(t, os.WriteFile(filepath.Join(d.to, DataName, "000003.ldb"), []byte("a node was here"), 0o644))
	if c = d.mustTake(Auto); c.Copied != 1 {
		t.Fatalf("captured: %+v", c)
	}
	d.holds("one")
}

func TestTakeByClone(t *testing.T) {
	d := newDB(t, reflinkFS(t, 400))
	d.tables(50, "one")
	c := d.mustTake(Auto)
	if c.Method != Clone || c.Cloned != 54 || c.Linked+c.Copied != 0 {
		t.Fatalf("captured: %+v", c)
	}
	if s, err := d.seal(0); err != nil || s.Read != c.Bytes {
		t.Fatalf("seal: %+v, %v", s, err)
	}
	// Nothing that happens to the node's files reaches a clone.
	must(t, os.WriteFile(filepath.Join(d.dir, "000003.ldb"), []byte("rewritten"), 0o644))
	d.holds("one")
	if _, err := d.seal(100); err != nil {
		t.Fatal(err)
	}
	// Clones are new files at each capture, and need not be read again for all that.
	d.put("000003.ldb", content("one", "000003.ldb"))
	c = d.mustTake(Auto)
	s, err := d.seal(0)
	must(t, err)
	if want := int64(len(content("one", "000003.ldb"))); s.Read != want {
		t.Errorf("the second seal read %d bytes, only %d are new", s.Read, want)
	}
	if c = d.mustTake(Link); c.Linked != 51 {
		t.Errorf("captured: %+v", c)
	}
	d.holds("one")
}

func TestTakeRefuses(t *testing.T) {
	plain := `{"name":"CURRENT","mode":"copy"}` + "\n"
	for name, test := range map[string]struct {
		list  string
		spoil func(t *testing.T, d *db)
		words string
	}{
		"a named file that is missing": {plain + `{"name":"000777.ldb","mode":"link"}`, nil, "000777.ldb"},
		"a missing copied file":        {plain + `{"name":"LOST","mode":"copy"}`, nil, "LOST"},
		"a missing folder":             {plain + `{"name":"x/y.ldb","mode":"link"}`, nil, "x/y.ldb"},
		"a link to elsewhere": {plain + `{"name":"out.ldb","mode":"link"}`, func(t *testing.T, d *db) {
			must(t, os.Symlink("/etc/passwd", filepath.Join(d.dir, "out.ldb")))
		}, "not a regular file"},
		"a copied link to elsewhere": {plain + `{"name":"out","mode":"copy"}`, func(t *testing.T, d *db) {
			must(t, os.Symlink("/etc/passwd", filepath.Join(d.dir, "out")))
		}, "not a regular file"},
		"a folder that leads elsewhere": {plain + `{"name":"etc/passwd","mode":"copy"}`, func(t *testing.T, d *db) {
			must(t, os.Symlink("/etc", filepath.Join(d.dir, "etc")))
		}, "not a regular file"},
		"a fifo": {plain + `{"name":"pipe","mode":"copy"}`, func(t *testing.T, d *db) {
			must(t, unix.Mkfifo(filepath.Join(d.dir, "pipe"), 0o600))
		}, "not a regular file"},
		"a folder as a file": {plain + `{"name":"deep","mode":"copy"}`, nil, "not a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDB(t, t.TempDir())
			d.tables(2, "one")
			d.mustTake(Auto)
			if test.spoil != nil {
				test.spoil(t, d)
			}
			must(t, os.WriteFile(d.list, []byte(test.list), 0o644))
			for _, m := range []Method{Auto, Copy} {
				_, err := d.take(m)
				refused(t, err, test.words)
			}
			d.holds("one")
			if _, err := os.Lstat(filepath.Join(d.to, newName)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("half a copy was left: %v", err)
			}
		})
	}
}

func TestTakeWantsItsOwnPlace(t *testing.T) {
	d := newDB(t, t.TempDir())
	d.tables(1, "one")
	ctx := context.Background()
	for _, to := range []string{"", "relative/.snapfw/db", filepath.Dir(d.dir), d.dir, filepath.Join(d.dir, "..", "copy")} {
		if _, err := Take(ctx, TakeOptions{From: d.dir, To: to, List: d.list}); err == nil {
			t.Errorf("%q was accepted as the directory of a copy", to)
		}
		if err := Drop(to, false, ""); err == nil {
			t.Errorf("%q was accepted as the directory of a copy to drop", to)
		}
	}
	_, err := Take(ctx, TakeOptions{From: d.dir, To: Dir(filepath.Join(d.dir, "inner")), List: d.list})
	refused(t, err, "in each other")
	must(t, os.Symlink(d.dir, filepath.Join(filepath.Dir(d.dir), folder)))
	_, err = d.take(Auto)
	refused(t, err, "is no directory")
	d.dir = filepath.Join(d.dir, "absent")
	_, err = Take(ctx, TakeOptions{From: d.dir, To: Dir(filepath.Join(t.TempDir(), "db")), List: d.list})
	refused(t, err, "is not there")
}

func TestOnlyOneAtATime(t *testing.T) {
	d := newDB(t, t.TempDir())
	d.tables(1, "one")
	p, err := openPlace(d.to)
	must(t, err)
	if _, err := d.take(Auto); !errors.Is(err, ErrBusy) {
		t.Errorf("take beside another: %v", err)
	}
	if err := Drop(d.to, false, ""); !errors.Is(err, ErrBusy) {
		t.Errorf("drop beside another: %v", err)
	}
	p.close()
	d.mustTake(Auto)
}

func TestTakeFindsALiveStore(t *testing.T) {
	d := newDB(t, t.TempDir())
	d.tables(2, "one")
	for _, m := range []Method{Link, Copy} {
		src, err := openTree(d.dir, false)
		must(t, err)
		dst, err := openTree(t.TempDir(), true)
		must(t, err)
		items, err := readListFile(d.list)
		must(t, err)
		b := builder{src: src, dst: dst, items: items, method: m, workers: 1}
		must(t, b.build(context.Background(), nil))
		must(t, os.WriteFile(filepath.Join(d.dir, "MANIFEST-000001"), []byte("appended"), 0o644))
		refused(t, b.still(), "MANIFEST-000001", "still writing")
		d.put("MANIFEST-000001", content("one", "MANIFEST-000001"))
		src.close()
		dst.close()
	}
}

// Every moment at which take can die around the exchange, one by one.
func TestTakeDiesAroundTheExchange(t *testing.T) {
	real := exchange
	defer func() { exchange = real }()
	die := func(d *db, at func(a, b string) error) {
		exchange = func(a, b string) error {
			must(t, at(a, b))
			panic("killed")
		}
		defer func() { exchange = real; _ = recover() }()
		d.take(Auto)
	}
	for name, test := range map[string]struct {
		at   func(a, b string) error
		want string
	}{
		"before":                  {func(a, b string) error { return nil }, "one"},
		"after":                   {func(a, b string) error { return real(a, b) }, "two"},
		"where it can't exchange": {func(a, b string) error { return os.Rename(b, filepath.Join(filepath.Dir(b), "trash-1")) }, "two"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDB(t, t.TempDir())
			d.tables(5, "one")
			d.mustTake(Link)
			d.tables(5, "two")
			die(d, test.at)
			d.holds(test.want)
			d.tables(5, "three")
			d.mustTake(Link)
			d.holds("three")
			if _, err := d.seal(0); err != nil {
				t.Fatal(err)
			}
			onlyWhole(t, d)
		})
	}
}

func TestTakeWithoutExchange(t *testing.T) {
	real := exchange
	defer func() { exchange = real }()
	exchange = func(a, b string) error { return unix.EINVAL }
	d := newDB(t, t.TempDir())
	for _, generation := range []string{"one", "two", "three"} {
		d.tables(5, generation)
		d.mustTake(Auto)
		d.holds(generation)
	}
}

// onlyWhole checks that nothing but a sealed copy is left.
func onlyWhole(t *testing.T, d *db) {
	t.Helper()
	names, err := os.ReadDir(d.to)
	must(t, err)
	for _, e := range names {
		switch name := e.Name(); {
		case name == DataName, name == CapturedName, name == EntriesName, name == SumsName, strings.HasPrefix(name, filesPrefix):
		default:
			t.Errorf("%s was left behind", name)
		}
	}
}

// A take that is killed at any moment leaves the old copy or the new one.
func TestTakeKilled(t *testing.T) {
	for _, m := range []Method{Link, Copy} {
		t.Run(string(m), func(t *testing.T) {
			d := newDB(t, t.TempDir())
			generation := func(i int) string { return string(rune('a' + i%26)) }
			d.tables(60, generation(0))
			begun := time.Now()
			cmd := child(t, "capture", "take", "--from", d.dir, "--to", d.to, "--list", d.list, "--method", string(m))
			must(t, cmd.Run())
			whole := time.Since(begun)
			d.holds(generation(0))

			const rounds = 25
			now, killed, replaced := 0, 0, 0
			for i := 1; i <= rounds; i++ {
				d.tables(60, generation(i))
				cmd := child(t, "capture", "take", "--from", d.dir, "--to", d.to, "--list", d.list, "--method", string(m))
				must(t, cmd.Start())
				// The moment is the point of this test, not something to wait for.
				time.Sleep(whole/4 + rand.N(whole))
				cmd.Process.Kill()
				if cmd.Wait() != nil {
					killed++
				}
				p, err := openPlace(d.to)
				must(t, err)
				_, recs, err := p.load()
				p.close()
				must(t, err)
				b, err := os.ReadFile(filepath.Join(d.to, DataName, recs[0].Name))
				must(t, err)
				if string(b) == content(generation(i), recs[0].Name) {
					now, replaced = i, replaced+1
				}
				d.holds(generation(now))
			}
			t.Logf("%d of %d were killed, %d had replaced the copy", killed, rounds, replaced)
			if killed == 0 {
				t.Error("not one was killed in time")
			}
			if _, err := d.seal(0); err != nil {
				t.Fatal(err)
			}
			onlyWhole(t, d)
		})
	}
}

func TestCancelledTakeLeavesNothing(t *testing.T) {
	d := newDB(t, t.TempDir())
	d.tables(3, "one")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Take(ctx, TakeOptions{From: d.dir, To: d.to, List: d.list}); !errors.Is(err, context.Canceled) {
		t.Errorf("take: %v", err)
	}
	if _, err := Read(d.to); !errors.Is(err, ErrNoCopy) {
		t.Errorf("read: %v", err)
	}
}
