//go:build linux

package onhost

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	watchEvery = 500 * time.Millisecond // how often a guard looks whether it is disarmed
	endWait    = time.Minute            // for a job without a grace, before its undo
	maxBackOff = time.Minute
)

// guardWatch is the detached process of a guard. It waits until the guard is disarmed or has to fire,
// and then pays. A second one beside it ends at once. "guard reboot" is the same, called by
// cron: a guard that was armed in an earlier boot fires at once.
func guardWatch(c *call) error {
	fl := flag.NewFlagSet("guard watch", flag.ContinueOnError)
	fl.SetOutput(c.stderr)
	by := fl.String("by", "@reboot", "how this was started")
	rest, err := mixed(fl, c.args)
	if err != nil {
		return err
	}
	if c.args = rest; len(rest) != 1 {
		return usagef("guard watch wants KEY")
	}
	if err := checkName("guard", rest[0]); err != nil {
		return usagef("%v", err)
	}
	dir, state := guardNow(c.root, rest[0])
	if state == None {
		return fmt.Errorf("there is no guard %s", rest[0])
	}
	l, err := lockFile(inDir(dir, "watch.lock"), false)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
	if err != nil {
		return err
	}
	defer l.Close()
	ignoreEnds()
	me, err := procOf(os.Getpid())
	if err != nil {
		return err
	}
	if err := writeJSON(inDir(dir, fileWatch), watcher{me, *by}); err != nil {
		return err
	}
	return watch(c.root, dir)
}

func watch(root, dir string) error {
	var g armedGuard
	if err := readJSON(inDir(dir, fileGuard), &g); err != nil {
		return err
	}
	for {
		switch stateIn(dir) {
		case Armed, Copied:
		case Fired, Returned: // another process of this guard died while it paid
			return pay(root, dir, g)
		default:
			return nil
		}
		left, err := leftOf(dir, g)
		if err != nil {
			return err
		}
		if left <= 0 {
			break
		}
		time.Sleep(min(left, watchEvery))
	}
	if won, err := fire(dir); err != nil || !won {
		return err
	}
	return pay(root, dir, g)
}

// leftOf is how long a guard has still to wait. In another boot than that of its arming it has
// to fire: the machine went down while the node may have been stopped.
func leftOf(dir string, g armedGuard) (time.Duration, error) {
	boot, err := bootID()
	if err != nil {
		return 0, err
	}
	if g.Armed.Boot != boot {
		return 0, nil
	}
	left := time.Duration(1<<63 - 1)
	if g.After > 0 {
		left = g.Armed.Since + g.After - sinceBoot()
	}
	if g.Lease > 0 {
		left = min(left, leaseOf(dir, g).Since+g.Lease-sinceBoot())
	}
	return left, nil
}

// fire tells whether it is this guard that has to pay now: it settles armed to fired, or copied to
// returned, unless somebody disarmed it.
func fire(dir string) (bool, error) {
	won, err := move(dir, Armed, Fired)
	if err != nil || won {
		return won, err
	}
	return move(dir, Copied, Returned)
}

// pay ends the run's jobs on the node and then undoes, until all is undone or snapfw
// says that it pays itself.
func pay(root, dir string, g armedGuard) error {
	jobs, err := jobsOf(root, filepath.Join(g.Run, g.Node))
	// What went wrong here is said at the end: it must not keep the node down.
	err = errors.Join(err, endAll(guardedBy(jobs, g.Key), endWait))
	results := make([]Result, 0, len(g.Undo))
	for i, j := range g.Undo {
		r, paid := payOne(root, dir, i, j, results)
		results = append(results, r)
		if !paid {
			return err
		}
	}
	if werr := touch(inDir(dir, filePaid)); werr != nil {
		return errors.Join(err, werr)
	}
	dropReboot(root, g.Key)
	return err
}

// payOne tries one undo until it exits 0; paid is false when it was told to stop. Every try
// is noted behind the results of the undos before it.
func payOne(root, dir string, i int, j Job, before []Result) (r Result, paid bool) {
	j.Guard, j.Settle, j.Secrets = "", false, nil
	for wait := time.Second; ; wait = min(2*wait, maxBackOff) {
		if exists(inDir(dir, fileStop)) {
			return r, false
		}
		r = undoOnce(root, dir, i, j)
		// If this can't be written, the disk is full: paying matters more than the note.
		writeJSON(inDir(dir, fileUndo), append(before[:len(before):len(before)], r))
		if r.Exit == 0 && r.Err == "" {
			return r, true
		}
		for until := time.Now().Add(wait); time.Now().Before(until) && !exists(inDir(dir, fileStop)); {
			time.Sleep(100 * time.Millisecond)
		}
	}
}

// undoOnce runs an undo as any job is run, in a folder that the next try uses again. One that does
// not end after its grace is left behind after another while: an undo is safe to run twice.
func undoOnce(root, dir string, i int, j Job) Result {
	sub := filepath.Join(dir, "undo"+strconv.Itoa(i))
	if err := errors.Join(os.RemoveAll(sub), os.Mkdir(sub, 0o700)); err != nil {
		// No room for output: it goes to a place that always takes it.
		sub = filepath.Join(os.TempDir(), "snapfw-undo-"+strconv.Itoa(os.Getpid()))
		if err := os.MkdirAll(sub, 0o700); err != nil {
			return Result{ID: j.ID, Exit: -1, Started: time.Now(), Ended: time.Now(), Err: err.Error()}
		}
	}
	stuck := make(chan Result, 1)
	done := make(chan Result, 1)
	w := work{root: root, dir: sub, job: j, stuck: func(r Result) { stuck <- r }}
	go func() { done <- w.do() }()
	select {
	case r := <-done:
		return r
	case r := <-stuck:
		select {
		case r := <-done:
			return r
		case <-time.After(endWait):
			return r
		}
	}
}
