package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/internal/manifest"
	"github.com/snapfw/snapfw/core/onhost"
)

// run makes one snapshot in a world that a test prepared.
func run(t *testing.T, w *world, change func(*Deps, *Begun)) (*Run, Outcome, *process) {
	t.Helper()
	p := w.process(0)
	t.Cleanup(p.cancel)
	d := p.deps()
	b := Begun{Chain: "chain", Publish: true, Intent: core.Intent{Name: "snapshot"}}
	if change != nil {
		change(&d, &b)
	}
	r, err := New(d, fmt.Sprintf("run%04d", len(w.disk)+1), b)
	if err != nil {
		t.Fatal(err)
	}
	out := r.Go(p.ctx)
	if err := w.safe(); err != nil {
		t.Error(err)
	}
	return r, out, p
}

func wantExit(t *testing.T, out Outcome, exit int, says string) {
	t.Helper()
	if out.Exit != exit {
		t.Fatalf("exit code %d (%v), want %d", out.Exit, out.Err, exit)
	}
	if says != "" && (out.Err == nil || !strings.Contains(out.Err.Error(), says)) {
		t.Fatalf("the error %v does not say %q", out.Err, says)
	}
}

func TestADirtyStopIsPutBackAndLookedAtAgain(t *testing.T) {
	w := newWorld("node0")
	w.stopExit["node0"] = []int{core.ExitAgain, core.ExitAgain}
	r, out, _ := run(t, w, nil)
	wantExit(t, out, ExitDone, "")
	if n := r.State().Node("node0"); n.Plans != 3 || w.hosts["node0"].stops != 3 || !n.Promoted {
		t.Errorf("%d plans, %d stops, promoted %v: want 3, 3, true", n.Plans, w.hosts["node0"].stops, n.Promoted)
	}

	w = newWorld("node0", "node1")
	w.stopExit["node0"] = []int{core.ExitAgain, core.ExitAgain, core.ExitAgain}
	_, out, _ = run(t, w, nil)
	wantExit(t, out, ExitFailed, "put back, to look again")
	if w.hosts["node1"].stops != 0 {
		t.Error("wave 1 was touched although wave 0 was not captured")
	}
}

// patient holds a node that was let go until its copy has arrived.
type patient struct {
	unseen
	t       *testing.T
	arrived chan struct{}
}

func (v patient) Move(_, move string) {
	if move == "check what arrived" {
		close(v.arrived)
	}
}

func (v patient) Note(_, text string) {
	if text != "see that it came back" {
		return
	}
	select {
	case <-v.arrived:
	case <-time.After(30 * time.Second):
		v.t.Error("nothing was uploaded while the node came back")
	}
}

func TestTheTailBeginsWhileTheNodeComesBack(t *testing.T) {
	w := newWorld("node0")
	r, out, _ := run(t, w, func(d *Deps, _ *Begun) { d.View = patient{t: t, arrived: make(chan struct{})} })
	wantExit(t, out, ExitDone, "")
	n := r.State().Node("node0")
	m, err := manifest.Parse(w.bucket[n.Uploaded.Prefix+"/"+manifest.File])
	if err != nil {
		t.Fatal(err)
	}
	if n.Up == nil || m.DownSeconds == 0 || m.DownSeconds != n.Up.Down.Seconds() {
		t.Errorf("the manifest says that the node was down for %v s, the journal %+v", m.DownSeconds, n.Up)
	}
}

func TestAFailedUndoIsToldAndTriedAgain(t *testing.T) {
	w := newWorld("node0")
	w.failures["node0 start"] = 2
	_, out, p := run(t, w, nil)
	wantExit(t, out, ExitDone, "")
	if len(p.news) < 2 || p.news[0].Kind != NewsUndoFailed || p.news[1].Kind != NewsUp {
		t.Errorf("told %v, want undo_failed and then up_again", p.news)
	}
}

func TestANodeThatNobodyCanStartIsExitCode10(t *testing.T) {
	w := newWorld("node0")
	w.failures["node0 start"] = 1000
	r, out, p := run(t, w, nil)
	wantExit(t, out, ExitDown, "snapfw up")
	if out.Closed {
		t.Error("the run was closed although it owes a node")
	}
	var down bool
	for _, n := range p.news {
		down = down || n.Kind == NewsDown
	}
	if !down {
		t.Errorf("told %v, not that a node is down", p.news)
	}
	// The next day the node can be started: `snapfw up` pays, and the run is closed by the next one.
	w.failures["node0 start"] = 0
	p = w.process(0)
	up, err := Resume(p.deps(), r.ID)
	if err != nil {
		t.Fatal(err)
	}
	if out := up.Up(p.ctx, ""); out.Exit == ExitDown || !w.hosts["node0"].up {
		t.Errorf("up ended %+v, node up %v", out, w.hosts["node0"].up)
	}
	if out, err := p.snapshot(); err != nil || out.Exit != ExitDone {
		t.Errorf("the next run ended %+v, %v", out, err)
	}
	if err := w.clean(); err != nil {
		t.Error(err)
	}
}

// TestAStopThatWasNotAllowed: neither the stop nor its undo may be run, and the node never stopped. That is
// no node that is down.
func TestAStopThatWasNotAllowed(t *testing.T) {
	w := newWorld("node0")
	w.failures["node0 stop"], w.failures["node0 start"] = 1, 1000
	r, out, _ := run(t, w, nil)
	wantExit(t, out, ExitFailed, "scripted failure of stop")
	if n := r.State().Node("node0"); n.Down() || out.Closed {
		t.Errorf("down %v, closed %v: want an open run that still owes, and no node down", n.Down(), out.Closed)
	}
}

func TestChecksThatStandInTheWay(t *testing.T) {
	bad := core.Check{Name: "role", Want: "Validator", Got: "ExplorerNode", Fix: "name another node"}
	for _, c := range []struct {
		name   string
		safety bool
		force  bool
		exit   int
	}{
		{"refused", false, false, ExitRefused},
		{"bypassed by force", false, true, ExitDone},
		{"never bypassed", true, true, ExitRefused},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld("node0", "node1")
			_, out, _ := run(t, w, func(d *Deps, b *Begun) {
				bad := bad
				bad.Safety = c.safety
				d.Chain = checked{d.Chain, bad}
				b.Intent.Force, b.Intent.Reason = c.force, "because"
			})
			wantExit(t, out, c.exit, "")
			if c.exit == ExitRefused && (w.hosts["node0"].stops > 0 || !strings.Contains(out.Err.Error(), "name another node")) {
				t.Errorf("%d stops; %v", w.hosts["node0"].stops, out.Err)
			}
			if c.exit == ExitDone && !strings.Contains(string(w.disk["run0001.jsonl"]), "bypassed by --force (because)") {
				t.Error("what was bypassed, and why, is not in the journal")
			}
		})
	}
}

type checked struct {
	core.Chain
	check core.Check
}

func (c checked) Status(ctx context.Context, n core.Node, h core.Host) (core.Status, error) {
	s, err := c.Chain.Status(ctx, n, h)
	s.Checks = append(s.Checks, c.check)
	return s, err
}

func TestNotNowIsNoFailure(t *testing.T) {
	w := newWorld("node0")
	_, out, p := run(t, w, func(d *Deps, _ *Begun) { d.Chain = notNow{d.Chain} })
	if out.Exit != ExitDone || w.hosts["node0"].stops != 0 || len(p.news) != 0 {
		t.Errorf("%+v, %d stops, told %v", out, w.hosts["node0"].stops, p.news)
	}
}

type notNow struct{ core.Chain }

func (notNow) Plan(context.Context, core.Node, core.Host, core.Intent) (core.Plan, error) {
	return core.Plan{}, core.Skipf("an election is under way")
}

func TestABucketThatRefuses(t *testing.T) {
	w := newWorld("node0", "node1")
	run(t, w, nil)
	before := string(w.bucket["full/node0/latest.json"])
	w.refuse = func(key string) error {
		if strings.Contains(key, ".probe") {
			return nil
		}
		return errors.New("403 Forbidden")
	}
	_, out, _ := run(t, w, nil)
	wantExit(t, out, ExitFailed, "403 Forbidden")
	if string(w.bucket["full/node0/latest.json"]) != before {
		t.Error("the pointer changed")
	}
	w.refuse = nil
	_, out, _ = run(t, w, nil)
	wantExit(t, out, ExitDone, "")
	if err := w.clean(); err != nil {
		t.Error(err)
	}
}

func TestABucketThatRefusesTheProbeStopsNobody(t *testing.T) {
	w := newWorld("node0")
	w.refuse = func(string) error { return errors.New("403 Forbidden") }
	_, out, _ := run(t, w, nil)
	wantExit(t, out, ExitFailed, "try sink bucket")
	if w.hosts["node0"].stops != 0 {
		t.Error("a node was stopped for a bucket that refuses")
	}
}

func TestShardsThatGotThrough(t *testing.T) {
	for _, all := range []bool{false, true} {
		w := newWorld("node0", "node1", "node2")
		w.failures["node1 take"] = 1
		r, out, _ := run(t, w, func(d *Deps, _ *Begun) { d.Settings.AllOrNothing = all })
		wantExit(t, out, ExitFailed, "scripted failure of take")
		for _, n := range r.State().Nodes {
			if want := !all && n.Name != "node1"; n.Promoted != want {
				t.Errorf("all_or_nothing %v: %s promoted %v", all, n.Name, n.Promoted)
			}
			if !w.hosts[n.Name].up || w.hosts[n.Name].copied != 0 {
				t.Errorf("%s: up %v, copy of %d", n.Name, w.hosts[n.Name].up, w.hosts[n.Name].copied)
			}
		}
	}
}

func TestWithoutPublishTheCopyStays(t *testing.T) {
	w := newWorld("node0")
	r, out, _ := run(t, w, func(d *Deps, b *Begun) { d.Settings.Publish, b.Publish = false, false })
	wantExit(t, out, ExitDone, "")
	if n := r.State().Node("node0"); !n.Stays || w.hosts["node0"].copied == 0 || len(w.bucket) != 0 || len(n.Debts) != 0 {
		t.Errorf("stays %v, copy of %d, %d objects, debts %v", n.Stays, w.hosts["node0"].copied, len(w.bucket), n.Debts)
	}
}

func TestRetentionKeepsWhatThePolicySays(t *testing.T) {
	w := newWorld("node0")
	for range 5 {
		_, out, _ := run(t, w, nil)
		wantExit(t, out, ExitDone, "")
	}
	manifests := 0
	for key := range w.bucket {
		if strings.HasSuffix(key, "/manifest.json") {
			manifests++
		}
	}
	if manifests != 2 {
		t.Errorf("%d snapshots are stored, the policy says 2", manifests)
	}
}

func TestGivenUpWhileTheNodeIsDown(t *testing.T) {
	w := newWorld("node0")
	p := w.process(0)
	d := p.deps()
	machineOf := d.Machine
	d.Machine = func(ctx context.Context, a core.Addr, plugin string) (Machine, error) {
		m, err := machineOf(ctx, a, plugin)
		return givesUpAt{m, p.cancel, "take"}, err
	}
	r, err := New(d, "run0001", Begun{Chain: "chain", Publish: true, Intent: core.Intent{Name: "snapshot"}})
	if err != nil {
		t.Fatal(err)
	}
	out := r.Go(p.ctx)
	wantExit(t, out, ExitInterrupted, "")
	h := w.hosts["node0"]
	if !h.up || h.copied != 0 || len(h.ended) == 0 || !out.Closed {
		t.Errorf("up %v, copy of %d, ended %v, closed %v", h.up, h.copied, h.ended, out.Closed)
	}
	if len(p.news) != 1 || p.news[0].Text != "take the copy: node0: interrupted" {
		t.Errorf("told: %+v", p.news)
	}
	if err := w.safe(); err != nil {
		t.Error(err)
	}
}

// givesUpAt is a machine on which somebody presses Ctrl-C while a program runs.
type givesUpAt struct {
	Machine
	cancel func()
	verb   string
}

func (m givesUpAt) Job(ctx context.Context, job onhost.Job, s map[string]string, rep func(onhost.Report)) (onhost.Result, error) {
	res, err := m.Machine.Job(ctx, job, s, rep)
	if job.Argv[0] == m.verb {
		m.cancel()
		return res, context.Canceled
	}
	return res, err
}

func TestANodeThatWasDownForTooLong(t *testing.T) {
	w := newWorld("node0")
	p := w.process(0)
	t.Cleanup(p.cancel)
	d := p.deps()
	d.Settings.MaxDown = time.Second
	machineOf := d.Machine
	d.Machine = func(ctx context.Context, a core.Addr, plugin string) (Machine, error) {
		m, err := machineOf(ctx, a, plugin)
		return hangsAt{m, "take"}, err
	}
	r, err := New(d, "run0001", Begun{Chain: "chain", Publish: true, Intent: core.Intent{Name: "snapshot"}})
	if err != nil {
		t.Fatal(err)
	}
	out := r.Go(p.ctx)
	wantExit(t, out, ExitFailed, "max_downtime")
	if !w.hosts["node0"].up {
		t.Error("the node is down")
	}
}

// hangsAt is a machine on which a program does not end.
type hangsAt struct {
	Machine
	verb string
}

func (m hangsAt) Job(ctx context.Context, job onhost.Job, s map[string]string, rep func(onhost.Report)) (onhost.Result, error) {
	if job.Argv[0] == m.verb {
		<-ctx.Done()
		return onhost.Result{}, ctx.Err()
	}
	return m.Machine.Job(ctx, job, s, rep)
}

func TestCheckPlan(t *testing.T) {
	good := func() core.Plan {
		return core.Plan{
			Freeze: []core.Step{{Name: "stop", Do: core.Command{Argv: []string{"/bin/true"}}, Undo: &core.Command{Argv: []string{"/bin/true"}}}},
			Data:   "/db/data", Publish: core.Layout{Prefix: "a/{height}", Pointer: "a/latest.json"},
		}
	}
	if err := CheckPlan(good()); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		break_ func(*core.Plan)
		says   string
	}{
		"secret in freeze": {func(p *core.Plan) { p.Freeze[0].Do.Env = map[string]string{"X": "secret:X"} }, "is a secret"},
		"secret in undo":   {func(p *core.Plan) { p.Freeze[0].Undo.Env = map[string]string{"X": "secret:X"} }, "is a secret"},
		"root and @self":   {func(p *core.Plan) { p.Freeze[0].Do = core.Command{Argv: []string{"@self"}, User: "root"} }, "absolute system programs only"},
		"no program":       {func(p *core.Plan) { p.Freeze[0].Do.Argv = nil }, "no program"},
		"relative data":    {func(p *core.Plan) { p.Data = "data" }, "absolute"},
		"traversal":        {func(p *core.Plan) { p.Publish.Prefix = "../x" }, "no key"},
		"twice a name":     {func(p *core.Plan) { p.Freeze = append(p.Freeze, p.Freeze[0]) }, "unique"},
		"KILL":             {func(p *core.Plan) { p.Freeze[0].Do.End = "KILL" }, "TERM or INT"},
	} {
		p := good()
		c.break_(&p)
		if err := CheckPlan(p); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}

func TestStateIsTheSumOfItsFacts(t *testing.T) {
	w := newWorld("node0", "node1")
	r, _, p := run(t, w, nil)
	again, err := Load(p, r.ID)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(r.State())
	b, _ := json.Marshal(again)
	if string(a) != string(b) {
		t.Errorf("in memory %s\nfrom the journal %s", a, b)
	}
}
