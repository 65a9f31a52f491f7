package main

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/sinks/r2/r2test"
)

func TestTroubles(t *testing.T) {
	for name, c := range map[string]struct {
		trouble  func(s *site)
		patience int
		exit     int
		said     string
	}{
		"503 for a while":    {func(s *site) { s.Unavailable(3) }, 60, 0, ""},
		"503 for ever":       {func(s *site) { s.Unavailable(-1, "PUT", "part") }, 1, 1, "does not serve at the moment"},
		"credentials expire": {func(s *site) { s.Expire(2, "PUT", "part") }, 20, 1, "refuses the credentials (403 ExpiredToken"},
		"a token expires":    {refuse(400, "ExpiredToken"), 20, 1, "refuses the credentials (400 ExpiredToken"},
		"the clock is wrong": {refuse(403, "RequestTimeTooSkewed"), 20, 1, "set its clock"},
		"429": {func(s *site) {
			var n atomic.Int32
			s.Trouble(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodPut || n.Add(1) > 5 {
					return false
				}
				r2test.Refuse(w, 429, "TooManyRequests", "slower")
				return true
			})
		}, 20, 0, ""},
		"cut in the middle of parts": {func(s *site) {
			var n atomic.Int32
			s.Trouble(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodPut && n.Add(1)%3 == 1 && n.Load() < 12 {
					_, _ = io.CopyN(io.Discard, r.Body, 1*mib)
					panic(http.ErrAbortHandler)
				}
				return false
			})
		}, 20, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, f := newSite(t, "troubles"), newCopy(t)
			f.add(t, "large.kv", 26*mib, 1)
			f.add(t, "small.kv", 100, 1)
			c.trouble(s)
			exit, _, said := f.run(t, s.Target(map[string]any{"patience_seconds": c.patience}), core.UploadRequest{Prefix: "p"})
			if exit != c.exit || !strings.Contains(said, c.said) {
				t.Errorf("exit %d: %s", exit, said)
			}
			s.Trouble(nil)
			if exit, _, said = f.run(t, s.target, core.UploadRequest{Prefix: "p"}); exit != 0 {
				t.Errorf("afterwards: exit %d: %s", exit, said)
			}
			s.holds(t, "p/large.kv", f, "large.kv")
			s.holds(t, "p/small.kv", f, "small.kv")
			s.kept(t)
		})
	}
}

// refuse answers what stores something with an error.
func refuse(status int, code string) func(s *site) {
	return func(s *site) {
		s.Trouble(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPut {
				return false
			}
			r2test.Refuse(w, status, code, "no")
			return true
		})
	}
}

// A first answer that is lost is no failure, to a PutObject nor to a CompleteMultipartUpload.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	s, c := newSite(t, "lost"), newCopy(t)
	c.add(t, "large.kv", 12*mib, 1)
	c.add(t, "small.kv", 100, 1)
	var seen sync.Map
	s.Lose(func(r *http.Request) bool {
		kind := r2test.Kind(r)
		_, again := seen.LoadOrStore(r2test.Operation(r), true)
		return !again && (kind == "PUT" || kind == "part" || kind == "complete")
	})
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
	c.add(t, "b.kv", 1000, 1)
	s.Lie("a.kv", 999)
	exit, _, said := c.run(t, s.target, core.UploadRequest{})
	if exit != 1 || !strings.Contains(said, "a.kv has 999 bytes instead of 1000") || strings.Contains(said, "b.kv") {
		t.Errorf("exit %d: %s", exit, said)
	}
}
