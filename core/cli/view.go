package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/snapfw/snapfw/core/internal/engine"
	"github.com/snapfw/snapfw/core/internal/manifest"
	"github.com/snapfw/snapfw/core/onhost"
)

// view shows a run as it goes: a live line a node on a terminal, else a log line a move.
type view interface {
	engine.View
	Close() // what comes after it is printed below; it may be called twice
}

func (a *app) newView(log *slog.Logger) view {
	f, isFile := a.err.(*os.File)
	switch {
	case a.quiet:
		return &lines{log: log}
	case a.json():
		return &lines{log: log, json: json.NewEncoder(a.err)}
	case isFile && isatty.IsTerminal(f.Fd()):
		return &live{log: log, bars: mpb.New(mpb.WithOutput(f), mpb.WithRefreshRate(150*time.Millisecond)), nodes: map[string]*lane{}}
	}
	return &lines{log: log, out: slog.New(slog.NewTextHandler(a.err, nil))}
}

// lines is the view where nobody watches: log lines, or JSON lines, on standard error. Progress is
// said every ten seconds.
type lines struct {
	log  *slog.Logger
	out  *slog.Logger
	json *json.Encoder

	mu   sync.Mutex
	said map[string]time.Time
}

func (v *lines) say(node, kind, text string, p *onhost.Progress) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.log.Info(text, "node", node, "kind", kind)
	if v.json != nil {
		v.json.Encode(struct {
			Time time.Time        `json:"time"`
			Node string           `json:"node,omitempty"`
			Kind string           `json:"kind"`
			Text string           `json:"text,omitempty"`
			Prog *onhost.Progress `json:"progress,omitempty"`
		}{time.Now().UTC(), node, kind, text, p})
	}
	if v.out != nil {
		if node == "" {
			v.out.Info(text)
		} else {
			v.out.Info(text, "node", node)
		}
	}
}

func (v *lines) Move(node, move string) {
	v.mu.Lock()
	delete(v.said, node) // the first ten seconds of a move need no progress
	v.mu.Unlock()
	v.say(node, "move", move, nil)
}

func (v *lines) Note(node, text string) { v.say(node, "note", text, nil) }
func (v *lines) Close()                 {}

func (v *lines) Progress(node string, p onhost.Progress) {
	v.mu.Lock()
	if v.said == nil {
		v.said = map[string]time.Time{}
	}
	last, begun := v.said[node]
	due := begun && time.Since(last) > 10*time.Second
	if due || !begun {
		v.said[node] = time.Now()
	}
	v.mu.Unlock()
	if due {
		v.say(node, "progress", amount(p), &p)
	}
}

func amount(p onhost.Progress) string {
	if p.Total <= 0 {
		return manifest.Size(p.Done)
	}
	return fmt.Sprintf("%s of %s", manifest.Size(p.Done), manifest.Size(p.Total))
}

// live is the view on a terminal.
type live struct {
	log  *slog.Logger
	bars *mpb.Progress

	mu     sync.Mutex
	nodes  map[string]*lane
	closed bool
}

// lane is what a node's line shows.
type lane struct {
	bar   *mpb.Bar
	move  string
	since time.Time // when the move began
	p     onhost.Progress
}

func (v *live) lane(node string) *lane {
	l := v.nodes[node]
	if l == nil {
		l = &lane{}
		v.nodes[node] = l
		name := node
		if name == "" {
			name = "run"
		}
		l.bar = v.bars.New(1, mpb.NopStyle(), mpb.BarPriority(len(v.nodes)), mpb.PrependDecorators(
			decor.Name(name, decor.WCSyncSpaceR),
			decor.Any(func(decor.Statistics) string {
				v.mu.Lock()
				defer v.mu.Unlock()
				return l.text(time.Now())
			}),
		))
	}
	return l
}

// text is the move, how far it is, how fast, and how long it will take.
func (l *lane) text(now time.Time) string {
	took := now.Sub(l.since)
	if l.p.Done == 0 || took < time.Second/2 {
		return fmt.Sprintf("%s  %s", l.move, took.Truncate(time.Second))
	}
	rate := float64(l.p.Done) / took.Seconds()
	s := fmt.Sprintf("%s  %s  %s/s", l.move, amount(l.p), manifest.Size(int64(rate)))
	if left := l.p.Total - l.p.Done; left > 0 && rate > 0 {
		s += fmt.Sprintf("  %s left", time.Duration(float64(left)/rate*float64(time.Second)).Round(time.Second))
	}
	return s
}

func (v *live) Move(node, move string) {
	v.log.Info(move, "node", node)
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return
	}
	// The run's own line stands only while no node is in a move.
	if run := v.nodes[""]; run != nil && node != "" {
		run.bar.Abort(true)
		delete(v.nodes, "")
	}
	l := v.lane(node)
	l.move, l.since, l.p = move, time.Now(), onhost.Progress{}
}

func (v *live) Progress(node string, p onhost.Progress) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.closed {
		v.lane(node).p = p
	}
}

// Note prints a line above the live ones.
func (v *live) Note(node, text string) {
	v.log.Info(text, "node", node)
	v.mu.Lock()
	closed := v.closed
	v.mu.Unlock()
	if node != "" {
		text = node + ": " + text
	}
	if closed {
		io.WriteString(os.Stderr, text+"\n")
		return
	}
	io.WriteString(v.bars, text+"\n")
}

func (v *live) Close() {
	v.mu.Lock()
	if v.closed {
		v.mu.Unlock()
		return
	}
	v.closed = true
	var bars []*mpb.Bar
	for _, l := range v.nodes {
		bars = append(bars, l.bar)
	}
	v.mu.Unlock()
	for _, b := range bars {
		b.Abort(true)
	}
	v.bars.Wait()
}
