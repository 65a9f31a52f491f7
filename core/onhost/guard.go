//go:build linux

package onhost

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// A guard is the folder guard/KEY. Each time it is armed anew it gets a numbered folder, so that
// a job of an earlier time can't settle a later one. In that lie these files, and one named as its
// state: renaming that one is how everything is settled.
const (
	fileGuard = "guard.json" // an armed
	fileLease = "lease.json" // a moment: when it was renewed last
	fileWatch = "watch.json" // a watcher
	fileUndo  = "undo.json"  // []Result, what the guard's undo did
	filePaid  = "paid"       // every undo has exited 0
	fileStop  = "stop"       // snapfw pays itself: no more tries
	fileNote  = "note"       // what the operator should know
	fileEnded = "ended"      // somebody asked for the end of the node's jobs: none of the guard's starts any more
)

// armedGuard is what guard.json says.
type armedGuard struct {
	Guard
	Armed moment
}

// moment is a time that can be compared within one boot.
type moment struct {
	Boot  string
	Since time.Duration // since the boot
	Wall  time.Time     // for people
}

func now() (moment, error) {
	boot, err := bootID()
	return moment{boot, sinceBoot(), time.Now()}, err
}

// watcher is the process that watches, and how it was started.
type watcher struct {
	proc
	By string
}

func guardDir(root, key string) string { return filepath.Join(root, "guard", key) }

// guardLock is beside the folder, so that asking for a guard that is not there makes none.
func guardLock(root, key string) string { return filepath.Join(root, "guard", ".lock-"+key) }

// stateIn reads the state of one arming. States only go forward in this order, so one
// that is renamed meanwhile is found further on.
func stateIn(dir string) string {
	for _, s := range []string{Armed, Copied, Fired, Returned, Disarmed} {
		if exists(inDir(dir, s)) {
			return s
		}
	}
	return None
}

// guardNow is the folder and the state of the latest arming; "" and None if there is none.
func guardNow(root, key string) (dir, state string) {
	for n := latest(guardDir(root, key)); n > 0; n-- {
		dir = filepath.Join(guardDir(root, key), strconv.Itoa(n))
		if s := stateIn(dir); s != None { // None: whoever armed it died before it was armed
			return dir, s
		}
	}
	return "", None
}

// latest is the highest number among a folder's names.
func latest(dir string) int {
	top := 0
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			top = max(top, n)
		}
	}
	return top
}

func (g Guard) check() error {
	for _, n := range []struct{ what, s string }{{"guard", g.Key}, {"run", g.Run}, {"node", g.Node}} {
		if err := checkName(n.what, n.s); err != nil {
			return err
		}
	}
	if len(g.Undo) == 0 {
		return errors.New("a guard without an undo")
	}
	if g.After <= 0 && g.Lease <= 0 {
		return errors.New("a guard that would never fire: After or Lease must be more than 0")
	}
	for _, j := range g.Undo {
		if err := j.check(); err != nil {
			return fmt.Errorf("undo: %w", err)
		}
		if len(j.Secrets) > 0 {
			return errors.New("an undo needs a secret, and guards lie on disks")
		}
	}
	return nil
}

// guardArm arms a guard and answers when somebody really watches. One that is armed already is
// renewed and stays as it is; one that fired and has not paid yet stays so too.
func guardArm(c *call) error {
	if err := c.want(); err != nil {
		return err
	}
	var g Guard
	if err := c.read(&g); err != nil {
		return err
	}
	if err := g.check(); err != nil {
		return usagef("%v", err)
	}
	return c.onGuard(g.Key, func() error {
		dir, state := guardNow(c.root, g.Key)
		switch {
		case state == Armed || state == Copied:
			return c.renew(dir)
		case (state == Fired || state == Returned) && !exists(inDir(dir, filePaid)) && !exists(inDir(dir, fileStop)):
			return c.print(guardState(g.Key, dir))
		}
		return c.arm(g)
	})
}

// onGuard calls f while nobody else changes the guard's folder, except by settling it.
func (c *call) onGuard(key string, f func() error) error {
	if err := checkName("guard", key); err != nil {
		return usagef("%v", err)
	}
	if err := os.MkdirAll(filepath.Join(c.root, "guard"), 0o700); err != nil {
		return err
	}
	l, err := lockFile(guardLock(c.root, key), true)
	if err != nil {
		return err
	}
	defer l.Close()
	return f()
}

func (c *call) arm(g Guard) error {
	at, err := now()
	if err != nil {
		return err
	}
	dir := filepath.Join(guardDir(c.root, g.Key), strconv.Itoa(latest(guardDir(c.root, g.Key))+1))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := writeJSON(inDir(dir, fileGuard), armedGuard{g, at}); err != nil {
		return fmt.Errorf("write guard: %w", err)
	}
	if err := writeJSON(inDir(dir, fileLease), at); err != nil {
		return fmt.Errorf("write guard: %w", err)
	}
	var note string
	if g.Reboot {
		note = addReboot(c.root, g.Key)
	}
	// The state's file is the last: only now is there a guard.
	if err := writeJSON(inDir(dir, Armed), at); err != nil {
		return fmt.Errorf("write guard: %w", err)
	}
	if err := syncDir(guardDir(c.root, g.Key)); err != nil {
		return fmt.Errorf("write guard: %w", err)
	}
	warn, err := launchWatch(c.root, g.Key, dir)
	if err != nil {
		move(dir, Armed, Disarmed)
		dropReboot(c.root, g.Key)
		return fmt.Errorf("start the guard: %w", err)
	}
	if err := writeNote(dir, note, warn); err != nil {
		return err
	}
	return c.print(guardState(g.Key, dir))
}

// renew prolongs the lease of a guard that is armed, and starts a watcher where it died.
func (c *call) renew(dir string) error {
	key := filepath.Base(filepath.Dir(dir))
	at, err := now()
	if err != nil {
		return err
	}
	if err := writeJSON(inDir(dir, fileLease), at); err != nil {
		return fmt.Errorf("renew guard: %w", err)
	}
	if !aliveIn(inDir(dir, fileWatch)) {
		if s := stateIn(dir); s == Armed || s == Copied {
			if _, err := launchWatch(c.root, key, dir); err != nil {
				return fmt.Errorf("start the guard again: %w", err)
			}
		}
	}
	return c.print(guardState(key, dir))
}

func guardRenew(c *call) error {
	if err := c.want("KEY"); err != nil {
		return err
	}
	return c.onGuard(c.args[0], func() error {
		dir, state := guardNow(c.root, c.args[0])
		if state != Armed && state != Copied {
			return c.print(guardState(c.args[0], dir))
		}
		return c.renew(dir)
	})
}

func guardStateVerb(c *call) error {
	if err := c.want("KEY"); err != nil {
		return err
	}
	if err := checkName("guard", c.args[0]); err != nil {
		return usagef("%v", err)
	}
	dir, _ := guardNow(c.root, c.args[0])
	return c.print(guardState(c.args[0], dir))
}

// guardDisarm says that snapfw pays itself. A guard that fired stays so; it is not tried
// again, and this waits a little for a try that runs.
func guardDisarm(c *call) error {
	if err := c.want("KEY"); err != nil {
		return err
	}
	return c.onGuard(c.args[0], func() error {
		key := c.args[0]
		dir, state := guardNow(c.root, key)
		if state == None {
			return c.print(guardState(key, dir))
		}
		for _, from := range []string{Armed, Copied} {
			if _, err := move(dir, from, Disarmed); err != nil {
				return fmt.Errorf("disarm guard: %w", err)
			}
		}
		if s := stateIn(dir); (s == Fired || s == Returned) && !exists(inDir(dir, filePaid)) {
			if err := touch(inDir(dir, fileStop)); err != nil {
				return fmt.Errorf("stop the guard's undo: %w", err)
			}
			until := time.Now().Add(10 * time.Second)
			for p := (poll{}); aliveIn(inDir(dir, fileWatch)) && time.Now().Before(until); {
				p.sleep()
			}
		}
		st := guardState(key, dir)
		if (st.State == Fired || st.State == Returned) && !st.Paid && aliveIn(inDir(dir, fileWatch)) {
			st.Note = join(st.Note, "the guard's undo is still running; it is not tried again")
		}
		if msg := dropReboot(c.root, key); msg != "" {
			st.Note = join(st.Note, msg)
		}
		return c.print(st)
	})
}

// guardState is the arming of a folder as it is now.
func guardState(key, dir string) GuardState {
	st := GuardState{Key: key, State: None}
	if dir == "" {
		return st
	}
	st.State = stateIn(dir)
	st.Paid = exists(inDir(dir, filePaid))
	readJSON(inDir(dir, fileUndo), &st.Undo)
	readJSON(inDir(dir, fileNote), &st.Note)
	var w watcher
	err := readJSON(inDir(dir, fileWatch), &w)
	st.By = w.By
	owes := st.State == Armed || st.State == Copied ||
		(st.State == Fired || st.State == Returned) && !st.Paid && !exists(inDir(dir, fileStop))
	if owes && (err != nil || !w.alive()) {
		st.Note = join(st.Note, "nobody watches: the guard's process is gone")
	}
	return st
}

// writeNote keeps what the operator should know of an arming.
func writeNote(dir string, notes ...string) error {
	note := join(notes...)
	if note == "" {
		return nil
	}
	return writeJSON(inDir(dir, fileNote), note)
}

func join(notes ...string) string {
	all := ""
	for _, n := range notes {
		if n != "" && all != "" {
			all += "; "
		}
		all += n
	}
	return all
}

// leaseOf is when a guard was renewed last.
func leaseOf(dir string, g armedGuard) moment {
	var m moment
	if err := readJSON(inDir(dir, fileLease), &m); err != nil && !errors.Is(err, fs.ErrNotExist) || m.Boot == "" {
		return g.Armed
	}
	return m
}
