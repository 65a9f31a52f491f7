package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"
)

// What does not fit one page is listed folder by folder, and each object once.
func TestListOfManyFolders(t *testing.T) {
	t.Parallel()
	s := newSite(t, "folders")
	want := map[string]int{}
	for folder, n := range map[string]int{"": 30, "accessor": 1200, "domain": 700, "domain/deep": 5, "idx": 1000} {
		if err := os.MkdirAll(filepath.Join(s.Dir, folder), 0o755); err != nil {
			t.Fatal(err)
		}
		for i := range n {
			key := filepath.Join(folder, fmt.Sprintf("v1.1-%06d.seg", i))
			want[key]++
			if err := os.WriteFile(filepath.Join(s.Dir, key), []byte("x"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for prefix, n := range map[string]int{"": 2935, "domain/": 705, "accessor/v": 1200, "a": 1200, "idx/v1.1-00000": 10, "nothing": 0} {
		got := map[string]int{}
		for o, err := range newSink().List(t.Context(), s.Target(nil), prefix) {
			if err != nil {
				t.Fatal(err)
			}
			if got[o.Key]++; o.Size != 1 || want[o.Key] != 1 {
				t.Errorf("%q lists %+v", prefix, o)
			}
		}
		if len(got) != n || prefix == "" && !maps.Equal(got, want) {
			t.Errorf("%q: %d keys, want %d", prefix, len(got), n)
		}
	}
	seen := 0
	for range newSink().List(t.Context(), s.Target(nil), "") { // who has enough gets no more
		if seen++; seen == 1500 {
			break
		}
	}
}
