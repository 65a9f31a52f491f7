package config

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// Convert writes a configuration that was imported (JSON, as a driver's Importer returns it) as YAML. A secret
// that stands in it as "literal:VALUE" is left out: a reference takes its place, with a comment that says
// where the value has to go.
func Convert(imported []byte) ([]byte, error) {
	root, problems := parse("the imported configuration", imported)
	if len(problems) > 0 {
		return nil, problems
	}
	moved := false
	moveOut("", root, &moved)
	var b bytes.Buffer
	b.WriteString("# Written by `snapfw config convert`; docs/configuration.md explains every key.\n")
	if moved {
		b.WriteString("# The old file held secrets. They are not in this one: see the comments below.\n")
	}
	if root.Kind != yaml.MappingNode {
		return nil, errors.New("write YAML: the imported configuration is no mapping")
	}
	order(root, fieldOrder(reflect.TypeFor[File]()))
	for _, section := range []string{"sinks", "chains"} {
		entries := lookup(root, section)
		for i := 1; entries != nil && i < len(entries.Content); i += 2 {
			order(entries.Content[i], fieldOrder(reflect.TypeFor[Chain]()))
			order(entries.Content[i], fieldOrder(reflect.TypeFor[Sink]()))
		}
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		text, err := section(root.Content[i : i+2])
		if err != nil {
			return nil, err
		}
		b.WriteByte('\n')
		b.Write(text)
	}
	return b.Bytes(), nil
}

// section writes one key of the file with what is below it.
func section(pair []*yaml.Node) ([]byte, error) {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(&yaml.Node{Kind: yaml.MappingNode, Content: pair}); err != nil {
		return nil, fmt.Errorf("write YAML: %w", err)
	}
	return b.Bytes(), nil
}

// fieldOrder returns a struct's keys in the order of its fields.
func fieldOrder(t reflect.Type) []string {
	byKey, _ := keys(t)
	return slices.SortedFunc(maps.Keys(byKey), func(a, b string) int { return byKey[a] - byKey[b] })
}

// order puts the named keys of a mapping first, in their order; the others stay as they are.
func order(n *yaml.Node, first []string) {
	if n.Kind != yaml.MappingNode {
		return
	}
	var pairs [][]*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		pairs = append(pairs, n.Content[i:i+2:i+2])
	}
	rank := func(pair []*yaml.Node) int {
		if i := slices.Index(first, pair[0].Value); i >= 0 {
			return i
		}
		return len(first)
	}
	slices.SortStableFunc(pairs, func(a, b []*yaml.Node) int { return rank(a) - rank(b) })
	n.Content = slices.Concat(pairs...)
}

// moveOut puts references in place of secrets and gives the tree a form for people.
func moveOut(path string, n *yaml.Node, moved *bool) {
	n.Line = 0
	switch n.Kind {
	case yaml.MappingNode:
		n.Tag = ""
		for i := 0; i+1 < len(n.Content); i += 2 {
			moveOut(join(path, n.Content[i].Value), n.Content[i+1], moved)
		}
	case yaml.SequenceNode:
		n.Tag = ""
		for i, item := range n.Content {
			moveOut(index(path, i), item, moved)
		}
	case yaml.ScalarNode:
		if n.Tag == "!!str" && oldBool.MatchString(n.Value) {
			n.Style = yaml.DoubleQuotedStyle // other readers of YAML take it for true or false
		}
		if n.Tag != "!!str" || !strings.HasPrefix(n.Value, "literal:") {
			return
		}
		name := envFor(path)
		n.Value = "env:" + name
		n.LineComment = fmt.Sprintf("# put the old file's value into the environment as %s, or into a file (chmod 600): file:PATH", name)
		*moved = true
	}
}

var oldBool = regexp.MustCompile(`^(?i:y|n|yes|no|on|off)$`)

// envFor makes a variable's name from the last two parts of a field, and from what a number among them counts.
func envFor(path string) string {
	parts := split(path)
	from := max(0, len(parts)-2)
	for from > 0 && strings.ContainsAny(parts[from][:1], "0123456789") { // no variable begins so
		from--
	}
	name := strings.Join(parts[from:], "_")
	return strings.ToUpper(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, name))
}
