package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/snapfw/snapfw/core"
)

const fits = `{"max_seconds_since_last_block":60,"role":"Validator","network":"localnet","is_leader":"true","is_archival":false}`

func TestStatusHealthy(t *testing.T) {
	st, err := testDriver(nil).Status(context.Background(), oneNode(t, "", fits), wellHost(t))
	if err != nil {
		t.Fatal(err)
	}
	if !st.Healthy(false) {
		t.Errorf("failed: %+v", st.Failed(false))
	}
	if st.Height != 101 || st.Hash != "0xc22abd8fdcdb16a348742bf3d49d3c426a37587df650eb5b1da27487591b5aee" ||
		!st.HeadTime.Equal(time.Unix(1795289760, 0)) || st.Version != "v8730-v2025.1.1-5-gdc52025a8" {
		t.Errorf("status %+v", st)
	}
	for _, c := range st.Checks {
		if c.Name == "" || c.Want == "" || c.Got == "" || c.Fix == "" {
			t.Errorf("check with an empty part: %+v", c)
		}
	}
}

// TestStatusChecks has one thing wrong at a time; safe says that force does not help.
func TestStatusChecks(t *testing.T) {
	public := func(h *scripted) { h.replies[2] = "public" }
	for _, c := range []struct {
		name, check string
		safe        bool
		more, cond  string
		names       names
		change      func(h *scripted)
	}{
		{name: "no answer", check: "answers", safe: true, change: func(h *scripted) { h.deadRPC = true }},
		{name: "an error reply", check: "answers", safe: true, change: func(h *scripted) { h.replies[1] = "error" }},
		{name: "another shard", check: "shard", safe: true, change: func(h *scripted) { h.replies[0] = "shard1" }},
		{name: "another network", check: "network", safe: true, cond: strings.Replace(fits, "localnet", "mainnet", 1)},
		{name: "another role", check: "role", cond: strings.Replace(fits, "Validator", "ExplorerNode", 1)},
		{name: "leader", check: "leader", cond: `{}`},
		{name: "archival", check: "archival", cond: `{"is_leader":false}`, change: func(h *scripted) { h.replies[0] = "explorer" }},
		{name: "stale", check: "age of the head", change: func(h *scripted) { h.replies[1] = "stale"; h.look.Now = taken.Add(172 * time.Second) }},
		{name: "head in the future", check: "age of the head", change: func(h *scripted) { h.look.Now = taken.Add(-time.Hour) }},
		{name: "public endpoint", check: "public endpoint", safe: true, names: names{"api.s0.b.hmny.io": "192.0.2.7"}, change: public},
		{name: "no database", check: "database", safe: true, change: func(h *scripted) { h.look.DB = found{Path: "/x", Err: "is not there"} }},
		{name: "no CURRENT", check: "database", safe: true, change: func(h *scripted) { h.look.Current = false }},
		{name: "ShardData", check: "database", safe: true, change: func(h *scripted) { h.look.DB.Err, h.look.Sharded = "is not there", true }},
		{name: "nameless owner", check: "database", safe: true, change: func(h *scripted) { h.look.DB.Owner = "" }},
		{name: "another owner", check: "database", safe: true, more: `,"owner":"root"`},
		{name: "no systemctl", check: "service", safe: true, change: func(h *scripted) { h.look.Programs = nil }},
		{name: "inactive unit", check: "service", safe: true, change: func(h *scripted) { h.unit = "LoadState=not-found\nActiveState=inactive\n" }},
		{name: "forgotten unit", check: "service", safe: true, change: func(h *scripted) {
			h.unit = strings.Replace(h.unit, "multi-user.target", "", 1)
		}},
		{name: "no sudo", check: "service", safe: true, change: func(h *scripted) {
			h.look.Refused = []string{"/usr/bin/systemctl stop harmony.service"}
		}},
		{name: "dead container", check: "container", safe: true, more: `,"container":"hmy"`, change: func(h *scripted) {
			h.inspect = strings.Replace(h.inspect, `"Running":true`, `"Running":false`, 1)
		}},
		{name: "deaf container", check: "container", safe: true, more: `,"container":"hmy"`, change: func(h *scripted) {
			h.inspect = strings.Replace(h.inspect, "SIGTERM", "SIGKILL", 1)
		}},
		{name: "no stop command", check: "commands", safe: true, more: `,"commands":{"stop":["/s"],"start":["/t"],"log":"/l"}`,
			change: func(h *scripted) { h.look.Unusable = []string{"/s: no such file"} }},
		{name: "no log", check: "commands", safe: true, more: `,"commands":{"stop":["/s"],"start":["/t"],"log":"/l"}`,
			change: func(h *scripted) { h.look.Log = &found{Path: "/l", Err: "is not there"} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, cond := wellHost(t), c.cond
			if c.change != nil {
				c.change(h)
			}
			if cond == "" {
				cond = fits
			}
			st, err := testDriver(c.names).Status(context.Background(), oneNode(t, c.more, cond), h)
			if err != nil {
				t.Fatal(err)
			}
			if failed := st.Failed(false); len(failed) != 1 || failed[0].Name != c.check {
				t.Errorf("failed checks %+v, want %s", failed, c.check)
			}
			if forced := len(st.Failed(true)) == 0; forced == c.safe {
				t.Errorf("force lets it through: %t", forced)
			}
		})
	}
}

// TestStatusBlind is a machine on which nothing can be run: a failed check, no error.
func TestStatusBlind(t *testing.T) {
	st, err := testDriver(nil).Status(context.Background(), oneNode(t, "", fits), blind{})
	if err != nil || st.Up || len(st.Failed(true)) == 0 {
		t.Errorf("%+v, %v", st, err)
	}
}

type blind struct{}

func (blind) Run(context.Context, ...string) (core.Output, error) {
	return core.Output{Exit: 127, Stderr: []byte("sh: not found")}, nil
}

func TestStatusForceInFile(t *testing.T) {
	cond := `{"force":true,"role":"ExplorerNode","network":"localnet"}`
	st, err := testDriver(nil).Status(context.Background(), oneNode(t, "", cond), wellHost(t))
	if err != nil {
		t.Fatal(err)
	}
	if !st.Healthy(false) {
		t.Errorf("failed: %+v", st.Failed(false))
	}
	bypassed := 0
	for _, c := range st.Checks {
		if strings.Contains(c.Got, "let through by condition.force") {
			bypassed++
		}
	}
	if bypassed != 2 { // role and leader
		t.Errorf("%d checks say that they were bypassed", bypassed)
	}
}

func TestPublicNameUnresolved(t *testing.T) {
	h := wellHost(t)
	h.replies[2] = "public"
	for _, n := range []names{nil, {"api.s0.b.hmny.io": "192.0.2.8"}} {
		st, err := testDriver(n).Status(context.Background(), oneNode(t, "", fits), h)
		if err != nil || !st.Healthy(false) {
			t.Errorf("%v: %+v, %v", n, st.Failed(false), err)
		}
	}
}

func FuzzAnswers(f *testing.F) {
	h := wellHost(&testing.T{})
	f.Add(h.batch())
	f.Add([]byte(`[{"id":1,"result":null},{"id":2,"result":{"blockNumber":-1}},{"id":3,"error":{}}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		a := readAnswers(b)
		if a.HeadErr == nil && (a.Head.Number == nil || len(a.Head.Hash) != 66) {
			t.Fatalf("%q: a head without a number or hash is taken for good", b)
		}
	})
}
