package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// decoder fills the structs of this package from a tidy tree, strictly, and collects all that is wrong.
type decoder struct {
	file     string
	dir      string // what relative paths are relative to
	imported bool   // secrets may stand in it
	origin   map[*yaml.Node]string
	problems Problems
	warnings Problems
}

// defaulter sets what holds where a key is missing, before the keys are read.
type defaulter interface{ defaults() }

// checker says what is wrong with values that are right each for itself. Fields are relative to the value.
type checker interface {
	check(fail func(field, format string, args ...any))
}

// scalar is a type with a form of its own. Its error begins with the text.
type scalar interface{ parse(text string) error }

func (d *decoder) problem(n *yaml.Node, field, format string, args ...any) Problem {
	p := Problem{Field: field, Msg: fmt.Sprintf(format, args...), File: d.file, Line: n.Line}
	if from, ok := d.origin[n]; ok {
		p.File, p.Line = from, 0
	}
	return p
}

func (d *decoder) fail(n *yaml.Node, field, format string, args ...any) {
	d.problems = append(d.problems, d.problem(n, field, format, args...))
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	secretType   = reflect.TypeFor[Secret]()
	urlType      = reflect.TypeFor[URL]()
	addressType  = reflect.TypeFor[address]()
)

func (d *decoder) decode(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return // a key without a value is as if it were not there
	}
	switch {
	case v.Type() == secretType:
		v.Set(reflect.ValueOf(d.secret(path, n)))
		return
	case v.Type() == urlType:
		v.Set(reflect.ValueOf(d.url(path, n)))
		return
	case v.Type() == addressType:
		v.Set(reflect.ValueOf(address{d.address(path, n)}))
		return
	case v.Type() == durationType:
		d.text(path, n, func(text string) error {
			t, err := ParseDuration(text)
			if err == nil {
				v.SetInt(int64(t))
			}
			return err
		})
		return
	}
	if s, ok := v.Addr().Interface().(scalar); ok {
		d.text(path, n, s.parse)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.fields(path, n, v)
	case reflect.Map:
		d.named(path, n, v)
	case reflect.Slice:
		d.list(path, n, v)
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		d.decode(path, n, p.Elem())
		v.Set(p)
	default:
		d.plain(path, n, v)
	}
}

// text gives a scalar's text to parse; a number without a unit is text here.
func (d *decoder) text(path string, n *yaml.Node, parse func(string) error) {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!bool" {
		d.fail(n, path, "is %s: text is wanted", typeName(n))
		return
	}
	if err := parse(n.Value); err != nil {
		d.fail(n, path, "%v", err)
	}
}

func (d *decoder) plain(path string, n *yaml.Node, v reflect.Value) {
	want := map[reflect.Kind]string{reflect.String: "!!str", reflect.Bool: "!!bool", reflect.Int: "!!int"}[v.Kind()]
	if n.Kind != yaml.ScalarNode || n.Tag != want {
		hint := ""
		if want == "!!str" && n.Kind == yaml.ScalarNode {
			hint = ": write it in quotes"
		}
		d.fail(n, path, "is %s: %s is wanted%s", typeName(n), typeName(&yaml.Node{Tag: want}), hint)
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(n.Value)
	case reflect.Bool:
		v.SetBool(strings.EqualFold(n.Value, "true"))
	case reflect.Int:
		text, err := number(n)
		i, err2 := strconv.ParseInt(text, 10, 32)
		if err != nil || err2 != nil {
			d.fail(n, path, "%s is out of range", shorten(n.Value))
			return
		}
		v.SetInt(i)
	}
}

func (d *decoder) secret(path string, n *yaml.Node) Secret {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!str" {
		d.fail(n, path, "is not a reference: write env:NAME, file:PATH or cmd:PROGRAM")
		return Secret{}
	}
	if value, ok := strings.CutPrefix(n.Value, "literal:"); ok && d.imported {
		d.warnings = append(d.warnings, d.problem(n, path,
			"the secret stands in the file itself; `snapfw config convert` writes a file without it"))
		return Literal(value)
	}
	s, err := ParseSecret(n.Value, d.dir)
	if err != nil {
		d.fail(n, path, "%v", err)
	}
	return s
}

// url takes an address, or a mapping of one and its events.
func (d *decoder) url(path string, n *yaml.Node) URL {
	if n.Kind != yaml.MappingNode {
		return URL{Secret: d.address(path, n)}
	}
	if v := lookup(n, "url"); v == nil || v.Tag == "!!null" {
		d.fail(n, join(path, "url"), "is missing: write an address, or a reference to one, as env:DISCORD_URL")
	}
	var e urlEntry
	d.fields(path, n, reflect.ValueOf(&e).Elem())
	return URL{Secret: e.URL.Secret, On: e.On}
}

// address takes an address as it stands, since many hold no token, or a reference to one.
func (d *decoder) address(path string, n *yaml.Node) Secret {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		scheme, _, _ := strings.Cut(n.Value, ":")
		if strings.Contains(n.Value, "://") && !slices.Contains([]string{"env", "file", "cmd", "literal"}, scheme) {
			return Literal(n.Value)
		}
	}
	return d.secret(path, n)
}

func (d *decoder) list(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		d.fail(n, path, "is %s: a list is wanted", typeName(n))
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		if item.Tag == "!!null" {
			d.fail(item, index(path, i), "is empty: write a value or leave the line out")
			continue
		}
		d.decode(index(path, i), item, out.Index(i))
	}
	v.Set(out)
}

// named reads a mapping whose keys are names that somebody chose.
func (d *decoder) named(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, "is %s: a mapping is wanted", typeName(n))
		return
	}
	out := reflect.MakeMap(v.Type())
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		field := join(path, key.Value)
		if !nameForm.MatchString(key.Value) {
			d.fail(key, field, "is no name: use letters, digits, dots, dashes and underscores, 64 at most")
			continue
		}
		item := reflect.New(v.Type().Elem()).Elem()
		if value.Tag == "!!null" { // "name:" alone is an empty mapping
			value = &yaml.Node{Kind: yaml.MappingNode, Line: key.Line}
			n.Content[i+1] = value
		}
		d.decode(field, value, item)
		if named, ok := item.Addr().Interface().(interface{ setName(string) }); ok {
			named.setName(key.Value)
		}
		out.SetMapIndex(reflect.ValueOf(key.Value), item)
	}
	v.Set(out)
}

// fields reads a mapping into a struct. A struct with a field tagged part:"own" takes keys that
// it does not know as its plugin's.
func (d *decoder) fields(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, "is %s: a mapping is wanted", typeName(n))
		return
	}
	if def, ok := v.Addr().Interface().(defaulter); ok {
		def.defaults()
	}
	byKey, own := keys(v.Type())
	known := map[string]bool{}
	for k := range byKey {
		known[k] = true
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		field := join(path, key.Value)
		at, ok := byKey[key.Value]
		switch {
		case ok:
			d.decode(field, value, v.Field(at))
		case own < 0:
			names := slices.Sorted(maps.Keys(byKey))
			d.fail(key, field, "is not known here%s; the keys are %s", didYouMean(key.Value, names), strings.Join(names, ", "))
		}
	}
	if own >= 0 {
		v.Field(own).SetBytes(d.toJSON(path, n, known))
	}
	if c, ok := v.Addr().Interface().(checker); ok {
		c.check(func(field, format string, args ...any) {
			where, line := locate(n, path, split(field))
			at := nodeAt(n, split(field))
			p := d.problem(at, where, format, args...)
			if p.Line == 0 && d.origin[at] == "" {
				p.Line = line
			}
			d.problems = append(d.problems, p)
		})
	}
}

// nodeAt returns the deepest node that is there on the way down.
func nodeAt(n *yaml.Node, parts []string) *yaml.Node {
	for _, part := range parts {
		var next *yaml.Node
		if i, err := strconv.Atoi(part); err == nil && n.Kind == yaml.SequenceNode && i >= 0 && i < len(n.Content) {
			next = n.Content[i]
		} else {
			next = lookup(n, part)
		}
		if next == nil {
			return n
		}
		n = next
	}
	return n
}

// keys returns a struct's fields by key, and which one holds the plugin's own keys, or -1.
func keys(t reflect.Type) (byKey map[string]int, own int) {
	byKey, own = map[string]int{}, -1
	for i := range t.NumField() {
		f := t.Field(i)
		key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Tag.Get("part") == "own":
			own = i
		case f.IsExported() && key != "" && key != "-":
			byKey[key] = i
		}
	}
	return byKey, own
}
