package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// What a file may hold at most: it is written by people.
const (
	maxBytes = 4 << 20
	maxNodes = 50_000
	maxDepth = 64
)

// parse reads YAML or JSON as a tree of nodes with their lines: no aliases, no merge keys, every
// key a string and there once. A file with nothing in it is an empty mapping.
func parse(file string, data []byte) (*yaml.Node, Problems) {
	if len(data) > maxBytes {
		return nil, Problems{{Msg: fmt.Sprintf("is larger than %d MiB: this is no configuration", maxBytes>>20), File: file}}
	}
	var root *yaml.Node
	var p Problem
	if trimmed := bytes.TrimSpace(data); len(trimmed) > 0 && trimmed[0] == '{' && json.Valid(trimmed) {
		// YAML's own reader refuses tabs and escapes that JSON allows.
		root, p = parseJSON(data)
	} else {
		root, p = parseYAML(data)
	}
	if p.Msg != "" {
		p.File = file
		return nil, Problems{p}
	}
	t := tidy{file: file}
	out := t.walk("", root, 0)
	return out, t.problems.sorted()
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

func parseYAML(data []byte) (*yaml.Node, Problem) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	err := dec.Decode(&doc)
	switch {
	case errors.Is(err, io.EOF):
		return &yaml.Node{Kind: yaml.MappingNode, Line: 1}, Problem{}
	case err != nil:
		m := yamlLine.FindStringSubmatch(err.Error())
		p := Problem{Msg: "is neither YAML nor JSON: " + yamlLine.ReplaceAllString(err.Error(), "")}
		if m != nil {
			p.Line, _ = strconv.Atoi(m[1])
		}
		return nil, p
	}
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, Problem{Msg: "holds more than one document: write one file a configuration", Line: second.Line}
	}
	if doc.Kind == yaml.DocumentNode && len(doc.Content) == 1 {
		return doc.Content[0], Problem{}
	}
	return &doc, Problem{}
}

// tidy copies a tree and refuses what the decoder need not know of.
type tidy struct {
	file     string
	problems Problems
	nodes    int
}

func (t *tidy) fail(n *yaml.Node, path, msg string) {
	t.problems = append(t.problems, Problem{Field: path, Msg: msg, File: t.file, Line: n.Line})
}

func (t *tidy) walk(path string, n *yaml.Node, depth int) *yaml.Node {
	for n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	out := &yaml.Node{Kind: n.Kind, Tag: n.Tag, Value: n.Value, Line: n.Line}
	t.nodes++
	if t.nodes > maxNodes || depth > maxDepth {
		if t.nodes <= maxNodes+1 {
			t.fail(n, path, "is too large or too deep")
			t.nodes = maxNodes + 1
		}
		return out
	}
	switch n.Kind {
	case yaml.MappingNode:
		t.mapping(path, n, out, depth)
	case yaml.SequenceNode:
		for i, item := range n.Content {
			if t.nodes > maxNodes {
				break
			}
			out.Content = append(out.Content, t.walk(index(path, i), item, depth+1))
		}
	case yaml.ScalarNode:
		switch n.ShortTag() {
		case "!!str", "!!int", "!!float", "!!bool", "!!null":
			out.Tag = n.ShortTag()
		case "!!timestamp":
			out.Tag = "!!str"
		default:
			t.fail(n, path, "has a tag that is not understood: leave it out")
		}
	}
	return out
}

func (t *tidy) mapping(path string, n, out *yaml.Node, depth int) {
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content) && t.nodes <= maxNodes; i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			t.fail(key, path, "has a key that is no plain word")
			continue
		}
		field := join(path, key.Value)
		if key.Value == "<<" {
			t.fail(key, field, "merging is not supported: write the keys out")
			continue
		}
		if line, twice := seen[key.Value]; twice {
			t.fail(key, field, fmt.Sprintf("is already set in line %d", line))
			continue
		}
		seen[key.Value] = key.Line
		v := t.walk(field, value, depth+1)
		if v.Kind != yaml.ScalarNode || v.Line == 0 {
			v.Line = key.Line // a block begins below its key
		}
		k := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: key.Value, Line: key.Line}
		out.Content = append(out.Content, k, v)
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// lookup returns the value of a key of a mapping, or nil.
func lookup(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// set puts a value at a path of mappings, making those that are not there.
func set(n *yaml.Node, value *yaml.Node, keys ...string) {
	for i, key := range keys {
		if n.Kind != yaml.MappingNode {
			return // wrong in the file; the decoder says so
		}
		next := lookup(n, key)
		if next == nil || next.Tag == "!!null" {
			next = &yaml.Node{Kind: yaml.MappingNode}
			if i < len(keys)-1 {
				put(n, key, next)
			}
		}
		if i == len(keys)-1 {
			put(n, key, value)
		}
		n = next
	}
}

func put(n *yaml.Node, key string, value *yaml.Node) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			n.Content[i+1] = value
			return
		}
	}
	n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: key}, value)
}

var pathPart = regexp.MustCompile(`^\.?([^.\[\]]+)|^\[(\d+)\]`)

// split cuts "machines[2].shard" into "machines", "2", "shard". What it can't read ends it.
func split(path string) []string {
	var parts []string
	for path != "" {
		m := pathPart.FindStringSubmatch(path)
		if m == nil {
			return parts
		}
		parts = append(parts, m[1]+m[2])
		path = path[len(m[0]):]
	}
	return parts
}

// locate walks down a tree and returns the path in a reader's form, and the line of the deepest part
// that is there.
func locate(n *yaml.Node, base string, parts []string) (path string, line int) {
	path = base
	if n != nil {
		line = n.Line
	}
	for _, part := range parts {
		if i, err := strconv.Atoi(part); err == nil && n != nil && n.Kind == yaml.SequenceNode {
			path = index(path, i)
			if i < 0 || i >= len(n.Content) {
				n = nil
				continue
			}
			n = n.Content[i]
		} else {
			path = join(path, part)
			n = lookup(n, part)
		}
		if n != nil && n.Line != 0 {
			line = n.Line
		}
	}
	return path, line
}

// typeName says what a node is, for people.
func typeName(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	}
	switch n.Tag {
	case "!!int", "!!float":
		return "a number"
	case "!!bool":
		return "true or false"
	case "!!null":
		return "nothing"
	}
	return "text"
}

// shorten keeps a value that is quoted in a message readable.
func shorten(s string) string {
	s = strings.ToValidUTF8(s, "?")
	if r := []rune(s); len(r) > 60 {
		s = string(r[:57]) + "..."
	}
	return strconv.Quote(s)
}
