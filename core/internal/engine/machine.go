package engine

import (
	"context"
	"io"
	"time"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/onhost"
)

// Machine is a node's machine as the engine uses it, on behalf of one plugin: "@self" in an argv
// is that plugin's binary. Package host has the real ones; the engine's tests have one
// that is scripted and dies at any command.
type Machine interface {
	core.Host

	// Job starts a job or joins the one of that ID, running or done, and waits for its end;
	// a cut connection costs nothing but the wait. When ctx ends the job goes on.
	// The error says that the machine could not be asked, never how the job ended.
	Job(ctx context.Context, job onhost.Job, secret map[string]string, report func(onhost.Report)) (onhost.Result, error)
	// EndJobs ends the running jobs whose ID begins with RUN or RUN/NODE, and returns when they have ended.
	EndJobs(ctx context.Context, prefix string) error

	// Arm returns when the guard is really there; again with the same key it renews.
	Arm(ctx context.Context, g onhost.Guard) (onhost.GuardState, error)
	Renew(ctx context.Context, key string) (onhost.GuardState, error)
	Disarm(ctx context.Context, key string) (onhost.GuardState, error)
	Guard(ctx context.Context, key string) (onhost.GuardState, error)

	// Lock takes a lock with a lease, or says who has it; the same run takes it again.
	Lock(ctx context.Context, name, run string, lease time.Duration) (onhost.LockState, error)
	// RenewLock prolongs a lock that the run has; it does not take one that was given back.
	RenewLock(ctx context.Context, name, run string, lease time.Duration) (onhost.LockState, error)
	Unlock(ctx context.Context, name, run string) error

	Open(ctx context.Context, user, path string) (io.ReadCloser, error)
	Write(ctx context.Context, user, path string, r io.Reader) error

	// Forget removes what the host remembers of a run.
	Forget(ctx context.Context, run string) error
	String() string // for people: "ubuntu@10.0.0.1"
}

// Sink is a configured storage.
type Sink struct {
	core.Sink
	Name   string // in the configuration
	Plugin string // whose "@self" an upload command means
	Target core.Target
	// Secret returns what "secret:NAME" stands for in an upload command.
	Secret func(ctx context.Context, name string) (string, error)
}

// Clock is time; the engine's tests have their own.
type Clock interface {
	Now() time.Time
	Sleep(ctx context.Context, d time.Duration) error // ctx's error if it ends first
}

type wallClock struct{}

func (wallClock) Now() time.Time { return time.Now() }

func (wallClock) Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// News is something that somebody may want to be told while a run goes on.
type News struct {
	Kind string // NewsDown, NewsUp, …
	Run  string
	Node string // "" is the run itself
	Text string

	Report string // Markdown: the judge's, where it is about a list
}

// Kinds of News.
const (
	NewsDown       = "node_down"   // a node is down and snapfw could not start it
	NewsUp         = "up_again"    // a node that was reported is up
	NewsUndoFailed = "undo_failed" // the first attempt to start it failed; it is tried again
	NewsGuardPaid  = "guard_paid"  // the guard on the host started it
	NewsUnwell     = "unwell"      // it is up and does not move on
	NewsFailed     = "failed"
	NewsRefused    = "refused"
	NewsParked     = "parked" // it waits for a review
	NewsDone       = "done"
)

type unseen struct{}

func (unseen) Move(string, string)              {}
func (unseen) Progress(string, onhost.Progress) {}
func (unseen) Note(string, string)              {}

// View is shown what happens as it happens. It must not block.
type View interface {
	// Move says that a node ("" the run) is in a move: "take the copy".
	Move(node, move string)
	// Progress of the move that the node is in, in bytes or files.
	Progress(node string, p onhost.Progress)
	// Note is a line for people: a retry, a check that was bypassed.
	Note(node, text string)
}
