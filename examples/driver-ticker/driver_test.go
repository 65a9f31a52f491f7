package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/plugin"
	"github.com/snapfw/snapfw/core/plugin/plugintest"
)

// TestSuite runs the suite that every plugin has to pass, on the built driver and a real node.
func TestSuite(t *testing.T) {
	built := build(t)
	program, dir := start(t)
	plugintest.Chain(t, plugin.Command{Name: "ticker", Path: built}, plugintest.ChainCase{
		Config: fmt.Appendf(nil, `{"nodes":[{"name":"a","dir":%q,"program":%q},{"name":"b","dir":%q,"program":%q}]}`, dir, program, dir, program),
		Host:   func(core.Node) core.Host { return here{built} },
	})
}

// TestStop sees the two ends of a node told apart.
func TestStop(t *testing.T) {
	built := build(t)
	for name, c := range map[string]struct {
		signal syscall.Signal
		want   int
	}{"clean": {0, core.ExitDone}, "killed": {syscall.SIGKILL, core.ExitAgain}} {
		t.Run(name, func(t *testing.T) {
			_, dir := start(t)
			if c.signal != 0 {
				if err := syscall.Kill(process(dir), c.signal); err != nil {
					t.Fatal(err)
				}
			}
			out, err := here{built}.Run(t.Context(), "@self", "stop", dir)
			if err != nil || out.Exit != c.want {
				t.Errorf("stop: exit %d, want %d: %s %v", out.Exit, c.want, out.Stderr, err)
			}
			if process(dir) != 0 {
				t.Error("it still runs")
			}
		})
	}
}

func build(t *testing.T) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "snapfw-ticker")
	if out, err := exec.Command("go", "build", "-o", to, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return to
}

// start starts a node that ends with the test, and waits for its first block.
func start(t *testing.T) (program, dir string) {
	t.Helper()
	program, err := filepath.Abs("node.sh")
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	if out, err := exec.Command(program, "start", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Cleanup(func() {
		if pid := process(dir); pid != 0 {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, "db", "HEAD")); err == nil {
			return program, dir
		}
		if time.Now().After(deadline) {
			t.Fatal("the node makes no block")
		}
	}
}

// here is this machine, with the driver's binary as "@self".
type here struct{ self string }

func (h here) Run(ctx context.Context, argv ...string) (core.Output, error) {
	cmd := exec.CommandContext(ctx, strings.Replace(argv[0], "@self", h.self, 1), argv[1:]...)
	stdout, err := cmd.Output()
	out := core.Output{Stdout: stdout, Exit: cmd.ProcessState.ExitCode()}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		out.Stderr, err = exit.Stderr, nil
	}
	return out, err
}
