package engine

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/snapfw/snapfw/core"
)

// parkedRelease is a world in which a release waits for its review.
func parkedRelease(t *testing.T) *world {
	t.Helper()
	w := newWorld("node0")
	w.desk = &desk{}
	p := w.process(0)
	out, err := p.release(p.listDeps(""), core.Intent{})
	if err != nil {
		t.Fatal(err)
	}
	wantExit(t, out, ExitParked, "desk.example")
	return w
}

func (w *world) newer(t *testing.T, killAt int, unsafe string) (Outcome, *process) {
	t.Helper()
	p := w.process(killAt)
	p.supersedes = true
	out, err := p.release(p.listDeps(unsafe), core.Intent{})
	if err != nil && !p.dead {
		t.Fatal(err)
	}
	return out, p
}

// waits tells whether a run can still be published: it is open, its proposal and all that it staged are there.
func (w *world) waits(t *testing.T, run string) bool {
	t.Helper()
	s, err := Load(w.process(0), run)
	if err != nil {
		t.Fatal(err)
	}
	_, staged := w.bucket[stageRoot+"/"+run+"/"+stagedList]
	return s.Closed == nil && staged
}

// A release that gets no further than its own judge leaves alone the one that waits, which is published afterwards.
func TestAFailedReleaseSupersedesNobody(t *testing.T) {
	for what, fails := range map[string]func(w *world) (unsafe string){
		"look":  func(w *world) string { w.hosts["node0"].up = false; return "" },
		"stop":  func(w *world) string { w.stopExit["node0"] = []int{1}; return "" },
		"seal":  func(w *world) string { w.refusals["node0 seal list"] = "it is broken"; return "" },
		"judge": func(w *world) string { return "old.seg" },
	} {
		t.Run(what, func(t *testing.T) {
			w := parkedRelease(t)
			run := w.desk.run
			unsafe := fails(w)
			if out, _ := w.newer(t, 0, unsafe); out.Exit == ExitDone || out.Exit == ExitParked || !out.Closed {
				t.Fatalf("the newer one ended %+v", out)
			}
			if len(w.desk.withdrawn) > 0 || !w.waits(t, run) {
				t.Fatalf("withdrawn: %q, waits: %v", w.desk.withdrawn, w.waits(t, run))
			}
			w.hosts["node0"].up = true
			delete(w.refusals, "node0 seal list")
			w.desk.merge()
			p := w.process(0)
			if out, err := CarryOn(p.ctx, p.listDeps(""), "chain"); err != nil || out.Exit != ExitDone || !out.Closed {
				t.Fatalf("merged: %+v, %v", out, err)
			}
			if err := w.released(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAReleaseSupersedesTheOneThatWaits(t *testing.T) {
	w := parkedRelease(t)
	first := w.desk.run
	out, _ := w.newer(t, 0, "")
	wantExit(t, out, ExitParked, "desk.example")
	second := w.desk.run
	if first == second || w.waits(t, first) || !w.waits(t, second) {
		t.Fatalf("%s waits: %v, %s waits: %v", first, w.waits(t, first), second, w.waits(t, second))
	}
	if len(w.desk.withdrawn) != 1 || !strings.Contains(w.desk.withdrawn[0], "superseded by "+second) {
		t.Errorf("withdrawn: %q", w.desk.withdrawn)
	}
	w.desk.merge()
	p := w.process(0)
	if out, err := CarryOn(p.ctx, p.listDeps(""), "chain"); err != nil || out.Exit != ExitDone || !out.Closed {
		t.Fatalf("merged: %+v, %v", out, err)
	}
	if err := w.released(); err != nil {
		t.Error(err)
	}
}

// A newer release dies at every point beside one that waits: its node comes back, and one of the two is published whole.
func TestDeathsBesideARunThatWaits(t *testing.T) {
	points, alone := 0, 0
	for kill := 1; ; kill++ {
		w := parkedRelease(t)
		first := w.desk.run
		_, p := w.newer(t, kill, "")
		if !p.dead {
			break
		}
		points++
		if kill%2 == 0 {
			w.fireGuards()
		}
		if kill%3 == 0 {
			w.desk.merge()
		}
		p = w.process(0)
		if out, err := CarryOn(p.ctx, p.listDeps(""), "chain"); err != nil || !out.Closed && out.Exit != ExitParked {
			t.Fatalf("death at %d: carried on: %+v, %v", kill, out, err)
		}
		if h := w.hosts["node0"]; !h.up || len(h.locks) > 0 {
			t.Fatalf("death at %d: up %v, locks %v", kill, h.up, h.locks)
		}
		open, err := Open(p, "chain")
		if err != nil || len(open) > 1 || len(open) == 1 && !w.waits(t, open[0].Run) {
			t.Fatalf("death at %d: %d are open, %v", kill, len(open), err)
		}
		if len(open) == 1 && open[0].Run == first {
			alone++
		}
		w.desk.merge()
		p = w.process(0)
		if out, err := CarryOn(p.ctx, p.listDeps(""), "chain"); err != nil || !out.Closed {
			t.Fatalf("death at %d: merged: %+v, %v", kill, out, err)
		}
		if err := w.released(); err != nil {
			t.Fatalf("death at %d: %v", kill, err)
		}
	}
	t.Logf("%d points; after %d of them the first one still waited", points, alone)
	if points < 60 || alone == 0 {
		t.Errorf("%d points, %d: does it still die?", points, alone)
	}
}

func TestWhatANewerRunOwesIsPaidBesideOneThatIsStuck(t *testing.T) {
	var w *world
	for kill := 1; w == nil || w.hosts["node0"].up; kill++ {
		w = parkedRelease(t)
		if _, p := w.newer(t, kill, ""); !p.dead {
			t.Fatal("the node was never down")
		}
	}
	first := w.desk.run
	w.desk.merge()
	w.refuse = func(key string) error {
		if key == listKey {
			return errors.New("the bucket is read-only")
		}
		return nil
	}
	p := w.process(0)
	out, err := CarryOn(p.ctx, p.listDeps(""), "chain")
	if err != nil || out.Closed || out.Exit != ExitFailed {
		t.Fatalf("%+v, %v", out, err)
	}
	if !w.hosts["node0"].up {
		t.Error("the node is still down")
	}
	all, err := Open(p, "chain")
	if err != nil || !slices.ContainsFunc(all, func(s *State) bool { return s.Run == first }) {
		t.Errorf("the one that is stuck is not open: %v", err)
	}
}
