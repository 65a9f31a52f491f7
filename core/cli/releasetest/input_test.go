package releasetest

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What is wrong with the machine or its files ends the release with the repair's name; the node is up, and nothing is published.
func TestBadDatadir(t *testing.T) {
	w := newWorld(t, options{local: true, still: true, byHand: true})
	const headers = "v1.1-000000-000100-headers.seg"
	snapshots := func(name string) string { return filepath.Join(w.datadir, "snapshots", name) }
	add := func(name, content string) func() (undo func()) {
		return func() func() {
			if err := os.WriteFile(snapshots(name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
			return func() { os.Remove(snapshots(name)) }
		}
	}
	away := func(name string) func() (undo func()) {
		return func() func() {
			w.rename(snapshots(name), w.path("away"))
			return func() { w.rename(w.path("away"), snapshots(name)) }
		}
	}
	setting := func(key string, value any) func() (undo func()) {
		return func() func() {
			old := w.chain[key]
			w.chain[key] = value
			return func() { w.chain[key] = old }
		}
	}
	pid := w.pid()
	for _, c := range []struct {
		name string
		exit int
		do   func() (undo func())
		says []string
	}{
		{"no datadir", 3, setting("datadir", w.path("nothing")), []string{"nothing"}},
		{"no erigon", 3, setting("programs", table{"erigon": w.path("bin", "missing"), "integration": w.path("bin", "integration")}), []string{"missing"}},
		{"a download that did not end", 3, add("v1.1-000112-000113-headers.seg.part", "half"), []string{".part", "stand in the way of a release: v1.1-000112-000113-headers.seg.part", "snapfw fix launch-flags"}},
		{"a foreign file", 3, add("notes.doc", "mine"), []string{"notes.doc", "move it out of snapshots/"}},
		{"no bytes", 3, func() func() {
			undo := away(headers)()
			put := add(headers, "")()
			return func() { put(); undo() }
		}, []string{headers, "zero bytes", "snapfw fix"}},
		{"two versions", 3, add("v1.0-000000-000100-headers.seg", "older"), []string{"two-versions", "v1.0-000000-000100-headers.seg"}},
		{"a gap", 3, away("domain/v2.0-accounts.0-64.kv"), []string{"accounts", "gap", "snapfw fix restore"}},
	} {
		undo := c.do()
		r := w.snapfw("release", "--chain", chainName)
		if r.exit != c.exit {
			t.Errorf("%s: want exit code %d: %s", c.name, c.exit, r)
		}
		for _, says := range c.says {
			if !strings.Contains(r.err, says) {
				t.Errorf("%s: want %q, got %s", c.name, says, r)
			}
		}
		undo()
		if keys := w.site.Keys(""); len(keys) > 0 {
			t.Fatalf("%s: the bucket holds %s", c.name, keys[0])
		}
		w.well()
		// Only what retire might have put right costs a stop.
		if stopped := w.pid() != pid; stopped != (c.name == "a gap") {
			t.Errorf("%s: the node was stopped: %t", c.name, stopped)
		}
		pid = w.pid()
	}
	undo := setting("programs", table{"erigon": w.path("bin", "erigon"), "integration": w.path("bin", "missing")})()
	w.fix(3, "missing", "rebuild-commitment")
	undo()
	if w.pid() != pid {
		t.Error("the node was stopped for a repair whose program is not there")
	}
	if _, err := os.Stat(w.path("nothing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the datadir that did not exist: %v", err)
	}
	w.release(5)
}

func (w *world) rename(from, to string) {
	w.t.Helper()
	if err := os.Rename(from, to); err != nil {
		w.t.Fatal(err)
	}
}

// A list in the bucket that is none is said so, and never written over.
func TestBadPublishedList(t *testing.T) {
	w := newWorld(t, options{local: true, still: true, byHand: true})
	const sum = "0123456789012345678901234567890123456789"
	run, pid := "", 0
	for _, c := range []struct {
		body string
		says string
	}{
		{"<html>404</html>\n", "line 1"},
		{"'a.seg' = '" + sum + "'\n'a.seg' = '" + sum + "'\n", "a.seg is on line 1 already"},
		{"'../a.seg' = '" + sum + "'\n", `"../a.seg" is no name`},
		{"'a.seg' = 'short'\n", "no infohash"},
		{"'" + strings.Repeat("a", 65<<20), "get mainnet.toml: 68157441 bytes are no small object"},
	} {
		w.site.Put(t, listKey, []byte(c.body), nil)
		args := []string{"release", "--chain", chainName}
		if run != "" {
			args = []string{"resume", run}
		}
		r := w.want(1, c.says, args...)
		if !strings.Contains(r.err, "snapfw resume") || len(r.err) > 32<<10 {
			t.Errorf("%d bytes of words: %s", len(r.err), r)
		}
		if got, _ := w.site.Object(listKey); !bytes.Equal(got, []byte(c.body)) {
			t.Errorf("%.40q was written over", c.body)
		}
		if run == "" {
			w.well()
			run, pid = w.newest(), w.pid()
		}
	}
	w.site.Remove(t, listKey)
	w.want(5, "snapfw approve", "resume", run)
	w.want(0, "", "approve", run, "--reason", "read")
	w.want(0, listKey, "resume", run)
	if w.pid() != pid {
		t.Error("the node was stopped again")
	}
	w.whole()
}
