package main

import (
	"bytes"
	"strings"
	"testing"
	"text/tabwriter"
)

func TestTable(t *testing.T) {
	out := []byte(`goos: linux
BenchmarkX/link/512-2         	       3	        19.00 bare-µs	        22.50 µs/file
    x_test.go:7: SKIPPED: no such disk
BenchmarkX/no-cpus	       1	       104 MiB
PASS
`)
	g := group{name: "x", args: []string{"-bench", "X$/^link$"}, env: []string{"N=1"}, figures: []figure{
		{what: "take", bench: "BenchmarkX/link/512", unit: "µs/file", show: "µs/file", aim: 20, atMost: true},
		{what: "bare", bench: "BenchmarkX/link/512", unit: "bare-µs", show: "µs/file", beside: "µs/file"},
		{what: "memory", bench: "BenchmarkX/no-cpus", unit: "MiB", show: "MiB"},
		{what: "clone", bench: "BenchmarkX/clone", unit: "µs/file", show: "µs/file"},
	}}
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	g.print(w, metrics(out), skipped(out))
	w.Flush()
	for _, want := range []string{
		"N=1 go test -run - -bench 'X$/^link$'",
		"take 22.5 µs/file at most 20 µs/file 1.12 of it",
		"bare 19 µs/file 0.84 times that above",
		"memory 104 MiB",
		"clone skipped: no such disk",
	} {
		if !strings.Contains(strings.Join(strings.Fields(b.String()), " "), want) {
			t.Errorf("the table has no %q:\n%s", want, b.String())
		}
	}
}

// Every figure's benchmark has to be one that its group runs.
func TestGroups(t *testing.T) {
	seen := map[string]bool{}
	for _, g := range groups {
		if seen[g.name] {
			t.Errorf("two groups are called %s", g.name)
		}
		seen[g.name] = true
		pattern := strings.Trim(strings.Split(g.args[1], "/")[0], "^$")
		for _, f := range g.figures {
			if !strings.Contains(f.bench, pattern) {
				t.Errorf("%s: %s is not matched by %s", g.name, f.bench, g.args[1])
			}
		}
	}
}
