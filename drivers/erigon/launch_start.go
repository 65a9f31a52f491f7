package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// startOptions say how long a node may take to come up.
type startOptions struct {
	wait   time.Duration // until it holds the lock
	settle time.Duration // and then stays
}

// startNode starts the node as launch.json says, in a session of its own, and waits until it holds the lock
// and has stayed for a while. It does nothing where a node holds the lock; it waits for a tool to end.
// Of two calls at once one starts the node and the other finds it running.
func startNode(ctx context.Context, datadir string, o startOptions, out io.Writer) error {
	deadline := time.Now().Add(o.wait)
	release, err := oneStart(ctx, datadir, deadline)
	if err != nil {
		return err
	}
	defer release()
	running, err := awaitTools(ctx, datadir, deadline)
	if err != nil {
		return err
	}
	if running != nil {
		fmt.Fprintf(out, "erigon runs on %s already (%s)\n", datadir, running)
		return nil
	}
	l, err := readLaunch(datadir)
	if err != nil {
		return err
	}
	s := &starting{startOptions: o, datadir: datadir, l: l, out: out}
	defer s.close()
	if err := s.start(); err != nil {
		return err
	}
	return s.await(ctx, deadline)
}

// oneStart waits until no other start works on this datadir.
func oneStart(ctx context.Context, datadir string, deadline time.Time) (release func(), err error) {
	f, err := os.OpenFile(filepath.Join(snapfwDir(datadir), launchLock), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNoLaunch
	}
	if err != nil {
		return nil, fmt.Errorf("open the lock of starts: %w", err)
	}
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			f.Close()
			return nil, fmt.Errorf("another launch start works on %s: wait until it has ended: %w", datadir, err)
		}
		if err := pauseFor(ctx, pause); err != nil {
			f.Close()
			return nil, err
		}
	}
}

func pauseFor(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// awaitTools waits while a tool holds the lock, or a node that was told to end: nobody would start that once it is gone. It
// returns another node that holds it, nil if nobody does. It reads the table
// only: somebody may be starting Erigon by hand, which a lock that is tried at that moment would end.
func awaitTools(ctx context.Context, datadir string, deadline time.Time) (*process, error) {
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		p, err := lockHolder(datadir)
		if p == nil || err != nil {
			return nil, err
		}
		tool := toolOf(argvOf(p.PID))
		ending := false
		if tool == "" && p.PID > 0 {
			if !p.alive() {
				continue // it has just ended
			}
			if ending = wasTold(datadir, *p); !ending {
				return p, nil
			}
		}
		if time.Now().After(deadline) {
			if ending {
				return nil, fmt.Errorf("%s was told to end and has not ended yet: see the end of its log; it is started once it is gone", p)
			}
			return nil, fmt.Errorf("erigon is not started: the lock of %s is held by %s: %s", datadir, p, whatIs(*p))
		}
		if err := pauseFor(ctx, pause); err != nil {
			return nil, err
		}
	}
}

// starting is a start.
type starting struct {
	startOptions
	datadir string
	l       launch
	out     io.Writer

	cmd   *exec.Cmd
	ended chan error
	files [3]*os.File
	from  [3]int64 // how long its output files were before
}

func (s *starting) close() {
	for _, f := range s.files {
		if f != nil {
			f.Close()
		}
	}
}

func (s *starting) start() error {
	l := s.l
	if info, err := os.Stat(l.Exe); err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return fmt.Errorf("%s, which erigon was launched from, is no program now: put it back, or start the new one by hand and run launch save", l.Exe)
	}
	if info, err := os.Stat(l.Dir); err != nil || !info.IsDir() {
		return fmt.Errorf("%s, in which erigon was launched, is no folder now: put it back, or start erigon by hand and run launch save", l.Dir)
	}
	for i := range s.files {
		if err := s.open(i); err != nil {
			return err
		}
	}
	s.cmd = &exec.Cmd{Path: l.Exe, Args: l.Argv, Env: l.Env, Dir: l.Dir, Stdin: s.files[0], Stdout: s.files[1], Stderr: s.files[2]}
	if s.cmd.Env == nil {
		s.cmd.Env = []string{} // nil would be ours
	}
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	me := os.Geteuid()
	switch {
	case me == 0 && l.UID != 0:
		cred := &syscall.Credential{Uid: uint32(l.UID), Gid: uint32(l.GID)}
		for _, g := range l.Groups {
			cred.Groups = append(cred.Groups, uint32(g))
		}
		s.cmd.SysProcAttr.Credential = cred
	case l.UID != me:
		return declinef("erigon was launched by uid %d, and this is uid %d: run it as the owner of the node", l.UID, me)
	}
	if err := s.limits(); err != nil {
		return err
	}
	keepToOurselves()
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("start erigon: %w", err)
	}
	s.ended = make(chan error, 1)
	go func() { s.ended <- s.cmd.Wait() }()
	return nil
}

// keepToOurselves sees that the node inherits no open file but its three: a pipe of ours that it holds would
// keep whoever reads it waiting for as long as it lives.
func keepToOurselves() {
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, n := range names {
		if fd, err := strconv.Atoi(n.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}

// limits gives this process what the child is to inherit.
func (s *starting) limits() error {
	unix.Umask(s.l.Umask)
	if s.l.Nice > niceOf(0) { // to lower it is for root
		if err := beNice(s.l.Nice); err != nil {
			return fmt.Errorf("nice %d: %w", s.l.Nice, err)
		}
	}
	if s.l.Open[0] == 0 {
		return nil
	}
	var have unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &have); err != nil {
		return fmt.Errorf("look at the limit of open files: %w", err)
	}
	want := unix.Rlimit{Cur: s.l.Open[0], Max: max(s.l.Open[1], s.l.Open[0])}
	if want.Max > have.Max && unix.Setrlimit(unix.RLIMIT_NOFILE, &want) == nil {
		return nil
	}
	want.Max = have.Max // only root may raise it
	if want.Cur > want.Max {
		fmt.Fprintf(s.out, "erigon had %d open files as its limit, and this session allows %d: raise it for this user\n", want.Cur, want.Max)
		want.Cur = want.Max
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &want); err != nil {
		return fmt.Errorf("set the limit of open files: %w", err)
	}
	return nil
}

// open opens a standard stream. What is in a log stays there, even where it was started with ">".
func (s *starting) open(i int) (err error) {
	to := s.l.Files[i].Path
	if i == 0 {
		if to == "" {
			to = os.DevNull
		}
		s.files[0], err = os.Open(to)
		return err
	}
	if to == "" {
		to = filepath.Join(snapfwDir(s.datadir), launchOutput)
		fmt.Fprintf(s.out, "its output went to a terminal or a pipe: it goes to %s now\n", to)
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("open the log that erigon was launched with: %w", err)
	}
	s.files[i] = f
	if os.Geteuid() == 0 && s.l.UID != 0 && s.l.Files[i].Path == "" {
		err = f.Chown(s.l.UID, s.l.GID)
	}
	if info, e := f.Stat(); e == nil && info.Mode().IsRegular() {
		s.from[i] = info.Size()
	}
	return err
}

// await waits until the child, or what it started in its session, holds the lock and stays.
func (s *starting) await(ctx context.Context, deadline time.Time) error {
	child := s.cmd.Process.Pid
	var held *process
	var since time.Time
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		select {
		case err := <-s.ended:
			return s.gone(err)
		case <-ctx.Done():
			return fmt.Errorf("interrupted: erigon was started (pid %d) and goes on coming up", child)
		case <-time.After(pause):
		}
		// The table only: trying the lock now could end the node that is about to take it.
		p, err := lockHolder(s.datadir)
		if err != nil {
			return err
		}
		mine := p != nil && p.Start != 0 && (p.PID == child || sessionOf(p.PID) == child)
		switch {
		case !mine:
			held = nil
		case held == nil || *held != *p:
			held, since = p, time.Now()
		}
		if held != nil && time.Since(since) >= s.settle {
			fmt.Fprintf(s.out, "erigon runs on %s (%s)\n", s.datadir, held)
			return nil
		}
		if held == nil && time.Now().After(deadline) {
			return fmt.Errorf("erigon was started (pid %d) and does not hold the lock of %s after %s; it was left running: see its log", child, s.datadir, s.wait)
		}
	}
}

// gone is what to say of a child that ended.
func (s *starting) gone(err error) error {
	// Somebody else may have been quicker, which ends ours: then the node is up.
	if p, _ := lockHolder(s.datadir); p != nil && p.alive() && p.PID != s.cmd.Process.Pid && toolOf(argvOf(p.PID)) == "" {
		fmt.Fprintf(s.out, "erigon runs on %s (%s), started by somebody else\n", s.datadir, p)
		return nil
	}
	how := "exit code 0"
	if err != nil {
		how = err.Error()
	}
	text := fmt.Sprintf("erigon was started and ended at once (%s)", how)
	if last := s.lastLines(); last != "" {
		text += "; its last lines:\n" + last
	}
	next := "see its log; put right what it says and run launch start again, or start it by hand and run launch save"
	if _, err := os.Stat(filepath.Join(snapfwDir(s.datadir), launchBefore)); err == nil {
		next += "; how it was launched before that is in " + filepath.Join(snapfwDir(s.datadir), launchBefore)
	}
	return errors.New(text + "\n" + next)
}

// lastLines are the last lines that the child wrote, without secrets.
func (s *starting) lastLines() string {
	const most, lines = 16 << 10, 15
	var all []string
	for i := 1; i <= 2; i++ {
		if i == 2 && s.files[1].Name() == s.files[2].Name() {
			break
		}
		f, err := os.Open(s.files[i].Name())
		if err != nil {
			continue
		}
		info, err := f.Stat()
		if err == nil && info.Mode().IsRegular() && info.Size() > s.from[i] {
			from := max(s.from[i], info.Size()-most)
			b, _ := io.ReadAll(io.NewSectionReader(f, from, most))
			all = slices.Concat(all, strings.Split(string(bytes.TrimSpace(b)), "\n"))
		}
		f.Close()
	}
	return s.l.hide(strings.Join(all[max(0, len(all)-lines):], "\n"))
}
