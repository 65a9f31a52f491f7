// Package toy is a chain and a sink that are as small as they can be and real: the chain's
// nodes are files that hold a height, the sink keeps its objects in a folder. Tests run
// them where they need a plugin that works; authors read them as an example.
package toy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/snapfw/snapfw/core"
)

// Chain is a core.Chain, Catalog, Judge and Importer. Its configuration is
//
//	{"nodes": [{"name": "a", "wave": 0, "height": "/path/of/a/file", "data": "/path/of/a/folder"}]}
type Chain struct{}

type node struct {
	Name   string `json:"name"`
	Wave   int    `json:"wave"`
	Height string `json:"height"`
	Data   string `json:"data"`
}

const schema = `{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object", "additionalProperties": false, "required": ["nodes"],
  "properties": {"nodes": {"type": "array", "minItems": 1, "items": {
    "type": "object", "additionalProperties": false, "required": ["name", "height", "data"],
    "properties": {
      "name": {"type": "string"}, "wave": {"type": "integer", "minimum": 0},
      "height": {"type": "string"}, "data": {"type": "string"}}}}}}`

func (Chain) Describe(context.Context) (core.Description, error) {
	return core.Description{
		Name: "toy", Kind: core.KindChain, Version: "1.0.0", Schema: json.RawMessage(schema),
		Intents: []core.IntentInfo{{Name: "snapshot", Summary: "copy the node's folder"}},
		Never:   []string{"*.key"},
	}, nil
}

func (Chain) Nodes(_ context.Context, config json.RawMessage) ([]core.Node, error) {
	var c struct {
		Nodes []json.RawMessage `json:"nodes"`
	}
	if err := strict("", config, &c); err != nil {
		return nil, err
	}
	var bad core.FieldErrors
	if len(c.Nodes) == 0 {
		bad = append(bad, core.FieldError{Field: "nodes", Msg: "names no node"})
	}
	var nodes []core.Node
	taken := map[string]int{}
	for i, raw := range c.Nodes {
		field := fmt.Sprintf("nodes[%d]", i)
		var n node
		if err := strict(field, raw, &n); err != nil {
			bad = append(bad, err...)
			continue
		}
		if first, ok := taken[n.Name]; ok {
			bad = append(bad, core.FieldError{Field: field + ".name", Msg: fmt.Sprintf("%s is already used by nodes[%d]", n.Name, first)})
		}
		taken[n.Name] = i
		bad = append(bad, n.check(field)...)
		spec, err := json.Marshal(n)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, core.Node{Name: n.Name, Wave: n.Wave, Spec: spec})
	}
	return nodes, bad.Err()
}

func (n node) check(field string) core.FieldErrors {
	var bad core.FieldErrors
	if n.Name == "" {
		bad = append(bad, core.FieldError{Field: field + ".name", Msg: "is missing"})
	}
	if n.Wave < 0 {
		bad = append(bad, core.FieldError{Field: field + ".wave", Msg: "is negative"})
	}
	for name, value := range map[string]string{"height": n.Height, "data": n.Data} {
		if !path.IsAbs(value) {
			bad = append(bad, core.FieldError{Field: field + "." + name, Msg: "is not an absolute path"})
		}
	}
	return bad
}

// strict decodes a JSON object and refuses what it does not know.
func strict(field string, raw []byte, into any) core.FieldErrors {
	if !bytes.HasPrefix(bytes.TrimSpace(raw), []byte("{")) {
		return core.FieldErrors{{Field: field, Msg: "must be an object"}}
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		if name, ok := strings.CutPrefix(err.Error(), `json: unknown field "`); ok {
			name = strings.TrimSuffix(name, `"`)
			return core.FieldErrors{{Field: strings.TrimPrefix(field+"."+name, "."), Msg: "is not known"}}
		}
		return core.FieldErrors{{Field: field, Msg: err.Error()}}
	}
	return nil
}

func (Chain) Status(ctx context.Context, n core.Node, h core.Host) (core.Status, error) {
	var spec node
	if err := json.Unmarshal(n.Spec, &spec); err != nil {
		return core.Status{}, fmt.Errorf("read the node's spec: %w", err)
	}
	out, err := h.Run(ctx, "cat", spec.Height)
	if err != nil {
		return core.Status{}, err
	}
	answers := core.Check{Name: "answers", OK: true, Want: "a height", Got: strings.TrimSpace(string(out.Stdout))}
	height, err := strconv.ParseUint(answers.Got, 10, 64)
	if out.Exit != 0 || err != nil {
		answers.OK, answers.Got = false, strings.TrimSpace(string(out.Stderr))
		answers.Fix = "start whatever writes " + spec.Height
		return core.Status{Checks: []core.Check{answers}}, nil
	}
	return core.Status{Up: true, Version: "1", Height: height, HeadTime: time.Unix(int64(height), 0).UTC(), Checks: []core.Check{answers}}, nil
}

func (Chain) Plan(ctx context.Context, n core.Node, h core.Host, in core.Intent) (core.Plan, error) {
	if in.Name != "snapshot" {
		return core.Plan{}, fmt.Errorf("there is no intent %q", in.Name)
	}
	var spec node
	if err := json.Unmarshal(n.Spec, &spec); err != nil {
		return core.Plan{}, fmt.Errorf("read the node's spec: %w", err)
	}
	out, err := h.Run(ctx, "test", "-e", spec.Height+".busy")
	if err != nil {
		return core.Plan{}, err
	}
	if out.Exit == 0 {
		return core.Plan{}, core.Skipf("%s is busy", n.Name)
	}
	copied := path.Join(path.Dir(spec.Data), ".snapfw", path.Base(spec.Data))
	return core.Plan{
		Freeze:  []core.Step{{Name: "stop", Do: core.Command{Argv: []string{"touch", spec.Height + ".down"}}, Undo: &core.Command{Argv: []string{"rm", "-f", spec.Height + ".down"}}}},
		Capture: []core.Step{{Name: "copy", Do: core.Command{Argv: []string{"cp", "-a", spec.Data, copied}, Timeout: time.Minute, Grace: time.Second}}},
		Seal:    []core.Step{{Name: "height", Do: core.Command{Argv: []string{"cat", spec.Height}}, Keep: "height"}},
		Data:    path.Join(copied, "data"),
		Publish: core.Layout{Prefix: n.Name + "/{height}", Pointer: n.Name + "/latest.json"},
		MaxDown: time.Minute, Returns: true,
	}, nil
}

// Parse reads lines of "size name"; Render writes them, by name.
func (Chain) Parse(_ context.Context, body []byte) ([]core.Entry, error) {
	var entries []core.Entry
	for lines := bufio.NewScanner(bytes.NewReader(body)); lines.Scan(); {
		size, name, ok := strings.Cut(lines.Text(), " ")
		bytes, err := strconv.ParseInt(size, 10, 64)
		if !ok || err != nil {
			return nil, fmt.Errorf("parse %q: it is not a size and a name", lines.Text())
		}
		entries = append(entries, core.Entry{Name: name, Size: bytes})
	}
	return entries, nil
}

func (Chain) Render(_ context.Context, entries []core.Entry) ([]byte, error) {
	sorted := slices.SortedFunc(slices.Values(entries), func(a, b core.Entry) int { return strings.Compare(a.Name, b.Name) })
	var b bytes.Buffer
	for _, e := range sorted {
		fmt.Fprintf(&b, "%d %s\n", e.Size, e.Name)
	}
	return b.Bytes(), nil
}

// Judge lets a list grow and nothing else.
func (k Chain) Judge(ctx context.Context, c core.Change) (core.Verdict, error) {
	v := core.Verdict{Safe: true}
	proposed, err := k.Parse(ctx, c.Proposed)
	if err != nil {
		return v, err
	}
	for _, body := range c.Published {
		list, err := k.Parse(ctx, body)
		if err != nil {
			return v, err
		}
		for _, old := range list {
			if !slices.ContainsFunc(proposed, func(e core.Entry) bool { return e.Name == old.Name && e.Size == old.Size }) {
				v.Safe = false
				v.Findings = append(v.Findings, core.Finding{Class: "removed", Name: old.Name, Refuse: true})
			}
		}
	}
	return v, nil
}

// Import reads what the tool before this one read: a path a line, after a first line "toy".
func (Chain) Import(_ context.Context, foreign []byte) ([]byte, error) {
	lines := strings.Fields(string(foreign))
	if len(lines) == 0 || lines[0] != "toy" {
		return nil, core.ErrForeign
	}
	var c struct {
		Nodes []node `json:"nodes"`
	}
	for i, dir := range lines[1:] {
		c.Nodes = append(c.Nodes, node{Name: "n" + strconv.Itoa(i), Height: path.Join(dir, "height"), Data: path.Join(dir, "data")})
	}
	if len(c.Nodes) == 0 {
		return nil, errors.New("the file names no node")
	}
	return json.Marshal(c)
}
