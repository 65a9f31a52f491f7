package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/sinks/r2/r2test"
)

func TestCopyOfAnySize(t *testing.T) {
	saved := r2Limits
	t.Cleanup(func() { r2Limits = saved })
	r2Limits.copyWhole, r2Limits.copyPart = 8*mib, 5*mib+mib/2
	s, c := newSite(t, "copies"), newCopy(t)
	s.CopyWhole = 8 * mib
	c.add(t, "large.kv", 30*mib, 1)
	c.add(t, "small.kv", 100, 1)
	if exit, _, said := c.run(t, s.target, core.UploadRequest{Prefix: ".staged/1"}); exit != 0 {
		t.Fatal(said)
	}
	moves := []core.Move{{From: ".staged/1/large.kv", To: "large.kv", Size: 30 * mib}, {From: ".staged/1/small.kv", To: "small.kv", Size: 100}}
	copyAll := func(target core.Target, moves []core.Move) (done int, last error) {
		for _, err := range newSink().Copy(t.Context(), target, moves) {
			if last = err; err == nil {
				done++
			}
		}
		return done, last
	}
	// An upload's time of beginning is known in seconds; what began in the source's own second is not carried on.
	for end := time.Now().Add(2500 * time.Millisecond); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
	}
	var n atomic.Int32
	s.Trouble(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r2test.Operation(r), "copypart") && n.Add(1) > 3 {
			r2test.Refuse(w, 403, "AccessDenied", "no")
			return true
		}
		return false
	})
	if _, err := copyAll(s.target, moves[:1]); err == nil {
		t.Fatal("a copy that was refused succeeded")
	}
	s.Trouble(nil)
	s.Took()
	if done, err := copyAll(s.target, moves); done != 2 || err != nil {
		t.Fatalf("%d, %v", done, err)
	}
	if parts := only(s.Took(), "copypart"); len(parts) < 3 || len(parts) > 4 { // of six; one may have been under way
		t.Errorf("the second time copied %v", parts)
	}
	for name := range map[string]bool{"large.kv": true, "small.kv": true} {
		s.holds(t, name, c, name)
	}
	if done, err := copyAll(s.target, moves); done != 2 || err != nil || len(only(s.Took(), "copy", "copypart")) > 0 {
		t.Errorf("a third time: %d, %v", done, err)
	}
	// Onto itself, to make it young: only when half of the age is used up.
	self := []core.Move{{From: "large.kv", To: "large.kv"}, {From: "small.kv", To: "small.kv"}}
	if done, err := copyAll(s.Target(map[string]any{"expiry_days": 56}), self); done != 2 || err != nil || len(only(s.Took(), "copy", "copypart")) > 0 {
		t.Errorf("young objects: %d, %v", done, err)
	}
	old := time.Now().Add(-30 * 24 * time.Hour)
	for _, name := range []string{"large.kv", "small.kv"} {
		if err := os.Chtimes(filepath.Join(s.Dir, name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	done, err := copyAll(s.Target(map[string]any{"expiry_days": 56}), self)
	if log := s.Took(); done != 2 || err != nil || len(only(log, "copy")) != 1 || len(only(log, "copypart")) != 6 {
		t.Errorf("old objects: %d, %v: %v", done, err, log)
	}
	for o, err := range newSink().List(t.Context(), s.target, "") {
		// To this server a small copy onto itself is new metadata only; R2 stores the object anew.
		if err != nil || o.Key == "large.kv" && time.Since(o.Modified) > time.Hour {
			t.Errorf("%s is from %v, %v", o.Key, o.Modified, err)
		}
	}
	s.holds(t, "large.kv", c, "large.kv")
	s.kept(t)
}

// Of very many keys that stay, one list tells which are old: no request more.
func TestManyStay(t *testing.T) {
	t.Parallel()
	s := newSite(t, "many")
	const n = 2100
	var moves []core.Move
	for i := range n {
		key := fmt.Sprintf("domain/v2.0-accounts.%d-%d.kv", i, i+1)
		moves = append(moves, core.Move{From: key, To: key, Size: 1})
	}
	// The server finds no less in a folder that was not filled by itself.
	if err := os.Mkdir(filepath.Join(s.Dir, "domain"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, m := range moves {
		if err := os.WriteFile(filepath.Join(s.Dir, m.To), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run := func(change map[string]any, moves ...core.Move) (done int, last error) {
		s.Took()
		for _, err := range newSink().Copy(t.Context(), s.Target(change), moves) {
			if last = err; err == nil {
				done++
			}
		}
		return done, last
	}
	for _, change := range []map[string]any{{"expiry_days": 56}, nil} {
		done, err := run(change, moves...)
		if log := s.Took(); done != n || err != nil || len(log) != 3 || len(only(log, "list")) != 3 { // 1,000 a page
			t.Errorf("%v: %d done with %d requests, the first is %.50q: %v", change, done, len(log), log, err)
		}
	}
	s.Age(t, 40*24*time.Hour, moves[7].To, moves[2000].To)
	done, err := run(map[string]any{"expiry_days": 56}, moves...)
	if log := s.Took(); done != n || err != nil || len(only(log, "copy")) != 2 || len(log) != 3+2*3 {
		t.Errorf("two are old: %d done with %.300q: %v", done, log, err)
	}
	if done, err := run(nil, moves...); done != n || err != nil || len(only(s.Took(), "copy")) != 0 {
		t.Errorf("without expiry: %d, %v", done, err)
	}
	// One is gone, or another one than it was.
	s.Remove(t, moves[3].To)
	if done, err := run(map[string]any{"expiry_days": 56}, moves...); done < n-3 || done >= n || !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), moves[3].To) {
		t.Errorf("one is gone: %d, %v", done, err)
	}
	moves[4].Size = 2
	if _, err := run(map[string]any{"expiry_days": 56}, moves[4:]...); err == nil || !strings.Contains(err.Error(), "1 bytes instead of 2") {
		t.Errorf("another size: %v", err)
	}
	// A few are looked at one by one: the bucket may be large.
	done, err = run(map[string]any{"expiry_days": 56}, moves[10:13]...)
	if log := s.Took(); done != 3 || err != nil || len(log) != 3 || len(only(log, "HEAD")) != 3 {
		t.Errorf("three: %d, %v, %v", done, err, log)
	}
	s.kept(t)
}

func TestCommonPrefix(t *testing.T) {
	for want, keys := range map[string][]string{"": {"a", "b", "ab"}, "a/": {"a/c", "a/b", "a/bc"}, "xé": {"xé", "xéa"}, "x": {"xé", "xè"}} {
		if got := commonPrefix(keys); got != want {
			t.Errorf("%q: %q, want %q", keys, got, want)
		}
	}
}
