package main

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/snapfw/snapfw/core"
)

// clearedChange is a list, and what it becomes when its indexes are cleared and built anew with new salts.
func clearedChange(names []string) (old, proposed []core.Entry) {
	for _, name := range names {
		f, err := parseName(name)
		_, isIndex := dataOf(f.series())
		old = append(old, entries(name)...)
		if err == nil && (isIndex || f.Family == familySalt) {
			name += "=cleared"
		}
		proposed = append(proposed, entries(name)...)
	}
	return old, proposed
}

var reportRow = regexp.MustCompile("^\\| `([^`]+)` \\| ([0-9, -]*) \\| (\\d+) \\| ([^|]+) \\|")

// coveredBy finds the row of a class that stands for a name, and returns its reason.
func coveredBy(t *testing.T, report, title, name string) string {
	t.Helper()
	_, part, ok := strings.Cut(report, title+" (")
	if !ok {
		t.Fatalf("there is no %q", title)
	}
	part, _, _ = strings.Cut(part, "\n### ")
	f, err := parseName(name)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(part) {
		m := reportRow.FindStringSubmatch(line)
		if m == nil || m[1] != name && m[1] != f.pattern() {
			continue
		}
		if m[1] == name {
			return m[4]
		}
		for run := range strings.SplitSeq(m[2], ", ") {
			from, to, _ := strings.Cut(run, "-")
			a, err1 := strconv.ParseUint(from, 10, 64)
			b, err2 := strconv.ParseUint(to, 10, 64)
			if err1 == nil && err2 == nil && a <= f.From && f.To <= b {
				return m[4]
			}
		}
	}
	return ""
}

// fits sees that a report is one that a code host takes, with room for what is put around it.
func fits(t *testing.T, v core.Verdict) {
	t.Helper()
	if len(v.Report) > maxReport {
		t.Errorf("the report has %d bytes", len(v.Report))
	}
	n := countClasses(v)
	for _, s := range sections {
		if s.class != classAdded && n[s.class] > 0 && !strings.Contains(v.Report, fmt.Sprintf("%s (%d)", s.title, n[s.class])) {
			t.Errorf("%d %s are left out of the report", n[s.class], s.class)
		}
	}
}

// TestReportOfRealChanges: each changed hash of what was really published has a row with its reason, and so has each conflict.
func TestReportOfRealChanges(t *testing.T) {
	names := corpusLists(t)
	for i := 1; i < len(names); i++ {
		if chain, _, _ := strings.Cut(names[i], "-"); !strings.HasPrefix(names[i-1], chain) {
			continue
		}
		t.Run(names[i], func(t *testing.T) {
			old := readCorpus(t, names[i-1])
			v := judged(t, "", map[string][]core.Entry{"bucket": old}, readCorpus(t, names[i]))
			fits(t, v)
			for _, f := range v.Findings {
				title := map[string]string{classHash: "Hash changes", classConflict: "Version conflicts", classDeletion: "Unexpected deletions"}[f.Class]
				if title != "" && coveredBy(t, v.Report, title, f.Name) == "" {
					t.Errorf("no row is of %s %s", f.Class, f.Name)
				}
			}
		})
	}
}

func TestReportOfClearedIndexes(t *testing.T) {
	lists := map[string][]string{"small": nil, "large": nil}
	for _, name := range slices.Sorted(maps.Keys(healthy())) {
		if _, err := parseName(name); err == nil {
			lists["small"] = append(lists["small"], name)
		}
	}
	big, _ := bigLists(17500)
	for _, e := range big {
		lists["large"] = append(lists["large"], e.Name)
	}
	lists["large"] = append(lists["large"], "salt-state.txt", "salt-blocks.txt")
	for size, names := range lists {
		old, proposed := clearedChange(names)
		v := judged(t, "", map[string][]core.Entry{"bucket": old}, proposed)
		fits(t, v)
		n := 0
		for _, f := range v.Findings {
			if f.Class != classHash {
				continue
			}
			n++
			why := coveredBy(t, v.Report, "Hash changes", f.Name)
			if want := "its salt changed"; !strings.Contains(why, want) && !strings.HasPrefix(f.Name, "salt-") {
				t.Errorf("%s: %s has the reason %q", size, f.Name, why)
			}
		}
		if n < len(names)/3 {
			t.Errorf("%s: only %d hashes changed", size, n)
		}
	}
}

// TestReportLeavesNoClassOut: however long one class is, the others have their share, and what was left out is counted.
func TestReportLeavesNoClassOut(t *testing.T) {
	var old, proposed []string
	for i := range 4000 {
		headers := fmt.Sprintf("v1.1-%06d-%06d-headers.seg", 3*i, 3*i+1) // a gap before each, and every second one changes
		old, proposed = append(old, headers), append(proposed, headers+strings.Repeat("=x", i%2))
		old = append(old, fmt.Sprintf("odd-%d", i), fmt.Sprintf("idx/v2.0-code.%d-%d.ef", 4*i, 4*i+1)) // deleted
		proposed = append(proposed, fmt.Sprintf("foreign-%d", i), fmt.Sprintf("caplin/v1.1-%06d-%06d-T%d.seg", 0, 50, i),
			fmt.Sprintf("domain/v1.1-code.%d-%d.kv", i, i+1), fmt.Sprintf("domain/v1.0-code.%d-%d.kv", i, i+1))
	}
	v := judged(t, "", map[string][]core.Entry{"bucket": entries(old...)}, entries(proposed...))
	fits(t, v)
	for _, title := range []string{"Hash changes", "Unexpected deletions", "Version conflicts", "Gaps", "Foreign files", "New data"} {
		_, part, _ := strings.Cut(v.Report, title+" (")
		part, _, _ = strings.Cut(part, "\n### ")
		if strings.Count(part, "\n| ") < 2 { // the head and a row
			t.Errorf("%s has no row: %s", title, part)
		}
	}
	if !strings.Contains(v.Report, "rows more, of ") {
		t.Error("what was left out is not counted")
	}
}

// TestReportGolden is for eyes: -update writes it anew.
func TestReportGolden(t *testing.T) {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(healthy())) {
		if _, err := parseName(name); err == nil {
			names = append(names, name)
		}
	}
	old, proposed := clearedChange(names)
	proposed = slices.DeleteFunc(proposed, func(e core.Entry) bool { return strings.Contains(e.Name, "tracesto.64-96") })
	proposed = append(proposed, entries("v1.1-000510-000520-headers.seg", "v1.1-000530-000540-headers.seg", "idx/v2.1-accounts.96-98.ef", "idx/v2.9-code.0-64.ef",
		"history/v2.0-code.0-32.v", "notes.txt", "domain/v2.0-accounts.64-98.kv")...)
	v := judged(t, `{"allow":[{"class":"hash_changes","type":"receipt","ext":"kvei","frontier":1,"reason":"made anew with each release"}]}`,
		map[string][]core.Entry{"bucket": old}, proposed)
	goldenPlan(t, "report.golden", []byte(v.Report))
}

// TestReportGroups: each finding stands where reviewers look for it.
func TestReportGroups(t *testing.T) {
	t.Parallel()
	bucket := entries("v1.1-000000-000500-headers.seg", "v1.1-000000-000100-beaconblocks.seg")
	review := entries("v1.1-000000-000500-headers.seg", "v1.1-000000-000100-beaconblocks.seg=1")
	added := append(slices.Clone(bucket), entries("salt-state.txt", "v1.1-000100-000110-beaconblocks.seg", "v1.1-000100-000110-blobsidecars.seg")...)
	report := judged(t, "", map[string][]core.Entry{"bucket": bucket, "review": review}, added).Report
	for _, want := range []string{
		"#### Consensus snapshots (caplin)\n\n| Folder | Range | Types | What |\n|---|---|---|---|\n|  | v1.1 100-110 | beaconblocks.seg, blobsidecars.seg | since the bucket's list: new |\n",
		"#### Other files\n\n| Folder | Range | Types | What |\n|---|---|---|---|\n|  |  | salt-state.txt | since the bucket's list: new |\n",
		"not the same; the change was judged against each.\n\n- bucket, review: the published lists differ in 1 names",
	} {
		if !strings.Contains(report, want) {
			t.Errorf("no %q in\n%s", want, report)
		}
	}
	if strings.Contains(report, "Execution block snapshots") || strings.Contains(report, "`bucket, review`") {
		t.Errorf("something stands elsewhere:\n%s", report)
	}
}
