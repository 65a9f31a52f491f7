//go:build linux

package onhost

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// binary is snapfw-host, built once, where every user can execute it.
var binary string

func TestMain(m *testing.M) { os.Exit(build(m)) }

func build(m *testing.M) int {
	flag.Parse()
	flag.Set("test.parallel", "8") // they wait more than they work
	if flag.Lookup("test.fuzz").Value.String() != "" {
		return m.Run() // parsers need no binary, and every worker would build one
	}
	dir, err := os.MkdirTemp("", "onhost")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	os.Chmod(dir, 0o755)
	binary = filepath.Join(dir, "snapfw-host")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, "github.com/snapfw/snapfw/cmd/snapfw-host")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build snapfw-host: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// box is a host: a root of its own. What runs in it ends with the test.
type box struct {
	*testing.T
	root string
	path string              // its PATH, "" for the one of the test
	cred *syscall.Credential // nil for the user of the test
}

func newBox(t *testing.T) *box {
	t.Helper()
	root, err := os.MkdirTemp("", "onhost-root")
	if err != nil {
		t.Fatal(err)
	}
	b := &box{T: t, root: root}
	t.Cleanup(b.clear)
	return b
}

// clear ends what the test started: nothing but the processes that files of the root name.
func (b *box) clear() {
	for round := 0; round < 3; round++ {
		filepath.WalkDir(b.root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			switch filepath.Base(path) {
			case fileWatch, fileSupervisor, fileChild:
				var p proc
				if readJSON(path, &p) == nil && p.alive() {
					syscall.Kill(p.PID, syscall.SIGKILL)
				}
			}
			return nil
		})
	}
	os.RemoveAll(b.root)
}

// said is what one call of the binary said.
type said struct {
	code     int
	out, err string
}

func (b *box) command(args ...string) *exec.Cmd {
	cmd := exec.Command(binary, append([]string{"-root", b.root}, args...)...)
	cmd.Env = os.Environ()
	if b.path != "" {
		cmd.Env = []string{"PATH=" + b.path}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: b.cred}
	return cmd
}

func (b *box) call(stdin string, args ...string) said {
	b.Helper()
	cmd := b.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	code, err := exitCode(cmd.Run())
	if err != nil {
		b.Fatal(err)
	}
	return said{code, out.String(), errs.String()}
}

// ok calls the binary, expects exit code 0 and decodes its last line.
func (b *box) ok(in, answer any, args ...string) {
	b.Helper()
	s := b.call(encode(b.T, in), args...)
	if s.code != 0 {
		b.Fatalf("%v: exit %d: %s", args, s.code, s.err)
	}
	if answer == nil {
		return
	}
	lines := strings.Split(strings.TrimSpace(s.out), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), answer); err != nil {
		b.Fatalf("%v: %v in %q", args, err, s.out)
	}
}

func encode(t *testing.T, v any) string {
	t.Helper()
	if v == nil {
		return ""
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// job runs a job to its end and returns all reports.
func (b *box) job(j Job, secret map[string]string) (Result, []Report) {
	b.Helper()
	s := b.call(encode(b.T, Start{j, secret}), "job", "run")
	return lastOf(b.T, s)
}

func lastOf(t *testing.T, s said) (Result, []Report) {
	t.Helper()
	if s.code != 0 {
		t.Fatalf("job run: exit %d: %s", s.code, s.err)
	}
	var all []Report
	d := json.NewDecoder(strings.NewReader(s.out))
	for d.More() {
		var r Report
		if err := d.Decode(&r); err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	if len(all) == 0 || all[len(all)-1].Done == nil {
		t.Fatalf("the last report is not Done: %q", s.out)
	}
	return *all[len(all)-1].Done, all
}

// begin starts a job and returns the process that follows it, once the child runs.
func (b *box) begin(j Job, secret map[string]string) *exec.Cmd {
	b.Helper()
	cmd := b.command("job", "run")
	cmd.Stdin = strings.NewReader(encode(b.T, Start{j, secret}))
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	b.until("the job's child runs", func() bool { return aliveIn(b.file(j.ID, fileChild)) })
	return cmd
}

// beginReady is begin for a script that says "ready" when its traps are set.
func (b *box) beginReady(j Job) *exec.Cmd {
	b.Helper()
	cmd := b.begin(j, nil)
	b.until("the job is ready", func() bool {
		out, _ := os.ReadFile(b.file(j.ID, fileOut))
		return strings.Contains(string(out), "ready")
	})
	return cmd
}

func (b *box) file(id, name string) string { return filepath.Join(b.root, "jobs", id, name) }

// pid reads a process from a job's folder.
func (b *box) pid(id, name string) int {
	b.Helper()
	var p proc
	if err := readJSON(b.file(id, name), &p); err != nil {
		b.Fatal(err)
	}
	return p.PID
}

func (b *box) until(what string, is func() bool) {
	b.Helper()
	end := time.Now().Add(30 * time.Second)
	for p := (poll{}); !is(); p.sleep() {
		if time.Now().After(end) {
			b.Fatalf("not within 30s: %s", what)
		}
	}
}

func sh(id, script string) Job { return Job{ID: id, Argv: []string{"/bin/sh", "-c", script}} }
