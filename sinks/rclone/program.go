package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// program is rclone as it is run: in a clean environment, with one configuration.
type program struct {
	path   string
	env    []string
	conf   placed
	redact *strings.Replacer
}

// cleanEnv is what rclone gets. A foreign variable can break it: Debian's rclone dies of an AWS_CA_BUNDLE
// that it can't read, and RCLONE_… change what any option means.
func cleanEnv(getenv func(string) string) []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
	for _, name := range []string{"HOME", "USER", "LOGNAME", "TMPDIR"} {
		if v := getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

func newProgram(path string, env []string, content []byte, beside string) (program, error) {
	if path == "" {
		found, err := exec.LookPath("rclone")
		if err != nil {
			return program{}, errors.New("rclone is not installed on this machine; install it (Debian: apt install rclone) or put it into PATH")
		}
		path = found
	}
	conf, err := place(content, beside)
	if err != nil {
		return program{}, err
	}
	return program{path: path, env: env, conf: conf, redact: redactor(content)}, nil
}

func (p program) close() { p.conf.remove() }

var secretLine = regexp.MustCompile(`(?im)^[ \t]*\w*(?:pass|secret|token|key|sas|bearer|credential|auth|user|account)\w*[ \t]*=[ \t]*(\S.*?)[ \t\r]*$`)

// redactor replaces what looks like a secret in a configuration, so that no message of rclone holds it.
func redactor(content []byte) *strings.Replacer {
	var pairs []string
	for _, m := range secretLine.FindAllSubmatch(content, -1) {
		if v := string(m[1]); len(v) >= 6 { // "true" and the like are no secrets
			pairs = append(pairs, v, "***")
		}
	}
	return strings.NewReplacer(pairs...)
}

// command makes an rclone that ends with this process, whatever ends this process. It must
// be started and waited for by run, or by a goroutine locked to its thread: the kernel looks at the thread.
func (p program) command(ctx context.Context, args ...string) *exec.Cmd {
	argv := []string{"--ask-password=false", "--s3-no-check-bucket"}
	if p.conf.path != "" {
		argv = append(argv, "--config", p.conf.path)
	}
	cmd := exec.CommandContext(ctx, p.path, append(argv, args...)...)
	cmd.Env = p.env
	if p.conf.file != nil {
		cmd.ExtraFiles = []*os.File{p.conf.file}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	return cmd
}

// exitError is an rclone that did not exit with 0.
type exitError struct {
	verb string
	code int
	said string // the last line of its messages, without secrets
}

func (e *exitError) Error() string {
	return fmt.Sprintf("rclone %s: exit %d (%s): %s", e.verb, e.code, meaning(e.code), e.said)
}

// meaning is from rclone's manual, "Exit code".
func meaning(code int) string {
	switch code {
	case 2:
		return "not usable as it was called"
	case 3:
		return "directory not found"
	case 4:
		return "file not found"
	case 5:
		return "temporary error"
	case 6, 7:
		return "it will not work by trying again"
	case 128 + 9, 128 + 15:
		return "killed"
	}
	return "error"
}

// notFound tells whether rclone said that something is not there.
func notFound(err error) bool {
	var e *exitError
	return errors.As(err, &e) && (e.code == 3 || e.code == 4)
}

// run runs rclone to its end and returns at most limit bytes of its output; more is an error.
func (p program) run(ctx context.Context, stdin io.Reader, limit int64, args ...string) ([]byte, error) {
	var out bytes.Buffer
	err := p.stream(ctx, stdin, func(r io.Reader) error {
		n, err := io.Copy(&out, io.LimitReader(r, limit+1))
		if err == nil && n > limit {
			return fmt.Errorf("rclone %s: more than %d bytes", args[0], limit)
		}
		return err
	}, args...)
	if err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// stream runs rclone and gives its output to read. If read returns an error rclone is ended,
// and that error is the answer.
func (p program) stream(ctx context.Context, stdin io.Reader, read func(io.Reader) error, args ...string) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := p.command(ctx, append(args, "--retries", "1")...)
	cmd.Stdin = stdin
	said := &tail{}
	cmd.Stderr = said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start rclone: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start rclone: %w", err)
	}
	readErr := read(out)
	if readErr != nil {
		cancel()
	}
	waitErr := cmd.Wait()
	switch {
	case readErr != nil:
		return readErr
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return p.exit(args[0], waitErr, said.last())
}

// exit makes an error of how an rclone ended.
func (p program) exit(verb string, err error, said string) error {
	var e *exec.ExitError
	if !errors.As(err, &e) {
		if err != nil {
			return fmt.Errorf("rclone %s: %w", verb, err)
		}
		return nil
	}
	code := e.ExitCode()
	if st, ok := e.Sys().(syscall.WaitStatus); ok && st.Signaled() {
		code = 128 + int(st.Signal())
	}
	return &exitError{verb: verb, code: code, said: p.redact.Replace(said)}
}

// tail keeps the end of what is written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if len(t.b) > 16<<10 {
		t.b = append([]byte(nil), t.b[len(t.b)-8<<10:]...)
	}
	return len(p), nil
}

var logTime = regexp.MustCompile(`^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d `)

// last is the last line, without its time.
func (t *tail) last() string {
	lines := strings.Split(strings.TrimSpace(string(t.b)), "\n")
	return logTime.ReplaceAllString(lines[len(lines)-1], "")
}

// features is what a storage can do, as "rclone backend features" says.
type features struct {
	Root     string
	Features struct {
		Copy, BucketBased, DuplicateFiles, IsLocal, CanHaveEmptyDirectories bool
	}
}

// features asks rclone. For an absolute directory it does not have to.
func (p program) features(ctx context.Context, to string) (features, error) {
	var f features
	if isDir(to) {
		f.Root = to
		f.Features.IsLocal, f.Features.CanHaveEmptyDirectories = true, true
		return f, nil
	}
	out, err := p.run(ctx, nil, 1<<20, "backend", "features", to)
	if err != nil {
		return f, err
	}
	if err := json.Unmarshal(out, &f); err != nil {
		return f, fmt.Errorf("rclone backend features: %w", err)
	}
	if f.Features.IsLocal && !isDir(f.Root) {
		return f, fmt.Errorf("rclone says that %s is the directory %q: not absolute", to, f.Root)
	}
	return f, nil
}
