package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// nodeChild makes this test binary be a node: it takes the lock of a datadir as Erigon does, and
// holds it until it is told to end. Files in the datadir say how it behaves: "fail" (it ends at once),
// "hold" (it does not end while that is there), "late" (it takes the lock once that is gone).
const nodeChild = "SNAPFW_TEST_NODE"

func TestNodeChild(t *testing.T) {
	dir := os.Getenv(nodeChild)
	if dir == "" {
		t.Skip("it is the child of other tests")
	}
	has := func(name string) bool { _, err := os.Stat(filepath.Join(dir, name)); return err == nil }
	sig := make(chan os.Signal, 8)
	signal.Notify(sig, syscall.SIGINT, syscall.SIGTERM)
	fmt.Fprintln(os.Stderr, "[INFO] starting with", os.Getenv("NODE_TOKEN"))
	if has("fail") {
		fmt.Fprintln(os.Stderr, "[EROR] port in use; token", os.Getenv("NODE_TOKEN"))
		os.Exit(1)
	}
	for has("late") {
		time.Sleep(5 * time.Millisecond)
	}
	f, err := os.OpenFile(filepath.Join(dir, "LOCK"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil || unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		fmt.Fprintln(os.Stderr, "[EROR] datadir already used by another process")
		os.Exit(1)
	}
	noteIn(filepath.Join(dir, "lives"), strconv.Itoa(os.Getpid())+"\n")
	told := false
	for !told || has("hold") {
		select {
		case s := <-sig:
			told = true
			noteIn(filepath.Join(dir, "signals"), s.String()+"\n")
		case <-time.After(5 * time.Millisecond):
		}
	}
	runtime.KeepAlive(f) // the lock is gone when it is collected
	os.Exit(0)
}

// launchChild makes this test binary be "launch …", as a job runs it.
const launchChild = "SNAPFW_TEST_LAUNCH"

func TestLaunchChild(t *testing.T) {
	words := os.Getenv(launchChild)
	if words == "" {
		t.Skip("it is the child of other tests")
	}
	var args []string
	if err := json.Unmarshal([]byte(words), &args); err != nil {
		t.Fatal(err)
	}
	os.Exit(launchVerb(context.Background(), args))
}

func noteIn(file, text string) {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err == nil {
		f.WriteString(text)
		f.Close()
	}
}

func launchDatadir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "snapshots"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { endAll(dir) })
	return dir
}

// endAll ends every node that ever ran on a datadir of a test.
func endAll(dir string) {
	os.Remove(filepath.Join(dir, "hold"))
	os.Remove(filepath.Join(dir, "late"))
	b, _ := os.ReadFile(filepath.Join(dir, "lives"))
	for _, pid := range strings.Fields(string(b)) {
		n, _ := strconv.Atoi(pid)
		if argv := argvOf(n); len(argv) > 1 && strings.Contains(argv[1], "TestNodeChild") {
			unix.Kill(n, unix.SIGKILL)
		}
	}
}

// runNode starts a node by hand, with its output in a log.
func runNode(t testing.TB, dir string, words ...string) *exec.Cmd {
	t.Helper()
	return runNodeIn(t, dir, dir, words...)
}

// runNodeIn gives it a working folder.
func runNodeIn(t testing.TB, dir, work string, words ...string) *exec.Cmd {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(dir, "node.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(os.Args[0], append([]string{"-test.run=^TestNodeChild$", "--", "--datadir", dir}, words...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), nodeChild + "=" + dir, "NODE_TOKEN=hunter2hunter2", "EMPTY=", "GORACE=atexit_sleep_ms=0"}
	cmd.Dir = work
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go cmd.Wait() // or it stays a zombie
	eventually(t, func() bool { p, err := lockHolder(dir); return err == nil && p != nil && p.PID == cmd.Process.Pid })
	return cmd
}

func eventually(t testing.TB, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if is() {
			return
		}
	}
	t.Fatal("it did not come to pass")
}

// say runs launch in a process of its own and returns its exit code and what it printed.
func say(t testing.TB, args ...string) (int, string) {
	t.Helper()
	b, err := json.Marshal(args)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestLaunchChild$")
	cmd.Env = append(os.Environ(), launchChild+"="+string(b), "GORACE=atexit_sleep_ms=0")
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

func mustSay(t testing.TB, want int, part string, args ...string) string {
	t.Helper()
	code, out := say(t, args...)
	if code != want || !strings.Contains(out, part) {
		t.Fatalf("launch %q: exit %d, want %d and %q:\n%s", args, code, want, part, out)
	}
	if strings.Contains(out, "hunter2") {
		t.Fatalf("launch %q prints a secret:\n%s", args, out)
	}
	return out
}
