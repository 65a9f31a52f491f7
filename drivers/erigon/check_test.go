package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

var updateDocs = flag.Bool("update-checks", false, "write the list of rules into docs/erigon-checks.md")

var checkTime = time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)

// healthy is a small chain with everything in it, torrents included, by name.
func healthy() map[string]checkFile {
	files := map[string]checkFile{}
	add := func(names ...string) {
		for _, n := range names {
			size := int64(1000)
			if strings.HasPrefix(n, "salt-") {
				size = 4
			}
			files[n] = checkFile{Name: n, Size: size, Time: checkTime}
			files[n+torrentExt] = checkFile{Name: n + torrentExt, Size: 300, Time: checkTime.Add(time.Second), Torrent: madeTorrent(n, size)}
		}
	}
	for _, r := range []string{"000000-000500", "000500-000510"} {
		for _, typ := range []string{"headers", "bodies", "transactions"} {
			add("v1.1-"+r+"-"+typ+".seg", "v2.0-"+r+"-"+typ+".idx")
		}
		add("v2.0-" + r + "-transactions-to-block.idx")
	}
	for _, r := range []string{"000000-000100", "000100-000110", "000110-000120"} {
		add("v1.1-"+r+"-beaconblocks.seg", "v1.1-"+r+"-beaconblocks.idx")
	}
	add("v1.1-000090-000100-blobsidecars.seg", "v1.1-000090-000100-blocksidecars.idx")
	add("v1.1-000100-000110-blobsidecars.seg", "v1.1-000100-000110-blocksidecars.idx")
	tables := []string{"000000-000100-BlockRoot", "000100-000150-BlockRoot", "000000-000109-BlockProposers"}
	for _, name := range knownTables {
		if name != "BlockRoot" {
			tables = append(tables, "000000-000150-"+name)
		}
	}
	for _, name := range tables {
		add("caplin/v1.1-"+name+".seg", "caplin/v1.1-"+name+".idx")
	}
	for _, r := range []string{"0-64", "64-96"} {
		for _, d := range domains {
			add("domain/v2.0-" + d + "." + r + ".kv")
			if d == "commitment" || d == "rcache" {
				add("domain/v2.0-" + d + "." + r + ".kvi")
			} else {
				add("domain/v1.1-"+d+"."+r+".bt", "domain/v1.1-"+d+"."+r+".kvei")
			}
		}
		for _, d := range slices.Concat(histories, traces) {
			if d == "commitment" && r == "0-64" {
				continue // it was switched on at step 64
			}
			add("idx/v3.0-"+d+"."+r+".ef", "accessor/v2.1-"+d+"."+r+".efi")
			if !slices.Contains(traces, d) {
				add("history/v2.0-"+d+"."+r+".v", "accessor/v1.2-"+d+"."+r+".vi")
			}
		}
	}
	add("salt-blocks.txt", "salt-state.txt", "erigondb.toml")
	files["preverified.toml"] = checkFile{Name: "preverified.toml", Size: 9}
	return files
}

func madeTorrent(name string, size int64) *torrentFile {
	var b bytes.Buffer
	if err := encodeTorrent(&b, name, size, make([]byte, 20*pieceCount(size)), checkTime); err != nil {
		panic(err)
	}
	t, err := parseTorrent(b.Bytes())
	if err != nil {
		panic(err)
	}
	return &t
}

func checkAll(files map[string]checkFile) []checkFinding {
	in := checkInput{Torrents: true, Settings: []byte("step_size = 390625\nsteps_in_frozen_file = 256\n")}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		in.Files = append(in.Files, files[name])
	}
	return check(in, nil)
}

// expected is what a healthy chain gives: words only.
var expected = []string{"blobs-one-behind v1.1-000100-000110-blobsidecars.seg", "commitment-history history/v2.0-commitment.64-96.v"}

func TestCheckHealthy(t *testing.T) {
	var got []string
	all := checkAll(healthy())
	for _, f := range all {
		got = append(got, f.Rule+" "+f.File)
	}
	if !slices.Equal(got, expected) || refused(all) {
		t.Errorf("got %q", got)
	}
}

// TestCheckEveryFileMatters takes each file of a healthy chain away, data with its torrent: it
// is missed every time. erigondb.toml is not, as there was none before 3.4.
func TestCheckEveryFileMatters(t *testing.T) {
	for name := range healthy() {
		if name == "preverified.toml" || name == "erigondb.toml" {
			continue
		}
		files := healthy()
		delete(files, name)
		delete(files, name+torrentExt)
		if !refused(checkAll(files)) {
			t.Errorf("nobody misses %s", name)
		}
	}
}

func TestCheckRules(t *testing.T) {
	data := func(name string, size int64) func(map[string]checkFile) {
		return func(m map[string]checkFile) { m[name] = checkFile{Name: name, Size: size, Time: checkTime} }
	}
	change := func(name string, do func(*checkFile)) func(map[string]checkFile) {
		return func(m map[string]checkFile) {
			f, ok := m[name]
			if !ok {
				panic("no " + name)
			}
			do(&f)
			m[name] = f
		}
	}
	drop := func(names ...string) func(map[string]checkFile) {
		return func(m map[string]checkFile) {
			for _, n := range names {
				if _, ok := m[n]; !ok {
					panic("no " + n)
				}
				delete(m, n)
			}
		}
	}
	const headers = "v1.1-000500-000510-headers.seg"
	for _, c := range []struct {
		rule, file, fix string
		break_          func(map[string]checkFile)
	}{
		{"foreign", "notes.txt", "", data("notes.txt", 5)},
		{"foreign", "backup/" + headers, "", data("backup/"+headers, 5)},
		{"foreign", headers, "", change(headers, func(f *checkFile) { f.Mode = fs.ModeSymlink })},
		{"unfinished", "domain/v2.0-code.0-64.kv.part", "launch-flags", data("domain/v2.0-code.0-64.kv.part", 5)},
		{"unfinished", "domain/v2.0-code.0-96.kv.tmp", "retire", data("domain/v2.0-code.0-96.kv.tmp", 5)},
		{"unfinished", "idx/x.lock", "retire", data("idx/x.lock", 0)},
		{"empty", headers, "restore " + headers, change(headers, func(f *checkFile) { f.Size = 0 })},
		{"empty", headers + ".torrent", "torrents", change(headers+".torrent", func(f *checkFile) { f.Size = 0 })},
		{"salt", "salt-state.txt", "restore salt-state.txt", drop("salt-state.txt")},
		{"salt", "salt-blocks.txt", "restore salt-blocks.txt", change("salt-blocks.txt", func(f *checkFile) { f.Size = 5 })},
		{"no-data", "", "retire", func(m map[string]checkFile) {
			maps.DeleteFunc(m, func(n string, _ checkFile) bool { return strings.Contains(n, "headers") })
		}},
		{"two-versions", "accessor/v1.1-accounts.0-64.vi", "index", data("accessor/v1.1-accounts.0-64.vi", 5)},
		{"two-versions", "history/v1.1-accounts.0-64.v", "", data("history/v1.1-accounts.0-64.v", 5)},
		{"gap", headers, "restore v1.1-000000-000500-headers.seg", drop("v1.1-000000-000500-headers.seg")},
		{"gap", "domain/v1.1-code.64-96.kvei", "index", drop("domain/v1.1-code.0-64.kvei")},
		{"gap", "idx/v3.0-logaddrs.64-96.ef", "regen logaddrs", drop("idx/v3.0-logaddrs.0-64.ef")},
		{"gap", "domain/v2.0-commitment.64-96.kv", "rebuild-commitment", drop("domain/v2.0-commitment.0-64.kv")},
		{"overlap", "idx/v1.0-receipt.40-41.ef", "retire", data("idx/v1.0-receipt.40-41.ef", 5)}, // published as v1-receipt.40-41.ef once
		{"overlap", "v1.1-000000-000010-bodies.seg", "retire", data("v1.1-000000-000010-bodies.seg", 5)},
		{"missing-data", headers, "restore v1.1-000500-000510-bodies.seg", drop("v1.1-000500-000510-bodies.seg")},
		{"missing-data", "v1.1-000500-000510-transactions.seg", "restore " + headers, drop(headers)},
		{"missing-data", "domain/v2.0-accounts.64-96.kv", "regen rcache", drop("domain/v2.0-rcache.64-96.kv")},
		{"missing-data", "domain/v2.0-accounts.64-96.kv", "rebuild-commitment", drop("domain/v2.0-commitment.64-96.kv")},
		{"missing-data", "idx/v3.0-accounts.64-96.ef", "regen tracesto", drop("idx/v3.0-tracesto.64-96.ef")},
		{"missing-data", "idx/v3.0-storage.64-96.ef", "restore history/v2.0-storage.64-96.v", drop("history/v2.0-storage.64-96.v")},
		{"missing-data", "history/v2.0-storage.64-96.v", "restore idx/v3.0-storage.64-96.ef", drop("idx/v3.0-storage.64-96.ef")},
		{"missing-data", "idx/v3.0-commitment.64-96.ef", "restore history/v3.0-commitment.64-96.v", drop("history/v2.0-commitment.64-96.v")},
		{"missing-index", "idx/v3.0-rcache.64-96.ef", "index", drop("accessor/v2.1-rcache.64-96.efi")}, // a merge of rcache forgot it once
		{"missing-index", "v1.1-000500-000510-transactions.seg", "index", drop("v2.0-000500-000510-transactions-to-block.idx")},
		{"missing-index", "v1.1-000100-000110-blobsidecars.seg", "index", drop("v1.1-000100-000110-blocksidecars.idx")},
		{"missing-index", "domain/v2.0-commitment.0-64.kv", "index", drop("domain/v2.0-commitment.0-64.kvi")},
		{"missing-index", "caplin/v1.1-000100-000150-BlockRoot.seg", "index", drop("caplin/v1.1-000100-000150-BlockRoot.idx")},
		{"orphan-index", "domain/v1.1-code.64-65.kvei", "retire", data("domain/v1.1-code.64-65.kvei", 5)}, // 24 such were published
		{"orphan-index", "accessor/v2.1-newtype.0-96.efi", "retire", data("accessor/v2.1-newtype.0-96.efi", 5)},
		{"state-ends", "idx/v3.0-newtype.0-64.ef", "retire", data("idx/v3.0-newtype.0-64.ef", 5)},
		{"caplin-ends", "caplin/v1.1-000000-000100-BlockRoot.seg", "restore caplin/v1.1-000100-000150-BlockRoot.seg",
			drop("caplin/v1.1-000100-000150-BlockRoot.seg", "caplin/v1.1-000100-000150-BlockRoot.idx")},
		{"blobs-apart", "v1.1-000090-000100-blobsidecars.seg", "", drop("v1.1-000100-000110-blobsidecars.seg", "v1.1-000100-000110-blocksidecars.idx")},
		{"blobs-apart", "v1.1-000110-000130-blobsidecars.seg", "", data("v1.1-000110-000130-blobsidecars.seg", 5)},
		{"rcache", "", "launch-flags", func(m map[string]checkFile) {
			maps.DeleteFunc(m, func(n string, _ checkFile) bool { return strings.Contains(n, "rcache") })
		}},
		{"truncated", headers, "restore " + headers, change(headers, func(f *checkFile) { f.Size-- })},
		{"torrent-missing", headers, "torrents", drop(headers + ".torrent")},
		{"torrent-stale", headers + ".torrent", "torrents", change(headers, func(f *checkFile) { f.Time = f.Time.Add(time.Hour) })},
		{"torrent-stale", headers + ".torrent", "torrents", change(headers, func(f *checkFile) { f.Size++ })},
		{"torrent-damaged", headers + ".torrent", "torrents", change(headers+".torrent", func(f *checkFile) { f.Torrent, f.Damage = nil, "no bencode" })},
		{"torrent-damaged", headers + ".torrent", "torrents", change(headers+".torrent", func(f *checkFile) { f.Torrent = madeTorrent("other.seg", 1000) })},
		{"torrent-damaged", headers + ".torrent", "torrents", change(headers+".torrent", func(f *checkFile) { f.Torrent.PieceLength = 1 << 20 })},
		{"torrent-orphan", headers + ".torrent", "torrents --clean", drop(headers)},
		{"torrent-orphan", "manifest.txt.torrent", "torrents --clean", func(m map[string]checkFile) {
			data("manifest.txt", 5)(m)
			data("manifest.txt.torrent", 5)(m)
		}},
		{"torrent-unfinished", headers + ".torrent123", "torrents --clean", data(headers+".torrent123", 5)},
	} {
		files := healthy()
		c.break_(files)
		got := checkAll(files)
		if !slices.ContainsFunc(got, func(f checkFinding) bool {
			return f.Rule == c.rule && f.File == c.file && f.Fix == c.fix && f.Text != ""
		}) {
			t.Errorf("%s %s with repair %q is not among %+v", c.rule, c.file, c.fix, got)
		}
	}
}

// TestCheckOptional: what is optional as a whole may be missing as a whole.
func TestCheckOptional(t *testing.T) {
	files := healthy()
	maps.DeleteFunc(files, func(n string, _ checkFile) bool {
		return strings.Contains(n, "rcache") || strings.Contains(n, "commitment") && !strings.HasPrefix(n, "domain/") ||
			strings.HasPrefix(n, "caplin/") || strings.Contains(n, "beacon") || strings.Contains(n, "sidecars") || strings.HasPrefix(n, "erigondb")
	})
	if all := checkAll(files); refused(all) {
		t.Errorf("got %+v", all)
	}
}

func TestCheckStateAhead(t *testing.T) {
	for _, c := range []struct {
		txnum    uint64
		settings string
		rule     string
	}{
		{96 * 390625, "step_size = 390625\nsteps_in_frozen_file = 256\n", ""},
		{96*390625 - 1, "step_size = 390_625 # tx\nsteps_in_frozen_file = 256\nreferences_in_commitment_branches = true\n", "state-ahead"},
		{0, "step_size = 390625\nsteps_in_frozen_file = 256\n", ""},
		{96 * 1_562_500, "", ""},
		{96*1_562_500 - 1, "", "state-ahead"}, // before 3.4: preverified.toml and no erigondb.toml
		{1, "none", ""},
		{1, "step_size = 390625\n", "settings"},
		{1, "step_size = -1\nsteps_in_frozen_file = 256\n", "settings"},
		{1, "step_size = 1\nstep_size = 2\nsteps_in_frozen_file = 256\n", "settings"},
	} {
		in := checkInput{BlockTxNum: c.txnum}
		none := c.settings == "none"
		if c.settings != "" && !none {
			in.Settings = []byte(c.settings)
		}
		for _, f := range healthy() {
			if !none || f.Name != "preverified.toml" {
				in.Files = append(in.Files, f)
			}
		}
		var got string
		unknown := false
		for _, f := range check(in, nil) {
			unknown = unknown || f.Rule == "step-unknown"
			if f.Severity == severityRefuse {
				got += f.Rule
			}
		}
		if got != c.rule {
			t.Errorf("%d, %q: got %q, want %q", c.txnum, c.settings, got, c.rule)
		}
		if unknown != none {
			t.Errorf("%q: that a step's size is not known is said: %t", c.settings, unknown)
		}
	}
}

func TestCheckSkips(t *testing.T) {
	skips, err := readSkips(json.RawMessage(`{"skip_checks": [{"rule": "missing-data", "type": "accounts", "reason": "this chain has no rcache yet"}], "x": 1}`))
	if err != nil {
		t.Fatal(err)
	}
	files := healthy()
	delete(files, "domain/v2.0-rcache.64-96.kv")
	in := checkInput{}
	for _, f := range files {
		in.Files = append(in.Files, f)
	}
	found := 0
	for _, f := range check(in, skips) {
		if f.Rule == "missing-data" {
			found++
			if f.Severity != severityWarn || !strings.Contains(f.Text, "no rcache yet") {
				t.Errorf("got %+v", f)
			}
		}
	}
	if found != 1 {
		t.Errorf("found %d", found)
	}
	for _, bad := range []string{`{"skip_checks": [{"rule": "no-such", "reason": "x"}]}`, `{"skip_checks": [{"rule": "gap"}]}`,
		`{"skip_checks": [{"rule": "gap", "reason": "x", "typ": "y"}]}`, `{"skip_checks": 1}`} {
		if _, err := readSkips(json.RawMessage(bad)); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}

// TestCheckCorpus looks at what was really published: one chain is sound, the other one had leftovers of merges
// and two versions of a range for weeks.
func TestCheckCorpus(t *testing.T) {
	for _, name := range corpusLists(t) {
		in := checkInput{}
		for _, e := range readCorpus(t, name) {
			size := int64(1000)
			if strings.HasPrefix(e.Name, "salt-") {
				size = 4
			}
			in.Files = append(in.Files, checkFile{Name: e.Name, Size: size, Time: checkTime})
		}
		n := map[string]int{}
		for _, f := range check(in, nil) {
			if f.Severity == severityRefuse {
				n[f.Rule]++
			}
		}
		want := []string(nil)
		if strings.HasPrefix(name, "mainnet") {
			want = []string{"orphan-index", "overlap", "two-versions"}
		}
		if name == "mainnet-2-2026-01-04.toml" { // blobs were 30,000 slots behind
			want = slices.Insert(want, 0, "blobs-apart")
		}
		if got := slices.Sorted(maps.Keys(n)); !slices.Equal(got, want) {
			t.Errorf("%s: got %v", name, n)
		}
	}
}

func TestCheckVerb(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, body []byte) {
		path := filepath.Join(dir, "snapshots", filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, body, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, f := range healthy() {
		if strings.HasSuffix(name, torrentExt) {
			continue
		}
		body := make([]byte, f.Size)
		if name == "erigondb.toml" {
			body = []byte("step_size = 390625\nsteps_in_frozen_file = 256\n")
		}
		write(name, body)
		if name != "preverified.toml" {
			var b bytes.Buffer
			if err := encodeTorrent(&b, name, int64(len(body)), make([]byte, 20), checkTime); err != nil {
				t.Fatal(err)
			}
			write(name+torrentExt, b.Bytes())
		}
	}
	write("forkable/anything", nil)
	run := func(args ...string) (int, string, string) {
		var stdout, stderr bytes.Buffer
		exit := checkVerb(context.Background(), args, &stdout, &stderr)
		return exit, stdout.String(), stderr.String()
	}
	if exit, out, errs := run("--datadir", dir, "--json"); exit != 0 || strings.Count(out, "\n") != len(expected) {
		t.Errorf("a healthy datadir: %d\n%s%s", exit, out, errs)
	}
	if exit, out, _ := run("--datadir", dir, "--block-txnum", "5"); exit != 3 || !strings.Contains(out, "refuse state-ahead") {
		t.Errorf("state ahead: %d %s", exit, out)
	}
	write("v1.1-000500-000510-headers.seg.torrent", []byte("d4:infod6:lengthi1000eee"+"x"))
	write("odd.txt", []byte("x"))
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "snapshots", "v1.1-000510-000520-headers.seg")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "snapshots", "v1.1-000510-000520-bodies.seg.torrent"), 0o600); err != nil {
		t.Fatal(err)
	}
	exit, out, errs := run("--datadir", dir, "--json")
	for _, want := range []string{`"rule":"foreign","file":"odd.txt"`, `"rule":"torrent-damaged"`, "not a regular file"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s in %s", want, out)
		}
	}
	if exit != 3 || !strings.Contains(errs, "stand in the way") {
		t.Errorf("exit %d, %s", exit, errs)
	}
	if exit, out, _ := run("--datadir", dir, "--no-torrents", "--skip", `[{"rule":"foreign","reason":"test"}]`); strings.Contains(out, "torrent-") || exit != 3 {
		t.Errorf("exit %d, %s", exit, out)
	}
	mistyped := filepath.Join(dir, "mistyped")
	if exit, _, errs := run("--datadir", mistyped); exit != 1 || !strings.Contains(errs, "is no datadir") {
		t.Errorf("exit %d, %s", exit, errs)
	}
	if _, err := os.Stat(mistyped); err == nil {
		t.Error("a mistyped datadir was created")
	}
	if exit, _, _ := run(); exit != 2 {
		t.Errorf("no datadir: exit %d", exit)
	}
}

// TestCheckKeptTorrents: a release makes torrents for its view, so none lies beside the data afterwards.
func TestCheckKeptTorrents(t *testing.T) {
	t.Parallel()
	d := newStandIn(t)
	view := filepath.Join(d.dir, ".snapfw", "snapshots", "data")
	if err := os.CopyFS(view, os.DirFS(d.snap)); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (int, string, string) {
		var stdout, stderr bytes.Buffer
		exit := checkVerb(t.Context(), append([]string{"--datadir", d.dir}, args...), &stdout, &stderr)
		return exit, stdout.String(), stderr.String()
	}
	exit, out, _ := run()
	if exit != 3 || strings.Count(out, "refuse torrent-missing") != findingsOfRule+1 || !strings.Contains(out, "more; --json prints all") {
		t.Errorf("without torrents: exit %d\n%s", exit, out)
	}
	if _, out, _ := run("--json"); strings.Count(out, `"rule":"torrent-missing"`) < 20 {
		t.Errorf("JSON holds not all of them:\n%s", out)
	}
	var errs bytes.Buffer
	if exit := runTorrents(t.Context(), []string{"--datadir", d.dir, "--snapshots", view}, &errs, &errs); exit != 0 {
		t.Fatalf("exit %d: %s", exit, &errs)
	}
	if exit, out, errs := run(); exit != 0 {
		t.Errorf("after a release: exit %d\n%s%s", exit, out, errs)
	}
	// What changed since, and what was merged away, is told by the same rules.
	name := filepath.Join(d.snap, "salt-state.txt")
	if err := os.Chtimes(name, time.Now().Add(time.Hour), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(d.dir, ".snapfw", "torrents", "salt-blocks.txt.torrent")
	if err := os.WriteFile(kept, []byte("d4:infoi1ee"), 0o644); err != nil {
		t.Fatal(err)
	}
	exit, out, _ = run()
	for _, want := range []string{`refuse torrent-stale "salt-state.txt.torrent"`, `refuse torrent-damaged "salt-blocks.txt.torrent"`} {
		if exit != 3 || strings.Count(out, "refuse") != 2 || !strings.Contains(out, want) {
			t.Errorf("exit %d, want %s\n%s", exit, want, out)
		}
	}
}

// TestCheckIsQuick: a real chain's size costs no more than a moment.
func TestCheckIsQuick(t *testing.T) {
	var in checkInput
	list, _ := bigLists(17500)
	for _, e := range list {
		in.Files = append(in.Files, checkFile{Name: e.Name, Size: 9}, checkFile{Name: e.Name + torrentExt, Size: 9, Torrent: &torrentFile{}})
	}
	in.Torrents = true
	start := time.Now()
	found := check(in, nil)
	if took := time.Since(start); took > 10*time.Second || len(found) == 0 {
		t.Errorf("%d findings took %v", len(found), took)
	}
}

// TestChecksAreDocumented compares the page for people with the rules.
func TestChecksAreDocumented(t *testing.T) {
	const begin, end = "<!-- rules -->\n", "<!-- end of rules -->\n"
	page := filepath.Join("..", "..", "docs", "erigon-checks.md")
	body, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("| Rule | What has to be so | Else | Repair |\n|---|---|---|---|\n")
	seen := map[string]bool{}
	for _, r := range rules {
		if seen[r.Name] || !strings.HasSuffix(r.Says, ".") || r.find == nil {
			t.Errorf("rule %q is there twice or not whole", r.Name)
		}
		seen[r.Name] = true
		fix := "by hand: the finding says how"
		if r.Fix != "" {
			fix = "`" + r.Fix + "`"
		} else if r.Severity == severityWarn {
			fix = ""
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", r.Name, r.Says, r.Severity, fix)
	}
	before, rest, ok1 := strings.Cut(string(body), begin)
	old, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("%s lacks its marks", page)
	}
	if *updateDocs {
		if err := os.WriteFile(page, []byte(before+begin+b.String()+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if old != b.String() {
		t.Errorf("%s does not list the rules as they are: run go test ./drivers/erigon -run Documented -update-checks", page)
	}
}

func FuzzSettings(f *testing.F) {
	f.Add("step_size = 390625\nsteps_in_frozen_file = 256\n")
	f.Add("step_size=1_000\n#x\nsteps_in_frozen_file=1")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := readSettings([]byte(s))
		if err == nil && (got.StepSize == 0 || got.FrozenLength == 0 || got.StepSize > 1<<40) {
			t.Fatalf("%q: %+v", s, got)
		}
		if err != nil && got != (chainSettings{}) {
			t.Fatalf("%q: %+v, %v", s, got, err)
		}
	})
}
