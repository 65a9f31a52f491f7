package capture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// age makes files of the database old enough for their sums to be remembered.
func (d *db) age(names ...string) {
	d.t.Helper()
	old := time.Now().Add(-time.Hour)
	for _, name := range names {
		must(d.t, os.Chtimes(filepath.Join(d.dir, name), old, old))
	}
}

func TestSealReadsOnlyWhatIsNew(t *testing.T) {
	d := newDB(t, t.TempDir())
	d.tables(20, "one")
	for i := range 20 {
		d.age(fmt.Sprintf("%06d.ldb", i))
	}
	d.age("deep/000001.ldb", "CURRENT", "MANIFEST-000001", "deep/er/000001.log")
	c := d.mustTake(Link)
	s, err := d.seal(0)
	must(t, err)
	if s.Files != 24 || s.Bytes != c.Bytes || s.Read != c.Bytes {
		t.Fatalf("sealed: %+v, captured %+v", s, c)
	}
	entries := entriesOf(t, d.to)
	if len(entries) != 24 {
		t.Fatalf("%d entries", len(entries))
	}
	for name, e := range entries {
		file := filepath.Join(d.dir, name)
		if st, err := os.Stat(file); err != nil || st.Size() != e.Size || e.Sums["sha256"] != sumFile(t, file) {
			t.Errorf("entry %+v is not %s: %v", e, file, err)
		}
	}
	if r, err := Read(d.to); err != nil || r.Sealed.IsZero() {
		t.Errorf("Read: %+v, %v", r, err)
	}

	// Again, and after a new capture with one new table.
	eventually(t, "nothing is read any more: the small copies were too fresh for their sums to be remembered", func() bool {
		s, err = d.seal(0)
		return err == nil && s.Read == 0
	})
	must(t, Drop(d.to, true, ""))
	d.put("000007.ldb", "a new table")
	d.age("000007.ldb")
	d.mustTake(Link)
	s, err = d.seal(0)
	must(t, err)
	want := int64(len("a new table"))
	for _, name := range []string{"CURRENT", "MANIFEST-000001", "deep/er/000001.log"} {
		want += int64(len(content("one", name))) // copied anew
	}
	if s.Read != want {
		t.Errorf("the second capture read %d bytes, want %d", s.Read, want)
	}
	if got := entriesOf(t, d.to)["000007.ldb"]; got.Sums["sha256"] != sumFile(t, filepath.Join(d.dir, "000007.ldb")) {
		t.Errorf("entry: %+v", got)
	}
}

func TestSealVerifies(t *testing.T) {
	d := newDB(t, t.TempDir())
	d.tables(5, "one")
	d.age("000003.ldb")
	d.mustTake(Link)
	_, err := d.seal(0)
	must(t, err)
	s, err := d.seal(100)
	if err != nil || s.Verified < 1 || s.Read == 0 {
		t.Fatalf("sealed: %+v, %v", s, err)
	}
	if s, err = d.seal(0.001); err != nil || s.Verified != 1 {
		t.Fatalf("a sample is one file at least: %+v, %v", s, err)
	}

	// A bit that rots leaves no trace in size and time.
	table := filepath.Join(d.dir, "000003.ldb")
	rot := []byte(content("one", "000003.ldb"))
	rot[7] ^= 1
	must(t, os.WriteFile(table, rot, 0o644))
	d.age("000003.ldb")
	var st unix.Stat_t
	must(t, unix.Stat(table, &st))
	p, err := openPlace(d.to)
	must(t, err)
	_, recs, err := p.load()
	p.close()
	must(t, err)
	for _, rec := range recs {
		if rec.Name == "000003.ldb" {
			must(t, unix.UtimesNanoAt(unix.AT_FDCWD, table, []unix.Timespec{st.Atim, unix.NsecToTimespec(rec.Src.Mtime)}, 0))
		}
	}
	if _, err = d.seal(0); err != nil {
		t.Fatalf("what is remembered is believed unless told otherwise: %v", err)
	}
	_, err = d.seal(100)
	refused(t, err, "000003.ldb", "SHA-256", SumsName)
}

func TestSealRefusesAChangedCopy(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(d *db) error
		words string
	}{
		"a table rewritten through the node's name": {func(d *db) error {
			return os.WriteFile(filepath.Join(d.dir, "000001.ldb"), []byte(content("two", "000001.ldb")), 0o644)
		}, "000001.ldb was rewritten"},
		"a table cut short": {func(d *db) error { return os.Truncate(filepath.Join(d.dir, "000001.ldb"), 3) }, "000001.ldb had"},
		"a copied file of another size": {func(d *db) error {
			return os.WriteFile(filepath.Join(d.to, DataName, "CURRENT"), nil, 0o644)
		}, "CURRENT had"},
		"a file removed": {func(d *db) error { return os.Remove(filepath.Join(d.to, DataName, "000001.ldb")) }, "000001.ldb is not in the copy"},
		"a file replaced by a link to elsewhere": {func(d *db) error {
			file := filepath.Join(d.to, DataName, "CURRENT")
			return errors.Join(os.Remove(file), os.Symlink("/etc/passwd", file))
		}, "CURRENT is not in the copy"},
		"no copy": {func(d *db) error { return Drop(d.to, false, "") }, "no whole copy"},
		"a machine started anew": {func(d *db) error {
			c, err := readCaptured(filepath.Join(d.to, CapturedName))
			c.Boot = "another"
			line, _ := encodeLine(c)
			return errors.Join(err, os.WriteFile(filepath.Join(d.to, CapturedName), line, 0o644))
		}, "started anew"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDB(t, t.TempDir())
			d.tables(3, "one")
			d.mustTake(Link)
			must(t, test.spoil(d))
			_, err := d.seal(0)
			refused(t, err, test.words)
			if _, err := os.Stat(filepath.Join(d.to, EntriesName)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("there are entries: %v", err)
			}
		})
	}
}

func TestNewCopyHasNoOldEntries(t *testing.T) {
	d := newDB(t, t.TempDir())
	d.tables(3, "one")
	d.mustTake(Link)
	_, err := d.seal(0)
	must(t, err)
	d.mustTake(Link)
	if _, err := os.Stat(filepath.Join(d.to, EntriesName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("entries of the copy before: %v", err)
	}
}

func TestSealIsNotBelievedForFreshFiles(t *testing.T) {
	var st unix.Stat_t
	st.Mtim = unix.NsecToTimespec(time.Now().UnixNano())
	if settled(&st) {
		t.Error("a file of this moment may change once more within a tick of the clock")
	}
	st.Mtim = unix.NsecToTimespec(time.Now().Add(-time.Second).UnixNano())
	if !settled(&st) {
		t.Error("a file of a second ago is never remembered")
	}
}

// Reading the copy leaves in memory what the node had there, and nothing else.
func TestSealLeavesThePageCacheAlone(t *testing.T) {
	d := newDB(t, t.TempDir())
	body := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	d.put("000001.ldb", body)
	d.put("000002.ldb", body)
	must(t, WriteList(d.list, []Item{{"000001.ldb", ModeLink}, {"000002.ldb", ModeLink}}))
	// Of 1 the node has the first 64 KiB in memory, of 2 nothing.
	cold := func(name string) *os.File {
		f, err := os.Open(filepath.Join(d.dir, name))
		must(t, err)
		t.Cleanup(func() { f.Close() })
		must(t, unix.Fsync(int(f.Fd())))
		must(t, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
		return f
	}
	pages := func(f *os.File) (n int) {
		for _, p := range LookResident(f, 0, int64(len(body))).pages {
			n += int(p & 1)
		}
		return n
	}
	one, two := cold("000001.ldb"), cold("000002.ldb")
	must(t, unix.Fadvise(int(one.Fd()), 0, 0, unix.FADV_RANDOM))
	_, err := one.Read(make([]byte, 64<<10))
	must(t, err)
	had := pages(one)
	if n := pages(two); had == 0 || n != 0 {
		t.Skipf("SKIPPED: this file system's page cache can't be emptied (%d and %d pages)", had, n)
	}
	d.mustTake(Link)
	s, err := d.seal(0)
	must(t, err)
	if s.Read != 2<<20 {
		t.Fatalf("sealed: %+v", s)
	}
	if n := pages(one); n != had {
		t.Errorf("the node had %d pages in memory and has %d", had, n)
	}
	if n := pages(two); n != 0 {
		t.Errorf("%d pages of a file that the node does not use stay in memory", n)
	}
}

func TestSumsSurviveATornLine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sums.jsonl")
	id := Ident{Dev: 1, Ino: 2, Size: 3, Mtime: 4}
	sum := strings.Repeat("ab", 32)
	s, err := openSums(file, time.Now())
	must(t, err)
	must(t, s.put(id, sum))
	s.close()
	whole, err := os.ReadFile(file)
	must(t, err)
	must(t, os.WriteFile(file, append(whole, whole[:20]...), 0o600))

	s, err = openSums(file, time.Now())
	must(t, err)
	other := id
	other.Ino = 9
	must(t, s.put(other, sum))
	s.close()
	s, err = openSums(file, time.Now())
	must(t, err)
	for _, id := range []Ident{id, other} {
		if got, ok := s.get(id); !ok || got != sum {
			t.Errorf("%+v is not remembered: %q", id, got)
		}
	}
	must(t, s.rewrite())
	s.close()

	// What was not used for long is forgotten, what was used is not.
	s, err = openSums(file, time.Now().AddDate(0, 0, keepDays+1))
	must(t, err)
	s.get(other)
	must(t, s.rewrite())
	s.close()
	b, err := os.ReadFile(file)
	must(t, err)
	if n := bytes.Count(b, []byte("\n")); n != 1 {
		t.Errorf("%d lines are left:\n%s", n, b)
	}
}

func TestSealIsPaced(t *testing.T) {
	d := newDB(t, t.TempDir())
	d.put("000001.ldb", strings.Repeat("x", 100<<10))
	must(t, WriteList(d.list, []Item{{"000001.ldb", ModeLink}}))
	d.mustTake(Link)
	begun := time.Now()
	var last int64
	_, err := Seal(context.Background(), SealOptions{To: d.to, Rate: 1 << 20, Progress: func(done, total int64) { last = done }})
	must(t, err)
	if took := time.Since(begun); took < 90*time.Millisecond {
		t.Errorf("100 KiB at 1 MiB a second took %v", took)
	}
	if last != 100<<10 {
		t.Errorf("the last progress was %d", last)
	}
}

func TestDrop(t *testing.T) {
	d := newDB(t, t.TempDir())
	must(t, Drop(d.to, false, "")) // nothing is there
	d.tables(3, "one")
	d.mustTake(Link)
	must(t, os.WriteFile(filepath.Join(d.to, "stop.json"), []byte("a driver's own"), 0o644))
	must(t, os.Mkdir(filepath.Join(d.to, newName), 0o755))
	must(t, Drop(d.to, true, ""))
	names, err := os.ReadDir(d.to)
	must(t, err)
	if len(names) != 1 || names[0].Name() != "stop.json" {
		t.Errorf("left: %v", names)
	}
	must(t, os.Remove(filepath.Join(d.to, "stop.json")))
	must(t, Drop(d.to, false, ""))
	if _, err := os.Stat(filepath.Dir(d.to)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty %s is left: %v", folder, err)
	}

	c := d.mustTake(Copy)
	must(t, Drop(d.to, true, "")) // a real copy stays
	d.holds("one")
	must(t, Drop(d.to, false, ""))
	if _, err := Read(d.to); !errors.Is(err, ErrNoCopy) || c.Copied != 7 {
		t.Errorf("%+v: %v", c, err)
	}
	for i := range 3 {
		if _, err := os.Stat(filepath.Join(d.dir, fmt.Sprintf("%06d.ldb", i))); err != nil {
			t.Error(err)
		}
	}
}

// TestDropLeavesTheCopyOfAnotherRun: the undo of a capture that failed must not take away the copy that an earlier
// run left as its result.
func TestDropLeavesTheCopyOfAnotherRun(t *testing.T) {
	d := newDB(t, t.TempDir())
	d.tables(3, "one")
	_, err := Take(t.Context(), TakeOptions{From: d.dir, To: d.to, List: d.list, Method: Link, Run: "first"})
	must(t, err)
	must(t, Drop(d.to, true, "second"))
	if _, err := Read(d.to); err != nil {
		t.Fatalf("the copy of another run is gone: %v", err)
	}
	must(t, Drop(d.to, true, "first"))
	if _, err := Read(d.to); !errors.Is(err, ErrNoCopy) {
		t.Fatalf("its own drop left the copy: %v", err)
	}
}
