package main

import (
	"fmt"
	"slices"
	"strings"
)

// maxReport keeps a report below what code hosts take as the text of a review (65,536 characters),
// with room for what is put around it.
const maxReport = 56 << 10

// groups are the parts of a report, as the reviewers of the published lists are used to them.
var groups = []struct {
	title string
	holds func(fileName) bool
}{
	{"State snapshots", func(f fileName) bool { return f.Family == familyState }},
	{"Consensus snapshots (caplin)", func(f fileName) bool { return f.Family == familyTable || f.Family == familySlot }},
	{"Execution block snapshots", func(f fileName) bool { return f.Family == familyBlock }},
	{"Other files", func(f fileName) bool { return f.Family == 0 || !f.ranged() }},
}

// sections are the classes of a report: what refuses comes first, each with what it means.
var sections = []struct {
	class, title, means string
	byRange             bool // a row is all types of the same range, and not all ranges of one type
}{
	{classHash, "Hash changes", "Published content would change under its name: nodes that have the old bytes do not match any more.", false},
	{classDeletion, "Unexpected deletions", "Files go that neither a merge nor a new version explains.", false},
	{classConflict, "Version conflicts", "Two versions of the same file for the same range break nodes that download them.", false},
	{classDowngrade, "Version downgrades", "A lower version than what it replaces, or than the range before it: most likely an old binary made it.", false},
	{classGap, "Gaps", "A part of the chain is in no file: what is listed comes after one.", false},
	{classOverlap, "Overlaps", "A part of the chain is in two files: most likely leftovers of a merge.", false},
	{classForeign, "Foreign files", "Names that no snapshot file has.", false},
	{classDiffer, "The published lists differ", "The review's list and the bucket's are not the same; the change was judged against each.", false},
	{classIncomplete, "Data without index, or index without data", "For your information: the checks of the files decide about this.", false},
	{classMerge, "Merged ranges", "", true},
	{classAdded, "New data", "", true},
	{classUpgrade, "Version upgrades", "", true},
}

// report writes a judgement as Markdown. Every class has its share of the room, those that refuse before the others, so that none is
// left out however long another one is.
func report(j judgement, changes []change) string {
	by := map[string][]change{}
	for _, c := range changes {
		if c.class == classAdded && !c.fresh {
			continue // it is in the tables of merges and upgrades
		}
		by[c.class] = append(by[c.class], c)
	}
	var b strings.Builder
	summary(&b, j, changes)
	used := b.Len()
	var first, second []*table
	all := map[string][]*table{}
	for _, s := range sections {
		if s.class != classDiffer { // it is of no file; its heading says all of it
			all[s.class] = tables(by[s.class], s.byRange)
		}
		used += len(heading(s.class, s.title, s.means, by[s.class]))
		for _, t := range all[s.class] {
			if used += len(t.title) + len(t.head) + restRoom; refusing[s.class] {
				first = append(first, t)
			} else {
				second = append(second, t)
			}
		}
	}
	share(first, second, maxReport-used)
	for _, s := range sections {
		b.WriteString(heading(s.class, s.title, s.means, by[s.class]))
		for _, t := range all[s.class] {
			t.write(&b)
		}
	}
	return capped(b.String())
}

func heading(class, title, means string, found []change) string {
	var b strings.Builder
	switch {
	case len(found) == 0 && refusing[class] && class != classForeign:
		fmt.Fprintf(&b, "\n### ✅ %s\n\nNone.\n", title)
	case len(found) > 0:
		mark := ""
		if slices.ContainsFunc(found, change.refuses) {
			mark = "🚨 "
		} else if refusing[class] || class == classDiffer {
			mark = "⚠️ "
		}
		fmt.Fprintf(&b, "\n### %s%s (%d)\n", mark, title, len(found))
		if means != "" {
			fmt.Fprintf(&b, "\n> %s\n", means)
		}
		if class == classDiffer {
			b.WriteString("\n")
			for _, c := range found {
				fmt.Fprintf(&b, "- %s: %s\n", cell(c.at.Name), cell(c.detail))
			}
		}
	}
	return b.String()
}

// capped is for what no table holds: there may be many published lists.
func capped(text string) string {
	if len(text) <= maxReport {
		return text
	}
	cut := strings.LastIndexByte(text[:maxReport], '\n') + 1
	return text[:cut] + "\n**The report is cut here; the findings hold the rest.**\n"
}

// summary is the verdict and the figures. Like the review script it counts a changed hash both
// as a removed and as an added line.
func summary(b *strings.Builder, j judgement, changes []change) {
	count, open := map[string]int{}, map[string]int{}
	for _, c := range changes {
		count[c.class]++
		if c.refuses() {
			open[c.class]++
		}
	}
	var why []string
	for _, s := range sections {
		if n := open[s.class]; n > 0 {
			why = append(why, fmt.Sprintf("%s: %d", strings.ToLower(s.title), n))
		}
	}
	if len(why) == 0 {
		b.WriteString("**Verdict: safe**\n\n")
	} else {
		fmt.Fprintf(b, "**Verdict: refuse** (%s)\n\n", strings.Join(why, ", "))
	}
	if len(j.published) == 0 {
		fmt.Fprintf(b, "Nothing is published yet; %d entries are proposed.\n", len(j.proposed.sums))
	}
	for _, l := range j.published {
		removed, added := lines(l, changes)
		fmt.Fprintf(b, "- %s → proposed: %d → %d entries, %d lines removed, %d added (a changed hash counts in both)\n",
			cell(l.where), len(l.sums), len(j.proposed.sums), removed, added)
	}
	if end := j.proposed.end(familyBlock); end > 0 {
		fmt.Fprintf(b, "- blocks end at %d000\n", end)
	}
	if end := j.proposed.end(familyState); end > 0 {
		fmt.Fprintf(b, "- state ends at step %d\n", end)
	}
}

// lines counts what a diff of two lists would show.
func lines(old *list, changes []change) (removed, added int) {
	for _, c := range changes {
		if c.since == nil || c.since.contents != old.contents {
			continue
		}
		switch c.class {
		case classRemoved:
			removed++
		case classAdded:
			added++
		case classHash:
			removed++
			added++
		}
	}
	return removed, added
}

// end is where the furthest file of a family ends.
func (l *list) end(f family) (end uint64) {
	for _, file := range l.files {
		if file.Family == f {
			end = max(end, file.To)
		}
	}
	return end
}

// cell makes a text harmless inside a table: names may come from a bucket that others write to.
func cell(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '|' || r == '`' || r == '<' || r == '>' || r == '[' || r == ']' || r == '@':
			return '?'
		case r < ' ' || r == 0x7f:
			return ' '
		}
		return r
	}, text)
}
