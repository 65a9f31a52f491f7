package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/snapfw/snapfw/core"
)

// torrentsChild makes this test binary be the verb, so that it can be killed.
const torrentsChild = "SNAPFW_TEST_TORRENTS"

func TestTorrentsVerbChild(t *testing.T) {
	if os.Getenv(torrentsChild) == "" {
		t.Skip("it is the child of other tests")
	}
	var args []string
	if err := json.Unmarshal([]byte(os.Getenv(torrentsChild)), &args); err != nil {
		t.Fatal(err)
	}
	code := torrentsVerb(context.Background(), args)
	if status, err := os.ReadFile("/proc/self/status"); err == nil {
		for line := range strings.Lines(string(status)) {
			if strings.HasPrefix(line, "VmHWM") {
				fmt.Print(line)
			}
		}
	}
	os.Exit(code)
}

func torrentsCommand(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	b, err := json.Marshal(args)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestTorrentsVerbChild$")
	cmd.Env = append(os.Environ(), torrentsChild+"="+string(b))
	return cmd
}

// testSnapshots is a small datadir with a file of each kind; all are old enough to be settled.
var testSnapshots = map[string]int{
	"erigondb.toml":                                46,
	"salt-blocks.txt":                              4,
	"salt-state.txt":                               4,
	"v1.1-000000-000500-headers.seg":               3*pieceLength + 17,
	"v2.0-000000-000500-headers.idx":               pieceLength,
	"v1.1-000000-000500-transactions.seg":          (unitPieces+1)*pieceLength + 1,
	"caplin/v1.1-000000-000050-BlockRoot.seg":      1,
	"domain/v2.0-accounts.0-256.kv":                pieceLength - 1,
	"domain/v1.1-accounts.0-256.bt":                100,
	"history/v2.0-accounts.0-64.v":                 1000,
	"idx/v3.0-accounts.0-64.ef":                    2000,
	"accessor/v1.1-accounts.0-64.vi":               3000,
	"accessor/v2.1-accounts.0-64.efi":              4000,
	"domain/v1.1-accounts.0-256.kvei":              5000,
	"domain/v2.0-commitment.0-256.kvi":             6000,
	"domain/v2.0-commitment.0-256.kv":              7000,
	"caplin/v1.1-000000-000050-BlockRoot.idx":      8000,
	"v2.0-000000-000500-transactions.idx":          9000,
	"v1.1-000000-000010-beaconblocks.seg":          10000,
	"v2.0-000000-000500-transactions-to-block.idx": 11000,
}

// What lies beside and is never published.
var testForeign = []string{
	"manifest.txt", "notes.txt", "salt-old.txt", "preverified.toml", "chain.toml", "prohibit_new_downloads.lock",
	"domain/v2.0-x.0-256.kv.tmp", "domain/v2.0-y.0-256.kv.part", "forkable/v1.0-z.0-1.kv", "idx/erigondb.toml", "caplin/x.kv",
}

func writeSnapshots(t testing.TB) (datadir string) {
	t.Helper()
	datadir = memoryFolder(t)
	rng := rand.NewChaCha8([32]byte{1})
	for name, size := range testSnapshots {
		data := make([]byte, size)
		rng.Read(data)
		if name == "erigondb.toml" {
			data = []byte(erigonDBText)
		}
		putFile(t, filepath.Join(datadir, "snapshots", name), data, time.Hour)
	}
	for _, name := range testForeign {
		putFile(t, filepath.Join(datadir, "snapshots", name), []byte("x"), time.Hour)
	}
	return datadir
}

// memoryFolder is a temporary folder in memory where there is one: thousands of fsyncs take long on a
// busy disk. The benchmark and the test of the page cache use the disk.
func memoryFolder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "snapfw-torrents-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func putFile(t testing.TB, file string, data []byte, age time.Duration) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	setAge(t, file, age)
}

func setAge(t testing.TB, file string, age time.Duration) {
	t.Helper()
	at := time.Now().Add(-age)
	if err := os.Chtimes(file, at, at); err != nil {
		t.Fatal(err)
	}
}

// torrentRun is what a run of the verb said.
type torrentRun struct {
	code   int
	news   []torrentNews
	sum    torrentSummary
	done   int64
	stderr string
}

func (r torrentRun) of(name string) torrentNews {
	for _, n := range r.news {
		if n.Name == name {
			return n
		}
	}
	return torrentNews{}
}

func torrents(t testing.TB, datadir string, more ...string) torrentRun {
	t.Helper()
	var out, errs bytes.Buffer
	var r torrentRun
	r.code = runTorrents(t.Context(), append([]string{"--datadir", datadir, "--json"}, more...), &out, &errs)
	r.stderr = errs.String()
	for sc := bufio.NewScanner(&out); sc.Scan(); {
		var line struct {
			torrentNews
			torrentSummary
			Done  *int64 `json:"done"`
			Files *int   `json:"files"`
		}
		if err := json.Unmarshal(sc.Bytes(), &line); err != nil {
			t.Fatalf("%s: %v", sc.Bytes(), err)
		}
		switch {
		case line.Done != nil:
			r.done = *line.Done
		case line.Files != nil:
			r.sum = line.torrentSummary
			r.sum.Files = *line.Files
		default:
			r.news = append(r.news, line.torrentNews)
		}
	}
	return r
}

// checkTorrents sees that exactly the published files have a torrent, and each the right one.
func checkTorrents(t testing.TB, datadir string) {
	t.Helper()
	root := filepath.Join(datadir, "snapshots")
	have := map[string]bool{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(root, p)
		if name, ok := strings.CutSuffix(rel, torrentExt); ok {
			have[name] = true
		} else if strings.Contains(rel, torrentExt) {
			t.Errorf("%s was left behind", rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range testSnapshots {
		data, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		info, _ := os.Stat(filepath.Join(root, name))
		tf, err := readTorrent(filepath.Join(root, name)+torrentExt, name, info.Size(), info.ModTime())
		if err != nil || !bytes.Equal(tf.Pieces, sumsOf(data)) {
			t.Errorf("%s: its torrent is wrong: %v", name, err)
		}
		if name == "erigondb.toml" && tf.Infohash() != erigonDBInfohash {
			t.Errorf("%s: %s", name, tf.Infohash())
		}
		delete(have, name)
	}
	for name := range have {
		t.Errorf("%s got a torrent", name)
	}
}

func totalOfSnapshots() (n int64) {
	for _, size := range testSnapshots {
		n += int64(size)
	}
	return n
}

func TestTorrents(t *testing.T) {
	datadir := writeSnapshots(t)
	dry := torrents(t, datadir, "--dry-run")
	if dry.code != 0 || dry.sum.Made != len(testSnapshots) || dry.sum.Read != totalOfSnapshots() {
		t.Errorf("dry run: %+v", dry)
	}
	if _, err := os.Stat(filepath.Join(datadir, ".snapfw")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a dry run wrote: %v", err)
	}
	entries := filepath.Join(t.TempDir(), "entries.jsonl")
	first := torrents(t, datadir, "--entries", entries)
	want := torrentSummary{Files: len(testSnapshots), Bytes: totalOfSnapshots(), Read: totalOfSnapshots(), Made: len(testSnapshots)}
	if first.code != 0 || first.sum != want || first.done != totalOfSnapshots() {
		t.Fatalf("first run: %+v, want %+v", first, want)
	}
	checkTorrents(t, datadir)
	checkEntries(t, datadir, entries)

	want.Read, want.Made = 0, 0
	if again := torrents(t, datadir, "--entries", entries); again.code != 0 || again.sum != want || len(again.news) != 0 {
		t.Errorf("second run: %+v, want %+v", again, want)
	}
	checkEntries(t, datadir, entries)
	want.Read, want.Verified = totalOfSnapshots(), len(testSnapshots)
	if full := torrents(t, datadir, "--verify", "full", "--workers", "3"); full.code != 0 || full.sum != want {
		t.Errorf("verify full: %+v, want %+v", full, want)
	}
	sample := torrents(t, datadir, "--verify", "sample:10")
	if sample.code != 0 || sample.sum.Verified == 0 || sample.sum.Verified > 4 || sample.sum.Files != len(testSnapshots) {
		t.Errorf("verify sample: %+v", sample)
	}
	checkTorrents(t, datadir)
}

func checkEntries(t testing.TB, datadir, file string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	torrents := 0
	for line := range strings.Lines(string(b)) {
		var e core.Entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(datadir, "snapshots", e.Name))
		if err != nil {
			t.Fatal(err)
		}
		if of, ok := strings.CutSuffix(e.Name, torrentExt); ok {
			if tf, err := readTorrent(filepath.Join(datadir, "snapshots", e.Name), of, int64(testSnapshots[of]), time.Time{}); err != nil || tf.Infohash() != e.Sums["infohash"] || e.Size != int64(len(data)) {
				t.Errorf("%s: %+v: %v", e.Name, e, err)
			}
			torrents++
			continue
		}
		if torrents > 0 {
			t.Errorf("%s comes after a torrent", e.Name)
		}
		if want := infohashOf(e.Name, int64(len(data)), sumsOf(data)); e.Sums["infohash"] != want || e.Size != int64(len(data)) {
			t.Errorf("%s: %+v, want %s", e.Name, e, want)
		}
		names = append(names, e.Name)
	}
	if len(names) != len(testSnapshots) || torrents != len(names) || !slices.IsSorted(names) {
		t.Errorf("%d entries of %d: %q", len(names), len(testSnapshots), names)
	}
}

// TestStaleTorrents: Erigon's downloader skips a file that has a .torrent, whatever is in it. This is the
// classic bug of a release after files were made again.
func TestStaleTorrents(t *testing.T) {
	const name = "domain/v1.1-accounts.0-256.kvei"
	for _, c := range []struct {
		what, why string
		reads     bool
		spoil     func(t *testing.T, data, torrent string)
	}{
		{"made again, of the same size", "not those of the data", true, func(t *testing.T, data, torrent string) {
			putFile(t, data, bytes.Repeat([]byte("n"), testSnapshots[name]), time.Minute)
			setAge(t, torrent, 0) // even where its torrent looks newer
		}},
		{"made again, longer", "of a file of 5000 bytes", true, func(t *testing.T, data, torrent string) {
			putFile(t, data, bytes.Repeat([]byte("n"), testSnapshots[name]+1), time.Minute)
		}},
		{"older than its data", "older than its data", false, func(t *testing.T, data, torrent string) {
			setAge(t, torrent, 48*time.Hour)
		}},
		{"rubbish", "no well-formed torrent", false, func(t *testing.T, data, torrent string) {
			putFile(t, torrent, []byte("rubbish"), 0)
		}},
		{"of another file", "of a file named", false, func(t *testing.T, data, torrent string) {
			b, err := os.ReadFile(filepath.Join(filepath.Dir(data), "../salt-state.txt.torrent"))
			if err != nil {
				t.Fatal(err)
			}
			putFile(t, torrent, b, 0)
		}},
		{"of other pieces", "not those of the data", false, func(t *testing.T, data, torrent string) {
			var buf bytes.Buffer
			if err := encodeTorrent(&buf, name, int64(testSnapshots[name]), fakeSums(1), time.Now()); err != nil {
				t.Fatal(err)
			}
			putFile(t, torrent, buf.Bytes(), 0)
		}},
		{"a link", "can't be opened", false, func(t *testing.T, data, torrent string) {
			if err := errors.Join(os.Rename(torrent, torrent+"s"), os.Symlink(torrent+"s", torrent)); err != nil {
				t.Fatal(err)
			}
		}},
		{"gone", "", false, func(t *testing.T, data, torrent string) {
			if err := os.Remove(torrent); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			datadir := writeSnapshots(t)
			if r := torrents(t, datadir); r.code != 0 {
				t.Fatalf("%+v", r)
			}
			data := filepath.Join(datadir, "snapshots", name)
			c.spoil(t, data, data+torrentExt)
			r := torrents(t, datadir)
			os.Remove(data + ".torrents")
			did := r.of(name)
			if r.code != 0 || len(r.news) != 1 || !strings.Contains(did.Why, c.why) || (r.sum.Read > 0) != c.reads {
				t.Errorf("%+v", r)
			}
			if info, _ := os.Stat(data); c.reads && r.sum.Read != info.Size() {
				t.Errorf("read %d bytes", r.sum.Read)
			}
			if c.why != "" && (did.Did != "remade" || r.sum.Remade != 1) || c.why == "" && did.Did != "made" {
				t.Errorf("did %+v", did)
			}
			checkTorrents(t, datadir)
		})
	}
}

// TestTorrentsOfLinksAndNewNames: neither a view of links nor a rename costs a byte.
func TestTorrentsOfLinksAndNewNames(t *testing.T) {
	datadir := writeSnapshots(t)
	if r := torrents(t, datadir); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	view := filepath.Join(datadir, ".snapfw", "snapshots", "data")
	for name := range testSnapshots {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(view, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(filepath.Join(datadir, "snapshots", name), filepath.Join(view, name)); err != nil {
			t.Fatal(err)
		}
	}
	r := torrents(t, datadir, "--snapshots", view)
	if r.code != 0 || r.sum.Read != 0 || r.sum.Made != len(testSnapshots) {
		t.Errorf("of a view: %+v", r.sum)
	}
	before, now := filepath.Join(datadir, "snapshots/domain/v2.0-accounts.0-256.kv"), filepath.Join(datadir, "snapshots/domain/v2.0-accounts.0-64.kv")
	if err := errors.Join(os.Rename(before, now), os.Rename(before+torrentExt, now+torrentExt)); err != nil {
		t.Fatal(err)
	}
	r = torrents(t, datadir)
	did := r.of("domain/v2.0-accounts.0-64.kv")
	if r.code != 0 || r.sum.Read != 0 || did.Did != "remade" || did.Was == did.Infohash || !strings.Contains(did.Why, "of a file named") {
		t.Errorf("renamed: %+v", r)
	}
}

func TestStrays(t *testing.T) {
	datadir := writeSnapshots(t)
	if r := torrents(t, datadir); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	at := func(name string) string { return filepath.Join(datadir, "snapshots", name) }
	strays := []string{"domain/v1.1-gone.0-1.bt.torrent", "manifest.txt.torrent", "accessor/v1.1-accounts.0-64.vi.torrent123456789", ".torrent"}
	for _, name := range strays {
		putFile(t, at(name), []byte("x"), 0)
	}
	putFile(t, at("domain/kept.torrentx"), []byte("x"), 0)
	putFile(t, at("forkable/kept.torrent"), []byte("x"), 0)
	for _, c := range []struct {
		did  string
		args []string
		left int
	}{{"found", nil, 4}, {"to be removed", []string{"--clean", "--dry-run"}, 4}, {"removed", []string{"--clean"}, 0}, {"", []string{"--clean"}, 0}} {
		r := torrents(t, datadir, c.args...)
		left := 0
		for _, name := range strays {
			if _, err := os.Stat(at(name)); err == nil {
				left++
			}
			if got := r.of(name).Did; got != c.did {
				t.Errorf("%v: %s: %q, want %q", c.args, name, got, c.did)
			}
		}
		if r.code != 0 || left != c.left {
			t.Errorf("%v: exit %d, %d left", c.args, r.code, left)
		}
	}
	for _, name := range []string{"domain/kept.torrentx", "forkable/kept.torrent"} {
		if err := os.Remove(at(name)); err != nil {
			t.Error(err)
		}
	}
	checkTorrents(t, datadir)
}

// TestUnfit: what can't be published refuses, and has no entries; the rest has its torrents.
func TestUnfit(t *testing.T) {
	for what, spoil := range map[string]func(t *testing.T, at func(string) string){
		"empty": func(t *testing.T, at func(string) string) {
			putFile(t, at("v1.1-000500-001000-headers.seg"), nil, time.Hour)
		},
		"a link": func(t *testing.T, at func(string) string) {
			if err := os.Symlink("/etc/hostname", at("v1.1-000500-001000-headers.seg")); err != nil {
				t.Fatal(err)
			}
		},
		"a folder": func(t *testing.T, at func(string) string) {
			if err := os.Mkdir(at("v1.1-000500-001000-headers.seg"), 0o755); err != nil {
				t.Fatal(err)
			}
		},
		"moved aside by the downloader": func(t *testing.T, at func(string) string) {
			putFile(t, at("domain/v2.0-code.0-1.kv.part"), []byte("x"), 0)
			putFile(t, at("domain/v2.0-code.0-1.kv.torrent"), []byte("x"), 0)
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			datadir := writeSnapshots(t)
			at := func(name string) string { return filepath.Join(datadir, "snapshots", name) }
			spoil(t, at)
			entries := filepath.Join(t.TempDir(), "entries")
			putFile(t, entries, []byte("of an earlier run"), 0)
			r := torrents(t, datadir, "--entries", entries, "--clean")
			if r.code != core.ExitRefused || r.sum.Refused != 1 || r.sum.Files != len(testSnapshots) || r.stderr == "" {
				t.Errorf("%+v", r)
			}
			if _, err := os.Stat(entries); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("there are entries: %v", err)
			}
			_ = os.Remove(at("domain/v2.0-code.0-1.kv.torrent"))
			checkTorrents(t, datadir)
		})
	}
}

// TestDamage: bytes that change while size and time stay are found by --verify, and
// never published after.
func TestDamage(t *testing.T) {
	const name = "v1.1-000000-000500-transactions.seg"
	datadir := writeSnapshots(t)
	if r := torrents(t, datadir); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	file := filepath.Join(datadir, "snapshots", name)
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	flip := func() {
		f, err := os.OpenFile(file, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		b := make([]byte, 1)
		at := int64(unitPieces)*pieceLength + 5
		if _, err := f.ReadAt(b, at); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 1
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, info.ModTime(), info.ModTime()); err != nil {
			t.Fatal(err)
		}
	}
	was, _ := os.ReadFile(file + torrentExt)
	flip()
	if r := torrents(t, datadir); r.code != 0 || r.sum.Read != 0 {
		t.Errorf("without --verify nothing is read: %+v", r)
	}
	for _, args := range [][]string{{"--verify", "full"}, {}, {}} {
		r := torrents(t, datadir, args...)
		if did := r.of(name); r.code != core.ExitRefused || did.Did != "refused" || !strings.Contains(did.Why, "piece 16, at byte 33554432") {
			t.Errorf("%v: %+v", args, r)
		}
	}
	if is, _ := os.ReadFile(file + torrentExt); !bytes.Equal(is, was) {
		t.Error("the torrent was written anew for damaged bytes")
	}
	flip() // it was the memory, not the disk
	if r := torrents(t, datadir); r.code != 0 || r.sum.Read != info.Size() {
		t.Errorf("repaired: %+v", r)
	}
	if r := torrents(t, datadir); r.code != 0 || r.sum.Read != 0 {
		t.Errorf("repaired, again: %+v", r)
	}
	checkTorrents(t, datadir)
}

// TestChangesMeanwhile writes to a file, or replaces or cuts it, after its first bytes were read.
func TestChangesMeanwhile(t *testing.T) {
	const name = "v1.1-000000-000500-transactions.seg"
	for what, change := range map[string]func(file string) error{
		"written": func(f string) error { return appendTo(f, "x") },
		"cut":     func(f string) error { return os.Truncate(f, 5) },
		"replaced": func(f string) error {
			return errors.Join(os.WriteFile(f+".tmp", []byte("new"), 0o644), os.Rename(f+".tmp", f))
		},
		"removed": os.Remove,
		"another one came": func(f string) error {
			return os.WriteFile(filepath.Join(filepath.Dir(f), "v1.1-000500-001000-bodies.seg"), []byte("x"), 0o644)
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			datadir := writeSnapshots(t)
			file := filepath.Join(datadir, "snapshots", name)
			var once atomic.Bool
			var news []torrentNews
			o := torrentOptions{
				snapshots: filepath.Join(datadir, "snapshots"), sumsFile: filepath.Join(datadir, "sums"), workers: 2,
				entryFile: filepath.Join(datadir, "entries"),
				news:      func(n torrentNews) { news = append(news, n) },
			}
			o.progress = func(done, total int64) {
				// The file is the last one but two small ones; some of it was read by then.
				if done > 8*pieceLength && once.CompareAndSwap(false, true) {
					if err := change(file); err != nil {
						t.Error(err)
					}
				}
			}
			o.rate = 60 << 20 // so that there is a meanwhile
			_, err := makeTorrents(t.Context(), o)
			if !once.Load() {
				t.Fatal("nothing was changed")
			}
			if what == "another one came" {
				if err == nil || !strings.Contains(err.Error(), "v1.1-000500-001000-bodies.seg came") {
					t.Errorf("%v", err)
				}
				return
			}
			i := slices.IndexFunc(news, func(n torrentNews) bool { return n.Name == name })
			if err == nil || i < 0 || news[i].Did != "failed" || !strings.Contains(news[i].Why, errChanging.Error()) {
				t.Errorf("%v, %+v", err, news)
			}
			for _, f := range []string{file + torrentExt, o.entryFile} {
				if _, err := os.Stat(f); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s is there: %v", f, err)
				}
			}
		})
	}
}

func appendTo(file, text string) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// TestKilled kills the verb in the middle of a file, again and again: it carries on each time.
func TestKilled(t *testing.T) {
	datadir := t.TempDir()
	const name, size = "v1.1-000000-000500-transactions.seg", 8 * unitPieces * pieceLength // 256 MiB of a hole
	file := filepath.Join(datadir, "snapshots", name)
	putFile(t, file, nil, 0)
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
	setAge(t, file, time.Hour)
	sums := filepath.Join(datadir, ".snapfw", "torrents.jsonl")
	for killed := 0; killed < 3; killed++ {
		before := lineCount(sums)
		cmd := torrentsCommand(t, "--datadir", datadir, "--rate", "200M", "--workers", "2")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(30 * time.Second); lineCount(sums) < before+1; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				cmd.Process.Kill()
				t.Fatal("it does not come on")
			}
		}
		cmd.Process.Kill()
		cmd.Wait()
	}
	kept := int64(lineCount(sums)) * unitPieces * pieceLength
	r := torrents(t, datadir)
	if r.code != 0 || r.sum.Read != size-kept || r.sum.Made != 1 {
		t.Errorf("%+v; %d bytes were hashed before", r, kept)
	}
	info, _ := os.Stat(file)
	tf, err := readTorrent(file+torrentExt, name, size, info.ModTime())
	if want := sumsOf(make([]byte, pieceLength)); err != nil || !bytes.Equal(tf.Pieces, bytes.Repeat(want, size/pieceLength)) {
		t.Errorf("the torrent is wrong: %v", err)
	}
}

// lineCount counts the whole lines of a file.
func lineCount(file string) int {
	b, _ := os.ReadFile(file)
	return bytes.Count(b, []byte("\n"))
}

func TestTorrentsArguments(t *testing.T) {
	datadir := writeSnapshots(t)
	missing := filepath.Join(t.TempDir(), "none")
	for _, c := range []struct {
		args []string
		says string
	}{
		{nil, "needs --datadir"},
		{[]string{"--datadir", missing}, "there is no folder"},
		{[]string{"--datadir", t.TempDir()}, "has snapshots"},
		{[]string{"--snapshots", datadir + "/snapshots"}, "needs --sums"},
		{[]string{"--datadir", datadir, "--verify", "some"}, "neither full nor"},
		{[]string{"--datadir", datadir, "--workers", "-1"}, "--workers"},
		{[]string{"--datadir", datadir, "--rate", "fast"}, "--rate"},
		{[]string{"--datadir", datadir, "--nice", "-5"}, "--nice"},
		{[]string{"--datadir", datadir, "extra"}, "extra"},
		{[]string{"--bogus"}, "bogus"},
	} {
		var out, errs bytes.Buffer
		if code := runTorrents(t.Context(), c.args, &out, &errs); code != 2 || !strings.Contains(errs.String(), c.says) {
			t.Errorf("%q: exit %d: %s", c.args, code, errs.String())
		}
	}
	if _, err := os.Stat(missing); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a mistyped folder was made: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, errs bytes.Buffer
	if code := runTorrents(ctx, []string{"--datadir", datadir}, &out, &errs); code != 1 {
		t.Errorf("cancelled: exit %d", code)
	}
	for text, want := range map[string]int64{"0": 0, "5": 5, "2K": 2048, "200M": 200 << 20, "1G": 1 << 30} {
		if got, err := parseRate(text); err != nil || got != want {
			t.Errorf("rate %s: %d, %v", text, got, err)
		}
	}
}
