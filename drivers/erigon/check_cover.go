package main

import (
	"errors"
	"fmt"
	"slices"
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
	step, known := inv.stepSize()
	if inv.BlockTxNum == 0 || !known || end == 0 {
		return
	}
	if txs := end * step; txs > inv.BlockTxNum {
		files := inv.series[series{"domain", "accounts", "kv"}]
		found(files[len(files)-1].Name, fmt.Sprintf("state reaches to transaction %d, the block files hold %d", txs, inv.BlockTxNum))
	}
}

// legacyStep is a step's size where there is no erigondb.toml, which begins with 3.4.
const legacyStep = 1_562_500

// stepSize is what a step holds. A datadir that was synced before 3.4 has the list of its first sync, and no erigondb.toml.
func (inv *inventory) stepSize() (txs uint64, known bool) {
	if inv.Settings == nil {
		_, known = inv.byName["preverified.toml"]
		return legacyStep, known
	}
	settings, err := readSettings(inv.Settings)
	return settings.StepSize, err == nil // else the rule "settings" says so
}

func findStepUnknown(inv *inventory, found found) {
	if _, known := inv.stepSize(); !known && inv.Settings == nil && inv.BlockTxNum > 0 {
		found("erigondb.toml", "neither erigondb.toml nor preverified.toml is there, so nobody can tell how many transactions a step holds, "+
			"nor whether state is ahead of the blocks", "restore", "erigondb.toml")
	}
}

// findCaplinAbsent: Erigon's own publishable takes a chain without any of them.
func findCaplinAbsent(inv *inventory, found found) {
	for _, s := range []series{{"", "beaconblocks", "seg"}, {"", "blobsidecars", "seg"}} {
		if len(inv.series[s]) == 0 {
			found("", fmt.Sprintf("there is no %s", s))
		}
	}
	if !inv.anyTable() {
		found("", "there is no table of caplin")
	}
}

func (inv *inventory) anyTable() bool {
	return slices.ContainsFunc(inv.ordered, func(s series) bool { return s.Dir == "caplin" && s.Ext == "seg" })
}

// knownTables are those that every version since 3.1 writes and publishes. Later forks bring others, which nobody misses here.
var knownTables = []string{
	"ActiveValidatorIndicies", "BalancesDump", "BlockRoot", "CurrentSyncCommittee", "EffectiveBalancesDump", "EpochData", "Eth1DataVotes",
	"InactivityScores", "IntraRandaoMixes", "NextSyncCommittee", "PendingConsolidations", "PendingConsolidationsDump", "PendingDeposits",
	"PendingDepositsDump", "PendingPartialWithdrawals", "PendingPartialWithdrawalsDump", "RandaoMixes", "SlotData", "StateEvents", "StateRoot",
	"ValidatorBalance", "ValidatorEffectiveBalance", "ValidatorSlashings",
}

// findCaplinTables: Erigon's own publishable refuses tables of which some are empty while others are there.
func findCaplinTables(inv *inventory, found found) {
	for _, typ := range knownTables {
		s := series{"caplin", typ, "seg"}
		if len(inv.series[s]) > 0 || !inv.anyTable() {
			continue
		}
		i := slices.IndexFunc(inv.files, func(f named) bool { return f.Dir == "caplin" && f.Ext == "seg" && f.From == 0 })
		name := fileName{Family: familyTable, Ver: version{Major: 1, Minor: 1}, To: 1}
		if i >= 0 {
			name = inv.files[i].fileName
		}
		name.Dir, name.Type, name.Ext = s.Dir, s.Type, s.Ext
		found(name.String(), fmt.Sprintf("there is no %s, and other tables are there", s), "restore", name.String())
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
