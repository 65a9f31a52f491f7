package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/plugin"
	"github.com/snapfw/snapfw/core/plugin/plugintest"
)

// TestMain makes the test binary the plugin too: served for the conformance suite, and its verbs as processes.
func TestMain(m *testing.M) {
	if os.Getenv("SNAPFW_PLUGIN") != "" || len(os.Args) > 1 && (os.Args[1] == "upload" || os.Args[1] == "reap") {
		main()
	}
	os.Exit(m.Run())
}

// The suite that every sink has to pass, over gRPC.
func TestConformance(t *testing.T) {
	rclone := needRclone(t)
	s := newSite(t, "bucket")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	plugintest.Sink(t, plugin.Command{Name: "rclone", Path: self}, plugintest.SinkCase{
		Target: s.target, Many: 12,
		Run: func(ctx context.Context, c core.Command) (int, error) {
			argv := slices.Clone(c.Argv[1:])
			argv[slices.Index(argv, "@program:rclone")] = rclone
			cmd := exec.CommandContext(ctx, self, argv...)
			cmd.Env = []string{secretEnv + "=" + s.conf(), "HOME=" + t.TempDir()}
			var said bytes.Buffer
			cmd.Stderr = &said
			if err := cmd.Run(); err != nil {
				t.Logf("%v: %s", err, said.String())
			}
			return cmd.ProcessState.ExitCode(), nil
		},
	})
}

func needRclone(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("rclone")
	if err != nil {
		t.Skip("NOT TESTED: rclone is not installed (Debian: apt install rclone)")
	}
	return path
}

// serve starts "rclone serve" on a free port and returns its address and its log.
func serve(t *testing.T, kind, dir string, flags ...string) (addr, log string) {
	t.Helper()
	home := t.TempDir()
	log = filepath.Join(home, "log")
	f, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(needRclone(t), append([]string{"serve", kind, dir, "--addr", "127.0.0.1:0", "-vv"}, flags...)...)
	cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH")}
	cmd.Stderr = write
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	write.Close()
	found, ended := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(ended)
		at := regexp.MustCompile(`(?:started on|listening on).*?(127\.0\.0\.1:\d+)`)
		for lines := bufio.NewScanner(read); lines.Scan(); {
			fmt.Fprintln(f, lines.Text())
			if m := at.FindStringSubmatch(lines.Text()); m != nil {
				select {
				case found <- m[1]:
				default:
				}
			}
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		<-ended
		f.Close()
		read.Close()
	})
	select {
	case addr = <-found:
	case <-ended:
		b, _ := os.ReadFile(log)
		t.Fatalf("rclone serve %s ended:\n%s", kind, b)
	}
	return addr, log
}

// site is one kind of storage under test.
type site struct {
	name   string
	sink   sink
	target core.Target
	to     string
	dir    string // where the objects lie as files; "" in a bucket
	bucket *bucket
	log    string // of its server
}

func (s site) conf() string { return s.target.Secrets[secret] }

func newSite(t *testing.T, kind string) site {
	t.Helper()
	s := site{name: kind, dir: filepath.Join(t.TempDir(), "store"), sink: sink{env: cleanEnv(os.Getenv), seen: new(sync.Map)}}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var conf string
	switch kind {
	case "directory":
		s.to = s.dir
	case "alias of a directory":
		s.to, conf = "loc:", "[loc]\ntype = alias\nremote = "+s.dir+"\n"
	case "webdav":
		addr, log := serve(t, "webdav", s.dir, "--user", "u", "--pass", "letmein-dav")
		s.log = log
		s.to, conf = "dav:base", "[dav]\ntype = webdav\nurl = http://"+addr+"\nvendor = other\nuser = u\npass = "+obscure(t, "letmein-dav")+"\n"
		s.dir = filepath.Join(s.dir, "base")
	case "sftp":
		addr, log := serve(t, "sftp", s.dir, "--user", "u", "--pass", "letmein-sftp")
		s.log = log
		host, port, _ := strings.Cut(addr, ":")
		s.to, conf = "sf:base/deep", "[sf]\ntype = sftp\nhost = "+host+"\nport = "+port+"\nuser = u\npass = "+obscure(t, "letmein-sftp")+"\nshell_type = none\n"
		s.dir = filepath.Join(s.dir, "base/deep")
	case "bucket":
		s.bucket, conf = startBucket(t)
		s.to, s.dir = "s3:things/base", ""
	default:
		t.Fatal(kind)
	}
	config := fmt.Sprintf(`{"to":%q,"public_url":"https://snap.example.org/"}`, s.to)
	s.target = core.Target{Name: kind, Config: []byte(config), Secrets: map[string]string{}}
	if conf != "" {
		s.target.Config = fmt.Appendf(nil, `{"to":%q,"config_path_on_host":"rclone.conf","public_url":"https://snap.example.org"}`, s.to)
		s.target.Secrets[secret] = conf
	}
	return s
}

func obscure(t *testing.T, password string) string {
	out, err := exec.Command(needRclone(t), "obscure", password).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

var kinds = []string{"directory", "alias of a directory", "webdav", "sftp", "bucket"}

// each runs a test on every kind of storage, side by side.
func each(t *testing.T, kinds []string, test func(t *testing.T, s site)) {
	needRclone(t)
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			test(t, newSite(t, kind))
		})
	}
}

func keys(t *testing.T, s site, prefix string) []string {
	t.Helper()
	keys := []string{}
	for o, err := range s.sink.List(t.Context(), s.target, prefix) {
		if err != nil {
			t.Fatalf("list %q: %v", prefix, err)
		}
		if o.Modified.IsZero() {
			t.Errorf("%s: it says not when it was stored", o.Key)
		}
		keys = append(keys, fmt.Sprintf("%s %d", o.Key, o.Size))
	}
	slices.Sort(keys)
	return keys
}

func TestObjects(t *testing.T) {
	each(t, kinds, func(t *testing.T, s site) {
		ctx := t.Context()
		if got := keys(t, s, "full/"); len(got) != 0 {
			t.Errorf("an empty storage lists %v", got)
		}
		if _, _, err := s.sink.Get(ctx, s.target, "full/0/latest.json"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("get of nothing: %v", err)
		}
		put := func(key, body string) {
			t.Helper()
			o, err := s.sink.Put(ctx, s.target, key, []byte(body), core.Condition{})
			if err != nil || o.Key != key || o.Size != int64(len(body)) || o.Meta["url"] != "https://snap.example.org/"+key {
				t.Fatalf("put %s: %+v, %v", key, o, err)
			}
		}
		put("full/0/latest.json", "old")
		put("full/0/latest.json", "newer, and longer")
		put("full/0/latest.json", "new")
		put("full/0/a b/ü+&.json", "{}")
		put("full/1/x", "")
		put("index.json", strings.Repeat("i", 300<<10))
		body, o, err := s.sink.Get(ctx, s.target, "full/0/latest.json")
		if err != nil || string(body) != "new" || o.Size != 3 || o.Modified.IsZero() {
			t.Errorf("get: %q, %+v, %v", body, o, err)
		}
		if body, _, err := s.sink.Get(ctx, s.target, "index.json"); err != nil || len(body) != 300<<10 {
			t.Errorf("get of 300 KiB: %d, %v", len(body), err)
		}
		for _, key := range []string{"full", "full/0", "full/0/latest", "full/0/latest.json/x"} {
			if body, _, err := s.sink.Get(ctx, s.target, key); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("get of %s: %q, %v", key, body, err)
			}
		}
		for prefix, want := range map[string][]string{
			"full/0/":     {"full/0/a b/ü+&.json 2", "full/0/latest.json 3"},
			"full/0/lat":  {"full/0/latest.json 3"},
			"full":        {"full/0/a b/ü+&.json 2", "full/0/latest.json 3", "full/1/x 0"},
			"":            {"full/0/a b/ü+&.json 2", "full/0/latest.json 3", "full/1/x 0", "index.json 307200"},
			"none/at/all": {},
		} {
			if got := keys(t, s, prefix); !slices.Equal(got, want) {
				t.Errorf("list %q: %v, want %v", prefix, got, want)
			}
		}
		for range s.sink.List(ctx, s.target, "") {
			break // the reader may stop
		}
		if err := s.sink.Delete(ctx, s.target, "full/0/a b/ü+&.json", "full/0/a b/never", "nowhere/x"); err != nil {
			t.Errorf("delete: %v", err)
		}
		if err := s.sink.Delete(ctx, s.target, "full/1/x"); err != nil {
			t.Errorf("delete: %v", err)
		}
		for range 2 {
			if err := s.sink.Delete(ctx, s.target, "full/1/x", "full/1/y"); err != nil {
				t.Errorf("delete once more: %v", err)
			}
		}
		if err := s.sink.Delete(ctx, s.target); err != nil {
			t.Errorf("delete nothing: %v", err)
		}
		if got, want := keys(t, s, ""), []string{"full/0/latest.json 3", "index.json 307200"}; !slices.Equal(got, want) {
			t.Errorf("what is left: %v, want %v", got, want)
		}
		if s.dir != "" {
			if _, err := os.Stat(filepath.Join(s.dir, "full/1")); err == nil {
				t.Error("an empty folder was left")
			}
		}
	})
}

func TestObjectsRefuse(t *testing.T) {
	needRclone(t)
	s := newSite(t, "directory")
	ctx := t.Context()
	for _, key := range []string{"", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", ".", "a\nb", "a\x00", `a\b`, strings.Repeat("k", 2000)} {
		if _, err := s.sink.Put(ctx, s.target, key, nil, core.Condition{}); err == nil {
			t.Errorf("put %q", key)
		}
		if _, _, err := s.sink.Get(ctx, s.target, key); err == nil {
			t.Errorf("get %q", key)
		}
		if err := s.sink.Delete(ctx, s.target, key); err == nil {
			t.Errorf("delete %q", key)
		}
	}
	for _, err := range s.sink.List(ctx, s.target, "../../x") {
		if err == nil {
			t.Error("listed what is outside")
		}
	}
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(s.dir, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.sink.Put(ctx, s.target, "link/x", nil, core.Condition{}); err == nil {
		t.Error("a symbolic link led out of the directory")
	}
	if left, _ := os.ReadDir(outside); len(left) > 0 {
		t.Errorf("written outside: %v", left)
	}
	for _, c := range []core.Condition{{IfNoneMatch: true}, {IfMatch: "x"}} {
		if _, err := s.sink.Put(ctx, s.target, "x", nil, c); !errors.Is(err, core.ErrUnsupported) {
			t.Errorf("put on %+v: %v", c, err)
		}
	}
	if _, err := s.sink.Put(ctx, s.target, "x", make([]byte, maxObject+1), core.Condition{}); err == nil {
		t.Error("put of more than 64 MiB")
	}
	big, err := os.Create(filepath.Join(s.dir, "big"))
	if err != nil {
		t.Fatal(err)
	}
	if err := big.Truncate(maxObject + 1); err != nil {
		t.Fatal(err)
	}
	big.Close()
	if _, _, err := s.sink.Get(ctx, s.target, "big"); err == nil || !strings.Contains(err.Error(), "are the most") {
		t.Errorf("get of more than 64 MiB: %v", err)
	}
	t.Setenv("PATH", "/nowhere")
	s = site{sink: s.sink, target: core.Target{Config: []byte(`{"to":"s3:x"}`)}}
	if _, _, err := s.sink.Get(ctx, s.target, "x"); err == nil || !strings.Contains(err.Error(), "apt install rclone") {
		t.Errorf("without rclone: %v", err)
	}
}

// What rclone says when a storage refuses reaches people, and no secret does.
func TestObjectsErrors(t *testing.T) {
	needRclone(t)
	s := newSite(t, "bucket")
	s.bucket.refusing(func(*http.Request) bool { return true })
	ctx := context.WithoutCancel(t.Context())
	_, putErr := s.sink.Put(ctx, s.target, "x", []byte("1"), core.Condition{})
	_, _, getErr := s.sink.Get(ctx, s.target, "x")
	var listErr error
	for _, err := range s.sink.List(ctx, s.target, "x/") {
		listErr = err
	}
	for name, err := range map[string]error{"put": putErr, "get": getErr, "list": listErr, "delete": s.sink.Delete(ctx, s.target, "a/x")} {
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s from a bucket that refuses: %v", name, err)
		} else if !strings.Contains(err.Error(), "403") && !strings.Contains(err.Error(), "AccessDenied") && !strings.Contains(err.Error(), "Forbidden") {
			t.Errorf("%s does not say why: %v", name, err)
		} else if strings.Contains(err.Error(), "very-secret") {
			t.Errorf("%s tells a secret: %v", name, err)
		}
	}
	s.target.Secrets[secret] = "[other]\ntype = local\n"
	if _, _, err := s.sink.Get(ctx, s.target, "x"); err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "section") {
		t.Errorf("a remote that is not configured: %v", err)
	}
}
