package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxLogLine = 16 << 10  // longer lines are judged in pieces
	maxLogFile = 256 << 20 // what is kept of one log
	logsKept   = 10        // of a verb
	toldLines  = 50        // warnings that are passed on; all are in the log
)

// toolRun is one command of a program, and what it left.
type toolRun struct {
	args   []string
	judge  lineJudge
	answer func(question string) string // nil: its input is empty
	output func(line string)            // each line of its stdout, which is no log

	log string // the path of the log that is kept
	mu  sync.Mutex
	to  *keptLog
	was time.Time // of the last progress
	at  int64
	n   int // warnings told

	held []string // lines of which one may be the error, which is said at the end
}

// run runs a command to its end. An interrupt is passed on as SIGINT, and then it is waited for: a program that is killed while it
// merges leaves half of a range behind. The error is what is decisive: the log's worst line rather than the exit code, which is 0
// for many failures.
func (t *tool) run(ctx context.Context, r *toolRun) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s was not begun: %w", t.verb, err)
	}
	log, err := t.newLog()
	if err != nil {
		return err
	}
	defer log.Close()
	r.to, r.log, r.judge.Step = log, log.path, func(done, total int64) { t.step(r, done, total) }
	fmt.Fprintf(log, "# %s %s\n", t.program, strings.Join(r.args, " "))
	err = t.wait(ctx, r)
	for _, line := range r.held {
		if line != r.judge.decisive() {
			t.say("%s", line)
		}
	}
	if said := r.judge.err(); said != nil {
		if err != nil {
			said = &toolError{said, fmt.Sprintf(" (%v)", err)}
		}
		err = said
	}
	switch {
	case err == nil && ctx.Err() != nil:
		// integration says nothing when it is interrupted, and exits with 0.
		err = fmt.Errorf("%s was interrupted: run it again", t.verb)
	case err == nil:
		return log.sync()
	}
	fmt.Fprintf(log, "# %v\n", err)
	return errors.Join(&toolError{err, "; the whole log: " + r.log}, log.sync())
}

// toolError is an error with more behind its text.
type toolError struct {
	error
	more string
}

func (e *toolError) Error() string { return e.error.Error() + e.more }
func (e *toolError) Unwrap() error { return e.error }

// wait starts the command in a process group of its own, so that a signal to ours does not reach it twice.
func (t *tool) wait(ctx context.Context, r *toolRun) error {
	cmd := exec.Command(t.program, r.args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	var stdin io.WriteCloser
	if r.answer != nil {
		if stdin, err = cmd.StdinPipe(); err != nil {
			return err
		}
	}
	if err := cmd.Start(); err != nil {
		return declinef("start %s: %v", t.program, err)
	}
	over := make(chan struct{})
	go func() {
		select {
		case <-ctx.Done():
			cmd.Process.Signal(unix.SIGINT)
		case <-over:
		}
	}()
	var readers sync.WaitGroup
	readers.Go(func() { t.read(r, stdout, true, stdin) })
	readers.Go(func() { t.read(r, stderr, false, nil) })
	readers.Wait()
	err = cmd.Wait()
	close(over)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("%s %s: %s", filepath.Base(t.program), strings.Join(r.args[:min(2, len(r.args))], " "), exit.ProcessState)
	}
	return err
}

// question is what a line ends in while Erigon waits for an answer.
const question = "(pick number): "

// read cuts a stream into lines. A question has no end of line, so each piece is looked at as it comes.
func (t *tool) read(r *toolRun, from io.Reader, out bool, stdin io.Writer) {
	br := bufio.NewReaderSize(from, maxLogLine)
	var text []byte // what came since the last question
	for {
		piece, err := nextPiece(br)
		if len(piece) > 0 {
			r.mu.Lock()
			r.to.Write(piece)
			ended := piece[len(piece)-1] == '\n'
			t.take(r, strings.TrimSuffix(string(piece), "\n"), out, ended)
			r.mu.Unlock()
			text = append(text[max(0, len(text)-4096):], piece...)
			if !ended && stdin != nil && bytes.HasSuffix(text, []byte(question)) {
				// Its input may have ended; then its next lines tell.
				answer := r.answer(string(text)) + "\n"
				fmt.Fprintf(r.to, "\n# answered %s", answer)
				io.WriteString(stdin, answer)
				text = nil
			}
		}
		if err != nil {
			return
		}
	}
}

// nextPiece is a line with its end, or what there is of one when it is a question, too long, or the last.
func nextPiece(br *bufio.Reader) ([]byte, error) {
	var piece []byte
	for len(piece) < maxLogLine {
		c, err := br.ReadByte()
		if err != nil {
			return piece, err
		}
		piece = append(piece, c)
		if c == '\n' || c == ' ' && br.Buffered() == 0 && bytes.HasSuffix(piece, []byte(question)) {
			break
		}
	}
	return piece, nil
}

func (t *tool) take(r *toolRun, line string, out, ended bool) {
	if r.judge.line(line) {
		text := clipped(plain(line), 500)
		switch r.n++; {
		case r.n > toldLines:
		case r.judge.mayDecide(text):
			r.held = append(r.held, text)
		default:
			t.say("%s", text)
		}
	}
	if out && ended && r.output != nil {
		r.output(line)
	}
}

// step passes progress on, at most twice a second.
func (t *tool) step(r *toolRun, done, total int64) {
	if done == r.at || done < total && time.Since(r.was) < 500*time.Millisecond {
		return
	}
	r.was, r.at = time.Now(), done
	t.progress(done, total)
}

// keptLog is a command's whole log, up to a limit.
type keptLog struct {
	path string
	f    *os.File
	mu   sync.Mutex
	n    int
	bad  error
}

// newLog makes DATADIR/.snapfw/logs/VERB-TIME.log and removes the oldest of the verb's.
func (t *tool) newLog() (*keptLog, error) {
	dir := filepath.Join(snapfwDir(t.datadir), "logs")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("keep the log: %w", err)
	}
	old, err := filepath.Glob(filepath.Join(dir, t.verb+"-[0-9]*.log"))
	if err != nil {
		return nil, err
	}
	slices.Sort(old)
	for len(old) >= logsKept {
		if err := os.Remove(old[0]); err != nil && !os.IsNotExist(err) {
			return nil, fmt.Errorf("remove an old log: %w", err)
		}
		old = old[1:]
	}
	path := filepath.Join(dir, t.verb+"-"+time.Now().UTC().Format("20060102T150405.000000")+".log")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("keep the log: %w", err)
	}
	return &keptLog{path: path, f: f}, nil
}

// Write never fails: a full disk must not end a merge. What could not be written is said at the end.
func (l *keptLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bad == nil && l.n+len(p) <= maxLogFile {
		_, l.bad = l.f.Write(p)
		l.n += len(p)
	}
	return len(p), nil
}

func (l *keptLog) sync() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bad != nil {
		return fmt.Errorf("keep the log: %w", l.bad)
	}
	return l.f.Sync()
}

func (l *keptLog) Close() error { return l.f.Close() }
