package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/snapfw/snapfw/core"
)

func TestNodesWaves(t *testing.T) {
	nodes, err := newDriver().Nodes(context.Background(), json.RawMessage(`{"machines":[
		{"shard":10,"ip":"h10","db_directory":"/d"},{"shard":2,"ip":"h2","port":2222,"user":"u","db_directory":"/d"},
		{"shard":0,"local":true,"db_directory":"~/d","rpc_port":9510}]}`))
	if err != nil {
		t.Fatal(err)
	}
	type row struct {
		Name string
		Wave int
		Addr core.Addr
	}
	var got []row
	for _, n := range nodes {
		got = append(got, row{n.Name, n.Wave, n.Addr})
	}
	want := []row{{"shard0", 0, core.Addr{}}, {"shard2", 1, core.Addr{User: "u", Host: "h2", Port: 2222}},
		{"shard10", 1, core.Addr{Host: "h10", Port: 22}}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	s, err := readSpec(nodes[0])
	if err != nil || s.RPCPort != 9510 || s.Run.Service != "harmony.service" || s.database() != "~/d/harmony_db_0" {
		t.Errorf("spec %+v, %v", s, err)
	}
}

func TestNodesRefuses(t *testing.T) {
	const ok = `{"shard":0,"ip":"a","db_directory":"/d"}`
	for _, c := range []struct{ in, want string }{
		{`{}`, "machines: is missing"},
		{`[]`, ": is a list: an object was expected"},
		{`{"machines":[` + ok + `,{"shard":1,"ip":"b","db_directory":"/d"},{"shard":0,"ip":"c","db_directory":"/d"}]}`,
			"machines[2].shard: 0 is already used by machines[0]"},
		{`{"machines":[{"shard":1,"ip":"b","db_directory":"/d"}]}`, "machines: none is of shard 0"},
		{`{"machines":[]}`, "machines: none is of shard 0"},
		{`{"machines":[{"shard":"0","ip":"b","db_directory":"/d"}]}`, "machines[0].shard: is a string: a whole number"},
		{`{"machines":[{"shard":-1,"ip":"b","db_directory":"/d"}]}`, "machines[0].shard: is -1"},
		{`{"machines":[{"shard":0.5,"ip":"b","db_directory":"/d"}]}`, "machines[0].shard: is the number 0.5"},
		{`{"machines":[{"shard":0,"db_directory":"/d"}]}`, "machines[0].ip: is missing"},
		{`{"machines":[{"shard":0,"ip":"-oProxyCommand=x","db_directory":"/d"}]}`, "machines[0].ip: "},
		{`{"machines":[{"shard":0,"local":true,"ip":"b","db_directory":"/d"}]}`, "machines[0].ip: means nothing on this machine"},
		{`{"machines":[{"shard":0,"ip":"b"}]}`, "machines[0].db_directory: is missing"},
		{`{"machines":[{"shard":0,"ip":"b","db_directory":"d"}]}`, `machines[0].db_directory: "d" is no absolute path`},
		{`{"machines":[{"shard":0,"ip":"b","db_directory":"/d","dbdir":1}]}`, "machines[0].dbdir: is not known here"},
		{`{"machines":[{"shard":0,"ip":"b","db_directory":"/d","service":"a","container":"b"}]}`, "machines[0].container: can't stand beside service"},
		{`{"machines":[{"shard":0,"ip":"b","db_directory":"/d","commands":{"stop":["x"],"start":["/y"],"log":"/z"}}]}`,
			`machines[0].commands.stop[0]: "x" is no absolute path`},
		{`{"machines":[{"shard":0,"ip":"b","db_directory":"/d","commands":{"stop":["/x"],"start":[]}}]}`, "machines[0].commands.log: is missing"},
		{`{"machines":[{"shard":0,"ip":"b","db_directory":"/d","stop_timeout":"1"}]}`, "machines[0].stop_timeout: is \"1\""},
		{`{"machines":[` + ok + `],"condition":{"is_leader":"maybe"}}`, `condition.is_leader: is "maybe"`},
		{`{"machines":[` + ok + `],"condition":{"max_seconds_since_last_block":0}}`, "condition.max_seconds_since_last_block: is 0"},
		{`{"machines":[` + ok + `],"condition":{"rol":"x"}}`, "condition.rol: is not known here"},
		{`{"machines":[` + ok + `],"conditon":{}}`, "conditon: is not known here"},
	} {
		_, err := newDriver().Nodes(context.Background(), json.RawMessage(c.in))
		var fe core.FieldErrors
		if !errors.As(err, &fe) {
			t.Errorf("%s: error %v is no FieldErrors", c.in, err)
			continue
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s:\n got %s\nwant %s", c.in, err, c.want)
		}
	}
}

// TestSchema sees that the published schema and the decoder agree.
func TestSchema(t *testing.T) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	sch, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	for in, ok := range map[string]bool{
		`{"machines":[{"shard":0,"ip":"a","user":"u","port":22,"db_directory":"/d","rpc_port":9500,"service":"s","stop_timeout":"5m","owner":"o"}],
		  "condition":{"force":false,"max_seconds_since_last_block":60,"role":"Validator","network":"testnet","is_leader":"false","is_archival":true,"is_snapdb":"True"}}`: true,
		`{"machines":[{"shard":0,"local":true,"db_directory":"/d","commands":{"stop":["/x"],"start":["/y"],"log":"/z"}}]}`: true,
		`{"machines":[{"shard":0,"local":true,"db_directory":"/d","container":"c"}]}`:                                      true,
		`{"machines":[{"shard":0,"ip":"a","db_directory":"/d","nope":1}]}`:                                                 false,
		`{"machines":[{"shard":"0","ip":"a","db_directory":"/d"}]}`:                                                        false,
		`{"machines":[{"shard":0,"ip":"a","db_directory":"/d"}],"condition":{"is_leader":"maybe"}}`:                        false,
		`{"machines":[{"shard":0,"ip":"a","db_directory":"/d","commands":{"stop":[],"start":["/y"],"log":"/z"}}]}`:         false,
	} {
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(in))
		if err != nil {
			t.Fatal(err)
		}
		if err := sch.Validate(v); (err == nil) != ok {
			t.Errorf("schema on %s: %v", in, err)
		}
		if _, err := readConfig(json.RawMessage(in)); (err == nil) != ok {
			t.Errorf("decoder on %s: %v", in, err)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"machines":[{"shard":0,"ip":"a","db_directory":"/d"}],"condition":{"is_leader":"true"}}`))
	f.Add([]byte(`{"machines":[null,1,{"commands":{"stop":[{}]}}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := readConfig(b)
		if err != nil {
			return
		}
		nodes, err := c.nodes()
		if err != nil || len(nodes) == 0 || nodes[0].Wave != 0 {
			t.Fatalf("%s: nodes %v, %v", b, nodes, err)
		}
	})
}
