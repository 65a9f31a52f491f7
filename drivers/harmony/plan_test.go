package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/snapfw/snapfw/core"
)

func TestPlanGolden(t *testing.T) {
	for _, c := range []struct {
		file, more, cond string
		in               core.Intent
		change           func(h *scripted)
	}{
		{file: "service.golden", cond: fits, in: core.Intent{Name: "snapshot"}},
		{file: "container.golden", more: `,"container":"hmy","stop_timeout":"90s"`, cond: `{"is_leader":true,"is_snapdb":true}`,
			in: core.Intent{Name: "snapshot", Args: map[string]string{"verify": "sample:5"}}},
		{file: "commands.golden", more: `,"rpc_port":9510,"commands":{"stop":["/opt/ctl","stop"],"start":["/opt/ctl","start"],"log":"/home/harmony/node.log"}`,
			cond: `{"is_leader":false,"is_archival":"True"}`, in: core.Intent{Name: "snapshot"},
			change: func(h *scripted) { h.replies[0] = "explorer"; h.look.User = "harmony" }},
	} {
		t.Run(c.file, func(t *testing.T) {
			h := wellHost(t)
			if c.change != nil {
				c.change(h)
			}
			p, err := testDriver(nil).Plan(context.Background(), oneNode(t, c.more, c.cond), h, c.in)
			if err != nil {
				t.Fatal(err)
			}
			checkPlan(t, p)
			golden(t, c.file, printed(t, p))
		})
	}
}

// printed is a plan for people: steps by phase, their commands, and the rest as JSON.
func printed(t *testing.T, p core.Plan) []byte {
	t.Helper()
	var b bytes.Buffer
	command := func(word string, c core.Command) {
		fmt.Fprintf(&b, "    %s %s", word, strings.Join(c.Argv, " "))
		if c.User != "" {
			fmt.Fprintf(&b, "  [user %s]", c.User)
		}
		fmt.Fprintf(&b, "  [%s, then %s]\n", c.Timeout, c.Grace)
	}
	for _, phase := range []struct {
		name  string
		steps *[]core.Step
	}{{"prepare", &p.Prepare}, {"freeze", &p.Freeze}, {"capture", &p.Capture}, {"seal", &p.Seal}, {"prove", &p.Prove}} {
		fmt.Fprintln(&b, phase.name)
		for _, s := range *phase.steps {
			fmt.Fprintf(&b, "  %s", s.Name)
			if s.Keep != "" {
				fmt.Fprintf(&b, "  -> {%s}", s.Keep)
			}
			fmt.Fprintln(&b)
			command("do", s.Do)
			if s.Undo != nil {
				command("undo", *s.Undo)
			}
		}
		*phase.steps = nil
	}
	rest, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	b.Write(append(rest, '\n'))
	return b.Bytes()
}

// checkPlan holds for every plan, whatever its golden file says.
func checkPlan(t *testing.T, p core.Plan) {
	t.Helper()
	seen := map[string]bool{}
	for _, steps := range [][]core.Step{p.Prepare, p.Freeze, p.Capture, p.Seal, p.Prove} {
		for _, s := range steps {
			if seen[s.Name] {
				t.Errorf("two steps are called %q", s.Name)
			}
			seen[s.Name] = true
			for _, c := range []*core.Command{&s.Do, s.Undo} {
				if c == nil {
					continue
				}
				if len(c.Argv) == 0 || slices.Contains(c.Argv, "") {
					t.Errorf("%s: argv %q", s.Name, c.Argv)
				}
				if c.User == "root" && !strings.HasPrefix(c.Argv[0], "/") {
					t.Errorf("%s: %q runs as root", s.Name, c.Argv[0])
				}
				if c.Timeout > 0 && c.Grace == 0 {
					t.Errorf("%s: may be ended and has no time to end", s.Name)
				}
			}
		}
	}
	if p.Freeze[0].Undo == nil {
		t.Error("the stop has no undo")
	}
}

func TestPlanRefuses(t *testing.T) {
	ctx := context.Background()
	snap := core.Intent{Name: "snapshot"}
	if _, err := testDriver(nil).Plan(ctx, oneNode(t, "", `{}`), wellHost(t), core.Intent{Name: "release"}); !errors.Is(err, core.ErrUnsupported) {
		t.Errorf("an unknown intent: %v", err)
	}
	if _, err := testDriver(nil).Plan(ctx, oneNode(t, "", `{}`), wellHost(t), snap); err == nil {
		t.Error("a leader is stopped")
	} else if _, ok := core.IsSkip(err); !ok {
		t.Errorf("a leader is no skip: %v", err)
	}
	forced := core.Intent{Name: "snapshot", Force: true, Reason: "test"}
	if _, err := testDriver(nil).Plan(ctx, oneNode(t, "", `{}`), wellHost(t), forced); err != nil {
		t.Errorf("a leader by force: %v", err)
	}
	h := wellHost(t)
	h.unit = "LoadState=loaded\nActiveState=inactive\n"
	if _, err := testDriver(nil).Plan(ctx, oneNode(t, "", fits), h, forced); err == nil {
		t.Error("a unit that does not run is stopped by force")
	}
	bad := core.Intent{Name: "snapshot", Args: map[string]string{"verify": "some"}}
	if _, err := testDriver(nil).Plan(ctx, oneNode(t, "", fits), wellHost(t), bad); err == nil {
		t.Error("verify=some is accepted")
	}
}

func TestReturns(t *testing.T) {
	for state, want := range map[string]bool{"enabled": true, "disabled": false, "static": false, "enabled-runtime": false} {
		if got := returns(spec{Run: launch{Service: "h.service"}}, scene{Unit: map[string]string{"UnitFileState": state}}); got != want {
			t.Errorf("unit %s: %t", state, got)
		}
	}
	for policy, want := range map[string]bool{"always": true, "unless-stopped": false, "on-failure": false, "": false} {
		var e scene
		e.Container.HostConfig.RestartPolicy.Name = policy
		if got := returns(spec{Run: launch{Container: "h"}}, e); got != want {
			t.Errorf("policy %q: %t", policy, got)
		}
	}
}

func TestDescribe(t *testing.T) {
	d, err := newDriver().Describe(context.Background())
	if err != nil || d.Kind != core.KindChain || d.Name != "harmony" || len(d.Intents) != 1 || !json.Valid(d.Schema) {
		t.Errorf("%+v, %v", d, err)
	}
}
