package main

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// family is the part of a chain that a snapshot file belongs to. It decides the grammar of the
// name and the unit of the range.
type family uint8

const (
	familyBlock    family = iota + 1 // headers, bodies, transactions: thousands of blocks
	familySlot                       // beaconblocks, blobsidecars: thousands of slots
	familyTable                      // caplin/…: thousands of slots
	familyState                      // domain, history, idx, accessor: steps
	familySalt                       // salt-blocks.txt, salt-state.txt: no range
	familySettings                   // erigondb.toml: no range
)

// fileName is what the name of one snapshot file says. The zero value is no name.
type fileName struct {
	Family family
	Dir    string // "", "caplin", "domain", "history", "idx" or "accessor"
	Type   string // "headers", "BlockRoot", "accounts", "salt-state", "erigondb"
	Ext    string // without the dot: "seg", "kvei"
	Ver    version
	From   uint64 // in the unit of the family: [From, To)
	To     uint64
}

// version is of one type and one extension, never of a whole release; nothing here knows which
// versions exist. A reader takes the highest one that it finds.
type version struct {
	Major, Minor uint8
	Short        bool // written "v1", which means v1.0
}

// compare orders versions; "v1" and "v1.0" are equal.
func (v version) compare(o version) int {
	return cmp.Or(cmp.Compare(v.Major, o.Major), cmp.Compare(v.Minor, o.Minor))
}

func (v version) String() string {
	if v.Short {
		return "v" + strconv.Itoa(int(v.Major))
	}
	return "v" + strconv.Itoa(int(v.Major)) + "." + strconv.Itoa(int(v.Minor))
}

// series is all files of one type and one extension: together they have to cover the chain.
type series struct{ Dir, Type, Ext string }

func (s series) String() string {
	name := s.Type + "." + s.Ext
	if s.Dir != "" {
		name = s.Dir + "/" + name
	}
	return name
}

func (f fileName) series() series { return series{f.Dir, f.Type, f.Ext} }

// ranged tells whether the file holds a range of the chain, which salts and settings do not.
func (f fileName) ranged() bool { return f.Family != familySalt && f.Family != familySettings }

// span is the range as people write it: "0-64".
func (f fileName) span() string { return fmt.Sprintf("%d-%d", f.From, f.To) }

// inRange is the name that a file of another series would have for the same range. The version
// is this file's, so the name is a hint for people and never looked up.
func (f fileName) inRange(s series) string {
	f.Dir, f.Type, f.Ext = s.Dir, s.Type, s.Ext
	return f.String()
}

// String is the name relative to snapshots/; parseName(f.String()) gives f back.
func (f fileName) String() string {
	switch f.Family {
	case familySalt, familySettings:
		return f.Type + "." + f.Ext
	case familyState:
		return fmt.Sprintf("%s/%s-%s.%d-%d.%s", f.Dir, f.Ver, f.Type, f.From, f.To, f.Ext)
	case familyTable:
		return fmt.Sprintf("%s/%s-%06d-%06d-%s.%s", f.Dir, f.Ver, f.From, f.To, f.Type, f.Ext)
	default:
		return fmt.Sprintf("%s-%06d-%06d-%s.%s", f.Ver, f.From, f.To, f.Type, f.Ext)
	}
}

// nameReason names why a string is no snapshot file.
type nameReason string

const (
	reasonUnsafe   nameReason = "unsafe path"     // empty, too long, "..", a control character
	reasonLeftover nameReason = "unfinished file" // .part, .tmp, .lock
	reasonTorrent  nameReason = "torrent"         // X.torrent, X.torrent123
	reasonLocal    nameReason = "local file"      // preverified.toml, chain.toml, manifest.txt: of this node only
	reasonFolder   nameReason = "unknown folder"
	reasonVersion  nameReason = "bad version"
	reasonRange    nameReason = "bad range"
	reasonType     nameReason = "unknown type"
	reasonExt      nameReason = "wrong extension"
)

// nameError says why a string is not the name of a snapshot file.
type nameError struct {
	Name   string
	Reason nameReason
}

func (e *nameError) Error() string {
	name := e.Name
	if len(name) > 80 {
		name = strings.ToValidUTF8(name[:80], "") + "…"
	}
	return fmt.Sprintf("%q is no snapshot file: %s", name, e.Reason)
}

// extensions lists, by folder, what lies there.
var extensions = map[string][]string{
	"domain":   {"kv", "kvi", "kvei", "bt"},
	"history":  {"v"},
	"idx":      {"ef"},
	"accessor": {"vi", "efi"},
	"caplin":   {"seg", "idx"},
}

// rootTypes lists the types of files without a folder, and their extensions. The index of
// blobsidecars.seg really has another stem.
var rootTypes = map[string]struct {
	family     family
	extensions []string
}{
	"headers":               {familyBlock, []string{"seg", "idx"}},
	"bodies":                {familyBlock, []string{"seg", "idx"}},
	"transactions":          {familyBlock, []string{"seg", "idx"}},
	"transactions-to-block": {familyBlock, []string{"idx"}},
	"borevents":             {familyBlock, []string{"seg", "idx"}},
	"borspans":              {familyBlock, []string{"seg", "idx"}},
	"borcheckpoints":        {familyBlock, []string{"seg", "idx"}},
	"bormilestones":         {familyBlock, []string{"seg", "idx"}},
	"bscblobsidecars":       {familyBlock, []string{"seg", "idx"}},
	"beaconblocks":          {familySlot, []string{"seg", "idx"}},
	"blobsidecars":          {familySlot, []string{"seg"}},
	"blocksidecars":         {familySlot, []string{"idx"}},
}

// localNames are files that Erigon and its tools keep beside the snapshots and that are never
// published: the pin of the first sync, the list for peers, an upload's list, an old marker.
var localNames = map[string]bool{
	"preverified.toml": true, "chain.toml": true, "manifest.txt": true, "prohibit_new_downloads.lock": true,
}

const maxName = 255

// parseName reads the name of a snapshot file, relative to snapshots/ with forward slashes. It
// takes exactly what Erigon writes: what it accepts is String() again. Any other string gives a
// *nameError.
func parseName(name string) (fileName, error) {
	f, reason := parse(name)
	if reason != "" {
		return fileName{}, &nameError{name, reason}
	}
	return f, nil
}

func parse(name string) (fileName, nameReason) {
	if !safeName(name) {
		return fileName{}, reasonUnsafe
	}
	if localNames[name] {
		return fileName{}, reasonLocal
	}
	if _, _, ok := torrentOf(name); ok {
		return fileName{}, reasonTorrent
	}
	if unfinished(name) {
		return fileName{}, reasonLeftover
	}
	switch name {
	case "salt-blocks.txt", "salt-state.txt":
		return fileName{Family: familySalt, Type: strings.TrimSuffix(name, ".txt"), Ext: "txt"}, ""
	case "erigondb.toml":
		return fileName{Family: familySettings, Type: "erigondb", Ext: "toml"}, ""
	}
	dir, base, found := strings.Cut(name, "/")
	if !found {
		dir, base = "", name
	}
	if found && extensions[dir] == nil || strings.Contains(base, "/") {
		return fileName{}, reasonFolder
	}
	v, rest, _ := strings.Cut(base, "-")
	ver, ok := parseVersion(v)
	if !ok {
		return fileName{}, reasonVersion
	}
	if dir == "" || dir == "caplin" {
		return parseBlock(dir, ver, rest)
	}
	return parseState(dir, ver, rest)
}

// parseBlock reads "000000-000500-headers.seg", and the same with a table's name in caplin.
func parseBlock(dir string, ver version, rest string) (fileName, nameReason) {
	first, rest, _ := strings.Cut(rest, "-")
	second, rest, _ := strings.Cut(rest, "-")
	from, ok1 := parsePadded(first)
	to, ok2 := parsePadded(second)
	if !ok1 || !ok2 || from >= to {
		return fileName{}, reasonRange
	}
	typ, ext, _ := strings.Cut(rest, ".")
	f := fileName{Family: familyTable, Dir: dir, Type: typ, Ext: ext, Ver: ver, From: from, To: to}
	exts := extensions[dir]
	if dir == "" {
		known, ok := rootTypes[typ]
		if !ok {
			return fileName{}, reasonType
		}
		f.Family, exts = known.family, known.extensions
	} else if !isTable(typ) {
		return fileName{}, reasonType
	}
	return f, extReason(exts, ext)
}

// parseState reads "accounts.0-64.kv".
func parseState(dir string, ver version, rest string) (fileName, nameReason) {
	typ, rest, _ := strings.Cut(rest, ".")
	if !isLower(typ) {
		return fileName{}, reasonType
	}
	span, ext, _ := strings.Cut(rest, ".")
	first, second, _ := strings.Cut(span, "-")
	from, ok1 := parseNumber(first)
	to, ok2 := parseNumber(second)
	if !ok1 || !ok2 || from >= to {
		return fileName{}, reasonRange
	}
	f := fileName{Family: familyState, Dir: dir, Type: typ, Ext: ext, Ver: ver, From: from, To: to}
	return f, extReason(extensions[dir], ext)
}

func extReason(known []string, ext string) nameReason {
	for _, e := range known {
		if e == ext {
			return ""
		}
	}
	return reasonExt
}

// safeName tells whether a name can be joined to a folder or to a prefix without leaving it,
// and be written between single quotes.
func safeName(name string) bool {
	if name == "" || len(name) > maxName || !utf8.ValidString(name) {
		return false
	}
	for _, r := range name {
		if r < ' ' || r == 0x7f || r == '\\' || r == '\'' || r == '"' || r == utf8.RuneError {
			return false
		}
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return true
}

// torrentOf says which data file a torrent belongs to. A name like X.torrent123 is what is left
// of one that was being written.
func torrentOf(name string) (data string, partial, ok bool) {
	stem := strings.TrimRight(name, "0123456789")
	data, ok = strings.CutSuffix(stem, ".torrent")
	if !ok || data == "" {
		return "", false, false
	}
	return data, stem != name, true
}

// unfinished tells names of files that some program was still writing, or keeps as a lock.
func unfinished(name string) bool {
	return strings.HasSuffix(name, ".part") || strings.HasSuffix(name, ".tmp") || strings.HasSuffix(name, ".lock")
}

func parseVersion(s string) (version, bool) {
	s, ok := strings.CutPrefix(s, "v")
	if !ok {
		return version{}, false
	}
	major, minor, dotted := strings.Cut(s, ".")
	a, ok1 := parseNumber(major)
	b, ok2 := uint64(0), true
	if dotted {
		b, ok2 = parseNumber(minor)
	}
	if !ok1 || !ok2 || a > 255 || b > 255 {
		return version{}, false
	}
	return version{Major: uint8(a), Minor: uint8(b), Short: !dotted}, true
}

// maxDigits keeps numbers far from overflow, also when they are multiplied by a step's size.
const maxDigits = 12

// parseNumber reads a decimal number without leading zeros.
func parseNumber(s string) (uint64, bool) {
	if s == "" || len(s) > maxDigits || len(s) > 1 && s[0] == '0' {
		return 0, false
	}
	return digits(s)
}

// parsePadded reads a number written with at least six digits.
func parsePadded(s string) (uint64, bool) {
	if len(s) < 6 || len(s) > maxDigits || len(s) > 6 && s[0] == '0' {
		return 0, false
	}
	return digits(s)
}

func digits(s string) (n uint64, ok bool) {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, true
}

func isLower(s string) bool {
	for _, c := range []byte(s) {
		if c < 'a' || c > 'z' {
			return false
		}
	}
	return s != ""
}

// isTable tells names of caplin's tables: "Eth1DataVotes". New ones come with every fork.
func isTable(s string) bool {
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9') {
			return false
		}
	}
	return s != "" && s[0] >= 'A' && s[0] <= 'Z'
}
