package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/invopop/jsonschema"

	"github.com/snapfw/snapfw/core"
)

var (
	chainKeys = keyNames(reflect.TypeFor[Chain]())
	sinkKeys  = keyNames(reflect.TypeFor[Sink]())
)

func keyNames(t reflect.Type) []string {
	byKey, _ := keys(t)
	return slices.Sorted(maps.Keys(byKey))
}

// object is a piece of a JSON Schema.
type object = map[string]any

// Schema returns the JSON Schema (draft 2020-12) of the file: what snapfw knows itself, and
// the parts of the plugins that are described.
func Schema(plugins []core.Description) ([]byte, error) {
	root, err := ownSchema()
	if err != nil {
		return nil, err
	}
	props := root["properties"].(object)
	defs := object{}
	for _, kind := range []struct{ section, core, word string }{
		{"chains", core.KindChain, "driver"},
		{"sinks", core.KindSink, "plugin"},
	} {
		section := props[kind.section].(object)
		own := section["additionalProperties"].(object)
		entries, err := withPlugins(kind.core, kind.word, own, plugins, defs)
		if err != nil {
			return nil, err
		}
		maps.Copy(section, entries)
		section["propertyNames"] = object{"pattern": nameForm.String()}
	}
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "The configuration of snapfw"
	root["required"] = []string{"chains"}
	root["$defs"] = defs
	return json.MarshalIndent(root, "", "  ")
}

// withPlugins describes the entries of a section: which plugin's keys an entry may have follows from the key
// that names the plugin or, without it, from the entry's own name.
func withPlugins(kind, word string, own object, plugins []core.Description, defs object) (object, error) {
	var choices []any
	byName := object{}
	for _, d := range plugins {
		if d.Kind != kind {
			continue
		}
		def := kind + "." + d.Name
		merged, err := merge(def, own, d)
		if err != nil {
			return nil, err
		}
		defs[def] = merged
		ref := object{"$ref": "#/$defs/" + def}
		choices = append(choices, object{
			"if":   object{"required": []string{word}, "properties": object{word: object{"const": d.Name}}},
			"then": ref,
		})
		byName[d.Name] = object{
			"$ref": "#/$defs/" + kind,
			"if":   object{"not": object{"required": []string{word}}},
			"then": ref,
		}
	}
	entry := maps.Clone(own)
	delete(entry, "additionalProperties") // the plugin's own keys
	if choices != nil {
		entry["allOf"] = choices
	}
	defs[kind] = entry
	other := object{"$ref": "#/$defs/" + kind}
	if len(byName) > 0 {
		other["required"] = []string{word} // an entry that is not called like a plugin names one
	}
	return object{"properties": byName, "additionalProperties": other}, nil
}

// merge adds snapfw's own keys to a plugin's schema. The result has an identity of its own, so that the plugin's
// references into itself still lead there.
func merge(def string, own object, d core.Description) (object, error) {
	merged := object{}
	if len(d.Schema) > 0 {
		if err := json.Unmarshal(d.Schema, &merged); err != nil {
			return nil, fmt.Errorf("read the schema of %s %q: %w", d.Kind, d.Name, err)
		}
	}
	props, _ := merged["properties"].(object)
	if props == nil {
		props = object{}
	}
	maps.Copy(props, own["properties"].(object))
	merged["properties"] = props
	merged["$id"] = "urn:snapfw:" + def
	delete(merged, "$schema")
	return merged, nil
}

// ownSchema describes the structs of this package.
func ownSchema() (object, error) {
	r := jsonschema.Reflector{
		Anonymous: true, DoNotReference: true, ExpandedStruct: true, RequiredFromJSONSchemaTags: true,
		Mapper: scalarSchema,
	}
	text, err := json.Marshal(r.Reflect(&File{}))
	if err != nil {
		return nil, fmt.Errorf("describe the file: %w", err)
	}
	var root object
	if err := json.Unmarshal(text, &root); err != nil {
		return nil, fmt.Errorf("describe the file: %w", err)
	}
	return root, nil
}

// scalarSchema describes the types that have a form of their own.
func scalarSchema(t reflect.Type) *jsonschema.Schema {
	text := func(pattern, example string) *jsonschema.Schema {
		return &jsonschema.Schema{Type: "string", Pattern: pattern, Examples: []any{example}}
	}
	orZero := func(s *jsonschema.Schema) *jsonschema.Schema {
		return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{s, {Type: "integer", Enum: []any{0}}}}
	}
	switch t {
	case secretType:
		return text(`^(env:[^= \t/$]+|file:.+|cmd:.+)$`, "env:NAME")
	case urlType:
		return urlSchema(text(`^(env:.+|file:.+|cmd:.+|[a-z0-9+.-]+://.+)$`, "env:NAME"))
	case durationType:
		return orZero(text(`^(0|([0-9.]+(ns|us|µs|ms|s|m|h))+|[0-9]{1,5}[dw])$`, (5 * time.Minute).String()))
	case reflect.TypeFor[Rate]():
		return orZero(text(`^(0|[0-9]+([.][0-9]+)? ?([kKMGTP]i?)?B(/s)?)$`, "50MiB"))
	case reflect.TypeFor[Verify]():
		return text(`^(|full|sample[ :]+[0-9.]+%?)$`, "sample 5%")
	}
	return nil
}

// urlSchema describes a URL, whose address is described by text.
func urlSchema(text *jsonschema.Schema) *jsonschema.Schema {
	event := &jsonschema.Schema{Type: "string"}
	for _, e := range Events {
		event.Enum = append(event.Enum, e)
	}
	least := uint64(1)
	props := jsonschema.NewProperties()
	props.Set("url", text)
	props.Set("on", &jsonschema.Schema{
		Type: "array", Items: event, MinItems: &least, Description: "The events that it gets. Default: those of notify.on.",
	})
	return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{text, {
		Type: "object", Properties: props, Required: []string{"url"}, AdditionalProperties: jsonschema.FalseSchema,
	}}}
}
