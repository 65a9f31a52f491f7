package main

import (
	"fmt"
	"slices"
	"strings"
)

// rules are all checks of a datadir's files, in the order in which they are reported. They cover
// what `seg publishable` looks at by name, and what it does not.
var rules = []rule{
	{"foreign", "Every file is one whose name Erigon understands.", severityRefuse, "", false, findForeign},
	{"unfinished", "No file is left that a merge or a download was still writing (.tmp, .part, .lock).", severityRefuse, "retire", false, findUnfinished},
	{"empty", "No file has zero bytes.", severityRefuse, "restore", false, findEmpty},
	{"salt", "Both salts are there and have four bytes.", severityRefuse, "restore", false, findSalt},
	{"settings", "erigondb.toml, where there is one, says a step's size and a frozen file's.", severityRefuse, "restore", false, findSettings},
	{"no-data", "There are block files, state files and their history.", severityRefuse, "retire", false, findNoData},
	{"two-versions", "No range of a type is there in two versions.", severityRefuse, "index", false, findTwoVersions},
	{"gap", "Every type holds the chain from its beginning without a gap.", severityRefuse, "restore", false, findGap},
	{"overlap", "No two files of a type hold the same part of the chain.", severityRefuse, "retire", false, findOverlap},
	{"missing-data", "For every range of headers, of accounts and of accounts' history the other types are there, too.", severityRefuse, "restore", false, findMissingData},
	{"missing-index", "Every data file has the indexes that its type needs, of its range.", severityRefuse, "index", false, findMissingIndex},
	{"orphan-index", "Every index has the data that it is of.", severityRefuse, "retire", false, findOrphanIndex},
	{"state-ends", "Domains, history and inverted indexes end at the same step.", severityRefuse, "retire", false, findStateEnds},
	{"state-ahead", "State does not reach beyond the blocks (told where the blocks' last transaction is known).", severityRefuse, "rm-state --latest", false, findStateAhead},
	{"step-unknown", "A step's size is known, of erigondb.toml or by preverified.toml; without it nobody can tell whether state is ahead of the blocks.", severityWarn, "restore", false, findStepUnknown},
	{"caplin-absent", "Beacon blocks, blobs and tables of caplin are there; this is for your information, as a chain may be published without.", severityWarn, "launch-flags", false, findCaplinAbsent},
	{"caplin-tables", "Where there are tables of caplin, none is missing that every release holds.", severityRefuse, "restore", false, findCaplinTables},
	{"caplin-ends", "All tables of caplin end at the same slot, but for those that no program writes any more.", severityRefuse, "restore", false, findCaplinEnds},
	{"blobs-one-behind", "Blobs may rest one range of 10,000 slots behind beacon blocks; this is for your information.", severityWarn, "", false, findBlobsOneBehind},
	{"blobs-apart", "Blobs are neither ahead of beacon blocks nor more than 10,000 slots behind: one gap that can't be filled stops all of them silently.", severityRefuse, "", false, findBlobsApart},
	{"rcache", "The cache of receipts is published (--persist.receipts).", severityWarn, "launch-flags", false, findRcache},
	{"commitment-history", "The history of commitment begins where it was switched on; this is for your information.", severityWarn, "", false, findCommitmentHistory},
	{"truncated", "No file is shorter than its torrent says, where the torrent is the younger one.", severityRefuse, "restore", true, findTruncated},
	{"torrent-missing", "Every file that is published has a torrent.", severityRefuse, "torrents", true, findTorrentMissing},
	{"torrent-stale", "No torrent is older than its data or of another length.", severityRefuse, "torrents", true, findTorrentStale},
	{"torrent-damaged", "Every torrent can be read and is what Erigon makes of a file of this name.", severityRefuse, "torrents", true, findTorrentDamaged},
	{"torrent-orphan", "Every torrent has its data; Erigon's own list of hashes would publish it without.", severityRefuse, "torrents --clean", true, findTorrentOrphan},
	{"torrent-unfinished", "No half-written torrent is left.", severityWarn, "torrents --clean", true, findTorrentUnfinished},
}

func findForeign(inv *inventory, found found) {
	for _, f := range inv.odd {
		switch f.reason {
		case reasonLeftover, reasonTorrent, reasonLocal:
		default:
			found(f.Name, fmt.Sprintf("it is no snapshot file (%s): move it out of snapshots/ before Erigon makes a torrent of it", f.reason))
		}
	}
	for _, f := range inv.Files {
		if !f.Mode.IsRegular() {
			found(f.Name, "not a regular file: put the file itself there")
		}
	}
}

func findUnfinished(inv *inventory, found found) {
	for _, f := range inv.odd {
		switch {
		case f.reason != reasonLeftover:
		case strings.HasSuffix(f.Name, ".part"):
			// Erigon's downloader renames a rebuilt file to .part when a stale torrent or its list has another hash.
			found(f.Name, "a download that did not end, or a file that the downloader set aside since a stale torrent has another hash: "+
				"run the snapshotter with --no-downloader, and see whether the file it was is whole", "launch-flags")
		default:
			found(f.Name, "some program was still writing it or was killed: let Erigon finish its merges, then remove what is left")
		}
	}
}

func findEmpty(inv *inventory, found found) {
	for _, f := range inv.Files {
		if f.Size == 0 && f.Mode.IsRegular() {
			data, _, isTorrent := torrentOf(f.Name)
			if _, reason := parse(f.Name); reason == "" {
				found(f.Name, "it has zero bytes", "restore", f.Name)
			} else if isTorrent {
				found(f.Name, fmt.Sprintf("the torrent of %s has zero bytes", data), "torrents")
			}
		}
	}
}

func findSalt(inv *inventory, found found) {
	for _, name := range []string{"salt-blocks.txt", "salt-state.txt"} {
		f, ok := inv.byName[name]
		switch {
		case !ok:
			found(name, "it is not there; without it Erigon makes a new one, and every index changes with it", "restore", name)
		case f.Size != 4 && f.Size != 0:
			found(name, fmt.Sprintf("it has %d bytes and needs 4", f.Size), "restore", name)
		}
	}
}

func findSettings(inv *inventory, found found) {
	if inv.Settings == nil {
		return // before 3.4 there was none
	}
	if _, err := readSettings(inv.Settings); err != nil {
		found("erigondb.toml", err.Error(), "restore", "erigondb.toml")
	}
}

// leads are the series by whose ranges the other types are asked for: without one of them nobody would ask.
var leads = []series{{"", "headers", "seg"}, {"domain", "accounts", "kv"}, {"idx", "accounts", "ef"}}

func findNoData(inv *inventory, found found) {
	for _, s := range leads {
		if len(inv.series[s]) == 0 {
			found("", fmt.Sprintf("there is no %s: is this the right datadir, and is retire through?", s))
		}
	}
}

func findTwoVersions(inv *inventory, found found) {
	for _, s := range inv.ordered {
		_, isIndex := dataOf(s)
		for _, v := range inv.flaws[s].Versions {
			for _, f := range v.Other {
				text := fmt.Sprintf("%s holds the same range in a higher version", v.At.Name)
				if isIndex {
					found(f.Name, text)
				} else {
					found(f.Name, text+": remove the one that the running Erigon does not write, with its torrent and indexes", "")
				}
			}
		}
	}
}

func findGap(inv *inventory, found found) {
	for _, s := range inv.ordered {
		for _, g := range gapsOf(s, inv.flaws[s]) {
			text := fmt.Sprintf("nothing of %s holds %d-%d, before this file", s, g.From, g.To)
			if g.From == 0 && s.Dir == "caplin" {
				text += ": Erigon's own publishable wants every table from slot 0, those of later forks, too"
			}
			if _, isIndex := dataOf(s); isIndex {
				found(g.At.Name, text, "index")
				continue
			}
			gap := g.At.fileName
			gap.From, gap.To = g.From, g.To
			found(g.At.Name, text, repairOf(gap))
		}
	}
}

func findOverlap(inv *inventory, found found) {
	for _, s := range inv.ordered {
		for _, o := range inv.flaws[s].Overlaps {
			found(o.At.Name, fmt.Sprintf("%s holds its range or a part of it already: a leftover of a merge", o.Other[0].Name))
		}
	}
}

// repairOf names the repair of data that is not there.
func repairOf(f fileName) string {
	switch {
	case f.Family != familyState:
		return "restore " + f.String()
	case f.Type == "commitment" && f.Dir == "domain":
		return "rebuild-commitment"
	case slices.Contains(regenerated, f.Type):
		return "regen " + f.Type
	}
	return "restore " + f.String()
}

// regenerated are the types that are made anew from blocks without executing them all.
var regenerated = []string{"receipt", "rcache", "logaddrs", "logtopics", "tracesfrom", "tracesto"}

func findMissingIndex(inv *inventory, found found) {
	for _, f := range inv.files {
		if !f.ranged() {
			continue
		}
		for _, any := range indexesOf(f.series()) {
			if !slices.ContainsFunc(any, func(s series) bool { return inv.has(s, f.fileName) }) {
				found(f.Name, fmt.Sprintf("it has no index %s of %s", any[0], f.span()))
			}
		}
	}
}

func findOrphanIndex(inv *inventory, found found) {
	for _, f := range inv.files {
		if data, ok := dataOf(f.series()); ok && f.ranged() && !inv.has(data, f.fileName) {
			found(f.Name, fmt.Sprintf("there is no data %s of %s: a ghost that a merge left behind; remove it and its torrent", data, f.span()))
		}
	}
}

func findRcache(inv *inventory, found found) {
	if len(inv.series[series{"domain", "accounts", "kv"}]) > 0 && len(inv.series[series{"domain", "rcache", "kv"}]) == 0 {
		found("", "there is no domain/rcache.kv: this snapshotter ran without --persist.receipts")
	}
}

func findCommitmentHistory(inv *inventory, found found) {
	s := series{"history", "commitment", "v"}
	if files := inv.series[s]; len(files) > 0 && files[0].From > 0 {
		found(files[0].Name, fmt.Sprintf("the history of commitment begins at step %d", files[0].From))
	}
}
