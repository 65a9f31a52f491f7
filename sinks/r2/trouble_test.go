package main

import (
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/snapfw/snapfw/core"
)

func TestTroubles(t *testing.T) {
	part := func(r *http.Request) bool { return r.Method == http.MethodPut }
	var n atomic.Int32
	for name, c := range map[string]struct {
		fault    func(w http.ResponseWriter, r *http.Request) bool
		patience int
		exit     int
		said     string
	}{
		"503 for a while": {func(w http.ResponseWriter, r *http.Request) bool {
			if n.Add(1) > 3 {
				return false
			}
			refuse(w, 503, "ServiceUnavailable", "later")
			return true
		}, 60, 0, ""},
		"503 for ever": {func(w http.ResponseWriter, r *http.Request) bool {
			if part(r) {
				refuse(w, 503, "ServiceUnavailable", "later")
			}
			return part(r)
		}, 1, 1, "does not serve at the moment"},
		"429": {func(w http.ResponseWriter, r *http.Request) bool {
			if part(r) && n.Add(1) <= 5 {
				refuse(w, 429, "TooManyRequests", "slower")
				return true
			}
			return false
		}, 20, 0, ""},
		"cut in the middle of parts": {func(w http.ResponseWriter, r *http.Request) bool {
			if part(r) && n.Add(1)%3 == 1 && n.Load() < 12 {
				_, _ = io.CopyN(io.Discard, r.Body, 1*mib)
				panic(http.ErrAbortHandler)
			}
			return false
		}, 20, 0, ""},
		"credentials expire": {func(w http.ResponseWriter, r *http.Request) bool {
			if part(r) && n.Add(1) > 2 {
				refuse(w, 403, "ExpiredToken", "The provided token has expired.")
				return true
			}
			return false
		}, 20, 1, "refuses the credentials (403 ExpiredToken"},
	} {
		t.Run(name, func(t *testing.T) {
			s, f := newSite(t, "troubles"), newCopy(t)
			f.add(t, "large.kv", 26*mib, 1)
			f.add(t, "small.kv", 100, 1)
			n.Store(0)
			s.fault = c.fault
			exit, _, said := f.run(t, s.with(map[string]any{"patience_seconds": c.patience}), core.UploadRequest{Prefix: "p"})
			if exit != c.exit || !strings.Contains(said, c.said) {
				t.Errorf("exit %d: %s", exit, said)
			}
			s.trouble(nil)
			if exit, _, said = f.run(t, s.target, core.UploadRequest{Prefix: "p"}); exit != 0 {
				t.Errorf("afterwards: exit %d: %s", exit, said)
			}
			s.holds(t, "p/large.kv", f, "large.kv")
			s.holds(t, "p/small.kv", f, "small.kv")
			s.kept(t)
		})
	}
}

// A first answer that is lost is no failure, to a PutObject nor to a CompleteMultipartUpload.
func TestLostAnswers(t *testing.T) {
	s, c := newSite(t, "lost"), newCopy(t)
	c.add(t, "large.kv", 12*mib, 1)
	c.add(t, "small.kv", 100, 1)
	seen := map[string]bool{}
	s.lost = func(r *http.Request) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		op := operation(r)
		first := !seen[op]
		seen[op] = true
		return first && (strings.HasPrefix(op, "PUT") || strings.HasPrefix(op, "complete"))
	}
	exit, sent, said := c.run(t, s.target, core.UploadRequest{})
	if exit != 0 || sent.Files != 2 {
		t.Errorf("exit %d, %+v: %s", exit, sent, said)
	}
	s.holds(t, "large.kv", c, "large.kv")
	s.holds(t, "small.kv", c, "small.kv")
}

// A bucket that says other sizes than what was sent is not believed.
func TestLyingSizes(t *testing.T) {
	s, c := newSite(t, "lying"), newCopy(t)
	c.add(t, "a.kv", 1000, 1)
	s.answer = func(r *http.Request, _ *http.Response, body []byte) []byte {
		if r.URL.Query().Has("list-type") {
			return regexp.MustCompile(`<Size>\d+</Size>`).ReplaceAll(body, []byte("<Size>999</Size>"))
		}
		return body
	}
	exit, _, said := c.run(t, s.target, core.UploadRequest{})
	if exit != 1 || !strings.Contains(said, "999 bytes instead of 1000") {
		t.Errorf("exit %d: %s", exit, said)
	}
}
