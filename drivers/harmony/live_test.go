package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/journal"
	"github.com/syndtr/goleveldb/leveldb/opt"
)

// small makes tables appear quickly.
var small = &opt.Options{WriteBuffer: 64 << 10, CompactionTableSize: 32 << 10, CompactionTotalSize: 128 << 10}

func openDB(t testing.TB, dir string) *leveldb.DB {
	t.Helper()
	db, err := leveldb.OpenFile(dir, small)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// putBlocks writes blocks as Harmony's rawdb does, the n-th from a to b, and noise that compacts.
func putBlocks(t testing.TB, db *leveldb.DB, a, b uint64) {
	t.Helper()
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], a)
	noise := rand.NewChaCha8(seed)
	for n := a; n <= b; n++ {
		hash := blockHashOf(n)
		w := new(leveldb.Batch)
		w.Put(keyNumber(hash[:]), binary.BigEndian.AppendUint64(nil, n))
		w.Put(keyCanonical(n), hash[:])
		w.Put(keyHeader(n, hash[:]), []byte(fmt.Sprintf("header %d", n)))
		w.Put(keyLastBlock, hash[:])
		for range 8 {
			v := make([]byte, 400)
			if _, err := noise.Read(v); err != nil {
				t.Fatal(err)
			}
			w.Put(binary.BigEndian.AppendUint64([]byte("s"), noise.Uint64()%1500), v)
		}
		if err := db.Write(w, nil); err != nil {
			t.Fatal(err)
		}
	}
}

func blockHashOf(n uint64) [32]byte { return sha256.Sum256([]byte(fmt.Sprint("block ", n))) }

// content sums everything that a database holds.
func content(t testing.TB, db *leveldb.DB) (sum [32]byte, keys int) {
	t.Helper()
	h := sha256.New()
	it := db.NewIterator(nil, nil)
	defer it.Release()
	for it.Next() {
		fmt.Fprintf(h, "%d %x %x\n", keys, it.Key(), it.Value())
		keys++
	}
	if err := it.Error(); err != nil {
		t.Fatal(err)
	}
	return [32]byte(h.Sum(nil)), keys
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// place makes a copy by a live list: links and copies, as "capture take" does.
func place(t testing.TB, from, to string, list []liveFile) {
	t.Helper()
	if err := os.MkdirAll(to, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, l := range list {
		if l.Mode == modeCopy {
			copyFile(t, filepath.Join(from, l.Name), filepath.Join(to, l.Name))
		} else if err := os.Link(filepath.Join(from, l.Name), filepath.Join(to, l.Name)); err != nil {
			t.Fatal(err)
		}
	}
}

// realCopy makes a copy that may be opened: nothing is shared.
func realCopy(t testing.TB, from string) string {
	t.Helper()
	to := t.TempDir()
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		copyFile(t, filepath.Join(from, e.Name()), filepath.Join(to, e.Name()))
	}
	return to
}

func TestLiveSetHoldsEverything(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "harmony_db_0")
	for round := range uint64(4) {
		db := openDB(t, dir)
		putBlocks(t, db, round*120+1, round*120+120)
		if round == 2 {
			if err := db.CompactRange(utilRange()); err != nil {
				t.Fatal(err)
			}
		}
		want, n := content(t, db)
		if _, err := liveSet(dir); !errors.Is(err, errRefused) {
			t.Fatalf("a store that is open is listed: %v", err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		// Junk that the manifest does not name, as a store leaves that ended in a compaction.
		for _, name := range []string{"999990.ldb", "000000.tmp", "LOG.old", "CURRENT.bak", "0x1.log"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte("junk"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		list, err := liveSet(dir)
		if err != nil {
			t.Fatal(err)
		}
		tables := 0
		for _, l := range list {
			if strings.HasPrefix(l.Name, "99999") || !strings.HasSuffix(l.Name, ".ldb") && l.Mode != modeCopy {
				t.Errorf("listed: %+v", l)
			}
			if l.Mode == modeLink {
				tables++
			}
		}
		if round > 0 && tables < 5 {
			t.Errorf("only %d tables in round %d", tables, round)
		}
		to := filepath.Join(t.TempDir(), "data")
		place(t, dir, to, list)
		c := openDB(t, realCopy(t, to))
		got, m := content(t, c)
		c.Close()
		if got != want || n != m {
			t.Fatalf("round %d: the copy holds %d keys, the database %d, or others", round, m, n)
		}
		os.Remove(filepath.Join(dir, "999990.ldb"))
	}
}

func TestLiveSetAfterExitInCompaction(t *testing.T) {
	// The process leaves without closing its store, and tables in the making stay where they are.
	dir := filepath.Join(t.TempDir(), "harmony_db_0")
	unnamed := 0
	for seed := range uint64(3) {
		exitWriter(t, dir, seed)
		list, err := liveSet(dir)
		if err != nil {
			t.Fatalf("after exit 0 in the middle of writing: %v", err)
		}
		unnamed += len(sumFiles(t, dir)) - len(list)
		to := filepath.Join(t.TempDir(), "data")
		place(t, dir, to, list)
		before := sumFiles(t, to)
		fromCopy := openDB(t, realCopy(t, to))
		fromAll := openDB(t, realCopy(t, dir))
		a, n := content(t, fromCopy)
		b, m := content(t, fromAll)
		fromCopy.Close()
		fromAll.Close()
		if a != b || n == 0 {
			t.Fatalf("the copy holds %d keys, the database %d, or others", n, m)
		}
		// The node goes on: it opens, writes and compacts. Not one byte of the copy may change.
		db := openDB(t, dir)
		putBlocks(t, db, 100000+seed*1000, 100000+seed*1000+100)
		if err := db.CompactRange(utilRange()); err != nil {
			t.Fatal(err)
		}
		db.Close()
		if d := cmp.Diff(before, sumFiles(t, to)); d != "" {
			t.Fatalf("the linked copy changed: %s", d)
		}
	}
	t.Logf("%d files that the manifest does not name were left out", unnamed)
}

// sumFiles returns the sha256 of each file of a directory.
func sumFiles(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = fmt.Sprintf("%x", sha256.Sum256(b))
	}
	return out
}

func TestLiveSetRefuses(t *testing.T) {
	whole := filepath.Join(t.TempDir(), "db")
	db := openDB(t, whole)
	putBlocks(t, db, 1, 400)
	db.Close()
	list, err := liveSet(whole)
	if err != nil {
		t.Fatal(err)
	}
	manifest, table, log := list[1].Name, "", ""
	for _, l := range list {
		if l.Mode == modeLink {
			table = l.Name
		} else if strings.HasSuffix(l.Name, ".log") && log == "" {
			log = l.Name // the one that the manifest names; a later one can't be missed
		}
	}
	edit := func(name string, change func(b []byte) []byte) func(dir string) error {
		return func(dir string) error {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, name), change(b), 0o644)
		}
	}
	remove := func(name string) func(dir string) error {
		return func(dir string) error { return os.Remove(filepath.Join(dir, name)) }
	}
	for _, c := range []struct {
		name string
		harm func(dir string) error
		want error
	}{
		{"table gone", remove(table), errRefused},
		{"table shorter", edit(table, func(b []byte) []byte { return b[:len(b)-1] }), errRefused},
		{"log gone", remove(log), errRefused},
		{"manifest gone", remove(manifest), errRefused},
		{"CURRENT gone", remove("CURRENT"), errRefused},
		{"CURRENT names a path", edit("CURRENT", func([]byte) []byte { return []byte("../../etc/MANIFEST-000001\n") }), errDamaged},
		{"CURRENT torn", edit("CURRENT", func(b []byte) []byte { return b[:5] }), errDamaged},
		{"manifest torn", edit(manifest, func(b []byte) []byte { return b[:len(b)-3] }), errDamaged},
		{"manifest flipped", edit(manifest, func(b []byte) []byte { b[20] ^= 1; return b }), errDamaged},
		{"manifest empty", edit(manifest, func([]byte) []byte { return nil }), errDamaged},
	} {
		dir := realCopy(t, whole)
		if err := c.harm(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := liveSet(dir); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

func TestListRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "live.jsonl")
	want := []liveFile{{"CURRENT", modeCopy}, {"000012.ldb", modeLink}}
	if err := writeList(path, want); err != nil {
		t.Fatal(err)
	}
	got, err := readList(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if err := os.WriteFile(path, []byte(`{"name":"../x","mode":"copy"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := readList(path); err == nil {
		t.Error("a path is taken for a name")
	}
}

// FuzzManifest feeds records, well framed, and raw files to the parser.
func FuzzManifest(f *testing.F) {
	dir := f.TempDir()
	db := openDB(f, dir)
	putBlocks(f, db, 1, 300)
	db.Close()
	matches, err := filepath.Glob(filepath.Join(dir, "MANIFEST-*"))
	if err != nil || len(matches) != 1 {
		f.Fatal(matches, err)
	}
	raw, err := os.ReadFile(matches[0])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw, false)
	for r := journal.NewReader(bytes.NewReader(raw), nil, true, true); ; {
		rec, err := r.Next()
		if err != nil {
			break
		}
		b, err := io.ReadAll(rec)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, true)
	}
	f.Add([]byte{recAdded, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, true)
	f.Add([]byte{recComparer, 0xff, 0xff, 0xff, 0xff, 0x7f}, true)
	f.Fuzz(func(t *testing.T, b []byte, frame bool) {
		if frame {
			var buf bytes.Buffer
			w := journal.NewWriter(&buf)
			rec, err := w.Next()
			if err == nil {
				_, err = rec.Write(b)
			}
			if err == nil {
				err = w.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
			b = buf.Bytes()
		}
		v, err := readManifest(bytes.NewReader(b))
		if (v == nil) == (err == nil) {
			t.Fatalf("version %v and error %v", v, err)
		}
		if err != nil {
			return
		}
		for k, size := range v.tables {
			if k.num < 0 || size < 0 || k.level > maxLevel {
				t.Fatalf("table %+v of %d bytes", k, size)
			}
		}
	})
}
