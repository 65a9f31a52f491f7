package engine

import (
	"strings"
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
