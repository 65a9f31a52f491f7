package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/snapfw/snapfw/core"
)

func TestCopyOfAnySize(t *testing.T) {
	saved := r2Limits
	t.Cleanup(func() { r2Limits = saved })
	r2Limits.copyWhole, r2Limits.copyPart = 8*mib, 5*mib+mib/2
	s, c := newSite(t, "copies"), newCopy(t)
	s.copyWhole = 8 * mib
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
	s.trouble(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(operation(r), "copypart") && n.Add(1) > 3 {
			refuse(w, 403, "AccessDenied", "no")
			return true
		}
		return false
	})
	if _, err := copyAll(s.target, moves[:1]); err == nil {
		t.Fatal("a copy that was refused succeeded")
	}
	s.trouble(nil)
	s.took()
	if done, err := copyAll(s.target, moves); done != 2 || err != nil {
		t.Fatalf("%d, %v", done, err)
	}
	if parts := only(s.took(), "copypart"); len(parts) < 3 || len(parts) > 4 { // of six; one may have been under way
		t.Errorf("the second time copied %v", parts)
	}
	for name := range map[string]bool{"large.kv": true, "small.kv": true} {
		s.holds(t, name, c, name)
	}
	if done, err := copyAll(s.target, moves); done != 2 || err != nil || len(only(s.took(), "copy", "copypart")) > 0 {
		t.Errorf("a third time: %d, %v", done, err)
	}
	// Onto itself, to make it young: only when half of the age is used up.
	self := []core.Move{{From: "large.kv", To: "large.kv"}, {From: "small.kv", To: "small.kv"}}
	if done, err := copyAll(s.with(map[string]any{"expiry_days": 56}), self); done != 2 || err != nil || len(only(s.took(), "copy", "copypart")) > 0 {
		t.Errorf("young objects: %d, %v", done, err)
	}
	old := time.Now().Add(-30 * 24 * time.Hour)
	for _, name := range []string{"large.kv", "small.kv"} {
		if err := os.Chtimes(filepath.Join(s.dir, name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	done, err := copyAll(s.with(map[string]any{"expiry_days": 56}), self)
	if log := s.took(); done != 2 || err != nil || len(only(log, "copy")) != 1 || len(only(log, "copypart")) != 6 {
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
