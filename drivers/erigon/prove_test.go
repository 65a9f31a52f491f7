package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/snapfw/snapfw/core"
)

// published is a bucket in memory, served as an S3 behind a CDN does: ranges by http.ServeContent.
type published struct {
	mu      sync.Mutex
	objects map[string][]byte
	asked   []string                                                      // "GET key range"
	served  atomic.Int64                                                  // bytes of data, not of torrents
	before  func(w http.ResponseWriter, r *http.Request, key string) bool // true: it has answered
}

func (p *published) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key := strings.TrimPrefix(r.URL.Path, "/")
	p.mu.Lock()
	p.asked = append(p.asked, strings.TrimSpace(r.Method+" "+key+" "+r.Header.Get("Range")))
	body, ok := p.objects[key]
	before := p.before
	p.mu.Unlock()
	if before != nil && before(w, r, key) {
		return
	}
	if !ok {
		w.Header().Set("Cf-Cache-Status", "HIT")
		w.Header().Set("Age", "77")
		http.Error(w, "no such key", http.StatusNotFound)
		return
	}
	c := &counted{ResponseWriter: w}
	http.ServeContent(c, r, "", time.Time{}, bytes.NewReader(body))
	if !strings.HasSuffix(key, torrentExt) {
		p.served.Add(c.n)
	}
}

type counted struct {
	http.ResponseWriter
	n int64
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.n += int64(n)
	return n, err
}

func (p *published) put(t testing.TB, name string, data []byte) core.Entry {
	t.Helper()
	pieces := sumsOf(data)
	var b bytes.Buffer
	if err := encodeTorrent(&b, name, int64(len(data)), pieces, checkTime); err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.objects[name], p.objects[name+torrentExt] = data, b.Bytes()
	return core.Entry{Name: name, Size: int64(len(data)), Sums: map[string]string{infohash: infohashOf(name, int64(len(data)), pieces)}}
}

func randomBytes(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func publish(t testing.TB) (*published, string) {
	t.Helper()
	p := &published{objects: map[string][]byte{}}
	s := httptest.NewServer(p)
	t.Cleanup(s.Close)
	return p, s.URL
}

func proofList(t testing.TB, entries ...core.Entry) string {
	t.Helper()
	var b bytes.Buffer
	for _, e := range entries {
		if err := json.NewEncoder(&b).Encode(e); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "prove.jsonl")
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func prove(ctx context.Context, list, address, header string, words ...string) (int, string) {
	var out bytes.Buffer
	env := func(name string) string { return map[string]string{frontURLEnv: address, frontHeaderEnv: header}[name] }
	same := &locked{Buffer: &out}
	code := exitCode(runProve(ctx, append([]string{"--list", list}, words...), env, same, same), same)
	return code, out.String()
}

type locked struct {
	mu sync.Mutex
	*bytes.Buffer
}

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(b)
}

const proveKey = "domain/v2.0-accounts.0-256.kv"

func TestProve(t *testing.T) {
	t.Parallel()
	p, address := publish(t)
	p.before = func(w http.ResponseWriter, r *http.Request, _ string) bool {
		if r.Header.Get("X-Pass") == "geheim-geheim" {
			return false
		}
		http.Error(w, "not you", http.StatusForbidden)
		return true
	}
	big := p.put(t, proveKey, randomBytes(1, 9*pieceLength+5))
	small := p.put(t, "erigondb.toml", []byte(erigonDBText))
	torrent := core.Entry{Name: proveKey + torrentExt, Size: 3}
	list := proofList(t, big, small, torrent)
	code, out := prove(t.Context(), list, address, "X-Pass: geheim-geheim", "--seed", "7", "--sample", "4")
	read := 3*pieceLength + 5 + len(erigonDBText)
	if code != 0 || !strings.Contains(out, fmt.Sprintf(`{"done":%d,"total":%d}`, read, read)) || strings.Contains(out, "geheim") {
		t.Fatalf("exit %d: %s", code, out)
	}
	var ranges []string
	for _, a := range p.asked {
		if strings.HasPrefix(a, "GET "+proveKey+" ") {
			ranges = append(ranges, a)
		}
	}
	last := fmt.Sprintf("bytes=%d-%d", 9*pieceLength, 9*pieceLength+4)
	if len(ranges) != 4 || !strings.HasSuffix(ranges[0], "bytes=0-2097151") || !strings.HasSuffix(ranges[3], last) {
		t.Errorf("it read %q", ranges)
	}
	if code, out = prove(t.Context(), list, address, "X-Pass: other-other", "--wait", "0"); code != 1 || !strings.Contains(out, "HTTP 403") || strings.Contains(out, "other-other") {
		t.Errorf("exit %d: %s", code, out)
	}
	if code, out = prove(t.Context(), proofList(t), "", ""); code != 0 {
		t.Errorf("exit %d: %s", code, out)
	}
	if code, out = prove(t.Context(), list, "http://user:geheim@127.0.0.1/", ""); code != 1 || strings.Contains(out, "geheim") {
		t.Errorf("exit %d: %s", code, out)
	}
}

// TestProveFinds is everything that went wrong at an address of consumers; none of it gets better here.
func TestProveFinds(t *testing.T) {
	t.Parallel()
	data, older := randomBytes(1, 3*pieceLength+5), randomBytes(2, 3*pieceLength+5)
	other := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(other.Close)
	isData := func(key string) bool { return key == proveKey }
	for name, c := range map[string]struct {
		before func(p *published) func(w http.ResponseWriter, r *http.Request, key string) bool
		want   []string
	}{
		"missing (erigon issue 19094)": {func(p *published) func(http.ResponseWriter, *http.Request, string) bool {
			delete(p.objects, proveKey)
			return nil
		}, []string{proveKey, "HTTP 404", `cf-cache-status: "HIT"`, `age: "77"`, "purge it"}},
		"stale torrent (erigon issue 13824, erigon issue 21020)": {func(p *published) func(http.ResponseWriter, *http.Request, string) bool {
			var b bytes.Buffer
			encodeTorrent(&b, proveKey, int64(len(older)), sumsOf(older), checkTime)
			p.objects[proveKey+torrentExt] = b.Bytes()
			return nil
		}, []string{proveKey + torrentExt, "want infohash", "purge it"}},
		"old and new ranges (erigon issue 19883)": {func(p *published) func(http.ResponseWriter, *http.Request, string) bool {
			return func(w http.ResponseWriter, r *http.Request, key string) bool {
				if isData(key) && strings.HasPrefix(r.Header.Get("Range"), "bytes=6291456-") {
					http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(older))
					return true
				}
				return false
			}
		}, []string{"piece 3", "with sum", "purge it"}},
		"two objects under one name": {func(p *published) func(http.ResponseWriter, *http.Request, string) bool {
			n := 0
			return func(w http.ResponseWriter, r *http.Request, key string) bool {
				if isData(key) {
					n++
					w.Header().Set("Etag", fmt.Sprintf(`"%d"`, n))
				}
				return false
			}
		}, []string{"another ETag"}},
		"shorter object": {func(p *published) func(http.ResponseWriter, *http.Request, string) bool {
			p.objects[proveKey] = data[:len(data)-1]
			return nil
		}, []string{"bytes 0-2097151/6291461", "/6291460"}},
		"200 for a range": {func(p *published) func(http.ResponseWriter, *http.Request, string) bool {
			return func(w http.ResponseWriter, r *http.Request, key string) bool {
				if isData(key) {
					w.Write(data)
				}
				return isData(key)
			}
		}, []string{"want HTTP 206, got HTTP 200"}},
		"redirect elsewhere": {func(p *published) func(http.ResponseWriter, *http.Request, string) bool {
			return func(w http.ResponseWriter, r *http.Request, key string) bool {
				http.Redirect(w, r, other.URL+"/"+key, http.StatusFound)
				return true
			}
		}, []string{"redirects to host"}},
		"endless torrent": {func(p *published) func(http.ResponseWriter, *http.Request, string) bool {
			return func(w http.ResponseWriter, r *http.Request, key string) bool {
				if isData(key) {
					return false
				}
				for range 1000 {
					if _, err := w.Write(make([]byte, 64<<10)); err != nil {
						break
					}
				}
				return true
			}
		}, []string{"at most 65616 bytes"}},
		"cut off": {func(p *published) func(http.ResponseWriter, *http.Request, string) bool {
			return func(w http.ResponseWriter, r *http.Request, key string) bool {
				if !isData(key) {
					return false
				}
				w.Header().Set("Content-Range", "bytes 0-2097151/6291461")
				w.WriteHeader(http.StatusPartialContent)
				w.Write(data[:1000])
				return true
			}
		}, []string{"2097152 bytes from 0 on"}},
		"503": {func(p *published) func(http.ResponseWriter, *http.Request, string) bool {
			return func(w http.ResponseWriter, _ *http.Request, _ string) bool {
				http.Error(w, "later", http.StatusServiceUnavailable)
				return true
			}
		}, []string{"HTTP 503"}},
	} {
		t.Run(name, func(t *testing.T) {
			p, address := publish(t)
			list := proofList(t, p.put(t, proveKey, data), p.put(t, "salt-state.txt", []byte("salt")))
			p.before = c.before(p)
			code, out := prove(t.Context(), list, address, "X-Pass: geheim-geheim", "--wait", "20ms")
			if code != 1 || strings.Contains(out, "geheim") {
				t.Errorf("exit %d: %s", code, out)
			}
			for _, want := range c.want {
				if !strings.Contains(out, want) {
					t.Errorf("it does not say %q: %s", want, out)
				}
			}
		})
	}
}

// TestProveWaits is a cache that keeps a 404 for a while: it is asked again until it forgets.
func TestProveWaits(t *testing.T) {
	t.Parallel()
	p, address := publish(t)
	list := proofList(t, p.put(t, proveKey, randomBytes(1, 100)))
	var asked atomic.Int64
	p.before = func(w http.ResponseWriter, _ *http.Request, key string) bool {
		if key == proveKey && asked.Add(1) < 4 {
			http.Error(w, "kept", http.StatusNotFound)
			return true
		}
		return false
	}
	if code, out := prove(t.Context(), list, address, "", "--wait", "20s"); code != 0 || asked.Load() != 4 {
		t.Errorf("exit %d after %d: %s", code, asked.Load(), out)
	}
}

// TestProveNothingAnswers: what helps there is no purge, and nobody waits for each file.
func TestProveNothingAnswers(t *testing.T) {
	t.Parallel()
	p, address := publish(t)
	var entries []core.Entry
	for i := range 50 {
		entries = append(entries, p.put(t, fmt.Sprintf("v1.1-%06d-%06d-bodies.seg", i, i+1), randomBytes(byte(i), 10)))
	}
	list := proofList(t, entries...)
	gone := httptest.NewServer(p)
	gone.Close()
	secure := httptest.NewUnstartedServer(p)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS() // by a certificate that nobody knows
	t.Cleanup(secure.Close)
	for address, why := range map[string]string{gone.URL: "connection refused", secure.URL: "certificate", strings.Replace(address, "http", "https", 1): "HTTP response to HTTPS client"} {
		begin := time.Now()
		wait := "50ms"
		if address == gone.URL { // which is refused at once, so it is asked again
			wait = "2s"
		}
		code, out := prove(t.Context(), list, address, "", "--wait", wait)
		if code != 1 || !strings.Contains(out, "nothing answers at "+address) || !strings.Contains(out, why) || !strings.Contains(out, "see public_url of the sink") {
			t.Errorf("%s: exit %d: %s", address, code, out)
		}
		if strings.Contains(out, "purge") || address == gone.URL && !strings.Contains(out, "asking again") || time.Since(begin) > 20*time.Second {
			t.Errorf("%s: after %s: %s", address, time.Since(begin), out)
		}
	}
}

// TestProveLosesTheAddress: it goes away once the first torrent was read.
func TestProveLosesTheAddress(t *testing.T) {
	t.Parallel()
	p, address := publish(t)
	list := proofList(t, p.put(t, proveKey, randomBytes(1, 100)))
	var asked atomic.Int64
	p.before = func(w http.ResponseWriter, _ *http.Request, _ string) bool {
		if asked.Add(1) > 1 {
			panic(http.ErrAbortHandler)
		}
		return false
	}
	code, out := prove(t.Context(), list, address, "", "--wait", "50ms")
	if code != 1 || !strings.Contains(out, "nothing answered for 1 of 1 files") || strings.Contains(out, "purge") {
		t.Errorf("exit %d: %s", code, out)
	}
}

// TestProveCountsAll is a purge that was forgotten: all are counted, some are printed, and nobody waits for each.
func TestProveCountsAll(t *testing.T) {
	t.Parallel()
	p, address := publish(t)
	var entries []core.Entry
	for i := range 300 {
		entries = append(entries, p.put(t, fmt.Sprintf("v1.1-%06d-%06d-bodies.seg", i, i+1), randomBytes(byte(i), 10)))
	}
	clear(p.objects)
	begin := time.Now()
	code, out := prove(t.Context(), proofList(t, entries...), address, "", "--wait", "300ms")
	if code != 1 || !strings.Contains(out, "300 of 300 files") || strings.Count(out, "HTTP 404") != proveTold || time.Since(begin) > 15*time.Second {
		t.Errorf("exit %d after %s: %s", code, time.Since(begin), out)
	}
}

func TestProveStops(t *testing.T) {
	t.Parallel()
	p, address := publish(t)
	list := proofList(t, p.put(t, proveKey, randomBytes(1, 100)))
	clear(p.objects)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if code, out := prove(ctx, list, address, "", "--wait", "1h"); code != 1 || !strings.Contains(out, "interrupted") {
		t.Errorf("exit %d: %s", code, out)
	}
}

func TestProofsAreChecked(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		`{"name":"../x","size":1,"sums":{"infohash":"49fd79689b9cc4e5dc7ce7b2b72f2f9bf3c668b7"}}`,
		`{"name":"x","size":0,"sums":{"infohash":"49fd79689b9cc4e5dc7ce7b2b72f2f9bf3c668b7"}}`,
		`{"name":"x","size":1,"sums":{"infohash":"49FD79689b9cc4e5dc7ce7b2b72f2f9bf3c668b7"}}`,
		`{"name":"x","size":1}`, `{`, `[]`,
	} {
		file := filepath.Join(t.TempDir(), "list")
		os.WriteFile(file, []byte(line), 0o644)
		if _, err := readProofs(file); err == nil {
			t.Errorf("%s is taken", line)
		}
	}
}

func TestSamplePieces(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ pieces, n, want int }{{1, 3, 1}, {2, 3, 2}, {3, 3, 3}, {100, 3, 3}, {100, 0, 2}, {5, 50, 5}, {100, 99, 99}} {
		e := core.Entry{Name: "x", Size: int64(c.pieces-1)*pieceLength + 1}
		got := samplePieces(e, c.n, 5)
		if len(got) != c.want || got[0] != 0 || got[len(got)-1] != c.pieces-1 || !slices.Equal(got, samplePieces(e, c.n, 5)) {
			t.Errorf("%d of %d: %v", c.n, c.pieces, got)
		}
	}
}

// FuzzProofs: whatever the list of changes holds, what is read are files with a safe name, a size and an infohash, and no torrents.
func FuzzProofs(f *testing.F) {
	const sum = "49fd79689b9cc4e5dc7ce7b2b72f2f9bf3c668b7"
	line := `{"name":"domain/v2.0-accounts.0-64.kv","size":5,"sums":{"infohash":"` + sum + `"}}`
	for _, list := range []string{
		line + "\n", line + "\n\n" + strings.Replace(line, ".kv", ".kv.torrent", 1), strings.Replace(line, "domain/", "../", 1), strings.Replace(line, "5", "-1", 1),
		strings.Replace(line, sum, strings.ToUpper(sum), 1), `{"name":"a"`, "[]", "null\n", line + "\r\n\x00",
	} {
		f.Add([]byte(list))
	}
	file := filepath.Join(f.TempDir(), "prove.jsonl")
	f.Fuzz(func(t *testing.T, list []byte) {
		if err := os.WriteFile(file, list, 0o600); err != nil {
			t.Fatal(err)
		}
		entries, err := readProofs(file)
		if err != nil && entries != nil {
			t.Fatalf("%v beside %+v", err, entries)
		}
		if n := bytes.Count(list, []byte("\n")) + 1; len(entries) > n {
			t.Fatalf("%d files of %d lines", len(entries), n)
		}
		for _, e := range entries {
			if _, _, isTorrent := torrentOf(e.Name); isTorrent || !safeName(e.Name) || e.Size <= 0 || !isInfohash(e.Sums[infohash]) {
				t.Fatalf("%q: %+v", list, e)
			}
		}
	})
}
