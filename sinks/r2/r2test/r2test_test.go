package r2test

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

func (s *Site) read(t *testing.T, key string, from, to int64) Read {
	t.Helper()
	r, err := s.Read(t.Context(), key, from, to)
	if err != nil {
		t.Fatalf("read %s: %v", key, err)
	}
	return r
}

// purged asks the endpoint as a client would.
func (s *Site) purged(t *testing.T, urls ...string) (status int, wait string) {
	t.Helper()
	body, err := json.Marshal(map[string]any{"files": urls})
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodPost, s.Purger.URL+"/zones/"+Zone+"/purge_cache", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+Token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return res.StatusCode, res.Header.Get("Retry-After")
}

// modes runs a test with a CDN that caches whole objects and with one that caches slices.
func modes(t *testing.T, test func(t *testing.T, s *Site)) {
	t.Run("whole", func(t *testing.T) { test(t, New(t)) })
	t.Run("slices", func(t *testing.T) { test(t, New(t, Sliced(64<<10))) })
}

// Content stays in the cache until exactly its address is purged, a 404 too.
func TestCache(t *testing.T) {
	modes(t, func(t *testing.T, s *Site) {
		old, fresh := bytes.Repeat([]byte("o"), 200<<10), bytes.Repeat([]byte("n"), 200<<10)
		const key = "domain/v1 +x.kv"
		want := func(what string, got Read, status int, body []byte) {
			t.Helper()
			if got.Status != status || body != nil && !bytes.Equal(got.Body, body) {
				t.Errorf("%s: status %d with %d bytes, %.10q", what, got.Status, len(got.Body), got.Body)
			}
		}
		want("what is not there", s.read(t, key, 0, 0), 404, nil)
		s.Put(t, key, old, nil)
		want("what was not there", s.read(t, key, 0, 0), 404, nil)
		if status, _ := s.purged(t, s.PublicURL+"/"+Escape(key)); status != 200 {
			t.Fatalf("purge: %d", status)
		}
		want("after a purge", s.read(t, key, 0, 0), 200, old)
		s.Put(t, key, fresh, nil)
		if r := s.read(t, key, 0, 0); r.Cache != "HIT" || !bytes.Equal(r.Body, old) {
			t.Errorf("replaced and not purged: %s, %.10q", r.Cache, r.Body)
		}
		r := s.read(t, key, 70_000, 140_000)
		want("a range of the old one", r, 206, old[70_000:140_000])
		if r.Total != 200<<10 {
			t.Errorf("the range is of %d bytes", r.Total)
		}
		// The other way to write the address is another entry, before and after.
		other := "/domain%2Fv1%20+x.kv"
		if r, err := s.ReadAddress(t.Context(), other); err != nil || !bytes.Equal(r.Body, fresh) {
			t.Errorf("by %s: %d, %v", other, r.Status, err)
		}
		if status, _ := s.purged(t, s.PublicURL+other, s.PublicURL+"/domain/v1", s.PublicURL+"/never"); status != 200 {
			t.Fatalf("purge: %d", status)
		}
		want("another address was purged", s.read(t, key, 0, 0), 200, old)
		if status, _ := s.purged(t, s.PublicURL+"/"+Escape(key)); status != 200 {
			t.Fatalf("purge: %d", status)
		}
		want("purged", s.read(t, key, 0, 0), 200, fresh)
		want("a first range", s.read(t, key, 10, 20), 206, fresh[10:20])
		if n := len(s.Purger.Purged()); n != 5 {
			t.Errorf("%d addresses were purged", n)
		}
	})
}

// A range is the first thing that somebody reads.
func TestRangeFirst(t *testing.T) {
	modes(t, func(t *testing.T, s *Site) {
		body := bytes.Repeat([]byte("0123456789"), 100_000)
		s.Put(t, "a.seg", body, nil)
		for _, at := range []int64{900_000, 0, 65_530} {
			if r := s.read(t, "a.seg", at, at+100); r.Status != 206 || r.Total != 1_000_000 || !bytes.Equal(r.Body, body[at:at+100]) {
				t.Errorf("at %d: %d, of %d: %q", at, r.Status, r.Total, r.Body)
			}
		}
		s.Put(t, "empty", nil, nil)
		if r := s.read(t, "empty", 0, 0); r.Status != 200 || len(r.Body) != 0 {
			t.Errorf("nothing: %+v", r)
		}
	})
}

// Slices that were read before stay old while the others are new.
func TestMixOfRanges(t *testing.T) {
	s := New(t, Sliced(64<<10))
	old, fresh := bytes.Repeat([]byte("o"), 256<<10), bytes.Repeat([]byte("n"), 256<<10)
	s.Put(t, "a.seg", old, nil)
	s.read(t, "a.seg", 0, 10)
	s.Put(t, "a.seg", fresh, nil)
	first, second := s.read(t, "a.seg", 20, 30), s.read(t, "a.seg", 200_000, 200_010)
	if string(first.Body) != "oooooooooo" || string(second.Body) != "nnnnnnnnnn" {
		t.Errorf("%q and %q", first.Body, second.Body)
	}
	// The whole of it can't be put together of two versions: the connection breaks.
	if r, err := s.Read(t.Context(), "a.seg", 0, 0); err == nil {
		t.Errorf("a mix was served: %d bytes", len(r.Body))
	}
	if status, _ := s.purged(t, s.PublicURL+"/a.seg"); status != 200 {
		t.Fatal(status)
	}
	if r := s.read(t, "a.seg", 0, 0); !bytes.Equal(r.Body, fresh) {
		t.Errorf("after the purge: %d bytes", len(r.Body))
	}
}

func TestHeaderIsWanted(t *testing.T) {
	s := New(t)
	s.Put(t, "a", []byte("1"), nil)
	for _, value := range []string{"", "wrong"} {
		req, err := http.NewRequest(http.MethodGet, s.PublicURL+"/a", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(Header, value)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != http.StatusForbidden || string(body) == "1" {
			t.Errorf("header %q: %s, %v", value, res.Status, err)
		}
	}
	if r := s.read(t, "a", 0, 0); r.Status != 200 || string(r.Body) != "1" {
		t.Errorf("with it: %+v", r)
	}
}

func TestPurgeRules(t *testing.T) {
	s := New(t)
	urls := func(n int) (all []string) {
		for i := range n {
			all = append(all, fmt.Sprintf("%s/%d", s.PublicURL, i))
		}
		return all
	}
	for name, c := range map[string]struct {
		urls []string
		want int
	}{
		"100":          {urls(100), 200},
		"101":          {urls(101), 400},
		"none":         {nil, 400},
		"another host": {[]string{"https://elsewhere.example/a"}, 400},
		"no address":   {[]string{"a"}, 400},
	} {
		if status, _ := s.purged(t, c.urls...); status != c.want {
			t.Errorf("%s: %d", name, status)
		}
	}
	if n := len(s.Purger.Broken()); n != 4 {
		t.Errorf("broken: %q", s.Purger.Broken())
	}
	s.Purger.Slow(100)
	if status, _ := s.purged(t, urls(100)...); status != 200 {
		t.Errorf("the first 100: %d", status)
	}
	if status, wait := s.purged(t, urls(100)...); status != 429 || wait != "1" || s.Purger.Refused() != 1 {
		t.Errorf("more at once: %d, Retry-After %q", status, wait)
	}
	s.Purger.Slow(1000)
	s.Purger.Fault(func([]string) int { return 500 })
	if status, _ := s.purged(t, urls(1)...); status != 500 {
		t.Errorf("with a fault: %d", status)
	}
}

// A purge that comes while nginx fetches the old object removes that too.
func TestPurgeWhileFetching(t *testing.T) {
	s := New(t)
	old, fresh := bytes.Repeat([]byte("o"), 8<<20), bytes.Repeat([]byte("n"), 8<<20)
	for round := range 8 {
		s.Put(t, "a", old, nil)
		if status, _ := s.purged(t, s.PublicURL+"/a"); status != 200 {
			t.Fatal(status)
		}
		reading := make(chan error)
		go func() {
			_, err := s.Read(t.Context(), "a", 0, 0)
			reading <- err
		}()
		s.Put(t, "a", fresh, nil)
		if status, _ := s.purged(t, s.PublicURL+"/a"); status != 200 {
			t.Fatal(status)
		}
		if r := s.read(t, "a", 0, 0); !bytes.Equal(r.Body, fresh) {
			t.Fatalf("round %d: %.5q after the purge", round, r.Body)
		}
		if err := <-reading; err != nil {
			t.Fatal(err)
		}
	}
}

// published is a toy chain: its torrent is a JSON Torrent, its list one name and hash a line.
type published struct {
	site *Site
	list map[string]string
}

func (p *published) put(t *testing.T, name string, body []byte) (torrent []byte) {
	t.Helper()
	m := Torrent{Length: int64(len(body)), PieceLength: 50_000}
	for piece := range slices.Chunk(body, 50_000) {
		sum := sha1.Sum(piece)
		m.Pieces = append(m.Pieces, sum[:]...)
	}
	sum := sha1.Sum(m.Pieces)
	m.InfoHash = hex.EncodeToString(sum[:])
	torrent, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	p.site.Put(t, name, body, nil)
	p.site.Put(t, name+".torrent", torrent, nil)
	p.list[name] = m.InfoHash
	return torrent
}

func (p *published) promote(t *testing.T) {
	var b bytes.Buffer
	for name, hash := range p.list {
		fmt.Fprintln(&b, name, hash)
	}
	p.site.Put(t, "chain.toml", b.Bytes(), nil)
}

func consumer(replaced ...string) Consumer {
	return Consumer{List: "chain.toml", Replaced: replaced, Parse: func(list []byte) (map[string]string, error) {
		hashes := map[string]string{}
		for line := range strings.Lines(string(list)) {
			name, hash, ok := strings.Cut(strings.TrimSpace(line), " ")
			if !ok {
				return nil, fmt.Errorf("%q", line)
			}
			hashes[name] = hash
		}
		return hashes, nil
	}, Torrent: func(body []byte) (m Torrent, err error) { return m, json.Unmarshal(body, &m) }}
}

// The reader sees nothing where all is done as it should be, and each thing that is forgotten.
func TestReader(t *testing.T) {
	body := func(with string) []byte { return bytes.Repeat([]byte(with), 120_000) }
	for name, c := range map[string]struct {
		forget string // what is not done
		want   []string
	}{
		"all done":                {"", nil},
		"a torrent is not purged": {"a.kv.torrent", []string{"a.kv.torrent: its infohash is"}},
		"data is not purged":      {"a.kv", []string{"a.kv: a piece is not"}},
		"the list is not purged":  {"chain.toml", []string{"a.kv.torrent: its infohash", "chain.toml: the CDN has another"}},
		"an object is missing":    {"b.kv", []string{"b.kv: a range: status 404"}},
		"the list is empty":       {"empty", []string{"chain.toml: by the cdn no list", "chain.toml: by the origin no list"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := New(t, Sliced(64<<10))
			p := &published{site: s, list: map[string]string{}}
			p.put(t, "a.kv", body("a"))
			p.put(t, "old.kv", body("o"))
			p.promote(t)
			r := s.Reader(t, consumer("a.kv"))
			// Everything old is in the cache.
			until(t, "the old ones were read", func() bool { return s.read(t, "a.kv", 0, 10).Cache == "HIT" && r.pieces() > 10 })
			for _, old := range []int64{0, 65_536} {
				s.read(t, "a.kv", old, old+1)
			}
			s.read(t, "a.kv.torrent", 0, 0)
			p.put(t, "b.kv", body("b"))
			p.put(t, "a.kv", body("A"))
			purge := func(keys ...string) {
				for _, key := range keys {
					if key == c.forget {
						continue
					}
					if status, _ := s.purged(t, s.PublicURL+"/"+key); status != 200 {
						t.Fatal(status)
					}
				}
			}
			purge("a.kv", "a.kv.torrent")
			if c.forget == "b.kv" {
				s.Remove(t, "b.kv")
			}
			p.promote(t)
			purge("chain.toml")
			if c.forget == "empty" {
				s.Put(t, "chain.toml", nil, nil)
				purge("chain.toml")
			}
			report := r.Stop()
			if report.Torrents < 3 || report.Pieces < 3 || len(report.Lists) < 3 {
				t.Errorf("it read %d torrents, %d pieces, lists %v", report.Torrents, report.Pieces, report.Lists)
			}
			for _, want := range c.want {
				if !slices.ContainsFunc(report.Bad, func(m Mismatch) bool { return strings.HasPrefix(m.String(), want) }) {
					t.Errorf("it did not see %q: %v", want, report.Bad)
				}
			}
			if len(c.want) == 0 && len(report.Bad) > 0 {
				t.Errorf("it saw %v", report.Bad)
			}
			if again := r.Stop(); len(again.Bad) != len(report.Bad) {
				t.Errorf("a second Stop tells %v", again.Bad)
			}
		})
	}
}

func (r *Reader) pieces() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.report.Pieces
}

func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}
