package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/snapfw/snapfw/core"
)

// tornBucket copies, and breaks after each copy.
type tornBucket struct{ copyBucket }

func (b tornBucket) Copy(ctx context.Context, t core.Target, moves []core.Move) iter.Seq2[core.Move, error] {
	return func(yield func(core.Move, error) bool) {
		for m, err := range b.copyBucket.Copy(ctx, t, moves) {
			if err != nil || m.From == m.To {
				if !yield(m, err) {
					return
				}
				continue
			}
			yield(m, errors.New("500 after the copy"))
			return
		}
	}
}

// torn is a world whose second release broke after it had replaced published bytes.
func torn(t *testing.T) (w *world, published []byte) {
	t.Helper()
	w = newWorld("node0")
	w.desk = &desk{merges: true}
	for i := range 2 {
		p := w.process(0)
		d := p.listDeps("")
		if i == 1 {
			published = bytes.Clone(w.bucket[listKey])
			d.Sink.Sink = tornBucket{copyBucket{bucket{p}}}
		}
		out, err := p.release(d, core.Intent{})
		if err != nil || (out.Exit == ExitDone) != (i == 0) || out.Closed != (i == 0) {
			t.Fatalf("release %d: %+v, %v", i, out, err)
		}
		if i == 1 && (!strings.Contains(out.Err.Error(), "snapfw resume") || strings.Contains(out.Err.Error(), "snapfw cancel")) {
			t.Errorf("what to do: %v", out.Err)
		}
	}
	return w, published
}

func (w *world) resume(t *testing.T, unsafe string) (*Run, *process) {
	t.Helper()
	p := w.process(0)
	r, err := Resume(p.listDeps(unsafe), w.desk.run)
	if err != nil {
		t.Fatal(err)
	}
	return r, p
}

// Once bytes under published names were replaced there is no way back: what is published fits no list until the run is through.
func TestWhatReplacedBytesIsNotCancelled(t *testing.T) {
	w, _ := torn(t)
	r, p := w.resume(t, "")
	out := r.Cancel(p.ctx, "by hand", false)
	wantExit(t, out, ExitRefused, "snapfw resume "+w.desk.run)
	if out.Closed || len(p.news) > 0 {
		t.Errorf("closed %v, told %v", out.Closed, p.news)
	}
	r, p = w.resume(t, "")
	wantExit(t, r.Go(p.ctx), ExitDone, "")
	if err := w.released(); err != nil {
		t.Error(err)
	}

	// Who insists is let go, and the next release puts it right.
	w, _ = torn(t)
	r, p = w.resume(t, "")
	if out := r.Cancel(p.ctx, "the stage is lost", true); out.Exit != ExitDone || !out.Closed {
		t.Fatalf("%+v", out)
	}
	p = w.process(0)
	if out, err := p.release(p.listDeps(""), core.Intent{}); err != nil || out.Exit != ExitDone {
		t.Fatalf("%+v, %v", out, err)
	}
	if err := w.released(); err != nil {
		t.Error(err)
	}
}

// A judge that refuses by then keeps the run open, with all that it needs to get through.
func TestWhatReplacedBytesIsNotClosedByTheJudge(t *testing.T) {
	w, published := torn(t)
	w.bucket[listKey] = append(bytes.Clone(published), "old.seg 00\n"...)
	r, p := w.resume(t, "old.seg")
	out := r.Go(p.ctx)
	wantExit(t, out, ExitFailed, "not safe")
	staged := slices.ContainsFunc(w.keys(), func(key string) bool { return strings.HasPrefix(key, stageRoot) })
	if out.Closed || !staged || strings.Contains(fmt.Sprint(out.Err), "snapfw cancel") {
		t.Fatalf("closed %v, staged %v: %v", out.Closed, staged, out.Err)
	}
	w.bucket[listKey] = published
	r, p = w.resume(t, "")
	wantExit(t, r.Go(p.ctx), ExitDone, "")
	if err := w.released(); err != nil {
		t.Error(err)
	}
}

func (w *world) keys() (keys []string) {
	for key := range w.bucket {
		keys = append(keys, key)
	}
	return keys
}

// What could not be judged again goes no further, whatever the reason.
func TestWhatCouldNotBeJudgedAgainIsNotPublished(t *testing.T) {
	for _, why := range []error{errors.New("the driver died"), context.Canceled} {
		w := newWorld("node0")
		w.desk = &desk{}
		p := w.process(0)
		if out, err := p.release(p.listDeps(""), core.Intent{}); err != nil || out.Exit != ExitParked {
			t.Fatalf("%+v, %v", out, err)
		}
		w.desk.merge()
		p = w.process(0)
		d := p.listDeps("")
		d.Chain = noJudge{d.Chain.(listChain), why}
		r, err := Resume(d, w.desk.run)
		if err != nil {
			t.Fatal(err)
		}
		out := r.Go(p.ctx)
		wantExit(t, out, ExitFailed, why.Error())
		if out.Closed || w.bucket[listKey] != nil {
			t.Errorf("%v: closed %v, published %q", why, out.Closed, w.bucket[listKey])
		}
		r, p = w.resume(t, "")
		wantExit(t, r.Go(p.ctx), ExitDone, "")
	}
}

type noJudge struct {
	listChain
	err error
}

func (c noJudge) Judge(context.Context, core.Change) (core.Verdict, error) {
	return core.Verdict{}, c.err
}

// What waits for a review may be gone when it is through: the bucket expires objects. Before a byte was replaced that closes
// the run, so that the next release works.
func TestAStageThatIsGoneClosesTheRun(t *testing.T) {
	for _, c := range []struct {
		gone   string
		merged bool
	}{{stagedList, false}, {stagedList, true}, {stagedSent, true}, {"tip.seg", true}} {
		w := newWorld("node0")
		w.desk = &desk{merges: true}
		p := w.process(0)
		if out, err := p.release(p.listDeps(""), core.Intent{}); err != nil || out.Exit != ExitDone {
			t.Fatalf("%+v, %v", out, err)
		}
		w.desk.merges = false
		p = w.process(0)
		if out, err := p.release(p.listDeps(""), core.Intent{}); err != nil || out.Exit != ExitParked {
			t.Fatalf("%+v, %v", out, err)
		}
		key := stageRoot + "/" + w.desk.run + "/" + c.gone
		if w.bucket[key] == nil {
			t.Fatalf("%s was never there", key)
		}
		delete(w.bucket, key)
		if c.merged {
			w.desk.merge()
		}
		published := bytes.Clone(w.bucket[listKey])
		r, p := w.resume(t, "")
		out := r.Go(p.ctx)
		wantExit(t, out, ExitRefused, key+" is gone from the bucket")
		if !out.Closed || !strings.Contains(out.Err.Error(), "release again") || len(p.news) != 1 || p.news[0].Kind != NewsRefused {
			t.Errorf("%+v: %+v, told %+v", c, out, p.news)
		}
		if !bytes.Equal(w.bucket[listKey], published) || (len(w.desk.withdrawn) == 1) == c.merged {
			t.Errorf("%+v: published %q, withdrawn %q", c, w.bucket[listKey], w.desk.withdrawn)
		}
		w.desk.merges = true
		p = w.process(0)
		if out, err := p.release(p.listDeps(""), core.Intent{}); err != nil || out.Exit != ExitDone {
			t.Fatalf("%+v: the next release: %+v, %v", c, out, err)
		}
		if err := w.released(); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}

	// Afterwards the run stays open, since only it can put list and bytes together.
	w, _ := torn(t)
	delete(w.bucket, stageRoot+"/"+w.desk.run+"/"+stagedList)
	r, p := w.resume(t, "")
	if out := r.Go(p.ctx); out.Exit != ExitFailed || out.Closed || !strings.Contains(out.Err.Error(), "snapfw cancel "+w.desk.run+" --force") {
		t.Errorf("%+v", out)
	}
}
