package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/snapfw/snapfw/core"
)

// Machine is one machine: this one, or another over ssh. It connects when it has to. Errors
// name it; they are Errors where the operator can do something.
type Machine struct {
	at      carrier
	options Options
	files   *library

	entry chan struct{} // held by whoever settles; a mutex that can be left

	mu      sync.Mutex
	settled *ground
	epoch   int               // of at, when it settled
	placed  map[string]string // what was seen to lie there since
}

// String names the machine for people: "ubuntu@10.0.0.1", "this machine".
func (m *Machine) String() string { return m.at.String() }

// Close ends the connection; jobs and guards go on, and a later call connects again.
func (m *Machine) Close() error { return m.at.close() }

// ground returns what is known of the machine, looking anew after a lost connection.
func (m *Machine) ground(ctx context.Context) (*ground, error) {
	select {
	case m.entry <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-m.entry }()
	epoch := m.at.epoch()
	m.mu.Lock()
	g := m.settled
	if m.epoch != epoch {
		g = nil
	}
	m.mu.Unlock()
	if g != nil {
		return g, nil
	}
	cores, err := m.files.corePrograms(m.options.Core)
	if err != nil {
		return nil, err
	}
	if g, err = settle(ctx, m.at, m.options.HostDir, cores); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.settled, m.epoch, m.placed = g, epoch, map[string]string{}
	return g, nil
}

// unsettle forgets what was seen there: something of it is gone.
func (m *Machine) unsettle() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.settled = nil
}

func (m *Machine) remembered(what string) (string, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, ok := m.placed[what]
	return p, ok
}

func (m *Machine) remember(what, path string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.placed[what] = path
}

// patience is for how long a call that can be made twice is tried again.
const patience = 10 * time.Second

// again calls f until it succeeds, fails for good, or patience is over. f can be
// called any number of times.
func (m *Machine) again(ctx context.Context, f func() error) error {
	deadline := time.Now().Add(patience)
	for wait := 100 * time.Millisecond; ; wait *= 2 {
		err := f()
		if err == nil || ctx.Err() != nil || !passing(err) || time.Now().Add(wait).After(deadline) {
			return err
		}
		m.options.Log.Info("trying again", "machine", m.String(), "after", err)
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Run runs a program as the login user, in a clean environment and the user's home, to look at
// something. Its exit code is no error. After a cut connection it is run again.
func (m *Machine) Run(ctx context.Context, self Binary, argv ...string) (core.Output, error) {
	var out core.Output
	err := m.again(ctx, func() error {
		g, err := m.ground(ctx)
		if err != nil {
			return err
		}
		words, err := m.resolve(ctx, g, self, argv)
		if err != nil {
			return err
		}
		var stdout, stderr capped
		exit, err := m.at.exec(ctx, command{argv: words, home: g.home, user: g.user, stdout: &stdout, stderr: &stderr, end: true})
		out = core.Output{Stdout: stdout.bytes(), Stderr: stderr.bytes(), Exit: exit}
		return err
	})
	if err != nil {
		return core.Output{}, err
	}
	return out, nil
}

// as makes an argv run as another user.
func (m *Machine) as(g *ground, user string, argv []string) ([]string, error) {
	switch {
	case user == "" || user == g.user:
		return argv, nil
	case !userName.MatchString(user):
		return nil, fmt.Errorf("%s: %q is no user name", m, user)
	case g.uid == 0: // root needs no sudo, and a small machine has none
		line, err := shellLine(argv)
		if err != nil {
			return nil, err
		}
		return []string{"su", "-s", "/bin/sh", user, "-c", "exec " + line}, nil
	}
	return append([]string{"sudo", "-n", "-u", user, "--"}, argv...), nil
}

// asUser runs a program as another user and returns what it printed.
func (m *Machine) asUser(ctx context.Context, g *ground, user string, stdin []byte, stdout io.Writer, argv ...string) error {
	words, err := m.as(g, user, argv)
	if err != nil {
		return err
	}
	var stderr capped
	exit, err := m.at.exec(ctx, command{argv: words, home: g.home, user: g.user, stdin: stdin, stdout: stdout, stderr: &stderr})
	if err != nil || exit == 0 {
		return err
	}
	if user != "" && user != g.user {
		if err := sudoTrouble(m.String(), g.user, user, exit, stderr.bytes()); err != nil {
			return err
		}
		if strings.HasPrefix(argv[0], g.root) && denied(exit, stderr.bytes()) {
			return m.outOfReach(g, user)
		}
	}
	return &exitCode{exit, lastLine(stderr.bytes())}
}

// exitCode is a program that failed.
type exitCode struct {
	code int
	said string
}

func (e *exitCode) Error() string {
	if e.said == "" {
		return fmt.Sprintf("exit %d", e.code)
	}
	return fmt.Sprintf("exit %d: %s", e.code, e.said)
}

// denied tells whether a program failed because its user can't get at it.
func denied(exit int, stderr []byte) bool {
	text := strings.ToLower(string(stderr))
	return (exit == 126 || exit == 127 || strings.Contains(text, "sudo: ")) &&
		(strings.Contains(text, "permission denied") || strings.Contains(text, "not found"))
}

// outOfReach says how another user gets at what is placed. The folder is moved, not made anew: one that is in
// use stays the root.
func (m *Machine) outOfReach(g *ground, user string) error {
	next := "set host_dir to a folder that both can enter"
	if m.options.HostDir == "" && g.root != systemRoot {
		next = fmt.Sprintf("move it there (sudo mv -T %s %s), or %s", quote(g.root), systemRoot, next)
	}
	return &Error{Kind: ErrNoExec, Machine: m.String(), Msg: fmt.Sprintf(
		"%s can't run programs from %s, since a folder above it is closed to others: %s", user, g.root, next)}
}

// maxFile limits what Open reads and Write takes.
const maxFile = 256 << 20

// Open reads a regular file, of 256 MiB at most, as a user: "" the login user. One that is not
// there is fs.ErrNotExist.
func (m *Machine) Open(ctx context.Context, user, name string) (io.ReadCloser, error) {
	var body capped
	err := m.again(ctx, func() error {
		g, err := m.ground(ctx)
		if err != nil {
			return err
		}
		body = capped{limit: maxFile + 1}
		return m.asUser(ctx, g, user, nil, &body, g.core, "-root", g.root, "cat", name)
	})
	var code *exitCode
	switch {
	case errors.As(err, &code) && code.code == core.ExitRefused:
		return nil, fmt.Errorf("%s: read %s: %w", m, name, fs.ErrNotExist)
	case errors.As(err, &code):
		return nil, fmt.Errorf("%s: read %s: %w", m, name, err)
	case err != nil:
		return nil, err
	case len(body.bytes()) > maxFile:
		return nil, fmt.Errorf("%s: read %s: it is larger than %d MiB", m, name, maxFile>>20)
	}
	return io.NopCloser(bytes.NewReader(body.bytes())), nil
}

// Write replaces a file, of 256 MiB at most, as a user: "" the login user. It is readable by that
// user alone. A reader sees the old file or the whole new one, also when the connection is cut.
func (m *Machine) Write(ctx context.Context, user, name string, r io.Reader) error {
	body, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return fmt.Errorf("%s: write %s: %w", m, name, err)
	}
	if len(body) > maxFile {
		return fmt.Errorf("%s: write %s: it is larger than %d MiB", m, name, maxFile>>20)
	}
	if !path.IsAbs(name) {
		return fmt.Errorf("%s: write %q: the path is not absolute", m, name)
	}
	err = m.again(ctx, func() error { return m.replace(ctx, user, path.Clean(name), body) })
	var code *exitCode
	if errors.As(err, &code) {
		return fmt.Errorf("%s: write %s: %w", m, name, err)
	}
	return err
}

// replace writes beside, reads back and renames: to the program that writes, a cut connection
// looks like the end of the file.
func (m *Machine) replace(ctx context.Context, user, name string, body []byte) error {
	g, err := m.ground(ctx)
	if err != nil {
		return err
	}
	tmp := tempName(name)
	if err := m.asUser(ctx, g, user, body, io.Discard, g.core, "-root", g.root, "put", tmp); err != nil {
		return err
	}
	back := capped{limit: len(body) + 1}
	if err := m.asUser(ctx, g, user, nil, &back, g.core, "-root", g.root, "cat", tmp); err != nil {
		return err
	}
	if !bytes.Equal(back.bytes(), body) {
		m.asUser(ctx, g, user, nil, io.Discard, "rm", "-f", tmp)
		return fmt.Errorf("%s: write %s: what arrived differs from what was sent: is the disk full?", m, name)
	}
	return m.asUser(ctx, g, user, nil, io.Discard, "mv", "-f", tmp, name)
}
