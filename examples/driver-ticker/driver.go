package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/capture"
)

//go:embed schema.json
var schema []byte

// driver knows nodes that are node.sh. It looks and plans, and keeps nothing between two calls.
type driver struct{}

// never must not leave a node.
var never = []string{"*.key"}

func (driver) Describe(context.Context) (core.Description, error) {
	return core.Description{
		Name: "ticker", Kind: core.KindChain, Version: "1.0.0", Schema: schema, Never: never,
		Intents: []core.IntentInfo{{Name: "snapshot", Summary: "copy the blocks while the node stands still"}},
	}, nil
}

// node is one entry of the configuration, and the Spec that later calls get back.
type node struct {
	Name    string `json:"name"`
	Host    string `json:"host,omitempty"`
	Dir     string `json:"dir"`
	Program string `json:"program"`
}

// Nodes puts the first node of the list into the first wave, and the others into the second.
func (driver) Nodes(_ context.Context, config json.RawMessage) ([]core.Node, error) {
	var c struct {
		Nodes []node `json:"nodes"`
	}
	d := json.NewDecoder(bytes.NewReader(config))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return nil, core.FieldErrors{{Field: "nodes", Msg: err.Error()}}
	}
	var bad core.FieldErrors
	if len(c.Nodes) == 0 {
		bad = append(bad, core.FieldError{Field: "nodes", Msg: "names no node"})
	}
	var nodes []core.Node
	first := map[string]int{}
	for i, n := range c.Nodes {
		if j, taken := first[n.Name]; taken {
			bad = append(bad, core.FieldError{Field: fmt.Sprintf("nodes[%d].name", i), Msg: fmt.Sprintf("%s is already used by nodes[%d]", n.Name, j)})
			continue
		}
		first[n.Name] = i
		if !path.IsAbs(n.Dir) || !path.IsAbs(n.Program) {
			bad = append(bad, core.FieldError{Field: fmt.Sprintf("nodes[%d]", i), Msg: "dir and program are absolute paths"})
		}
		spec, err := json.Marshal(n)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, core.Node{Name: n.Name, Wave: min(i, 1), Addr: core.Addr{Host: n.Host}, Spec: spec})
	}
	return nodes, bad.Err()
}

// maxAge is how old a healthy node's head is at the most.
const maxAge = 10 * time.Second

// Status asks the driver's own verb on the node's machine. A machine on which nothing works gives
// a failed check, not an error: it is an answer.
func (driver) Status(ctx context.Context, n core.Node, h core.Host) (core.Status, error) {
	var spec node
	if err := json.Unmarshal(n.Spec, &spec); err != nil {
		return core.Status{}, fmt.Errorf("read the spec of %s: %w", n.Name, err)
	}
	out, err := h.Run(ctx, "@self", "look", spec.Dir)
	if err != nil {
		return core.Status{}, err
	}
	var seen sight
	answers := core.Check{Name: "answers", OK: true, Safety: true, Want: "a process", Got: "a process",
		Fix: fmt.Sprintf("start it: %s start %s", spec.Program, spec.Dir)}
	if out.Exit != 0 || json.Unmarshal(out.Stdout, &seen) != nil {
		answers.OK, answers.Got = false, strings.TrimSpace(string(out.Stderr))
		return core.Status{Checks: []core.Check{answers}}, nil
	}
	if !seen.Runs {
		answers.OK, answers.Got = false, "none"
	}
	age := seen.Now.Sub(seen.Made).Round(time.Second)
	return core.Status{
		Up: seen.Runs, Height: seen.Height, HeadTime: seen.Made,
		Checks: []core.Check{answers, {
			Name: "age of the head", OK: age <= maxAge, Want: "at most " + maxAge.String(), Got: age.String(),
			Fix: "see " + spec.Dir + "/log",
		}},
	}, nil
}

// Plan is data: snapfw writes it down before the first step, and arms the undo of "stop the node" on
// the node's own machine.
func (driver) Plan(_ context.Context, n core.Node, _ core.Host, in core.Intent) (core.Plan, error) {
	if in.Name != "snapshot" {
		return core.Plan{}, fmt.Errorf("plan %q: %w", in.Name, core.ErrUnsupported)
	}
	var spec node
	if err := json.Unmarshal(n.Spec, &spec); err != nil {
		return core.Plan{}, fmt.Errorf("read the spec of %s: %w", n.Name, err)
	}
	db := spec.Dir + "/db"
	to := capture.Dir(db) // DIR/.snapfw/db: on the same mount, so that links work
	list, data := to+"/live.jsonl", to+"/data"
	step := func(name string, argv ...string) core.Step {
		return core.Step{Name: name, Do: core.Command{Argv: argv, Timeout: time.Minute, Grace: 10 * time.Second}}
	}

	check := step("see that the copy can be taken", "@core", "capture", "check", "--from", db, "--to", to)
	for _, pattern := range never {
		check.Do.Argv = append(check.Do.Argv, "--never", pattern)
	}
	stop := step("stop the node", "@self", "stop", spec.Dir)
	stop.Undo = &core.Command{Argv: []string{spec.Program, "start", spec.Dir}, Timeout: time.Minute}
	take := step("take the copy", "@core", "capture", "take", "--from", db, "--list", list, "--to", to)
	take.Undo = &core.Command{Argv: []string{"@core", "capture", "drop", "--to", to, "--linked"}, Timeout: time.Minute}
	height := step("read the height of the copy", "cat", data+"/HEAD")
	height.Keep = "height"

	return core.Plan{
		Prepare: []core.Step{check},
		Freeze:  []core.Step{stop},
		Capture: []core.Step{step("list the live files", "@self", "live", spec.Dir, list), take},
		Seal:    []core.Step{height, step("seal the copy", "@core", "capture", "seal", "--to", to)},
		Data:    data,
		Publish: core.Layout{Prefix: n.Name + "/ticker.{height}", Pointer: n.Name + "/latest.json"},
		Settle:  time.Minute,
	}, nil
}
