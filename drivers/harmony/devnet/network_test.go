package main

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// startNetwork starts a detached network and ends it with the test.
func startNetwork(t *testing.T, args ...string) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "net")
	t.Cleanup(func() { down(dir, 10*time.Second) })
	mustDevnet(t, append([]string{"up", "--dir", dir, "--detach"}, args...)...)
	return dir
}

func members(t *testing.T, dir string) []member {
	t.Helper()
	n, err := readNetwork(dir)
	if err != nil {
		t.Fatal(err)
	}
	return n.Nodes
}

func allDown(t *testing.T, dir string) {
	t.Helper()
	until(t, "every node down", func() bool {
		for _, m := range members(t, dir) {
			if nodeOf(dir, m.Name).running() {
				return false
			}
		}
		return true
	})
}

func TestNetwork(t *testing.T) {
	dir := startNetwork(t, "--", "--block-time", "20ms")
	all := members(t, dir)
	if len(all) != 2 || all[1].PID == 0 || all[1].Name != "shard1" {
		t.Fatalf("the network is %+v", all)
	}
	for _, m := range all {
		var meta struct {
			Shard uint32 `json:"shard-id"`
		}
		meta = ask[struct {
			Shard uint32 `json:"shard-id"`
		}](t, m.RPC, "hmyv2_getNodeMetadata")
		if meta.Shard != m.Shard {
			t.Errorf("%s says it is of shard %d", m.Name, meta.Shard)
		}
	}
	if _, errs, exit := devnet(t, "up", "--dir", dir, "--detach"); exit != 1 || !strings.Contains(errs, "runs already") {
		t.Errorf("a second up: exit %d, %s", exit, errs)
	}

	// Stop and start are safe to repeat, and to run at once.
	var e ended
	if err := json.Unmarshal([]byte(mustDevnet(t, "ctl", "--dir", dir, "stop", "shard1")), &e); err != nil || e.Exit != 0 || !e.Asked || e.PID != all[1].PID {
		t.Errorf("stop: %v %+v", err, e)
	}
	mustDevnet(t, "ctl", "--dir", dir, "stop", "shard1")
	if _, _, exit := devnet(t, "ctl", "--dir", dir, "status", "shard1"); exit != 3 {
		t.Errorf("status of a stopped node: exit %d, want 3", exit)
	}
	if members(t, dir)[1].PID != 0 {
		t.Error("network.json has the stopped node's process still")
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := startNode(dir, "shard1", 30*time.Second); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	mustDevnet(t, "ctl", "--dir", dir, "restart", "shard0")
	if out := mustDevnet(t, "ctl", "--dir", dir, "status"); strings.Count(out, `"answers": true`) != 2 {
		t.Errorf("status: %s", out)
	}

	mustDevnet(t, "down", "--dir", dir)
	allDown(t, dir)
	mustDevnet(t, "down", "--dir", dir)
	for _, m := range members(t, dir) {
		checked(t, m.Database)
	}
	// It goes on where it was, on the same ports.
	mustDevnet(t, "up", "--dir", dir, "--detach")
	if again := members(t, dir); again[0].RPC != all[0].RPC {
		t.Errorf("shard0 answers at %s, it was %s", again[0].RPC, all[0].RPC)
	}
}

func TestCtlSeesBadNodes(t *testing.T) {
	dir := startNetwork(t, "--shards", "1")
	behave := func(pairs ...string) {
		mustDevnet(t, append([]string{"ctl", "--dir", dir, "behave", "shard0"}, pairs...)...)
	}
	behave("panic-on-term=once", "refuse-start=once")
	if out := mustDevnet(t, "ctl", "--dir", dir, "stop", "shard0"); !strings.Contains(out, `"exit": 2`) {
		t.Errorf("a panic: %s", out)
	}
	if _, errs, exit := devnet(t, "ctl", "--dir", dir, "start", "shard0"); exit != 1 || !strings.Contains(errs, "exit 1 before it answered") {
		t.Errorf("a start that is refused: exit %d, %s", exit, errs)
	}
	mustDevnet(t, "ctl", "--dir", dir, "start", "shard0")

	behave("ignore-term=once:1s")
	if _, errs, exit := devnet(t, "ctl", "--dir", dir, "stop", "shard0", "--timeout", "50ms"); exit != 1 || !strings.Contains(errs, "still runs") {
		t.Errorf("a node that does not listen: exit %d, %s", exit, errs)
	}
	// A start behind a stop that is not over waits for it.
	old := nodeOf(dir, "shard0").process()
	mustDevnet(t, "ctl", "--dir", dir, "start", "shard0")
	if now := nodeOf(dir, "shard0").process(); now == old || !now.alive() {
		t.Errorf("after a stop and a start it is process %+v, as it was", now)
	}

	if out := mustDevnet(t, "ctl", "--dir", dir, "stop", "shard0", "--signal", "KILL"); !strings.Contains(out, `"exit": 137`) {
		t.Errorf("a kill: %s", out)
	}
	for _, args := range [][]string{{"stop", "shard7"}, {"start", "shard7"}, {"stop", "shard0", "--signal", "BOO"}, {"behave", "shard0", "dance=once"}} {
		if _, errs, exit := devnet(t, append([]string{"ctl", "--dir", dir}, args...)...); exit != 1 || errs == "" {
			t.Errorf("%v: exit %d, %q", args, exit, errs)
		}
	}
	if _, errs, exit := devnet(t, "ctl", "--dir", t.TempDir(), "status"); exit != 1 || !strings.Contains(errs, "snapfw-devnet up") {
		t.Errorf("no network: exit %d, %s", exit, errs)
	}
}

// Whatever ends "up", no node is left.
func TestUpLeavesNothing(t *testing.T) {
	for name, end := range map[string]func(dir string, up *os.Process){
		"Ctrl-C":  func(_ string, up *os.Process) { up.Signal(unix.SIGINT) },
		"SIGTERM": func(_ string, up *os.Process) { up.Signal(unix.SIGTERM) },
		"SIGKILL": func(_ string, up *os.Process) { up.Kill() },
		"down":    func(dir string, _ *os.Process) { mustDevnet(t, "down", "--dir", dir) },
		"a dead node": func(dir string, up *os.Process) {
			nodeOf(dir, "shard0").process().kill(unix.SIGKILL)
			up.Signal(unix.SIGINT)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "net")
			cmd := exec.Command(os.Args[0], "up", "--dir", dir)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { cmd.Process.Kill(); down(dir, 10*time.Second) })
			until(t, "the network", func() bool {
				n, err := readNetwork(dir)
				if err != nil || len(n.Nodes) < 2 {
					return false
				}
				_, err = http.Get(n.Nodes[1].RPC)
				return err == nil && n.Nodes[1].PID != 0
			})
			end(dir, cmd.Process)
			if err := cmd.Wait(); err != nil && name != "SIGKILL" && name != "down" {
				t.Errorf("up: %v", err)
			}
			allDown(t, dir)
		})
	}
}

func TestUpThatCannotStart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "net")
	if _, errs, exit := devnet(t, "up", "--dir", dir, "--detach", "--", "--behave", "refuse-start=always"); exit != 1 || !strings.Contains(errs, "shard0 ended with exit 1") {
		t.Errorf("exit %d, %s", exit, errs)
	}
	allDown(t, dir)
}

func TestProcessIsNotItsSuccessor(t *testing.T) {
	p, err := nameProcess(os.Getpid())
	if err != nil || !p.alive() {
		t.Fatalf("%+v %v", p, err)
	}
	for _, other := range []process{{PID: p.PID, Start: "1", Boot: p.Boot}, {PID: p.PID, Start: p.Start, Boot: "another"}, {}} {
		if other.alive() {
			t.Errorf("%+v is alive", other)
		}
	}
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	z, err := nameProcess(cmd.Process.Pid)
	until(t, "a zombie", func() bool { return err == nil && !z.alive() })
	cmd.Wait()
}
