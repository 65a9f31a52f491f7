package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMain makes the test's own binary a snapfw-devnet where it starts itself.
func TestMain(m *testing.M) {
	// A fuzzing worker is this binary too, and gets flags of "go test".
	if os.Getenv("SNAPFW_DEVNET_TEST_MAIN") == "1" && len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-test.") {
		main()
		os.Exit(0)
	}
	os.Setenv("SNAPFW_DEVNET_TEST_MAIN", "1")
	os.Setenv("GORACE", "atexit_sleep_ms=0") // else every process takes a second to end
	os.Exit(m.Run())
}

// devnet runs a command of snapfw-devnet to its end.
func devnet(t *testing.T, args ...string) (stdout, stderr string, exit int) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if _, ok := err.(*exec.ExitError); !ok {
			t.Fatal(err)
		}
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func mustDevnet(t *testing.T, args ...string) string {
	t.Helper()
	out, errs, exit := devnet(t, args...)
	if exit != 0 {
		t.Fatalf("snapfw-devnet %s: exit %d\n%s%s", strings.Join(args, " "), exit, out, errs)
	}
	return out
}

// process under test: one "node".
type testNode struct {
	t    *testing.T
	cmd  *exec.Cmd
	dir  string
	log  string
	url  string
	done chan struct{}
}

// launch starts a node in dir; it does not wait for it to answer.
func launch(t *testing.T, dir string, args ...string) *testNode {
	t.Helper()
	log := filepath.Join(dir, "log")
	size := fileSize(log)
	args = append([]string{"node", "--datadir", dir, "--rpc", "127.0.0.1:0", "--log", log, "--block-time", "20ms"}, args...)
	n := &testNode{t: t, cmd: exec.Command(os.Args[0], args...), dir: dir, log: log, done: make(chan struct{})}
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { n.cmd.Wait(); close(n.done) }()
	t.Cleanup(func() { n.cmd.Process.Kill(); <-n.done })
	n.url = n.serving(size)
	return n
}

// serving reads from the log where the node answers; "" if it ended first.
func (n *testNode) serving(from int64) string {
	ended := false
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		f, err := os.Open(n.log)
		if err == nil {
			f.Seek(from, io.SeekStart)
			for s := bufio.NewScanner(f); s.Scan(); {
				var line struct{ Msg, RPC string }
				if json.Unmarshal(s.Bytes(), &line) == nil && line.Msg == "serving" {
					f.Close()
					return "http://" + line.RPC
				}
			}
			f.Close()
		}
		if ended {
			return ""
		}
		select {
		case <-n.done:
			ended = true
		default:
		}
	}
	n.t.Fatal("the node neither answers nor ends")
	return ""
}

func fileSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// exit waits for the node's end.
func (n *testNode) exit() int {
	n.t.Helper()
	select {
	case <-n.done:
	case <-time.After(30 * time.Second):
		n.t.Fatal("the node does not end")
	}
	return exitOf(n.cmd.ProcessState)
}

func (n *testNode) stop(s os.Signal) int {
	n.t.Helper()
	n.cmd.Process.Signal(s)
	return n.exit()
}

func (n *testNode) lastLine() string {
	b, err := os.ReadFile(n.log)
	if err != nil {
		n.t.Fatal(err)
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return lines[len(lines)-1]
}

func post(t *testing.T, url, body string) []byte {
	t.Helper()
	resp, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("HTTP %s: %s", resp.Status, b)
	}
	return b
}

// ask calls a method without parameters and returns its result.
func ask[T any](t *testing.T, url, method string) T {
	t.Helper()
	var reply struct {
		Result T
		Error  *rpcError
	}
	b := post(t, url, `{"jsonrpc":"2.0","id":1,"method":"`+method+`","params":[]}`)
	if err := json.Unmarshal(b, &reply); err != nil || reply.Error != nil {
		t.Fatalf("%s: %v %s", method, err, b)
	}
	return reply.Result
}

// until polls.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

func (n *testNode) reaches(height uint64) {
	n.t.Helper()
	until(n.t, fmt.Sprintf("block %d", height), func() bool { return ask[uint64](n.t, n.url, "hmyv2_blockNumber") >= height })
}

func copyDir(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), filepath.Base(from))
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}
