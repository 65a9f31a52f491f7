package main

import (
	"bytes"
	"context"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/snapfw/snapfw/core"
)

var ctx = context.Background()

// TestCatalogOfTheCorpus: what was really published is written again byte for byte.
func TestCatalogOfTheCorpus(t *testing.T) {
	for _, name := range corpusLists(t) {
		body, err := os.ReadFile(corpus(t, name))
		if err != nil {
			t.Fatal(err)
		}
		list := readCorpus(t, name)
		slices.Reverse(list)
		got, err := catalog{}.Render(ctx, list)
		if err != nil || !bytes.Equal(got, body) {
			t.Errorf("%s: %d entries give other bytes: %v", name, len(list), err)
		}
	}
}

const hash1, hash2 = "49fd79689b9cc4e5dc7ce7b2b72f2f9bf3c668b7", "0113ec56c7c0d72783dbb5738becffa9c4c43d69"

func TestCatalogRender(t *testing.T) {
	got, err := catalog{}.Render(ctx, []core.Entry{
		{Name: "salt-state.txt", Sums: map[string]string{infohash: hash2}},
		{Name: "domain/v1.1-accounts.256-512.kv", Sums: map[string]string{infohash: hash2}},
		{Name: "domain/v1.1-accounts.2304-2560.kv", Sums: map[string]string{infohash: hash1}},
		{Name: "erigondb.toml", Sums: map[string]string{infohash: hash1}},
	})
	want := "'domain/v1.1-accounts.2304-2560.kv' = '" + hash1 + "'\n'domain/v1.1-accounts.256-512.kv' = '" + hash2 + "'\n" +
		"'erigondb.toml' = '" + hash1 + "'\n'salt-state.txt' = '" + hash2 + "'\n\n"
	if err != nil || string(got) != want {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := (catalog{}).Render(ctx, nil); err != nil || string(got) != "\n" {
		t.Errorf("no entries give %q, %v", got, err)
	}
	for name, list := range map[string][]core.Entry{
		"twice":    {{Name: "salt-state.txt", Sums: map[string]string{infohash: hash1}}, {Name: "salt-state.txt", Sums: map[string]string{infohash: hash1}}},
		"no hash":  {{Name: "salt-state.txt"}},
		"capitals": {{Name: "salt-state.txt", Sums: map[string]string{infohash: strings.ToUpper(hash1)}}},
		"foreign":  {{Name: "manifest.txt", Sums: map[string]string{infohash: hash1}}},
		"torrent":  {{Name: "salt-state.txt.torrent", Sums: map[string]string{infohash: hash1}}},
		"leaves":   {{Name: "../salt-state.txt", Sums: map[string]string{infohash: hash1}}},
	} {
		if got, err := (catalog{}).Render(ctx, list); err == nil {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

func TestCatalogParse(t *testing.T) {
	want := []core.Entry{{Name: "salt-state.txt", Sums: map[string]string{infohash: hash1}}, {Name: "notes.txt", Sums: map[string]string{infohash: hash2}}}
	for _, body := range []string{
		"'salt-state.txt' = '" + hash1 + "'\n'notes.txt' = '" + hash2 + "'\n\n",
		"# by hand\r\n\"salt-state.txt\"=\"" + hash1 + "\"\r\n  'notes.txt'\t= '" + hash2 + "' # odd",
	} {
		got, err := catalog{}.Parse(ctx, []byte(body))
		if err != nil || len(got) != 2 || got[0].Name != want[0].Name || got[1].Name != want[1].Name ||
			got[0].Sums[infohash] != hash1 || got[1].Sums[infohash] != hash2 {
			t.Errorf("%q: got %v, %v", body, got, err)
		}
	}
	for _, empty := range []string{"", "\n", "# nothing yet\n"} {
		if got, err := (catalog{}).Parse(ctx, []byte(empty)); err != nil || len(got) != 0 {
			t.Errorf("%q: got %v, %v", empty, got, err)
		}
	}
	good := "'a.txt' = '" + hash1 + "'\n"
	for body, says := range map[string]string{
		"\x00\xff no list":                            "line 1",
		good + "404 Not Found":                        "line 2",
		"<html>":                                      "line 1",
		good + "'b.txt' = '" + hash1:                  "line 2",
		good + "'b.txt' '" + hash1 + "'":              "line 2",
		good + "b.txt = '" + hash1 + "'":              "line 2",
		good + "'b.txt' = '" + hash1 + "' x":          "line 2",
		good + "[table]":                              "line 2",
		good + good:                                   "on line 1 already",
		"'../x' = '" + hash1 + "'":                    "joined to a folder",
		"'/etc/passwd' = '" + hash1 + "'":             "joined to a folder",
		"'a\x00b' = '" + hash1 + "'":                  "joined to a folder",
		`"a\u002e" = "` + hash1 + `"`:                 "joined to a folder",
		"'' = '" + hash1 + "'":                        "joined to a folder",
		"'a' = '" + hash1[1:] + "'":                   "no infohash",
		"'a' = '" + strings.ToUpper(hash1) + "'":      "no infohash",
		"'a' = ''":                                    "no infohash",
		"'" + strings.Repeat("a", maxLine) + "' = ''": "bytes, more than",
	} {
		got, err := catalog{}.Parse(ctx, []byte(body))
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%.80q: got %v, %v; want an error with %q", body, got, err, says)
		}
		if err != nil && len(err.Error()) > 400 {
			t.Errorf("%.80q: an error of %d bytes", body, len(err.Error()))
		}
	}
}

// TestCatalogGigabyteLine: neither one huge line nor a huge list takes memory of its own.
func TestCatalogGigabyteLine(t *testing.T) {
	huge := bytes.Repeat([]byte("a"), maxList+1)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, body := range [][]byte{huge, huge[:maxList]} {
		if _, err := (catalog{}).Parse(ctx, body); err == nil || len(err.Error()) > 200 {
			t.Errorf("%d bytes: %v", len(body), err)
		}
	}
	runtime.ReadMemStats(&after)
	if grew := after.TotalAlloc - before.TotalAlloc; grew > 1<<20 {
		t.Errorf("it took %d bytes", grew)
	}
}

func FuzzCatalog(f *testing.F) {
	f.Add([]byte("'salt-state.txt' = '" + hash1 + "'\n\n"))
	f.Add([]byte("\"a\" = \"" + hash1 + "\"\r\n# c\n'b'='" + hash2 + "'"))
	f.Add([]byte("'..' = ''"))
	f.Fuzz(func(t *testing.T, body []byte) {
		list, err := catalog{}.Parse(ctx, body)
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, e := range list {
			if !safeName(e.Name) || !isInfohash(e.Sums[infohash]) || seen[e.Name] {
				t.Fatalf("%q: it lets %+v through", body, e)
			}
			seen[e.Name] = true
		}
		text, err := catalog{}.Render(ctx, list)
		if err != nil {
			return // a name that is read but never published
		}
		again, err := catalog{}.Parse(ctx, text)
		if err != nil || len(again) != len(list) {
			t.Fatalf("%q: rendered as %q: %v", body, text, err)
		}
	})
}
