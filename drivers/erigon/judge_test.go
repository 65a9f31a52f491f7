package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/snapfw/snapfw/core"
)

// corpus finds the lists that were really published. They are not part of the project.
func corpus(t testing.TB, name string) string {
	t.Helper()
	dirs := []string{filepath.Join("..", "..", "..", "shared", "corpus")}
	if d := os.Getenv("SNAPFW_CORPUS"); d != "" {
		dirs = []string{d}
	}
	for _, d := range dirs {
		path := filepath.Join(d, "erigon", name)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	t.Skipf("SKIPPED: no corpus of published lists: set SNAPFW_CORPUS to the folder that holds erigon/%s", name)
	return ""
}

func readCorpus(t testing.TB, name string) []core.Entry {
	t.Helper()
	body, err := os.ReadFile(corpus(t, name))
	if err != nil {
		t.Fatal(err)
	}
	entries, err := catalog{}.Parse(context.Background(), body)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return entries
}

// entries makes a list: names, each with an infohash of its own unless "NAME=x" names another.
func entries(names ...string) []core.Entry {
	var all []core.Entry
	for _, n := range names {
		name, tag, _ := strings.Cut(n, "=")
		all = append(all, core.Entry{Name: name, Sums: map[string]string{infohash: fakeSum(name + tag)}})
	}
	return all
}

// listBody writes a list, even of names that Render refuses.
func listBody(entries []core.Entry) []byte {
	var b bytes.Buffer
	for _, e := range entries {
		fmt.Fprintf(&b, "'%s' = '%s'\n", e.Name, e.Sums[infohash])
	}
	return b.Bytes()
}

func fakeSum(of string) string {
	var n uint64 = 14695981039346656037
	for _, c := range []byte(of) {
		n = (n ^ uint64(c)) * 1099511628211
	}
	return fmt.Sprintf("%040x", n)
}

func judged(t testing.TB, config string, published map[string][]core.Entry, proposed []core.Entry) core.Verdict {
	t.Helper()
	c := core.Change{Config: json.RawMessage(config), Published: map[string][]byte{}, Proposed: listBody(proposed)}
	for where, entries := range published {
		c.Published[where] = listBody(entries)
	}
	v, err := judge{}.Judge(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func countClasses(v core.Verdict) map[string]int {
	n := map[string]int{}
	for _, f := range v.Findings {
		n[f.Class]++
	}
	return n
}

// TestJudgeAgreesWithTheReviewScript compares real changes with the figures that the project's
// reviewers computed for them.
func TestJudgeAgreesWithTheReviewScript(t *testing.T) {
	table, err := os.ReadFile(corpus(t, "expected.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	rows := strings.Split(strings.TrimSpace(string(table)), "\n")
	if len(rows) < 2 {
		t.Fatal("expected.tsv has no rows")
	}
	head := strings.Split(rows[0], "\t")
	for _, row := range rows[1:] {
		cells := strings.Split(row, "\t")
		want := map[string]int{}
		for i := 2; i < len(cells); i++ {
			if want[head[i]], err = strconv.Atoi(cells[i]); err != nil {
				t.Fatal(err)
			}
		}
		t.Run(cells[1], func(t *testing.T) {
			old, proposed := readCorpus(t, cells[0]), readCorpus(t, cells[1])
			start := time.Now()
			v := judged(t, "", map[string][]core.Entry{"review": old, "bucket": old}, proposed)
			took := time.Since(start)
			n := countClasses(v)
			got := map[string]int{"entries_old": len(old), "entries_new": len(proposed),
				"removed":                  n[classRemoved] + n[classHash], // there, a changed hash counts in both
				"added":                    n[classAdded] + n[classHash],
				"hash_changes":             n[classHash],
				"unexpected_deletions":     n[classDeletion],
				"version_conflicts_in_new": n[classConflict]}
			for what, n := range want {
				if got[what] != n {
					t.Errorf("%s: got %d, want %d", what, got[what], n)
				}
			}
			if safe := want["hash_changes"]+want["unexpected_deletions"]+want["version_conflicts_in_new"] == 0; v.Safe != safe {
				t.Errorf("safe is %t, want %t: %v", v.Safe, safe, n)
			}
			for _, f := range v.Findings {
				if f.Class == classDowngrade && strings.Contains(f.Detail, "of a new range") {
					t.Errorf("what was really published would be refused: %s: %s", f.Name, f.Detail)
				}
			}
			if n[classDiffer] != 0 {
				t.Error("equal lists are said to differ")
			}
			if len(v.Report) > maxReport+100 || !strings.HasPrefix(v.Report, "**Verdict: ") {
				t.Errorf("report of %d bytes: %.80s", len(v.Report), v.Report)
			}
			t.Logf("%v in %v", n, took)
		})
	}
}

func TestJudge(t *testing.T) {
	base := []string{"v1.1-000000-000500-headers.seg", "domain/v1.1-accounts.0-64.kv", "domain/v1.1-accounts.64-96.kv",
		"domain/v1.1-accounts.0-64.kvei", "domain/v1.1-accounts.64-96.kvei", "salt-state.txt"}
	with := func(names ...string) []string { return append(slices.Clone(base), names...) }
	without := func(name string) []string {
		return slices.DeleteFunc(slices.Clone(base), func(n string) bool { return n == name })
	}
	for _, c := range []struct {
		name     string
		config   string
		old, new []string
		safe     bool
		want     string // "class name" of findings, but for added and removed
	}{
		{name: "nothing changes", old: base, new: base, safe: true},
		{name: "first publication", new: base, safe: true},
		{name: "new range", old: base, new: with("v1.1-000500-000510-headers.seg"), safe: true},
		{name: "empty proposal", old: base, want: "unexpected_deletions v1.1-000000-000500-headers.seg"},
		{name: "merge", old: base, safe: true,
			new:  []string{base[0], "domain/v1.1-accounts.0-96.kv", "domain/v1.1-accounts.0-96.kvei", "salt-state.txt"},
			want: "merges domain/v1.1-accounts.0-96.kv; merges domain/v1.1-accounts.0-96.kvei"},
		{name: "merge of unequal neighbours", old: []string{"v1.1-000000-000010-headers.seg", "v1.1-000010-000011-headers.seg"}, safe: true,
			new: []string{"v1.1-000000-000020-headers.seg"}, want: "merges v1.1-000000-000020-headers.seg"},
		{name: "raised", old: base, new: append(without(base[0]), "v2.0-000000-000500-headers.seg"), safe: true,
			want: "version_upgrades v2.0-000000-000500-headers.seg"},
		{name: "raised past nine", old: []string{"v1.9-000000-000500-headers.seg"}, new: []string{"v1.10-000000-000500-headers.seg"}, safe: true,
			want: "version_upgrades v1.10-000000-000500-headers.seg"},
		{name: "v1 becomes v1.0", old: []string{"v1-000000-000500-headers.seg"}, new: []string{"v1.0-000000-000500-headers.seg"}, safe: true,
			want: "version_upgrades v1.0-000000-000500-headers.seg"},
		{name: "lowered", old: base, new: append(without(base[0]), "v1.0-000000-000500-headers.seg"),
			want: "version_downgrades v1.0-000000-000500-headers.seg"},
		{name: "lowered by a merge that keeps one of the versions", old: []string{"idx/v2.0-code.0-64.ef", "idx/v3.0-code.64-128.ef"},
			new: []string{"idx/v2.0-code.0-128.ef"}, want: "version_downgrades idx/v2.0-code.0-128.ef; merges idx/v2.0-code.0-128.ef"},
		{name: "a new range in a lower version than the one before it", old: []string{"idx/v2.0-code.0-64.ef"},
			new: []string{"idx/v2.0-code.0-64.ef", "idx/v1.0-code.64-65.ef", "idx/v1.0-code.65-66.ef"}, want: "version_downgrades idx/v1.0-code.64-65.ef; version_downgrades idx/v1.0-code.65-66.ef"},
		{name: "a range before the first one, in a lower version", old: []string{"history/v1.1-commitment.64-96.v"}, safe: true,
			new: []string{"history/v1.0-commitment.0-64.v", "history/v1.1-commitment.64-96.v"}},
		{name: "a new range in a higher version", old: []string{"idx/v2.0-code.0-64.ef"}, safe: true,
			new: []string{"idx/v2.0-code.0-64.ef", "idx/v2.1-code.64-65.ef"}},
		{name: "a lower version beside one of as low a version", old: []string{"idx/v2.0-code.0-64.ef", "idx/v1.0-code.64-65.ef"}, safe: true,
			new: []string{"idx/v2.0-code.0-64.ef", "idx/v1.0-code.64-65.ef", "idx/v1.0-code.65-66.ef"}},
		{name: "changed", old: base, new: append(without(base[0]), base[0]+"=other"), want: "hash_changes " + base[0]},
		{name: "deleted", old: with("v1.1-000500-000510-headers.seg"), new: base, want: "unexpected_deletions v1.1-000500-000510-headers.seg"},
		{name: "salt deleted", old: base, new: without("salt-state.txt"), want: "unexpected_deletions salt-state.txt"},
		{name: "two versions of one range", old: base, new: with("v1.2-000000-000500-headers.seg"),
			want: "version_conflicts v1.2-000000-000500-headers.seg"},
		{name: "v1 beside v1.0", old: []string{"v1.0-000000-000500-headers.seg"}, new: []string{"v1.0-000000-000500-headers.seg", "v1-000000-000500-headers.seg"},
			want: "version_conflicts v1-000000-000500-headers.seg"},
		{name: "another version of another range is no conflict", old: base, new: with("v1.2-000500-000510-headers.seg"), safe: true},
		{name: "gap", old: base, new: with("v1.1-000510-000520-headers.seg"), want: "gaps v1.1-000510-000520-headers.seg"},
		{name: "gap at the start", new: []string{"idx/v2.0-logaddrs.64-128.ef"}, want: "gaps idx/v2.0-logaddrs.64-128.ef"},
		{name: "blobs and the history of commitment may begin late", safe: true,
			new: []string{"v1.1-008620-008630-blobsidecars.seg", "v1.1-008620-008630-blocksidecars.idx", "history/v1.0-commitment.38-40.v"}},
		{name: "but not the domain of commitment", new: []string{"domain/v1.0-commitment.38-40.kv"}, want: "gaps domain/v1.0-commitment.38-40.kv"},
		{name: "a gap in blobs", new: []string{"v1.1-008620-008630-blobsidecars.seg", "v1.1-008640-008650-blobsidecars.seg"},
			want: "gaps v1.1-008640-008650-blobsidecars.seg"},
		{name: "leftover of a merge", old: base, new: with("domain/v1.1-accounts.0-32.kv"),
			want: "overlaps domain/v1.1-accounts.0-32.kv; incomplete domain/v1.1-accounts.0-32.kv"},
		{name: "ghost index", old: base, safe: true, new: append(with("domain/v1.1-accounts.96-128.kvei"), "domain/v1.1-accounts.128-160.kvei"),
			want: "incomplete domain/v1.1-accounts.128-160.kvei; incomplete domain/v1.1-accounts.96-128.kvei"},
		{name: "a merge taken back", old: []string{"v1.1-000000-000020-headers.seg"},
			new:  []string{"v1.1-000000-000010-headers.seg", "v1.1-000010-000020-headers.seg"},
			want: "unexpected_deletions v1.1-000000-000020-headers.seg"},
		{name: "foreign file", old: base, new: with("notes.txt"), want: "foreign notes.txt"},
		{name: "foreign file that was published goes", old: with("notes.txt"), new: base, safe: true},
		{name: "allowed", config: `{"allow": [{"class": "hash_changes", "ext": "kvei", "frontier": 1, "reason": "built anew"}], "machines": []}`,
			old: base, new: append(without("domain/v1.1-accounts.64-96.kvei"), "domain/v1.1-accounts.64-96.kvei=x"), safe: true,
			want: "hash_changes domain/v1.1-accounts.64-96.kvei"},
		{name: "not of the frontier", config: `{"allow": [{"class": "hash_changes", "ext": "kvei", "frontier": 1, "reason": "built anew"}]}`,
			old: base, new: append(without("domain/v1.1-accounts.0-64.kvei"), "domain/v1.1-accounts.0-64.kvei=x"),
			want: "hash_changes domain/v1.1-accounts.0-64.kvei"},
		{name: "allowed by range", config: `{"allow": [{"class": "hash_changes", "type": "accounts", "ext": "kv", "from": 64, "to": 96, "reason": "regenerated"}]}`,
			old: base, new: append(without("domain/v1.1-accounts.64-96.kv"), "domain/v1.1-accounts.64-96.kv=x"), safe: true,
			want: "hash_changes domain/v1.1-accounts.64-96.kv"},
		{name: "covered deletions", config: `{"allow": [{"class": "unexpected_deletions", "ext": "kv", "covered": true, "reason": "ghosts"}]}`,
			old: with("domain/v1.1-accounts.0-32.kv"), new: base, safe: true, want: "unexpected_deletions domain/v1.1-accounts.0-32.kv"},
		{name: "a deletion that is not covered", config: `{"allow": [{"class": "unexpected_deletions", "ext": "kv", "covered": true, "reason": "ghosts"}]}`,
			old: base, new: without("domain/v1.1-accounts.64-96.kv"),
			want: "unexpected_deletions domain/v1.1-accounts.64-96.kv; incomplete domain/v1.1-accounts.64-96.kvei"},
	} {
		t.Run(c.name, func(t *testing.T) {
			published := map[string][]core.Entry{}
			if c.old != nil {
				published["bucket"] = entries(c.old...)
			}
			v := judged(t, c.config, published, entries(c.new...))
			var got []string
			for _, f := range v.Findings {
				if f.Class != classAdded && f.Class != classRemoved {
					got = append(got, f.Class+" "+f.Name)
				}
				if f.Detail == "" {
					t.Errorf("no detail: %+v", f)
				}
			}
			if c.name == "empty proposal" && len(got) == len(base) {
				got = got[5:]
			}
			if s := strings.Join(got, "; "); s != c.want {
				t.Errorf("got  %s\nwant %s", s, c.want)
			}
			if v.Safe != c.safe {
				t.Errorf("safe is %t: %v", v.Safe, v.Findings)
			}
			added, removed := 0, 0
			for _, n := range c.new {
				if n, _, _ = strings.Cut(n, "="); !slices.Contains(c.old, n) {
					added++
				}
			}
			for _, n := range c.old {
				if !slices.ContainsFunc(c.new, func(m string) bool { return m == n || strings.HasPrefix(m, n+"=") }) {
					removed++
				}
			}
			if n := countClasses(v); n[classAdded] != added || n[classRemoved] != removed {
				t.Errorf("%d added and %d removed: %v", added, removed, n)
			}
		})
	}
}

// TestJudgeTwoPublishedLists: a hash that only one of the two lists has is a change, and that
// they differ is said. Comparing with one list only let such a change through once.
func TestJudgeTwoPublishedLists(t *testing.T) {
	review := entries("v1.1-000000-000500-headers.seg")
	bucket := entries("v1.1-000000-000500-headers.seg=old")
	v := judged(t, "", map[string][]core.Entry{"review": review, "bucket": bucket}, review)
	if v.Safe || len(v.Findings) != 2 || v.Findings[0].Class != classHash || v.Findings[1].Class != classDiffer {
		t.Fatalf("got %+v", v)
	}
	if !strings.HasPrefix(v.Findings[0].Detail, "since the bucket's list: ") {
		t.Errorf("it is not said against which list: %s", v.Findings[0].Detail)
	}
	// After the merge the review's list is ahead: that is no reason to refuse what adds only.
	more := entries("v1.1-000000-000500-headers.seg", "v1.1-000500-000510-headers.seg")
	if v := judged(t, "", map[string][]core.Entry{"review": more, "bucket": review}, more); !v.Safe {
		t.Errorf("a merged review can't be published: %+v", v.Findings)
	}
}

func TestJudgeExplainsHashes(t *testing.T) {
	old := entries("idx/v2.0-code.0-64.ef", "accessor/v2.0-code.0-64.efi", "domain/v1.1-code.0-64.kv", "domain/v1.1-code.0-64.bt",
		"v1.1-000000-000500-headers.seg", "v1.1-000000-000500-headers.idx", "salt-blocks.txt", "erigondb.toml")
	changed := entries("idx/v2.0-code.0-64.ef=1", "accessor/v2.0-code.0-64.efi=1", "domain/v1.1-code.0-64.kv", "domain/v1.1-code.0-64.bt=1",
		"v1.1-000000-000500-headers.seg", "v1.1-000000-000500-headers.idx=1", "salt-blocks.txt=1", "erigondb.toml=1")
	v := judged(t, "", map[string][]core.Entry{"bucket": old}, changed)
	for name, why := range map[string]string{
		"idx/v2.0-code.0-64.ef":          "data, which changes only",
		"accessor/v2.0-code.0-64.efi":    "an index of data that changed, too",
		"domain/v1.1-code.0-64.bt":       "unchanged data with an unchanged salt; it is the last range",
		"v1.1-000000-000500-headers.idx": "an index, and its salt changed",
		"salt-blocks.txt":                "cleared",
		"erigondb.toml":                  "purged",
	} {
		i := slices.IndexFunc(v.Findings, func(f core.Finding) bool { return f.Name == name })
		if i < 0 || !strings.Contains(v.Findings[i].Detail, why) || !v.Findings[i].Refuse {
			t.Errorf("%s is not explained by %q: %+v", name, why, v.Findings)
		}
		if !strings.Contains(v.Report, name) {
			t.Errorf("the report lacks %s", name)
		}
	}
}

func TestJudgeRefusesInput(t *testing.T) {
	ok := listBody(entries("salt-state.txt"))
	for name, c := range map[string]core.Change{
		"twice":       {Proposed: slices.Concat(ok, ok)},
		"no hash":     {Proposed: []byte("'salt-state.txt' = ''\n")},
		"other hash":  {Published: map[string][]byte{"bucket": []byte("'x' = 'zz'\n")}},
		"no reason":   {Config: json.RawMessage(`{"allow":[{"class":"gaps","ext":"kv"}]}`)},
		"no class":    {Config: json.RawMessage(`{"allow":[{"ext":"kv","reason":"x"}]}`)},
		"all files":   {Config: json.RawMessage(`{"allow":[{"class":"gaps","reason":"x"}]}`)},
		"foreign":     {Config: json.RawMessage(`{"allow":[{"class":"foreign","ext":"txt","reason":"x"}]}`)},
		"unknown key": {Config: json.RawMessage(`{"allow":[{"class":"gaps","ext":"kv","reason":"x","typ":"code"}]}`)},
		"bounds":      {Config: json.RawMessage(`{"allow":[{"class":"gaps","ext":"kv","reason":"x","from":3,"to":3}]}`)},
		"no list":     {Config: json.RawMessage(`{"allow":7}`)},
	} {
		if v, err := (judge{}).Judge(context.Background(), c); err == nil {
			t.Errorf("%s: got %+v", name, v)
		}
	}
}

// TestSchemas: what the schemas of the configuration take is what the readers take.
func TestSchemas(t *testing.T) {
	for _, c := range []struct {
		schema, value string
		ok            bool
	}{
		{allowSchema, `[{"class": "hash_changes", "type": "receipt", "ext": "kvei", "from": 0, "to": 64, "frontier": 2, "reason": "x"}]`, true},
		{allowSchema, `[{"class": "unexpected_deletions", "ext": "bt", "covered": true, "reason": "x"}]`, true},
		{allowSchema, `[{"class": "gaps", "reason": "x"}]`, false},
		{allowSchema, `[{"class": "foreign", "ext": "txt", "reason": "x"}]`, false},
		{allowSchema, `[{"class": "gaps", "ext": "kv"}]`, false},
		{skipSchema, `[{"rule": "gap", "type": "rcache", "reason": "x"}]`, true},
		{skipSchema, `[{"rule": "gap"}]`, false},
	} {
		doc, err := jsonschema.UnmarshalJSON(strings.NewReader(c.schema))
		if err != nil {
			t.Fatal(err)
		}
		compiler := jsonschema.NewCompiler()
		if err := compiler.AddResource("schema.json", doc); err != nil {
			t.Fatal(err)
		}
		schema, err := compiler.Compile("schema.json")
		if err != nil {
			t.Fatal(err)
		}
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(c.value))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(value); (err == nil) != c.ok {
			t.Errorf("the schema says %v of %s", err, c.value)
		}
		_, err = readPolicy(json.RawMessage(`{"allow": ` + c.value + `}`))
		if c.schema == skipSchema {
			_, err = readSkips(json.RawMessage(`{"skip_checks": ` + c.value + `}`))
		}
		if (err == nil) != c.ok {
			t.Errorf("the reader says %v of %s", err, c.value)
		}
	}
}

// TestReportIsHarmless: a name from a bucket must not become markup, nor grow a review beyond its limit.
func TestReportIsHarmless(t *testing.T) {
	v := judged(t, "", nil, entries("<img src=x>|`@all`.seg"))
	if strings.ContainsAny(strings.ReplaceAll(v.Report, "\n> ", ""), "<@") || v.Safe {
		t.Errorf("got %s", v.Report)
	}
	var many []string
	for i := range 3000 {
		many = append(many, fmt.Sprintf("v1.1-%06d-%06d-headers.seg", 2*i, 2*i+1), fmt.Sprintf("odd%d", i))
	}
	if v := judged(t, "", nil, entries(many...)); len(v.Report) > maxReport+100 || !strings.Contains(v.Report, "rows more") {
		t.Errorf("report of %d bytes", len(v.Report))
	}
}

// TestJudgeOfHostileLists: ranges that lie in one another must not make the judge slow.
func TestJudgeOfHostileLists(t *testing.T) {
	const n = 20000
	var steps, nested []core.Entry
	for i := range n {
		steps = append(steps, entries(fmt.Sprintf("domain/v1.0-code.%d-%d.kv", i, i+1))...)
		nested = append(nested, entries(fmt.Sprintf("domain/v1.1-code.0-%d.kv", i+2))...)
	}
	start := time.Now()
	v := judged(t, "", map[string][]core.Entry{"bucket": steps}, nested)
	if n := countClasses(v); n[classOverlap] != len(nested)-1 || n[classRemoved] != len(steps) || n[classDeletion] != 0 {
		t.Errorf("got %v", n)
	}
	if v = judged(t, "", map[string][]core.Entry{"bucket": nested}, steps); countClasses(v)[classDeletion] != n {
		t.Errorf("got %v", countClasses(v))
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
}

// bigLists are two lists of a real chain's size, one release apart.
func bigLists(n int) (old, proposed []core.Entry) {
	for i := 0; len(old) < n; i++ {
		names := []string{fmt.Sprintf("v1.1-%06d-%06d-headers.seg", i*10, i*10+10), fmt.Sprintf("caplin/v1.1-%06d-%06d-BlockRoot.seg", i*50, i*50+50)}
		for _, typ := range []string{"accounts", "storage", "code", "receipt"} {
			names = append(names, fmt.Sprintf("history/v2.0-%s.%d-%d.v", typ, i, i+1), fmt.Sprintf("idx/v3.0-%s.%d-%d.ef", typ, i, i+1),
				fmt.Sprintf("accessor/v1.1-%s.%d-%d.vi", typ, i, i+1), fmt.Sprintf("accessor/v2.0-%s.%d-%d.efi", typ, i, i+1))
		}
		old = append(old, entries(names...)...)
		for k, name := range names {
			switch {
			case i%100 == 7 && k == 2:
				name += "=changed"
			case i%50 == 9 && strings.HasPrefix(name, "accessor/"):
				name = strings.Replace(name, "/v", "/v3", 1)
			}
			proposed = append(proposed, entries(name)...)
		}
	}
	return old, proposed
}

func TestJudgeIsQuick(t *testing.T) {
	old, proposed := bigLists(17500)
	start := time.Now()
	v := judged(t, "", map[string][]core.Entry{"review": old, "bucket": old}, proposed)
	took := time.Since(start)
	if v.Safe || countClasses(v)[classHash] == 0 || countClasses(v)[classUpgrade] == 0 {
		t.Fatalf("got %v", countClasses(v))
	}
	if took > 5*time.Second { // ten times what it takes under the race detector on a busy machine
		t.Errorf("%d entries took %v", len(old), took)
	}
}

// BenchmarkJudge is the whole of what a diff of two lists costs: read both, judge, report.
func BenchmarkJudge(b *testing.B) {
	old, proposed := bigLists(17500)
	ctx := context.Background()
	var bodies [2][]byte
	for i, l := range [][]core.Entry{old, proposed} {
		var err error
		if bodies[i], err = (catalog{}).Render(ctx, l); err != nil {
			b.Fatal(err)
		}
	}
	before := cpuTime(b)
	for b.Loop() {
		c := core.Change{Published: map[string][]byte{"review": bodies[0], "bucket": bodies[0]}, Proposed: bodies[1]}
		if _, err := (judge{}).Judge(ctx, c); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(old)), "entries")
	b.ReportMetric(float64((cpuTime(b)-before).Milliseconds())/float64(b.N), "cpu-ms/op") // the machine may be busy with others
}

func cpuTime(t testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
