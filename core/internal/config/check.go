package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
	"gopkg.in/yaml.v3"

	"github.com/snapfw/snapfw/core"
)

// Describe returns a plugin's description by kind (core.KindChain, core.KindSink) and name.
type Describe func(kind, name string) (core.Description, error)

// Check holds the plugins' parts of the named chains, and of the sinks that they use, against the
// plugins' schemas; without names those of the whole file.
func (f *File) Check(describe Describe, chains ...string) Problems {
	sinks := map[string]bool{}
	if len(chains) == 0 {
		chains = f.ChainNames()
		for name := range f.Sinks {
			sinks[name] = true
		}
	}
	var all Problems
	for _, name := range chains {
		c, err := f.Chain(name)
		if err != nil {
			all = append(all, Problem{Field: "chains", Msg: err.Error(), File: f.Path})
			continue
		}
		sinks[c.Sink] = true
		p := part{f: f, keys: []string{"chains", c.Name}, word: "driver", core: chainKeys}
		all = append(all, p.check(describe, core.KindChain, c.Driver, c.Own)...)
	}
	for _, name := range slices.Sorted(maps.Keys(sinks)) {
		if s, ok := f.Sinks[name]; ok {
			p := part{f: f, keys: []string{"sinks", name}, word: "plugin", core: sinkKeys}
			all = append(all, p.check(describe, core.KindSink, s.Plugin, s.Own)...)
		}
	}
	return all.sorted()
}

// Place gives a driver's errors about its part of the configuration their file and line.
func (f *File) Place(chain string, errs core.FieldErrors) Problems {
	if c, err := f.Chain(chain); err == nil {
		chain = c.Name
	}
	p := part{f: f, keys: []string{"chains", chain}}
	var all Problems
	for _, e := range errs {
		all = append(all, p.problem(split(e.Field), "%s", e.Msg))
	}
	return all.sorted()
}

// part is what a plugin gets of the file.
type part struct {
	f    *File
	keys []string // where it is: "chains", "main"
	word string   // the key that names the plugin
	core []string // keys that are snapfw's own
}

func (p part) node() *yaml.Node { return nodeAt(p.f.root, p.keys) }

func (p part) problem(at []string, format string, args ...any) Problem {
	if len(at) > 0 && lookup(p.f.foreign, at[0]) != nil {
		field, line := locate(p.f.foreign, "", at)
		return Problem{Field: field, Msg: fmt.Sprintf(format, args...), File: p.f.Path, Line: line}
	}
	field, line := locate(p.node(), strings.Join(p.keys, "."), at)
	return Problem{Field: field, Msg: fmt.Sprintf(format, args...), File: p.f.Path, Line: line}
}

func (p part) check(describe Describe, kind, plugin string, own json.RawMessage) Problems {
	d, err := describe(kind, plugin)
	if err != nil {
		at := []string{p.word}
		if lookup(p.node(), p.word) == nil {
			at = nil
		}
		return Problems{p.problem(at, "%v", err)}
	}
	if len(d.Schema) == 0 {
		return nil
	}
	compiled, err := compile(d.Schema)
	if err != nil {
		return Problems{p.problem(nil, "the schema of plugin %q can't be used: %v", plugin, err)}
	}
	tree, err := readSchema(d.Schema)
	if err != nil {
		return Problems{p.problem(nil, "the schema of plugin %q can't be used: %v", plugin, err)}
	}
	for _, key := range p.core {
		if _, taken := tree.properties(tree.root)[key]; taken {
			return Problems{p.problem(nil, "plugin %q wants the key %q, which is snapfw's own: it needs another version", plugin, key)}
		}
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(own))
	if err != nil {
		return Problems{p.problem(nil, "read the part of plugin %q: %v", plugin, err)}
	}
	all := p.references(tree, value)
	var invalid *jsonschema.ValidationError
	if err := compiled.Validate(value); errors.As(err, &invalid) {
		all = append(all, p.explain(tree, invalid)...)
	} else if err != nil {
		all = append(all, p.problem(nil, "%v", err))
	}
	return all
}

// references refuses secrets that stand in the file themselves.
func (p part) references(tree schemaTree, value any) Problems {
	var all Problems
	for _, s := range tree.secrets(value) {
		text, isText := s.value.(string)
		if s.kind != secretReference || !isText || (p.f.Imported && strings.HasPrefix(text, "literal:")) {
			continue
		}
		if _, err := ParseSecret(text, p.f.dir); err != nil {
			all = append(all, p.problem(split(s.path), "%v", err))
		}
	}
	return all
}

// explain says in a reader's words what a schema found.
func (p part) explain(tree schemaTree, e *jsonschema.ValidationError) Problems {
	at := e.InstanceLocation
	here := tree.at(at)
	switch k := e.ErrorKind.(type) {
	case *kind.AdditionalProperties:
		var all Problems
		known := slices.Sorted(maps.Keys(tree.properties(here)))
		if len(at) == 0 {
			known = append(known, p.core...)
		}
		for _, name := range k.Properties {
			all = append(all, p.problem(append(slices.Clone(at), name), "is not known here%s; the keys are %s",
				didYouMean(name, known), strings.Join(known, ", ")))
		}
		return all
	case *kind.Required:
		var all Problems
		for _, name := range k.Missing {
			what := "is missing"
			if text, _ := tree.properties(here)[name]["description"].(string); text != "" {
				what += ": " + text
			}
			all = append(all, p.problem(append(slices.Clone(at), name), "%s", what))
		}
		return all
	case *kind.Type:
		return Problems{p.problem(at, "is %s: %s is wanted", people(k.Got), people(k.Want...))}
	case *kind.AnyOf, *kind.OneOf, *kind.Not, *kind.Contains:
		return p.forms(tree, e)
	}
	if len(e.Causes) > 0 {
		var all Problems
		for _, cause := range e.Causes {
			all = append(all, p.explain(tree, cause)...)
		}
		return all
	}
	if here["x-secret"] != nil {
		return Problems{p.problem(at, "is not what the plugin takes")}
	}
	return Problems{p.problem(at, "%s", e.ErrorKind.LocalizedString(message.NewPrinter(language.English)))}
}

// forms explains a value that fits none of several forms by the one that it came closest to: the one
// whose fault lies deepest in the value.
func (p part) forms(tree schemaTree, e *jsonschema.ValidationError) Problems {
	var best *jsonschema.ValidationError
	depth := -1
	for _, cause := range e.Causes {
		if d := deepest(cause); d > depth {
			best, depth = cause, d
		}
	}
	if best == nil {
		return Problems{p.problem(e.InstanceLocation, "has none of the forms that are allowed")}
	}
	return p.explain(tree, best)
}

func deepest(e *jsonschema.ValidationError) int {
	depth := len(e.InstanceLocation)
	for _, cause := range e.Causes {
		depth = max(depth, deepest(cause))
	}
	return depth
}

// people names JSON's types.
func people(types ...string) string {
	words := map[string]string{
		"object": "a mapping", "array": "a list", "string": "text", "boolean": "true or false",
		"integer": "a whole number", "number": "a number", "null": "nothing",
	}
	out := make([]string, len(types))
	for i, t := range types {
		out[i] = words[t]
	}
	return strings.Join(out, " or ")
}

// compile reads a plugin's schema, which may refer to nothing outside of itself.
func compile(schema json.RawMessage) (*jsonschema.Schema, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		return nil, fmt.Errorf("read it: %w", err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.UseLoader(noLoader{})
	const name = "urn:snapfw:plugin"
	if err := c.AddResource(name, doc); err != nil {
		return nil, err
	}
	return c.Compile(name)
}

type noLoader struct{}

func (noLoader) Load(url string) (any, error) {
	return nil, fmt.Errorf("it refers to %s: only what is inside of it can be referred to", url)
}
