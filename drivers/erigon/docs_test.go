package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/snapfw/snapfw/core"
)

// TestDocsNameEveryKey keeps docs/configuration.md and the table of repairs whole.
func TestDocsNameEveryKey(t *testing.T) {
	text, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, docs, _ := strings.Cut(string(text), "### `driver: erigon`")
	docs, _, _ = strings.Cut(docs, "\n## ")
	type object struct {
		Properties map[string]json.RawMessage
	}
	var walk func(prefix string, raw json.RawMessage)
	walk = func(prefix string, raw json.RawMessage) {
		var o object
		if err := json.Unmarshal(raw, &o); err != nil {
			t.Fatal(err)
		}
		if len(o.Properties) == 0 && !strings.Contains(docs, "`"+prefix+"`") {
			t.Errorf("%s is not in docs/configuration.md", prefix)
		}
		for key, inner := range o.Properties {
			walk(strings.TrimPrefix(prefix+"."+key, "."), inner)
		}
	}
	walk("", schema())

	repairs, err := os.ReadFile("../../docs/erigon.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range intents() {
		if !strings.Contains(string(repairs), "`"+in.Name) && !strings.Contains(string(repairs), " "+in.Name+" ") {
			t.Errorf("%s is not in docs/erigon.md", in.Name)
		}
	}
}

// TestExampleConfiguration reads the chains of the example as snapfw gives them to the driver.
func TestExampleConfiguration(t *testing.T) {
	body, err := os.ReadFile("../../examples/erigon/snapfw.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Chains map[string]map[string]any
	}
	if err := yaml.Unmarshal(body, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Chains) != 2 {
		t.Fatalf("%d chains", len(file.Chains))
	}
	for name, chain := range file.Chains {
		for _, key := range []string{"driver", "sink", "list_sink", "grace", "review"} { // core's own
			delete(chain, key)
		}
		config, err := json.Marshal(chain)
		if err != nil {
			t.Fatal(err)
		}
		nodes, err := driver{}.Nodes(t.Context(), config)
		if err != nil || len(nodes) != 1 || nodes[0].Addr == (core.Addr{}) {
			t.Errorf("%s: %+v %v", name, nodes, err)
		}
	}
}
