//go:build linux

package onhost

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// sessionNote is for a guard that only has a session of its own: logind ends it with the login session
// all the same where KillUserProcesses is set, and then nobody would start the node.
func sessionNote() (note string, err error) {
	cgroup, _ := os.ReadFile("/proc/self/cgroup")
	if !systemdRuns() || !strings.Contains(string(cgroup), "/session-") {
		return "", nil
	}
	me := login().Username
	next := fmt.Sprintf("let %s have processes beyond that: sudo loginctl enable-linger %s", me, me)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "busctl", "get-property", "org.freedesktop.login1", "/org/freedesktop/login1",
		"org.freedesktop.login1.Manager", "KillUserProcesses", "KillExcludeUsers", "KillOnlyUsers").Output()
	kills, ok := killsProcesses(string(out), me)
	switch {
	case err != nil || !ok:
		return "the guard ends with the login session where logind has KillUserProcesses=yes; to be sure, " + next, nil
	case kills:
		return "", refusef("logind ends every process of %s with the login session (KillUserProcesses=yes), the guard too: %s", me, next)
	}
	return "", nil
}

// killsProcesses reads what busctl prints of KillUserProcesses, KillExcludeUsers and KillOnlyUsers
// (logind.conf(5)): "b true", `as 1 "root"`, "as 0". ok is false when that is something else.
func killsProcesses(text, user string) (kills, ok bool) {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) != 3 {
		return false, false
	}
	exclude, ok1 := busNames(lines[1])
	only, ok2 := busNames(lines[2])
	if !ok1 || !ok2 || lines[0] != "b true" && lines[0] != "b false" {
		return false, false
	}
	return lines[0] == "b true" && !slices.Contains(exclude, user) && (len(only) == 0 || slices.Contains(only, user)), true
}

// busNames reads a list of strings as busctl prints it.
func busNames(line string) ([]string, bool) {
	f := strings.Fields(line)
	if len(f) < 2 || f[0] != "as" || f[1] != strconv.Itoa(len(f)-2) {
		return nil, false
	}
	for i, word := range f[2:] {
		name, err := strconv.Unquote(word)
		if err != nil {
			return nil, false
		}
		f[2+i] = name
	}
	return f[2:], true
}
