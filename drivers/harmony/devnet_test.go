package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/plugin"
	"github.com/snapfw/snapfw/core/plugin/plugintest"
)

// local runs a plan's commands on this machine, as snapfw's engine would on a node's: the least
// that proves that a plan is right. It undoes the Freeze steps when Capture ends.
type local struct {
	t          *testing.T
	self, host string
}

func (l local) Run(ctx context.Context, argv ...string) (core.Output, error) {
	argv = append([]string(nil), argv...)
	switch argv[0] {
	case "@self":
		argv[0] = l.self
	case "@core":
		argv[0] = l.host
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return core.Output{}, err
	}
	return core.Output{Stdout: out.Bytes(), Stderr: errs.Bytes(), Exit: cmd.ProcessState.ExitCode()}, nil
}

// steps runs steps until one does not exit 0, and returns that exit code, what is owed and
// what was kept.
func (l local) steps(list []core.Step, kept map[string]string) (exit int, owed []core.Command) {
	l.t.Helper()
	for _, s := range list {
		if s.Undo != nil {
			owed = append([]core.Command{*s.Undo}, owed...)
		}
		begun := time.Now()
		out, err := l.Run(context.Background(), s.Do.Argv...)
		l.t.Logf("%s: %s", s.Name, time.Since(begun).Round(time.Millisecond))
		if err != nil {
			l.t.Fatalf("%s: %v", s.Name, err)
		}
		if out.Exit != 0 {
			l.t.Logf("%s: exit %d: %s", s.Name, out.Exit, out.Stderr)
			return out.Exit, owed
		}
		if s.Keep != "" {
			kept[s.Keep] = strings.TrimSpace(string(out.Stdout))
		}
	}
	return 0, owed
}

func (l local) pay(owed []core.Command) {
	l.t.Helper()
	for _, c := range owed {
		for try := 0; ; try++ {
			begun := time.Now()
			out, err := l.Run(context.Background(), c.Argv...)
			l.t.Logf("undo %s: %s", strings.Join(c.Argv[:2], " "), time.Since(begun).Round(time.Millisecond))
			if err == nil && out.Exit == 0 {
				break
			}
			if try == 3 {
				l.t.Fatalf("undo %q: exit %d, %v: %s", c.Argv, out.Exit, err, out.Stderr)
			}
		}
	}
}

func build(t *testing.T, dir, name, pkg string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	cmd := exec.Command("go", "build", "-o", path, pkg)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, out)
	}
	return path
}

// TestDevnet plans and carries out snapshots of real processes with real databases: two
// in a row, and one of a node that panics when it is told to stop.
func TestDevnet(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: builds three binaries and runs a network; leave -short away")
	}
	ctx, bin, dir := context.Background(), t.TempDir(), t.TempDir()
	devnet := build(t, bin, "snapfw-devnet", "./devnet")
	l := local{t: t, self: build(t, bin, "snapfw-harmony", "."), host: build(t, bin, "snapfw-host", "../../cmd/snapfw-host")}
	run := func(args ...string) []byte {
		t.Helper()
		var errs bytes.Buffer
		cmd := exec.Command(devnet, args...)
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("devnet %q: %v\n%s", args, err, errs.String())
		}
		return out
	}
	run("up", "--dir", dir, "--shards", "2", "--detach", "--",
		"--block-time=50ms", "--state-bytes=65536", "--write-buffer=131072", "--table-size=65536")
	t.Cleanup(func() { run("down", "--dir", dir) })
	d, config := testDriver(nil), devnetConfig(t, dir, devnet)
	nodes, err := d.Nodes(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		for round := range 2 {
			p, kept := snapOnce(t, d, l, n)
			if p.Publish.Prefix == "" || kept["height"] == "" || len(kept["hash"]) != 66 {
				t.Fatalf("%s: %+v, kept %v", n.Name, p.Publish, kept)
			}
			if tables, err := filepath.Glob(filepath.Join(p.Data, "*.ldb")); err != nil || len(tables) == 0 {
				t.Errorf("the copy of %s holds no table", n.Name)
			}
			opened := realCopy(t, p.Data)
			checked := run("check", "--datadir", opened)
			t.Logf("%s, round %d: height %s: %s", n.Name, round, kept["height"], checked)
			var is struct {
				Height json.Number
				Hash   string
			}
			if err := json.Unmarshal(checked, &is); err != nil || is.Height.String() != kept["height"] || is.Hash != kept["hash"] {
				t.Errorf("the copy is at %v, kept %v, %v", is, kept, err)
			}
			waitUp(t, d, l, n)
		}
	}
	conform(t, l, config)
	run("ctl", "--dir", dir, "behave", nodes[0].Name, "panic-on-term=once")
	p, err := d.Plan(ctx, nodes[0], l, core.Intent{Name: "snapshot"})
	if err != nil {
		t.Fatal(err)
	}
	exit, owed := l.steps(p.Freeze, nil)
	l.pay(owed)
	if exit != core.ExitAgain {
		t.Errorf("a node that panicked on its way down: exit %d, want %d", exit, core.ExitAgain)
	}
	waitUp(t, d, l, nodes[0])
	snapOnce(t, d, l, nodes[0])
}

// still is a machine that looks the same however often it is looked at, so that plans can be compared.
type still struct {
	local
	seen map[string]core.Output
}

func (s still) Run(ctx context.Context, argv ...string) (core.Output, error) {
	key := strings.Join(argv, " ")
	if out, ok := s.seen[key]; ok {
		return out, nil
	}
	out, err := s.local.Run(ctx, argv...)
	if err == nil && argv[0] == "@self" {
		s.seen[key] = out
	}
	return out, err
}

// conform runs the suite that every plugin has to pass, against the running network.
func conform(t *testing.T, l local, config json.RawMessage) {
	t.Helper()
	foreign, err := os.ReadFile("testdata/foreign.json")
	if err != nil {
		t.Fatal(err)
	}
	machine := still{l, map[string]core.Output{}}
	plugintest.Chain(t, plugin.Command{Name: "harmony", Path: l.self}, plugintest.ChainCase{
		Config: config, Foreign: foreign,
		Host: func(core.Node) core.Host { return machine },
	})
}

// snapOnce plans and carries out one snapshot.
func snapOnce(t *testing.T, d driver, l local, n core.Node) (core.Plan, map[string]string) {
	t.Helper()
	p, err := d.Plan(context.Background(), n, l, core.Intent{Name: "snapshot"})
	if err != nil {
		t.Fatal(err)
	}
	checkPlan(t, p)
	kept := map[string]string{}
	if exit, _ := l.steps(p.Prepare, kept); exit != 0 {
		t.Fatalf("prepare: exit %d", exit)
	}
	exit, owed := l.steps(p.Freeze, kept)
	if exit == 0 {
		exit, _ = l.steps(p.Capture, kept)
	}
	l.pay(owed)
	if exit != 0 {
		t.Fatalf("capture: exit %d", exit)
	}
	if exit, _ := l.steps(p.Seal, kept); exit != 0 {
		t.Fatalf("seal: exit %d", exit)
	}
	return p, kept
}

// waitUp waits until the driver finds the node well and a block further.
func waitUp(t *testing.T, d driver, l local, n core.Node) {
	t.Helper()
	var first uint64
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		st, err := d.Status(context.Background(), n, l)
		if err != nil {
			t.Fatal(err)
		}
		if st.Healthy(false) {
			if first == 0 {
				first = st.Height
			} else if st.Height > first {
				return
			}
		}
		if time.Now().After(end) {
			t.Fatalf("%s did not come back: %+v", n.Name, st)
		}
	}
}

// devnetConfig reads the network's description and turns it into a configuration.
func devnetConfig(t *testing.T, dir, devnet string) json.RawMessage {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "network.json"))
	if err != nil {
		t.Fatal(err)
	}
	var network struct {
		Nodes []struct {
			Name, DataDir, Log string
			Shard, Port        int
		}
	}
	if err := json.Unmarshal(b, &network); err != nil || len(network.Nodes) != 2 {
		t.Fatalf("%v: %s", err, b)
	}
	var machines []string
	for _, n := range network.Nodes {
		ctl := func(verb string) string { return fmt.Sprintf(`[%q,"ctl","--dir",%q,%q,%q]`, devnet, dir, verb, n.Name) }
		machines = append(machines, fmt.Sprintf(`{"shard":%d,"local":true,"db_directory":%q,"rpc_port":%d,"stop_timeout":"30s",
			"commands":{"stop":%s,"start":%s,"log":%q}}`, n.Shard, n.DataDir, n.Port, ctl("stop"), ctl("start"), n.Log))
	}
	return json.RawMessage(`{"machines":[` + strings.Join(machines, ",") +
		`],"condition":{"network":"localnet","max_seconds_since_last_block":30}}`)
}
