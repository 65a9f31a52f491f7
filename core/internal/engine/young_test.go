package engine

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/snapfw/snapfw/core"
)

// agingBucket notes what is made young, and may refuse it.
type agingBucket struct {
	copyBucket
	err error

	mu    sync.Mutex
	young []string
}

func (b *agingBucket) Copy(ctx context.Context, t core.Target, moves []core.Move) iter.Seq2[core.Move, error] {
	return func(yield func(core.Move, error) bool) {
		for m, err := range b.copyBucket.Copy(ctx, t, moves) {
			if m.From == m.To {
				b.mu.Lock()
				b.young = append(b.young, m.To)
				b.mu.Unlock()
				err = errors.Join(err, b.err)
			}
			if !yield(m, err) {
				return
			}
		}
	}
}

func (w *world) ages(t *testing.T, unsafe string, why error) (Outcome, *process, *agingBucket) {
	t.Helper()
	p := w.process(0)
	d := p.listDeps(unsafe)
	b := &agingBucket{copyBucket: copyBucket{bucket{p}}, err: why}
	d.Sink.Sink = b
	out, err := p.release(d, core.Intent{})
	if err != nil {
		t.Fatal(err)
	}
	return out, p, b
}

// What is published stays young whatever becomes of the releases: refused, parked, or ended before the node was stopped.
func TestARefusedReleaseKeepsWhatIsPublishedYoung(t *testing.T) {
	w := newWorld("node0")
	w.desk = &desk{merges: true}
	out, _, b := w.ages(t, "", nil)
	wantExit(t, out, ExitDone, "")
	w.bucket["old.seg.torrent"], w.bucket["old.seg.torrent.bak"], w.bucket["other.seg"] = []byte("of old.seg"), []byte("x"), []byte("nobody's")
	var named []string
	for _, e := range must(readList(w.bucket[listKey])) {
		named = append(named, e.Name)
	}
	want := append(named, listKey, "chain.objects.json", "old.seg.torrent")
	for _, c := range []struct {
		name string
		exit int
		do   func() (Outcome, *process, *agingBucket)
	}{
		{"refused by the judge", ExitRefused, func() (Outcome, *process, *agingBucket) { return w.ages(t, "tip.seg", nil) }},
		{"a probe that fails", ExitFailed, func() (Outcome, *process, *agingBucket) {
			w.refuse = func(string) error { return errors.New("403") }
			defer func() { w.refuse = nil }()
			return w.ages(t, "", nil)
		}},
		{"parked", ExitParked, func() (Outcome, *process, *agingBucket) {
			w.desk.merges = false
			return w.ages(t, "", nil)
		}},
	} {
		if out, _, b = c.do(); out.Exit != c.exit {
			t.Fatalf("%s: %+v", c.name, out)
		}
		for _, key := range want {
			if !slices.Contains(b.young, key) {
				t.Errorf("%s: %s was not made young: %q", c.name, key, b.young)
			}
		}
		for _, key := range b.young {
			if !slices.Contains(want, key) {
				t.Errorf("%s: %s was made young, and nobody names it", c.name, key)
			}
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// That what stays can't be made young is told, and a failure, with the list published.
func TestWhatIsNotKeptYoungIsTold(t *testing.T) {
	w := newWorld("node0")
	w.desk = &desk{merges: true}
	out, p, _ := w.ages(t, "", errors.New("403 of a copy"))
	wantExit(t, out, ExitFailed, listKey+" is published, but")
	if !out.Closed || w.released() != nil || len(p.news) != 1 || p.news[0].Kind != NewsFailed || !strings.Contains(p.news[0].Text, "403 of a copy") {
		t.Errorf("closed %v, %v, told %+v", out.Closed, w.released(), p.news)
	}
	out, p, _ = w.ages(t, "tip.seg", errors.New("403 of a copy"))
	wantExit(t, out, ExitRefused, "tip.seg")
	told := func(kind, says string) bool {
		return slices.ContainsFunc(p.news, func(n News) bool { return n.Kind == kind && strings.Contains(n.Text, says) })
	}
	if !told(NewsRefused, "tip.seg") || !told(NewsFailed, "403 of a copy") {
		t.Errorf("told %+v", p.news)
	}
	out, p, _ = w.ages(t, "", nil)
	wantExit(t, out, ExitDone, "")
	if !told(NewsDone, "") || len(p.news) != 1 {
		t.Errorf("told %+v", p.news)
	}

	// What is named and gone is said, and sent by this release, or told.
	delete(w.bucket, "old.seg")
	out, p, _ = w.ages(t, "tip.seg", nil)
	wantExit(t, out, ExitRefused, "tip.seg")
	if !told(NewsFailed, "old.seg") {
		t.Errorf("told %+v", p.news)
	}
	out, p, _ = w.ages(t, "", nil)
	wantExit(t, out, ExitDone, "")
	if len(p.news) != 1 || w.listed() != nil {
		t.Errorf("told %+v; %v", p.news, w.listed())
	}
}
