//go:build linux

package onhost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// launchWatch starts the process of a guard such that it outlives this session, and sees that it
// really lives. It refuses where it can't; the note is for where nobody knows.
func launchWatch(root, key, dir string) (note string, err error) {
	for _, by := range []string{"systemd-run", "setsid"} {
		if by == "systemd-run" && (!systemdRuns() || !runUnit(root, key, dir)) {
			continue
		}
		if by == "setsid" {
			if note, err = sessionNote(); err != nil {
				return "", err
			}
			if err := detach(root, key, dir); err != nil {
				return "", err
			}
		}
		until := time.Now().Add(5 * time.Second)
		for p := (poll{}); time.Now().Before(until); p.sleep() {
			if aliveIn(inDir(dir, fileWatch)) || stateIn(dir) != Armed && stateIn(dir) != Copied {
				return note, nil
			}
		}
	}
	return "", errors.Join(errors.New("its process did not come up within 5s"), firstOf(inDir(dir, "watch.log")))
}

// detach starts the watcher in a session of its own.
func detach(root, key, dir string) error {
	log, err := os.OpenFile(inDir(dir, "watch.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd, err := ourselves(root, "guard", "watch", "--by", "setsid", key)
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	return cmd.Process.Release()
}

// runUnit asks systemd to run the watcher, in the first way that is permitted: as root, by sudo,
// or by the user's own systemd if that one outlives the session (linger).
func runUnit(root, key, dir string) bool {
	self, err := os.Executable()
	if err != nil {
		return false
	}
	unit := "snapfw-guard-" + key + "-" + filepath.Base(dir) + "-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	// KillMode=process: what an undo started must not end with the unit.
	opts := []string{"--quiet", "--collect", "--unit=" + unit, "--property=KillMode=process"}
	watch := []string{"--", self, "-root", root, "guard", "watch", "--by", "systemd-run", key}
	uid := strconv.Itoa(os.Getuid())
	if uid == "0" {
		return runs(nil, "systemd-run", opts, watch)
	}
	as := append(opts[:len(opts):len(opts)], "--uid="+uid, "--gid="+strconv.Itoa(os.Getgid()))
	if runs(nil, "sudo", []string{"-n", "systemd-run"}, as, watch) {
		return true
	}
	if !exists("/var/lib/systemd/linger/" + login().Username) {
		return false
	}
	bus := []string{"XDG_RUNTIME_DIR=/run/user/" + uid}
	return runs(bus, "systemd-run", []string{"--user"}, opts, watch)
}

func runs(env []string, name string, args ...[]string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var all []string
	for _, a := range args {
		all = append(all, a...)
	}
	cmd := exec.CommandContext(ctx, name, all...)
	cmd.Env = append(os.Environ(), env...)
	return cmd.Run() == nil
}

// rebootMark ends the one line that a guard has in the login user's crontab.
func rebootMark(key string) string { return "# snapfw guard " + key }

// addReboot adds the line; it returns why that was not possible.
func addReboot(root, key string) string {
	self, err := os.Executable()
	if err != nil {
		return "no @reboot line: " + err.Error()
	}
	if strings.ContainsAny(self+root, " \t\n%'\"\\$`;&|<>()*?[]#~") {
		return "no @reboot line: " + root + " holds a character that crontab would misread"
	}
	line := fmt.Sprintf("@reboot %s -root %s guard reboot %s %s", self, root, key, rebootMark(key))
	if err := editCrontab(root, key, line); err != nil {
		return "no @reboot line: " + err.Error()
	}
	return ""
}

// dropReboot removes the line if there is one; it returns why that was not possible.
func dropReboot(root, key string) string {
	var g armedGuard
	dir, _ := guardNow(root, key)
	if readJSON(inDir(dir, fileGuard), &g) != nil || !g.Reboot {
		return ""
	}
	if _, err := exec.LookPath("crontab"); err != nil {
		return ""
	}
	if err := editCrontab(root, key, ""); err != nil {
		return "the @reboot line is still there: " + err.Error()
	}
	return ""
}

// editCrontab replaces the guard's line in the login user's crontab; all other lines stay.
func editCrontab(root, key, line string) error {
	if _, err := exec.LookPath("crontab"); err != nil {
		return errors.New("crontab is not installed")
	}
	l, err := lockFile(filepath.Join(root, "guard", ".crontab"), true)
	if err != nil {
		return err
	}
	defer l.Close()
	was, err := crontab("", "-l")
	if err != nil && !strings.Contains(err.Error(), "no crontab") && !strings.Contains(err.Error(), "No such file") {
		return err // an unknown table is not overwritten
	}
	is := withLine(was, rebootMark(key), line)
	if is == was {
		return nil
	}
	_, err = crontab(is, "-")
	return err
}

// withLine replaces the lines that end with a mark by one line, or by none.
func withLine(text, mark, line string) string {
	var b strings.Builder
	for l := range strings.Lines(text) {
		if !strings.HasSuffix(strings.TrimRight(l, "\n"), mark) {
			b.WriteString(strings.TrimRight(l, "\n") + "\n")
		}
	}
	if line != "" {
		b.WriteString(line + "\n")
	}
	return b.String()
}

func crontab(in, arg string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "crontab", arg)
	cmd.Stdin = strings.NewReader(in)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("crontab %s: %w: %s", arg, err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}
