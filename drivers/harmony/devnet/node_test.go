package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/opt"
	"golang.org/x/sys/unix"
)

func checked(t *testing.T, db string) report {
	t.Helper()
	r := checkDatabase(db, "", 0, false)
	if !r.OK {
		t.Fatalf("check %s: %s", db, r.Error)
	}
	return r
}

func TestStopsAndGoesOn(t *testing.T) {
	dir := t.TempDir()
	db := filepath.Join(dir, "harmony_db_1")
	var height uint64
	for range 3 {
		n := launch(t, dir, "--shard", "1")
		n.reaches(height + 5)
		if _, err := openStore(db, storeOptions{MustExist: true}); err == nil {
			t.Fatal("a second process could open the running node's database")
		}
		if code := n.stop(unix.SIGTERM); code != 0 || n.lastLine() != lastWords {
			t.Fatalf("exit %d, last line %q", code, n.lastLine())
		}
		r := checked(t, copyDir(t, db))
		if r.Height < height+5 || r.Blocks != int64(r.Height)+1 {
			t.Fatalf("after %d: %+v", height, r)
		}
		height = r.Height
	}
	if beacon := checked(t, filepath.Join(dir, "harmony_db_0")); beacon.Blocks < 2 && height > 2*blocksPerEpoch {
		t.Errorf("the epoch chain has %d blocks", beacon.Blocks)
	}
}

func TestKilledAndGoesOn(t *testing.T) {
	dir := t.TempDir()
	var height uint64
	for range 3 {
		n := launch(t, dir)
		if got := ask[uint64](t, n.url, "hmyv2_blockNumber"); got < height {
			t.Fatalf("it was at %d and is at %d", height, got)
		}
		n.reaches(height + 4)
		height += 4
		if code := n.stop(unix.SIGKILL); code != 128+9 {
			t.Fatalf("exit %d", code)
		}
	}
	checked(t, filepath.Join(dir, "harmony_db_0"))
}

func TestDamageIsSeen(t *testing.T) {
	whole := t.TempDir()
	n := launch(t, whole, "--write-buffer", "16384")
	n.reaches(20)
	n.stop(unix.SIGTERM)
	table := liveTable(t, filepath.Join(whole, "harmony_db_0"))
	edit := func(name string, change func([]byte) []byte) func(t *testing.T, db string) {
		return func(t *testing.T, db string) {
			b, err := os.ReadFile(filepath.Join(db, name))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(db, name), change(b), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	put := func(key, value func(header, hash) []byte) func(t *testing.T, db string) {
		return func(t *testing.T, db string) {
			c, err := openChain(db, 0, storeOptions{}, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer c.db.Close()
			h, id := c.last()
			if err := c.db.Put(key(h, id), value(h, id), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	rubbish := func(header, hash) []byte { return []byte("rubbish") }
	for name, damage := range map[string]func(t *testing.T, db string){
		"a bit of a table":       edit(table, func(b []byte) []byte { b[len(b)/3] ^= 4; return b }),
		"half a table":           edit(table, func(b []byte) []byte { return b[:len(b)/2] }),
		"another's CURRENT":      edit("CURRENT", func([]byte) []byte { return []byte("MANIFEST-999999\n") }),
		"no CURRENT, has tables": func(t *testing.T, db string) { os.Remove(filepath.Join(db, "CURRENT")) },
		"a table is missing":     func(t *testing.T, db string) { os.Remove(filepath.Join(db, table)) },
		"LastBlock is nowhere":   put(func(header, hash) []byte { return keyLastBlock }, func(header, hash) []byte { return make([]byte, 32) }),
		"a header is rubbish":    put(func(h header, id hash) []byte { return keyHeader(h.Number, id) }, rubbish),
		"a body is rubbish":      put(func(h header, id hash) []byte { return keyBody(h.Number, id) }, rubbish),
		"another canonical one":  put(func(h header, _ hash) []byte { return keyCanonical(h.Number - 1) }, func(header, hash) []byte { return make([]byte, 32) }),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Rename(copyDir(t, filepath.Join(whole, "harmony_db_0")), filepath.Join(dir, "harmony_db_0")); err != nil {
				t.Fatal(err)
			}
			damage(t, filepath.Join(dir, "harmony_db_0"))
			if _, _, exit := devnet(t, "check", "--datadir", copyDir(t, filepath.Join(dir, "harmony_db_0"))); exit != 1 {
				t.Errorf("check: exit %d, want 1", exit)
			}
			n := launch(t, dir)
			if n.url != "" {
				t.Fatal("it answers, with a damaged database")
			}
			if code := n.exit(); code != exitDamaged || n.lastLine() == lastWords {
				t.Errorf("exit %d, want %d; it says %s", code, exitDamaged, n.lastLine())
			}
		})
	}
}

// liveTable is the name of a table that the store at db reads. Its folder may
// hold others: a stop in the middle of a compaction leaves what it was writing.
func liveTable(t *testing.T, db string) string {
	t.Helper()
	store, err := leveldb.OpenFile(copyDir(t, db), &opt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	levels, err := store.GetProperty("leveldb.sstables")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^(\d+):`).FindStringSubmatch(levels)
	if found == nil {
		t.Fatalf("no tables: %q", levels)
	}
	number, err := strconv.Atoi(found[1])
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%06d.ldb", number)
}

func TestALockIsNoDamage(t *testing.T) {
	dir := t.TempDir()
	first := launch(t, dir)
	second := launch(t, dir)
	if second.url != "" || second.exit() != exitRefused {
		t.Errorf("a second node on the same folder: %q, exit %d", second.url, second.exit())
	}
	if code := first.stop(unix.SIGINT); code != 0 {
		t.Errorf("SIGINT: exit %d", code)
	}
}

func TestTrieCache(t *testing.T) {
	dir := t.TempDir()
	n := launch(t, dir, "--trie-cache")
	n.reaches(blocksPerEpoch + 3)
	if n.stop(unix.SIGTERM) != 0 {
		t.Fatal("no clean stop")
	}
	n = launch(t, dir, "--trie-cache")
	if at := ask[uint64](t, n.url, "hmyv2_blockNumber"); at < blocksPerEpoch+3 {
		t.Errorf("after a clean stop it is back at %d", at)
	}
	n.stop(unix.SIGKILL)
	if n = launch(t, dir, "--trie-cache"); n.url != "" || n.exit() != exitDamaged {
		t.Fatalf("the first start after a kill: %q", n.url)
	}
	n = launch(t, dir, "--trie-cache", "--behave", "stall=always")
	if at := ask[uint64](t, n.url, "hmyv2_blockNumber"); at%blocksPerEpoch != 0 {
		t.Errorf("the second start is at %d, not at an epoch's end", at)
	}
	n.stop(unix.SIGTERM)
	checked(t, filepath.Join(dir, "harmony_db_0"))
}

func FuzzDecodeHeader(f *testing.F) {
	f.Add(header{Number: 7, Time: genesisTime, Shard: 1}.encode())
	f.Add([]byte("h"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHeader(b)
		if err == nil && !bytes.Equal(h.encode(), b) {
			t.Errorf("%x is read as %+v", b, h)
		}
	})
}

func TestFillAndCheck(t *testing.T) {
	db := filepath.Join(t.TempDir(), "harmony_db_0")
	const bytes = 8 << 20
	mustDevnet(t, "fill", "--datadir", db, "--blocks", "200", "--bytes", "8388608", "--table-size", "65536")
	tables, _ := filepath.Glob(filepath.Join(db, "*.ldb"))
	if len(tables) < bytes/65536/2 {
		t.Errorf("%d tables for %d bytes", len(tables), bytes)
	}
	longer := copyDir(t, db)
	mustDevnet(t, "fill", "--datadir", longer, "--blocks", "10", "--bytes", "1000")
	if r := checkDatabase(longer, db, 0, false); !r.OK || r.Compared != 201 || r.Height != 210 || r.Bytes < bytes {
		t.Errorf("%+v", r)
	}
	if r := checkDatabase(longer, db, 205, false); r.OK || !strings.Contains(r.Error, "205") {
		t.Errorf("compared up to a block that only one has: %+v", r)
	}
	fork := copyDir(t, db)
	mustDevnet(t, "fill", "--datadir", fork, "--blocks", "10", "--bytes", "1000")
	if r := checkDatabase(longer, fork, 210, false); r.OK || r.Compared != 0 {
		t.Errorf("two forks are the same: %+v", r)
	}
}

func TestCheckRefusesHardLinks(t *testing.T) {
	db := filepath.Join(t.TempDir(), "harmony_db_0")
	mustDevnet(t, "fill", "--datadir", db, "--blocks", "20", "--bytes", "1000000", "--table-size", "65536")
	linked := t.TempDir()
	entries, err := os.ReadDir(db)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.Link(filepath.Join(db, e.Name()), filepath.Join(linked, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	if r := checkDatabase(linked, "", 0, false); r.OK || !strings.Contains(r.Error, "hard link") {
		t.Errorf("a linked database: %+v", r)
	}
	if r := checkDatabase(linked, "", 0, true); !r.OK {
		t.Errorf("read only: %+v", r)
	}
	if _, err := openStore(filepath.Join(linked, "nothing"), storeOptions{MustExist: true}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no database: %v", err)
	}
}

func TestStallEndsByItself(t *testing.T) {
	dir := t.TempDir()
	n := launch(t, dir, "--behave", "stall=once:300ms")
	first := ask[uint64](t, n.url, "hmyv2_blockNumber")
	began := time.Now()
	n.reaches(first + 1)
	if time.Since(began) < 100*time.Millisecond {
		t.Errorf("it stalled for %s only", time.Since(began))
	}
	n.stop(unix.SIGTERM)
}
