package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapfw/snapfw/core"
)

// copyDir is a captured copy with files of random content.
type copyDir struct {
	dir, list string
	uploads   []core.Upload
}

func newCopy(t *testing.T, files map[string]int) *copyDir {
	t.Helper()
	c := &copyDir{dir: filepath.Join(t.TempDir(), "data")}
	c.list = filepath.Join(filepath.Dir(c.dir), "uploads.jsonl")
	for name, size := range files {
		body := make([]byte, size)
		for i := range body {
			body[i] = byte(rand.Uint32())
		}
		file := filepath.Join(c.dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, body, 0o644); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(body)
		c.uploads = append(c.uploads, core.Upload{Entry: core.Entry{Name: name, Size: int64(size), Sums: map[string]string{"sha256": hex.EncodeToString(sum[:])}}})
	}
	c.write(t)
	return c
}

func (c *copyDir) write(t *testing.T) {
	t.Helper()
	var b bytes.Buffer
	for _, u := range c.uploads {
		if err := json.NewEncoder(&b).Encode(u); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(c.list, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (c *copyDir) bytes() (n int64) {
	for _, u := range c.uploads {
		n += u.Size
	}
	return n
}

// verb is the command that the sink plans, as a process of this test binary.
func verb(t *testing.T, s site, c *copyDir, r core.UploadRequest) *exec.Cmd {
	t.Helper()
	r.Dir, r.List = c.dir, c.list
	planned, err := s.sink.Upload(t.Context(), s.target, r)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	argv := planned.Argv[1:]
	for i, word := range argv {
		if word == "@program:rclone" {
			argv[i] = needRclone(t)
		}
	}
	cmd := exec.Command(self, argv...)
	cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=/usr/bin:/bin", "TMPDIR=" + t.TempDir(), "AWS_CA_BUNDLE=/nowhere/ca.pem", "RCLONE_DRY_RUN=true"}
	for name := range planned.Env {
		cmd.Env = append(cmd.Env, name+"="+s.conf())
	}
	return cmd
}

type outcome struct {
	exit   int
	sum    summary
	steps  []core.Progress
	stdout string
	stderr string
}

func finish(t *testing.T, cmd *exec.Cmd) outcome {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	o := outcome{exit: cmd.ProcessState.ExitCode(), stdout: out.String(), stderr: errs.String()}
	if err != nil && o.exit < 0 {
		o.exit = 128
	}
	for _, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		var p core.Progress
		if strings.HasPrefix(line, `{"done"`) && json.Unmarshal([]byte(line), &p) == nil {
			o.steps = append(o.steps, p)
		} else if err := json.Unmarshal([]byte(line), &o.sum); err != nil && o.exit == 0 {
			t.Errorf("standard output holds %q", line)
		}
	}
	return o
}

func must(t *testing.T, o outcome) outcome {
	t.Helper()
	if o.exit != 0 {
		t.Fatalf("exit %d: %s", o.exit, o.stderr)
	}
	last := core.Progress{}
	for _, p := range o.steps {
		if p.Total != o.sum.Bytes || p.Done > p.Total {
			t.Errorf("progress %+v of %d bytes", p, o.sum.Bytes)
		}
		last = p
	}
	if last.Done != o.sum.Bytes {
		t.Errorf("the last progress is %+v of %d bytes", last, o.sum.Bytes)
	}
	return o
}

// holds reads every file back and compares it.
func holds(t *testing.T, s site, c *copyDir, prefix string) {
	t.Helper()
	want, got := map[string]int64{}, map[string]int64{}
	for _, u := range c.uploads {
		want[prefix+"/"+u.Name] = u.Size
	}
	for o, err := range s.sink.List(t.Context(), s.target, prefix+"/") {
		if err != nil {
			t.Fatal(err)
		}
		got[o.Key] = o.Size
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("%s (-want +got):\n%s", prefix, diff)
	}
	for _, u := range c.uploads {
		body, err := read(t, s, prefix+"/"+u.Name)
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != u.Sums["sha256"] {
			t.Errorf("%s/%s has other bytes", prefix, u.Name)
		}
	}
}

func read(t *testing.T, s site, key string) ([]byte, error) {
	if s.bucket != nil {
		return s.bucket.objects["things/base/"+key].body, nil
	}
	return os.ReadFile(filepath.Join(s.dir, key))
}

func TestUpload(t *testing.T) {
	each(t, kinds, func(t *testing.T, s site) {
		files := map[string]int{"000001.ldb": 300_000, "000002.ldb": 200_000, "sub dir/ü [x] {y}*.log": 1000, "# no comment": 10, "empty": 0}
		first := newCopy(t, files)
		o := must(t, finish(t, verb(t, s, first, core.UploadRequest{Prefix: "full/0/a"})))
		if o.sum.Sent != 5 || o.sum.SentBytes != first.bytes() || o.sum.Copied != 0 {
			t.Errorf("first: %+v", o.sum)
		}
		holds(t, s, first, "full/0/a")

		again := must(t, finish(t, verb(t, s, first, core.UploadRequest{Prefix: "full/0/a"})))
		if again.sum.There != 5 || again.sum.Sent != 0 {
			t.Errorf("the same once more: %+v", again.sum)
		}

		// The second snapshot holds the tables of the first, one of which the first has lost since, and new ones.
		second := newCopy(t, map[string]int{"000003.ldb": 50_000, "MANIFEST": 1000})
		for _, u := range first.uploads {
			body, err := os.ReadFile(filepath.Join(first.dir, u.Name))
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(second.dir, u.Name)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, body, 0o644); err != nil {
				t.Fatal(err)
			}
			u.Previous = true
			second.uploads = append(second.uploads, u)
		}
		second.write(t)
		if err := s.sink.Delete(t.Context(), s.target, "full/0/a/# no comment"); err != nil {
			t.Fatal(err)
		}
		var received int64
		var copies int
		if s.bucket != nil {
			received, copies = s.bucket.snapshot()
		}
		o = must(t, finish(t, verb(t, s, second, core.UploadRequest{Prefix: "full/0/b", Previous: "full/0/a"})))
		holds(t, s, second, "full/0/b")
		want := summary{Files: 7, Bytes: second.bytes(), Sent: 3, SentBytes: 51_010, Copied: 4, CopiedBytes: 501_000}
		if s.name == "sftp" { // it can't copy inside
			want.Sent, want.SentBytes, want.Copied, want.CopiedBytes = 7, second.bytes(), 0, 0
		}
		if o.sum != want {
			t.Errorf("second: %+v, want %+v", o.sum, want)
		}
		switch s.name {
		case "bucket":
			r, c := s.bucket.snapshot()
			if r-received > 51_010+5_000 || c-copies != 4 {
				t.Errorf("the bucket got %d bytes and %d copies, want about 51010 and 4", r-received, c-copies)
			}
		case "webdav":
			log, err := os.ReadFile(s.log)
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(log), ": COPY from"); n != 4 {
				t.Errorf("the server's log has %d copies, want 4:\n%s", n, log)
			}
			if n := strings.Count(string(log), ": PUT from"); n != 5+3 {
				t.Errorf("the server's log has %d uploads, want 5 and then 3:\n%s", n, log)
			}
		}
	})
}

// A run that was killed, rclone or the verb itself, is carried on, and a half file does not pass for a whole one.
func TestUploadKilled(t *testing.T) {
	each(t, []string{"directory", "webdav", "bucket"}, func(t *testing.T, s site) {
		for _, victim := range []string{"rclone", "verb"} {
			files := map[string]int{}
			for i := range 6 {
				files[fmt.Sprintf("%06d.ldb", i)] = 60_000
			}
			c := newCopy(t, files)
			request := core.UploadRequest{Prefix: "full/0/" + victim, Transfers: 1, Rate: 100_000}
			cmd := verb(t, s, c, request)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			arrivedSome := func() bool {
				record, _ := os.ReadFile(c.list + ".done")
				return bytes.Count(record, []byte(`"name"`)) >= 2
			}
			until(t, "two files arrived", arrivedSome)
			child := childOf(cmd.Process.Pid)
			if child == 0 {
				t.Fatal("rclone is not running")
			}
			kill := child
			if victim == "verb" {
				kill = cmd.Process.Pid
			}
			if err := syscall.Kill(kill, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			err := cmd.Wait()
			if victim == "rclone" && err != nil {
				t.Errorf("the verb did not start rclone again: %v", err)
			}
			until(t, "rclone ended too", func() bool { return !alive(child) })
			request.Rate = 0
			o := must(t, finish(t, verb(t, s, c, request)))
			if o.sum.There < 2 || o.sum.There+o.sum.Sent != 6 || victim == "rclone" && o.sum.Sent > 0 {
				t.Errorf("%s killed, carried on with %+v", victim, o.sum)
			}
			holds(t, s, c, "full/0/"+victim)
		}
	})
}

// Storage that writes in place: a file of the right size that no run confirmed is sent again.
func TestUploadHalfFileOfTheRightSize(t *testing.T) {
	needRclone(t)
	s := newSite(t, "directory")
	c := newCopy(t, map[string]int{"000001.ldb": 5000})
	half := filepath.Join(s.dir, "p/000001.ldb")
	if err := os.MkdirAll(filepath.Dir(half), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(half, make([]byte, 5000), 0o644); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(s.dir, "p/000001.ldb.a1b2c3d4.partial")
	if err := os.WriteFile(left, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	must(t, finish(t, verb(t, s, c, core.UploadRequest{Prefix: "p"})))
	holds(t, s, c, "p") // and what a newer rclone left half done is gone
}

func TestUploadFails(t *testing.T) {
	needRclone(t)
	for name, c := range map[string]struct {
		kind  string
		spoil func(t *testing.T, s *site, c *copyDir)
		exit  int
		want  []string
	}{
		"a bucket that refuses": {"bucket", func(t *testing.T, s *site, c *copyDir) {
			s.bucket.refusing(func(*http.Request) bool { return true })
		}, 1, []string{"403"}},
		"a bucket that refuses one file": {"bucket", func(t *testing.T, s *site, c *copyDir) {
			s.bucket.refusing(func(r *http.Request) bool {
				return r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/b")
			})
		}, 1, []string{"1 files failed: b: ", "AccessDenied"}},
		"a remote that is not configured": {"bucket", func(t *testing.T, s *site, c *copyDir) {
			s.target.Secrets[secret] = "[else]\ntype = local\n"
		}, 1, []string{"didn't find section"}},
		"a directory that can't be made": {"directory", func(t *testing.T, s *site, c *copyDir) {
			if err := os.WriteFile(filepath.Join(s.dir, "p"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}, 1, []string{"not a directory"}},
		"a missing file": {"directory", func(t *testing.T, s *site, c *copyDir) {
			if err := os.Remove(filepath.Join(c.dir, "b")); err != nil {
				t.Fatal(err)
			}
		}, core.ExitRefused, []string{"not what the list says", "b: "}},
		"a shorter file": {"directory", func(t *testing.T, s *site, c *copyDir) {
			if err := os.Truncate(filepath.Join(c.dir, "b"), 1); err != nil {
				t.Fatal(err)
			}
		}, core.ExitRefused, []string{"b: 1 bytes instead of 2000"}},
		"a symbolic link": {"directory", func(t *testing.T, s *site, c *copyDir) {
			file := filepath.Join(c.dir, "b")
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("a", file); err != nil {
				t.Fatal(err)
			}
		}, core.ExitRefused, []string{"b: not a regular file"}},
		"an empty list":  {"directory", func(t *testing.T, s *site, c *copyDir) { c.uploads = nil; c.write(t) }, core.ExitRefused, []string{"it is empty"}},
		"a hostile name": {"directory", func(t *testing.T, s *site, c *copyDir) { c.uploads[0].Name = "../../x"; c.write(t) }, core.ExitRefused, []string{"clean relative"}},
		"a replacement":  {"directory", func(t *testing.T, s *site, c *copyDir) { c.uploads[0].Replace = true; c.write(t) }, core.ExitRefused, []string{"no --stage"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, c.kind)
			copied := newCopy(t, map[string]int{"a": 1000, "b": 2000})
			c.spoil(t, &s, copied)
			o := finish(t, verb(t, s, copied, core.UploadRequest{Prefix: "p"}))
			if o.exit != c.exit {
				t.Errorf("exit %d, want %d: %s", o.exit, c.exit, o.stderr)
			}
			for _, want := range c.want {
				if !strings.Contains(o.stderr, want) {
					t.Errorf("it does not say %q: %s", want, o.stderr)
				}
			}
			if strings.Contains(o.stderr+o.stdout, "very-secret") {
				t.Errorf("it tells a secret: %s", o.stderr)
			}
		})
	}
}

// While rclone runs its configuration is in no argv, no environment and no file.
func TestUploadKeepsTheConfiguration(t *testing.T) {
	needRclone(t)
	s := newSite(t, "bucket")
	c := newCopy(t, map[string]int{"a": 400_000, "b": 400_000})
	cmd := verb(t, s, c, core.UploadRequest{Prefix: "p", Transfers: 1, Rate: 100_000})
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Signal(syscall.SIGTERM)
	var child int
	until(t, "rclone copy runs", func() bool {
		child = childOf(cmd.Process.Pid)
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", child))
		return bytes.Contains(line, []byte("\x00copy\x00"))
	})
	for _, file := range []string{"cmdline", "environ"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", child, file))
		if err != nil || len(b) == 0 {
			t.Fatalf("%s: %v", file, err)
		}
		if bytes.Contains(b, []byte("very-secret")) || bytes.Contains(b, []byte("AWS_CA_BUNDLE")) {
			t.Errorf("rclone's %s is %q", file, b)
		}
	}
	config := fmt.Sprintf("/proc/%d/fd/3", child)
	if b, err := os.ReadFile(config); err != nil || string(b) != s.conf() {
		t.Errorf("descriptor 3 holds %q, %v", b, err)
	}
	if to, _ := os.Readlink(config); !strings.HasPrefix(to, "/memfd:") {
		t.Errorf("the configuration is %s", to)
	}
	if err := os.WriteFile(config, []byte("x"), 0); err == nil {
		t.Error("the configuration can be written")
	}
	for _, v := range cmd.Env {
		dir, ok := strings.CutPrefix(v, "TMPDIR=")
		if !ok {
			continue
		}
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("%s holds %v", dir, left)
		}
	}
}

func TestConfigurationOnDisk(t *testing.T) {
	dir := t.TempDir()
	beside := filepath.Join(dir, "rclone [x].conf")
	if err := os.WriteFile(beside, []byte("the operator's own"), 0o644); err != nil {
		t.Fatal(err)
	}
	dead := beside + ".snapfw-123"
	if err := os.WriteFile(dead, []byte("left by a killed run"), 0o600); err != nil {
		t.Fatal(err)
	}
	one, err := onDisk([]byte("secret"), beside)
	if err != nil {
		t.Fatal(err)
	}
	two, err := onDisk([]byte("secret"), beside) // side by side with the first
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []placed{one, two} {
		info, err := os.Stat(p.path)
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", p.path, info, err)
		}
		if b, _ := os.ReadFile(p.path); string(b) != "secret" {
			t.Errorf("%s holds %q", p.path, b)
		}
	}
	one.remove()
	two.remove()
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 1 || left[0] != beside {
		t.Errorf("left: %v, %v", left, err)
	}
	if b, _ := os.ReadFile(beside); string(b) != "the operator's own" {
		t.Errorf("the operator's own file holds %q", b)
	}
	if _, err := onDisk([]byte("x"), filepath.Join(dir, "nowhere/x")); err == nil || !strings.Contains(err.Error(), "config_path_on_client") {
		t.Errorf("where nothing can be written: %v", err)
	}
}

// The file is gone though its writer is killed.
func TestConfigurationOnDiskOutlivesNobody(t *testing.T) {
	if os.Getenv("SNAPFW_TEST_HOLD") != "" {
		p, err := onDisk([]byte("secret"), os.Getenv("SNAPFW_TEST_HOLD"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("held", p.path)
		select {}
	}
	beside := filepath.Join(t.TempDir(), "rclone.conf")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run", "^TestConfigurationOnDiskOutlivesNobody$")
	cmd.Env = append(os.Environ(), "SNAPFW_TEST_HOLD="+beside)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	holding := func() bool {
		left, _ := filepath.Glob(beside + ".snapfw-*")
		if len(left) != 1 {
			return false
		}
		b, _ := os.ReadFile(left[0])
		return string(b) == "secret"
	}
	until(t, "the file is written", holding)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	until(t, "the file is gone", func() bool {
		left, _ := filepath.Glob(beside + "*")
		return len(left) == 0
	})
}

func TestUploadEndedBySignal(t *testing.T) {
	needRclone(t)
	s := newSite(t, "directory")
	c := newCopy(t, map[string]int{"a": 900_000})
	cmd := verb(t, s, c, core.UploadRequest{Prefix: "p", Rate: 50_000})
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var child int
	until(t, "rclone runs", func() bool { child = childOf(cmd.Process.Pid); return child != 0 })
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(errs.String(), "ended by a signal") {
		t.Errorf("%v: %s", cmd.ProcessState, errs.String())
	}
	until(t, "rclone ended", func() bool { return !alive(child) })
}

// until polls, at most 20 seconds.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for tick := time.NewTicker(5 * time.Millisecond); !cond(); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// childOf finds a child process in /proc.
func childOf(parent int) int {
	stats, _ := fs.Glob(os.DirFS("/proc"), "[0-9]*/stat")
	for _, stat := range stats {
		b, _ := os.ReadFile(filepath.Join("/proc", stat))
		_, rest, _ := strings.Cut(string(b), ") ")
		fields := strings.Fields(rest)
		if len(fields) > 1 && fields[1] == strconv.Itoa(parent) && fields[0] != "Z" {
			pid, _ := strconv.Atoi(filepath.Dir(stat))
			return pid
		}
	}
	return 0
}

func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z")
}
