package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// startOf reads when a process started from /proc/PID/stat (proc(5), field 22); 0 if it has ended.
func startOf(pid int) uint64 {
	f := statOf(pid)
	if len(f) < 20 || f[0][0] == 'Z' || f[0][0] == 'X' { // a zombie has ended
		return 0
	}
	n, err := strconv.ParseUint(string(f[19]), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// sessionOf is the process that leads the session of another.
func sessionOf(pid int) int {
	f := statOf(pid)
	if len(f) < 4 {
		return 0
	}
	n, _ := strconv.Atoi(string(f[3]))
	return n
}

// statOf are the fields of /proc/PID/stat from the third on: the program's name before, in brackets, may hold anything.
func statOf(pid int) [][]byte {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	return bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
}

// maxProc bounds what is read of a process's arguments and environment; Linux allows 6 MiB.
const maxProc = 8 << 20

func readProc(pid int, name string) ([]byte, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/%s", pid, name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxProc))
}

// words splits what the kernel keeps with a zero byte after each word.
func words(b []byte) []string {
	b = bytes.TrimSuffix(b, []byte{0})
	if len(b) == 0 {
		return nil
	}
	return strings.Split(string(b), "\x00")
}

// argvOf are the arguments of a process; nil if they can't be seen.
func argvOf(pid int) []string {
	b, err := readProc(pid, "cmdline")
	if err != nil {
		return nil
	}
	return words(b)
}

// toolWords are first words that make Erigon a tool which ends by itself, and programs that are one.
var toolWords = map[string]bool{
	"seg": true, "snapshot": true, "snapshots": true, "segment": true, "segments": true, "init": true, "import": true, "support": true,
	"integration": true, "downloader": true,
}

var ourPrograms = regexp.MustCompile(`^snapfw(-host|-erigon)?(-[0-9a-f]{12})?$`)

// toolOf names the tool that a process is, "" if it is a node. A node has no word that is not a flag or a flag's value.
func toolOf(argv []string) string {
	if len(argv) == 0 {
		return ""
	}
	program := filepath.Base(argv[0])
	if toolWords[program] || ourPrograms.MatchString(program) {
		return strings.Join(argv[:min(2, len(argv))], " ")
	}
	for i, w := range argv[1:] {
		before := argv[i]
		value := i > 0 && strings.HasPrefix(before, "-") && !strings.Contains(before, "=")
		if toolWords[w] && !value {
			next := argv[min(i+2, len(argv)-1)]
			return program + " " + w + " " + next
		}
	}
	return ""
}

// processStatus is what is used of /proc/PID/status.
type processStatus struct {
	UID, GID int // effective
	Groups   []int
	Umask    int
	Ignored  uint64 // signals, bit 0 is signal 1
}

func statusOf(pid int) (processStatus, error) {
	b, err := readProc(pid, "status")
	if err != nil {
		return processStatus{}, err
	}
	s := processStatus{UID: -1, GID: -1, Umask: 0o022}
	for line := range strings.Lines(string(b)) {
		key, rest, _ := strings.Cut(line, ":")
		f := strings.Fields(rest)
		if len(f) == 0 {
			continue
		}
		switch key {
		case "Uid":
			s.UID, err = strconv.Atoi(f[min(1, len(f)-1)])
		case "Gid":
			s.GID, err = strconv.Atoi(f[min(1, len(f)-1)])
		case "Groups":
			for _, g := range f {
				n, e := strconv.Atoi(g)
				s.Groups, err = append(s.Groups, n), errors.Join(err, e)
			}
		case "Umask":
			var n uint64
			n, err = strconv.ParseUint(f[0], 8, 16)
			s.Umask = int(n)
		case "SigIgn":
			s.Ignored, err = strconv.ParseUint(f[0], 16, 64)
		}
		if err != nil {
			return s, fmt.Errorf("%s of pid %d: %w", key, pid, err)
		}
	}
	if s.UID < 0 || s.GID < 0 {
		return s, fmt.Errorf("pid %d: its user can't be seen", pid)
	}
	return s, nil
}

// unitOf names the service of systemd that a process belongs to, "" if it is none of its own: what was started from
// a login, a cron table or by our guard is in a service too.
func unitOf(pid int) string {
	b, err := readProc(pid, "cgroup")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		unit := filepath.Base(strings.TrimSpace(line[strings.LastIndexByte(line, ':')+1:]))
		if strings.HasSuffix(unit, ".service") && !sharedUnit.MatchString(unit) {
			return unit
		}
	}
	return ""
}

var sharedUnit = regexp.MustCompile(`^(user@|cron|crond|atd|ssh|sshd|getty@|snapfw|docker|containerd|init)`)

// secretName tells flags and variables whose values are not for people's eyes.
var secretName = regexp.MustCompile(`(?i)secret|token|key|password|passwd|jwt|credential`)

// masked are arguments fit for a log: the values of flags that may be secrets are not in it.
func masked(argv []string) []string {
	out := slices.Clone(argv)
	for i, w := range out {
		name, value, joined := strings.Cut(w, "=")
		switch {
		case !strings.HasPrefix(name, "-") || !secretName.MatchString(name):
			out[i] = withoutPassword(w)
		case joined && value != "":
			out[i] = name + "=***"
		case !joined && i+1 < len(out) && !strings.HasPrefix(out[i+1], "-"):
			out[i+1] = "***"
		}
	}
	return out
}

var urlPassword = regexp.MustCompile(`(://[^/@\s:]*):[^/@\s]+@`)

func withoutPassword(s string) string { return urlPassword.ReplaceAllString(s, "$1:***@") }
