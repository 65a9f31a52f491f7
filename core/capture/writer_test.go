package capture

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/journal"
	"github.com/syndtr/goleveldb/leveldb/opt"
)

// small makes a store compact all the time.
var small = &opt.Options{WriteBuffer: 128 << 10, CompactionTableSize: 32 << 10, CompactionTotalSize: 256 << 10,
	Compression: opt.NoCompression}

// writer is a node: it writes to a store until SIGTERM. Then it closes the store ("close") or just
// exits with 0, in the middle of what it is at ("exit").
func writer(dir, end string) int {
	db, err := leveldb.OpenFile(dir, small)
	if err != nil {
		fmt.Fprintln(os.Stderr, "writer:", err)
		return 1
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	for {
		select {
		case <-term:
			if end == "close" && db.Close() != nil {
				return 1
			}
			return 0
		default:
		}
		var b leveldb.Batch
		for range 100 {
			key := fmt.Sprintf("k%06d", rand.N(20000))
			b.Put([]byte(key), value(key, rand.Uint64()))
		}
		if err := db.Write(&b, nil); err != nil {
			fmt.Fprintln(os.Stderr, "writer:", err)
			return 1
		}
	}
}

// value is 200 bytes that say themselves whether they are whole.
func value(key string, n uint64) []byte {
	v := binary.BigEndian.AppendUint64(nil, n)
	for len(v) < 192 {
		v = append(v, byte(n), byte(len(v)))
	}
	return binary.BigEndian.AppendUint64(v, check(key, v))
}

func check(key string, v []byte) uint64 {
	h := fnv.New64a()
	io.WriteString(h, key)
	h.Write(v)
	return h.Sum64()
}

// liveList is what a driver does: the files that CURRENT and its MANIFEST name.
func liveList(t testing.TB, dir string) []Item {
	t.Helper()
	current, err := os.ReadFile(filepath.Join(dir, "CURRENT"))
	must(t, err)
	manifest := strings.TrimSpace(string(current))
	f, err := os.Open(filepath.Join(dir, manifest))
	must(t, err)
	defer f.Close()
	tables, log := map[uint64]bool{}, uint64(0)
	records := journal.NewReader(f, nil, true, true)
	for {
		r, err := records.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		err = session(bufio.NewReader(r), tables, &log)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			break // the writer died in the middle of its last record
		}
		must(t, err)
	}
	items := []Item{{"CURRENT", ModeCopy}, {manifest, ModeCopy}}
	names, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range names {
		var n uint64
		if _, err := fmt.Sscanf(e.Name(), "%d.log", &n); err == nil && n >= log {
			items = append(items, Item{e.Name(), ModeCopy})
		}
	}
	for n := range tables {
		items = append(items, Item{fmt.Sprintf("%06d.ldb", n), ModeLink})
	}
	return items
}

// session reads one record of a MANIFEST.
func session(r *bufio.Reader, tables map[uint64]bool, log *uint64) error {
	bad := error(nil)
	number := func() uint64 {
		n, err := binary.ReadUvarint(r)
		if err != nil && bad == nil {
			bad = io.ErrUnexpectedEOF
		}
		return n
	}
	skip := func() {
		if _, err := io.CopyN(io.Discard, r, int64(number())); err != nil && bad == nil {
			bad = io.ErrUnexpectedEOF
		}
	}
	for bad == nil {
		tag, err := binary.ReadUvarint(r)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		switch tag {
		case 1: // comparer
			skip()
		case 2: // journal
			*log = number()
		case 3, 4, 9: // next file, sequence, previous journal
			number()
		case 5: // compaction pointer
			number()
			skip()
		case 6: // deleted table
			number()
			delete(tables, number())
		case 7: // added table
			number()
			tables[number()] = true
			number()
			skip()
			skip()
		default:
			return fmt.Errorf("tag %d in a manifest", tag)
		}
	}
	return bad
}

// walk opens a private copy of a store and reads it to the end.
func walk(t *testing.T, dir string) map[string]uint64 {
	t.Helper()
	private := filepath.Join(t.TempDir(), "private")
	must(t, os.CopyFS(private, os.DirFS(dir)))
	db, err := leveldb.OpenFile(private, &opt.Options{ErrorIfMissing: true, Strict: opt.StrictAll &^ opt.StrictJournal})
	must(t, err)
	defer db.Close()
	all := map[string]uint64{}
	it := db.NewIterator(nil, nil)
	defer it.Release()
	for it.Next() {
		key, v := string(it.Key()), it.Value()
		if len(v) < 8 || check(key, v[:len(v)-8]) != binary.BigEndian.Uint64(v[len(v)-8:]) {
			t.Fatalf("%s: the value of %s is damaged", dir, key)
		}
		all[key] = binary.BigEndian.Uint64(v)
	}
	must(t, it.Error())
	return all
}

func tableNames(t *testing.T, dir string) map[string]bool {
	t.Helper()
	names, err := os.ReadDir(dir)
	must(t, err)
	all := map[string]bool{}
	for _, e := range names {
		if strings.HasSuffix(e.Name(), ".ldb") {
			all[e.Name()] = true
		}
	}
	return all
}

// The witness: a linked copy of a real store, while the store goes on compacting, is started
// and stopped in every bad way, and removes its tables. Not one byte may change, and the
// copy is the store as it was.
func TestCopyIsAWitness(t *testing.T) {
	d := newDB(t, t.TempDir())
	start := func(end string) *exec.Cmd {
		cmd := child(t, "writer", d.dir, end)
		must(t, cmd.Start())
		return cmd
	}
	churn := func(cmd *exec.Cmd, since map[string]bool, want int) {
		eventually(t, "the store has compacted", func() bool {
			if cmd.ProcessState != nil {
				t.Fatal("the writer died")
			}
			fresh := 0
			for name := range tableNames(t, d.dir) {
				if !since[name] {
					fresh++
				}
			}
			return fresh >= want
		})
	}
	for i, end := range []string{"close", "exit", "kill", "exit", "exit", "kill"} {
		node := start(end)
		churn(node, tableNames(t, d.dir), 25)
		if end == "kill" {
			node.Process.Kill()
			node.Wait()
		} else {
			must(t, node.Process.Signal(syscall.SIGTERM))
			must(t, node.Wait())
		}

		items := liveList(t, d.dir)
		must(t, WriteList(d.list, items))
		unnamed := len(tableNames(t, d.dir))
		for _, item := range items {
			if item.Mode == ModeLink {
				unnamed--
			}
		}
		c := d.mustTake(Link)
		if c.Linked < 10 {
			t.Fatalf("captured: %+v", c)
		}
		want := walk(t, d.dir)

		// The node is back, while the copy is sealed and lies there.
		next := start("kill")
		linked := tableNames(t, filepath.Join(d.to, DataName))
		time.Sleep(time.Duration(i) * 10 * time.Millisecond) // seal at another moment of its start each time
		_, err := d.seal(0)
		must(t, err)
		churn(next, linked, 25)
		eventually(t, "the store has removed tables that the copy holds", func() bool {
			return slices.ContainsFunc(items, func(item Item) bool {
				_, err := os.Stat(filepath.Join(d.dir, item.Name))
				return errors.Is(err, fs.ErrNotExist)
			})
		})
		next.Process.Kill()
		next.Wait()

		for name, e := range entriesOf(t, d.to) {
			if sum := sumFile(t, filepath.Join(d.to, DataName, name)); sum != e.Sums["sha256"] {
				t.Errorf("%s: %s of the copy changed", end, name)
			}
		}
		got := walk(t, filepath.Join(d.to, DataName))
		if len(got) != len(want) || len(got) == 0 {
			t.Fatalf("%s: the copy holds %d keys, the store held %d", end, len(got), len(want))
		}
		for key, n := range want {
			if got[key] != n {
				t.Fatalf("%s: %s is not what it was", end, key)
			}
		}
		t.Logf("%s: %d keys, %d tables linked, %d lay there without being named", end, len(got), c.Linked, unnamed)
	}
}
