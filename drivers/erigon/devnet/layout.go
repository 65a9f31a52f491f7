package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// kind is all files of one type and extension; ver is the version in which this program writes it.
type kind struct{ dir, typ, ext, ver string }

// span is a range: thousands of blocks or slots, or steps. [from, to)
type span struct{ from, to uint64 }

func (s span) len() uint64           { return s.to - s.from }
func (s span) holds(other span) bool { return s.from <= other.from && other.to <= s.to }

// file is one that lies in snapshots/.
type file struct {
	kind
	span
	name string // relative, with forward slashes
}

func (k kind) name(s span) string {
	switch k.dir {
	case "":
		return fmt.Sprintf("%s-%06d-%06d-%s.%s", k.ver, s.from, s.to, k.typ, k.ext)
	case "caplin":
		return fmt.Sprintf("caplin/%s-%06d-%06d-%s.%s", k.ver, s.from, s.to, k.typ, k.ext)
	}
	return fmt.Sprintf("%s/%s-%s.%d-%d.%s", k.dir, k.ver, k.typ, s.from, s.to, k.ext)
}

// same tells whether two kinds are one but for the version.
func (k kind) same(o kind) bool { return k.dir == o.dir && k.typ == o.typ && k.ext == o.ext }

func (k kind) isState() bool { return k.dir != "" && k.dir != "caplin" }

var (
	blockTypes  = []string{"headers", "bodies", "transactions"}
	stateTypes  = []string{"accounts", "storage", "code", "commitment", "receipt", "rcache"} // domains
	traceTypes  = []string{"logaddrs", "logtopics", "tracesfrom", "tracesto"}
	caplinTypes = []string{
		"ActiveValidatorIndicies", "BalancesDump", "BlockRoot", "CurrentSyncCommittee", "EffectiveBalancesDump", "EpochData", "Eth1DataVotes",
		"InactivityScores", "IntraRandaoMixes", "NextSyncCommittee", "PendingConsolidations", "PendingConsolidationsDump", "PendingDeposits",
		"PendingDepositsDump", "PendingPartialWithdrawals", "PendingPartialWithdrawalsDump", "RandaoMixes", "SlotData", "StateEvents", "StateRoot",
		"ValidatorBalance", "ValidatorEffectiveBalance", "ValidatorSlashings",
	}
)

// blockKinds are the data files of blocks.
func blockKinds() (all []kind) {
	for _, t := range blockTypes {
		all = append(all, kind{"", t, "seg", "v1.1"})
	}
	return all
}

func domainKinds(receipts bool) (all []kind) {
	for _, t := range stateTypes {
		switch {
		case t == "rcache" && !receipts:
		case t == "receipt" || t == "rcache":
			all = append(all, kind{"domain", t, "kv", "v3.0"})
		default:
			all = append(all, kind{"domain", t, "kv", "v2.0"})
		}
	}
	return all
}

// historyKinds are histories and inverted indexes. There is none of commitment: that is switched off by default.
func historyKinds(receipts bool) (all []kind) {
	for _, t := range stateTypes {
		if t == "commitment" || t == "rcache" && !receipts {
			continue
		}
		ver := "v2.0"
		if t == "receipt" || t == "rcache" {
			ver = "v3.0"
		}
		all = append(all, kind{"history", t, "v", ver}, kind{"idx", t, "ef", "v3.0"})
	}
	for _, t := range traceTypes {
		all = append(all, kind{"idx", t, "ef", "v3.0"})
	}
	return all
}

// indexes of a data file: what has to be there for the same range.
func (k kind) indexes() []kind {
	switch k.ext {
	case "seg":
		switch {
		case k.dir == "" && k.typ == "blobsidecars":
			return []kind{{"", "blocksidecars", "idx", "v1.1"}}
		case k.dir == "" && k.typ == "transactions":
			return []kind{{"", k.typ, "idx", "v2.0"}, {"", "transactions-to-block", "idx", "v2.0"}}
		case k.dir == "" && slices.Contains(blockTypes, k.typ):
			return []kind{{"", k.typ, "idx", "v2.0"}}
		}
		return []kind{{k.dir, k.typ, "idx", "v1.1"}}
	case "kv":
		if k.typ == "commitment" || k.typ == "rcache" {
			return []kind{{"domain", k.typ, "kvi", "v2.0"}}
		}
		ver := "v1.1"
		if k.typ == "receipt" {
			ver = "v1.2"
		}
		return []kind{{"domain", k.typ, "bt", ver}, {"domain", k.typ, "kvei", ver}}
	case "v":
		ver := "v1.1"
		if k.typ == "accounts" || k.typ == "receipt" {
			ver = "v1.2"
		}
		return []kind{{"accessor", k.typ, "vi", ver}}
	case "ef":
		ver := "v2.1"
		if k.typ == "storage" || k.typ == "code" || k.typ == "rcache" {
			ver = "v2.0"
		}
		return []kind{{"accessor", k.typ, "efi", ver}}
	}
	return nil
}

// salt names the salt that an index is built with.
func (k kind) salt() string {
	if k.isState() {
		return "salt-state.txt"
	}
	return "salt-blocks.txt"
}

// blockSpans is how n thousands of blocks lie after all merges: 100k, 10k, 1k.
func blockSpans(n uint64) (all []span) {
	var at uint64
	for _, size := range []uint64{100, 10, 1} {
		for ; at+size <= n; at += size {
			all = append(all, span{at, at + size})
		}
	}
	return all
}

// caplinSpans are frozen at birth and never merged.
func caplinSpans(n, size uint64) (all []span) {
	for at := uint64(0); at+size <= n; at += size {
		all = append(all, span{at, at + size})
	}
	return all
}

// domainSpans is how steps of a domain lie after all merges: aligned powers of two, without an upper bound.
func domainSpans(steps uint64) []span { return powers(0, steps) }

// historySpans merge up to the frozen size only.
func historySpans(steps, frozen uint64) (all []span) {
	at := uint64(0)
	for ; at+frozen <= steps; at += frozen {
		all = append(all, span{at, at + frozen})
	}
	return append(all, powers(at, steps)...)
}

func powers(at, steps uint64) (all []span) {
	size := uint64(1)
	for size <= steps-at {
		size *= 2
	}
	for ; size > 0; size /= 2 {
		if at+size <= steps {
			all = append(all, span{at, at + size})
			at += size
		}
	}
	return all
}

var (
	blockName = regexp.MustCompile(`^(v\d+(?:\.\d+)?)-(\d{6,})-(\d{6,})-([A-Za-z0-9-]+)\.(seg|idx)$`)
	stateName = regexp.MustCompile(`^(v\d+(?:\.\d+)?)-([a-z]+)\.(\d+)-(\d+)\.(kv|kvi|kvei|bt|v|ef|vi|efi)$`)
)

// parseName reads the name of a data file or an index.
func parseName(name string) (file, bool) {
	dir, base := filepath.ToSlash(filepath.Dir(name)), filepath.Base(name)
	if dir == "." {
		dir = ""
	}
	var f file
	var from, to string
	switch m := blockName.FindStringSubmatch(base); {
	case m != nil && (dir == "" || dir == "caplin"):
		f.kind, from, to = kind{dir, m[4], m[5], m[1]}, m[2], m[3]
	default:
		m := stateName.FindStringSubmatch(base)
		if m == nil || dir == "" || dir == "caplin" {
			return file{}, false
		}
		f.kind, from, to = kind{dir, m[2], m[5], m[1]}, m[3], m[4]
	}
	var err1, err2 error
	f.from, err1 = strconv.ParseUint(from, 10, 48)
	f.to, err2 = strconv.ParseUint(to, 10, 48)
	f.name = name
	return f, err1 == nil && err2 == nil && f.from < f.to
}

var snapFolders = []string{"", "idx", "history", "domain", "accessor", "caplin"}

// list reads the names in snapshots/: data and indexes, and all that is not understood, torrents left out.
func (d *datadir) list() (files []file, odd []string, err error) {
	for _, dir := range snapFolders {
		names, err := os.ReadDir(d.snap(dir))
		if err != nil && !os.IsNotExist(err) {
			return nil, nil, err
		}
		for _, e := range names {
			if e.IsDir() || strings.HasSuffix(e.Name(), ".torrent") {
				continue
			}
			name := e.Name()
			if dir != "" {
				name = dir + "/" + name
			}
			if f, ok := parseName(name); ok {
				files = append(files, f)
			} else {
				odd = append(odd, name)
			}
		}
	}
	return files, odd, nil
}

// of are the files of one kind in the order of their ranges, the longest first where several begin together.
func of(files []file, k kind) (some []file) {
	for _, f := range files {
		if f.kind.same(k) {
			some = append(some, f)
		}
	}
	slices.SortFunc(some, func(a, b file) int {
		if a.from != b.from {
			return int(int64(a.from) - int64(b.from))
		}
		return int(int64(b.to) - int64(a.to))
	})
	return some
}

// end is how far files reach without a gap.
func end(files []file) (at uint64) {
	for _, f := range files {
		if f.from <= at {
			at = max(at, f.to)
		}
	}
	return at
}

func has(files []file, k kind, s span) bool {
	return slices.ContainsFunc(files, func(f file) bool { return f.kind.same(k) && f.span == s })
}
