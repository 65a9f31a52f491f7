package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapfw/snapfw/core"
)

var update = flag.Bool("update", false, "write the golden files anew")

// taken is a moment after the recorded heads: three seconds.
var taken = time.Unix(1795289763, 0).UTC()

// scripted is a node's machine that answers by script. What it has no answer for fails the test.
type scripted struct {
	t        *testing.T
	replies  [3]string // files of testdata/replies: metadata, head, structure
	deadRPC  bool
	look     look
	unit     string // what systemctl show prints
	inspect  string // what docker inspect prints
	asked    [][]string
	commands int
}

func (h *scripted) Run(_ context.Context, argv ...string) (core.Output, error) {
	h.asked = append(h.asked, argv)
	switch {
	case argv[0] == "@core" && argv[1] == "http":
		if h.deadRPC {
			return core.Output{Exit: 1, Stderr: []byte("dial tcp 127.0.0.1:9500: connect: connection refused\n")}, nil
		}
		return core.Output{Stdout: h.batch()}, nil
	case argv[0] == "@self" && argv[1] == "look":
		b, err := json.Marshal(h.look)
		return core.Output{Stdout: b}, err
	case filepath.Base(argv[0]) == "systemctl" && h.unit != "":
		return core.Output{Stdout: []byte(h.unit)}, nil
	case filepath.Base(argv[0]) == "docker" && h.inspect != "":
		return core.Output{Stdout: []byte(h.inspect)}, nil
	}
	h.t.Errorf("asked for %q", argv)
	return core.Output{}, errors.New("not in the script")
}

// batch puts recorded replies together as a node answers a batch, in another order.
func (h *scripted) batch() []byte {
	var out []string
	for i := 2; i >= 0; i-- {
		b, err := os.ReadFile(filepath.Join("testdata/replies", h.replies[i]+".json"))
		if err != nil {
			h.t.Fatal(err)
		}
		out = append(out, strings.Replace(string(b), `"id": 1,`, fmt.Sprintf(`"id": %d,`, i+1), 1))
	}
	return []byte("[" + strings.Join(out, ",") + "]")
}

const activeUnit = "LoadState=loaded\nActiveState=active\nUnitFileState=enabled\nInvocationID=0123abcd\n" +
	"Result=success\nExecMainCode=0\nExecMainStatus=0\nWantedBy=multi-user.target\nRequiredBy=\n"

const runningContainer = `[{"Id":"c0ffee","State":{"Running":true,"ExitCode":0,"StartedAt":"2026-11-21T19:00:00.1Z"},
 "Config":{"StopSignal":"SIGTERM"},"HostConfig":{"RestartPolicy":{"Name":"always"}},"Name":"/hmy"}]`

// wellHost is a healthy machine of shard 0.
func wellHost(t *testing.T) *scripted {
	return &scripted{t: t, replies: [3]string{"leader", "head", "structure"}, unit: activeUnit, inspect: runningContainer,
		look: look{Now: taken, User: "ubuntu", UID: 1000, Current: true,
			DB:       found{Path: "/home/harmony/harmony_db_0", Owner: "harmony", UID: 998},
			Holder:   &process{PID: 4711, Start: 12345},
			Log:      &found{Path: "/home/harmony/node.log", Owner: "harmony", Size: 4096, Inode: 77},
			Programs: map[string]string{"systemctl": "/usr/bin/systemctl", "docker": "/usr/bin/docker"}}}
}

// names is a resolver with a fixed answer.
type names map[string]string

func (n names) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if ip, ok := n[host]; ok {
		return []netip.Addr{netip.MustParseAddr(ip)}, nil
	}
	return nil, fmt.Errorf("lookup %s: no such host", host)
}

func testDriver(n names) driver {
	return driver{n}
}

// oneNode reads a configuration with one machine; more is added to the machine.
func oneNode(t *testing.T, more, condition string) core.Node {
	t.Helper()
	raw := fmt.Sprintf(`{"machines":[{"shard":0,"ip":"192.0.2.7","user":"ubuntu","db_directory":"/home/harmony"%s}],"condition":%s}`, more, condition)
	nodes, err := newDriver().Nodes(context.Background(), json.RawMessage(raw))
	if err != nil {
		t.Fatal(err)
	}
	return nodes[0]
}

// golden compares with a file of testdata, or writes it with -update.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s (-want +got; -update writes it anew):\n%s", path, d)
	}
}
