package config

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// Values of "x-secret" in a plugin's schema; see core.Description.Schema.
const (
	secretReference = "reference"
	secretFile      = "file"
)

// Secrets resolves what a plugin's schema marks with "x-secret", by property: "token", or for nested ones
// "account.token" and "users[0].token". A "reference" is revealed, a "file" read as it is,
// relative paths from the folder of the configuration. A file that the schema names as its
// default and that is not there is left out.
func (f *File) Secrets(ctx context.Context, schema, config json.RawMessage) (map[string]string, error) {
	values := map[string]string{}
	if len(schema) == 0 {
		return values, nil
	}
	tree, err := readSchema(schema)
	if err != nil {
		return nil, fmt.Errorf("read schema: %w", err)
	}
	var own any
	if len(config) > 0 {
		if err := json.Unmarshal(config, &own); err != nil {
			return nil, fmt.Errorf("read the plugin's part: %w", err)
		}
	}
	for _, s := range tree.secrets(own) {
		text, ok := s.value.(string)
		if !ok || text == "" {
			continue
		}
		value, err := f.resolve(ctx, s.kind, text)
		if s.isDefault && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.path, err)
		}
		values[s.path] = value
	}
	return values, nil
}

func (f *File) resolve(ctx context.Context, kind, text string) (string, error) {
	if kind == secretFile {
		value, err := readSecret(absolute(f.dir, text))
		if err == nil && len(value) > maxSecret {
			err = fmt.Errorf("%s is larger than 1 MiB", text)
		}
		return value, err
	}
	if value, ok := strings.CutPrefix(text, "literal:"); ok && f.Imported {
		return value, nil
	}
	s, err := ParseSecret(text, f.dir)
	if err != nil {
		return "", err
	}
	return s.Reveal(ctx)
}

// schemaTree is a JSON Schema to look around in. It follows properties, items, references inside of the
// schema, and allOf, anyOf and oneOf.
type schemaTree struct{ root map[string]any }

func readSchema(schema json.RawMessage) (schemaTree, error) {
	var t schemaTree
	return t, json.Unmarshal(schema, &t.root)
}

// all returns a schema and the ones that it is put together from.
func (t schemaTree) all(s map[string]any, depth int) []map[string]any {
	if s == nil || depth > maxDepth {
		return nil
	}
	out := []map[string]any{s}
	if ref, ok := s["$ref"].(string); ok {
		out = append(out, t.all(t.pointer(ref), depth+1)...)
	}
	for _, word := range []string{"allOf", "anyOf", "oneOf"} {
		list, _ := s[word].([]any)
		for _, item := range list {
			if m, ok := item.(map[string]any); ok {
				out = append(out, t.all(m, depth+1)...)
			}
		}
		if len(out) > 1000 {
			return out[:1000]
		}
	}
	return out
}

// pointer follows "#/$defs/name"; other references are not followed.
func (t schemaTree) pointer(ref string) map[string]any {
	rest, ok := strings.CutPrefix(ref, "#/")
	if !ok {
		return nil
	}
	var at any = t.root
	for _, word := range strings.Split(rest, "/") {
		m, ok := at.(map[string]any)
		if !ok {
			return nil
		}
		at = m[strings.NewReplacer("~1", "/", "~0", "~").Replace(word)]
	}
	m, _ := at.(map[string]any)
	return m
}

// properties returns the properties of a schema by name.
func (t schemaTree) properties(s map[string]any) map[string]map[string]any {
	out := map[string]map[string]any{}
	for _, one := range t.all(s, 0) {
		props, _ := one["properties"].(map[string]any)
		for name, p := range props {
			if m, ok := p.(map[string]any); ok {
				out[name] = m
			}
		}
	}
	return out
}

func (t schemaTree) items(s map[string]any) map[string]any {
	for _, one := range t.all(s, 0) {
		if m, ok := one["items"].(map[string]any); ok {
			return m
		}
	}
	return nil
}

// at returns the schema of the value at a location, or nil. Where it is a reference to another, the other's
// keywords are in it.
func (t schemaTree) at(location []string) map[string]any {
	s := t.root
	for _, word := range location {
		next := t.properties(s)[word]
		if _, err := strconv.Atoi(word); next == nil && err == nil {
			next = t.items(s)
		}
		s = next
	}
	if s == nil {
		return nil
	}
	flat := map[string]any{}
	for _, one := range t.all(s, 0) {
		for k, v := range one {
			if _, there := flat[k]; !there {
				flat[k] = v
			}
		}
	}
	return flat
}

// secret is a property with "x-secret".
type secret struct {
	path      string
	kind      string
	value     any
	isDefault bool
}

// secrets returns the secret properties that a value sets, and those with a default.
func (t schemaTree) secrets(value any) []secret {
	var found []secret
	t.visit(t.root, value, "", 0, &found)
	return found
}

func (t schemaTree) visit(s map[string]any, value any, path string, depth int, found *[]secret) {
	if s == nil || depth > maxDepth {
		return
	}
	for _, one := range t.all(s, 0) {
		if kind, ok := one["x-secret"].(string); ok && path != "" {
			if value != nil {
				*found = append(*found, secret{path, kind, value, false})
			} else if one["default"] != nil {
				*found = append(*found, secret{path, kind, one["default"], true})
			}
			return
		}
	}
	switch v := value.(type) {
	case []any:
		for i, item := range v {
			t.visit(t.items(s), item, index(path, i), depth+1, found)
		}
	case map[string]any, nil:
		object, _ := v.(map[string]any)
		if v == nil && depth > 0 {
			return
		}
		for name, p := range t.properties(s) {
			t.visit(p, object[name], join(path, name), depth+1, found)
		}
	}
}
