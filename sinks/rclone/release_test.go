package main

import (
	"bytes"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/snapfw/snapfw/core"
)

// chainFiles are those of a release: they have an infohash and no sha256.
func chainFiles(t *testing.T, files map[string]string) *copyDir {
	t.Helper()
	dir := t.TempDir()
	c := &copyDir{dir: filepath.Join(dir, "data"), list: filepath.Join(dir, "uploads.jsonl")}
	for name, body := range files {
		file := filepath.Join(c.dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
		c.uploads = append(c.uploads, core.Upload{Entry: core.Entry{Name: name, Size: int64(len(body)), Sums: map[string]string{"infohash": strings.Repeat("ab", 20)}}})
	}
	c.write(t)
	return c
}

func (c *copyDir) replace(t *testing.T, names ...string) {
	t.Helper()
	for i := range c.uploads {
		c.uploads[i].Replace = slices.Contains(names, c.uploads[i].Name)
	}
	c.write(t)
}

func putAll(t *testing.T, s site, objects map[string]string) {
	t.Helper()
	for key, body := range objects {
		if _, err := s.sink.Put(t.Context(), s.target, key, []byte(body), core.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
}

func has(t *testing.T, s site, want map[string]string) {
	t.Helper()
	for key, body := range want {
		if got, err := read(t, s, key); err != nil || string(got) != body {
			t.Errorf("%s holds %q, want %q: %v", key, got, body, err)
		}
	}
}

func copyAll(t *testing.T, s site, moves ...core.Move) (done int, last error) {
	t.Helper()
	for _, err := range s.sink.Copy(t.Context(), s.target, moves) {
		if last = err; err == nil {
			done++
		}
	}
	return done, last
}

// Replacements wait under the stage, at the storage's root too, until they are moved.
func TestReleaseReplaces(t *testing.T) {
	each(t, []string{"directory", "alias of a directory", "webdav", "bucket"}, func(t *testing.T, s site) {
		prefixes := map[string][]string{"directory": {"", "pub/"}, "alias of a directory": {""}, "webdav": {"pub/"}, "bucket": {""}}
		for _, prefix := range prefixes[s.name] {
			stage := ".staged/run1"
			putAll(t, s, map[string]string{prefix + "domain/a.kv": "old data", prefix + "domain/a.kv.torrent": "old torrent"})
			c := chainFiles(t, map[string]string{"domain/a.kv": "new data", "domain/a.kv.torrent": "new torrent", "domain/b.kv": "b", "domain/b.kv.torrent": "tb"})
			c.replace(t, "domain/a.kv", "domain/a.kv.torrent")
			r := core.UploadRequest{Prefix: strings.TrimSuffix(prefix, "/"), Stage: stage}
			if o := must(t, finish(t, verb(t, s, c, r))); o.sum.Sent != 4 || o.sum.SentBytes != 22 {
				t.Errorf("first: %+v", o.sum)
			}
			if o := must(t, finish(t, verb(t, s, c, r))); o.sum.Sent != 0 || o.sum.There != 4 {
				t.Errorf("again: %+v", o.sum)
			}
			staged := stage + "/" + prefix
			has(t, s, map[string]string{
				prefix + "domain/a.kv": "old data", prefix + "domain/a.kv.torrent": "old torrent", prefix + "domain/b.kv": "b", prefix + "domain/b.kv.torrent": "tb",
				staged + "domain/a.kv": "new data", staged + "domain/a.kv.torrent": "new torrent",
			})
			moves := []core.Move{
				{From: staged + "domain/a.kv", To: prefix + "domain/a.kv", Size: 8}, {From: staged + "domain/a.kv.torrent", To: prefix + "domain/a.kv.torrent", Size: 11},
				{From: prefix + "domain/b.kv", To: prefix + "domain/b.kv", Size: 1},
			}
			for range 2 {
				if done, err := copyAll(t, s, moves...); done != 3 || err != nil {
					t.Errorf("%d moves: %v", done, err)
				}
			}
			has(t, s, map[string]string{prefix + "domain/a.kv": "new data", prefix + "domain/a.kv.torrent": "new torrent", prefix + "domain/b.kv": "b"})
			if s.bucket != nil {
				if _, copies := s.bucket.snapshot(); prefix == "" && copies != 2 {
					t.Errorf("%d copies inside: the second time is one too many", copies)
				}
			}
		}
	})
}

// What is published stays, though it has the same size and no run remembers it; what is the same is not sent again.
func TestReleaseKeepsWhatIsPublished(t *testing.T) {
	each(t, []string{"directory", "webdav", "sftp", "bucket"}, func(t *testing.T, s site) {
		putAll(t, s, map[string]string{"domain/a.kv": "same data", "domain/b.kv": "old data"})
		c := chainFiles(t, map[string]string{"domain/a.kv": "same data", "domain/b.kv": "new data", "domain/c.kv": "c"})
		refused := func(what string, r core.UploadRequest, c *copyDir) {
			t.Helper()
			o := finish(t, verb(t, s, c, r))
			if o.exit != core.ExitRefused || !strings.Contains(o.stderr, "not listed as a replacement: domain/b.kv") || strings.Contains(o.stderr, "a.kv") {
				t.Errorf("%s: exit %d: %s", what, o.exit, o.stderr)
			}
			has(t, s, map[string]string{"domain/a.kv": "same data", "domain/b.kv": "old data"})
			if _, _, err := s.sink.Get(t.Context(), s.target, "domain/c.kv"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: something was sent: %v", what, err)
			}
		}
		refused("same size", core.UploadRequest{}, c)
		refused("another size", core.UploadRequest{Stage: ".staged"}, chainFiles(t, map[string]string{"domain/b.kv": "new and longer data", "domain/c.kv": "c"}))
		c = chainFiles(t, map[string]string{"domain/a.kv": "same data", "domain/c.kv": "c"})
		if o := must(t, finish(t, verb(t, s, c, core.UploadRequest{}))); o.sum.Sent != 1 || o.sum.There != 1 {
			t.Errorf("what is the same: %+v", o.sum)
		}
		has(t, s, map[string]string{"domain/a.kv": "same data", "domain/c.kv": "c"})
	})
}

// Data is there before the .torrent that tells of it.
func TestReleaseTorrentsLast(t *testing.T) {
	needRclone(t)
	s := newSite(t, "bucket")
	c := chainFiles(t, map[string]string{"a.kv.torrent": "t", "a.kv": strings.Repeat("a", 1000), "z.kv": "z", "z.kv.torrent": "t"})
	s.bucket.refusing(func(r *http.Request) bool { return r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "z.kv") })
	if o := finish(t, verb(t, s, c, core.UploadRequest{})); o.exit != 1 {
		t.Errorf("exit %d: %s", o.exit, o.stderr)
	}
	if got := keys(t, s, ""); !slices.Equal(got, []string{"a.kv 1000"}) {
		t.Errorf("without all data there is %v", got)
	}
	s.bucket.refusing(nil)
	if o := must(t, finish(t, verb(t, s, c, core.UploadRequest{}))); o.sum.There != 1 || o.sum.Sent != 3 {
		t.Errorf("%+v", o.sum)
	}
}

// Half of a file that a killed run left is not taken for somebody else's, where storage is written in place.
func TestReleaseKilled(t *testing.T) {
	needRclone(t)
	s := newSite(t, "directory")
	c := chainFiles(t, map[string]string{"a.kv": strings.Repeat("a", 400_000), "b.kv": strings.Repeat("b", 400_000)})
	cmd := verb(t, s, c, core.UploadRequest{Rate: 100_000, Transfers: 2})
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "half a file arrived", func() bool {
		info, err := os.Stat(filepath.Join(s.dir, "a.kv"))
		return err == nil && info.Size() > 0
	})
	child := childOf(cmd.Process.Pid)
	for _, pid := range []int{cmd.Process.Pid, child} {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Wait(); err == nil {
		t.Error("it was not killed")
	}
	until(t, "rclone ended", func() bool { return !alive(child) })
	o := must(t, finish(t, verb(t, s, c, core.UploadRequest{})))
	if o.sum.Sent != 2 {
		t.Errorf("%+v", o.sum)
	}
	for _, name := range []string{"a.kv", "b.kv"} {
		got, err := os.ReadFile(filepath.Join(s.dir, name))
		if err != nil || !bytes.Equal(got, bytes.Repeat([]byte(name[:1]), 400_000)) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

// Storage that can't copy inside itself says so, once, and nothing is sent.
func TestReleaseWithoutCopies(t *testing.T) {
	needRclone(t)
	s := newSite(t, "sftp")
	if _, err := copyAll(t, s, core.Move{From: "a", To: "b"}); !errors.Is(err, core.ErrUnsupported) {
		t.Errorf("copy: %v", err)
	}
	c := chainFiles(t, map[string]string{"a.kv": "a", "b.kv": "b"})
	c.replace(t, "a.kv")
	o := finish(t, verb(t, s, c, core.UploadRequest{Stage: ".staged"}))
	if o.exit != core.ExitRefused || !strings.Contains(o.stderr, "can't copy inside itself") {
		t.Errorf("exit %d: %s", o.exit, o.stderr)
	}
	if got := keys(t, s, ""); len(got) > 0 {
		t.Errorf("sent: %v", got)
	}
}

func TestCopyRefuses(t *testing.T) {
	each(t, []string{"directory", "webdav", "bucket"}, func(t *testing.T, s site) {
		putAll(t, s, map[string]string{"a": "1", "b": "22"})
		for name, m := range map[string]core.Move{
			"not there":          {From: "x", To: "y"},
			"not there, itself":  {From: "x", To: "x"},
			"another size":       {From: "a", To: "y", Size: 2},
			"itself, other size": {From: "a", To: "a", Size: 2},
			"outside":            {From: "../a", To: "y"},
			"to outside":         {From: "a", To: "/y"},
		} {
			if done, err := copyAll(t, s, m); done != 0 || err == nil {
				t.Errorf("%s: %d, %v", name, done, err)
			}
		}
		if _, err := copyAll(t, s, core.Move{From: "x", To: "y"}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("not there: %v", err)
		}
		for range s.sink.Copy(t.Context(), s.target, []core.Move{{From: "a", To: "c"}, {From: "a", To: "d"}, {From: "b", To: "e"}}) {
			break // the reader may stop
		}
		has(t, s, map[string]string{"a": "1", "b": "22"})
	})
}
