package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/sinks/r2/r2test"
)

// copyOf is a folder to upload.
type copyOf struct {
	dir, list string
	entries   []core.Upload
}

func newCopy(t testing.TB) *copyOf {
	dir := t.TempDir()
	return &copyOf{dir: filepath.Join(dir, "data"), list: filepath.Join(dir, "list")}
}

// add makes a file of random bytes, with its sum in the list.
func (c *copyOf) add(t testing.TB, name string, size int64, seed uint64) {
	t.Helper()
	file := filepath.Join(c.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	var key [32]byte
	key[0] = byte(seed)
	copy(key[1:], name)
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(f, h), rand.NewChaCha8(key), size); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	c.entries = slices.DeleteFunc(c.entries, func(u core.Upload) bool { return u.Name == name })
	c.entries = append(c.entries, core.Upload{Entry: core.Entry{Name: name, Size: size, Sums: map[string]string{"sha256": hex.EncodeToString(h.Sum(nil))}}})
}

func (c *copyOf) write(t testing.TB) {
	t.Helper()
	var b bytes.Buffer
	for _, e := range c.entries {
		if err := json.NewEncoder(&b).Encode(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(c.list, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (c *copyOf) entry(name string) *core.Upload {
	return &c.entries[slices.IndexFunc(c.entries, func(u core.Upload) bool { return u.Name == name })]
}

func env(name string) string {
	return map[string]string{accessEnv: r2test.AccessKey, secretEnv: r2test.SecretKey}[name]
}

// run plans an upload and does it in this process.
func (c *copyOf) run(t testing.TB, target core.Target, r core.UploadRequest) (exit int, sent core.Sent, said string) {
	t.Helper()
	c.write(t)
	r.Dir, r.List = c.dir, c.list
	cmd, err := newSink().Upload(t.Context(), target, r)
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	exit = uploadVerb(t.Context(), cmd.Argv[2:], env, &out, &errs)
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if exit == 0 {
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &sent); err != nil || !strings.Contains(lines[len(lines)-1], `"sent"`) {
			t.Errorf("the last line is %q: %v", lines[len(lines)-1], err)
		}
	}
	if strings.Contains(errs.String(), r2test.SecretKey) {
		t.Error("the secret is in an error")
	}
	return exit, sent, errs.String()
}

// holds compares an object with a file.
func (s *site) holds(t *testing.T, key string, c *copyOf, name string) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(s.Dir, key))
	want, err2 := os.ReadFile(filepath.Join(c.dir, name))
	if err != nil || err2 != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is not %s: %v, %v", key, name, err, err2)
	}
	b, err := newSink().bucket(s.target)
	if err != nil {
		t.Fatal(err)
	}
	h, err := b.head(t.Context(), key)
	if err != nil || h.meta["sha256"] != c.entry(name).Sums["sha256"] || h.meta["mtime"] == "" {
		t.Errorf("%s: metadata %v, %v", key, h.meta, err)
	}
}

func (s *site) kept(t *testing.T) {
	t.Helper()
	if len(s.Broken()) > 0 {
		t.Errorf("R2's rules were broken: %v", s.Broken())
	}
}

func only(log []string, kinds ...string) (out []string) {
	for _, l := range log {
		if kind, _, _ := strings.Cut(l, " "); slices.Contains(kinds, kind) {
			out = append(out, l)
		}
	}
	return out
}

func TestUpload(t *testing.T) {
	t.Parallel()
	s, c := newSite(t, "upload"), newCopy(t)
	c.add(t, "domain/v2.0-accounts.0-1.kv.torrent", 900, 1)
	c.add(t, "domain/v2.0-accounts.0-1.kv", 12*mib+7, 1)
	c.add(t, "v1.1-000000-000500-headers.seg", 5*mib, 1)
	c.add(t, "empty", 0, 1)
	exit, sent, said := c.run(t, s.target, core.UploadRequest{})
	if exit != 0 || sent.Files != 4 || sent.Bytes != 17*mib+907 {
		t.Fatalf("exit %d, %+v: %s", exit, sent, said)
	}
	for _, e := range c.entries {
		s.holds(t, e.Name, c, e.Name)
	}
	if puts := only(s.Took(), "PUT", "complete"); !strings.HasSuffix(puts[len(puts)-1], ".torrent") {
		t.Errorf("the .torrent is not last: %v", puts)
	}
	// A second run sends nothing.
	if exit, sent, said = c.run(t, s.target, core.UploadRequest{}); exit != 0 || sent != (core.Sent{}) {
		t.Errorf("again: exit %d, %+v: %s", exit, sent, said)
	}
	if puts := only(s.Took(), "PUT", "part", "create"); len(puts) > 0 {
		t.Errorf("a second run asks for %v", puts)
	}
	// What is stored without a sum is compared byte by byte: an ETag tells.
	for i := range c.entries {
		c.entries[i].Sums = map[string]string{"blake3": "00ff"}
	}
	if exit, sent, said = c.run(t, s.target, core.UploadRequest{}); exit != 0 || sent != (core.Sent{}) {
		t.Errorf("by content: exit %d, %+v: %s", exit, sent, said)
	}
	s.kept(t)
}

// What is published is not written over: neither in one request nor in parts, nor where the size is the same.
func TestPublishedStays(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{1000, 12 * mib} {
		s, c := newSite(t, "published"), newCopy(t)
		c.add(t, "a.kv", size, 1)
		if exit, _, said := c.run(t, s.target, core.UploadRequest{Prefix: "p"}); exit != 0 {
			t.Fatal(said)
		}
		old, err := os.ReadFile(filepath.Join(s.Dir, "p/a.kv"))
		if err != nil {
			t.Fatal(err)
		}
		c.add(t, "a.kv", size, 2)
		c.add(t, "new.kv", 10, 2)
		s.Took()
		exit, _, said := c.run(t, s.target, core.UploadRequest{Prefix: "p"})
		if exit != core.ExitRefused || !strings.Contains(said, "p/a.kv") || len(only(s.Took(), "PUT", "part", "create")) > 0 {
			t.Errorf("exit %d: %s", exit, said)
		}
		// As a replacement it is parked, and what is published stays until the Copier moves it.
		c.entry("a.kv").Replace = true
		exit, sent, said := c.run(t, s.target, core.UploadRequest{Prefix: "p", Stage: ".staged/1"})
		if exit != 0 || sent.Files != 2 {
			t.Fatalf("exit %d, %+v: %s", exit, sent, said)
		}
		s.holds(t, ".staged/1/p/a.kv", c, "a.kv")
		if now, err := os.ReadFile(filepath.Join(s.Dir, "p/a.kv")); err != nil || !bytes.Equal(now, old) {
			t.Errorf("what is published changed: %v", err)
		}
		for _, err := range newSink().Copy(t.Context(), s.target, []core.Move{{From: ".staged/1/p/a.kv", To: "p/a.kv", Size: size}}) {
			if err != nil {
				t.Error(err)
			}
		}
		s.holds(t, "p/a.kv", c, "a.kv")
		s.kept(t)
	}
}

// Somebody publishes the key while we send it.
func TestTakenMeanwhile(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{1000, 12 * mib} {
		s, c := newSite(t, "meanwhile"), newCopy(t)
		c.add(t, "a.kv", size, 1)
		var once atomic.Bool
		s.Trouble(func(_ http.ResponseWriter, r *http.Request) bool {
			if kind := r2test.Kind(r); (kind == "PUT" || kind == "complete") && once.CompareAndSwap(false, true) {
				if _, err := newSink().Put(context.Background(), s.target, "a.kv", []byte("theirs"), core.Condition{}); err != nil {
					t.Error(err)
				}
			}
			return false
		})
		exit, _, said := c.run(t, s.target, core.UploadRequest{})
		body, _, err := newSink().Get(t.Context(), s.target, "a.kv")
		if exit != core.ExitRefused || string(body) != "theirs" || err != nil {
			t.Errorf("exit %d, %.20q, %v: %s", exit, body, err, said)
		}
	}
}

func TestPreviousIsCopiedInside(t *testing.T) {
	t.Parallel()
	s, c := newSite(t, "previous"), newCopy(t)
	c.add(t, "a.ldb", 7*mib, 1)
	c.add(t, "b.ldb", 100, 1)
	if exit, _, said := c.run(t, s.target, core.UploadRequest{Prefix: "one"}); exit != 0 {
		t.Fatal(said)
	}
	c.add(t, "b.ldb", 100, 2) // said to be unchanged, and is not
	c.add(t, "new.ldb", 50, 1)
	c.add(t, "gone.ldb", 60, 1)
	for _, name := range []string{"a.ldb", "b.ldb", "gone.ldb"} {
		c.entry(name).Previous = true
	}
	exit, sent, said := c.run(t, s.target, core.UploadRequest{Prefix: "two", Previous: "one"})
	if exit != 0 || sent != (core.Sent{Files: 3, Bytes: 210}) {
		t.Errorf("exit %d, %+v: %s", exit, sent, said)
	}
	for _, e := range c.entries {
		s.holds(t, "two/"+e.Name, c, e.Name)
	}
	s.kept(t)
}

// kill -9 in the middle of a part; the next run carries on and sends what is missing only.
func TestKilledUploadCarriesOn(t *testing.T) {
	t.Parallel()
	s, c := newSite(t, "killed"), newCopy(t)
	const size = 42*mib + 3
	c.add(t, "large.kv", size, 1)
	c.write(t)
	cmd, err := newSink().Upload(t.Context(), s.target, core.UploadRequest{Dir: c.dir, List: c.list, Prefix: "p"})
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var first int64
	for _, after := range []int64{12 * mib, 14 * mib} { // twice
		child := exec.Command(self, cmd.Argv[1:]...)
		child.Env = credentials()
		before := s.Received()
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(time.Minute); s.Received()-before < after; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("nothing is sent")
			}
		}
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = child.Wait()
	}
	first = s.Received()
	exit, sent, said := c.run(t, s.target, core.UploadRequest{Prefix: "p"})
	if exit != 0 {
		t.Fatal(said)
	}
	total := s.Received()
	t.Logf("%d bytes; sent %d before two kills, %d after, %d in all", size, first, sent.Bytes, total)
	// Each kill costs at most the parts that were under way.
	if sent.Bytes >= size-10*mib || total > size+2*partsAtOnce*5*mib {
		t.Errorf("%d bytes were sent again, %d in all", sent.Bytes, total)
	}
	s.holds(t, "p/large.kv", c, "large.kv")
	s.kept(t)
}

// An upload that was begun with another version of the file is not carried on, and not left behind.
func TestForeignBeginnings(t *testing.T) {
	t.Parallel()
	s, c := newSite(t, "foreign"), newCopy(t)
	c.add(t, "a.kv", 12*mib, 1)
	b, err := newSink().bucket(s.target)
	if err != nil {
		t.Fatal(err)
	}
	begin := func(key string, part []byte, meta map[string]string) {
		up, err := b.api.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: &b.name, Key: b.key(key), Metadata: meta})
		if err != nil {
			t.Fatal(err)
		}
		if part != nil {
			_, err = b.api.UploadPart(t.Context(), &s3.UploadPartInput{Bucket: &b.name, Key: b.key(key), UploadId: up.UploadId, PartNumber: aws.Int32(1), Body: bytes.NewReader(part)})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	data, err := os.ReadFile(filepath.Join(c.dir, "a.kv"))
	if err != nil {
		t.Fatal(err)
	}
	begin("a.kv", data[:5*mib], map[string]string{"sha256": "00", "mtime": "1.0"}) // the same first part, another file
	begin("a.kv", bytes.Repeat([]byte("x"), 5*mib), nil)
	begin("a.kv", nil, nil)
	begin("other.kv", nil, nil) // perhaps somebody is at it
	exit, sent, said := c.run(t, s.target, core.UploadRequest{})
	if exit != 0 || sent.Bytes != 7*mib {
		t.Errorf("exit %d, %+v: %s", exit, sent, said)
	}
	s.holds(t, "a.kv", c, "a.kv")
	left, err := b.unfinished(t.Context(), "")
	if err != nil || !slices.Equal(slices.Collect(maps.Keys(left)), []string{"other.kv"}) {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestBadSources(t *testing.T) {
	s := newSite(t, "sources")
	for name, c := range map[string]struct {
		spoil func(t *testing.T, c *copyOf)
		said  string
	}{
		"gone":          {func(t *testing.T, c *copyOf) { os.Remove(filepath.Join(c.dir, "a.kv")) }, "no such file"},
		"shorter":       {func(t *testing.T, c *copyOf) { os.Truncate(filepath.Join(c.dir, "a.kv"), 7) }, "7 bytes instead of 1000"},
		"other content": {func(t *testing.T, c *copyOf) { os.WriteFile(filepath.Join(c.dir, "a.kv"), make([]byte, 1000), 0o644) }, "its sha256 is"},
		"a link": {func(t *testing.T, c *copyOf) {
			os.Remove(filepath.Join(c.dir, "a.kv"))
			os.Symlink("/etc/passwd", filepath.Join(c.dir, "a.kv"))
		}, "not a regular file"},
		"replaces and no stage": {func(t *testing.T, c *copyOf) { c.entries[0].Replace = true }, "no --stage"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newCopy(t)
			f.add(t, "a.kv", 1000, 1)
			c.spoil(t, f)
			exit, _, said := f.run(t, s.target, core.UploadRequest{})
			if exit != core.ExitRefused || !strings.Contains(said, c.said) {
				t.Errorf("exit %d: %s", exit, said)
			}
		})
	}
	if files, err := os.ReadDir(s.Dir); err != nil || slices.ContainsFunc(files, func(e os.DirEntry) bool { return e.Name() == "a.kv" }) {
		t.Errorf("something arrived: %v, %v", files, err)
	}
}

func TestRate(t *testing.T) {
	p := newPace(1 << 20)
	begin := time.Now()
	for range 8 {
		if err := p.wait(t.Context(), 128<<10); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(begin); took < 600*time.Millisecond || took > 5*time.Second {
		t.Errorf("1 MiB at 1 MiB a second took %v", took)
	}
}

// More parts than the storage takes are made larger.
func TestFewParts(t *testing.T) {
	saved := r2Limits
	t.Cleanup(func() { r2Limits = saved })
	r2Limits.parts = 3
	s, c := newSite(t, "few-parts"), newCopy(t)
	s.MaxParts = 3
	c.add(t, "large.kv", 26*mib, 1)
	if exit, _, said := c.run(t, s.target, core.UploadRequest{}); exit != 0 {
		t.Fatal(said)
	}
	if parts := only(s.Took(), "part"); len(parts) != 3 {
		t.Errorf("%v", parts)
	}
	s.holds(t, "large.kv", c, "large.kv")
	s.kept(t)
}
