package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/internal/host/sshdtest"
)

func TestRun(t *testing.T) {
	t.Setenv("SNAPFW_TEST_LEAK", "leaked")
	everywhere(t, func(t *testing.T, m *Machine, _ *sshdtest.Server) {
		ctx := testContext(t)
		self := script(t, "snapfw-self", `printf '%s|' "$@"; echo; env; pwd; echo to-stderr >&2; exit 7`)
		out, err := m.Run(ctx, self, append([]string{"@self"}, awkward...)...)
		if err != nil {
			t.Fatal(err)
		}
		if want := strings.Join(awkward, "|") + "|\n"; !strings.HasPrefix(string(out.Stdout), want) {
			t.Errorf("arguments became %q", out.Stdout)
		}
		if out.Exit != 7 || string(out.Stderr) != "to-stderr\n" {
			t.Errorf("exit %d, stderr %q", out.Exit, out.Stderr)
		}
		wantIn(t, string(out.Stdout), "PATH="+cleanPath+"\n", "LANG=C.UTF-8\n", "\nHOME=")
		for _, bad := range []string{"SNAPFW_TEST_LEAK", "SSH_CONNECTION"} {
			if bytes.Contains(out.Stdout, []byte(bad)) {
				t.Errorf("the environment is not clean: %s", bad)
			}
		}

		out, err = m.Run(ctx, Binary{}, "head", "-c", "3000000", "/dev/zero")
		if err != nil || len(out.Stdout) != 1<<20 {
			t.Errorf("3 MB of output became %d bytes, %v", len(out.Stdout), err)
		}
		out, err = m.Run(ctx, Binary{}, "no-such-program-at-all")
		if err != nil || out.Exit != 127 || len(out.Stderr) == 0 {
			t.Errorf("no such program: %+v, %v", out, err)
		}
		out, err = m.Run(ctx, Binary{}, "sh", "-c", "kill -KILL $$")
		if err != nil || out.Exit != 137 {
			t.Errorf("killed: exit %d, %v", out.Exit, err)
		}
		for _, bad := range [][]string{nil, {""}, {"@self"}, {"@program:../x"}} {
			if _, err := m.Run(ctx, Binary{}, bad...); err == nil {
				t.Errorf("%q ran", bad)
			}
		}
		f, err := m.Facts(ctx)
		if err != nil || f.OS != runtime.GOOS || f.Arch != runtime.GOARCH || f.Root != m.options.HostDir || f.UID != os.Getuid() {
			t.Errorf("facts %+v, %v", f, err)
		}
		out, err = m.Run(ctx, Binary{}, "@core", "facts")
		if err != nil || out.Exit != 0 || !bytes.Contains(out.Stdout, []byte(f.Root)) {
			t.Errorf("@core facts: %+v, %v", out, err)
		}
		short, cancel := context.WithCancel(ctx)
		started := make(chan struct{})
		go func() { <-started; cancel() }()
		close(started)
		if _, err := m.Run(short, Binary{}, "sleep", "1000"); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	})
}

func TestProgram(t *testing.T) {
	everywhere(t, func(t *testing.T, m *Machine, _ *sshdtest.Server) {
		ctx := testContext(t)
		out, err := m.Run(ctx, Binary{}, "@program:echo", "@program:echo")
		if err != nil || !filepath.IsAbs(strings.TrimSpace(string(out.Stdout))) {
			t.Errorf("the host's own: %+v, %v", out, err)
		}
		m.options.Programs = map[string]string{"placed-one": theCore.Files[runtime.GOOS+"/"+runtime.GOARCH].Path, "foreign": "/etc/passwd"}
		out, err = m.Run(ctx, Binary{}, "echo", "@program:placed-one")
		if err != nil || !strings.HasPrefix(string(out.Stdout), m.options.HostDir+"/bin/placed-one-") {
			t.Errorf("this machine's: %+v, %v", out, err)
		}
		for name, want := range map[string]string{"nowhere-at-all": "install it on one of the two", "foreign": "install it there"} {
			_, err = m.Run(ctx, Binary{}, "@program:"+name)
			if !errors.Is(err, ErrNoBinary) {
				t.Errorf("%s: %v", name, err)
				continue
			}
			wantIn(t, err.Error(), want, m.String())
		}
		_, err = m.Run(ctx, Binary{Name: "snapfw-x", Files: map[string]File{"plan9/mips": {}}}, "@self")
		if !errors.Is(err, ErrNoBinary) {
			t.Fatalf("a plugin for another architecture: %v", err)
		}
		wantIn(t, err.Error(), "GOOS="+runtime.GOOS+" GOARCH="+runtime.GOARCH, "manifest")
		wrong := script(t, "snapfw-wrong", "exit 0")
		f := wrong.Files[runtime.GOOS+"/"+runtime.GOARCH]
		f.SHA256 = strings.Repeat("0", 64)
		wrong.Files[runtime.GOOS+"/"+runtime.GOARCH] = f
		if _, err = m.Run(ctx, wrong, "@self"); err == nil || !strings.Contains(err.Error(), "should be "+f.SHA256) {
			t.Errorf("a wrong sum: %v", err)
		}
	})
}

// uploads counts what was placed, by the debug log.
func uploads(l *logBuffer) int { return strings.Count(l.String(), "placing a program") }

func TestPlacingOnce(t *testing.T) {
	s := sshdtest.Start(t, sshdtest.Options{})
	o := emptyRoot(t, s)
	var log logBuffer
	o.Log = debugLog(&log)
	self := script(t, "snapfw-self", "echo ran")
	// Several processes place the same at once.
	var wait sync.WaitGroup
	for range 3 {
		wait.Go(func() {
			m, err := newPool(t, o).Machine(testContext(t), addrOf(s))
			if err != nil {
				t.Error(err)
				return
			}
			if out, err := m.Run(testContext(t), self, "@self"); err != nil || string(out.Stdout) != "ran\n" {
				t.Errorf("%+v, %v", out, err)
			}
		})
	}
	wait.Wait()
	files, err := os.ReadDir(filepath.Join(o.HostDir, "bin"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s: %v, %v", f.Name(), info.Mode(), err)
		}
	}
	if len(files) != 2 {
		t.Errorf("bin holds %v, want 2 files", files)
	}
	placed := uploads(&log)
	m := machineAt(t, o, s)
	if _, err := m.Run(testContext(t), self, "@self"); err != nil {
		t.Fatal(err)
	}
	if n := uploads(&log); n != placed {
		t.Errorf("placed %d times more though it was there", n-placed)
	}

	// What is damaged is placed again.
	for _, f := range files {
		if err := os.Truncate(filepath.Join(o.HostDir, "bin", f.Name()), 10); err != nil {
			t.Fatal(err)
		}
	}
	m = machineAt(t, o, s)
	if out, err := m.Run(testContext(t), self, "@self"); err != nil || string(out.Stdout) != "ran\n" {
		t.Errorf("after damage: %+v, %v", out, err)
	}
	// And what disappears while the connection holds is too.
	if err := os.RemoveAll(o.HostDir); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Facts(testContext(t)); err != nil {
		t.Errorf("after the root was removed: %v", err)
	}
}

func TestPlacingHere(t *testing.T) {
	o := emptyRoot(t, nil)
	if _, err := machineAt(t, o, nil).Facts(testContext(t)); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(filepath.Join(o.HostDir, "bin"))
	if err != nil || len(files) != 1 || files[0].Name() != theProgram.placed {
		t.Errorf("bin holds %v, %v", files, err)
	}
}

func TestPlacingWithoutSFTP(t *testing.T) {
	s := sshdtest.Start(t, sshdtest.Options{NoSFTP: true})
	m := machineAt(t, emptyRoot(t, s), s)
	if _, err := m.Facts(testContext(t)); err != nil {
		t.Fatal(err)
	}
}

func TestProbeOfRoots(t *testing.T) {
	everywhere(t, func(t *testing.T, m *Machine, _ *sshdtest.Server) {
		ctx := testContext(t)
		cores, err := corePrograms(theCore)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		open := filepath.Join(dir, "open")
		used := filepath.Join(dir, "it is 'used'")
		file := filepath.Join(dir, "file")
		link := filepath.Join(dir, "link")
		for _, err := range []error{os.Mkdir(open, 0o755), os.Chmod(open, 0o777), os.MkdirAll(filepath.Join(used, "guard"), 0o700),
			os.WriteFile(file, nil, 0o600), os.Symlink(used, link)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		for root, want := range map[string]candidate{
			open:                       {state: rootUnfit, why: "others can write it (chmod go-w)"},
			used:                       {state: rootUsed},
			file:                       {state: rootUnfit, why: "is no folder"},
			link:                       {state: rootUnfit, why: "is no folder"},
			filepath.Join(dir, "none"): {state: rootNew},
			m.options.HostDir:          {state: rootReady},
		} {
			p, err := m.at.probe(ctx, root, cores)
			if err != nil {
				t.Fatal(err)
			}
			want.path = root
			if len(p.roots) != 1 || p.roots[0] != want {
				t.Errorf("got %+v, want %+v", p.roots, want)
			}
			if p.platform() != runtime.GOOS+"/"+runtime.GOARCH || p.uid != os.Getuid() {
				t.Errorf("probed %+v", p)
			}
		}
		p, err := m.at.probe(ctx, "", cores)
		if err != nil || len(p.roots) != 3 {
			t.Fatalf("without a configured root: %+v, %v", p.roots, err)
		}
		for i, suffix := range []string{"/var/lib/snapfw", "/.local/lib/snapfw", fmt.Sprintf("/snapfw-%d", os.Getuid())} {
			if !strings.HasSuffix(p.roots[i].path, suffix) {
				t.Errorf("root %d is %s", i, p.roots[i].path)
			}
		}
	})
}

// candidates is a carrier whose probe is scripted, and which has a folder mounted noexec.
type candidates struct {
	local
	roots []candidate
	dead  map[string]string // root: why it can't be used
}

func (c candidates) probe(context.Context, string, map[string]program) (probed, error) {
	return probed{ground: ground{system: runtime.GOOS, arch: runtime.GOARCH, user: "me"}, roots: c.roots}, nil
}

func (c candidates) makeRoot(ctx context.Context, root string) error {
	if why := c.dead[root]; why != "" {
		return errors.New(why)
	}
	return c.local.makeRoot(ctx, root)
}

func TestChoiceOfRoot(t *testing.T) {
	cores, err := corePrograms(theCore)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	a, b, c := filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "c")
	for name, tc := range map[string]struct {
		roots []candidate
		dead  map[string]string
		want  string
	}{
		"first":        {roots: []candidate{{path: a, state: rootNew}, {path: b, state: rootNew}}, want: a},
		"used wins":    {roots: []candidate{{path: a, state: rootNew}, {path: b, state: rootUsed}}, want: b},
		"ready wins":   {roots: []candidate{{path: a, state: rootUsed}, {path: b, state: rootReady}}, want: b},
		"next":         {roots: []candidate{{path: a, state: rootUnfit}, {path: b, state: rootNew}, {path: c, state: rootNew}}, dead: map[string]string{b: "noexec"}, want: c},
		"none at all":  {roots: []candidate{{path: a, state: rootUnfit, why: "belongs to somebody else"}, {path: b, state: rootNew}}, dead: map[string]string{b: "read-only file system"}},
		"nothing left": {},
	} {
		g, err := settle(testContext(t), candidates{roots: tc.roots, dead: tc.dead}, "", cores)
		if tc.want != "" {
			if err != nil || g.root != tc.want {
				t.Errorf("%s: %+v, %v", name, g, err)
			}
			continue
		}
		if !errors.Is(err, ErrNoExec) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		wantIn(t, err.Error(), "set host_dir")
		for _, r := range tc.roots {
			wantIn(t, err.Error(), r.path+": "+r.why+tc.dead[r.path])
		}
	}
	_, err = settle(testContext(t), candidates{}, "", map[string]program{})
	if !errors.Is(err, ErrNoBinary) || !strings.Contains(err.Error(), "make build") {
		t.Errorf("without snapfw-host: %v", err)
	}
}

// TestNoexec mounts a real file system noexec.
func TestNoexec(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "noexec,mode=0755,size=64m", "tmpfs", dir).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "\n*** SKIPPED %s: mounting is not allowed here: %s\n", t.Name(), bytes.TrimSpace(out))
		t.Skip("no mount")
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %s", out)
		}
	})
	for _, s := range []*sshdtest.Server{nil, sshdtest.Start(t, sshdtest.Options{})} {
		o := emptyRoot(t, s)
		o.HostDir = filepath.Join(dir, "root")
		_, err := newPool(t, o).Machine(testContext(t), addrOf(s))
		if !errors.Is(err, ErrNoExec) {
			t.Fatalf("got %v", err)
		}
		wantIn(t, err.Error(), "noexec", o.HostDir, "set host_dir")
	}
}

func TestFiles(t *testing.T) {
	everywhere(t, func(t *testing.T, m *Machine, _ *sshdtest.Server) {
		ctx := testContext(t)
		name := filepath.Join(t.TempDir(), "a 'strange' name")
		if _, err := m.Open(ctx, "", name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a file that is not there: %v", err)
		}
		for _, body := range [][]byte{[]byte("first"), bytes.Repeat([]byte{0, 1, 2, 255}, 1<<19), {}} {
			if err := m.Write(ctx, "", name, bytes.NewReader(body)); err != nil {
				t.Fatal(err)
			}
			r, err := m.Open(ctx, "", name)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, body) {
				t.Errorf("%d bytes became %d, %v", len(body), len(got), err)
			}
			r.Close()
		}
		st, err := os.Stat(name)
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", st.Mode(), err)
		}
		if left, err := os.ReadDir(filepath.Dir(name)); err != nil || len(left) != 1 {
			t.Errorf("beside it lie %v, %v", left, err)
		}
		if err := m.Write(ctx, "", "relative", strings.NewReader("")); err == nil {
			t.Error("a relative path was written")
		}
		if _, err := m.Open(ctx, "", filepath.Dir(name)); err == nil {
			t.Error("a folder was read")
		}
		if _, err := m.Open(ctx, "-x; id", name); err == nil {
			t.Error("a senseless user was tried")
		}
	})
}

func TestOtherUser(t *testing.T) {
	if os.Getuid() != 0 {
		fmt.Fprintf(os.Stderr, "\n*** SKIPPED %s: needs root\n", t.Name())
		t.Skip("needs root")
	}
	const other = "nobody"
	everywhere(t, func(t *testing.T, m *Machine, s *sshdtest.Server) {
		ctx := testContext(t)
		// Go's test folders are closed to others.
		_, err := m.Open(ctx, other, "/etc/hostname")
		if !errors.Is(err, ErrNoExec) {
			t.Fatalf("a root that others can't enter: %v", err)
		}
		wantIn(t, err.Error(), other+" can't run programs from", "host_dir")
		_, err = m.Job(ctx, Binary{}, jobOf("r/n/s/1", "@core", "facts").as(other), nil, nil)
		if !errors.Is(err, ErrNoExec) {
			t.Fatalf("a job in a root that others can't enter: %v", err)
		}
		if _, err = m.Open(ctx, "no-such-user", "/etc/hostname"); !errors.Is(err, ErrNoSudo) {
			t.Errorf("no such user: %v", err)
		}

		dir, err := os.MkdirTemp("", "other-")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		if err := os.Chmod(dir, 0o1777); err != nil {
			t.Fatal(err)
		}
		o := optionsFor(t, s)
		o.HostDir = filepath.Join(dir, "root")
		prepareRoot(t, o.HostDir)
		m = machineAt(t, o, s)
		name := filepath.Join(dir, "written")
		if err := m.Write(ctx, other, name, strings.NewReader("by another")); err != nil {
			t.Fatal(err)
		}
		out, err := m.Run(ctx, Binary{}, "stat", "-c", "%U %a", name)
		if err != nil || string(out.Stdout) != other+" 600\n" {
			t.Errorf("it is %q, %v", out.Stdout, err)
		}
		r, err := m.Open(ctx, other, name)
		if err != nil {
			t.Fatal(err)
		}
		if b, _ := io.ReadAll(r); string(b) != "by another" {
			t.Errorf("read %q", b)
		}
		if err := m.Write(ctx, "", name+".mine", strings.NewReader("mine")); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Open(ctx, other, name+".mine"); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("another user read a file of 0600: %v", err)
		}
	})
}

func TestSudoTrouble(t *testing.T) {
	for text, want := range map[string]string{
		"sudo: a password is required\n":                                                 "ubuntu ALL=(node) NOPASSWD: ALL",
		"ubuntu is not in the sudoers file.\n":                                           "ubuntu ALL=(node) NOPASSWD: ALL",
		"Sorry, user ubuntu is not allowed to execute '/bin/x' as node on h.\n":          "ubuntu ALL=(node) NOPASSWD: ALL",
		"sudo: unknown user node\nsudo: error initializing audit plugin sudoers_audit\n": "there is no user node",
		"sudo: sorry, you must have a tty to run sudo\n":                                 "!requiretty",
		"env: 'sudo': No such file or directory\n":                                       "sudo is not installed",
	} {
		exit := 1
		if strings.HasPrefix(text, "env") {
			exit = 127
		}
		err := sudoTrouble("ubuntu@h", "ubuntu", "node", exit, []byte(text))
		if !errors.Is(err, ErrNoSudo) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := sudoTrouble("h", "u", "n", 1, []byte("cat: no such file")); err != nil {
		t.Errorf("a program's own failure: %v", err)
	}
	if err := sudoTrouble("h", "u", "n", 0, []byte("sudo: a password is required")); err != nil {
		t.Errorf("a success: %v", err)
	}
}

func TestFewSessions(t *testing.T) {
	s := sshdtest.Start(t, sshdtest.Options{Sessions: 2})
	m := machineAt(t, optionsFor(t, s), s)
	var wait sync.WaitGroup
	for i := range 12 {
		wait.Go(func() {
			out, err := m.Run(testContext(t), Binary{}, "sh", "-c", fmt.Sprintf("sleep 0.2; echo %d", i))
			if err != nil || strings.TrimSpace(string(out.Stdout)) != fmt.Sprint(i) {
				t.Errorf("%d: %+v, %v", i, out, err)
			}
		})
	}
	wait.Wait()
	ever, open := s.Connections()
	t.Logf("12 at once over %d connections, %d open", ever, open)
	if ever < 2 {
		t.Error("no further connection was made")
	}
}

func TestOneConnection(t *testing.T) {
	s := sshdtest.Start(t, sshdtest.Options{})
	p := newPool(t, optionsFor(t, s))
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			m, err := p.Machine(testContext(t), addrOf(s))
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := m.Facts(testContext(t)); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if ever, _ := s.Connections(); ever != 1 {
		t.Errorf("%d connections, want 1", ever)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Machine(testContext(t), core.Addr{}); err == nil {
		t.Error("a closed pool gave a machine")
	}
}

func TestChattyShell(t *testing.T) {
	_, err := readProbe([]byte("Welcome!\nsnapfw-probe\nLinux x86_64\n"))
	if err == nil || !strings.Contains(err.Error(), "prints text before each command") {
		t.Errorf("got %v", err)
	}
	s := sshdtest.Start(t, sshdtest.Options{Config: []string{"ForceCommand echo no shell for you"}})
	_, err = newPool(t, optionsFor(t, s)).Machine(testContext(t), addrOf(s))
	if err == nil || !strings.Contains(err.Error(), "must not force another command") {
		t.Errorf("got %v", err)
	}
}

func TestPlatforms(t *testing.T) {
	for uname, want := range map[string]string{"Linux x86_64\n": "linux/amd64", "Linux aarch64": "linux/arm64", "Linux armv7l": "linux/arm",
		"Linux i686": "linux/386", "Linux riscv64": "linux/riscv64", "FreeBSD amd64": "freebsd/amd64", "": "/"} {
		system, arch := platformOf(uname)
		if got := system + "/" + arch; got != want {
			t.Errorf("%q: %s, want %s", uname, got, want)
		}
	}
	err := noCore("h", "linux/riscv64", map[string]program{"linux/amd64": {}})
	wantIn(t, err.Error(), "GOOS=linux GOARCH=riscv64")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := runsOn(self, runtime.GOOS+"/"+runtime.GOARCH); err != nil {
		t.Error(err)
	}
	if err := runsOn(self, "linux/s390x"); err == nil {
		t.Error("this test runs on s390x, it seems")
	}
}
