//go:build linux

package onhost

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// placed is a job as its folder tells.
type placed struct {
	Job
	dir string
}

// jobsOf finds the jobs under RUN or RUN/NODE: those that are registered, and those that are claimed
// only, whose Job may be empty but for its ID.
func jobsOf(root, under string) ([]placed, error) {
	top := filepath.Join(root, "jobs", under)
	var jobs []placed
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if d.Name() != fileClaim {
			return nil
		}
		p := placed{dir: filepath.Dir(path)}
		if err := readJSON(inDir(p.dir, fileJob), &p.Job); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if p.ID == "" {
			p.ID, _ = filepath.Rel(filepath.Join(root, "jobs"), p.dir)
		}
		jobs = append(jobs, p)
		return nil
	})
	return jobs, err
}

func guardedBy(jobs []placed, key string) []placed {
	var those []placed
	for _, j := range jobs {
		if j.Guard == key {
			those = append(those, j)
		}
	}
	return those
}

// runs tells whether a job has a supervisor or a child.
func (p placed) runs() bool {
	return aliveIn(inDir(p.dir, fileSupervisor)) || aliveIn(inDir(p.dir, fileChild))
}

// end asks a job to end: its supervisor, and where that one is gone or can't be told its child.
func (p placed) end() error {
	err := touch(inDir(p.dir, fileEnd))
	if err == nil && aliveIn(inDir(p.dir, fileSupervisor)) {
		return nil
	}
	var c proc
	if err := readJSON(inDir(p.dir, fileChild), &c); err != nil || !c.alive() {
		return nil
	}
	as := ""
	if wayTo(p.User) != asMyself {
		as = p.User
	}
	return signalGroup(c.PID, p.End, as)
}

// endAll asks every job that runs to end, and waits for each as long as its grace; most is for
// those whose grace is without limit, 0 to wait on.
func endAll(jobs []placed, most time.Duration) error {
	var errs []error
	var live []placed
	for _, j := range jobs {
		if j.runs() {
			errs = append(errs, j.end())
			live = append(live, j)
		}
	}
	start := time.Now()
	for _, j := range live {
		wait := j.Grace
		if wait == 0 {
			wait = most
		}
		for p := (poll{}); j.runs() && (wait == 0 || time.Since(start) < wait); {
			p.sleep()
		}
	}
	return errors.Join(errs...)
}

// jobEnd ends the jobs of a RUN or of a RUN/NODE that are running, and prints a Result for each. Those
// that are claimed and not started yet never start; neither does one that a guard of these nodes
// covers and that is claimed later: a "job run" may be under way still. Undos have no guard.
func jobEnd(c *call) error {
	if err := c.want("RUN"); err != nil {
		return err
	}
	run, node, _ := strings.Cut(c.args[0], "/")
	merr := endGuarded(c.root, run, node) // before the jobs are looked for: each of them sees one of the two marks
	jobs, err := c.jobsOfRun(2)
	if err != nil {
		return err
	}
	var live []placed
	for _, j := range jobs {
		var terr error
		if !exists(inDir(j.dir, fileStatus)) {
			terr = touch(inDir(j.dir, fileEnd))
		}
		if j.runs() { // looked at after the mark: one that registers later sees it
			live = append(live, j)
		} else {
			merr = errors.Join(merr, terr)
		}
	}
	err = errors.Join(merr, endAll(live, 0))
	for _, j := range live {
		r, done, rerr := result(j.dir)
		if rerr == nil && !done {
			r = Result{ID: j.ID, Exit: -1, Stuck: true, Ended: time.Now(), Err: "its end was asked for and its grace is over"}
		}
		err = errors.Join(err, rerr, c.print(r))
	}
	return err
}

// endGuarded marks the guards of a run, or of one of its nodes, as they are armed now.
func endGuarded(root, run, node string) error {
	keys, err := os.ReadDir(filepath.Join(root, "guard"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, k := range keys {
		dir, _ := guardNow(root, k.Name())
		var g armedGuard
		if dir == "" || readJSON(inDir(dir, fileGuard), &g) != nil || g.Run != run || node != "" && g.Node != node {
			continue
		}
		err = errors.Join(err, touch(inDir(dir, fileEnded)))
	}
	return err
}

// jobsOfRun finds the jobs that the argument names: RUN, or with most 2 also RUN/NODE.
func (c *call) jobsOfRun(most int) ([]placed, error) {
	if err := c.want("RUN"); err != nil {
		return nil, err
	}
	seg := strings.Split(c.args[0], "/")
	if len(seg) > most {
		return nil, usagef("%q is no run", c.args[0])
	}
	for _, s := range seg {
		if err := checkName("run", s); err != nil {
			return nil, usagef("%v", err)
		}
	}
	return jobsOf(c.root, c.args[0])
}

// jobForget removes what a run left: its jobs, and its guards that owe nothing. What still runs
// or owes stays, and then it exits 3.
func jobForget(c *call) error {
	jobs, err := c.jobsOfRun(1)
	if err != nil {
		return err
	}
	var left []string
	for _, j := range jobs {
		if j.runs() {
			left = append(left, "job "+j.ID)
		} else if err := os.RemoveAll(j.dir); err != nil {
			return fmt.Errorf("forget job %s: %w", j.ID, err)
		}
	}
	if len(left) == 0 {
		if err := os.RemoveAll(filepath.Join(c.root, "jobs", c.args[0])); err != nil {
			return fmt.Errorf("forget run: %w", err)
		}
	}
	owed, err := forgetGuards(c.root, c.args[0])
	if err != nil {
		return err
	}
	if left = append(left, owed...); len(left) > 0 {
		return refusef("not forgotten, for it runs or owes something still: %v", left)
	}
	return nil
}

// forgetGuards removes the settled guards of a run and names the others.
func forgetGuards(root, run string) (owed []string, err error) {
	keys, err := os.ReadDir(filepath.Join(root, "guard"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, k := range keys {
		dir, state := guardNow(root, k.Name())
		var g armedGuard
		if dir == "" || readJSON(inDir(dir, fileGuard), &g) != nil || g.Run != run {
			continue
		}
		settled := state == Disarmed || exists(inDir(dir, filePaid)) || exists(inDir(dir, fileStop))
		if !settled {
			owed = append(owed, "guard "+k.Name())
			continue
		}
		l, err := lockFile(guardLock(root, k.Name()), true)
		if err != nil {
			return owed, err
		}
		err = errors.Join(os.RemoveAll(guardDir(root, k.Name())), os.Remove(l.Name()), l.Close())
		if err != nil {
			return owed, fmt.Errorf("forget guard %s: %w", k.Name(), err)
		}
	}
	return owed, err
}
