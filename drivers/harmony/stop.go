package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/snapfw/snapfw/drivers/docker"
)

// A node's absence does not say that it stopped cleanly: it may have panicked on the way, with its
// state not yet written. These are the verdicts of "stopped"; the order of trust is what
// the design lists: systemd, the container's exit code, the node's own last words.

var (
	errDirty   = docker.ErrDirty
	errUnknown = errors.New("nobody knows how it stopped, so its data can't be trusted")
	errRunning = errors.New("it is still running")
)

// lastWords is what a Harmony node prints when it has written everything (ShutDown in node.go).
const lastWords = "Successfully shut down!"

const pollEvery = 100 * time.Millisecond

// poll asks until there is an answer other than errRunning, or until the time is up.
func poll(ctx context.Context, ask func() error) error {
	for {
		err := ask()
		if !errors.Is(err, errRunning) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pollEvery):
		}
	}
}

func verbStopped(ctx context.Context, args []string, _, stderr io.Writer) int {
	fs := flags("stopped", stderr)
	var u unit
	c := containerFlags(fs)
	var l lastLog
	fs.StringVar(&u.Name, "unit", "", "systemd unit")
	fs.StringVar(&u.Systemctl, "systemctl", "systemctl", "path of systemctl")
	fs.StringVar(&u.Invocation, "invocation", "", "the unit's InvocationID while it ran")
	fs.StringVar(&l.Path, "log", "", "the node's log")
	fs.Uint64Var(&l.Inode, "inode", 0, "the log's inode while the node ran")
	fs.Int64Var(&l.Offset, "offset", 0, "the log's size while the node ran")
	fs.IntVar(&l.Node.PID, "pid", 0, "the node's process while it ran")
	fs.Uint64Var(&l.Node.Start, "pid-start", 0, "when that was started, as /proc says")
	fs.StringVar(&l.DB, "db", "", "the database's directory")
	timeout := fs.Duration("timeout", time.Minute, "how long to wait for it to end")
	if _, err := parse(fs, args, 0); err != nil {
		return usage(stderr, err)
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	var err error
	switch {
	case u.Name != "":
		err = poll(ctx, func() error { return u.stopped(ctx) })
	case c.Name != "":
		err = c.Await(ctx, *timeout)
	case l.Path != "":
		err = l.stopped(ctx)
	default:
		return usage(stderr, errors.New("stopped needs --unit, --container or --log"))
	}
	return fail(stderr, err)
}

// unit is a systemd unit, and the one invocation of it that was to be stopped.
type unit struct{ Name, Systemctl, Invocation string }

var unitProperties = []string{
	"LoadState", "ActiveState", "UnitFileState", "InvocationID", "Result", "ExecMainCode", "ExecMainStatus", "WantedBy", "RequiredBy",
}

func showUnit(systemctl, name string) []string {
	return []string{systemctl, "show", "--property=" + strings.Join(unitProperties, ","), "--", name}
}

// properties parses the output of systemctl show.
func properties(out []byte) map[string]string {
	m := map[string]string{}
	for _, line := range strings.Split(string(out), "\n") {
		if k, v, ok := strings.Cut(line, "="); ok {
			m[k] = v
		}
	}
	return m
}

func (u unit) stopped(ctx context.Context) error {
	argv := showUnit(u.Systemctl, u.Name)
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).Output()
	if err != nil {
		return fmt.Errorf("ask systemd about %s: %w", u.Name, sayStderr(err))
	}
	p := properties(out)
	switch p["ActiveState"] {
	case "inactive", "failed":
	case "":
		return fmt.Errorf("systemd says nothing about %s: %w", u.Name, errUnknown)
	default:
		if p["InvocationID"] != u.Invocation {
			return fmt.Errorf("%s was started anew meanwhile: %w", u.Name, errDirty)
		}
		return fmt.Errorf("%s is %s: %w", u.Name, p["ActiveState"], errRunning)
	}
	switch p["InvocationID"] {
	case u.Invocation:
	case "":
		// systemd forgets a unit that nothing wants, as soon as it ended well; show then
		// prints the defaults, which look like success.
		return u.journal(ctx)
	default:
		return fmt.Errorf("%s ran again since the plan was made: %w", u.Name, errDirty)
	}
	if p["Result"] != "success" || p["ExecMainStatus"] != "0" {
		return fmt.Errorf("%s ended with Result=%s, ExecMainStatus=%s: %w", u.Name, p["Result"], p["ExecMainStatus"], errDirty)
	}
	return nil
}

// remembered tells whether systemd will still know, after the stop, how the unit ended.
func remembered(p map[string]string) bool { return p["WantedBy"] != "" || p["RequiredBy"] != "" }

// journalReadable tells whether whoever asks may read what systemd itself writes.
func journalReadable(ctx context.Context) bool {
	out, err := exec.CommandContext(ctx, "journalctl", "-q", "--no-pager", "-o", "json", "-n", "1", "_PID=1").Output()
	return err == nil && len(bytes.TrimSpace(out)) > 0
}

// unitSucceeded is the MESSAGE_ID of systemd's journal entry for a unit that ended well
// (SD_MESSAGE_UNIT_SUCCESS in sd-messages.h).
const unitSucceeded = "7ad2d189f7e94e70a38c781354912448"

// journal asks the journal how the invocation ended. It waits for the entry: journald
// writes a moment after systemd acts.
func (u unit) journal(ctx context.Context) error {
	for range 20 {
		out, err := exec.CommandContext(ctx, "journalctl", "-q", "--no-pager", "-o", "json", "-n", "1",
			"INVOCATION_ID="+u.Invocation, "MESSAGE_ID="+unitSucceeded).Output()
		if err == nil && len(bytes.TrimSpace(out)) > 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return errUnknown
		case <-time.After(pollEvery):
		}
	}
	return fmt.Errorf("systemd forgot how %s ended and its journal does not tell: %w; enable the unit (systemctl enable %s), "+
		"or let the login user read the journal (group systemd-journal)", u.Name, errUnknown, u.Name)
}

// lastLog is the log of a node that an operator's own commands run.
type lastLog struct {
	Path   string
	Inode  uint64
	Offset int64
	Node   process
	DB     string
}

// stopped waits until the process is gone and the database let go, and then reads the node's
// last words. A node that panics may let go of its database before it says so.
func (l lastLog) stopped(ctx context.Context) error {
	err := poll(ctx, func() error {
		if l.Node.alive() {
			return fmt.Errorf("process %d: %w", l.Node.PID, errRunning)
		}
		release, err := lockShared(l.DB)
		if errors.Is(err, errRefused) {
			return fmt.Errorf("its database is open: %w", errRunning)
		}
		if err == nil {
			release()
		}
		return err
	})
	if err != nil {
		return err
	}
	// What captures the node's output may lag behind the node.
	for range 20 {
		if err = l.judge(); !errors.Is(err, errDirty) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pollEvery):
		}
	}
	return err
}

const tailSize = 64 << 10

// judge reads the log from where it ended while the node ran, or from its beginning if it was
// rotated since.
func (l lastLog) judge() error {
	f, err := os.Open(l.Path)
	if err != nil {
		return fmt.Errorf("open the node's log: %w: %w", err, errUnknown)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("look at the node's log: %w", err)
	}
	from := l.Offset
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Ino != l.Inode || info.Size() < from {
		from = 0
	}
	from = max(from, info.Size()-tailSize)
	tail, err := io.ReadAll(io.NewSectionReader(f, from, tailSize))
	if err != nil {
		return fmt.Errorf("read the node's log: %w", err)
	}
	return judgeTail(tail)
}

// judgeTail wants the last words to be the last line. Only the node's own JSON records may
// follow: other parts of it may log until the process is gone.
func judgeTail(tail []byte) error {
	lines := strings.Split(string(tail), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		line := strings.TrimSpace(lines[i])
		if strings.Contains(line, lastWords) {
			return nil
		}
		if line != "" && !json.Valid([]byte(line)) {
			return fmt.Errorf("the node's log ends with %.200q: %w", telling(lines, line), errDirty)
		}
	}
	return fmt.Errorf("the node's log does not end with %q: %w", lastWords, errDirty)
}

// telling picks the line of a panic that says what happened, else the last one.
func telling(lines []string, last string) string {
	for _, line := range lines {
		if strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:") {
			return line
		}
	}
	return last
}

// verbSignal asks a container to stop and never kills it: docker stop would, at its timeout.
func verbSignal(ctx context.Context, args []string, _, stderr io.Writer) int {
	fs := flags("signal", stderr)
	c := containerFlags(fs)
	if _, err := parse(fs, args, 0); err != nil {
		return usage(stderr, err)
	}
	return fail(stderr, c.Tell(ctx))
}

// containerFlags are the flags that name a container and the one start of it that is meant.
func containerFlags(fs *flag.FlagSet) *docker.Container {
	var c docker.Container
	fs.StringVar(&c.Name, "container", "", "Docker container")
	fs.StringVar(&c.Docker, "docker", "docker", "path of docker")
	fs.StringVar(&c.ID, "id", "", "the container's id while it ran")
	fs.StringVar(&c.Started, "started", "", "when the container was started")
	return &c
}

// containerWords are those flags.
func containerWords(s spec, e scene) []string {
	return []string{"--container", s.Run.Container, "--id", e.Container.ID, "--started", e.Container.State.StartedAt,
		"--docker", e.Look.Programs["docker"]}
}

// sayStderr adds what a program printed to the error of its exit.
func sayStderr(err error) error {
	var e *exec.ExitError
	if errors.As(err, &e) && len(e.Stderr) > 0 {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(e.Stderr))
	}
	return err
}
