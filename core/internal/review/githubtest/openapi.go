package githubtest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// The vendor's description of the API, as npm has it: https://github.com/octokit/openapi
const (
	openapiPackage = "@octokit/openapi@23.0.2"
	openapiFolder  = "octokit-openapi-23.0.2"
	openapiFile    = "package/generated/api.github.com.json"
)

// description is the vendor's description, with its schemas made readable for a validator of JSON Schema.
type description struct {
	doc      map[string]any
	mu       sync.Mutex
	compiler *jsonschema.Compiler
	compiled map[string]*jsonschema.Schema
}

// load reads the description, once a process, from the user's cache, where npm puts it once.
var load = sync.OnceValues(func() (*description, error) {
	raw, err := openapi()
	if err != nil {
		return nil, err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", openapiPackage, err)
	}
	readable(doc)
	c := jsonschema.NewCompiler()
	// OpenAPI 3.0 has the schemas of draft 4's time.
	c.DefaultDraft(jsonschema.Draft4)
	if err := c.AddResource("openapi:///api", doc); err != nil {
		return nil, fmt.Errorf("read %s: %w", openapiPackage, err)
	}
	return &description{doc: doc.(map[string]any), compiler: c, compiled: map[string]*jsonschema.Schema{}}, nil
})

// openapi finds the description in the cache, or asks npm for it.
func openapi() ([]byte, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(cache, "snapfw-test", openapiFolder)
	file := filepath.Join(dir, "api.github.com.json")
	if raw, err := os.ReadFile(file); err == nil {
		return raw, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp(dir, "npm")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	cmd := exec.Command("npm", "pack", "--silent", openapiPackage)
	cmd.Dir = tmp
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("npm pack %s: %w: %s", openapiPackage, err, bytes.TrimSpace(out))
	}
	packed, err := filepath.Glob(filepath.Join(tmp, "*.tgz"))
	if err != nil || len(packed) != 1 {
		return nil, fmt.Errorf("npm pack %s left no package", openapiPackage)
	}
	raw, err := unpack(packed[0])
	if err != nil {
		return nil, err
	}
	whole := filepath.Join(tmp, "whole")
	if err := os.WriteFile(whole, raw, 0o644); err != nil {
		return nil, err
	}
	return raw, os.Rename(whole, file)
}

func unpack(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	for t := tar.NewReader(z); ; {
		h, err := t.Next()
		if err != nil {
			return nil, fmt.Errorf("find %s in %s: %w", openapiFile, openapiPackage, err)
		}
		if h.Name == openapiFile {
			return io.ReadAll(t)
		}
	}
}

// readable turns OpenAPI's "nullable" into what JSON Schema says for it, in place.
func readable(x any) {
	switch x := x.(type) {
	case []any:
		for _, e := range x {
			readable(e)
		}
	case map[string]any:
		for _, e := range x {
			readable(e)
		}
		if x["nullable"] != true {
			return
		}
		delete(x, "nullable")
		if t, ok := x["type"].(string); ok {
			x["type"] = []any{t, "null"}
		}
		if e, ok := x["enum"].([]any); ok && !slices.Contains(e, nil) {
			x["enum"] = append(slices.Clone(e), nil)
		}
		for _, k := range []string{"oneOf", "anyOf"} {
			if e, ok := x[k].([]any); ok {
				x[k] = append(slices.Clone(e), map[string]any{"type": "null"})
			}
		}
		if e, ok := x["allOf"].([]any); ok {
			delete(x, "allOf")
			x["anyOf"] = []any{map[string]any{"allOf": e}, map[string]any{"type": "null"}}
		}
	}
}

// at follows keys from the root, through references.
func (d *description) at(keys ...string) (map[string]any, string) {
	here, where := d.doc, "#"
	for _, k := range keys {
		next, ok := here[k].(map[string]any)
		if !ok {
			return nil, ""
		}
		here, where = next, where+"/"+escape(k)
		if ref, ok := here["$ref"].(string); ok {
			here, where = d.plain(ref), ref
		}
	}
	return here, where
}

func escape(k string) string {
	return url.PathEscape(strings.ReplaceAll(strings.ReplaceAll(k, "~", "~0"), "/", "~1"))
}

func unescape(k string) string {
	return strings.ReplaceAll(strings.ReplaceAll(k, "~1", "/"), "~0", "~")
}

// validate checks a value against the schema at a place of the description.
func (d *description) validate(where string, value any) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.compiled[where]
	if s == nil {
		var err error
		if s, err = d.compiler.Compile("openapi:///api" + where); err != nil {
			return fmt.Errorf("compile %s: %w", where, err)
		}
		d.compiled[where] = s
	}
	return s.Validate(value)
}

// request checks a request against an operation: every parameter and the body.
func (d *description) request(template, method string, vars map[string]string, r *http.Request, body []byte) error {
	op, _ := d.at("paths", template, strings.ToLower(method))
	if op == nil {
		return fmt.Errorf("there is no %s %s", method, template)
	}
	query := r.URL.Query()
	params, _ := op["parameters"].([]any)
	for i, raw := range params {
		param, where := raw.(map[string]any), fmt.Sprintf("#/paths/%s/%s/parameters/%d", escape(template), strings.ToLower(method), i)
		if ref, ok := param["$ref"].(string); ok {
			where = ref
			param = d.plain(ref)
		}
		name, _ := param["name"].(string)
		switch param["in"] {
		case "path":
			if err := d.text(where+"/schema", vars[name]); err != nil {
				return fmt.Errorf("path parameter %s: %w", name, err)
			}
		case "query":
			for _, v := range query[name] {
				if err := d.text(where+"/schema", v); err != nil {
					return fmt.Errorf("query parameter %s: %w", name, err)
				}
			}
			if param["required"] == true && !query.Has(name) {
				return fmt.Errorf("query parameter %s is missing", name)
			}
			query.Del(name)
		}
	}
	for name := range query {
		return fmt.Errorf("there is no query parameter %s", name)
	}
	return d.body(template, method, r, body)
}

func (d *description) body(template, method string, r *http.Request, body []byte) error {
	schema, where := d.at("paths", template, strings.ToLower(method), "requestBody", "content", "application/json", "schema")
	if schema == nil {
		if len(body) > 0 {
			return errors.New("it takes no body")
		}
		return nil
	}
	if t := r.Header.Get("Content-Type"); !strings.HasPrefix(t, "application/json") {
		return fmt.Errorf("the body is of type %q", t)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("read the body: %w", err)
	}
	if err := d.validate(where, value); err != nil {
		return fmt.Errorf("the body: %w", err)
	}
	// The description allows more properties than it names; the API ignores them, so they are mistakes.
	if props, ok := schema["properties"].(map[string]any); ok {
		for k := range value.(map[string]any) {
			if props[k] == nil {
				return fmt.Errorf("the body: there is no property %s", k)
			}
		}
	}
	return nil
}

// text checks a parameter, which is written as text whatever its type is.
func (d *description) text(where, value string) error {
	s := d.plain(where)
	var v any = value
	if s["type"] == "integer" {
		n, err := strconv.Atoi(value)
		if err != nil {
			return fmt.Errorf("%q is no number", value)
		}
		v = json.Number(strconv.Itoa(n))
	}
	return d.validate(where, v)
}

// plain follows a pointer that goes through arrays.
func (d *description) plain(where string) map[string]any {
	var here any = d.doc
	for k := range strings.SplitSeq(strings.TrimPrefix(where, "#/"), "/") {
		if u, err := url.PathUnescape(k); err == nil {
			k = unescape(u)
		}
		switch x := here.(type) {
		case map[string]any:
			here = x[k]
		case []any:
			i, err := strconv.Atoi(k)
			if err != nil || i >= len(x) {
				return nil
			}
			here = x[i]
		}
	}
	m, _ := here.(map[string]any)
	return m
}

// response checks an answer of the stand-in: what GitHub never says it must not say either.
func (d *description) response(template, method string, code int, body []byte) error {
	answers, _ := d.at("paths", template, strings.ToLower(method), "responses")
	key := strconv.Itoa(code)
	if answers[key] == nil {
		return fmt.Errorf("it never answers %d", code)
	}
	_, where := d.at("paths", template, strings.ToLower(method), "responses", key, "content", "application/json", "schema")
	if where == "" {
		if len(body) > 0 && code < 400 {
			return fmt.Errorf("%d has no body", code)
		}
		return nil // of an error without a schema nothing more is known
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	return d.validate(where, value)
}

// example is a copy of the description's own example of a kind of object.
func (d *description) example(name string) map[string]any {
	x, _ := d.at("components", "examples", name)
	raw, err := json.Marshal(x["value"])
	if err != nil {
		return nil
	}
	var copied map[string]any
	if json.Unmarshal(raw, &copied) != nil {
		return nil
	}
	return copied
}
