// Package notify tells people what a run came to: PagerDuty pages, chats, mails and webhooks.
// It never fails a run: what could not be told comes back as an error to log.
//
// Secrets stay out of what is sent and out of the errors: only the service of an address is named.
package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/snapfw/snapfw/core/internal/config"
)

// Kinds of events; config.Events says what they mean.
const (
	NodeDown   = "node_down"
	UndoFailed = "undo_failed"
	Failed     = "failed"
	Refused    = "refused"
	Parked     = "parked"
	GuardPaid  = "guard_paid"
	UpAgain    = "up_again"
	Done       = "done"
	test       = "test"
)

// Event is a piece of news. It must hold no secrets.
type Event struct {
	Kind    string
	Chain   string
	Node    string // "" where it is about the whole run
	Run     string // its id
	Err     error  // why, if something went wrong
	Text    string // more for people: what snapfw did, what to do; may have several lines
	Report  string // Markdown: what a judge found; the first 256 KiB count
	Runbook string // address of what to do; "" as configured
	Time    time.Time
}

// Notify sends events to everybody who is configured. It can be used from several goroutines.
type Notify struct {
	on      []string // the kinds of events that are paged
	runbook string
	pager   *pager // nil: nobody is paged
	chats   []*chat
	log     *slog.Logger
}

// Limits of a Send, retries included.
const (
	sendTime    = 2 * time.Minute
	attempts    = 6
	firstPause  = time.Second
	longestWait = 30 * time.Second
)

// New prepares for what is configured. Nothing is connected and no secret is read before
// the first event. log may be nil.
func New(cfg config.Notify, log *slog.Logger) *Notify {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	n := &Notify{on: cfg.On, log: log}
	pause := pauses{first: firstPause, longest: longestWait}
	if cfg.PagerDuty != nil {
		n.runbook = cfg.PagerDuty.Runbook
		if !cfg.PagerDuty.Ignore {
			n.pager = newPager(*cfg.PagerDuty, pause)
		}
	}
	for i, u := range cfg.URLs {
		on := u.On
		if on == nil {
			on = cfg.On
		}
		n.chats = append(n.chats, &chat{label: fmt.Sprintf("notify.urls[%d]", i), url: u.Secret, on: on, pause: pause})
	}
	return n
}

// Empty tells whether nobody is told anything.
func (n *Notify) Empty() bool { return n.pager == nil && len(n.chats) == 0 }

// Send tells everybody who wants this kind of event, side by side, and waits until they are told or it gave up (two
// minutes, or ctx). Its errors are joined; they are for the log and never a reason to fail.
// An incident that an earlier event opened is resolved by up_again and done whether they are asked for or not.
func (n *Notify) Send(ctx context.Context, e Event) error {
	var send []target
	if n.pager != nil && (slices.Contains(n.on, e.Kind) || n.pager.resolves(e)) {
		send = append(send, n.pager)
	}
	for _, c := range n.chats {
		if slices.Contains(c.on, e.Kind) {
			send = append(send, c)
		}
	}
	var all []error
	for _, r := range n.each(ctx, send, e) {
		if r.Err != nil {
			n.log.Warn("somebody was not told", "whom", r.Target, "event", e.Kind, "chain", e.Chain, "node", e.Node, "run", e.Run, "error", r.Err)
			all = append(all, fmt.Errorf("tell %s: %w", r.Target, r.Err))
		}
	}
	return errors.Join(all...)
}

// Result is how one target took a test.
type Result struct {
	Target string // "pagerduty", "notify.urls[0] (discord)"
	Err    error
}

// Test sends one message to each target, whatever events it wants, and says how each took it. The incident that
// it opens at PagerDuty is resolved at once.
func (n *Notify) Test(ctx context.Context) []Result {
	var all []target
	if n.pager != nil {
		all = append(all, n.pager)
	}
	for _, c := range n.chats {
		all = append(all, c)
	}
	return n.each(ctx, all, Event{
		Kind: test, Chain: "test", Run: "test",
		Text: "This is a test of snapfw's notifications. Nothing is wrong.",
	})
}

// target is somebody who is told.
type target interface {
	name(ctx context.Context) string
	send(ctx context.Context, e Event) error
}

func (n *Notify) each(ctx context.Context, targets []target, e Event) []Result {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if e.Runbook == "" {
		e.Runbook = n.runbook
	}
	e.Report = clip(visible(e.Report), maxReport)
	ctx, cancel := context.WithTimeout(ctx, sendTime)
	defer cancel()
	results := make([]Result, len(targets))
	var all sync.WaitGroup
	for i, t := range targets {
		all.Go(func() {
			err := t.send(ctx, e)
			results[i] = Result{t.name(ctx), err}
		})
	}
	all.Wait()
	return results
}

// pauses is a back-off: each pause is twice the one before, up to the longest.
type pauses struct{ first, longest time.Duration }

// retry calls again as long as again says so, at most six times and while ctx lasts. A call that
// knows how long to wait says so.
func (p pauses) retry(ctx context.Context, call func() (again bool, after time.Duration, err error)) error {
	pause := p.first
	for i := 1; ; i++ {
		again, after, err := call()
		if err == nil || !again || i == attempts {
			return err
		}
		timer := time.NewTimer(min(max(pause, after), p.longest))
		select {
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w (gave up after %d attempts)", err, i)
		case <-timer.C:
		}
		pause *= 2
	}
}

// title is the event in one line.
func (e Event) title() string {
	who := e.Chain
	if e.Node != "" {
		who += " " + e.Node
	}
	what := map[string]string{
		NodeDown:   "is DOWN and could not be started",
		UndoFailed: "is being started again, and it failed so far",
		Failed:     "failed; the node is up",
		Refused:    "was refused",
		Parked:     "waits for somebody",
		GuardPaid:  "was started by its own machine",
		UpAgain:    "is up again",
		Done:       "is done",
		test:       "test",
	}[e.Kind]
	if e.Node == "" && e.Kind == Failed {
		what = "failed; every node is up"
	}
	if what == "" {
		what = e.Kind
	}
	title := "snapfw: " + who + " " + what
	if e.Err != nil {
		first, _, _ := strings.Cut(e.Err.Error(), "\n")
		title += ": " + first
	}
	return oneLine(title)
}

// body is the rest, one fact a line.
func (e Event) body() string {
	var b strings.Builder
	if e.Text != "" {
		b.WriteString(strings.TrimSpace(e.Text) + "\n")
	}
	if e.Err != nil && strings.Contains(e.Err.Error(), "\n") {
		b.WriteString(e.Err.Error() + "\n")
	}
	if e.Run != "" {
		b.WriteString("run: " + oneLine(e.Run) + "\n")
	}
	if e.Runbook != "" {
		b.WriteString("what to do: " + oneLine(e.Runbook) + "\n")
	}
	return strings.TrimSpace(b.String())
}

// oneLine takes control characters out of a text.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// cut shortens a text to so many characters.
func cut(s string, limit int) string {
	s = strings.ToValidUTF8(s, "?")
	r := []rune(s)
	if len(r) <= limit {
		return s
	}
	return string(r[:limit-1]) + "…"
}
