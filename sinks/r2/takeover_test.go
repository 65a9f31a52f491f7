package main

import (
	"crypto/md5"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/snapfw/snapfw/core"
)

// What another tool published, with no sum of ours, is not sent again where it has the file's bytes: in one piece or in parts
// of any size, whether the storage tells how large these are or not.
func TestTakenOver(t *testing.T) {
	const tail = 18*mib + 5
	for name, c := range map[string]struct {
		size int64
		part int               // 0: sent in one piece
		meta map[string]string // "" stands for the MD5 sum
		tell int               // the status of an answer to HEAD of a part; 0: the storage tells
		sent bool
	}{
		"small":                                 {size: 1000},
		"empty":                                 {size: 0},
		"large, in one piece":                   {size: tail},
		"in one part":                           {size: 1000, part: 5 * mib},
		"in our parts":                          {size: tail, part: 5 * mib},
		"in other parts":                        {size: tail, part: 8 * mib},
		"in strange parts":                      {size: tail, part: 5*mib + 12345},
		"its last part is whole":                {size: 24 * mib, part: 8 * mib},
		"other parts, not told":                 {size: tail, part: 8 * mib, tell: 501},
		"other parts, asked in vain":            {size: tail, part: 12 * mib, tell: 200},
		"few large parts, not told":             {size: tail, part: 16 * mib, tell: 400},
		"strange parts, not told":               {size: tail, part: 5*mib + 12345, tell: 501, sent: true},
		"strange parts, not told, with a sum":   {size: tail, part: 5*mib + 12345, tell: 501, meta: map[string]string{"md5chksum": ""}},
		"strange parts, not told, another sum":  {size: tail, part: 5*mib + 12345, tell: 501, meta: map[string]string{"md5chksum": "AAAAAAAAAAAAAAAAAAAAAA=="}, sent: true},
		"rclone's, in parts":                    {size: tail, part: 7 * mib, meta: map[string]string{"md5chksum": "", "mtime": "1700000000.5"}},
		"the sum of our metadata is of another": {size: tail, part: 8 * mib, meta: map[string]string{"sha256": "00"}, sent: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, f := newSite(t, "takeover"), newCopy(t)
			f.add(t, "domain/a.kv", c.size, 1)
			f.entry("domain/a.kv").Replace = true
			body, err := os.ReadFile(filepath.Join(f.dir, "domain/a.kv"))
			if err != nil {
				t.Fatal(err)
			}
			sum := md5.Sum(body)
			for name, value := range c.meta {
				if value == "" {
					c.meta[name] = base64.StdEncoding.EncodeToString(sum[:])
				}
			}
			if c.part == 0 {
				s.Put(t, "p/domain/a.kv", body, c.meta)
			} else {
				s.PutParts(t, "p/domain/a.kv", body, c.part, c.meta)
			}
			s.Trouble(func(w http.ResponseWriter, r *http.Request) bool {
				if c.tell == 0 || !r.URL.Query().Has("partNumber") || r.Method != http.MethodHead {
					return false
				}
				w.Header().Set("Content-Length", fmt.Sprint(len(body)))
				w.WriteHeader(c.tell)
				return true
			})
			want := core.Sent{}
			if c.sent {
				want = core.Sent{Files: 1, Bytes: c.size}
			}
			for range 2 { // again after a failure, so also after a success
				before := s.Received()
				exit, sent, said := f.run(t, s.target, core.UploadRequest{Prefix: "p", Stage: ".staged/1"})
				if exit != 0 || sent != want || s.Received()-before != want.Bytes {
					t.Errorf("exit %d, %+v, %d bytes were received: %s", exit, sent, s.Received()-before, said)
				}
				want = core.Sent{}
			}
			s.holds(t, ".staged/1/p/domain/a.kv", f, "domain/a.kv")
			for _, err := range newSink().Copy(t.Context(), s.target, []core.Move{{From: ".staged/1/p/domain/a.kv", To: "p/domain/a.kv", Size: c.size}}) {
				if err != nil {
					t.Error(err)
				}
			}
			s.holds(t, "p/domain/a.kv", f, "domain/a.kv")
			if mark := c.meta["md5chksum"]; !c.sent && s.Meta(t, "p/domain/a.kv")["md5chksum"] != mark {
				t.Errorf("what stood in the metadata is lost: %v", s.Meta(t, "p/domain/a.kv"))
			}
			s.kept(t)
		})
	}
}

// What rclone itself stored.
func TestTakenOverFromRclone(t *testing.T) {
	rclone, err := exec.LookPath("rclone")
	if err != nil {
		t.Skip("SKIPPED: rclone is missing: apt-get install rclone")
	}
	for name, flags := range map[string][]string{
		"as it does":    nil,
		"without a sum": {"--s3-disable-checksum"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, f := newSite(t, "rclone"), newCopy(t)
			f.add(t, "domain/large.kv", 26*mib+5, 1)
			f.add(t, "domain/small.kv", 1000, 1)
			s.Lax = true
			cmd := exec.Command(rclone, append([]string{"--config", rcloneConf(t, s.target), "copy", f.dir, "s:rclone", "--retries", "1",
				"--s3-chunk-size", "7Mi", "--s3-upload-cutoff", "7Mi"}, flags...)...)
			cmd.Env = []string{"HOME=" + t.TempDir()}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			before := s.Received()
			for i := range f.entries {
				f.entries[i].Replace = true
			}
			exit, sent, said := f.run(t, s.target, core.UploadRequest{Stage: ".staged/1"})
			if exit != 0 || sent != (core.Sent{}) || s.Received() != before {
				t.Errorf("exit %d, %+v, %d bytes were received: %s", exit, sent, s.Received()-before, said)
			}
			for _, e := range f.entries {
				s.holds(t, ".staged/1/"+e.Name, f, e.Name)
			}
			t.Logf("metadata: %v", s.Meta(t, ".staged/1/domain/large.kv"))
		})
	}
}

// One byte is enough to be sent, wherever it is and however the other object was stored.
func TestNotTakenOver(t *testing.T) {
	t.Parallel()
	s, f := newSite(t, "takeover"), newCopy(t)
	const size = 13 * mib
	for _, part := range []int{0, 6 * mib} {
		for _, at := range []int64{0, 6 * mib, size - 1} {
			name := fmt.Sprintf("a-%d-%d.kv", part, at)
			f.add(t, name, size, 1)
			f.entry(name).Replace = true
			body, err := os.ReadFile(filepath.Join(f.dir, name))
			if err != nil {
				t.Fatal(err)
			}
			body[at] ^= 1
			if part == 0 {
				s.Put(t, name, body, nil)
			} else {
				s.PutParts(t, name, body, part, nil)
			}
		}
	}
	exit, sent, said := f.run(t, s.target, core.UploadRequest{Stage: ".staged/1"})
	if want := (core.Sent{Files: 6, Bytes: 6 * size}); exit != 0 || sent != want {
		t.Errorf("exit %d, %+v: %s", exit, sent, said)
	}
	for _, e := range f.entries {
		s.holds(t, ".staged/1/"+e.Name, f, e.Name)
	}
}

// Comparing keeps to the run's limit of reading: it is the node's disk.
func TestTakeoverReadsAsSlowlyAsItIsTold(t *testing.T) {
	t.Parallel()
	s, f := newSite(t, "takeover"), newCopy(t)
	f.add(t, "a.kv", 12*mib, 1)
	f.entry("a.kv").Replace = true
	body, err := os.ReadFile(filepath.Join(f.dir, "a.kv"))
	if err != nil {
		t.Fatal(err)
	}
	s.Put(t, "a.kv", body, nil)
	f.write(t)
	cmd, err := newSink().Upload(t.Context(), s.target, core.UploadRequest{Dir: f.dir, List: f.list, Stage: ".staged/1"})
	if err != nil {
		t.Fatal(err)
	}
	limited := func(name string) string {
		if name == readRateEnv {
			return fmt.Sprint(8 * mib)
		}
		return env(name)
	}
	begin := time.Now()
	if exit := uploadVerb(t.Context(), cmd.Argv[2:], limited, io.Discard, os.Stderr); exit != 0 || s.Received() > 0 {
		t.Errorf("exit %d, %d bytes were received", exit, s.Received())
	}
	if took := time.Since(begin); took < time.Second {
		t.Errorf("12 MiB at 8 MiB a second took %v", took)
	}
}

// A .torrent of another tool has another date. It is sent, its data is not.
func TestForeignTorrent(t *testing.T) {
	t.Parallel()
	s, f := newSite(t, "takeover"), newCopy(t)
	const data, torrent = "domain/a.kv", "domain/a.kv.torrent"
	f.add(t, data, 12*mib+5, 1)
	f.torrent(t, data)
	for _, name := range []string{data, torrent} {
		f.entry(name).Replace = true
		body, err := os.ReadFile(filepath.Join(f.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if name == torrent {
			body[len(body)-1] ^= 1
		}
		s.PutParts(t, name, body, 6*mib, nil)
	}
	exit, sent, said := f.run(t, s.target, core.UploadRequest{Stage: ".staged/1"})
	if want := (core.Sent{Files: 1, Bytes: f.entry(torrent).Size}); exit != 0 || sent != want {
		t.Errorf("exit %d, %+v: %s", exit, sent, said)
	}
}

// A copy over the limit of one request that broke off is carried on. It has our metadata in the end, also where it was begun
// with other; then it is copied onto itself.
func TestTakeoverOfLargeCarriesOn(t *testing.T) {
	saved := r2Limits
	t.Cleanup(func() { r2Limits = saved })
	r2Limits.copyWhole, r2Limits.copyPart = 8*mib, 5*mib+mib/2
	for _, more := range []bool{false, true} {
		s, f := newSite(t, "takeover"), newCopy(t)
		s.CopyWhole = 8 * mib
		f.add(t, "a.kv", 30*mib, 1)
		f.entry("a.kv").Replace = true
		body, err := os.ReadFile(filepath.Join(f.dir, "a.kv"))
		if err != nil {
			t.Fatal(err)
		}
		s.PutParts(t, "a.kv", body, 9*mib, nil)
		s.Age(t, time.Hour, "a.kv")
		s.Unavailable(-1, "complete")
		if exit, _, said := f.run(t, s.Target(map[string]any{"patience_seconds": 1}), core.UploadRequest{Stage: ".staged/1"}); exit != 1 {
			t.Fatalf("exit %d: %s", exit, said)
		}
		s.Unavailable(0)
		s.Took()
		again := 0
		if more {
			f.entry("a.kv").Sums["blake3"] = "00ff"
			again = 6
		}
		exit, sent, said := f.run(t, s.target, core.UploadRequest{Stage: ".staged/1"})
		if exit != 0 || sent != (core.Sent{}) || s.Received() > 0 {
			t.Errorf("exit %d, %+v, %d bytes were received: %s", exit, sent, s.Received(), said)
		}
		if copied := only(s.Took(), "copypart"); len(copied) != again {
			t.Errorf("copied again: %q", copied)
		}
		s.holds(t, ".staged/1/a.kv", f, "a.kv")
		if sum := s.Meta(t, ".staged/1/a.kv")["blake3"]; sum != f.entry("a.kv").Sums["blake3"] {
			t.Errorf("metadata says %q", sum)
		}
		s.kept(t)
	}
}

func TestGuessParts(t *testing.T) {
	for _, c := range []struct {
		size, n, part int64
		known         []int64
	}{
		{200 << 30, 9753, 21 * mib, nil}, // rclone, that must not have more than 10,000
		{200 << 30, 3200, 64 * mib, nil},
		{9 << 30, 9, 1<<30 + mib/2, []int64{0, 64 * mib, 1<<30 + mib/2}},
		{1 << 30, 11, 100 * mib, nil},
		{700 * mib, 3, 300 * mib, nil},
		{6 * mib, 2, 5 * mib, nil},
		{6*mib + 1, 2, 5 * mib, nil},
	} {
		sizes := guessParts(c.size, c.n, c.known...)
		if !slices.Contains(sizes, c.part) || len(sizes) > 16 {
			t.Errorf("%d bytes in %d parts: %d", c.size, c.n, sizes)
		}
		for _, part := range sizes {
			if !partsFit(c.size, part, c.n) {
				t.Errorf("%d bytes are not %d parts of %d", c.size, c.n, part)
			}
		}
	}
}
