// Package systemdtest runs a machine with a real systemd as PID 1, for tests: on a throw-away
// overlay of this machine's root, with users, logind, sudo and cron of its own, and with this machine's
// network. It needs root and util-linux; nothing that the machine writes reaches this one's disk.
package systemdtest

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

//go:embed overlay.sh
var overlay []byte

// Options of a machine.
type Options struct {
	// Setup is a bash script that is run once in the machine before its systemd starts: it makes
	// users and files. What Files name lies in /oldin meanwhile.
	Setup string
	Files map[string]string // name in /oldin: file on this machine
	// Target is the unit that systemd starts; Setup makes it in /etc/systemd/system.
	Target string
	Ready  func(*Machine) error // nil when the machine is as the test wants it; asked again and again
}

// Machine is a machine that runs.
type Machine struct {
	dir    string // setup, files, log
	group  string // its cgroup
	outer  *exec.Cmd
	ended  chan struct{}
	canary [2]string
}

// Missing says why no such machine can be had here; nil if one can.
func Missing() error {
	if os.Getuid() != 0 {
		return errors.New("a systemd of its own needs root")
	}
	if _, err := os.Stat("/lib/systemd/systemd"); err != nil {
		return errors.New("systemd is not installed")
	}
	for program, from := range map[string]string{"unshare": "util-linux", "nsenter": "util-linux", "setpriv": "util-linux",
		"pivot_root": "util-linux", "dbus-daemon": "dbus", "sshd": "openssh-server", "sudo": "sudo", "crontab": "cron"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%s is not installed (Debian: apt-get install %s)", program, from)
		}
	}
	if found, _ := filepath.Glob("/usr/lib/*/security/pam_systemd.so"); len(found) == 0 {
		return errors.New("pam_systemd is not installed (Debian: apt-get install libpam-systemd)")
	}
	if _, err := groups(); err != nil {
		return err
	}
	if out, err := exec.Command("unshare", "--mount", "--pid", "--fork", "--uts", "--ipc", "--cgroup", "--propagation", "private", "true").CombinedOutput(); err != nil {
		return fmt.Errorf("namespaces are not allowed here: %s", bytes.TrimSpace(out))
	}
	return nil
}

// groups is where cgroup2 is mounted.
func groups() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			return f[1], nil
		}
	}
	return "", errors.New("cgroup2 is not mounted")
}

// Boot starts a machine that ends with the test. Where none can be had it skips the test, loudly;
// where SNAPFW_TEST_NO_SKIP is set it fails it.
func Boot(t testing.TB, o Options) *Machine {
	t.Helper()
	if err := Missing(); err != nil {
		skip(t, err)
	}
	m := &Machine{dir: t.TempDir(), ended: make(chan struct{})}
	t.Cleanup(func() { m.clear(t) })
	if err := m.start(o); err != nil {
		t.Fatal(err)
	}
	if err := m.until(o.Ready); err != nil {
		t.Fatalf("the machine does not come up: %v\n%s", err, m.Log())
	}
	return m
}

// skip skips a test, loudly, or fails it where nothing may be skipped.
func skip(t testing.TB, why error) {
	t.Helper()
	if os.Getenv("SNAPFW_TEST_NO_SKIP") != "" {
		t.Fatal(why)
	}
	fmt.Fprintf(os.Stderr, "\n*** SKIPPED %s: %v ***\n\n", t.Name(), why)
	t.Skip(why)
}

func (m *Machine) start(o Options) error {
	if err := m.files(o); err != nil {
		return err
	}
	top, err := groups()
	if err != nil {
		return err
	}
	if m.group, err = os.MkdirTemp(top, "snapfw-systemdtest-"); err != nil {
		return err
	}
	if err := os.Chmod(m.group, 0o755); err != nil { // users' own systemds pass through it
		return err
	}
	group, err := os.Open(m.group)
	if err != nil {
		return err
	}
	defer group.Close()
	log, err := os.Create(filepath.Join(m.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	m.outer = exec.Command("unshare", "--mount", "--propagation", "private",
		"bash", filepath.Join(m.dir, "overlay.sh"), filepath.Join(m.dir, "in"), filepath.Join(m.dir, "work"), o.Target)
	m.outer.Stdout, m.outer.Stderr = log, log
	m.outer.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	m.outer.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, UseCgroupFD: true, CgroupFD: int(group.Fd())}
	m.outer.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // Pdeathsig is about the thread that starts it
		err := m.outer.Start()
		started <- err
		if err == nil {
			m.outer.Wait()
		}
		close(m.ended)
	}()
	return <-started
}

// files lays out what the machine is made of, and a canary in each folder that systemd would empty
// if it saw this machine's.
func (m *Machine) files(o Options) error {
	for _, name := range []string{"in", "work"} {
		if err := os.Mkdir(filepath.Join(m.dir, name), 0o755); err != nil {
			return err
		}
	}
	setup := "set -eu\nexport DEBIAN_FRONTEND=noninteractive\n" + o.Setup
	for name, body := range map[string][]byte{"overlay.sh": overlay, "in/setup": []byte(setup)} {
		if err := os.WriteFile(filepath.Join(m.dir, name), body, 0o700); err != nil {
			return err
		}
	}
	for name, from := range o.Files {
		body, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(m.dir, "in", name), body, 0o755); err != nil {
			return err
		}
	}
	for i, folder := range []string{"/tmp", "/run"} {
		f, err := os.CreateTemp(folder, "snapfw-canary-")
		if err != nil {
			return err
		}
		m.canary[i] = f.Name()
		f.Close()
	}
	return nil
}

// Run runs a program there as root and returns what it printed.
func (m *Machine) Run(argv ...string) (string, error) {
	pid, err := m.init()
	if err != nil {
		return "", err
	}
	cmd := exec.Command("nsenter", append([]string{"--target", strconv.Itoa(pid), "--mount", "--pid", "--uts", "--ipc", "--cgroup",
		"--wdns=/", "--"}, argv...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, bytes.TrimSpace(errs.Bytes()))
	}
	return string(out), err
}

// Shell runs lines of bash there as root; it fails the test if they fail.
func (m *Machine) Shell(t testing.TB, lines string) string {
	t.Helper()
	out, err := m.Run("bash", "-c", "set -eu\n"+lines)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return strings.TrimSpace(out)
}

// init is the process of systemd, as this machine numbers it: the child of the inner unshare.
func (m *Machine) init() (int, error) {
	pid := m.outer.Process.Pid
	for range 2 {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
		if err != nil {
			return 0, fmt.Errorf("the machine is gone: %w", err)
		}
		f := strings.Fields(string(b))
		if len(f) == 0 {
			return 0, errors.New("the machine is not there yet")
		}
		if pid, err = strconv.Atoi(f[0]); err != nil {
			return 0, err
		}
	}
	if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err != nil || string(name) != "systemd\n" {
		return 0, errors.New("the machine has no systemd yet")
	}
	return pid, nil
}

// PowerCut kills everything there at once and starts the machine anew with the disk that it has.
func (m *Machine) PowerCut(ready func(*Machine) error) error {
	pid, err := m.init()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(m.dir, "in", "again"), nil, 0o644); err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return err
	}
	return m.until(func(m *Machine) error {
		if now, err := m.init(); err != nil || now == pid {
			return errors.New("the old systemd is there still")
		}
		return ready(m)
	})
}

func (m *Machine) until(ready func(*Machine) error) error {
	end := time.Now().Add(time.Minute)
	for {
		err := ready(m)
		if err == nil {
			return nil
		}
		select {
		case <-m.ended:
			return fmt.Errorf("it ended: %w", err)
		case <-time.After(100 * time.Millisecond):
		}
		if time.Now().After(end) {
			return err
		}
	}
}

// Log is what systemd and the setup said.
func (m *Machine) Log() string {
	b, _ := os.ReadFile(filepath.Join(m.dir, "log"))
	return string(b)
}

// clear ends the machine and sees that nothing of it is left.
func (m *Machine) clear(t testing.TB) {
	if m.outer != nil && m.outer.Process != nil {
		syscall.Kill(-m.outer.Process.Pid, syscall.SIGKILL)
		<-m.ended
	}
	if m.group != "" {
		end := time.Now().Add(10 * time.Second)
		for err := m.dropGroups(); err != nil; err = m.dropGroups() {
			if time.Now().After(end) {
				t.Errorf("something of the machine is left: %v", err)
				break
			}
			os.WriteFile(filepath.Join(m.group, "cgroup.kill"), []byte("1"), 0)
			time.Sleep(20 * time.Millisecond)
		}
	}
	for _, c := range m.canary {
		if c == "" {
			continue
		}
		if err := os.Remove(c); err != nil {
			t.Errorf("the machine reached this one's files: %v", err)
		}
	}
}

// dropGroups removes the machine's cgroups, which works as soon as no process is in them.
func (m *Machine) dropGroups() error {
	var all []string
	filepath.WalkDir(m.group, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			all = append(all, path)
		}
		return nil
	})
	for i := len(all) - 1; i >= 0; i-- {
		if err := os.Remove(all[i]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
