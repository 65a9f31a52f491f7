package config

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"

	"github.com/snapfw/snapfw/core"
)

// The schemas of two invented plugins with all that schemas are used for here.
const (
	driverSchema = `{
	"type": "object", "additionalProperties": false, "required": ["machines"],
	"properties": {
		"machines": {"type": "array", "minItems": 1, "description": "One machine a node.", "items": {"$ref": "#/$defs/machine"}},
		"mode": {"enum": ["full", "pruned"]},
		"how": {"oneOf": [{"type": "string"}, {"type": "object", "required": ["stop"], "properties": {"stop": {"type": "array"}}}]}
	},
	"$defs": {"machine": {
		"type": "object", "additionalProperties": false, "required": ["shard", "ip"],
		"properties": {
			"shard": {"type": "integer", "minimum": 0}, "ip": {"type": "string", "description": "Its address."},
			"password": {"$ref": "#/$defs/password"}
		}
	}, "password": {"x-secret": "reference", "type": "string", "pattern": "^(env|file|cmd):"}}
}`
	sinkSchema = `{
	"type": "object", "additionalProperties": false, "required": ["to"],
	"properties": {
		"to": {"type": "string"},
		"token": {"type": "string", "x-secret": "reference"},
		"config": {"type": "string", "x-secret": "file", "default": "store.conf"},
		"other": {"type": "string", "x-secret": "file"}
	}
}`
)

func describe(kind, name string) (core.Description, error) {
	switch kind + " " + name {
	case "chain demo":
		return core.Description{Name: name, Kind: kind, Schema: json.RawMessage(driverSchema)}, nil
	case "sink store":
		return core.Description{Name: name, Kind: kind, Schema: json.RawMessage(sinkSchema)}, nil
	}
	return core.Description{}, errors.New("there is no plugin of that name: see `snapfw plugin list`")
}

func TestCheck(t *testing.T) {
	f := mustLoad(t, `sinks:
  a: {plugin: store, to: x, tokn: y}
  b: {plugin: nosuch}
  c: {plugin: store, token: hunter2hunter2}
chains:
  demo:
    sink: a
    mode: half
    machnes: []
    how: {stpo: []}
  two:
    driver: demo
    sink: c
    machines:
    - shard: 0
      ip: 7
    - shard: "1"
      pasword: env:X
    - {shard: -1, ip: x, password: hunter2hunter2}
  three: {driver: gone, sink: a}
`)
	want := []string{
		`sinks.a.tokn: is not known here (did you mean "token"?); the keys are config, other, to, token, plugin (test.yaml:2)`,
		"sinks.b.plugin: there is no plugin of that name: see `snapfw plugin list` (test.yaml:3)",
		"sinks.c.to: is missing (test.yaml:4)",
		"sinks.c.token: is not a reference: write env:NAME, file:PATH or cmd:PROGRAM, not the secret itself (test.yaml:4)",
		"chains.demo.machines: is missing: One machine a node. (test.yaml:6)",
		"chains.demo.mode: value must be one of 'full', 'pruned' (test.yaml:8)",
		`chains.demo.machnes: is not known here (did you mean "machines"?); the keys are how, machines, mode, all_or_nothing, driver, grace, guard_lease, guard_margin, keep, limits, list_sink, max_downtime, review, sink, transfers, verify (test.yaml:9)`,
		"chains.demo.how: is a mapping: text is wanted (test.yaml:10)",
		"chains.two.machines[0].ip: is a number: text is wanted (test.yaml:16)",
		"chains.two.machines[1].ip: is missing: Its address. (test.yaml:17)",
		"chains.two.machines[1].shard: is text: a whole number is wanted (test.yaml:17)",
		`chains.two.machines[1].pasword: is not known here (did you mean "password"?); the keys are ip, password, shard (test.yaml:18)`,
		"chains.two.machines[2].password: is not a reference: write env:NAME, file:PATH or cmd:PROGRAM, not the secret itself (test.yaml:19)",
		"chains.two.machines[2].password: is not what the plugin takes (test.yaml:19)",
		"chains.two.machines[2].shard: minimum: got -1, want 0 (test.yaml:19)",
		"chains.three.driver: there is no plugin of that name: see `snapfw plugin list` (test.yaml:20)",
	}
	got := f.Check(describe)
	if diff := cmp.Diff(strings.Join(want, "\n"), got.Error()); diff != "" {
		t.Error(diff)
	}
	if got := f.Check(describe, "three"); len(got) != 2 || got[0].Field != "sinks.a.tokn" || got[1].Field != "chains.three.driver" {
		t.Errorf("one chain and its sink: %v", got)
	}
}

func TestCheckOfBadPlugins(t *testing.T) {
	f := mustLoad(t, small)
	for schema, want := range map[string]string{
		`{"properties": {"keep": {}}}`:         `chains.main: plugin "main" wants the key "keep", which is snapfw's own`,
		`{"$ref": "https://example.org/x"}`:    "only what is inside of it can be referred to",
		`{"$ref": "file:///etc/passwd"}`:       "only what is inside of it can be referred to",
		`{"type": "nosuch"}`:                   "can't be used",
		`[`:                                    "can't be used",
		`{"$defs":{"a":{"$ref":"#/$defs/a"}}}`: "",
	} {
		got := f.Check(func(kind, name string) (core.Description, error) {
			if kind == core.KindSink {
				return core.Description{}, nil
			}
			return core.Description{Schema: json.RawMessage(schema)}, nil
		})
		if want == "" && len(got) == 0 {
			continue
		}
		if len(got) != 1 || !strings.Contains(got[0].Error(), want) {
			t.Errorf("%s: %v, want %s", schema, got, want)
		}
	}
}

func TestPlace(t *testing.T) {
	f := mustLoad(t, "sinks: {s: }\nchains:\n  main:\n    machines:\n    - shard: 0\n    - ip: x\n\n      shard: 0\n")
	got := f.Place("main", core.FieldErrors{
		{Field: "machines[1].shard", Msg: "0 is already used by machines[0]"},
		{Field: "machines[0].ip", Msg: "is missing"},
		{Field: "machines[7].ip", Msg: "is odd"},
		{Field: "condition.role", Msg: "is missing"},
		{Field: "??", Msg: "is beyond words"},
	})
	want := strings.Join([]string{
		"chains.main.??: is beyond words (test.yaml:3)",
		"chains.main.condition.role: is missing (test.yaml:3)",
		"chains.main.machines[7].ip: is odd (test.yaml:4)",
		"chains.main.machines[0].ip: is missing (test.yaml:5)",
		"chains.main.machines[1].shard: 0 is already used by machines[0] (test.yaml:8)",
	}, "\n")
	if diff := cmp.Diff(want, got.Error()); diff != "" {
		t.Error(diff)
	}
}

const foreign = "{\n\t\"ssh_key\": {\"passphrase\": \"hunter2\"},\n\t\"machines\": [\n\t\t{\"shard\": 0},\n\t\t{\"shard\": 0}\n\t]\n}"

func TestImported(t *testing.T) {
	today := `{"ssh": {"key": "id", "passphrase": "literal:hunter2"}, "sinks": {"store": {"to": "x", "token": "literal:t0ken"}},
		"chains": {"demo": {"machines": [{"shard": 0, "ip": "a"}, {"shard": "0", "ip": "b"}]}}}`
	f, err := LoadImported(Options{Path: "old.json"}, []byte(today), []byte(foreign))
	if err != nil {
		t.Fatal(err)
	}
	if v, err := f.SSH.Passphrase.Reveal(t.Context()); err != nil || v != "hunter2" {
		t.Errorf("passphrase %q, %v", v, err)
	}
	if len(f.Warnings) != 1 || f.Warnings[0].Field != "ssh.passphrase" || strings.Contains(f.Warnings.Error(), "hunter2") {
		t.Errorf("warnings %v", f.Warnings)
	}
	got := append(f.Check(describe), f.Place("demo", core.FieldErrors{{Field: "machines[1].shard", Msg: "0 is already used"}})...)
	want := "machines[1].shard: is text: a whole number is wanted (old.json:5)\nmachines[1].shard: 0 is already used (old.json:5)"
	if got.Error() != want {
		t.Errorf("got\n%v\nwant\n%v", got, want)
	}
	values, err := f.Secrets(t.Context(), json.RawMessage(sinkSchema), f.Sinks["store"].Own)
	if err != nil || values["token"] != "t0ken" {
		t.Errorf("%v, %v", values, err)
	}
	placed := PlaceIn("old.json", []byte(foreign), core.FieldErrors{{Field: "ssh_key.path", Msg: "is missing"}})
	if placed.Error() != "ssh_key.path: is missing (old.json:2)" {
		t.Errorf("%v", placed)
	}
	if _, err := LoadBytes(Options{Path: "new.json"}, []byte(today)); err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "file:PATH") {
		t.Errorf("a literal in a file of today's form: %v", err)
	}
}

func TestConvert(t *testing.T) {
	today := `{"ssh": {"key": "~/id", "passphrase": "literal:hunter2"}, "sinks": {"bucket": {"to": "x:y", "n": 7, "s": "7", "yes": "yes", "plugin": "p"}},
		"notify": {"pagerduty": {"routing_key": "literal:abcdef"}, "urls": ["literal:discord://a@b", {"url": "literal:slack://c", "on": ["refused"]}]},
		"chains": {"demo": {"machines": [{"shard": 0, "ip": "a"}, {"shard": 1}], "none": null, "flag": true, "keep": {"count": 3}}}}`
	got, err := Convert([]byte(today))
	if err != nil {
		t.Fatal(err)
	}
	want := "# Written by `snapfw config convert`; docs/configuration.md explains every key.\n" +
		"# The old file held secrets. They are not in this one: see the comments below.\n" + `
ssh:
  key: ~/id
  passphrase: env:SSH_PASSPHRASE # put the old file's value into the environment as SSH_PASSPHRASE, or into a file (chmod 600): file:PATH

sinks:
  bucket:
    plugin: p
    to: x:y
    n: 7
    s: "7"
    yes: "yes"

chains:
  demo:
    keep:
      count: 3
    machines:
      - shard: 0
        ip: a
      - shard: 1
    none: null
    flag: true

notify:
  pagerduty:
    routing_key: env:PAGERDUTY_ROUTING_KEY # put the old file's value into the environment as PAGERDUTY_ROUTING_KEY, or into a file (chmod 600): file:PATH
  urls:
    - env:URLS_0 # put the old file's value into the environment as URLS_0, or into a file (chmod 600): file:PATH
    - url: env:URLS_1_URL # put the old file's value into the environment as URLS_1_URL, or into a file (chmod 600): file:PATH
      on:
        - refused
`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
	a, err := LoadImported(Options{Path: "x"}, []byte(today), nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := LoadBytes(Options{Path: "x"}, got)
	if err != nil {
		t.Fatal(err)
	}
	raw := cmp.Comparer(func(a, b json.RawMessage) bool { return string(a) == string(b) })
	if diff := cmp.Diff(a.Chains, b.Chains, raw, sameSecret); diff != "" {
		t.Error(diff)
	}
	literal := []URL{{Secret: Literal("discord://a@b")}, {Secret: Literal("slack://c"), On: []string{"refused"}}}
	reference := []URL{{Secret: keep(source{"env:URLS_0", b.dir})}, {Secret: keep(source{"env:URLS_1_URL", b.dir}), On: []string{"refused"}}}
	if diff := cmp.Diff(literal, a.Notify.URLs, sameSecret) + cmp.Diff(reference, b.Notify.URLs, sameSecret); diff != "" {
		t.Error(diff)
	}
	if _, err := Convert([]byte("{")); err == nil {
		t.Error("broken JSON is converted")
	}
}

func TestPluginSecrets(t *testing.T) {
	dir := t.TempDir()
	f, err := LoadBytes(Options{Path: filepath.Join(dir, "x.yaml")}, []byte(small))
	if err != nil {
		t.Fatal(err)
	}
	resolve := func(schema, own string) (map[string]string, error) {
		return f.Secrets(t.Context(), json.RawMessage(schema), json.RawMessage(own))
	}
	if got, err := resolve(sinkSchema, `{"to": "x"}`); err != nil || len(got) != 0 {
		t.Errorf("a default that is not there: %v, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "store.conf"), []byte("[a]\nb = c\n\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SNAPFW_TEST_TOKEN", "t0ken")
	got, err := resolve(sinkSchema, `{"to": "x", "token": "env:SNAPFW_TEST_TOKEN"}`)
	if diff := cmp.Diff(map[string]string{"token": "t0ken", "config": "[a]\nb = c\n\n"}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if _, err := resolve(sinkSchema, `{"other": "absent"}`); !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(err.Error(), "other: ") {
		t.Errorf("a file that is named and not there: %v", err)
	}
	if _, err := resolve(sinkSchema, `{"token": "hunter2hunter2"}`); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("no reference: %v", err)
	}
	got, err = resolve(driverSchema, `{"machines": [{}, {"password": "env:SNAPFW_TEST_TOKEN"}]}`)
	if diff := cmp.Diff(map[string]string{"machines[1].password": "t0ken"}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	endless := `{"properties": {"a": {"$ref": "#"}}, "allOf": [{"$ref": "#"}]}`
	if got, err := resolve(endless, `{"a": {"a": {"a": 1}}}`); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestSchema(t *testing.T) {
	d, _ := describe("chain", "demo")
	s, _ := describe("sink", "store")
	text, err := Schema([]core.Description{d, s})
	if err != nil {
		t.Fatal(err)
	}
	var doc any
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(noLoader{})
	if err := c.AddResource("urn:test", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("urn:test")
	if err != nil {
		t.Fatal(err)
	}
	for config, ok := range map[string]bool{
		`chains: {demo: {machines: [{shard: 0, ip: x}], max_downtime: 5m, verify: full}}`:                  true,
		`chains: {other: {driver: demo, machines: [{shard: 0, ip: x}], keep: {age: 8w}}}`:                  true,
		`chains: {demo: {machines: [{shard: 0, ip: x}], limits: {upload_rate: 50MiB}}}`:                    true,
		"sinks: {store: {to: x}}\nchains: {x: {driver: unknown, any: thing}}":                              true,
		`{ssh: {connect_timeout: 0, passphrase: "env:X"}, chains: {x: {driver: unknown}}}`:                 true,
		"notify: {urls: ['discord://a@b'], on: [done]}\nchains: {x: {driver: unknown}}":                    true,
		"notify: {urls: [{url: 'env:X', on: [done]}, {url: 'slack://x'}]}\nchains: {x: {driver: unknown}}": true,
		"notify: {urls: [{on: [done]}]}\nchains: {x: {driver: unknown}}":                                   false,
		"notify: {urls: [{url: 'env:X', on: [dead]}]}\nchains: {x: {driver: unknown}}":                     false,
		"notify: {urls: [{url: 'env:X', on: []}]}\nchains: {x: {driver: unknown}}":                         false,
		"notify: {urls: [{url: t0ken}]}\nchains: {x: {driver: unknown}}":                                   false,
		"notify: {urls: [{url: 'env:X', onn: [done]}]}\nchains: {x: {driver: unknown}}":                    false,
		`sinks: {}`: false, // no chains
		`chains: {demo: {machines: [{shard: x}]}}`:                         false, // the driver's part, by name
		`chains: {other: {driver: demo, machines: []}}`:                    false, // and by key
		`chains: {other: {machines: []}}`:                                  false, // no plugin of that name
		`chains: {demo: {machines: [{shard: 0, ip: x}], max_downtime: 5}}`: false,
		`chains: {demo: {machines: [{shard: 0, ip: x}], nosuch: 5}}`:       false,
		`chains: {x: {driver: unknown, keep: {cuont: 5}}}`:                 false,
		"sinks: {store: {too: x}}\nchains: {x: {driver: unknown}}":         false,
		"shh: {}\nchains: {x: {driver: unknown}}":                          false,
		"ssh: {passphrase: hunter2}\nchains: {x: {driver: unknown}}":       false,
	} {
		var v any
		if err := yaml.Unmarshal([]byte(config), &v); err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(value); (err == nil) != ok {
			t.Errorf("%s: %v", config, err)
		}
	}
}

// TestExample loads the example of docs/configuration.md and checks it against the schemas of our own plugins.
func TestExample(t *testing.T) {
	f, err := Load(Options{Path: "../../../docs/testnet.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	if problems := f.Check(ours); len(problems) > 0 {
		t.Error(problems)
	}
	var all []core.Description
	for name, kind := range map[string]string{"harmony": core.KindChain, "rclone": core.KindSink} {
		d, err := ours(kind, name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, d)
	}
	text, err := Schema(all)
	if err != nil {
		t.Fatal(err)
	}
	published, err := compile(text)
	if err != nil {
		t.Fatal(err)
	}
	d := decoder{}
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(string(d.toJSON("", f.root, nil))))
	if err != nil {
		t.Fatal(err)
	}
	if err := published.Validate(value); err != nil {
		t.Error(err)
	}
}

// ours describes our own plugins by the schemas in their folders.
func ours(kind, name string) (core.Description, error) {
	dir := map[string]string{core.KindChain: "drivers", core.KindSink: "sinks"}[kind]
	schema, err := os.ReadFile(filepath.Join("../../..", dir, name, "schema.json"))
	return core.Description{Name: name, Kind: kind, Schema: schema}, err
}
