// Package plugintest is the suite that every plugin has to pass, ours and a stranger's:
//
//	func TestDriver(t *testing.T) {
//		plugintest.Chain(t, plugin.Command{Path: built}, plugintest.ChainCase{Config: config})
//	}
//
// It runs the plugin as snapfw does, kills it between calls, and checks what package core
// promises of a Chain or a Sink. CheckChain and CheckSink are the same without package testing.
package plugintest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"syscall"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/plugin"
)

// T is what the checks need of a *testing.T. Errorf records a failure and goes on; Run runs a
// named part and says whether it passed.
type T interface {
	Errorf(format string, args ...any)
	Logf(format string, args ...any)
	Run(name string, part func(T)) bool
}

// goT is a T of package testing.
type goT struct{ *testing.T }

func (t goT) Run(name string, part func(T)) bool {
	return t.T.Run(name, func(t *testing.T) { part(goT{t}) })
}

// Chain checks a chain's plugin. cmd.Path is its executable.
func Chain(t *testing.T, cmd plugin.Command, c ChainCase) {
	t.Helper()
	CheckChain(t.Context(), goT{t}, cmd, c)
}

// Sink checks a sink's plugin. cmd.Path is its executable.
func Sink(t *testing.T, cmd plugin.Command, c SinkCase) {
	t.Helper()
	CheckSink(t.Context(), goT{t}, cmd, c)
}

var (
	nameForm   = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	nodeForm   = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)
	enforcable = map[string]bool{"if-none-match": true, "if-match": true, "copy-unchanged": true}
)

// describe checks what a plugin says of itself, and returns its schema compiled; nil
// if it does not compile.
func describe(t T, d core.Description) *jsonschema.Schema {
	if !nameForm.MatchString(d.Name) {
		t.Errorf("Description.Name is %q and must be lower-case letters, digits and -", d.Name)
	}
	if d.Version == "" {
		t.Errorf("Description.Version is empty: people need it to report an error")
	}
	for _, p := range d.Never {
		if _, err := path.Match(p, "x"); err != nil || bytes.ContainsRune([]byte(p), '/') {
			t.Errorf("Description.Never holds %q, which is not a pattern of a base name", p)
		}
	}
	for _, p := range d.Programs {
		if !nodeForm.MatchString(p) {
			t.Errorf("Description.Programs holds %q, which is not a program's name", p)
		}
	}
	for _, e := range d.Enforces {
		if !enforcable[e] {
			t.Errorf("Description.Enforces holds %q, which nobody knows", e)
		}
	}
	intents(t, d.Intents)
	return schema(t, d.Schema)
}

func intents(t T, list []core.IntentInfo) {
	seen := map[string]bool{}
	for _, in := range list {
		if !nameForm.MatchString(in.Name) || seen[in.Name] {
			t.Errorf("the intent %q is named badly or twice", in.Name)
		}
		seen[in.Name] = true
		if in.Summary == "" || bytes.ContainsRune([]byte(in.Summary), '\n') {
			t.Errorf("the intent %s needs a summary of one line", in.Name)
		}
		args := map[string]bool{}
		for _, a := range in.Args {
			if !nameForm.MatchString(a.Name) || args[a.Name] {
				t.Errorf("the argument %q of %s is named badly or twice", a.Name, in.Name)
			}
			args[a.Name] = true
			if a.Type != "bool" && a.Type != "string" && a.Type != "list" {
				t.Errorf("the argument %s of %s has the type %q: bool, string or list", a.Name, in.Name, a.Type)
			}
			if a.Usage == "" {
				t.Errorf("the argument %s of %s has no usage", a.Name, in.Name)
			}
		}
	}
}

func schema(t T, raw []byte) *jsonschema.Schema {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Errorf("Description.Schema is no JSON: %v", err)
		return nil
	}
	secrets(t, "", doc)
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.UseLoader(noLoader{})
	if err := c.AddResource("plugin:schema", doc); err != nil {
		t.Errorf("Description.Schema: %v", err)
		return nil
	}
	s, err := c.Compile("plugin:schema")
	if err != nil {
		t.Errorf("Description.Schema does not compile: %v", err)
		return nil
	}
	if s.Validate([]any{}) == nil {
		t.Errorf("Description.Schema takes an array: its type must be object")
	}
	return s
}

// noLoader refuses what a schema refers to elsewhere: snapfw does not ask a network for it.
type noLoader struct{}

func (noLoader) Load(url string) (any, error) {
	return nil, fmt.Errorf("%s: a schema must hold all that it refers to", url)
}

// secrets checks each x-secret in a schema.
func secrets(t T, at string, v any) {
	switch v := v.(type) {
	case map[string]any:
		if kind, ok := v["x-secret"]; ok && kind != "reference" && kind != "file" {
			t.Errorf(`%s/x-secret is %v: "reference" or "file"`, at, kind)
		}
		for name, inner := range v {
			secrets(t, at+"/"+name, inner)
		}
	case []any:
		for i, inner := range v {
			secrets(t, fmt.Sprintf("%s/%d", at, i), inner)
		}
	}
}

func valid(s *jsonschema.Schema, config []byte) error {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(config))
	if err != nil {
		return err
	}
	return s.Validate(doc)
}

// load starts the plugin; nil means that it failed and was said.
func load(ctx context.Context, t T, cmd plugin.Command, kind string) *plugin.Client {
	cmd.Kind = kind
	c, err := plugin.Load(ctx, cmd)
	if err != nil {
		t.Errorf("it can't be loaded: %v", err)
		return nil
	}
	return c
}

// kill ends the plugin's process as a machine short of memory does.
func kill(t T, c *plugin.Client) {
	if pid := c.Pid(); pid != 0 {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Errorf("kill the plugin: %v", err)
		}
	}
}

func same(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
