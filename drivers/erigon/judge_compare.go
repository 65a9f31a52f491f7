package main

import (
	"fmt"
	"slices"
	"sort"
	"strings"
)

// compare says how a proposed list differs from a published one. Replacement is found as the
// project's own review script finds it, so that its figures and ours are the same: within a
// series, an added file explains each removed one that lies in its range, and each removed file
// is explained once.
func compare(old, proposed *list) []change {
	var all []change
	removed, added := map[series][]named{}, map[series][]named{}
	for _, f := range old.files {
		switch sum, stays := proposed.sums[f.Name]; {
		case !stays && f.ranged():
			removed[f.series()] = append(removed[f.series()], f)
		case !stays:
			all = append(all, change{class: classRemoved, at: f, detail: "no longer listed"},
				change{class: classDeletion, at: f, detail: "every chain has this file"})
		case sum != f.Sum:
			now := f
			now.Sum = sum
			all = append(all, change{class: classHash, at: now, was: f.Sum})
		}
	}
	for _, f := range proposed.files {
		switch _, known := old.sums[f.Name]; {
		case known:
		case f.ranged():
			added[f.series()] = append(added[f.series()], f)
		default:
			all = append(all, change{class: classAdded, at: f, detail: isNew})
		}
	}
	for _, s := range seriesOf(removed, added) {
		of := replacements(removed[s], added[s], proposed)
		all = append(append(all, of...), lowered(of, old.series[s])...)
	}
	all = append(all, compareOdd(old, proposed)...)
	explainHashes(all, old, proposed)
	for i := range all {
		all[i].since = old
	}
	return all
}

func seriesOf(maps ...map[series][]named) []series {
	var all []series
	seen := map[series]bool{}
	for _, m := range maps {
		for s := range m {
			if !seen[s] {
				seen[s] = true
				all = append(all, s)
			}
		}
	}
	slices.SortFunc(all, func(a, b series) int { return strings.Compare(a.String(), b.String()) })
	return all
}

// replacements explains the removed files of one series by the added ones.
func replacements(removed, added []named, proposed *list) []change {
	var all []change
	slices.SortFunc(removed, byRange)
	slices.SortFunc(added, func(a, b named) int { // the shortest first, as the review script does
		if a.From != b.From || a.To == b.To {
			return byRange(a, b)
		}
		return -byRange(a, b)
	})
	left := newLeft(len(removed))
	for _, a := range added {
		var from []named
		first := sort.Search(len(removed), func(i int) bool { return removed[i].From >= a.From })
		for i := left.next(first); i < len(removed) && removed[i].From < a.To; i = left.next(i + 1) {
			if removed[i].To <= a.To {
				left.take(i)
				from = append(from, removed[i])
			}
		}
		how := isNew
		if len(from) > 0 {
			how = "instead of " + spans(from)
			all = append(all, replaced(a, from)...)
		}
		all = append(all, change{class: classAdded, at: a, detail: how})
	}
	for i := left.next(0); i < len(removed); i = left.next(i + 1) {
		r := removed[i]
		by := proposed.covers(r.series(), r.From, r.To)
		why, detail := whyGone(r, by)
		all = append(all, change{class: classRemoved, at: r, detail: detail},
			change{class: classDeletion, at: r, detail: detail, why: why, covered: by != nil})
	}
	return all
}

// left is which of n things are not taken yet. What is taken is jumped over, so that a list made
// to be slow is not.
type left []int // where to go on from i: i itself as long as it is not taken

func newLeft(n int) left {
	l := make(left, n+1)
	for i := range l {
		l[i] = i
	}
	return l
}

func (l left) take(i int) { l[i] = i + 1 }

// next is the first one from i that is left; len(l)-1 if there is none.
func (l left) next(i int) int {
	end := i
	for l[end] != end {
		end = l[end]
	}
	for l[i] != end { // the next one gets there at once
		l[i], i = end, l[i]
	}
	return end
}

// replaced classifies one added file that takes the place of others.
func replaced(a named, from []named) []change {
	var all []change
	highest := slices.MaxFunc(from, func(x, y named) int { return x.Ver.compare(y.Ver) })
	merged := len(from) > 1 || from[0].From != a.From || from[0].To != a.To
	detail := fmt.Sprintf("%s instead of %s", a.Ver, spans(from))
	other := !slices.ContainsFunc(from, func(f named) bool { return f.Ver == a.Ver })
	switch c := a.Ver.compare(highest.Ver); {
	case c < 0:
		all = append(all, change{class: classDowngrade, at: a, from: from, detail: detail, why: fmt.Sprintf("%s instead of %s", a.Ver, highest.Ver)})
	case other:
		all = append(all, change{class: classUpgrade, at: a, from: from, detail: detail})
	}
	why := "replaced by " + a.Name
	if merged {
		why = "merged into " + a.Name
		all = append(all, change{class: classMerge, at: a, from: from, detail: "of " + spans(from)})
	}
	for _, f := range from {
		all = append(all, change{class: classRemoved, at: f, detail: why})
	}
	return all
}

// lowered finds new ranges of a series in a lower version than the published file before them: they replace nothing, and most likely an
// old binary made them. What is added before the first file is left alone, since mainnet's history of commitment really came so.
func lowered(all []change, published []named) (found []change) {
	for _, c := range all {
		if c.class != classAdded || c.detail != isNew {
			continue
		}
		i := sort.Search(len(published), func(i int) bool { return published[i].From >= c.at.From })
		if i == 0 {
			continue
		}
		if last := published[i-1]; c.at.Ver.compare(last.Ver) < 0 {
			found = append(found, change{class: classDowngrade, at: c.at, from: []named{last},
				why:    fmt.Sprintf("%s of a new range, after %s", c.at.Ver, last.Ver),
				detail: fmt.Sprintf("%s of a new range, after %s %s", c.at.Ver, last.Ver, last.span())})
		}
	}
	return found
}

// isNew is the detail of an added file that replaces nothing.
const isNew = "new"

// spans writes ranges with their versions: "v1.1 0-64, 64-128, v2.0 128-192".
func spans(files []named) string {
	const most = 12
	var b strings.Builder
	var ver version
	for i, f := range files[:min(len(files), most)] {
		if i > 0 {
			b.WriteString(", ")
		}
		if i == 0 || f.Ver != ver {
			ver = f.Ver
			b.WriteString(ver.String() + " ")
		}
		b.WriteString(f.span())
	}
	return b.String() + more(len(files)-most)
}

// whyGone helps people with a deletion that nothing explains: by is what stays and covers it.
func whyGone(r named, by []named) (why, detail string) {
	switch {
	case by == nil:
		return "nothing that stays covers it", "nothing that stays covers " + r.span()
	case len(by) > 1:
		why = "its range is made of smaller files now, which takes a merge back"
		return why, why + ": " + spans(by)
	case by[0].From == r.From && by[0].To == r.To:
		why = "another version of its range stays"
	default:
		why = "its range was covered by a merged file already"
	}
	return why, why + ": " + by[0].Name
}

// compareOdd looks at names that are no snapshot file's. That one goes is as it should be.
func compareOdd(old, proposed *list) []change {
	var all []change
	for _, f := range old.odd {
		switch sum, stays := proposed.sums[f.Name]; {
		case !stays:
			all = append(all, change{class: classRemoved, at: f, detail: "it was no snapshot file"})
		case sum != f.Sum:
			all = append(all, change{class: classHash, at: named{Name: f.Name, Sum: sum}, was: f.Sum})
		}
	}
	for _, f := range proposed.odd {
		if _, known := old.sums[f.Name]; !known {
			all = append(all, change{class: classAdded, at: f, detail: isNew})
		}
	}
	return all
}

// explainHashes says why each changed hash may have changed: reviewers ask, every time.
func explainHashes(all []change, old, proposed *list) {
	changed := map[series]map[[2]uint64]bool{}
	salts := map[string]bool{}
	for _, c := range all {
		if c.class != classHash {
			continue
		}
		if c.at.Family == familySalt {
			salts[c.at.Name] = true
			continue
		}
		s := c.at.series()
		if changed[s] == nil {
			changed[s] = map[[2]uint64]bool{}
		}
		changed[s][[2]uint64{c.at.From, c.at.To}] = true
	}
	for i := range all {
		if c := &all[i]; c.class == classHash {
			c.why, c.last = whyChanged(c.at, changed, salts), c.at.ranged() && old.frontier(c.at.fileName, 1)
			c.detail = fmt.Sprintf("%s → %s: %s", c.was, c.at.Sum, c.why)
			if c.last {
				c.detail += "; it is the last range of its type"
			}
		}
	}
}

func whyChanged(f named, changed map[series]map[[2]uint64]bool, salts map[string]bool) string {
	switch f.Family {
	case 0:
		return "no snapshot file"
	case familySalt:
		return "the indexes were cleared: every one that this salt went into changes with it"
	case familySettings:
		return "a fixed name: caches go on serving the old bytes until they are purged"
	}
	s, span := f.series(), [2]uint64{f.From, f.To}
	data, isIndex := dataOf(s)
	salt, _ := salted(s)
	switch {
	case !isIndex:
		return "data, which changes only when somebody had it made anew, or its format changed without its version"
	case changed[data][span], s.Ext == "vi" && changed[series{"idx", s.Type, "ef"}][span]: // a .vi is built from both
		return "an index of data that changed, too"
	case salts[salt]:
		return "an index, and its salt changed"
	}
	return "an index made anew of unchanged data with an unchanged salt"
}

// inspectList looks for what is wrong in a proposed list whatever it is compared with.
func inspectList(l *list, published []*list) []change {
	var all []change
	for _, s := range seriesOf(l.series) {
		found := inspect(l.series[s])
		for _, v := range found.Versions {
			both := append([]named{v.At}, v.Other...)
			names := make([]string, len(both))
			vers := make([]string, len(both))
			for i, f := range both {
				names[i], vers[i] = f.Name, f.Ver.String()
			}
			all = append(all, change{class: classConflict, at: v.At, from: v.Other, why: "there in " + strings.Join(vers, " and "),
				detail: fmt.Sprintf("%s %s is there more than once: %s", s, v.At.span(), strings.Join(names, ", "))})
		}
		for _, g := range gapsOf(s, found) {
			all = append(all, change{class: classGap, at: g.At, why: "nothing holds what is before it", detail: fmt.Sprintf("%s: nothing holds %d-%d", s, g.From, g.To)})
		}
		for _, o := range found.Overlaps {
			all = append(all, change{class: classOverlap, at: o.At, why: "another file holds its range or a part of it",
				detail: fmt.Sprintf("%s %s lies over %s", s, o.At.span(), o.Other[0].Name)})
		}
	}
	all = append(all, unpaired(l)...)
	for _, f := range l.odd {
		if !slices.ContainsFunc(published, func(p *list) bool { _, ok := p.sums[f.Name]; return ok }) {
			_, err := parseName(f.Name)
			all = append(all, change{class: classForeign, at: f, detail: err.Error()})
		}
	}
	return all
}

// unpaired finds data without its indexes and indexes without their data. Series that
// are not in the list at all count for nothing: not every list holds indexes.
func unpaired(l *list) []change {
	has := map[series]map[[2]uint64]bool{}
	for s, files := range l.series {
		has[s] = make(map[[2]uint64]bool, len(files))
		for _, f := range files {
			has[s][[2]uint64{f.From, f.To}] = true
		}
	}
	var all []change
	for _, f := range l.files {
		if !f.ranged() {
			continue
		}
		key := [2]uint64{f.From, f.To}
		if data, ok := dataOf(f.series()); ok && has[data] != nil && !has[data][key] {
			all = append(all, change{class: classIncomplete, at: f, why: "an index without its data", detail: "an index without its data: no " + data.String() + " of " + f.span()})
		}
		for _, any := range indexesOf(f.series()) {
			known := slices.ContainsFunc(any, func(s series) bool { return has[s] != nil })
			if known && !slices.ContainsFunc(any, func(s series) bool { return has[s][key] }) {
				all = append(all, change{class: classIncomplete, at: f, why: "data without its index: no " + any[0].String(),
					detail: "data without its index: no " + any[0].String() + " of " + f.span()})
			}
		}
	}
	return all
}
