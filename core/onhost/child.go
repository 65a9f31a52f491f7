//go:build linux

package onhost

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const cleanPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// hostPath is where sudo, crontab and systemd-run are looked for.
func hostPath() string {
	if p := os.Getenv("PATH"); p != "" {
		return p
	}
	return cleanPath
}

// child is the process of a job.
type child struct {
	cmd  *exec.Cmd
	ctl  io.WriteCloser // takes the names of signals, where a shim runs the program as another user
	user string         // "" if the program runs as the login user
	end  string         // TERM or INT
}

// asUser are the ways to run a program as somebody.
type asUser int

const (
	asMyself     asUser = iota
	asCredential        // we are root
	asSudoRoot          // sudo runs the program itself, so that sudoers can name it
	asSudoShim          // sudo runs "snapfw-host exec", which takes environment and signals from a pipe
)

func wayTo(name string) asUser {
	switch {
	case name == "" || name == login().Username:
		return asMyself
	case os.Getuid() == 0:
		return asCredential
	case name == "root":
		return asSudoRoot
	}
	return asSudoShim
}

// startChild starts a job's program with its standard output and error in the job's folder.
func startChild(root, dir string, j Job, secret map[string]string) (*child, error) {
	core, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find myself: %w", err)
	}
	env := []string{"SNAPFW_ROOT=" + root, "SNAPFW_CORE=" + core}
	for _, k := range slices.Sorted(maps.Keys(j.Env)) {
		env = append(env, k+"="+j.Env[k])
	}
	for _, k := range j.Secrets {
		env = append(env, k+"="+secret[k])
	}
	ch := &child{end: j.End}
	switch wayTo(j.User) {
	case asMyself:
		ch.cmd, err = plain(j, login(), env)
	case asCredential:
		ch.user = j.User
		ch.cmd, err = credential(j, env)
	case asSudoRoot:
		ch.user = j.User
		ch.cmd, err = sudoRoot(j, slices.Clone(env))
	case asSudoShim:
		ch.user = j.User
		ch.cmd, err = sudo(j.User, core, "exec")
	}
	if err != nil {
		return nil, err
	}
	return ch, ch.start(dir, j, env)
}

func (ch *child) start(dir string, j Job, env []string) error {
	for _, o := range []struct {
		name string
		to   *io.Writer
	}{{fileOut, &ch.cmd.Stdout}, {fileErr, &ch.cmd.Stderr}} {
		f, err := os.OpenFile(inDir(dir, o.name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		*o.to = f
	}
	if ch.cmd.SysProcAttr == nil {
		ch.cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	ch.cmd.SysProcAttr.Setpgid = true
	shim := wayTo(j.User) == asSudoShim
	if shim {
		pipe, err := ch.cmd.StdinPipe()
		if err != nil {
			return err
		}
		ch.ctl = pipe
	}
	if err := startNice(ch.cmd, j.Nice, j.Idle); err != nil {
		return err
	}
	if shim {
		if err := json.NewEncoder(ch.ctl).Encode(shimJob{j.Argv, j.Dir, env}); err != nil && !errors.Is(err, unix.EPIPE) {
			return fmt.Errorf("talk to sudo: %w", err)
		}
	}
	return nil
}

// startNice starts a program from a thread whose priority it inherits. That thread ends with
// the goroutine, which never unlocks it. A host that does not allow it (a container, a shell that
// is nicer already) is no reason not to run.
func startNice(cmd *exec.Cmd, nice int, idle bool) error {
	if nice == 0 && !idle {
		return cmd.Start()
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := lower(nice, idle); err != nil {
			fmt.Fprintln(os.Stderr, "run as it is:", err)
		}
		done <- cmd.Start()
	}()
	return <-done
}

// lower lowers the priorities of the calling thread.
func lower(nice int, idle bool) error {
	if idle {
		const whoProcess, classIdle = 1, 3 << 13 // linux/ioprio.h
		if _, _, e := unix.Syscall(unix.SYS_IOPRIO_SET, whoProcess, 0, classIdle); e != 0 {
			return fmt.Errorf("ionice idle: %w", e)
		}
	}
	if nice != 0 {
		if err := unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), nice); err != nil {
			return fmt.Errorf("nice %d: %w", nice, err)
		}
	}
	return nil
}

// environment is the clean one of a user, and what is added to it; the last of a name counts.
func environment(u *user.User, more []string) []string {
	return append([]string{
		"PATH=" + cleanPath, "HOME=" + u.HomeDir, "USER=" + u.Username,
		"LOGNAME=" + u.Username, "LANG=C.UTF-8",
	}, more...)
}

func plain(j Job, u *user.User, more []string) (*exec.Cmd, error) {
	env := environment(u, more)
	path, err := findProgram(j.Argv[0], env)
	if err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{Path: path, Args: j.Argv, Env: env, Dir: j.Dir}
	if cmd.Dir == "" {
		cmd.Dir = u.HomeDir
	}
	if fi, err := os.Stat(cmd.Dir); err != nil || !fi.IsDir() {
		if j.Dir != "" {
			return nil, fmt.Errorf("folder %s of the job is not there", j.Dir)
		}
		cmd.Dir = "/"
	}
	return cmd, nil
}

// findProgram looks in the PATH of the job, not in ours.
func findProgram(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	path := ""
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = v
		}
	}
	for _, dir := range filepath.SplitList(path) {
		p := filepath.Join(dir, name)
		if fi, err := os.Stat(p); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("program %s is not in %s: install it or name its whole path", name, path)
}

// credential runs as another user without sudo, since we are root.
func credential(j Job, more []string) (*exec.Cmd, error) {
	u, err := lookup(j.User)
	if err != nil {
		return nil, err
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("user %s: %w", j.User, err)
	}
	cred := &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	ids, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("groups of %s: %w", j.User, err)
	}
	for _, id := range ids {
		if g, err := strconv.ParseUint(id, 10, 32); err == nil {
			cred.Groups = append(cred.Groups, uint32(g))
		}
	}
	cmd, err := plain(j, u, more)
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	return cmd, nil
}

// lookup asks getent where the user is not in /etc/passwd, since this binary is static.
func lookup(name string) (*user.User, error) {
	if u, err := user.Lookup(name); err == nil {
		return u, nil
	}
	out, err := exec.Command("getent", "passwd", "--", name).Output()
	f := strings.Split(strings.TrimSpace(string(out)), ":")
	if err != nil || len(f) < 7 {
		return nil, fmt.Errorf("this host has no user %s", name)
	}
	return &user.User{Username: f[0], Uid: f[2], Gid: f[3], HomeDir: f[5]}, nil
}

func sudo(name string, args ...string) (*exec.Cmd, error) {
	path, err := exec.LookPath("sudo")
	if err != nil {
		return nil, fmt.Errorf("run as %s: this host has no sudo: install it, or log in as %s", name, name)
	}
	cmd := exec.Command(path, append([]string{"-n", "-H", "-u", name, "--"}, args...)...)
	cmd.Env = []string{"PATH=" + hostPath(), "LANG=C.UTF-8"}
	cmd.Dir = "/"
	return cmd, nil
}

func sudoRoot(j Job, more []string) (*exec.Cmd, error) {
	if !filepath.IsAbs(j.Argv[0]) {
		return nil, fmt.Errorf("run %s as root: name its whole path", j.Argv[0])
	}
	cmd, err := sudo("root", j.Argv...)
	if err != nil {
		return nil, err
	}
	if j.Dir != "" {
		cmd.Dir = j.Dir
	}
	// What snapfw itself tells its verbs means nothing to a system program, and sudoers would have
	// to allow it (SETENV).
	more = slices.DeleteFunc(more, func(kv string) bool { return strings.HasPrefix(kv, "SNAPFW_") })
	if len(more) > 0 {
		var names []string
		for _, kv := range more {
			name, _, _ := strings.Cut(kv, "=")
			names = append(names, name)
		}
		cmd.Args = slices.Insert(cmd.Args, 1, "--preserve-env="+strings.Join(names, ","))
		cmd.Env = append(cmd.Env, more...)
	}
	return cmd, nil
}

// refusals are what sudo says when it does not run the program.
var refusals = []string{"password is required", "terminal is required", "not in the sudoers", "not allowed to", "must have a tty", "unknown user", "command not found"}

// sudoRefused says what to do when it was sudo that failed, not the program.
func sudoRefused(j Job, res Result) string {
	way := wayTo(j.User)
	if way != asSudoRoot && way != asSudoShim || res.Exit != 1 {
		return ""
	}
	for line := range strings.Lines(res.Stderr) {
		line = strings.TrimSpace(line)
		ours := strings.HasPrefix(line, "sudo: ") || strings.HasPrefix(line, "Sorry, user ") || strings.Contains(line, "sudoers")
		if ours && slices.ContainsFunc(refusals, func(r string) bool { return strings.Contains(line, r) }) {
			return sudoAdvice(j, way, line)
		}
	}
	return ""
}

func sudoAdvice(j Job, way asUser, line string) string {
	what := "ALL"
	switch {
	case strings.Contains(line, "unknown user"):
		return fmt.Sprintf("run as %s: %s", j.User, line)
	case strings.Contains(line, "command not found") && way == asSudoShim:
		return fmt.Sprintf("run as %s: %s; choose a host_dir that %s can enter, such as /var/lib/snapfw", j.User, line, j.User)
	case strings.Contains(line, "command not found"):
		return fmt.Sprintf("run as %s: %s; install it, or name its whole path on this host", j.User, line)
	case way == asSudoRoot:
		what = sudoersCommand(j)
	}
	return fmt.Sprintf("run as %s: %s; add the line \"%s ALL=(%s) NOPASSWD: %s\" with visudo -f /etc/sudoers.d/snapfw, or log in as %s",
		j.User, line, login().Username, j.User, what, j.User)
}

// sudoersCommand names a job's very command as sudoers(5) spells it.
func sudoersCommand(j Job) string {
	var words []string
	for _, w := range j.Argv {
		words = append(words, sudoersEscape.Replace(w))
	}
	text := strings.Join(words, " ")
	if len(j.Argv) == 1 {
		text += ` ""`
	}
	if len(j.Env)+len(j.Secrets) > 0 && slices.ContainsFunc(slices.Concat(slices.Collect(maps.Keys(j.Env)), j.Secrets),
		func(name string) bool { return !strings.HasPrefix(name, "SNAPFW_") }) {
		return "SETENV: " + text
	}
	return text
}

var sudoersEscape = strings.NewReplacer(`\`, `\\`, ",", `\,`, ":", `\:`, "=", `\=`, "*", `\*`, "?", `\?`, "[", `\[`, "]", `\]`)

var signals = map[string]unix.Signal{"": unix.SIGTERM, "TERM": unix.SIGTERM, "INT": unix.SIGINT}

// signal asks the child to end.
func (ch *child) signal() error {
	if ch.ctl != nil {
		_, err := io.WriteString(ch.ctl, ch.end+"\n")
		return err
	}
	return signalGroup(ch.cmd.Process.Pid, ch.end, ch.user)
}

// signalGroup signals a process group, through sudo where it belongs to somebody else.
func signalGroup(pgid int, end, as string) error {
	err := unix.Kill(-pgid, signals[end])
	if err == nil || err == unix.ESRCH {
		return nil
	}
	if err != unix.EPERM || as == "" {
		return fmt.Errorf("end process group %d: %w", pgid, err)
	}
	name := "TERM"
	if end != "" {
		name = end
	}
	cmd, serr := sudo(as, "/bin/kill", "-"+name, "--", "-"+strconv.Itoa(pgid))
	if serr != nil {
		return serr
	}
	if out, serr := cmd.CombinedOutput(); serr != nil {
		return fmt.Errorf("end process group %d of %s: %s: %w", pgid, as, strings.TrimSpace(string(out)), serr)
	}
	return nil
}
