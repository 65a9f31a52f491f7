//go:build linux

package onhost

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// jobSupervise is the process that outlives the connection: it starts the job's program, keeps
// its time, and writes down how it ended.
func jobSupervise(c *call) error {
	if err := c.want("ID"); err != nil {
		return err
	}
	claimed := os.NewFile(3, fileClaim)
	unix.CloseOnExec(3)
	var s Start
	if err := c.read(&s); err != nil {
		return err // whoever started us died: nothing happened, the lock is free again
	}
	dir, err := jobDir(c.root, s.Job.ID)
	if err != nil || s.Job.ID != c.args[0] {
		return usagef("job id %q: %v", s.Job.ID, err)
	}
	ignoreEnds()
	me, err := procOf(os.Getpid())
	if err != nil {
		return err
	}
	if err := writeJSON(inDir(dir, fileSupervisor), me); err != nil {
		return err
	}
	claimed.Close()
	w := work{root: c.root, dir: dir, job: s.Job, secret: s.Secret}
	w.stuck = func(r Result) {
		if err := writeStatus(dir, r); err != nil {
			fmt.Fprintln(c.stderr, "say that the job is stuck:", err)
		}
	}
	reserve(dir)
	if err := writeStatus(dir, w.do()); err != nil {
		return fmt.Errorf("write how job %s ended: %w", s.Job.ID, err)
	}
	os.Remove(inDir(dir, fileReserve))
	return nil
}

// reserve keeps some room on the disk for a short status: it may be this job that fills it.
func reserve(dir string) {
	f, err := os.OpenFile(inDir(dir, fileReserve), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	unix.Fallocate(int(f.Fd()), 0, 0, 128<<10) // where it can't, a status may be lost
}

// writeStatus writes how the job ended; on a full disk with little of what the job said.
func writeStatus(dir string, r Result) error {
	err := writeJSON(inDir(dir, fileStatus), r)
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	const most = 4 << 10
	r.Stdout = r.Stdout[:min(len(r.Stdout), most)]
	r.Stderr = r.Stderr[max(0, len(r.Stderr)-most):]
	os.Remove(inDir(dir, fileReserve))
	return writeJSON(inDir(dir, fileStatus), r)
}

// ignoreEnds lets a hang-up or a stray TERM pass by. They are caught, not ignored: a child would
// inherit that.
func ignoreEnds() {
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGINT, unix.SIGTERM)
}

// work is a job that is being done.
type work struct {
	root, dir string
	job       Job
	secret    map[string]string
	stuck     func(Result) // told when the grace is over and the program runs still
	guard     string       // the folder of the job's guard, once it was looked up
	res       Result
	out       *transcript
}

// do runs the job to its end.
func (w *work) do() Result {
	w.res = Result{ID: w.job.ID, Exit: -1, Started: time.Now()}
	err := w.run()
	if err != nil {
		w.res.Err = err.Error()
	}
	w.res.Ended = time.Now()
	w.res.Stuck = false
	if w.out != nil {
		w.out.read(true)
		w.out.fill(&w.res)
		w.out.close()
	}
	if msg := sudoRefused(w.job, w.res); msg != "" {
		w.res.Err = msg
	}
	w.settle()
	return w.res
}

func (w *work) run() error {
	if err := w.allowed(); err != nil {
		return err
	}
	out, err := openTranscript(w.dir)
	if err != nil {
		return err
	}
	w.out = out
	ch, err := startChild(w.root, w.dir, w.job, w.secret)
	if err != nil {
		return err
	}
	exited := make(chan error, 1)
	p, err := procOf(ch.cmd.Process.Pid)
	if err == nil {
		err = writeJSON(inDir(w.dir, fileChild), p)
	}
	if err != nil { // the disk is full, say; the work goes on all the same
		fmt.Fprintln(os.Stderr, "note the job's process:", err)
	}
	go func() { exited <- ch.cmd.Wait() }()
	w.res.Exit, err = exitCode(w.watch(ch, exited))
	return err
}

// allowed looks at the guard, and at whether somebody asked for the end before the start. The job
// is registered by now, and a guard fires first and then looks for
// registered jobs: one of the two sees the other.
func (w *work) allowed() error {
	if w.job.Guard != "" {
		dir, state := guardNow(w.root, w.job.Guard)
		w.guard = dir
		if state != Armed && state != Copied {
			w.res.Void = true
			return fmt.Errorf("guard %s is not armed but %s: nothing was started", w.job.Guard, state)
		}
		if exists(inDir(dir, fileEnded)) {
			return errEnded
		}
	}
	if exists(inDir(w.dir, fileEnd)) {
		return errEnded
	}
	return nil
}

var errEnded = errors.New("its end was asked for before it started")

// watch waits for the child; it reads along, and asks it to end when its time is up or
// somebody wants it to.
func (w *work) watch(ch *child, exited <-chan error) error {
	var timeout, grace <-chan time.Time
	if w.job.Timeout > 0 {
		timeout = time.After(w.job.Timeout)
	}
	asked := false
	end := func() {
		asked = true
		if err := ch.signal(); err != nil {
			w.res.Err = err.Error()
		}
		if w.job.Grace > 0 {
			grace = time.After(w.job.Grace)
		}
	}
	var p poll
	tick := time.After(p.next())
	for {
		select {
		case err := <-exited:
			return err
		case <-timeout:
			w.res.TimedOut = true
			if !asked {
				end()
			}
		case <-grace:
			w.report()
		case <-tick:
			if w.out.read(false) {
				p.reset()
			}
			if !asked && exists(inDir(w.dir, fileEnd)) {
				end()
			}
			tick = time.After(p.next())
		}
	}
}

// report says that the child does not end.
func (w *work) report() {
	r := w.res
	r.Stuck = true
	r.Ended = time.Now()
	w.out.fill(&r)
	w.stuck(r)
}

// settle renames the guard's state from armed to copied, or says that the job is void.
func (w *work) settle() {
	if w.guard == "" {
		return
	}
	done := w.res.Exit == 0 && w.res.Err == "" && !w.res.TimedOut
	if w.job.Settle && done {
		switch err := w.copied(); {
		case errors.Is(err, errVoid):
			w.res.Void = true
		case err != nil:
			w.res.Void = true
			w.res.Err = fmt.Sprintf("settle guard %s: %v", w.job.Guard, err)
		}
		return
	}
	w.res.Void = w.res.Void || stateIn(w.guard) == Fired || w.job.Settle && w.res.Exit == 0
}

var errVoid = errors.New("the guard won")

func (w *work) copied() error {
	e := ending{Result: w.res, Guard: w.guard}
	if err := writeJSON(inDir(w.dir, fileEnding), e); err != nil {
		return err
	}
	won, err := move(w.guard, Armed, Copied)
	if err == nil && !won && stateIn(w.guard) != Copied {
		err = errVoid
	}
	return err
}
