package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/snapfw/snapfw/core"
)

// Classes of findings, in the order in which a verdict lists them. A name may be in
// several: what a merge made is added, too.
const (
	classHash       = "hash_changes"         // a published name with other bytes
	classDeletion   = "unexpected_deletions" // gone, and neither a merge nor a version explains it
	classConflict   = "version_conflicts"    // two versions of one range in the proposed list; one finding a range
	classDowngrade  = "version_downgrades"
	classGap        = "gaps"     // in the proposed list
	classOverlap    = "overlaps" // in the proposed list
	classForeign    = "foreign"  // a name that no snapshot file has
	classDiffer     = "published_differ"
	classIncomplete = "incomplete" // an index or its data is not in the proposed list
	classMerge      = "merges"
	classUpgrade    = "version_upgrades"
	classAdded      = "added"
	classRemoved    = "removed"
)

var classes = []string{classHash, classDeletion, classConflict, classDowngrade, classGap, classOverlap, classForeign,
	classDiffer, classIncomplete, classMerge, classUpgrade, classAdded, classRemoved}

// refusing are the classes that make a change unsafe unless the policy allows the finding.
// "published_differ" is not among them: between a merge and its publication the review's list
// is ahead of the bucket's, and each is judged against for itself. "incomplete" is not either,
// as the checks of the files refuse it before a list is made.
var refusing = map[string]bool{classHash: true, classDeletion: true, classConflict: true, classDowngrade: true,
	classGap: true, classOverlap: true, classForeign: true}

// change is a finding with what the report and the policy need beside its words.
type change struct {
	class   string
	at      named
	was     string  // a changed name's infohash before
	from    []named // what a merge or a version replaced
	detail  string
	why     string // what detail says without names and hashes: the same for many files
	fresh   bool   // of an added file: it replaces nothing
	last    bool   // of a changed hash: it is the last range of its type in the published list
	covered bool   // of a deletion: what stays covers its range
	reason  string // of the policy that allows it
	since   *list  // the published list that it differs from; nil for what is wrong in the proposed list itself
}

func (c change) refuses() bool { return refusing[c.class] && c.reason == "" }

func (c change) finding() core.Finding {
	f := core.Finding{Class: c.class, Name: c.at.Name, Detail: c.detail, Refuse: c.refuses()}
	if c.reason != "" {
		f.Detail += "; allowed: " + c.reason
	}
	return f
}

// judge knows which change of a published list is safe.
type judge struct{}

// Judge compares the proposed list with each published one, by where that was read, and looks
// for what is wrong in the proposed list itself. It refuses changed hashes, deletions that
// nothing explains, two versions of one range, lowered versions, gaps, overlaps and foreign
// names, unless the policy in the configuration ("allow") has a reason for them. With nothing
// published, everything is added.
func (judge) Judge(_ context.Context, c core.Change) (core.Verdict, error) {
	allow, err := readPolicy(c.Config)
	if err != nil {
		return core.Verdict{}, err
	}
	lists, err := readLists(c)
	if err != nil {
		return core.Verdict{}, err
	}

	j := judgement{proposed: lists[0], published: lists[1:], allow: allow}
	changes := j.changes()
	v := core.Verdict{Safe: true, Classes: classes, Findings: make([]core.Finding, len(changes))}
	for i, c := range changes {
		v.Findings[i] = c.finding()
		v.Safe = v.Safe && !v.Findings[i].Refuse
	}
	v.Report = report(j, changes)
	return v, nil
}

// judgement is one proposed list beside what is published.
type judgement struct {
	proposed  *list
	published []*list // by where
	allow     policy
}

// changes returns every finding, in the order of classes, and by name in each.
func (j judgement) changes() []change {
	all := inspectList(j.proposed, j.published)
	differ := disagreements(j.published)
	all = append(all, differ...)
	against := j.published
	if len(differ) == 0 && len(against) > 1 {
		against = against[:1]
	}
	if len(against) == 0 {
		against = []*list{{"nothing", new(contents)}}
	}
	for _, l := range against {
		for _, c := range compare(l, j.proposed) {
			c.fresh = c.class == classAdded && c.detail == isNew
			if len(against) > 1 {
				since := fmt.Sprintf("since the %s's list: ", l.where)
				c.detail = since + c.detail
				if c.why != "" {
					c.why = since + c.why
				}
			}
			all = append(all, c)
		}
	}
	for i := range all {
		if refusing[all[i].class] {
			all[i].reason = j.allow.reason(all[i], j.frontierList(all[i]))
		}
	}
	rank := map[string]int{}
	for i, class := range classes {
		rank[class] = i
	}
	slices.SortFunc(all, func(a, b change) int {
		if a.class != b.class {
			return rank[a.class] - rank[b.class]
		}
		return cmp.Or(strings.Compare(a.at.Name, b.at.Name), strings.Compare(a.detail, b.detail))
	})
	return all
}

// frontierList is the list whose last ranges count as the frontier of a finding.
func (j judgement) frontierList(c change) *list {
	if c.since != nil {
		return c.since
	}
	return j.proposed
}

// disagreements says how the published lists differ, in one finding a pair.
func disagreements(published []*list) []change {
	var found []change
	for i := 1; i < len(published); i++ {
		a, b := published[i-1], published[i]
		if a.contents == b.contents {
			continue
		}
		var names []string
		for name, sum := range a.sums {
			if b.sums[name] != sum {
				names = append(names, name)
			}
		}
		for name := range b.sums {
			if _, both := a.sums[name]; !both {
				names = append(names, name)
			}
		}
		if len(names) == 0 {
			continue
		}
		slices.Sort(names)
		some := names[:min(len(names), 5)]
		found = append(found, change{class: classDiffer, at: named{Name: a.where + ", " + b.where},
			detail: fmt.Sprintf("the published lists differ in %d names (%d entries in the %s's, %d in the %s's): %s%s", len(names),
				len(a.sums), a.where, len(b.sums), b.where, strings.Join(some, ", "), more(len(names)-len(some)))})
	}
	return found
}

func more(n int) string {
	if n <= 0 {
		return ""
	}
	return fmt.Sprintf(" and %d more", n)
}

// list is one list of what is or would be published.
type list struct {
	where string
	*contents
}

type contents struct {
	sums   map[string]string
	files  []named
	series map[series][]named
	reach  map[series][]reach // beside series
	odd    []named            // whose name is no snapshot file's
}

// readLists reads the proposed list and then the published ones, by where. Lists of the same bytes, as those of one
// review are that was merged and published, share their contents.
func readLists(c core.Change) ([]*list, error) {
	places, bodies := []string{"proposed"}, [][]byte{c.Proposed}
	for _, where := range slices.Sorted(maps.Keys(c.Published)) {
		places, bodies = append(places, where), append(bodies, c.Published[where])
	}
	lists, errs := make([]*list, len(places)), make([]error, len(places))
	var reading sync.WaitGroup
	for i, body := range bodies {
		if firstEqual(bodies, body) == i {
			reading.Go(func() { lists[i], errs[i] = readList(places[i], body) })
		}
	}
	reading.Wait()
	for i, body := range bodies {
		if first := firstEqual(bodies, body); first < i && errs[first] == nil {
			lists[i] = &list{places[i], lists[first].contents}
		}
	}
	return lists, errors.Join(errs...)
}

func firstEqual(bodies [][]byte, body []byte) int {
	return slices.IndexFunc(bodies, func(b []byte) bool { return bytes.Equal(b, body) })
}

func readList(where string, body []byte) (*list, error) {
	lines := bytes.Count(body, []byte("\n"))
	l := &list{where, &contents{sums: make(map[string]string, lines), files: make([]named, 0, lines)}}
	err := eachListed(body, func(name, sum string) {
		l.sums[name] = sum
		f, reason := parse(name)
		if reason != "" {
			l.odd = append(l.odd, named{Name: name, Sum: sum})
			return
		}
		l.files = append(l.files, named{f, name, sum})
	})
	if err != nil {
		return nil, fmt.Errorf("%s list: %w", where, err)
	}
	l.series, l.reach = bySeries(l.files), map[series][]reach{}
	for s, files := range l.series {
		l.reach[s] = reaches(files)
	}
	return l, nil
}

// covers returns the files of a list that cover a range without a gap, the first few if they
// are many; nil if it is not covered.
func (l *list) covers(s series, from, to uint64) (by []named) {
	const few = 13
	files, reach := l.series[s], l.reach[s]
	for from < to && len(by) < few {
		i := sort.Search(len(files), func(i int) bool { return files[i].From > from })
		if i == 0 || reach[i-1].end < to {
			return nil
		}
		next := files[reach[i-1].furthest]
		by, from = append(by, next), next.To
	}
	return by
}

// reach is what the files of a series up to one of them cover.
type reach struct {
	furthest int    // the file up to this one that ends last
	end      uint64 // where the stretch without a gap ends that this one lies in
}

func reaches(files []named) []reach {
	all := make([]reach, len(files))
	for i := range files {
		all[i].furthest = i
		if i > 0 && files[all[i-1].furthest].To >= files[i].To {
			all[i].furthest = all[i-1].furthest
		}
	}
	for i := len(files) - 1; i >= 0; i-- {
		all[i].end = files[all[i].furthest].To
		if i+1 < len(files) && files[i+1].From <= all[i].end {
			all[i].end = all[i+1].end
		}
	}
	return all
}

// frontier tells whether a file's range is among the last n of its series in the list, or
// beyond them.
func (l *list) frontier(f fileName, n int) bool {
	files := l.series[f.series()]
	distinct := 0
	var last uint64
	for i := len(files) - 1; i >= 0; i-- {
		if distinct == 0 || files[i].From != last {
			if distinct == n {
				return f.From > files[i].From
			}
			last = files[i].From
			distinct++
		}
	}
	return true
}
