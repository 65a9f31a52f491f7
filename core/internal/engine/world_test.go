package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/internal/journal"
	"github.com/snapfw/snapfw/core/internal/manifest"
	"github.com/snapfw/snapfw/core/onhost"
)

// world is everything that outlives a process of snapfw: the journals' disk, the hosts with
// their nodes, jobs and guards, and the bucket. It is scripted, so that a process can die at
// every single point at which it touches any of them.
type world struct {
	mu       sync.Mutex
	now      time.Time
	disk     map[string][]byte
	hosts    map[string]*scriptedHost
	bucket   map[string][]byte
	stored   map[string]time.Time // when an object was stored; where that is not said: now
	broken   []string             // rules that were broken, whoever noticed
	chain    string               // who holds the chain's lock
	refuse   func(key string) error
	stopExit map[string][]int  // exit codes of the next stops, by node
	failures map[string]int    // how often a verb still fails, by "node verb"
	refusals map[string]string // what a verb that refuses says, by "node verb"
	desk     *desk             // of a chain with a list
}

type scriptedHost struct {
	node    string
	up      bool
	height  uint64
	stops   int
	jobs    map[string]onhost.Result
	guards  map[string]*onhost.GuardState
	undo    map[string][]onhost.Job
	files   map[string][]byte
	locks   map[string]string
	copied  uint64 // height of the whole copy; 0 is none
	ended   []string
	secrets map[string]string
}

func newWorld(nodes ...string) *world {
	w := &world{
		now: time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC), disk: map[string][]byte{}, hosts: map[string]*scriptedHost{},
		bucket: map[string][]byte{}, stopExit: map[string][]int{}, failures: map[string]int{}, refusals: map[string]string{},
	}
	for _, n := range nodes {
		w.hosts[n] = &scriptedHost{
			node: n, up: true, height: 100, jobs: map[string]onhost.Result{}, guards: map[string]*onhost.GuardState{},
			undo: map[string][]onhost.Job{}, files: map[string][]byte{}, locks: map[string]string{},
		}
	}
	return w
}

func (w *world) broke(format string, args ...any) {
	w.broken = append(w.broken, fmt.Sprintf(format, args...))
}

// fireGuards is what happens on the hosts when nobody renews for long enough.
func (w *world) fireGuards() {
	for _, h := range w.hosts {
		for key, g := range h.guards {
			switch g.State {
			case onhost.Armed:
				g.State = onhost.Fired
			case onhost.Copied:
				g.State = onhost.Returned
			default:
				continue
			}
			for _, job := range h.undo[key] {
				h.verb(w, job)
			}
			g.Paid = true
		}
	}
}

// safe checks what has to hold at any moment: a node is up or a guard will start it, and
// what consumers can read is a whole snapshot.
func (w *world) safe() error {
	var errs []error
	for name, h := range w.hosts {
		guarded := false
		for _, g := range h.guards {
			guarded = guarded || g.State == onhost.Armed || g.State == onhost.Copied
		}
		if !h.up && !guarded {
			errs = append(errs, fmt.Errorf("%s is down and no guard is armed", name))
		}
	}
	for key, body := range w.bucket {
		if path.Base(key) == "latest.json" {
			errs = append(errs, w.whole(key, body))
		}
	}
	for _, b := range w.broken {
		errs = append(errs, errors.New(b))
	}
	return errors.Join(errs...)
}

func (w *world) whole(key string, body []byte) error {
	p, err := manifest.ParsePointer(body)
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	for _, s := range append([]manifest.Snapshot{p.Snapshot}, p.Previous...) {
		mf := w.bucket[s.Manifest]
		if manifest.SHA256(mf) != s.SHA256 {
			return fmt.Errorf("%s names manifest %s, which is not there or another", key, s.Manifest)
		}
		m, err := manifest.Parse(mf)
		if err != nil {
			return fmt.Errorf("%s: %w", s.Manifest, err)
		}
		for _, e := range m.Entries {
			body, ok := w.bucket[s.Prefix+"/"+e.Name]
			if !ok || int64(len(body)) != e.Size || manifest.SHA256(body) != e.Sums["sha256"] {
				return fmt.Errorf("%s/%s is named and not there, or not as it is named", s.Prefix, e.Name)
			}
		}
		if string(w.bucket[s.Prefix+"/CURRENT"]) != fmt.Sprintf("at %d", m.Height) {
			return fmt.Errorf("%s holds %q, its manifest says height %d", s.Prefix, w.bucket[s.Prefix+"/CURRENT"], m.Height)
		}
	}
	return nil
}

// verb is what the scripted programs do on a host.
func (h *scriptedHost) verb(w *world, job onhost.Job) onhost.Result {
	res := onhost.Result{ID: job.ID, Started: w.now, Ended: w.now}
	verb := job.Argv[0]
	if n := w.failures[h.node+" "+verb]; n > 0 {
		w.failures[h.node+" "+verb] = n - 1
		res.Exit, res.Stderr = 1, "scripted failure of "+verb
		return res
	}
	if words := w.refusals[h.node+" "+verb]; words != "" {
		res.Exit, res.Stderr = core.ExitRefused, words
		return res
	}
	switch verb {
	case "stop":
		h.up = false
		h.stops++
		if codes := w.stopExit[h.node]; len(codes) > 0 {
			res.Exit, w.stopExit[h.node] = codes[0], codes[1:]
		}
	case "start":
		h.up = true
		h.height++
	case "take":
		if h.up {
			w.broke("%s was copied while it was up", h.node)
		}
		h.copied = h.height
	case "drop":
		h.copied = 0
	case "seal":
		if h.copied == 0 {
			res.Exit, res.Stderr = 1, "there is no copy"
			break
		}
		cur, table := fmt.Sprintf("at %d", h.copied), "a table that never changes"
		var list bytes.Buffer
		for name, body := range map[string]string{"CURRENT": cur, "000001.ldb": table, "000002.ldb": table + cur} {
			h.files["/db/.snapfw/x/data/"+name] = []byte(body)
			e := core.Entry{Name: name, Size: int64(len(body)), Sums: map[string]string{"sha256": manifest.SHA256([]byte(body))}}
			json.NewEncoder(&list).Encode(e)
		}
		h.files["/db/.snapfw/x/entries.jsonl"] = list.Bytes()
	case "seal list":
		h.sealList()
	case "prove":
	case "height":
		res.Stdout = fmt.Sprintln(h.copied)
	case "upload":
		h.upload(w, job, &res)
	default:
		res.Exit, res.Stderr = 1, "no such program: "+verb
	}
	return res
}

func (h *scriptedHost) upload(w *world, job onhost.Job, res *onhost.Result) {
	dir, list, prefix, previous := job.Argv[1], job.Argv[2], job.Argv[3], job.Argv[4]
	for line := range strings.Lines(string(h.files[list])) {
		var u core.Upload
		if err := json.Unmarshal([]byte(line), &u); err != nil {
			res.Exit, res.Stderr = 1, err.Error()
			return
		}
		key := path.Join(prefix, u.Name)
		if u.Replace {
			key = path.Join(job.Argv[5], key)
		}
		if w.refuse != nil && w.refuse(key) != nil {
			res.Exit, res.Stderr = 1, w.refuse(key).Error()
			return
		}
		if u.Previous {
			w.bucket[key] = w.bucket[previous+"/"+u.Name]
			continue
		}
		w.bucket[key] = h.files[dir+"/"+u.Name]
	}
}

// process is one life of snapfw in a world. It dies before or after its killAt-th touch, and
// whatever it still tries then has no effect.
type process struct {
	w      *world
	killAt int // 0: never
	points int
	dead   bool
	cancel context.CancelFunc
	ctx    context.Context
	news   []News

	supersedes bool // its release goes on beside one that is parked, as the command line's does
}

var errDead = errors.New("this process is dead")

func (w *world) process(killAt int) *process {
	p := &process{w: w, killAt: killAt}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// touch does something to the world, unless the process is dead by then; two points of
// death lie in it, before and after.
func (p *process) touch(do func()) error {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if p.die() {
		return errDead
	}
	do()
	if p.die() {
		return errDead
	}
	return nil
}

func (p *process) die() bool {
	if p.dead {
		return true
	}
	p.points++
	if p.points == p.killAt {
		p.dead = true
		p.cancel()
	}
	return p.dead
}

func (p *process) Now() time.Time {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.w.now = p.w.now.Add(time.Millisecond)
	return p.w.now
}

// Sleep lets time pass at once; who sleeps for as long as a lease is only woken by the end.
func (p *process) Sleep(ctx context.Context, d time.Duration) error {
	if d >= time.Hour {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	p.w.mu.Lock()
	p.w.now = p.w.now.Add(d)
	p.w.mu.Unlock()
	if p.dead {
		return errDead
	}
	return context.Cause(ctx)
}

// The disk of the journals.

func (p *process) Open(name string, size int64) (journal.File, error) {
	err := p.touch(func() { p.w.disk[name] = p.w.disk[name][:size:size] })
	return memFile{p, name}, err
}

func (p *process) ReadFile(name string) ([]byte, error) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	body, ok := p.w.disk[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return slices.Clone(body), nil
}

func (p *process) Names() ([]string, error) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	return slices.Collect(maps.Keys(p.w.disk)), nil
}

type memFile struct {
	p    *process
	name string
}

// Append dies with half a line on the disk at every other point.
func (f memFile) Append(line []byte) error {
	w := f.p.w
	return f.p.touch(func() {
		if f.p.killAt == f.p.points+1 && f.p.killAt%4 == 0 {
			line = line[:len(line)/2]
		}
		w.disk[f.name] = append(w.disk[f.name], line...)
	})
}

func (memFile) Close() error { return nil }

// machine is a scripted host as one process sees it.
type machine struct {
	*process
	h *scriptedHost
}

func (m machine) String() string { return "host of " + m.h.node }

func (m machine) Run(_ context.Context, argv ...string) (out core.Output, err error) {
	err = m.touch(func() {})
	return out, err
}

func (m machine) Job(_ context.Context, job onhost.Job, secret map[string]string, _ func(onhost.Report)) (res onhost.Result, err error) {
	err = m.touch(func() {
		if done, ok := m.h.jobs[job.ID]; ok {
			res = done
			return
		}
		g := m.h.guards[job.Guard]
		if job.Guard != "" && (g == nil || g.State != onhost.Armed) {
			res = onhost.Result{ID: job.ID, Void: true}
		} else if res = m.h.verb(m.w, job); job.Settle && res.Exit == 0 {
			g.State = onhost.Copied
		}
		m.h.jobs[job.ID] = res
	})
	return res, err
}

func (m machine) EndJobs(_ context.Context, prefix string) error {
	return m.touch(func() { m.h.ended = append(m.h.ended, prefix) })
}

func (m machine) Arm(_ context.Context, g onhost.Guard) (st onhost.GuardState, err error) {
	err = m.touch(func() {
		if m.h.guards[g.Key] == nil {
			m.h.guards[g.Key] = &onhost.GuardState{Key: g.Key, State: onhost.Armed}
			m.h.undo[g.Key] = g.Undo
		}
		st = *m.h.guards[g.Key]
	})
	return st, err
}

func (m machine) Renew(ctx context.Context, key string) (onhost.GuardState, error) {
	return m.Guard(ctx, key)
}

func (m machine) Guard(_ context.Context, key string) (st onhost.GuardState, err error) {
	err = m.touch(func() {
		st = onhost.GuardState{Key: key, State: onhost.None}
		if g := m.h.guards[key]; g != nil {
			st = *g
		}
	})
	return st, err
}

func (m machine) Disarm(_ context.Context, key string) (st onhost.GuardState, err error) {
	err = m.touch(func() {
		st = onhost.GuardState{Key: key, State: onhost.None}
		g := m.h.guards[key]
		if g == nil {
			return
		}
		if g.State == onhost.Armed || g.State == onhost.Copied {
			if !m.h.up {
				m.w.broke("the guard of %s was disarmed while the node was down", m.h.node)
			}
			g.State = onhost.Disarmed
		}
		st = *g
	})
	return st, err
}

func (m machine) Lock(_ context.Context, name, run string, _ time.Duration) (l onhost.LockState, err error) {
	err = m.touch(func() {
		if holder := m.h.locks[name]; holder != "" && holder != run {
			l = onhost.LockState{Holder: holder}
			return
		}
		m.h.locks[name] = run
		l = onhost.LockState{Taken: true, Holder: run}
	})
	return l, err
}

func (m machine) RenewLock(_ context.Context, name, run string, _ time.Duration) (l onhost.LockState, err error) {
	err = m.touch(func() { l = onhost.LockState{Taken: m.h.locks[name] == run, Holder: m.h.locks[name]} })
	return l, err
}

func (m machine) Unlock(_ context.Context, name, run string) error {
	return m.touch(func() {
		if m.h.locks[name] == run {
			delete(m.h.locks, name)
		}
	})
}

func (m machine) Open(_ context.Context, _, name string) (r io.ReadCloser, err error) {
	terr := m.touch(func() {
		body, ok := m.h.files[name]
		if !ok {
			err = fs.ErrNotExist
			return
		}
		r = io.NopCloser(bytes.NewReader(body))
	})
	return r, errors.Join(terr, err)
}

func (m machine) Write(_ context.Context, _, name string, r io.Reader) error {
	body, _ := io.ReadAll(r)
	return m.touch(func() { m.h.files[name] = body })
}

func (m machine) Forget(_ context.Context, run string) error {
	return m.touch(func() {
		maps.DeleteFunc(m.h.jobs, func(id string, _ onhost.Result) bool { return strings.HasPrefix(id, run+"/") })
	})
}

// bucket is the scripted storage as one process sees it.
type bucket struct{ *process }

func (b bucket) Describe(context.Context) (core.Description, error) { return core.Description{}, nil }

func (b bucket) Upload(_ context.Context, _ core.Target, r core.UploadRequest) (c core.Command, err error) {
	err = b.touch(func() {})
	return core.Command{Argv: []string{"upload", r.Dir, r.List, r.Prefix, r.Previous, r.Stage}}, err
}

func (b bucket) Put(_ context.Context, _ core.Target, key string, body []byte, _ core.Condition) (o core.Object, err error) {
	terr := b.touch(func() {
		if b.w.refuse != nil {
			if err = b.w.refuse(key); err != nil {
				return
			}
		}
		b.w.bucket[key] = slices.Clone(body)
	})
	return o, errors.Join(terr, err)
}

func (b bucket) Get(_ context.Context, _ core.Target, key string) (body []byte, o core.Object, err error) {
	terr := b.touch(func() {
		var ok bool
		if body, ok = b.w.bucket[key]; !ok {
			err = fs.ErrNotExist
		}
	})
	return body, o, errors.Join(terr, err)
}

func (b bucket) List(_ context.Context, _ core.Target, prefix string) iter.Seq2[core.Object, error] {
	return func(yield func(core.Object, error) bool) {
		var some []core.Object
		err := b.touch(func() {
			for key, body := range b.w.bucket {
				if strings.HasPrefix(key, prefix) {
					at, said := b.w.stored[key]
					if !said {
						at = b.w.now
					}
					some = append(some, core.Object{Key: key, Size: int64(len(body)), ETag: manifest.SHA256(body), Modified: at})
				}
			}
		})
		if err != nil {
			yield(core.Object{}, err)
			return
		}
		for _, o := range some {
			if !yield(o, nil) {
				return
			}
		}
	}
}

func (b bucket) Delete(_ context.Context, _ core.Target, keys ...string) error {
	return b.touch(func() {
		for _, k := range keys {
			delete(b.w.bucket, k)
		}
	})
}

// scriptedChain is the driver.
type scriptedChain struct {
	core.Chain
	p *process
}

func (c scriptedChain) Nodes(context.Context, json.RawMessage) ([]core.Node, error) {
	var nodes []core.Node
	for i, name := range slices.Sorted(maps.Keys(c.p.w.hosts)) {
		nodes = append(nodes, core.Node{Name: name, Wave: min(i, 1), Addr: core.Addr{Host: name}})
	}
	return nodes, nil
}

func (c scriptedChain) Status(ctx context.Context, n core.Node, h core.Host) (s core.Status, err error) {
	_, err = h.Run(ctx, "status")
	c.p.w.mu.Lock()
	defer c.p.w.mu.Unlock()
	host := c.p.w.hosts[n.Name]
	if host.up {
		host.height++
	}
	return core.Status{Up: host.up, Height: host.height, Version: "v1"}, err
}

func (c scriptedChain) Plan(_ context.Context, n core.Node, _ core.Host, _ core.Intent) (core.Plan, error) {
	do := func(argv ...string) core.Command { return core.Command{Argv: argv} }
	undo := func(argv ...string) *core.Command { c := do(argv...); return &c }
	return core.Plan{
		Freeze:  []core.Step{{Name: "stop", Do: do("stop"), Undo: undo("start")}},
		Capture: []core.Step{{Name: "take", Do: do("take"), Undo: undo("drop")}},
		Seal:    []core.Step{{Name: "seal", Do: do("seal")}, {Name: "height", Do: do("height"), Keep: "height"}},
		Data:    "/db/.snapfw/x/data",
		Publish: core.Layout{Prefix: "full/" + n.Name + "/db.{height}", Pointer: "full/" + n.Name + "/latest.json"},
		Settle:  time.Minute,
	}, nil
}

func (p *process) deps() Deps {
	return Deps{
		Chain: scriptedChain{p: p}, Driver: "scripted",
		Sink: &Sink{Sink: bucket{p}, Name: "bucket", Plugin: "scripted", Secret: func(context.Context, string) (string, error) { return "", nil }},
		Machine: func(_ context.Context, a core.Addr, _ string) (Machine, error) {
			return machine{p, p.w.hosts[a.Host]}, nil
		},
		Journals: p, Clock: p,
		LockChain: func(_ context.Context, chain, run string) (func(), error) {
			return func() {}, nil // the kernel frees a dead process's lock
		},
		Held: func(string, string) (time.Time, bool) { return time.Time{}, false },
		Tell: func(_ context.Context, n News) {
			p.w.mu.Lock()
			defer p.w.mu.Unlock()
			p.news = append(p.news, n)
		},
		Settings: Settings{
			Publish: true, MaxDown: 24 * time.Hour, Lease: 12 * time.Hour, UndoTries: time.Minute, UploadTries: 3,
			Keep: manifest.Policy{Count: 2},
		},
	}
}

// snapshot is what the command line does: carry on what is open, then a new run.
func (p *process) snapshot() (Outcome, error) {
	defer p.cancel()
	d := p.deps()
	if out, err := CarryOn(p.ctx, d, "chain"); err != nil || !out.Closed {
		return out, err
	}
	p.w.mu.Lock()
	id := fmt.Sprintf("run%04d", len(p.w.disk)+1)
	p.w.mu.Unlock()
	r, err := New(d, id, Begun{Chain: "chain", Publish: true, Intent: core.Intent{Name: "snapshot"}})
	if err != nil {
		return Outcome{}, err
	}
	return r.Go(p.ctx), nil
}

// lives runs snapshots that die at the given points, then one that does not, and checks the
// world after each. guards tells whether the guards' time comes between two lives.
func lives(t *testing.T, nodes int, guards bool, kills ...int) (died int) {
	t.Helper()
	names := []string{"node0", "node1", "node2"}[:nodes]
	w := newWorld(names...)
	for i, k := range append(kills, 0) {
		p := w.process(k)
		out, err := p.snapshot()
		w.mu.Lock()
		if p.dead {
			died++
		}
		if serr := w.safe(); serr != nil {
			t.Fatalf("nodes %d, guards %v, deaths %v: after life %d: %v", nodes, guards, kills, i, serr)
		}
		if guards {
			w.fireGuards()
			if serr := w.safe(); serr != nil {
				t.Fatalf("nodes %d, deaths %v: after the guards of life %d: %v", nodes, kills, i, serr)
			}
		}
		w.mu.Unlock()
		if k != 0 {
			continue
		}
		if err != nil || out.Exit != ExitDone {
			t.Fatalf("nodes %d, guards %v, deaths %v: the last life ended %+v, %v", nodes, guards, kills, out, err)
		}
		if err := errors.Join(w.clean(), w.published()); err != nil {
			t.Fatalf("nodes %d, guards %v, deaths %v: %v", nodes, guards, kills, err)
		}
	}
	return died
}

// published checks that no finished copy was thrown away: where nothing fails but snapfw itself, what
// was captured is published.
func (w *world) published() error {
	var errs []error
	for name, body := range w.disk {
		facts, _, err := journal.Parse(body)
		if err != nil {
			return err
		}
		s, err := Fold(name, facts)
		if err != nil {
			return err
		}
		for _, n := range s.Nodes {
			if n.Captured && !n.Promoted {
				errs = append(errs, fmt.Errorf("%s: %s was captured and its copy thrown away", name, n.Name))
			}
		}
	}
	return errors.Join(errs...)
}

// clean checks what has to hold after a run that went well.
func (w *world) clean() error {
	var errs []error
	for name, h := range w.hosts {
		if !h.up || h.copied != 0 || len(h.locks) > 0 || len(h.jobs) > 0 {
			errs = append(errs, fmt.Errorf("%s: up %v, copy of %d, locks %v, %d jobs", name, h.up, h.copied, h.locks, len(h.jobs)))
		}
		for key, g := range h.guards {
			if g.State == onhost.Armed || g.State == onhost.Copied {
				errs = append(errs, fmt.Errorf("%s: guard %s is still %s", name, key, g.State))
			}
		}
		if w.bucket["full/"+name+"/latest.json"] == nil {
			errs = append(errs, fmt.Errorf("%s is not published", name))
		}
	}
	if w.bucket["index.json"] == nil || w.bucket["index.html"] == nil {
		errs = append(errs, errors.New("no index"))
	}
	for name, body := range w.disk {
		facts, _, err := journal.Parse(body)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
			continue
		}
		s, err := Fold(strings.TrimSuffix(name, ".jsonl"), facts)
		if err != nil || len(facts) > 0 && s.Closed == nil {
			errs = append(errs, fmt.Errorf("%s is still open (%v)", name, err))
			continue
		}
		for _, n := range s.Nodes {
			if n.Down() || len(n.Debts) > 0 {
				errs = append(errs, fmt.Errorf("%s: %s still owes %v", name, n.Name, n.Debts))
			}
		}
	}
	return errors.Join(errs...)
}
