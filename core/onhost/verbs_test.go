//go:build linux

package onhost

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestFacts(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	var f Facts
	b.ok(nil, &f, "facts")
	u := login()
	if f.OS != runtime.GOOS || f.Arch != runtime.GOARCH || f.User != u.Username || f.Home != u.HomeDir || f.UID != os.Getuid() ||
		f.Root != b.root || f.Boot == "" || f.Host == "" || time.Since(f.Now).Abs() > time.Minute {
		t.Errorf("%+v", f)
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	for _, args := range [][]string{nil, {"dance"}, {"job", "dance"}, {"cat"}, {"lock", "take", "a"}, {"lock", "take", "../a", "r", "1s"}, {"lock", "take", "a", "r", "soon"}} {
		if s := b.call("", args...); s.code != 2 || s.err == "" {
			t.Errorf("%v: %+v", args, s)
		}
	}
	out, err := exec.Command(binary, "guard", "state", "k").CombinedOutput()
	if code, _ := exitCode(err); code != 2 || !strings.Contains(string(out), "-root") {
		t.Errorf("without a root: %s", out)
	}
}

func (b *box) lock(args ...string) LockState {
	b.Helper()
	var l LockState
	b.ok(nil, &l, append([]string{"lock"}, args...)...)
	return l
}

func TestLock(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	first := b.lock("take", "chain", "r1", "1h")
	if !first.Taken || first.Holder != "r1" || time.Until(first.Until) < 50*time.Minute {
		t.Errorf("%+v", first)
	}
	for _, c := range []struct {
		args   string
		taken  bool
		holder string
	}{
		{"take chain r2 1h", false, "r1"},
		{"take other r2 1h", true, "r2"},
		{"take chain r1 1h", true, "r1"},
		{"renew chain r2 1h", false, "r1"},
		{"free chain r2", false, "r1"},
		{"renew chain r1 50ms", true, "r1"},
	} {
		if l := b.lock(strings.Fields(c.args)...); l.Taken != c.taken || l.Holder != c.holder {
			t.Errorf("%s: %+v", c.args, l)
		}
	}
	b.until("its lease is over", func() bool { return b.lock("take", "chain", "r2", "1h").Taken })
	if l := b.lock("renew", "chain", "r1", "1h"); l.Taken || l.Holder != "r2" {
		t.Errorf("renewed what somebody else has: %+v", l)
	}
	for range 2 {
		if l := b.lock("free", "chain", "r2"); l.Taken || l.Holder != "" {
			t.Errorf("freed: %+v", l)
		}
	}
}

func TestLockOfAnotherBoot(t *testing.T) {
	t.Parallel()
	h := holder{Run: "r", Boot: "another", Until: time.Now().Add(time.Minute)}
	if !h.held("this") {
		t.Error("a reboot broke a lease that is not over")
	}
	if h.Until = time.Now().Add(-time.Second); h.held("this") {
		t.Error("a lease that is over holds after a reboot")
	}
}

func TestLockIsTakenByOneOfMany(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.lock("take", "chain", "dead", "1ms") // a stale one, to be broken by one of them
	var wg sync.WaitGroup
	var mu sync.Mutex
	taken := 0
	for _, run := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		wg.Go(func() {
			s := b.call("", "lock", "take", "chain", run, "1h")
			mu.Lock()
			defer mu.Unlock()
			if strings.Contains(s.out, `"Taken":true`) {
				taken++
			}
		})
	}
	wg.Wait()
	if taken != 1 {
		t.Errorf("%d of 8 have the lock", taken)
	}
}

func TestHTTP(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch r.URL.Path {
		case "/big":
			io.Copy(w, io.LimitReader(zeros{}, maxHTTP+1))
		case "/slow":
			<-r.Context().Done()
		case "/moved":
			http.Redirect(w, r, "/", http.StatusFound)
		case "/bad":
			w.WriteHeader(500)
		}
		io.WriteString(w, r.Method+" "+r.Header.Get("Content-Type")+" "+string(body))
	}))
	defer srv.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	b := newBox(t)
	for _, c := range []struct {
		in, args  string
		code      int
		out, errs string
	}{
		{"", srv.URL + "/", 0, "GET  ", ""},
		{`{"a":1}`, srv.URL, 0, `POST application/json {"a":1}`, ""},
		{"", srv.URL + ` --body {"b":2}`, 0, `POST application/json {"b":2}`, ""},
		{"", srv.URL + "/bad", 3, "GET  ", "500 Internal"},
		{"", srv.URL + "/moved", 3, "", "302 Found"},
		{"", srv.URL + "/big", 1, "", "more than 16 MiB"},
		{"", "--timeout 50ms " + srv.URL + "/slow", 1, "", "deadline"},
		{"", "http://" + l.Addr().String(), 1, "", "refused"},
		{"", "ftp://x/y", 1, "", "unsupported protocol"},
	} {
		s := b.call(c.in, append([]string{"http"}, strings.Fields(c.args)...)...)
		if s.code != c.code || !strings.HasPrefix(s.out, c.out) || !strings.Contains(s.err, c.errs) {
			t.Errorf("%s: %d %.60q %q", c.args, s.code, s.out, s.err)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestCatAndPut(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	path := filepath.Join(b.root, "some", "file")
	b.ok("one", nil, "put", path)
	b.ok("two", nil, "put", path, "--mode", "0644")
	if s := b.call("", "cat", path); s.code != 0 || s.out != "\"two\"" {
		t.Errorf("%+v", s)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode() != 0o644 {
		t.Errorf("%v, %v", fi, err)
	}
	if names, _ := os.ReadDir(filepath.Dir(path)); len(names) != 1 {
		t.Errorf("something was left beside it: %v", names)
	}
	pipe := filepath.Join(b.root, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args string
		code int
	}{
		{"cat " + path + "x", 3}, {"cat " + b.root, 1}, {"cat " + pipe, 1},
		{"put relative", 2}, {"put " + path + " --mode 999", 2}, {"put " + b.root, 1},
	} {
		if s := b.call("x", strings.Fields(c.args)...); s.code != c.code || s.err == "" {
			t.Errorf("%s: %+v", c.args, s)
		}
	}
}
