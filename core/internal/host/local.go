package host

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// local is this machine, without ssh and without a shell.
type local struct{}

func (local) String() string { return "this machine" }
func (local) epoch() int     { return 0 }
func (local) close() error   { return nil }

func (local) exec(ctx context.Context, c command) (int, error) {
	path, exit, why := lookup(c.argv[0])
	if exit != 0 {
		fmt.Fprintf(c.stderr, "%s: %s\n", c.argv[0], why)
		return exit, nil
	}
	cmd, err := startLocal(path, c)
	if err != nil {
		return cannotStart(c, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		return localExit(c, cmd, err)
	case <-ctx.Done():
	}
	if !c.end { // snapfw-host may be in the middle of claiming something: it gets time to finish
		time.AfterFunc(5*time.Second, func() { cmd.Process.Kill() })
		return 0, context.Cause(ctx)
	}
	cmd.Process.Signal(syscall.SIGTERM)
	defer time.AfterFunc(5*time.Second, func() { cmd.Process.Kill() }).Stop()
	<-ended
	return 0, context.Cause(ctx)
}

func localExit(c command, cmd *exec.Cmd, err error) (int, error) {
	var exited *exec.ExitError
	if err == nil || errors.Is(err, exec.ErrWaitDelay) {
		return cmd.ProcessState.ExitCode(), nil
	}
	if !errors.As(err, &exited) {
		return 0, fmt.Errorf("run %s: %w", c.argv[0], err)
	}
	if ws, ok := exited.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return exited.ExitCode(), nil
}

// cannotStart says it as a shell does.
func cannotStart(c command, err error) (int, error) {
	exit := 0
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.ENOEXEC):
		exit = 126
	case errors.Is(err, fs.ErrNotExist):
		exit = 127
	default:
		return 0, fmt.Errorf("run %s: %w", c.argv[0], err)
	}
	fmt.Fprintf(c.stderr, "%s: %v\n", c.argv[0], err)
	return exit, nil
}

// startLocal starts a program. One that was written a moment ago may be busy for as long as a child
// forked meanwhile holds the file open for writing.
func startLocal(path string, c command) (*exec.Cmd, error) {
	for try := 0; ; try++ {
		cmd := exec.Command(path, c.argv[1:]...) // a Cmd that did not start is never started again
		cmd.Env = localEnv(c)
		cmd.Dir = "/"
		if c.home != "" {
			cmd.Dir = c.home
		}
		if len(c.stdin) > 0 {
			cmd.Stdin = bytes.NewReader(c.stdin)
		}
		cmd.Stdout, cmd.Stderr = c.stdout, c.stderr
		// Ctrl-C at a terminal reaches the whole group, and what is owed must still be paid.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.WaitDelay = 5 * time.Second // for a grandchild that keeps the output open
		err := cmd.Start()
		if err == nil || !errors.Is(err, syscall.ETXTBSY) || try == 50 {
			return cmd, err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// localEnv is the clean environment. snapfw-host itself also learns how to reach the
// user's systemd; nothing else of snapfw's environment, which may hold secrets.
func localEnv(c command) []string {
	home, name := c.home, c.user
	if home == "" {
		home, name = homeOf(), userOf()
	}
	env := []string{"PATH=" + cleanPath, "HOME=" + home, "USER=" + name, "LOGNAME=" + name, "LANG=C.UTF-8"}
	if c.home != "" {
		return env
	}
	for _, k := range []string{"XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"} {
		if v := os.Getenv(k); v != "" {
			env = append(env, k+"="+v)
		}
	}
	return env
}

func userOf() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return fmt.Sprint(os.Getuid())
}

// homeOf is $HOME, so that somebody can give a run another one, else the home of passwd.
func homeOf() string {
	if h := os.Getenv("HOME"); filepath.IsAbs(h) {
		return h
	}
	if u, err := user.Current(); err == nil && u.HomeDir != "" {
		return u.HomeDir
	}
	return "/"
}

// lookup finds a program as a shell with cleanPath does.
func lookup(name string) (path string, exit int, why string) {
	if strings.Contains(name, "/") {
		return name, 0, ""
	}
	for _, dir := range strings.Split(cleanPath, ":") {
		p := filepath.Join(dir, name)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode().Perm()&0o111 != 0 {
			return p, 0, ""
		}
	}
	return "", 127, "not found"
}

func (local) find(_ context.Context, name string) (string, error) {
	p, _, _ := lookup(name)
	return p, nil
}

func (l local) probe(ctx context.Context, hostDir string, cores map[string]program) (probed, error) {
	p := probed{ground: ground{system: runtime.GOOS, arch: runtime.GOARCH, user: userOf(), uid: os.Getuid(), home: homeOf()}}
	core, ok := cores[p.platform()]
	for _, dir := range rootNames(hostDir, p.home, os.TempDir(), p.uid) {
		c := candidate{path: dir, state: rootNew}
		if why := unsound(dir, p.uid); why != "" {
			c.state, c.why = rootUnfit, why
		} else if why := unsound(filepath.Join(dir, "bin"), p.uid); why != "" {
			c.state, c.why = rootUnfit, "bin: "+why
		} else if ok && l.runs(ctx, dir, core) {
			c.state = rootReady
		} else if isDir(filepath.Join(dir, "jobs")) || isDir(filepath.Join(dir, "guard")) {
			c.state = rootUsed
		}
		p.roots = append(p.roots, c)
	}
	return p, nil
}

// runs tells whether snapfw-host lies there and runs.
func (l local) runs(ctx context.Context, root string, core program) bool {
	bin := filepath.Join(root, "bin", core.placedName())
	if there, err := l.has(ctx, bin, core.size); err != nil || !there {
		return false
	}
	exit, err := l.exec(ctx, command{argv: []string{bin, "-root", root, "facts"}, stdout: io.Discard, stderr: io.Discard})
	return err == nil && exit == 0
}

// unsound says why programs must not be run from a folder; "" for one that is fine or not there.
func unsound(dir string, uid int) string {
	st, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	if err != nil {
		return err.Error()
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	switch {
	case !st.IsDir():
		return "is no folder"
	case !ok || int(sys.Uid) != uid:
		return "belongs to somebody else"
	case st.Mode().Perm()&0o022 != 0:
		return "others can write it (chmod go-w)"
	}
	return ""
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

// rootFolders are those of a root, with their permissions.
var rootFolders = []struct {
	name string
	mode fs.FileMode
}{{"bin", 0o755}, {"jobs", 0o700}, {"guard", 0o700}, {"lock", 0o700}, {"sums", 0o700}}

func (local) makeRoot(_ context.Context, root string) error {
	if _, err := os.Stat(root); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(root, 0o755); err != nil {
			return err
		}
		if err := os.Chmod(root, 0o755); err != nil { // whatever the umask
			return err
		}
	}
	for _, f := range rootFolders {
		dir := filepath.Join(root, f.name)
		err := os.Mkdir(dir, f.mode)
		if err == nil {
			err = os.Chmod(dir, f.mode) // whatever the umask
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

func (local) has(_ context.Context, path string, size int64) (bool, error) {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return st.Mode().IsRegular() && st.Size() == size && st.Mode().Perm()&0o100 != 0, nil
}

func (local) put(_ context.Context, p program, path string) (err error) {
	r, err := p.open()
	if err != nil {
		return err
	}
	defer r.Close()
	tmp := tempName(path)
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(tmp)
		}
	}()
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(f, h), r); err != nil {
		return err
	}
	if hex.EncodeToString(h.Sum(nil)) != p.sum {
		return changedUnderway(p)
	}
	if err := f.Chmod(0o755); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

func changedUnderway(p program) error {
	return fmt.Errorf("what arrived of %s has another sum than was sent: was it built anew meanwhile? try again", p.name)
}

// tempName is a new hidden name beside path.
func tempName(path string) string {
	var b [8]byte
	rand.Read(b[:])
	return filepath.Join(filepath.Dir(path), ".new-"+hex.EncodeToString(b[:]))
}
