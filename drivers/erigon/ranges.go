package main

import (
	"cmp"
	"slices"
)

// named is a snapshot file with its infohash, where that is known.
type named struct {
	fileName
	Name string
	Sum  string
}

// bySeries puts files that have a range into their series, each in the order of byRange.
func bySeries(files []named) map[series][]named {
	count := map[series]int{}
	for _, f := range files {
		count[f.series()]++
	}
	all := make(map[series][]named, len(count))
	for _, f := range files {
		if !f.ranged() {
			continue
		}
		s := f.series()
		one, ok := all[s]
		if !ok {
			one = make([]named, 0, count[s])
		}
		all[s] = append(one, f)
	}
	for _, one := range all {
		slices.SortFunc(one, byRange)
	}
	return all
}

// byRange orders by where a range begins; of those that begin together the longest goes first,
// so that a leftover comes after the file that holds it already. The highest version goes first.
func byRange(a, b named) int {
	return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(b.To, a.To), b.Ver.compare(a.Ver), cmp.Compare(a.Name, b.Name))
}

// flaw is one thing that is wrong with the ranges of a series.
type flaw struct {
	At    named   // the file at which it shows: after the gap, the shorter one of an overlap, the highest version
	Other []named // the files before the gap, that it overlaps, or of the same range
	From  uint64  // of a gap
	To    uint64
}

// flaws of one series: all in the order of the ranges.
type flaws struct {
	Gaps     []flaw // including one before the first file, which begins at 0
	Overlaps []flaw
	Versions []flaw // one a range
}

// inspect looks at the files of one series, in the order of byRange. Bounds need not be powers
// of two: rebased chains have others. Only "from 0, without gap, without overlap" counts.
func inspect(files []named) flaws {
	var found flaws
	var last named // reaches furthest
	var end uint64
	for i := 0; i < len(files); {
		f, n := files[i], 1
		for i+n < len(files) && files[i+n].From == f.From && files[i+n].To == f.To {
			n++
		}
		if n > 1 {
			found.Versions = append(found.Versions, flaw{At: f, Other: files[i+1 : i+n]})
		}
		i += n
		switch {
		case f.From > end:
			gap := flaw{At: f, From: end, To: f.From}
			if last.Name != "" {
				gap.Other = []named{last}
			}
			found.Gaps = append(found.Gaps, gap)
		case f.From < end:
			found.Overlaps = append(found.Overlaps, flaw{At: f, Other: []named{last}})
		}
		if f.To > end {
			end, last = f.To, f
		}
	}
	return found
}

// endOf is where the furthest of the files ends; 0 if there are none.
func endOf(files []named) (end uint64) {
	for _, f := range files {
		end = max(end, f.To)
	}
	return end
}

// startsLate tells the series that need not begin at 0: blobs begin with the fork that brought
// them, and the history of commitment where it was switched on. Both are so in published lists.
func startsLate(s series) bool {
	switch {
	case s.Dir == "":
		return s.Type == "blobsidecars" || s.Type == "blocksidecars" || s.Type == "bscblobsidecars"
	case s.Dir != "domain":
		return s.Type == "commitment"
	}
	return false
}

// gapsOf leaves out what startsLate excuses.
func gapsOf(s series, f flaws) []flaw {
	if len(f.Gaps) > 0 && f.Gaps[0].From == 0 && startsLate(s) {
		return f.Gaps[1:]
	}
	return f.Gaps
}

// dataOf says of which series an index is; ok is false for data itself.
func dataOf(s series) (data series, ok bool) {
	switch s.Ext {
	case "idx":
		switch s.Type {
		case "transactions-to-block":
			return series{"", "transactions", "seg"}, true
		case "blocksidecars":
			return series{"", "blobsidecars", "seg"}, true
		}
		return series{s.Dir, s.Type, "seg"}, true
	case "bt", "kvei", "kvi":
		return series{s.Dir, s.Type, "kv"}, true
	case "vi":
		return series{"history", s.Type, "v"}, true
	case "efi":
		return series{"idx", s.Type, "ef"}, true
	}
	return series{}, false
}

// indexesOf lists the indexes that a data file needs for its own range. Of the series
// in one inner list a single one is enough.
func indexesOf(s series) [][]series {
	switch s.Ext {
	case "seg":
		switch s.Type {
		case "transactions":
			return [][]series{{{"", "transactions", "idx"}}, {{"", "transactions-to-block", "idx"}}}
		case "blobsidecars":
			return [][]series{{{"", "blocksidecars", "idx"}}}
		}
		return [][]series{{{s.Dir, s.Type, "idx"}}}
	case "kv":
		switch s.Type {
		case "commitment": // a B-tree where it was built so
			return [][]series{{{s.Dir, s.Type, "kvi"}, {s.Dir, s.Type, "bt"}}}
		case "rcache":
			return [][]series{{{s.Dir, s.Type, "kvi"}}}
		}
		return [][]series{{{s.Dir, s.Type, "bt"}}, {{s.Dir, s.Type, "kvei"}}}
	case "v":
		return [][]series{{{"accessor", s.Type, "vi"}}}
	case "ef":
		return [][]series{{{"accessor", s.Type, "efi"}}}
	}
	return nil
}

// salted tells indexes, whose bytes depend on a salt beside the data, and names that salt.
func salted(s series) (salt string, ok bool) {
	if _, ok = dataOf(s); !ok {
		return "", false
	}
	if s.Ext == "idx" {
		return "salt-blocks.txt", true
	}
	return "salt-state.txt", true
}
