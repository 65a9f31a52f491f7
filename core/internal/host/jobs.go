package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/snapfw/snapfw/core/onhost"
)

// ask runs a verb of snapfw-host: in, if any, goes to its standard input as JSON, and its answer to
// out, if any.
func (m *Machine) ask(ctx context.Context, in, out any, verb ...string) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("%s: %s: %w", m, verb[0], err)
		}
	}
	answer, err := m.say(ctx, body, verb...)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("%s: read the answer of snapfw-host %s: %w", m, verb[0], err)
	}
	return nil
}

// say runs a verb of snapfw-host and returns what it printed. Every verb can be said twice.
func (m *Machine) say(ctx context.Context, body []byte, verb ...string) ([]byte, error) {
	var stdout capped
	err := m.again(ctx, func() error {
		g, err := m.ground(ctx)
		if err != nil {
			return err
		}
		stdout = capped{limit: maxReport}
		var stderr capped
		exit, err := m.at.exec(ctx, command{argv: append([]string{g.core, "-root", g.root}, verb...), stdin: body, stdout: &stdout, stderr: &stderr})
		switch {
		case err != nil:
			return err
		case exit == 126 || exit == 127: // it is gone: somebody emptied the folder
			m.unsettle()
			return fmt.Errorf("%s: snapfw-host %s: %w: %s", m, verb[0], ErrCut, lastLine(stderr.bytes()))
		case exit != 0:
			return fmt.Errorf("%s: snapfw-host %s: %w", m, verb[0], &exitCode{exit, lastLine(stderr.bytes())})
		}
		return nil
	})
	return stdout.bytes(), err
}

// Facts looks at the machine as the login user sees it.
func (m *Machine) Facts(ctx context.Context) (onhost.Facts, error) {
	var f onhost.Facts
	return f, m.ask(ctx, nil, &f, "facts")
}

// Lock takes a lock for a run, for as long as lease, or says who has it. A run that has it
// already keeps it for lease from now.
func (m *Machine) Lock(ctx context.Context, name, run string, lease time.Duration) (onhost.LockState, error) {
	var s onhost.LockState
	return s, m.ask(ctx, nil, &s, "lock", "take", name, run, lease.String())
}

// RenewLock prolongs a lock that the run has.
func (m *Machine) RenewLock(ctx context.Context, name, run string, lease time.Duration) (onhost.LockState, error) {
	var s onhost.LockState
	return s, m.ask(ctx, nil, &s, "lock", "renew", name, run, lease.String())
}

// Unlock gives a lock back; one that the run has not is left alone.
func (m *Machine) Unlock(ctx context.Context, name, run string) error {
	return m.ask(ctx, nil, nil, "lock", "free", name, run)
}

// Arm places what the guard's undo needs and returns when the guard is really there. Again
// with the same key it renews.
func (m *Machine) Arm(ctx context.Context, self Binary, g onhost.Guard) (onhost.GuardState, error) {
	var s onhost.GuardState
	undo := make([]onhost.Job, len(g.Undo))
	for i, j := range g.Undo {
		if len(j.Secrets) > 0 {
			return s, fmt.Errorf("%s: arm guard %s: its undo %s names secrets, and a guard lies on a disk", m, g.Key, j.ID)
		}
		undo[i] = j
		err := m.again(ctx, func() error {
			at, err := m.ground(ctx)
			if err != nil {
				return err
			}
			undo[i].Argv, err = m.resolveFor(ctx, at, self, j)
			return err
		})
		if err != nil {
			return s, err
		}
	}
	g.Undo = undo
	return s, m.ask(ctx, g, &s, "guard", "arm")
}

// Renew prolongs a guard's lease.
func (m *Machine) Renew(ctx context.Context, key string) (onhost.GuardState, error) {
	var s onhost.GuardState
	return s, m.ask(ctx, nil, &s, "guard", "renew", key)
}

// Disarm ends a guard, and says so if it has acted already. It is right again after that.
func (m *Machine) Disarm(ctx context.Context, key string) (onhost.GuardState, error) {
	var s onhost.GuardState
	return s, m.ask(ctx, nil, &s, "guard", "disarm", key)
}

// Guard looks at a guard; onhost.None if there is none.
func (m *Machine) Guard(ctx context.Context, key string) (onhost.GuardState, error) {
	var s onhost.GuardState
	return s, m.ask(ctx, nil, &s, "guard", "state", key)
}

// EndJobs ends the running jobs of a RUN, or of a RUN/NODE, and waits for that. A job that
// goes on after its grace is an error.
func (m *Machine) EndJobs(ctx context.Context, run string) error {
	answer, err := m.say(ctx, nil, "job", "end", run)
	if err != nil {
		return err
	}
	for d := json.NewDecoder(bytes.NewReader(answer)); ; {
		var r onhost.Result
		if err := d.Decode(&r); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("%s: read the answer of snapfw-host job end: %w", m, err)
		}
		if r.Stuck {
			return fmt.Errorf("%s: job %s was told to end and goes on: look at it there", m, r.ID)
		}
	}
}

// Forget removes what the machine remembers of a run that is over.
func (m *Machine) Forget(ctx context.Context, run string) error {
	return m.ask(ctx, nil, nil, "job", "forget", run)
}

const maxReport = 16 << 20 // one line of "job run": 1 MiB of output, escaped, and more

// Job starts a job, or joins the one of that ID, and waits for its end. A cut connection costs
// nothing but the wait: it connects again, with back-off, and joins. When ctx ends the job goes
// on there. report may be nil; after a cut it may be told things again. The error says that the
// machine could not be asked or refused the job, never how the job ended.
func (m *Machine) Job(ctx context.Context, self Binary, job onhost.Job, secret map[string]string, report func(onhost.Report)) (onhost.Result, error) {
	needed := map[string]string{} // no other secret leaves this process
	for _, name := range job.Secrets {
		v, ok := secret[name]
		if !ok {
			return onhost.Result{}, fmt.Errorf("%s: job %s: there is no secret %s", m, job.ID, name)
		}
		needed[name] = v
	}
	wait := newBackoff()
	for lost := 0; ; {
		began := time.Now()
		res, err := m.follow(ctx, self, job, needed, report)
		if err == nil {
			return res, nil
		}
		if ctx.Err() != nil {
			return onhost.Result{}, context.Cause(ctx)
		}
		if errors.Is(err, errSilent) {
			lost++
		}
		if !passing(err) || lost > 5 {
			return onhost.Result{}, err
		}
		if time.Since(began) > time.Minute {
			wait, lost = newBackoff(), 0
		}
		d := wait.next()
		m.options.Warn(fmt.Sprintf("job %s: %v; joining it again in %v", job.ID, err, d))
		if err := sleep(ctx, d); err != nil {
			return onhost.Result{}, err
		}
	}
}

// errSilent is a snapfw-host that ended before the job did, without a word.
var errSilent = errors.New("snapfw-host ended early")

// backoff doubles from 200 ms to 15 s.
type backoff struct{ d time.Duration }

func newBackoff() *backoff { return &backoff{100 * time.Millisecond} }

func (b *backoff) next() time.Duration {
	b.d = min(b.d*2, 15*time.Second)
	return b.d
}

// follow starts or joins a job over one connection.
func (m *Machine) follow(ctx context.Context, self Binary, job onhost.Job, secret map[string]string, report func(onhost.Report)) (onhost.Result, error) {
	g, err := m.ground(ctx)
	if err != nil {
		return onhost.Result{}, err
	}
	if job.Argv, err = m.resolveFor(ctx, g, self, job); err != nil {
		return onhost.Result{}, err
	}
	body, err := json.Marshal(onhost.Start{Job: job, Secret: secret})
	if err != nil {
		return onhost.Result{}, fmt.Errorf("%s: job %s: %w", m, job.ID, err)
	}
	defer clear(body)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	lines := &reports{tell: report, cancel: cancel}
	var stderr capped
	exit, err := m.at.exec(ctx, command{argv: []string{g.core, "-root", g.root, "job", "run"}, stdin: body, stdout: lines, stderr: &stderr})
	res, bad := lines.end()
	switch {
	case res != nil:
		return *res, nil
	case bad != nil:
		return onhost.Result{}, fmt.Errorf("%s: job %s: read what snapfw-host says: %w", m, job.ID, bad)
	case err != nil:
		return onhost.Result{}, err
	case exit == 0 || exit >= 126:
		m.unsettle()
		return onhost.Result{}, fmt.Errorf("%s: job %s: %w: %w (exit %d) %s", m, job.ID, ErrCut, errSilent, exit, lastLine(stderr.bytes()))
	}
	return onhost.Result{}, fmt.Errorf("%s: job %s: %w", m, job.ID, &exitCode{exit, lastLine(stderr.bytes())})
}

// resolveFor is resolve for a job, and tries once whether its user can run what is placed.
func (m *Machine) resolveFor(ctx context.Context, g *ground, self Binary, job onhost.Job) ([]string, error) {
	words, err := m.resolve(ctx, g, self, job.Argv)
	if err != nil || job.User == "" || job.User == g.user || job.Argv[0][0] != '@' {
		return words, err
	}
	tried := "user " + job.User
	if _, ok := m.remembered(tried); ok {
		return words, nil
	}
	err = m.asUser(ctx, g, job.User, nil, io.Discard, g.core, "-root", g.root, "facts")
	var code *exitCode
	if err != nil && !errors.As(err, &code) {
		return nil, err
	}
	m.remember(tried, "")
	return words, nil
}

// reports reads the lines of "job run" as they come. It accepts nothing after end.
type reports struct {
	tell   func(onhost.Report)
	cancel func(error)

	mu    sync.Mutex
	line  []byte
	done  *onhost.Result
	err   error
	ended bool
}

func (r *reports) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(p)
	for len(p) > 0 && r.err == nil && r.done == nil && !r.ended {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			r.keep(p)
			break
		}
		r.keep(p[:i])
		p = p[i+1:]
		if r.err == nil {
			r.read()
		}
	}
	if r.err != nil {
		r.cancel(r.err)
	}
	return n, nil
}

func (r *reports) keep(p []byte) {
	if len(r.line)+len(p) > maxReport {
		r.err = fmt.Errorf("a line is longer than %d MiB", maxReport>>20)
		return
	}
	r.line = append(r.line, p...)
}

// read takes the line that is whole.
func (r *reports) read() {
	defer func() { r.line = r.line[:0] }()
	if len(bytes.TrimSpace(r.line)) == 0 {
		return
	}
	var rep onhost.Report
	if err := json.Unmarshal(r.line, &rep); err != nil {
		r.err = fmt.Errorf("%q: %w", r.line[:min(len(r.line), 80)], err)
		return
	}
	if r.tell != nil {
		r.tell(rep)
	}
	r.done = rep.Done
}

func (r *reports) end() (*onhost.Result, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	return r.done, r.err
}
