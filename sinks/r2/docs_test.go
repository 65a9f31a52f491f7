package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// TestDocsNameEveryKey keeps the section of docs/configuration.md whole.
func TestDocsNameEveryKey(t *testing.T) {
	text, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	body, err := os.ReadFile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Properties map[string]json.RawMessage
	}
	if err := json.Unmarshal(body, &schema); err != nil {
		t.Fatal(err)
	}
	_, docs, found := strings.Cut(string(text), "### `plugin: r2`")
	docs, _, _ = strings.Cut(docs, "\n## ")
	if !found || len(schema.Properties) == 0 {
		t.Fatal("the section, or the schema, is gone")
	}
	for key := range schema.Properties {
		if !strings.Contains(docs, "`"+key+"`") {
			t.Errorf("%s is not in docs/configuration.md", key)
		}
	}
}
