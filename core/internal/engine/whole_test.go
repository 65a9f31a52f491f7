package engine

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/snapfw/snapfw/core"
)

// Objects that nobody sent anew may go while a release waits: no list is published that names what is not there, forced or not.
func TestNoListNamesWhatIsNotThere(t *testing.T) {
	in := core.Intent{Force: true, Reason: "why"}
	for _, c := range []struct {
		name string
		lose func(w *world)
		says string
	}{
		{"gone", func(w *world) { delete(w.bucket, "old.seg") }, "old.seg is missing"},
		{"of another size", func(w *world) { w.bucket["old.seg"] = []byte("x") }, "old.seg"},
		{"of the same size", func(w *world) { w.bucket["old.seg"] = bytes.ToUpper(w.bucket["old.seg"]) }, "old.seg is not what an earlier release left there"},
		{"what was sent", func(w *world) {
			keys := slices.DeleteFunc(w.keys(), func(key string) bool { return !strings.HasPrefix(key, "new-") })
			delete(w.bucket, slices.Max(keys))
		}, "is missing"},
	} {
		w := newWorld("node0")
		w.desk = &desk{merges: true}
		p := w.process(0)
		if out, err := p.release(p.listDeps(""), in); err != nil || out.Exit != ExitDone {
			t.Fatalf("%+v, %v", out, err)
		}
		published := bytes.Clone(w.bucket[listKey])
		tip := bytes.Clone(w.bucket["tip.seg"])
		w.desk.merges = false
		p = w.process(0)
		if out, err := p.release(p.listDeps(""), in); err != nil || out.Exit != ExitParked {
			t.Fatalf("%+v, %v", out, err)
		}
		c.lose(w)
		w.desk.merge()
		r, p := w.resume(t, "")
		out := r.Go(p.ctx)
		wantExit(t, out, ExitRefused, c.says)
		if !out.Closed || !bytes.Equal(w.bucket[listKey], published) || !bytes.Equal(w.bucket["tip.seg"], tip) {
			t.Errorf("%s: closed %v, published %q, tip %q", c.name, out.Closed, w.bucket[listKey], w.bucket["tip.seg"])
		}
		w.desk.merges = true
		p = w.process(0)
		if out, err := p.release(p.listDeps(""), in); err != nil || out.Exit != ExitDone {
			t.Fatalf("%s: the next release: %+v, %v", c.name, out, err)
		}
		if err := w.released(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// Once bytes were replaced the run waits for the object: it comes back, or the run is given up.
func TestAnObjectGoesWhileBytesAreReplaced(t *testing.T) {
	w, published := torn(t)
	old := w.bucket["old.seg"]
	delete(w.bucket, "old.seg")
	r, p := w.resume(t, "")
	out := r.Go(p.ctx)
	wantExit(t, out, ExitFailed, "old.seg is missing")
	if out.Closed || !bytes.Equal(w.bucket[listKey], published) || !strings.Contains(out.Err.Error(), "--force") {
		t.Fatalf("%+v, published %q", out, w.bucket[listKey])
	}
	w.bucket["old.seg"] = old
	r, p = w.resume(t, "")
	wantExit(t, r.Go(p.ctx), ExitDone, "")
	if err := w.released(); err != nil {
		t.Error(err)
	}
}
