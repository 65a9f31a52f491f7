package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/snapfw/snapfw/core"
)

func TestImportGolden(t *testing.T) {
	for _, name := range []string{"foreign", "foreign-agent"} {
		in, err := os.ReadFile("testdata/" + name + ".json")
		if err != nil {
			t.Fatal(err)
		}
		out, err := newDriver().Import(context.Background(), in)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name+".golden", out)
		var file struct {
			Chains map[string]struct{ Machines, Condition json.RawMessage }
		}
		if err := json.Unmarshal(out, &file); err != nil {
			t.Fatal(err)
		}
		part, err := json.Marshal(map[string]json.RawMessage{
			"machines": file.Chains["harmony"].Machines, "condition": file.Chains["harmony"].Condition})
		if err != nil {
			t.Fatal(err)
		}
		if nodes, err := newDriver().Nodes(context.Background(), part); err != nil || len(nodes) != 2 {
			t.Errorf("%s: nodes of the imported form: %v, %v", name, nodes, err)
		}
	}
}

func TestImportRefuses(t *testing.T) {
	whole, err := os.ReadFile("testdata/foreign.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range []string{"", "chains:\n  harmony: {}\n", "[]", "null", `{"chains":{}}`, `{"machines":[],"condition":{}}`} {
		if _, err := newDriver().Import(context.Background(), []byte(in)); !errors.Is(err, core.ErrForeign) {
			t.Errorf("%q: %v", in, err)
		}
	}
	for _, c := range []struct{ old, new, want string }{
		{`"shard": 1`, `"shard": 0`, "machines[1].shard: 0 is already used by machines[0]"},
		{`"shard": 1`, `"shard": "1"`, "machines[1].shard: is a string"},
		{`"snapshot_bin"`, `"snapshot_bn"`, "rsync.snapshot_bn: is not known here"},
		{`"condition": {`, `"condtion": {}, "condition": {`, "condtion: is not known here"},
		{`"service_key_v1": "0123456789abcdef0123456789abcdef"`, `"service_key_v1": null`, "pager_duty.service_key_v1: is missing"},
		{`"path": "~/.ssh/snapshot.pem"`, `"path": null`, "ssh_key.path: is missing"},
	} {
		in := strings.Replace(string(whole), c.old, c.new, 1)
		if in == string(whole) {
			t.Fatalf("%s is not in the file", c.old)
		}
		_, err := newDriver().Import(context.Background(), []byte(in))
		var fe core.FieldErrors
		if !errors.As(err, &fe) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", c.new, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "open sesame") {
			t.Errorf("the error tells the passphrase: %v", err)
		}
	}
}

func FuzzImport(f *testing.F) {
	whole, err := os.ReadFile("testdata/foreign.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte(`{"ssh_key":1,"machines":2,"rsync":[],"condition":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := newDriver().Import(context.Background(), b)
		if err == nil && !json.Valid(out) {
			t.Fatalf("%q becomes %q", b, out)
		}
	})
}
