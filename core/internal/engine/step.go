package engine

import (
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/onhost"
)

// Phases of a plan.
const (
	phasePrepare = "prepare"
	phaseFreeze  = "freeze"
	phaseCapture = "capture"
	phaseSeal    = "seal"
	phaseProve   = "prove"
	phaseUndo    = "undo"
	phaseUpload  = "upload"
)

// errAgain: a verb said core.ExitAgain.
var errAgain = errors.New("put back, to look again")

// RefusedError is a "no" of a check, a verb or a condition: nothing broke.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return e.Reason }

// LockedError says who works on a chain or a node.
type LockedError struct {
	What   string // "chain mychain", "shard0 on ubuntu@10.0.0.1"
	Holder string // a run
	Until  time.Time
}

func (e *LockedError) Error() string {
	s := fmt.Sprintf("%s is locked by run %s", e.What, e.Holder)
	if !e.Until.IsZero() {
		s += fmt.Sprintf(" until %s unless it is renewed", e.Until.UTC().Format(time.RFC3339))
	}
	return s + "; see `snapfw runs`"
}

// unreachable: a host could not be asked. What was captured there is still good.
type unreachable struct{ error }

func (e unreachable) Unwrap() error { return e.error }

func (r *Run) machine(ctx context.Context, n *Node) (Machine, error) {
	m, err := r.Machine(ctx, n.Addr, r.Driver)
	if err != nil {
		return nil, unreachable{fmt.Errorf("reach the machine of %s: %w", n.Name, err)}
	}
	return m, nil
}

// steps runs a phase's steps one after the other. The undo of each is owed before it begins.
func (r *Run) steps(ctx context.Context, n *Node, phase string, steps []core.Step) error {
	m, err := r.machine(ctx, n)
	if err != nil {
		return err
	}
	for i, s := range steps {
		if s.Undo != nil {
			if err := r.fact(factOwed, n.Name, s.Name, Debt{phase, s.Name, *s.Undo}); err != nil {
				return err
			}
		}
		job := r.job(n, s.Do)
		if (phase == phaseFreeze || phase == phaseCapture) && n.Armed {
			job.Guard = r.guardKey(n)
			job.Settle = phase == phaseCapture && i == len(steps)-1
		}
		secret, err := r.give(ctx, n, phase, &job)
		if err != nil {
			return err
		}
		res, err := r.do(ctx, m, n, phase+"."+s.Name, job, secret)
		if nerr := r.say(n, res, err != nil); nerr != nil {
			return nerr
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
		if s.Keep != "" {
			value := strings.TrimSpace(res.Stdout)
			if !keepable.MatchString(value) {
				return fmt.Errorf("%s: %q cannot be kept as %s: a kept value is one word of letters, digits and . _ -", s.Name, clip(value, 80), s.Keep)
			}
			n.Kept[s.Keep] = value
		}
	}
	return nil
}

// say notes what a step printed where that is for people: a repair's, and what a step found that failed, such as the files
// that stand in the way. What it said on its standard error was seen while it ran; of a failure that is the error.
func (r *Run) say(n *Node, res onhost.Result, failed bool) error {
	repair := n.Plan.Data == ""
	if text := strings.TrimSpace(res.Stdout); text != "" && (repair || failed) {
		if err := r.note(n.Name, "%s", clip(text, 4<<10)); err != nil {
			return err
		}
	}
	if text := strings.TrimSpace(res.Stderr); text != "" && repair && !failed {
		return r.fact(factNote, "", "", n.Name+": "+clip(text, 4<<10))
	}
	return nil
}

var keepable = regexp.MustCompile(`^[A-Za-z0-9._-]{1,200}$`)

// job makes a host's job of a plan's command.
func (r *Run) job(n *Node, c core.Command) onhost.Job {
	job := onhost.Job{
		Argv: c.Argv, Dir: c.Dir, Env: map[string]string{"SNAPFW_RUN": r.ID}, User: c.User,
		Timeout: c.Timeout, End: c.End, Grace: c.Grace,
		Nice: r.Settings.Nice, Idle: r.Settings.Idle,
	}
	for k, v := range c.Env {
		if _, secret := strings.CutPrefix(v, "secret:"); secret {
			job.Secrets = append(job.Secrets, k)
		} else {
			job.Env[k] = v
		}
	}
	if r.Settings.ReadRate > 0 {
		job.Env["SNAPFW_READ_RATE"] = strconv.FormatInt(r.Settings.ReadRate, 10)
	}
	slices.Sort(job.Secrets)
	return job
}

// do runs one job to its end and journals it before and after. A job that an earlier process
// began and did not see the end of is joined.
func (r *Run) do(ctx context.Context, m Machine, n *Node, step string, job onhost.Job, secret map[string]string) (onhost.Result, error) {
	job.ID = r.jobID(n, step)
	if err := r.fact(factDoing, n.Name, step, Doing{job.ID, job.Argv}); err != nil {
		return onhost.Result{}, err
	}
	res, err := m.Job(ctx, job, secret, func(rep onhost.Report) {
		switch {
		case rep.Progress != nil:
			r.View.Progress(n.Name, *rep.Progress)
		case rep.Log != "":
			r.View.Note(n.Name, rep.Log)
		}
	})
	if err != nil {
		return res, unreachable{err}
	}
	short := res
	short.Stdout, short.Stderr = clip(res.Stdout, 4<<10), tailOf(res.Stderr, 4<<10)
	if err := r.fact(factDid, n.Name, step, short); err != nil {
		return res, err
	}
	return res, verdict(job, res)
}

func (r *Run) jobID(n *Node, step string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := n.Jobs[step]
	attempt := c.begun + 1
	if c.open {
		attempt = max(c.begun, 1)
	}
	return path.Join(r.ID, n.Name, slug(step), fmt.Sprint(attempt))
}

const maxReason = 600 // bytes

// verdict makes an error of how a job ended. The last words of its standard error are its reason; of a verb that decides,
// its last line, and that from its beginning.
func verdict(job onhost.Job, res onhost.Result) error {
	said := strings.TrimSpace(tailOf(res.Stderr, maxReason))
	name := clip(strings.Join(job.Argv, " "), 100)
	switch {
	case res.Err != "":
		return fmt.Errorf("start %s: %s", name, res.Err)
	case res.Void:
		return errVoid
	case res.Lost:
		return fmt.Errorf("%s: its helper on the host died or the machine was started anew; nobody knows how it ended", name)
	case res.Stuck:
		return fmt.Errorf("%s: still running %s after it was told to end; it was left alone, look at it on the host", name, job.Grace)
	case res.TimedOut:
		return fmt.Errorf("%s: not done within %s; %s", name, job.Timeout, said)
	case res.Exit == core.ExitDone:
		return nil
	case res.Exit == core.ExitRefused:
		return &RefusedError{clip(lastLine(res.Stderr, "refused"), maxReason)}
	case res.Exit == core.ExitAgain:
		return fmt.Errorf("%s: %w", clip(lastLine(res.Stderr, name), maxReason), errAgain)
	case said == "":
		return fmt.Errorf("%s: exit code %d and no word", name, res.Exit)
	}
	return fmt.Errorf("%s (exit code %d of %s)", said, res.Exit, name)
}

func lastLine(s, none string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	if last := strings.TrimSpace(lines[len(lines)-1]); last != "" {
		return last
	}
	return none
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "…"
}

func tailOf(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return "…" + s[len(s)-n:]
}

var notSlug = regexp.MustCompile(`[^A-Za-z0-9.]+`)

// slug makes one segment of a job's ID of a step's name.
func slug(name string) string {
	return clipBytes(strings.Trim(notSlug.ReplaceAllString(name, "-"), "-."), 80)
}

func clipBytes(s string, n int) string { return s[:min(len(s), n)] }

// looking is the Host that a driver gets: what it runs is journalled.
type looking struct {
	run  *Run
	node string
	Machine
}

func (l looking) Run(ctx context.Context, argv ...string) (core.Output, error) {
	out, err := l.Machine.Run(ctx, argv...)
	looked := Looked{Argv: argv, Exit: out.Exit}
	if err != nil {
		looked.Err = err.Error()
	}
	if ferr := l.run.fact(factLooked, l.node, "", looked); ferr != nil {
		return out, errors.Join(err, ferr)
	}
	return out, err
}

func (r *Run) host(ctx context.Context, n *Node) (core.Host, error) {
	m, err := r.machine(ctx, n)
	if err != nil {
		return nil, err
	}
	return looking{r, n.Name, m}, nil
}
