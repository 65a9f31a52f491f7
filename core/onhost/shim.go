//go:build linux

package onhost

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// shimJob is the first line that "exec" reads; the names of signals follow it. So the
// environment is in no argv, and sudo's rules about signals and names don't matter.
type shimJob struct {
	Argv []string
	Dir  string
	Env  []string
}

// execShim runs a program as the user that sudo made us, and exits as it does.
func execShim(c *call) error {
	in := bufio.NewReader(io.LimitReader(c.stdin, maxInput))
	line, err := in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read what to run: %w", err)
	}
	var s shimJob
	if err := json.Unmarshal(line, &s); err != nil {
		return fmt.Errorf("read what to run: %w", err)
	}
	if len(s.Argv) == 0 {
		return usagef("exec: no program")
	}
	cmd, err := plain(Job{Argv: s.Argv, Dir: s.Dir}, login(), s.Env)
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	sigs := make(chan os.Signal, 8)
	signal.Notify(sigs, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		for s := range sigs {
			if s != unix.SIGHUP {
				unix.Kill(-cmd.Process.Pid, s.(unix.Signal))
			}
		}
	}()
	go func() {
		for {
			name, err := in.ReadString('\n')
			if err != nil {
				return // our supervisor is gone; the program is not ended for that
			}
			if sig, ok := signals[strings.TrimSpace(name)]; ok {
				unix.Kill(-cmd.Process.Pid, sig)
			}
		}
	}()
	code, err := exitCode(cmd.Wait())
	if err != nil {
		return err
	}
	if code != 0 {
		return &exitError{code: code}
	}
	return nil
}

// exitCode is what Wait returned, as a shell counts: 128+n for one that was ended by signal n.
func exitCode(err error) (int, error) {
	var ex *exec.ExitError
	if err == nil {
		return 0, nil
	}
	if !errors.As(err, &ex) {
		return -1, err
	}
	if ws, ok := ex.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return ex.ExitCode(), nil
}
