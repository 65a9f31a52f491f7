package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fake is a docker program whose one container is in files. core/cli/systemdtest has the real one.
type fake struct {
	t   *testing.T
	dir string
}

// script: "kill" ends the container at once where ends is there; "start" does nothing to one that runs, as Docker does.
const script = `#!/bin/sh
cd %s || exit 1
case $1 in
inspect) cat state; echo >>looked ;;
kill) echo "$@" >>said; test ! -e ends || cp ended state ;;
start) echo "$@" >>said; grep -q '"Running":true' state || cp "$(test -e dies && echo died || echo started)" state ;;
esac
`

func newFake(t *testing.T) *fake {
	f := &fake{t, t.TempDir()}
	t.Setenv("SNAPFW_ROOT", f.path("root"))
	for name, state := range map[string]string{
		"running": `"Running":true,"StartedAt":"one"`, "ended": `"StartedAt":"one"`, "started": `"Running":true,"StartedAt":"two"`,
		"died": `"StartedAt":"two","ExitCode":7`, "killed": `"StartedAt":"one","ExitCode":137`, "oom": `"StartedAt":"one","OOMKilled":true`,
		"restarting": `"Restarting":true,"StartedAt":"one"`,
	} {
		f.write(name, `[{"Id":"c0","State":{`+state+`},"Config":{"StopSignal":"SIGINT"}}]`)
	}
	if err := os.WriteFile(f.path("docker"), fmt.Appendf(nil, script, f.dir), 0o755); err != nil {
		t.Fatal(err)
	}
	f.is("running")
	return f
}

func (f *fake) path(name string) string { return filepath.Join(f.dir, name) }

func (f *fake) write(name, text string) {
	f.t.Helper()
	if err := os.WriteFile(f.path(name), []byte(text), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

// is makes a file of the container's states the present one.
func (f *fake) is(state string) {
	f.t.Helper()
	body, err := os.ReadFile(f.path(state))
	if err == nil {
		err = os.WriteFile(f.path("new"), body, 0o644)
	}
	if err == nil {
		err = os.Rename(f.path("new"), f.path("state"))
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// said are the words that changed something.
func (f *fake) said(want ...string) {
	f.t.Helper()
	body, _ := os.ReadFile(f.path("said"))
	if got := strings.TrimSpace(string(body)); got != strings.Join(want, "\n") {
		f.t.Errorf("docker was told\n%s\nand not\n%s", got, strings.Join(want, "\n"))
	}
}

func (f *fake) container() Container { return Container{f.path("docker"), "box", "c0", "one"} }

const (
	killed  = "kill --signal INT box"
	started = "start box"
)

func TestTell(t *testing.T) {
	ctx := context.Background()
	t.Run("once", func(t *testing.T) {
		f := newFake(t)
		for range 3 {
			if err := f.container().Tell(ctx); err != nil {
				t.Fatal(err)
			}
		}
		f.said(killed)
	})
	t.Run("again after a while, and not for ever", func(t *testing.T) {
		f := newFake(t)
		var want []string
		for range tellMost + 2 {
			if err := f.container().Tell(ctx); err != nil {
				t.Fatal(err)
			}
			n := f.container().told()
			n.Last = n.Last.Add(-tellAgain)
			if err := f.container().note(n); err != nil {
				t.Fatal(err)
			}
			if len(want) < tellMost {
				want = append(want, killed)
			}
		}
		f.said(want...)
	})
	t.Run("in doubt again", func(t *testing.T) {
		f := newFake(t)
		if err := f.container().note(told{Started: "one", First: time.Now(), Last: time.Now(), Times: 1}); err != nil {
			t.Fatal(err)
		}
		if err := f.container().Tell(ctx); err != nil {
			t.Fatal(err)
		}
		f.said(killed)
	})
	t.Run("ended", func(t *testing.T) {
		f := newFake(t)
		f.is("ended")
		if err := f.container().Tell(ctx); err != nil {
			t.Fatal(err)
		}
		f.said()
	})
	t.Run("another start", func(t *testing.T) {
		f := newFake(t)
		f.is("started")
		if err := f.container().Tell(ctx); !errors.Is(err, ErrDirty) {
			t.Error(err)
		}
		f.said()
	})
	t.Run("a signal that it does not end by", func(t *testing.T) {
		f := newFake(t)
		body, _ := os.ReadFile(f.path("running"))
		f.write("state", strings.ReplaceAll(string(body), "SIGINT", "SIGQUIT"))
		if err := f.container().Tell(ctx); !errors.Is(err, ErrSignal) {
			t.Error(err)
		}
		f.said()
	})
	t.Run("not by hand", func(t *testing.T) {
		f := newFake(t)
		t.Setenv("SNAPFW_ROOT", "")
		if err := f.container().Tell(ctx); err == nil {
			t.Error("nothing is noted, and it was told to end")
		}
		f.said()
	})
}

func TestAwait(t *testing.T) {
	for state, want := range map[string]error{"running": ErrRunning, "restarting": ErrRunning, "ended": nil, "killed": ErrDirty, "oom": ErrDirty, "started": ErrDirty} {
		f := newFake(t)
		f.is(state)
		if err := f.container().Await(context.Background(), 10*time.Millisecond); !errors.Is(err, want) {
			t.Errorf("%s: %v", state, err)
		}
	}
}

// TestStartIsRightAtAnyTime: an undo may run when its step never began, in the middle of it, after it, and twice.
func TestStartIsRightAtAnyTime(t *testing.T) {
	ctx := context.Background()
	start := func(f *fake) error { return f.container().Start(ctx, time.Minute, 0) }
	t.Run("never told", func(t *testing.T) {
		f := newFake(t)
		if err := start(f); err != nil {
			t.Fatal(err)
		}
		f.said()
	})
	t.Run("told, and ending", func(t *testing.T) {
		f := newFake(t)
		if err := f.container().Tell(ctx); err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() { done <- start(f) }()
		for looked := 0; looked < 4; time.Sleep(time.Millisecond) {
			select {
			case err := <-done:
				t.Fatalf("it goes on running, and will be down: %v", err)
			default:
			}
			body, _ := os.ReadFile(f.path("looked"))
			looked = len(body)
		}
		f.is("ended")
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if err := start(f); err != nil {
			t.Fatal(err)
		}
		f.said(killed, started)
		if left, _ := filepath.Glob(f.path("root/containers/*")); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	})
	t.Run("noted, and perhaps not told", func(t *testing.T) {
		f := newFake(t)
		f.write("ends", "")
		if err := f.container().note(told{Started: "one", First: time.Now(), Last: time.Now(), Times: 1}); err != nil {
			t.Fatal(err)
		}
		if err := start(f); err != nil {
			t.Fatal(err)
		}
		f.said(killed, started)
	})
	t.Run("ended", func(t *testing.T) {
		f := newFake(t)
		f.is("killed")
		if err := start(f); err != nil {
			t.Fatal(err)
		}
		f.said(started)
	})
	t.Run("started by somebody else", func(t *testing.T) {
		f := newFake(t)
		if err := f.container().Tell(ctx); err != nil {
			t.Fatal(err)
		}
		f.is("started")
		if err := start(f); err != nil {
			t.Fatal(err)
		}
		f.said(killed)
	})
	t.Run("dies at once", func(t *testing.T) {
		f := newFake(t)
		f.is("ended")
		f.write("dies", "")
		if err := start(f); err == nil || !strings.Contains(err.Error(), "exit code 7") {
			t.Error(err)
		}
	})
	t.Run("does not end", func(t *testing.T) {
		f := newFake(t)
		if err := f.container().Tell(ctx); err != nil {
			t.Fatal(err)
		}
		defer func(d time.Duration) { least = d }(least)
		least = 0
		if err := f.container().Start(ctx, time.Nanosecond, 0); err == nil || !strings.Contains(err.Error(), "has not ended") {
			t.Error(err)
		}
		f.said(killed)
	})
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`[{"Id":"c0","State":{"Running":true},"Config":{"StopSignal":"2"}}]`))
	f.Add([]byte(`[{},{}]`))
	f.Fuzz(func(t *testing.T, out []byte) {
		s, err := Read(out)
		if err != nil {
			return
		}
		if !json.Valid(out) {
			t.Errorf("%q was read", out)
		}
		if signal, err := s.StopSignal(); err == nil && signal != "TERM" && signal != "INT" {
			t.Errorf("%q: signal %q", out, signal)
		}
	})
}
