//go:build linux

package onhost

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A job is the folder jobs/RUN/NODE/STEP/ATTEMPT. These are its files.
const (
	fileClaim      = "claim"           // locked by who starts the job
	fileJob        = "job.json"        // the Job, without its secrets
	fileSupervisor = "supervisor.json" // a proc: from here on the job is registered
	fileChild      = "child.json"      // a proc, which leads its process group
	fileOut        = "out"             // the child's standard output
	fileErr        = "err"             // the child's standard error
	fileEnd        = "end"             // somebody asks the supervisor to end the child
	fileEnding     = "ending.json"     // an ending: the child exited 0 and the guard's state is about to be settled
	fileStatus     = "status.json"     // the Result
	fileReserve    = "reserve"         // room for it
)

func inDir(dir, name string) string { return filepath.Join(dir, name) }

// jobDir is the folder of a job; an ID that is no run/node/step/attempt is refused.
func jobDir(root, id string) (string, error) {
	seg := strings.Split(id, "/")
	if len(seg) != 4 {
		return "", fmt.Errorf("job id %q is not run/node/step/attempt", id)
	}
	for i, what := range []string{"run", "node", "step", "attempt"} {
		if err := checkName(what, seg[i]); err != nil {
			return "", fmt.Errorf("job id: %w", err)
		}
	}
	return filepath.Join(root, "jobs", filepath.FromSlash(id)), nil
}

// check refuses a job that could not be run as it says.
func (j Job) check() error {
	switch {
	case len(j.Argv) == 0 || j.Argv[0] == "":
		return errors.New("a job has no program")
	case j.End != "" && j.End != "TERM" && j.End != "INT":
		return fmt.Errorf("job ends by %q: TERM or INT", j.End)
	case j.Nice < 0 || j.Nice > 19:
		return fmt.Errorf("nice %d: 0 to 19", j.Nice)
	case j.Dir != "" && !filepath.IsAbs(j.Dir):
		return fmt.Errorf("job's folder %q is not absolute", j.Dir)
	case j.Settle && j.Guard == "":
		return errors.New("a job that settles a guard names none")
	case slices.ContainsFunc(j.Argv, func(s string) bool { return strings.ContainsRune(s, 0) }):
		return errors.New("a job's argument holds a zero byte")
	}
	if j.Guard != "" {
		if err := checkName("guard", j.Guard); err != nil {
			return err
		}
	}
	for k, v := range j.Env {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.ContainsRune(v, 0) {
			return fmt.Errorf("environment name %q can't be set", k)
		}
		if strings.HasPrefix(v, "secret:") {
			return fmt.Errorf("environment name %s is a secret: it belongs into Secrets", k)
		}
	}
	return nil
}

var errNoSecret = errors.New("a secret has no value that can be in an environment")

// checkSecrets is for a job that is started; one that is joined needs none.
func (s Start) checkSecrets() error {
	for _, k := range s.Job.Secrets {
		if v, ok := s.Secret[k]; !ok || k == "" || strings.ContainsAny(k, "=\x00") || strings.ContainsRune(v, 0) {
			return fmt.Errorf("%w: %s", errNoSecret, k)
		}
	}
	return nil
}

// jobRun starts the job, or joins it when it is there, and reports on it until it is done.
func jobRun(c *call) error {
	if err := c.want(); err != nil {
		return err
	}
	var s Start
	if err := c.read(&s); err != nil {
		return err
	}
	dir, err := jobDir(c.root, s.Job.ID)
	if err != nil {
		return usagef("%v", err)
	}
	if err := s.Job.check(); err != nil {
		return c.print(Report{Done: &Result{ID: s.Job.ID, Exit: -1, Err: err.Error()}})
	}
	fresh, err := claim(c.root, dir, s)
	if errors.Is(err, errNoSecret) {
		return c.print(Report{Done: &Result{ID: s.Job.ID, Exit: -1, Err: err.Error()}})
	}
	if err != nil {
		return fmt.Errorf("start job %s: %w", s.Job.ID, err)
	}
	return follow(c, dir, fresh)
}

// claim starts a supervisor unless the job has, or had, one. The lock goes over to the
// supervisor with its open file and is free once it has registered or died: so a
// job is started once, and one whose claimant died half-way is started by the next.
func claim(root, dir string, s Start) (fresh bool, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, err
	}
	l, err := lockFile(inDir(dir, fileClaim), true)
	if err != nil {
		return false, err
	}
	defer l.Close()
	if exists(inDir(dir, fileStatus)) || exists(inDir(dir, fileSupervisor)) {
		return false, nil
	}
	if err := s.checkSecrets(); err != nil {
		return false, err
	}
	if err := writeJSON(inDir(dir, fileJob), s.Job); err != nil {
		return false, err
	}
	return true, launchSupervisor(root, dir, s, l)
}

func launchSupervisor(root, dir string, s Start, claimed *os.File) error {
	in, err := json.Marshal(s)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(inDir(dir, "supervisor.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd, err := ourselves(root, "job", "supervise", s.Job.ID)
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{claimed}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	_, werr := stdin.Write(in)
	stdin.Close()
	died := make(chan error, 1)
	go func() { died <- cmd.Wait() }()
	var p poll
	for !exists(inDir(dir, fileSupervisor)) {
		select {
		case err := <-died:
			if exists(inDir(dir, fileSupervisor)) {
				return nil
			}
			return fmt.Errorf("supervisor: %w", errors.Join(err, werr, firstOf(log.Name())))
		case <-time.After(p.next()):
		}
	}
	return nil
}

// ourselves is another process of this program, in a session of its own.
func ourselves(root string, args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find myself: %w", err)
	}
	cmd := exec.Command(self, append([]string{"-root", root}, args...)...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// What the login shell exported is not for jobs. PATH is where sudo and crontab are found.
	cmd.Env = []string{"PATH=" + hostPath(), "HOME=" + login().HomeDir, "LANG=C.UTF-8"}
	return cmd, nil
}

// firstOf is what a process said before it died, as an error; nil if it was silent.
func firstOf(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	b, _ := io.ReadAll(io.LimitReader(f, 2000))
	if s := strings.TrimSpace(string(b)); s != "" {
		return errors.New(s)
	}
	return nil
}

// follow reports on a job until it has a Result. It ends early, without one, when nobody reads
// its reports any more; the job goes on.
func follow(c *call, dir string, fresh bool) error {
	t, err := openTranscript(dir)
	if err != nil {
		return err
	}
	defer t.close()
	if !fresh {
		t.out.skipTo(4 << 10)
		t.err.skipTo(0)
	}
	a := newAlarm(dir, c.stdout)
	defer a.off()
	var p poll
	for a.heard() {
		res, done, err := result(dir)
		if err != nil {
			return err
		}
		grew, err := t.report(c)
		if err != nil {
			return err
		}
		if done {
			return c.print(Report{Done: &res})
		}
		if grew {
			p.reset()
		}
		a.wait(p.next())
	}
	return errors.New("nobody reads my reports any more; the job goes on")
}

// skipTo goes to the last n bytes.
func (g *growing) skipTo(n int64) {
	if fi, err := g.f.Stat(); err == nil && fi.Size()-n > g.off {
		g.off = fi.Size() - n
	}
}

// report prints what is new: the last progress, and the lines of standard error. It leaves out
// what a chatty child wrote faster than anybody would read.
func (t *transcript) report(c *call) (grew bool, err error) {
	const most = 256 << 10
	t.out.skipTo(most)
	t.err.skipTo(most)
	var last *Progress
	a := t.out.read(false, func(line []byte) {
		if p, ok := parseProgress(line); ok {
			last = &p
		}
	})
	b := t.err.read(false, func(line []byte) {
		if e := c.print(Report{Log: strings.TrimRight(string(line), "\r\n")}); e != nil {
			err = e
		}
	})
	if last != nil && err == nil {
		err = c.print(Report{Progress: last})
	}
	return a || b, err
}

// result is how a job ended, if it did. A job whose supervisor is gone is Lost; that is not said
// while its child runs.
func result(dir string) (Result, bool, error) {
	alive := aliveIn(inDir(dir, fileSupervisor)) // before the status: it is written first
	var r Result
	err := readJSON(inDir(dir, fileStatus), &r)
	if err == nil {
		return r, true, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return Result{}, false, err
	}
	if alive || aliveIn(inDir(dir, fileChild)) {
		return Result{}, false, nil
	}
	return lose(dir)
}

// ending is written before a guard is settled: if the supervisor dies then, it still tells how
// the job ended.
type ending struct {
	Result Result
	Guard  string // the guard's folder
}

// lose writes down that nobody knows how a job ended.
func lose(dir string) (Result, bool, error) {
	l, err := lockFile(inDir(dir, fileClaim), true)
	if err != nil {
		return Result{}, false, err
	}
	defer l.Close()
	var r Result
	if readJSON(inDir(dir, fileStatus), &r) == nil {
		return r, true, nil
	}
	var e ending
	if readJSON(inDir(dir, fileEnding), &e) == nil {
		if s := stateIn(e.Guard); s == Copied || s == Returned {
			return e.Result, true, writeJSON(inDir(dir, fileStatus), e.Result)
		}
	}
	var j Job
	if err := readJSON(inDir(dir, fileJob), &j); err != nil {
		return Result{}, false, err
	}
	r = Result{ID: j.ID, Exit: -1, Lost: true, Ended: time.Now(),
		Err: "its supervisor on the host died, or the host was started anew: nobody knows how it ended"}
	if fi, err := os.Stat(inDir(dir, fileJob)); err == nil {
		r.Started = fi.ModTime()
	}
	if t, err := openTranscript(dir); err == nil {
		t.read(true)
		t.fill(&r)
		t.close()
	}
	return r, true, writeJSON(inDir(dir, fileStatus), r)
}
