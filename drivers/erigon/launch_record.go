package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	launchFile   = "launch.json"
	launchBefore = "launch.json.1"
	launchLock   = "launch.lock"
	stoppingFile = "stopping.json"
	launchOutput = "launched.log" // of a node whose output went to a terminal or a pipe
)

// launch is how a process was started: what launch.json holds. Its environment and its arguments may be
// secret, so the file is for its owner only, and neither is printed.
type launch struct {
	Argv   []string   `json:"argv"`
	Exe    string     `json:"exe"`
	Env    []string   `json:"env"`
	Dir    string     `json:"dir"`
	Files  [3]stream  `json:"files"` // standard input, output, error
	UID    int        `json:"uid"`
	GID    int        `json:"gid"`
	Groups []int      `json:"groups,omitempty"`
	Nice   int        `json:"nice,omitempty"`
	Umask  int        `json:"umask"`
	Open   [2]uint64  `json:"open_files"` // soft and hard limit; 0 0 is not known
	When   *time.Time `json:"when,omitempty"`
}

// stream is where a standard stream went. Path is empty for a terminal, a pipe or a file that is gone.
type stream struct {
	Path   string `json:"path,omitempty"`
	Append bool   `json:"append,omitempty"`
}

// snapfwDir is our folder in a datadir.
func snapfwDir(datadir string) string { return filepath.Join(datadir, ".snapfw") }

// errNoLaunch is returned where no launch was saved.
var errNoLaunch = errors.New("it was never saved how erigon is launched here: start it by hand once, and run launch save while it runs")

// lookAtLaunch reads how a process was started. It declines what can't be started the same way from here.
func lookAtLaunch(p process) (launch, error) {
	var l launch
	status, err := statusOf(p.PID)
	if err != nil {
		return l, fmt.Errorf("look at %s: %w", p, err)
	}
	if me := os.Geteuid(); me != 0 && status.UID != me {
		return l, declinef("%s, which holds the lock, belongs to uid %d and this is uid %d: run it as the owner of the node", p, status.UID, me)
	}
	l = launch{UID: status.UID, GID: status.GID, Groups: status.Groups, Umask: status.Umask}
	if l.Argv = argvOf(p.PID); len(l.Argv) == 0 {
		return l, declinef("%s shows no arguments: it is ending", p)
	}
	if tool := toolOf(l.Argv); tool != "" {
		return l, declinef("the lock is held by %q (%s), which is no node: wait until it has ended", tool, p)
	}
	if here, there := link("self", "ns/mnt"), link(strconv.Itoa(p.PID), "ns/mnt"); here != there {
		return l, declinef("%s runs in a container: say so in the configuration, and it is stopped and started as one", p)
	}
	env, err := readProc(p.PID, "environ")
	if err != nil {
		return l, fmt.Errorf("read the environment of %s: %w", p, err)
	}
	l.Env = words(env)
	l.Exe = strings.TrimSuffix(link(strconv.Itoa(p.PID), "exe"), " (deleted)")
	l.Dir = link(strconv.Itoa(p.PID), "cwd")
	if !filepath.IsAbs(l.Exe) || !filepath.IsAbs(l.Dir) {
		return l, fmt.Errorf("the program and the directory of %s can't be seen", p)
	}
	if folder, deleted := strings.CutSuffix(l.Dir, " (deleted)"); deleted {
		return l, declinef("%s could not be started again as it runs: its working folder %s is gone. Restart it from a folder that is there", p, folder)
	}
	for i := range l.Files {
		l.Files[i] = streamOf(p.PID, i)
	}
	l.Nice = niceOf(p.PID)
	var limit unix.Rlimit
	if unix.Prlimit(p.PID, unix.RLIMIT_NOFILE, nil, &limit) == nil {
		l.Open = [2]uint64{limit.Cur, limit.Max}
	}
	if !p.alive() {
		return l, declinef("%s has just ended", p)
	}
	return l, nil
}

// niceOf is a process's niceness, -20 to 19. The system call counts from 40 down to 1.
func niceOf(pid int) int {
	n, err := unix.Getpriority(unix.PRIO_PROCESS, pid)
	if err != nil {
		return 0
	}
	return 20 - n
}

func link(pid, name string) string {
	to, err := os.Readlink(filepath.Join("/proc", pid, name))
	if err != nil {
		return ""
	}
	return to
}

// streamOf tells where a file descriptor leads; proc_pid_fdinfo(5) has its flags, in octal.
func streamOf(pid, fd int) stream {
	to := link(strconv.Itoa(pid), "fd/"+strconv.Itoa(fd))
	if to == os.DevNull {
		return stream{Path: to}
	}
	info, err := os.Stat(to)
	if !filepath.IsAbs(to) || err != nil || !info.Mode().IsRegular() {
		return stream{}
	}
	s := stream{Path: to}
	b, err := readProc(pid, "fdinfo/"+strconv.Itoa(fd))
	if err != nil {
		return s
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "flags:"); ok {
			n, _ := strconv.ParseUint(strings.TrimSpace(rest), 8, 64)
			s.Append = n&unix.O_APPEND != 0
		}
	}
	return s
}

// saveLaunch writes launch.json and keeps the one before, unless it says the same. again is true then.
func saveLaunch(datadir string, l launch) (again bool, err error) {
	dir := snapfwDir(datadir)
	if err := makeOurs(datadir, l); err != nil {
		return false, err
	}
	file := filepath.Join(dir, launchFile)
	old, err := readLaunch(datadir)
	if err == nil && old.same(l) {
		return true, nil
	}
	if err == nil {
		if err := keepBefore(dir); err != nil {
			return false, fmt.Errorf("keep the last launch: %w", err)
		}
	}
	now := time.Now().UTC()
	l.When = &now
	err = writeWhole(file, 0o600, func(w io.Writer) error {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(l)
	})
	if err == nil && os.Geteuid() == 0 && l.UID != 0 {
		err = os.Lchown(file, l.UID, l.GID)
	}
	if err != nil {
		return false, fmt.Errorf("save the launch: %w", err)
	}
	return false, syncFolder(dir)
}

// makeOurs makes our folder in a datadir, of the node's user.
func makeOurs(datadir string, l launch) error {
	dir := snapfwDir(datadir)
	err := os.Mkdir(dir, 0o755)
	if errors.Is(err, fs.ErrExist) {
		info, err := os.Lstat(dir)
		if err == nil && !info.IsDir() {
			return declinef("%s is no folder", dir)
		}
		return err
	}
	if err == nil && os.Geteuid() == 0 && l.UID != 0 {
		err = os.Lchown(dir, l.UID, l.GID)
	}
	return err
}

// keepBefore makes launch.json the one before, and leaves it where it is until the new one replaces it.
func keepBefore(dir string) error {
	spare := filepath.Join(dir, launchBefore+".new")
	if err := os.Remove(spare); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Link(filepath.Join(dir, launchFile), spare); err != nil {
		return err
	}
	return os.Rename(spare, filepath.Join(dir, launchBefore))
}

// same tells whether two launches differ in nothing but when they were saved.
func (l launch) same(o launch) bool {
	l.When, o.When = nil, nil
	a, errA := json.Marshal(l)
	b, errB := json.Marshal(o)
	return errA == nil && errB == nil && reflect.DeepEqual(a, b)
}

// readLaunch reads launch.json. It declines one that somebody else could have written: root would run it.
func readLaunch(datadir string) (launch, error) {
	var l launch
	file := filepath.Join(snapfwDir(datadir), launchFile)
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return l, errNoLaunch
	}
	if err != nil {
		return l, fmt.Errorf("read how erigon is launched: %w", err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return l, fmt.Errorf("read how erigon is launched: %w", err)
	}
	me := os.Geteuid()
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o022 != 0:
		return l, declinef("%s can be written by others: remove it, and save the launch again", file)
	case int(st.Uid) != me && st.Uid != 0 && me != 0:
		return l, declinef("%s belongs to uid %d: run it as the owner of the node", file, st.Uid)
	}
	b, err := io.ReadAll(io.LimitReader(f, 2*maxProc))
	if err != nil {
		return l, fmt.Errorf("read how erigon is launched: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&l); err != nil {
		return l, fmt.Errorf("read %s: %w: start erigon by hand, and save the launch again", file, err)
	}
	if len(l.Argv) == 0 || !filepath.IsAbs(l.Exe) || !filepath.IsAbs(l.Dir) {
		return l, fmt.Errorf("read %s: it names no program: start erigon by hand, and save the launch again", file)
	}
	if st.Uid != 0 && int(st.Uid) != l.UID {
		return l, declinef("%s belongs to uid %d and would start erigon as uid %d: remove it, and save the launch again", file, st.Uid, l.UID)
	}
	return l, nil
}

// hide takes the values of what may be a secret of this launch out of a text.
func (l launch) hide(text string) string {
	drop := func(value string) {
		if len(value) >= 6 {
			text = strings.ReplaceAll(text, value, "***")
		}
	}
	for _, e := range l.Env {
		if name, value, ok := strings.Cut(e, "="); ok && secretName.MatchString(name) {
			drop(value)
		}
	}
	for i, w := range masked(l.Argv) {
		if w == "***" {
			drop(l.Argv[i])
		} else if name, ok := strings.CutSuffix(w, "=***"); ok {
			drop(strings.TrimPrefix(l.Argv[i], name+"="))
		}
	}
	return withoutPassword(text)
}
