package engine

import (
	"testing"
	"time"

	"github.com/snapfw/snapfw/core"
)

// What a preflight that was killed left is removed by a later run: of this chain's runs alone, and of none that is open.
func TestProbesThatWereLeftAreRemoved(t *testing.T) {
	w := newWorld("node0")
	w.desk = &desk{}
	p := w.process(0)
	if out, err := p.release(p.listDeps(""), core.Intent{}); err != nil || out.Exit != ExitParked {
		t.Fatalf("%+v, %v", out, err)
	}
	open := w.desk.run
	w.stored = map[string]time.Time{}
	old := func(key string, age time.Duration) string {
		w.bucket[key], w.stored[key] = []byte("probe"), w.now.Add(-age)
		return key
	}
	left := old(".probe-chain-20261120-101112-abcd/probe.txt", 2*time.Hour)
	var others []string
	for _, key := range []string{
		".probe-chain-20261120-101112-abcd/other.txt", ".probe-chain-20261120-101112-abcd", ".probe-chain-x-20261120-101112-abcd/probe.txt",
		".probe-chain2-20261120-101112-abcd/probe.txt", ".probe-chain-20261120/probe.txt", "x/.probe-chain-20261120-101112-abcd/probe.txt",
		".probe-" + open + "/probe.txt",
	} {
		others = append(others, old(key, 2*time.Hour))
	}
	others = append(others, old(".probe-chain-20261120-101113-abcd/probe.txt", time.Minute))
	p = w.process(0)
	d := p.listDeps("tip.seg")
	r, err := New(d, "chain-20261121-000500-zzzz", Begun{Chain: "chain", Publish: true, Intent: core.Intent{Name: "release"}})
	if err != nil {
		t.Fatal(err)
	}
	wantExit(t, r.Go(p.ctx), ExitRefused, "tip.seg")
	if w.bucket[left] != nil {
		t.Errorf("%s is left", left)
	}
	for _, key := range others {
		if w.bucket[key] == nil {
			t.Errorf("%s was removed", key)
		}
	}
}
