package engine

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/snapfw/snapfw/core"
)

// A verb that refuses while the node is stopped is a refusal like any other, once the node is up again; beside a node
// that failed by accident it is not.
func TestARefusalAfterTheStop(t *testing.T) {
	w := newWorld("node0")
	w.refusals["node0 take"] = "looked at 7 files\nfindings that stand in the way: a.part"
	_, out, p := run(t, w, nil)
	wantExit(t, out, ExitRefused, "findings that stand in the way: a.part")
	if !w.hosts["node0"].up || !out.Closed {
		t.Errorf("up %v, closed %v", w.hosts["node0"].up, out.Closed)
	}
	if len(p.news) != 1 || p.news[0].Kind != NewsRefused {
		t.Errorf("told %+v", p.news)
	}

	w = newWorld("node0")
	w.refusals["node0 take"], w.failures["node0 start"] = "no", 1000
	_, out, _ = run(t, w, nil)
	wantExit(t, out, ExitDown, "")

	w = newWorld("node0", "node1", "node2")
	w.refusals["node1 take"], w.failures["node2 take"] = "no", 1
	_, out, _ = run(t, w, nil)
	wantExit(t, out, ExitFailed, "scripted failure of take")
}

// The reason of a refusal is its last line from the beginning: what is wrong stands there.
func TestTheReasonOfARefusal(t *testing.T) {
	w := newWorld("node0")
	w.refusals["node0 take"] = "something else\nfindings: first.seg" + strings.Repeat("; and another one that is long to tell", 60)
	_, out, _ := run(t, w, func(d *Deps, b *Begun) { b.Intent = core.Intent{Name: "release"} })
	text := out.Err.Error()
	if !strings.Contains(text, "take: findings: first.seg; and another") || strings.Contains(text, "something else") || len(text) > 1500 {
		t.Errorf("%d bytes: %s", len(text), text)
	}
}

// moves notes what is shown of a run.
type moves struct {
	unseen
	mu    sync.Mutex
	shown []string
}

func (v *moves) Move(_, move string) { v.say(move) }
func (v *moves) Note(_, text string) { v.say(text) }

func (v *moves) say(text string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.shown = append(v.shown, text)
}

// A move that has nothing to do is not shown: a repair judges and uploads nothing, and one that leaves the node alone lets none go.
func TestOnlyMovesThatApplyAreShown(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Deps, *Begun)
		shown  []string
		not    []string
	}{
		{"a snapshot", func(*Deps, *Begun) {}, []string{"let the node go", "upload", "prove it", "delete what is too old"}, []string{"judge the change", "judge again", "wait for the review", "move the staged bytes"}},
		{"a repair", func(d *Deps, b *Begun) { d.Settings.Publish, b.Publish = false, false },
			[]string{"make the data stand still", "let the node go", "see that it came back", "tell people"},
			[]string{"try every sink", "judge the change", "upload", "check what arrived", "wait for the review", "prove it", "point consumers at it", "delete what is too old"}},
		{"one that stops nobody", func(d *Deps, b *Begun) {
			d.Chain, d.Settings.Publish, b.Publish = serving{d.Chain}, false, false
		}, []string{"seal the copy"}, []string{"arm the node's own way back", "make the data stand still", "take the copy", "let the node go", "see that it came back"}},
	} {
		v := &moves{}
		_, out, _ := run(t, newWorld("node0"), func(d *Deps, b *Begun) { d.View = v; c.change(d, b) })
		wantExit(t, out, ExitDone, "")
		for _, move := range c.shown {
			if !slices.Contains(v.shown, move) {
				t.Errorf("%s: %q is not shown: %q", c.name, move, v.shown)
			}
		}
		for _, move := range c.not {
			if slices.Contains(v.shown, move) {
				t.Errorf("%s: %q is shown", c.name, move)
			}
		}
	}
}

// serving is a driver whose node serves all the while.
type serving struct{ core.Chain }

func (c serving) Plan(context.Context, core.Node, core.Host, core.Intent) (core.Plan, error) {
	return core.Plan{Seal: []core.Step{{Name: "prove", Do: core.Command{Argv: []string{"prove"}}}}}, nil
}
