package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// domains are the parts of state; each has a file for every range of accounts. rcache is
// optional as a whole: where there is one file of it, it has to be complete.
var domains = []string{"accounts", "storage", "code", "commitment", "receipt", "rcache"}

// histories have a .v beside their .ef; traces and logs have the .ef only. rcache and commitment are
// optional as a whole, and commitment may begin late.
var (
	histories = []string{"accounts", "storage", "code", "receipt", "rcache", "commitment"}
	traces    = []string{"logaddrs", "logtopics", "tracesfrom", "tracesto"}
)

// findMissingData walks all ranges of one leading type and asks for the others in the same
// range, and the other way round: two ranges that cover the same are not the same files.
func findMissingData(inv *inventory, found found) {
	headers := series{"", "headers", "seg"}
	for _, typ := range []string{"bodies", "transactions"} {
		inv.sameRanges(headers, series{"", typ, "seg"}, false, found)
	}
	accounts := series{"domain", "accounts", "kv"}
	for _, typ := range domains[1:] {
		s := series{"domain", typ, "kv"}
		if typ != "rcache" || inv.anyOf("rcache") {
			inv.sameRanges(accounts, s, false, found)
		}
	}
	index := series{"idx", "accounts", "ef"}
	for _, typ := range append(histories[1:], traces...) {
		s := series{"idx", typ, "ef"}
		switch {
		case typ == "rcache" && !inv.anyOf("rcache"), typ == "commitment" && !inv.anyHistory("commitment"):
		default:
			inv.sameRanges(index, s, startsLate(s), found)
		}
	}
	for _, typ := range histories {
		history, index := series{"history", typ, "v"}, series{"idx", typ, "ef"}
		if len(inv.series[history])+len(inv.series[index]) > 0 {
			inv.sameRanges(index, history, false, found)
		}
	}
}

// anyOf tells whether there is any file of an optional type.
func (inv *inventory) anyOf(typ string) bool {
	return len(inv.series[series{"domain", typ, "kv"}]) > 0 || inv.anyHistory(typ)
}

func (inv *inventory) anyHistory(typ string) bool {
	return len(inv.series[series{"history", typ, "v"}])+len(inv.series[series{"idx", typ, "ef"}]) > 0
}

// sameRanges asks that two series consist of the same ranges; late leaves out what lies before
// the second one begins.
func (inv *inventory) sameRanges(lead, other series, late bool, found found) {
	var begin uint64
	if files := inv.series[other]; late && len(files) > 0 {
		begin = files[0].From
	}
	for _, f := range inv.series[lead] {
		if f.From >= begin && !inv.has(other, f.fileName) {
			found(f.Name, fmt.Sprintf("there is no %s of %s beside it", other, f.span()), repairOf(inv.like(f.fileName, other)))
		}
	}
	for _, f := range inv.series[other] {
		if !inv.has(lead, f.fileName) {
			found(f.Name, fmt.Sprintf("there is no %s of %s beside it", lead, f.span()), repairOf(inv.like(f.fileName, lead)))
		}
	}
}

// like is a name of another series for a file's range, in the version of that series' last file.
func (inv *inventory) like(f fileName, s series) fileName {
	f.Dir, f.Type, f.Ext = s.Dir, s.Type, s.Ext
	if files := inv.series[s]; len(files) > 0 {
		f.Ver = files[len(files)-1].Ver
	}
	return f
}

// findStateEnds compares where every series of state ends: a file beyond the last one of accounts
// would be found as missing data, too, but of indexes and unknown types nobody else looks at the end.
func findStateEnds(inv *inventory, found found) {
	want := endOf(inv.series[series{"domain", "accounts", "kv"}])
	if want == 0 {
		return
	}
	for _, s := range inv.ordered {
		files := inv.series[s]
		last := files[len(files)-1]
		if last.Family != familyState {
			continue
		}
		if end := endOf(files); end != want {
			found(last.Name, fmt.Sprintf("%s ends at step %d, domain/accounts.kv at %d", s, end, want))
		}
	}
}

// findStateAhead compares transaction numbers: a step is step_size of them.
func findStateAhead(inv *inventory, found found) {
	end := endOf(inv.series[series{"domain", "accounts", "kv"}])
	if inv.BlockTxNum == 0 || inv.Settings == nil || end == 0 {
		return
	}
	settings, err := readSettings(inv.Settings)
	if err != nil {
		return // the rule "settings" says so
	}
	if txs := end * settings.StepSize; txs > inv.BlockTxNum {
		files := inv.series[series{"domain", "accounts", "kv"}]
		found(files[len(files)-1].Name, fmt.Sprintf("state reaches to transaction %d, the block files hold %d", txs, inv.BlockTxNum))
	}
}

// retiredTables are published for old nodes though no program writes them any more: they end
// where they were dropped.
var retiredTables = map[string]bool{"BlockProposers": true}

func findCaplinEnds(inv *inventory, found found) {
	var want uint64
	for s, files := range inv.series {
		if s.Dir == "caplin" && !retiredTables[s.Type] {
			want = max(want, endOf(files))
		}
	}
	for _, s := range inv.ordered {
		files := inv.series[s]
		if s.Dir != "caplin" || s.Ext != "seg" || retiredTables[s.Type] {
			continue
		}
		if end := endOf(files); end != want {
			last := files[len(files)-1]
			next := last.fileName
			next.From, next.To = end, want
			found(last.Name, fmt.Sprintf("%s ends at slot %d,000, other tables at %d,000", s.Type, end, want), "restore "+next.String())
		}
	}
}

// blobRange is how far blobs normally rest behind beacon blocks, in thousands of slots.
const blobRange = 10

func (inv *inventory) blobs() (beacons, blobs uint64, last named) {
	files := inv.series[series{"", "blobsidecars", "seg"}]
	if len(files) > 0 {
		last = files[len(files)-1]
	}
	return endOf(inv.series[series{"", "beaconblocks", "seg"}]), endOf(files), last
}

func findBlobsOneBehind(inv *inventory, found found) {
	if beacons, blobs, last := inv.blobs(); blobs > 0 && blobs < beacons && beacons-blobs <= blobRange {
		found(last.Name, fmt.Sprintf("blobs end at slot %d,000, beacon blocks at %d,000: that is as it should be", blobs, beacons))
	}
}

func findBlobsApart(inv *inventory, found found) {
	switch beacons, blobs, last := inv.blobs(); {
	case blobs == 0:
	case blobs > beacons:
		found(last.Name, fmt.Sprintf("blobs end at slot %d,000, beacon blocks at %d,000 already: they are not of the same node", blobs, beacons))
	case beacons-blobs > blobRange:
		found(last.Name, fmt.Sprintf("blobs end at slot %d,000, beacon blocks at %d,000: look in the log for a slot whose blobs are missing; "+
			"one such gap stops all blobs after it", blobs, beacons))
	}
}

// chainSettings is what erigondb.toml says.
type chainSettings struct {
	StepSize     uint64 // transactions
	FrozenLength uint64 // steps of a file that is not merged any more
}

var errSettings = errors.New("erigondb.toml needs step_size and steps_in_frozen_file, numbers of at least 1")

// readSettings reads erigondb.toml: lines "key = value". Keys that it does not know are those of
// later versions.
func readSettings(body []byte) (chainSettings, error) {
	var s chainSettings
	for line := range strings.Lines(string(body)) {
		line, _, _ = strings.Cut(line, "#")
		key, value, _ := strings.Cut(line, "=")
		var to *uint64
		switch strings.TrimSpace(key) {
		case "step_size":
			to = &s.StepSize
		case "steps_in_frozen_file":
			to = &s.FrozenLength
		default:
			continue
		}
		n, err := strconv.ParseUint(strings.ReplaceAll(strings.TrimSpace(value), "_", ""), 10, 40)
		if err != nil || *to != 0 {
			return chainSettings{}, errSettings
		}
		*to = n
	}
	if s.StepSize == 0 || s.FrozenLength == 0 {
		return chainSettings{}, errSettings
	}
	return s, nil
}
