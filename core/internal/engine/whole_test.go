package engine

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/internal/manifest"
	"github.com/snapfw/snapfw/core/onhost"
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

// What an upload that was killed left under its keys is known to later releases: never as held, and deleted once it was
// named by no list for the time of grace.
func TestWhatAKilledUploadLeftGoesAfterTheGracePeriod(t *testing.T) {
	w := newWorld("node0")
	w.desk = &desk{merges: true}
	release := func() {
		t.Helper()
		p := w.process(0)
		if out, err := p.release(p.listDeps(""), core.Intent{}); err != nil || out.Exit != ExitDone {
			t.Fatalf("%+v, %v", out, err)
		}
	}
	release()
	before := w.keys()
	p := w.process(0)
	d := p.listDeps("")
	machineOf := d.Machine
	d.Machine = func(ctx context.Context, a core.Addr, plugin string) (Machine, error) {
		m, err := machineOf(ctx, a, plugin)
		return diesAfter{m, p, "upload"}, err
	}
	p.release(d, core.Intent{})
	left := slices.DeleteFunc(w.keys(), func(key string) bool {
		return slices.Contains(before, key) || strings.HasPrefix(key, ".")
	})
	if !p.dead || len(left) != 1 {
		t.Fatalf("dead %v, left %q", p.dead, left)
	}
	known, err := manifest.ParseObjects(w.bucket["chain.objects.json"])
	if err != nil {
		t.Fatal(err)
	}
	k, ok := known.Objects[left[0]]
	listed := core.Object{Key: left[0], Size: k.Size}
	if !ok || k.Unnamed == nil || known.Holds(core.Entry{Name: left[0], Size: k.Size, Sums: k.Sums}, listed) {
		t.Fatalf("%s is remembered as %+v (%v)", left[0], k, ok)
	}
	w.desk.run = must(Open(p, "chain"))[0].Run
	r, p := w.resume(t, "")
	if out := r.Cancel(p.ctx, "by hand", false); !out.Closed {
		t.Fatalf("%+v", out)
	}
	release()
	if w.bucket[left[0]] == nil {
		t.Fatal("it is gone before the time of grace")
	}
	w.now = w.now.Add(2 * time.Hour)
	release()
	if w.bucket[left[0]] != nil {
		t.Errorf("%s is there for ever", left[0])
	}
	if err := w.released(); err != nil {
		t.Error(err)
	}
}

// diesAfter is a machine on which a program ends in the moment in which snapfw dies; the probe's is left alone.
type diesAfter struct {
	Machine
	p    *process
	verb string
}

func (m diesAfter) Job(ctx context.Context, job onhost.Job, s map[string]string, rep func(onhost.Report)) (onhost.Result, error) {
	res, err := m.Machine.Job(ctx, job, s, rep)
	if job.Argv[0] == m.verb && !strings.Contains(job.ID, "preflight") {
		m.p.w.mu.Lock()
		m.p.dead = true
		m.p.w.mu.Unlock()
		m.p.cancel()
		return res, errDead
	}
	return res, err
}
