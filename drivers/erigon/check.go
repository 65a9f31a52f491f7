package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/snapfw/snapfw/core"
)

// severity says what a finding of a check does to a release.
type severity string

const (
	severityRefuse severity = "refuse" // nothing is published
	severityWarn   severity = "warn"   // people are told
)

// checkFinding is one thing that a rule found.
type checkFinding struct {
	Rule     string   `json:"rule"`
	File     string   `json:"file"` // relative to snapshots/; a name that should be there but is not, or ""
	Text     string   `json:"text"` // one sentence
	Fix      string   `json:"fix"`  // the kind of repair and its arguments: "restore v1.1-…"; "" where Text says what to do
	Severity severity `json:"severity"`
}

// checkInput is what the rules look at. None of it needs Erigon's own programs, and no byte of
// data is read for it.
type checkInput struct {
	Files []checkFile

	// Settings is erigondb.toml; nil if there is none.
	Settings []byte

	// BlockTxNum is the first transaction number after the last block file, as `seg txnum` says it;
	// 0 if nobody asked.
	BlockTxNum uint64

	// Torrents is false while the torrents are still to be made: then they are not judged.
	Torrents bool
}

// checkFile is one file below snapshots/.
type checkFile struct {
	Name    string // relative, with forward slashes
	Size    int64
	Time    time.Time // of its last change
	Mode    fs.FileMode
	Torrent *torrentFile // of a .torrent that could be read
	Damage  string       // why a .torrent could not be read
}

// rule is one check. To add one, write it into rules and run the tests with -update.
type rule struct {
	Name     string
	Says     string // what has to be so, one sentence
	Severity severity
	Fix      string // the usual repair
	Torrents bool   // it looks at torrents, so it waits until they are made
	find     func(*inventory, found)
}

// found takes what a rule finds. fix is the whole repair, where the rule's usual one needs
// arguments or is not the right one.
type found func(file, text string, fix ...string)

// inventory is a checkInput, sorted for the rules.
type inventory struct {
	checkInput
	byName  map[string]checkFile
	files   []named // those whose names were understood
	odd     []oddFile
	series  map[series][]named
	ranges  map[series]map[[2]uint64]named // the highest version of a range
	flaws   map[series]flaws
	ordered []series // the keys of series, sorted
}

type oddFile struct {
	checkFile
	reason nameReason
}

func newInventory(in checkInput) *inventory {
	inv := &inventory{checkInput: in, byName: make(map[string]checkFile, len(in.Files)), files: make([]named, 0, len(in.Files)),
		ranges: map[series]map[[2]uint64]named{}, flaws: map[series]flaws{}}
	for _, f := range in.Files {
		inv.byName[f.Name] = f
		name, reason := parse(f.Name)
		if reason != "" {
			inv.odd = append(inv.odd, oddFile{f, reason})
			continue
		}
		inv.files = append(inv.files, named{fileName: name, Name: f.Name})
	}
	inv.series = bySeries(inv.files)
	inv.ordered = seriesOf(inv.series)
	for s, files := range inv.series {
		inv.flaws[s] = inspect(files)
		inv.ranges[s] = make(map[[2]uint64]named, len(files))
		for _, f := range slices.Backward(files) { // the highest version comes first and stays
			inv.ranges[s][[2]uint64{f.From, f.To}] = f
		}
	}
	return inv
}

func (inv *inventory) has(s series, f fileName) bool {
	_, ok := inv.ranges[s][[2]uint64{f.From, f.To}]
	return ok
}

// check applies every rule. Findings are in the order of the rules, and by file in each.
func check(in checkInput, skip []skipRule) []checkFinding {
	inv := newInventory(in)
	var all []checkFinding
	for _, r := range rules {
		if r.Torrents && !in.Torrents {
			continue
		}
		first := len(all)
		r.find(inv, func(file, text string, fix ...string) {
			f := checkFinding{Rule: r.Name, File: file, Text: text, Fix: r.Fix, Severity: r.Severity}
			if fix != nil {
				f.Fix = strings.Join(fix, " ")
			}
			all = append(all, excused(f, skip))
		})
		slices.SortStableFunc(all[first:], func(a, b checkFinding) int { return cmp.Compare(a.File, b.File) })
	}
	return all
}

// stays tells whether a finding on a node that runs will be one of the release, too: neither the node's own merges, nor retire, nor index put it
// right. Caplin's files are such that no command of Erigon's makes them.
func (inv *inventory) stays(f checkFinding) bool {
	name, reason := parse(f.File)
	_, isIndex := dataOf(name.series())
	isData := reason == "" && !isIndex
	switch f.Rule {
	case "foreign", "settings", "caplin-ends", "caplin-tables", "blobs-apart":
		return true
	case "salt": // where the indexes were cleared, index makes a new one
		_, there := inv.byName[f.File]
		return there || slices.ContainsFunc(inv.ordered, func(s series) bool {
			salt, ok := salted(s)
			return ok && salt == f.File
		})
	case "unfinished":
		return strings.HasSuffix(f.File, ".part")
	case "empty", "two-versions":
		return isData
	case "gap":
		return isData && (name.Family == familySlot || name.Family == familyTable)
	}
	return false
}

// refused tells whether a finding stands in the way.
func refused(all []checkFinding) bool {
	return slices.ContainsFunc(all, func(f checkFinding) bool { return f.Severity == severityRefuse })
}

// skipRule makes a rule's findings warnings, for all files or for those of one type: some
// chains are known to lack something.
type skipRule struct {
	Rule   string `json:"rule"`
	Type   string `json:"type"` // "rcache"; "" is all
	Reason string `json:"reason"`
}

// skipSchema is the JSON Schema of "skip_checks" in a chain's configuration.
const skipSchema = `{
  "description": "Checks of the files whose findings are known of this chain and only reported.",
  "type": "array",
  "items": {
    "type": "object",
    "additionalProperties": false,
    "required": ["rule", "reason"],
    "properties": {
      "rule": {"description": "Name of the rule, as the check prints it.", "type": "string", "minLength": 1},
      "type": {"description": "Only for files of this type: rcache.", "type": "string", "minLength": 1},
      "reason": {"description": "Why it is known; it is reported with each finding.", "type": "string", "minLength": 1}
    }
  }
}`

// readSkips reads "skip_checks" of a chain's configuration; nothing else in it is looked at.
func readSkips(config json.RawMessage) ([]skipRule, error) {
	if len(bytes.TrimSpace(config)) == 0 {
		return nil, nil
	}
	var c struct {
		Skip []json.RawMessage `json:"skip_checks"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, core.FieldErrors{{Field: "skip_checks", Msg: "want a list: " + err.Error()}}
	}
	var skips []skipRule
	var wrong core.FieldErrors
	for i, raw := range c.Skip {
		field := fmt.Sprintf("skip_checks[%d]", i)
		var s skipRule
		d := json.NewDecoder(bytes.NewReader(raw))
		d.DisallowUnknownFields()
		if err := d.Decode(&s); err != nil {
			wrong = append(wrong, core.FieldError{Field: field, Msg: err.Error()})
			continue
		}
		if !slices.ContainsFunc(rules, func(r rule) bool { return r.Name == s.Rule }) {
			wrong = append(wrong, core.FieldError{Field: field + ".rule", Msg: fmt.Sprintf("there is no rule %q", s.Rule)})
		}
		if s.Reason == "" {
			wrong = append(wrong, core.FieldError{Field: field + ".reason", Msg: "a check is not skipped without a reason"})
		}
		skips = append(skips, s)
	}
	return skips, wrong.Err()
}

func excused(f checkFinding, skip []skipRule) checkFinding {
	for _, s := range skip {
		if s.Rule != f.Rule {
			continue
		}
		name := f.File
		if data, _, ok := torrentOf(name); ok {
			name = data
		}
		if of, err := parseName(name); s.Type == "" || err == nil && of.Type == s.Type {
			f.Severity = severityWarn
			f.Text += " (known: " + s.Reason + ")"
			return f
		}
	}
	return f
}
