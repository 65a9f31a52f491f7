package host

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/internal/host/sshdtest"
)

// theCore is snapfw-host, built once.
var theCore Binary

var theProgram struct{ path, placed string }

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "host-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "snapfw-host")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, "github.com/snapfw/snapfw/cmd/snapfw-host")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build snapfw-host: %v\n%s", err, out)
		return 1
	}
	theCore = Binary{Name: coreName, Files: map[string]File{runtime.GOOS + "/" + runtime.GOARCH: {Path: bin}}}
	p, err := File{Path: bin}.read(coreName)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	theProgram.path, theProgram.placed = bin, p.placedName()
	return m.Run()
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// warnings collects what an operator is told.
type warnings struct {
	mu   sync.Mutex
	list []string
}

func (w *warnings) add(s string) { w.mu.Lock(); defer w.mu.Unlock(); w.list = append(w.list, s) }

func (w *warnings) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.list, "\n")
}

// logBuffer is what the debug log said.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}
func (l *logBuffer) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

// optionsFor are options that log into a test server, with a root of the test's own in which
// snapfw-host lies already.
func optionsFor(t testing.TB, s *sshdtest.Server) Options {
	o := emptyRoot(t, s)
	prepareRoot(t, o.HostDir)
	return o
}

func prepareRoot(t testing.TB, root string) {
	t.Helper()
	if err := (local{}).makeRoot(context.Background(), root); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(theProgram.path, filepath.Join(root, "bin", theProgram.placed)); err != nil {
		t.Fatal(err)
	}
}

// emptyRoot is optionsFor with a root that is not there yet.
func emptyRoot(t testing.TB, s *sshdtest.Server) Options {
	o := Options{Core: theCore, HostDir: filepath.Join(t.TempDir(), "root")}
	if s != nil {
		o.SSH = SSHOptions{KeyPath: s.KeyPath, KnownHosts: []string{s.KnownHosts}}
	}
	return o
}

func newPool(t testing.TB, o Options) *Pool {
	p := NewPool(o)
	t.Cleanup(func() { p.Close() })
	return p
}

func addrOf(s *sshdtest.Server) core.Addr {
	if s == nil {
		return core.Addr{}
	}
	return core.Addr{User: s.User, Host: "127.0.0.1", Port: s.Port}
}

// machineAt connects or fails the test.
func machineAt(t testing.TB, o Options, s *sshdtest.Server) *Machine {
	t.Helper()
	m, err := newPool(t, o).Machine(testContext(t), addrOf(s))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// everywhere runs a test on this machine and on one over ssh.
func everywhere(t *testing.T, f func(t *testing.T, m *Machine, s *sshdtest.Server)) {
	t.Run("local", func(t *testing.T) { f(t, machineAt(t, optionsFor(t, nil), nil), nil) })
	t.Run("ssh", func(t *testing.T) {
		s := sshdtest.Start(t, sshdtest.Options{})
		f(t, machineAt(t, optionsFor(t, s), s), s)
	})
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(40 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("it never happened: %s", what)
}

// script writes an executable shell script and returns it as a Binary.
func script(t testing.TB, name, text string) Binary {
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return Binary{Name: name, Files: map[string]File{runtime.GOOS + "/" + runtime.GOARCH: {Path: path}}}
}

func debugLog(w *logBuffer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// wantIn fails unless text holds every word.
func wantIn(t testing.TB, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%q is missing in:\n%s", w, text)
		}
	}
}
