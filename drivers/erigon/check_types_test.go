package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestCheckEveryTypeMatters takes each type of a healthy chain away as a whole, its indexes, too: nothing of it is left whose
// range could show a gap. What publishable takes for legal is warned of: rcache, beacon blocks, blobs, and the tables of caplin as a whole.
func TestCheckEveryTypeMatters(t *testing.T) {
	without := func(gone func(fileName) bool) (all []checkFinding) {
		files := healthy()
		maps.DeleteFunc(files, func(name string, _ checkFile) bool {
			data, _, isTorrent := torrentOf(name)
			if isTorrent {
				name = data
			}
			f, err := parseName(name)
			return err == nil && gone(f)
		})
		return checkAll(files)
	}
	says := func(all []checkFinding, level severity, what string) bool {
		return slices.ContainsFunc(all, func(f checkFinding) bool {
			return f.Severity == level && (strings.Contains(f.Text, what) || strings.Contains(f.File, what))
		})
	}
	types := map[[2]string]bool{}
	for name := range healthy() {
		if f, err := parseName(name); err == nil && f.ranged() && !retiredTables[f.Type] {
			if _, isIndex := dataOf(f.series()); !isIndex {
				types[[2]string{f.Dir, f.Type}] = true
			}
		}
	}
	if len(types) < 3+2+len(knownTables)+6+6+10 {
		t.Fatalf("only %d types are tried", len(types))
	}
	for typ := range types {
		dir, typ := typ[0], typ[1]
		of := func(f fileName) bool {
			data := f.series()
			if d, isIndex := dataOf(data); isIndex {
				data = d
			}
			return data.Dir == dir && data.Type == typ
		}
		level, what := severityRefuse, typ
		switch {
		case dir == "" && (typ == "beaconblocks" || typ == "blobsidecars"):
			level = severityWarn
		case dir == "idx" && slices.Contains(histories, typ) && typ != "accounts":
			what = "idx/" + typ + ".ef"
		}
		if all := without(of); !says(all, level, what) {
			t.Errorf("%s of %q: nobody says %s: %+v", typ, dir, level, all)
		}
	}
	for _, dir := range []string{"domain", "history", "idx", "accessor"} {
		if all := without(func(f fileName) bool { return f.Dir == dir }); !refused(all) {
			t.Errorf("without %s/: %+v", dir, all)
		}
	}
	history := func(f fileName) bool { return f.Dir == "history" || f.Dir == "idx" || f.Dir == "accessor" }
	if all := without(history); !says(all, severityRefuse, "there is no idx/accounts.ef") {
		t.Errorf("without history, indexes and accessors: %+v", all)
	}
	for what, gone := range map[string]func(fileName) bool{
		"there is no table of caplin":  func(f fileName) bool { return f.Dir == "caplin" },
		"there is no blobsidecars.seg": func(f fileName) bool { return strings.HasSuffix(f.Type, "sidecars") },
		"there is no beaconblocks.seg": func(f fileName) bool { return f.Family == familySlot },
		"there is no domain/rcache.kv": func(f fileName) bool { return f.Type == "rcache" },
	} {
		if all := without(gone); refused(all) || !says(all, severityWarn, what) {
			t.Errorf("%s: %+v", what, all)
		}
	}
}

// TestCheckLateTable: no table of a published list begins late, not even those that came with a fork.
func TestCheckLateTable(t *testing.T) {
	files := healthy()
	late, middle := "caplin/v1.1-000100-000150-PtcWindowTable", "caplin/v1.1-000100-000150-BlockRoot"
	for _, ext := range []string{".seg", ".idx"} {
		files[late+ext] = checkFile{Name: late + ext, Size: 5}
		delete(files, "caplin/v1.1-000000-000100-BlockRoot"+ext)
	}
	texts := map[string]string{}
	for _, f := range checkAll(files) {
		if f.Rule == "gap" {
			texts[f.File] = f.Text
		}
	}
	for _, name := range []string{late + ".seg", middle + ".seg"} {
		if !strings.Contains(texts[name], "from slot 0") {
			t.Errorf("%s: %q", name, texts[name])
		}
	}
	skips, err := readSkips(json.RawMessage(`{"skip_checks": [{"rule": "gap", "type": "PtcWindowTable", "reason": "it begins with its fork"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	var in checkInput
	for _, f := range files {
		in.Files = append(in.Files, f)
	}
	for _, f := range check(in, skips) {
		if f.Rule == "gap" && (f.Severity == severityWarn) != (strings.Contains(f.File, "PtcWindow")) {
			t.Errorf("%+v", f)
		}
	}
}

// TestCheckLive: while a node runs, only that is found which neither it nor retire nor index puts right.
func TestCheckLive(t *testing.T) {
	d := newStandIn(t)
	run := func(args ...string) (int, string) {
		var stdout, stderr bytes.Buffer
		exit := checkVerb(t.Context(), append([]string{"--datadir", d.dir}, args...), &stdout, &stderr)
		return exit, stdout.String() + stderr.String()
	}
	put := func(name, body string) func() {
		return func() {
			if err := os.WriteFile(filepath.Join(d.snap, name), []byte(body), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	away := func(name string) func() {
		return func() {
			if err := os.Rename(filepath.Join(d.snap, name), filepath.Join(d.dir, filepath.Base(name))); err != nil {
				t.Fatal(err)
			}
		}
	}
	cleared := newStandIn(t)
	cleared.call("erigon", "seg", "clearIndexing", "--datadir", cleared.dir)
	if exit, said := run("--datadir", cleared.dir, "--live"); exit != 0 { // as a release leaves it that cleared them and failed
		t.Errorf("no salt and no index: %d %s", exit, said)
	}
	if exit, said := run("--live"); exit != 0 || strings.Contains(said, "for your information") {
		t.Fatalf("a healthy one: %d %s", exit, said)
	}
	for _, c := range []struct {
		name  string
		do    func()
		names []string // to remove, or to bring back, afterwards
		live  string   // the rule that refuses at once; "" if only the whole check does
		full  string
	}{
		{"foreign", put("notes.doc", "x"), []string{"notes.doc"}, "foreign", "foreign"},
		{"part", put("domain/v2.0-code.0-8.kv.part", "x"), []string{"domain/v2.0-code.0-8.kv.part"}, "unfinished", "unfinished"},
		{"tmp", put("domain/v2.0-code.0-8.kv.tmp", "x"), []string{"domain/v2.0-code.0-8.kv.tmp"}, "", "unfinished"},
		{"overlap", put("idx/v3.0-code.0-1.ef", "x"), []string{"idx/v3.0-code.0-1.ef"}, "", "overlap"},
		{"another index", put("accessor/v1.0-code.0-4.vi", "x"), []string{"accessor/v1.0-code.0-4.vi"}, "", "two-versions"},
		{"another data file", put("history/v1.0-code.0-4.v", "x"), []string{"history/v1.0-code.0-4.v"}, "two-versions", "two-versions"},
		{"empty", put("v1.1-000000-000010-bodies.seg.new", ""), []string{"v1.1-000000-000010-bodies.seg.new"}, "foreign", "foreign"},
		{"no salt", away("salt-state.txt"), []string{"salt-state.txt"}, "salt", "salt"},
		{"no index", away("v2.0-000000-000010-bodies.idx"), []string{"v2.0-000000-000010-bodies.idx"}, "", "missing-index"},
		{"a table's gap", away("v1.1-000010-000020-beaconblocks.seg"), []string{"v1.1-000010-000020-beaconblocks.seg"}, "gap", "gap"},
	} {
		c.do()
		exit, said := run("--live")
		if want := c.live; (exit == 3) != (want != "") || !strings.Contains(said, "refuse "+want) && want != "" {
			t.Errorf("%s: %d, want %q: %s", c.name, exit, want, said)
		}
		if exit, said := run("--live", "--new-salts"); c.live == "salt" && exit != 0 {
			t.Errorf("%s, and they are made anew: %d %s", c.name, exit, said)
		}
		if exit, said := run("--no-torrents"); exit != 3 || !strings.Contains(said, "refuse "+c.full) {
			t.Errorf("%s: %d, want %q: %s", c.name, exit, c.full, said)
		}
		for _, name := range c.names {
			kept := filepath.Join(d.dir, filepath.Base(name))
			if _, err := os.Stat(kept); err == nil {
				err = os.Rename(kept, filepath.Join(d.snap, name))
				if err != nil {
					t.Fatal(err)
				}
			} else if err := os.Remove(filepath.Join(d.snap, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
}
