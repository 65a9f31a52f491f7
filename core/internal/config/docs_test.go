package config

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// TestDocsNameEveryKey keeps docs/configuration.md whole.
func TestDocsNameEveryKey(t *testing.T) {
	text, err := os.ReadFile("../../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	docs := string(text)
	var walk func(rt reflect.Type, prefix string)
	walk = func(rt reflect.Type, prefix string) {
		if rt.Kind() == reflect.Map { // entries have a section of their own
			rt, prefix = rt.Elem(), ""
		}
		if rt.Kind() == reflect.Pointer {
			rt = rt.Elem()
		}
		if rt.Kind() != reflect.Struct || rt == secretType || rt == reflect.TypeFor[Verify]() {
			return
		}
		byKey, _ := keys(rt)
		for key, i := range byKey {
			inner := rt.Field(i).Type
			if inner.Kind() != reflect.Struct || inner == secretType || inner == reflect.TypeFor[Verify]() {
				if inner.Kind() != reflect.Pointer && !strings.Contains(docs, "`"+prefix+key+"`") {
					t.Errorf("%s%s is not in docs/configuration.md", prefix, key)
				}
			}
			next := prefix + key + "."
			if key == "ssh" || key == "notify" { // sections of their own
				next = ""
			}
			walk(inner, next)
		}
	}
	walk(reflect.TypeFor[File](), "")
	for _, key := range keyNames(reflect.TypeFor[urlEntry]()) {
		if !strings.Contains(docs, "`urls[]."+key+"`") {
			t.Errorf("urls[].%s is not in docs/configuration.md", key)
		}
	}
	for _, s := range Settings {
		if !strings.Contains(docs, "`--"+s.Flag+"`") || !strings.Contains(docs, "`"+s.Env+"`") {
			t.Errorf("%s or --%s is not in docs/configuration.md", s.Env, s.Flag)
		}
	}
	for _, e := range Events {
		if !strings.Contains(docs, "| `"+e+"` |") {
			t.Errorf("event %s is not in docs/configuration.md", e)
		}
	}
}

// TestDocsExample loads the piece of YAML that the page shows.
func TestDocsExample(t *testing.T) {
	text, err := os.ReadFile("../../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile(`(?m)^    notify:\n(?:    .*\n)+`).FindString(string(text))
	if block == "" {
		t.Fatal("the example is gone")
	}
	var check yaml.Node
	if err := yaml.Unmarshal([]byte(block), &check); err != nil {
		t.Fatal(err)
	}
	f := mustLoad(t, small+regexp.MustCompile(`(?m)^    `).ReplaceAllString(block, ""))
	if n := f.Notify; len(n.URLs) != 4 || len(n.On) != 4 || n.URLs[0].On != nil || !slices.Equal(n.URLs[2].On, []string{"refused", "parked", "failed"}) {
		t.Errorf("%+v", f.Notify)
	}
}
