package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapfw/snapfw/core"
)

const restoreChild = "SNAPFW_TEST_RESTORE"

func TestRestoreChild(t *testing.T) {
	words := os.Getenv(restoreChild)
	if words == "" {
		t.Skip("it is the child of another test")
	}
	var args []string
	if err := json.Unmarshal([]byte(words), &args); err != nil {
		t.Fatal(err)
	}
	os.Exit(restoreVerb(context.Background(), args))
}

const restoreName = "domain/v2.0-accounts.0-256.kv"

// restorable is a datadir and what was published of it.
func restorable(t *testing.T, data []byte) (p *published, address, datadir, list string) {
	t.Helper()
	p, address = publish(t)
	datadir = memoryFolder(t)
	if err := os.MkdirAll(filepath.Join(datadir, "snapshots", "domain"), 0o755); err != nil {
		t.Fatal(err)
	}
	body, err := catalog{}.Render(t.Context(), []core.Entry{p.put(t, restoreName, data), p.put(t, "salt-state.txt", []byte("salt"))})
	if err != nil {
		t.Fatal(err)
	}
	p.objects["chain.toml"] = body
	list = filepath.Join(datadir, "list.toml")
	if err := os.WriteFile(list, body, 0o644); err != nil {
		t.Fatal(err)
	}
	return p, address, datadir, list
}

func restore(t *testing.T, datadir, address, list string, words ...string) (int, string) {
	t.Helper()
	out := &locked{Buffer: &bytes.Buffer{}}
	env := func(string) string { return "X-Pass: geheim-geheim" }
	args := append([]string{"--datadir", datadir, "--base", address, "--list", list, "--patience", "10s"}, words...)
	code := exitCode(runRestore(t.Context(), args, env, out, out), out)
	if strings.Contains(out.String(), "geheim") {
		t.Errorf("it prints a secret: %s", out)
	}
	return code, out.String()
}

// isRestored sees that a file and its torrent are what was published.
func isRestored(t *testing.T, datadir string, data []byte) {
	t.Helper()
	file := filepath.Join(datadir, "snapshots", restoreName)
	got, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("it is not what was published: %v", err)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	torrent, err := readTorrent(file+torrentExt, restoreName, info.Size(), info.ModTime())
	if err != nil || torrent.Infohash() != infohashOf(restoreName, info.Size(), sumsOf(data)) {
		t.Errorf("its torrent is wrong: %v", err)
	}
}

func replacedFiles(t *testing.T, datadir string) (all []string) {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(datadir, ".snapfw", "replaced", "*", "domain", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestRestore(t *testing.T) {
	t.Parallel()
	data := randomBytes(1, 11*pieceLength+77)
	damaged := bytes.Clone(data)
	damaged[3*pieceLength+9] ^= 1
	damaged[11*pieceLength] ^= 1
	for name, c := range map[string]struct {
		there  []byte // nil: nothing
		served int64
		kept   int
	}{
		"missing":   {nil, int64(len(data)), 0},
		"damaged":   {damaged, pieceLength + 77, 2},
		"truncated": {data[:5*pieceLength+3], 6*pieceLength + 77, 2},
		"appended":  {append(bytes.Clone(data), 'x'), 0, 2},
		"other":     {randomBytes(2, 100), int64(len(data)), 2},
		"right":     {data, 0, 1}, // its torrent is stale
	} {
		t.Run(name, func(t *testing.T) {
			p, address, datadir, _ := restorable(t, data)
			file := filepath.Join(datadir, "snapshots", restoreName)
			if c.there != nil {
				putFile(t, file, c.there, time.Hour)
				putFile(t, file+torrentExt, []byte("stale"), 0)
			}
			code, out := restore(t, datadir, address, address+"/chain.toml", restoreName)
			if code != 0 {
				t.Fatalf("exit %d: %s", code, out)
			}
			isRestored(t, datadir, data)
			if got := p.served.Load() - int64(len(p.objects["chain.toml"])); got != c.served {
				t.Errorf("%d bytes were fetched, want %d", got, c.served)
			}
			kept := replacedFiles(t, datadir)
			if len(kept) != c.kept {
				t.Errorf("kept %q", kept)
			}
			for _, k := range kept {
				if b, _ := os.ReadFile(k); !bytes.Equal(b, c.there) && string(b) != "stale" {
					t.Errorf("%s is not what was there", k)
				}
			}
			before := p.served.Load()
			if code, out := restore(t, datadir, address, address+"/chain.toml", restoreName); code != 0 || !strings.Contains(out, "already") {
				t.Errorf("the second time: exit %d: %s", code, out)
			}
			if got := p.served.Load() - before; got != int64(len(p.objects["chain.toml"])) {
				t.Errorf("the second time %d bytes were fetched", got)
			}
		})
	}
}

// TestRestoreFetchOnly fetches while Erigon runs and puts in place when it is down.
func TestRestoreFetchOnly(t *testing.T) {
	t.Parallel()
	data := randomBytes(1, 3*pieceLength+1)
	p, address, datadir, list := restorable(t, data)
	release, err := holdDatadir(datadir, unix.LOCK_EX)
	if err != nil {
		t.Fatal(err)
	}
	if code, out := restore(t, datadir, address, list, restoreName); code != 3 || !strings.Contains(out, "erigon is running") {
		t.Errorf("exit %d: %s", code, out)
	}
	if code, out := restore(t, datadir, address, list, "--fetch-only", restoreName); code != 0 {
		t.Errorf("exit %d: %s", code, out)
	}
	if _, err := os.Stat(filepath.Join(datadir, "snapshots", restoreName)); err == nil {
		t.Error("it is in place")
	}
	release()
	place := func() (int, string) {
		var out bytes.Buffer
		code := exitCode(runRestore(t.Context(), []string{"--datadir", datadir, "--place-only", restoreName}, func(string) string { return "" }, &out, &out), &out)
		return code, out.String()
	}
	part := filepath.Join(datadir, ".snapfw", "restore", restoreName)
	fetched, err := os.ReadFile(part)
	if err != nil {
		t.Fatal(err)
	}
	putFile(t, part, fetched[1:], 0)
	if code, out := place(); code != 3 || !strings.Contains(out, "are not fetched") {
		t.Errorf("exit %d: %s", code, out)
	}
	putFile(t, part, fetched, 0)
	if code, out := place(); code != 0 {
		t.Errorf("exit %d: %s", code, out)
	}
	isRestored(t, datadir, data)
	if code, out := place(); code != 3 || !strings.Contains(out, "is not fetched") {
		t.Errorf("exit %d: %s", code, out)
	}
	if p.served.Load() != int64(len(data)) {
		t.Errorf("%d bytes were fetched", p.served.Load())
	}
}

// TestRestoreResumes kills it in the middle and sees that no piece is fetched twice but those that were on their way.
func TestRestoreResumes(t *testing.T) {
	t.Parallel()
	data := randomBytes(1, 30*pieceLength+1)
	p, address, datadir, list := restorable(t, data)
	var ranges atomic.Int64
	p.mu.Lock() // it is another process that asks
	p.before = func(w http.ResponseWriter, r *http.Request, key string) bool {
		if key == restoreName && ranges.Add(1) > 4 {
			<-r.Context().Done() // it hangs
			return true
		}
		return false
	}
	p.mu.Unlock()
	words, _ := json.Marshal([]string{"--datadir", datadir, "--base", address, "--list", list, restoreName})
	cmd := exec.Command(os.Args[0], "-test.run=^TestRestoreChild$")
	cmd.Env = append(os.Environ(), restoreChild+"="+string(words), "GORACE=atexit_sleep_ms=0")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	part := filepath.Join(datadir, ".snapfw", "restore", restoreName)
	const first = 4 * restoreRun * pieceLength // four requests
	eventually(t, func() bool {
		var st unix.Stat_t
		return p.served.Load() == first && unix.Stat(part, &st) == nil && st.Blocks*512 >= first
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if _, err := os.Stat(filepath.Join(datadir, "snapshots", restoreName)); err == nil {
		t.Fatal("half of it is in place")
	}
	p.mu.Lock()
	p.before = nil
	p.mu.Unlock()
	if code, out := restore(t, datadir, address, list, restoreName); code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	isRestored(t, datadir, data)
	if got := p.served.Load(); got != int64(len(data)) {
		t.Errorf("%d bytes were fetched of %d", got, len(data))
	}
}

func TestRestoreIsPatient(t *testing.T) {
	t.Parallel()
	data := randomBytes(1, 9*pieceLength)
	p, address, datadir, list := restorable(t, data)
	var n atomic.Int64
	p.before = func(w http.ResponseWriter, r *http.Request, key string) bool {
		switch n.Add(1) {
		case 1, 4:
			http.Error(w, "later", http.StatusServiceUnavailable)
			return true
		case 3: // cut off
			w.Header().Set("Content-Range", strings.Replace(r.Header.Get("Range"), "=", " ", 1)+fmt.Sprintf("/%d", len(data)))
			w.WriteHeader(http.StatusPartialContent)
			w.Write(data[:1000])
			return true
		}
		return false
	}
	if code, out := restore(t, datadir, address, list, restoreName); code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	isRestored(t, datadir, data)
}

func TestRestoreDeclines(t *testing.T) {
	t.Parallel()
	data := randomBytes(1, 5*pieceLength)
	other := randomBytes(2, 5*pieceLength)
	for name, c := range map[string]struct {
		do    func(p *published)
		names []string
		code  int
		want  string
	}{
		"unknown name":  {func(*published) {}, []string{"v1.1-000000-000500-headers.seg"}, 3, "not in the published list"},
		"traversal":     {func(*published) {}, []string{"../../etc/passwd"}, 3, "not in the published list"},
		"absolute":      {func(*published) {}, []string{"/etc/passwd"}, 3, "not in the published list"},
		"its torrent":   {func(*published) {}, []string{restoreName + torrentExt}, 3, "not in the published list"},
		"stale torrent": {func(p *published) { p.objects[restoreName+torrentExt] = p.objects["salt-state.txt"+torrentExt] }, nil, 1, "want infohash"},
		"no torrent":    {func(p *published) { delete(p.objects, restoreName+torrentExt) }, nil, 1, "HTTP 404"},
		"other bytes":   {func(p *published) { p.objects[restoreName] = other }, nil, 1, "as published"},
		"200":           {func(p *published) { p.before = plain200(restoreName, data) }, nil, 1, "want HTTP 206"},
		"shorter":       {func(p *published) { p.objects[restoreName] = data[:len(data)-1] }, nil, 1, "want bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			p, address, datadir, list := restorable(t, data)
			file := filepath.Join(datadir, "snapshots", restoreName)
			putFile(t, file, []byte("what was there"), 0)
			c.do(p)
			names := c.names
			if names == nil {
				names = []string{restoreName}
			}
			code, out := restore(t, datadir, address, list, names...)
			if code != c.code || !strings.Contains(out, c.want) {
				t.Errorf("exit %d: %s", code, out)
			}
			if b, _ := os.ReadFile(file); string(b) != "what was there" {
				t.Error("what was there is gone")
			}
		})
	}
}

func plain200(key string, data []byte) func(http.ResponseWriter, *http.Request, string) bool {
	return func(w http.ResponseWriter, _ *http.Request, k string) bool {
		if k == key {
			w.Write(data)
		}
		return k == key
	}
}

// TestRestoreKeepsTheHeader sees that the secret goes to the address that asks for it only.
func TestRestoreKeepsTheHeader(t *testing.T) {
	t.Parallel()
	data := randomBytes(1, 10)
	p, address, datadir, _ := restorable(t, data)
	q, elsewhere := publish(t)
	q.objects["a/chain.toml"] = p.objects["chain.toml"]
	var bad, good atomic.Int64
	q.before = func(_ http.ResponseWriter, r *http.Request, _ string) bool {
		bad.Add(int64(len(r.Header.Get("X-Pass"))))
		return false
	}
	p.before = func(_ http.ResponseWriter, r *http.Request, _ string) bool {
		good.Add(int64(len(r.Header.Get("X-Pass"))))
		return false
	}
	if code, out := restore(t, datadir, address, elsewhere+"/a/chain.toml", restoreName); code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	if bad.Load() != 0 || good.Load() == 0 {
		t.Errorf("%d %d", bad.Load(), good.Load())
	}
}

func TestRestoreNeedsRoom(t *testing.T) {
	t.Parallel()
	const size = 1 << 50
	f := &restoredFile{torrent: torrentFile{Length: size}, has: make([]bool, pieceCount(size)/64), oldHas: make([]bool, pieceCount(size)/64)}
	r := &restoring{dir: t.TempDir()}
	if err := r.room([]*restoredFile{f}); err == nil || !strings.Contains(err.Error(), "make room") {
		t.Error(err)
	}
}
