package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/internal/manifest"
	"github.com/snapfw/snapfw/core/internal/review"
)

// listKey is the pointer of the scripted chain whose keys are replaced in place: "name sum" lines.
const listKey = "chain.list"

// listChain is the driver of a chain with a list.
type listChain struct {
	scriptedChain
	unsafe string // the judge refuses, and says this
}

func (c listChain) Plan(ctx context.Context, n core.Node, h core.Host, in core.Intent) (core.Plan, error) {
	p, err := c.scriptedChain.Plan(ctx, n, h, in)
	p.Seal = []core.Step{{Name: "seal", Do: core.Command{Argv: []string{"seal list"}}}}
	p.Prove = []core.Step{{Name: "prove", Do: core.Command{Argv: []string{"prove"}}}}
	p.Publish = core.Layout{Pointer: listKey, InPlace: true}
	return p, err
}

func (listChain) Render(_ context.Context, entries []core.Entry) ([]byte, error) {
	var b bytes.Buffer
	for _, e := range entries {
		fmt.Fprintf(&b, "%s %s\n", e.Name, e.Sums["sha256"])
	}
	return b.Bytes(), nil
}

func (listChain) Parse(_ context.Context, body []byte) ([]core.Entry, error) { return readList(body) }

func readList(body []byte) (entries []core.Entry, err error) {
	for line := range strings.Lines(string(body)) {
		name, sum, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			return nil, fmt.Errorf("line %q", line)
		}
		entries = append(entries, core.Entry{Name: name, Sums: map[string]string{"sha256": sum}})
	}
	return entries, nil
}

func (c listChain) Judge(_ context.Context, ch core.Change) (core.Verdict, error) {
	v := core.Verdict{Safe: c.unsafe == "", Report: fmt.Sprintf("%d published, %d proposed", bytes.Count(ch.Published["bucket"], []byte("\n")), bytes.Count(ch.Proposed, []byte("\n")))}
	if c.unsafe != "" {
		v.Findings = []core.Finding{{Class: "hash_changes", Name: c.unsafe, Refuse: true}}
	}
	return v, nil
}

// sealList leaves three files: one that never changes, one that does, and one that is new each time. Their
// list names those of the last two heights.
func (h *scriptedHost) sealList() {
	var list bytes.Buffer
	for name, body := range map[string]string{
		"old.seg": "never changes", "tip.seg": fmt.Sprintf("at %d", h.copied), fmt.Sprintf("new-%d.seg", h.copied): "new",
	} {
		h.files["/db/.snapfw/x/data/"+name] = []byte(body)
		json.NewEncoder(&list).Encode(core.Entry{Name: name, Size: int64(len(body)), Sums: map[string]string{"sha256": manifest.SHA256([]byte(body))}})
	}
	h.files["/db/.snapfw/x/entries.jsonl"] = list.Bytes()
}

// copyBucket is a bucket that copies inside itself.
type copyBucket struct{ bucket }

func (b copyBucket) Copy(_ context.Context, _ core.Target, moves []core.Move) iter.Seq2[core.Move, error] {
	return func(yield func(core.Move, error) bool) {
		for _, m := range moves {
			var wrong error
			err := b.touch(func() {
				body, ok := b.w.bucket[m.From]
				switch {
				case !ok:
					wrong = fmt.Errorf("%s: %w", m.From, fs.ErrNotExist)
				case m.Size != 0 && m.Size != int64(len(body)): // as our sinks do
					wrong = fmt.Errorf("%s has %d bytes instead of %d", m.From, len(body), m.Size)
				default:
					b.w.bucket[m.To] = body
				}
			})
			err = errors.Join(err, wrong)
			if !yield(m, err) || err != nil {
				return
			}
		}
	}
}

// desk is the review that a world has; it outlives processes.
type desk struct {
	head, open []byte
	run        string
	merges     bool // at the first look
	state      string
	withdrawn  []string
}

type deskOf struct{ *process }

func (d deskOf) Published(context.Context) (body []byte, err error) {
	terr := d.touch(func() {
		if body = d.w.desk.head; body == nil {
			err = fs.ErrNotExist
		}
	})
	return body, errors.Join(terr, err)
}

func (d deskOf) Propose(_ context.Context, p review.Proposal) (review.Opened, error) {
	err := d.touch(func() { d.w.desk.open, d.w.desk.run, d.w.desk.state = p.Body, p.Run, "open" })
	return review.Opened{Kind: "desk", URL: "https://desk.example/" + p.Run}, err
}

func (d deskOf) Look(context.Context, review.Opened) (a review.Answer, err error) {
	err = d.touch(func() {
		if d.w.desk.merges && d.w.desk.state == "open" {
			d.w.desk.merge()
		}
		a = review.Answer{State: d.w.desk.state, By: "somebody"}
		switch a.State {
		case "merged":
			a.Body = d.w.desk.head
		case "rejected":
			a.By, a.Why = "", "its branch was deleted"
		}
	})
	return a, err
}

func (d deskOf) Withdraw(_ context.Context, _ review.Opened, why string) error {
	return d.touch(func() { d.w.desk.withdrawn = append(d.w.desk.withdrawn, why) })
}

func (d *desk) merge() { d.head, d.state = d.open, "merged" }

func (p *process) listDeps(unsafe string) Deps {
	d := p.deps()
	d.Chain = listChain{scriptedChain{p: p}, unsafe}
	d.Sink.Sink = copyBucket{bucket{p}}
	d.Review = deskOf{p}
	d.Settings.Grace = time.Hour
	return d
}

// release is what the command line does.
func (p *process) release(d Deps, in core.Intent) (Outcome, error) {
	defer p.cancel()
	out, err := CarryOn(p.ctx, d, "chain")
	if err != nil || !out.Closed && (out.Exit != ExitParked || !p.supersedes) {
		return out, err
	}
	p.w.mu.Lock()
	p.w.now = p.w.now.Add(time.Minute)
	id := p.w.now.Format("chain-20060102-150405-") + fmt.Sprintf("r%03d", len(p.w.disk)+1)
	p.w.mu.Unlock()
	in.Name = "release"
	r, err := New(d, id, Begun{Chain: "chain", Publish: true, Intent: in})
	if err != nil {
		return Outcome{}, err
	}
	return r.Go(p.ctx), nil
}

// listed checks what consumers can read: every named key is there, and holds what the list says or, while
// a reviewed change is carried out, what the reviewed one says.
func (w *world) listed() error {
	if err := w.safe(); err != nil {
		return err
	}
	now, err := readList(w.bucket[listKey])
	if err != nil {
		return err
	}
	reviewed := map[string]string{}
	if w.desk != nil {
		head, _ := readList(w.desk.head)
		for _, e := range head {
			reviewed[e.Name] = e.Sums["sha256"]
		}
	}
	for _, e := range now {
		body, ok := w.bucket[e.Name]
		sum := manifest.SHA256(body)
		if !ok || sum != e.Sums["sha256"] && sum != reviewed[e.Name] {
			return fmt.Errorf("%s is named and holds %q (there: %v)", e.Name, body, ok)
		}
	}
	return nil
}

// releaseLives releases with deaths at the given points, then without, and once more.
func releaseLives(t *testing.T, guards bool, kills ...int) (died int) {
	t.Helper()
	w := newWorld("node0")
	w.desk = &desk{merges: true}
	for i, k := range append(kills, 0, 0) {
		p := w.process(k)
		out, err := p.release(p.listDeps(""), core.Intent{})
		w.mu.Lock()
		if p.dead {
			died++
		}
		if lerr := w.listed(); lerr != nil {
			t.Fatalf("guards %v, deaths %v: after life %d: %v", guards, kills, i, lerr)
		}
		if guards {
			w.fireGuards()
		}
		w.mu.Unlock()
		if k != 0 {
			continue
		}
		if err != nil || out.Exit != ExitDone {
			t.Fatalf("guards %v, deaths %v: life %d ended %+v, %v", guards, kills, i, out, err)
		}
	}
	if err := w.released(); err != nil {
		t.Fatalf("guards %v, deaths %v: %v", guards, kills, err)
	}
	return died
}

// released checks what has to hold after releases that went well.
func (w *world) released() error {
	if !bytes.Equal(w.bucket[listKey], w.desk.head) {
		return errors.New("what is published is not what was merged")
	}
	for key := range w.bucket {
		if strings.HasPrefix(key, stageRoot) {
			return fmt.Errorf("%s is left in the stage", key)
		}
	}
	h := w.hosts["node0"]
	if !h.up || h.copied != 0 || len(h.locks) > 0 || len(h.jobs) > 0 {
		return fmt.Errorf("up %v, copy of %d, locks %v, %d jobs", h.up, h.copied, h.locks, len(h.jobs))
	}
	return w.listed()
}

func TestReleaseDeaths(t *testing.T) {
	points := 0
	for k := 1; releaseLives(t, k%2 == 0, k) > 0; k++ {
		points++
	}
	samples := 300
	if chaos() {
		samples = 5000
	}
	random, twice := rand.New(rand.NewPCG(20261121, 1)), 0
	for range samples {
		if releaseLives(t, random.IntN(2) == 0, 1+random.IntN(points), 1+random.IntN(points)) == 2 {
			twice++
		}
	}
	t.Logf("release: one death at %d points, %d of %d samples died twice", points, twice, samples)
	if points < 80 || twice < samples/10 {
		t.Errorf("%d points, %d died twice: does a process still die?", points, twice)
	}
}

func TestReleaseParksAndIsCarriedOn(t *testing.T) {
	w := newWorld("node0")
	w.desk = &desk{}
	p := w.process(0)
	out, err := p.release(p.listDeps(""), core.Intent{})
	if err != nil {
		t.Fatal(err)
	}
	wantExit(t, out, ExitParked, "desk.example")
	h := w.hosts["node0"]
	if !h.up || h.copied != 0 || len(h.locks) > 0 || w.bucket[listKey] != nil {
		t.Fatalf("parked: up %v, copy %d, locks %v, list %q", h.up, h.copied, h.locks, w.bucket[listKey])
	}
	if !slices.ContainsFunc(p.news, func(n News) bool { return n.Kind == NewsParked && n.Report != "" }) {
		t.Errorf("nobody was told: %+v", p.news)
	}
	p = w.process(0)
	if out, err = p.release(p.listDeps(""), core.Intent{}); err != nil || out.Exit != ExitParked || h.stops != 1 {
		t.Fatalf("not merged yet: %+v, %v, %d stops", out, err, h.stops)
	}
	w.desk.merge()
	p = w.process(0)
	d := p.listDeps("")
	out, err = CarryOn(p.ctx, d, "chain")
	if err != nil || out.Exit != ExitDone || !out.Closed {
		t.Fatalf("merged: %+v, %v", out, err)
	}
	if err := w.released(); err != nil {
		t.Error(err)
	}
}

func TestReleaseThatIsRejectedPublishesNothing(t *testing.T) {
	w := newWorld("node0")
	w.desk = &desk{merges: true}
	release := func() (Outcome, *process) {
		p := w.process(0)
		out, err := p.release(p.listDeps(""), core.Intent{})
		if err != nil {
			t.Fatal(err)
		}
		return out, p
	}
	if out, _ := release(); out.Exit != ExitDone {
		t.Fatal(out)
	}
	before := maps.Clone(w.bucket)
	w.desk.merges = false
	if out, _ := release(); out.Exit != ExitParked {
		t.Fatal(out)
	}
	w.desk.state = "rejected"
	p := w.process(0)
	r, err := Resume(p.listDeps(""), w.desk.run)
	if err != nil {
		t.Fatal(err)
	}
	out := r.Go(p.ctx)
	if out.Exit != ExitRefused || !strings.Contains(fmt.Sprint(out.Err), "rejected, so nothing is published: its branch was deleted") || !out.Closed {
		t.Fatalf("%+v", out)
	}
	for key, body := range before {
		if !bytes.Equal(w.bucket[key], body) && key != "chain.objects.json" {
			t.Errorf("%s was changed", key)
		}
	}
	for key := range w.bucket {
		if strings.HasPrefix(key, stageRoot) {
			t.Errorf("%s is left", key)
		}
	}
}

func TestReleaseThatTheJudgeRefuses(t *testing.T) {
	w := newWorld("node0")
	w.desk = &desk{merges: true}
	p := w.process(0)
	out, err := p.release(p.listDeps("tip.seg"), core.Intent{})
	if err != nil {
		t.Fatal(err)
	}
	wantExit(t, out, ExitRefused, "tip.seg")
	if len(w.bucket) != 0 || !w.hosts["node0"].up || w.desk.run != "" {
		t.Errorf("refused, and: bucket %v, up %v, proposed by %q", slices.Collect(maps.Keys(w.bucket)), w.hosts["node0"].up, w.desk.run)
	}
	if !slices.ContainsFunc(p.news, func(n News) bool { return n.Kind == NewsRefused && n.Report != "" }) {
		t.Errorf("nobody was told why: %+v", p.news)
	}
	p = w.process(0)
	out, err = p.release(p.listDeps("tip.seg"), core.Intent{Force: true, Reason: "receipts were regenerated"})
	if err != nil || out.Exit != ExitDone {
		t.Fatalf("forced: %+v, %v", out, err)
	}
}

// What was forced and reviewed is not forced over what somebody else published since.
func TestForceIsForWhatWasReviewed(t *testing.T) {
	w := newWorld("node0")
	w.desk = &desk{merges: true}
	p := w.process(0)
	if out, err := p.release(p.listDeps(""), core.Intent{}); err != nil || out.Exit != ExitDone {
		t.Fatalf("%+v, %v", out, err)
	}
	w.desk.merges = false
	p = w.process(0)
	if out, err := p.release(p.listDeps("tip.seg"), core.Intent{Force: true, Reason: "why"}); err != nil || out.Exit != ExitParked {
		t.Fatalf("%+v, %v", out, err)
	}
	w.bucket[listKey] = append(w.bucket[listKey], "old2.seg "+manifest.SHA256([]byte("x"))+"\n"...)
	w.bucket["old2.seg"] = []byte("x")
	theirs := bytes.Clone(w.bucket[listKey])
	w.desk.merge()
	p = w.process(0)
	r, err := Resume(p.listDeps("tip.seg"), w.desk.run)
	if err != nil {
		t.Fatal(err)
	}
	wantExit(t, r.Go(p.ctx), ExitRefused, "not safe")
	if !bytes.Equal(w.bucket[listKey], theirs) {
		t.Error("it was overwritten")
	}
}

// A bucket that fails for long is no reason to throw away what took hours: the run stays open.
func TestReleaseIsCarriedOnAfterTroubles(t *testing.T) {
	w := newWorld("node0")
	w.desk = &desk{merges: true}
	w.refuse = func(key string) error {
		if strings.HasSuffix(key, ".seg") {
			return errors.New("503")
		}
		return nil
	}
	p := w.process(0)
	out, err := p.release(p.listDeps(""), core.Intent{})
	if err != nil {
		t.Fatal(err)
	}
	wantExit(t, out, ExitFailed, "snapfw resume")
	h := w.hosts["node0"]
	if out.Closed || !h.up || h.copied == 0 {
		t.Fatalf("closed %v, up %v, copy %d", out.Closed, h.up, h.copied)
	}
	w.refuse = nil
	p = w.process(0)
	out, err = CarryOn(p.ctx, p.listDeps(""), "chain")
	if err != nil || out.Exit != ExitDone || h.stops != 1 {
		t.Fatalf("%+v, %v, %d stops", out, err, h.stops)
	}
	if err := w.released(); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNotNamedGoesAfterTheGracePeriod(t *testing.T) {
	w := newWorld("node0")
	w.desk = &desk{merges: true}
	release := func() {
		t.Helper()
		p := w.process(0)
		if out, err := p.release(p.listDeps(""), core.Intent{}); err != nil || out.Exit != ExitDone {
			t.Fatalf("%+v, %v", out, err)
		}
	}
	names := func() (some []string) {
		for key := range w.bucket {
			if strings.HasPrefix(key, "new-") {
				some = append(some, key)
			}
		}
		return some
	}
	release()
	release()
	if len(names()) != 2 {
		t.Fatalf("%v: what the last list named has to stay", names())
	}
	w.now = w.now.Add(2 * time.Hour)
	release()
	if len(names()) != 2 {
		t.Errorf("%v: the first is gone, the second was named a moment ago", names())
	}
	if w.bucket["old.seg"] == nil {
		t.Error("what is named is gone")
	}
}

// A run that can't get on is tried again and again by a schedule: people are told once a reason, with the judge's report.
func TestAStuckRunIsToldOnceAReason(t *testing.T) {
	w := newWorld("node0")
	w.desk = &desk{merges: true}
	tries := 0
	why := "503 of request %d at 10:11:%02d, id 7F3A%012d"
	w.refuse = func(key string) error {
		if key != listKey {
			return nil
		}
		tries++
		return fmt.Errorf(why, tries, tries, tries)
	}
	p := w.process(0)
	out, err := p.release(p.listDeps(""), core.Intent{})
	if err != nil || out.Exit != ExitFailed || out.Closed {
		t.Fatalf("%+v, %v", out, err)
	}
	if len(p.news) != 1 || p.news[0].Kind != NewsFailed || p.news[0].Report == "" {
		t.Fatalf("told %+v", p.news)
	}
	again := func() []News {
		t.Helper()
		p := w.process(0)
		if out, err := CarryOn(p.ctx, p.listDeps(""), "chain"); err != nil || out.Exit != ExitFailed || out.Closed {
			t.Fatalf("%+v, %v", out, err)
		}
		return p.news
	}
	for range 2 {
		if news := again(); len(news) > 0 {
			t.Errorf("told again %+v", news)
		}
	}
	why = "403 Forbidden %d %d %d"
	if news := again(); len(news) != 1 {
		t.Errorf("another reason, and told %+v", news)
	}
}
