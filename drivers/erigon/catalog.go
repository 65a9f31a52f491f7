package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/snapfw/snapfw/core"
)

// infohash is the key of core.Entry.Sums that chains of this driver use: the SHA-1 of a
// torrent's info dictionary, 40 lower-case hex digits. It covers name, length and content.
const infohash = "infohash"

// Limits of a list: what is published has 30,000 entries and 3 MB at the most.
const (
	maxList    = 64 << 20
	maxLine    = 4 << 10
	maxEntries = 1 << 20
)

// catalog reads and writes <chain>.toml, the list that every node starts from.
type catalog struct{}

// Parse reads a list: one 'NAME' = 'INFOHASH' a line. Blank lines, comments and double quotes
// (the form of the list for peers) are tolerated; all else is refused by line: a
// name twice, a name that leaves its folder, a hash that is none. A name need not be one of
// a snapshot file, as what was published long ago may hold others. No
// entries are no error: such a list is really published for a chain that is to come.
func (catalog) Parse(_ context.Context, body []byte) ([]core.Entry, error) {
	var entries []core.Entry
	err := eachListed(body, func(name, sum string) {
		entries = append(entries, core.Entry{Name: name, Sums: map[string]string{infohash: sum}})
	})
	if err != nil {
		return nil, err
	}
	return entries, nil
}

// eachListed tells of each name in a list and its infohash.
func eachListed(body []byte, tell func(name, sum string)) error {
	if len(body) > maxList {
		return fmt.Errorf("the list has %d bytes, more than %d", len(body), maxList)
	}
	seen := make(map[string]int, bytes.Count(body, []byte("\n")))
	n := 0
	for line := range bytes.Lines(body) {
		n++
		line = bytes.TrimSuffix(line, []byte("\n"))
		if len(line) > maxLine {
			return fmt.Errorf("line %d has %d bytes, more than %d", n, len(line), maxLine)
		}
		text := strings.Trim(string(line), " \t\r")
		if text == "" || text[0] == '#' {
			continue
		}
		name, sum, err := parseLine(text)
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if first := seen[name]; first > 0 {
			return fmt.Errorf("line %d: %s is on line %d already", n, name, first)
		}
		if seen[name] = n; len(seen) > maxEntries {
			return fmt.Errorf("line %d: more than %d entries", n, maxEntries)
		}
		tell(name, sum)
	}
	return nil
}

func parseLine(text string) (name, sum string, err error) {
	name, rest, ok := cutQuoted(text)
	if !ok {
		return "", "", fmt.Errorf("want 'name' = 'infohash', found %.60q", text)
	}
	if rest, ok = strings.CutPrefix(strings.TrimLeft(rest, " \t"), "="); ok {
		sum, rest, ok = cutQuoted(strings.TrimLeft(rest, " \t"))
	}
	if rest = strings.TrimLeft(rest, " \t"); !ok || rest != "" && rest[0] != '#' {
		return "", "", fmt.Errorf("want 'name' = 'infohash', found %.60q", text)
	}
	if !safeName(name) {
		return "", "", fmt.Errorf("%.60q is no name that can be joined to a folder", name)
	}
	if !isInfohash(sum) {
		return "", "", fmt.Errorf("%s: %.60q is no infohash of 40 lower-case hex digits", name, sum)
	}
	return name, sum, nil
}

// cutQuoted takes a string in single or double quotes from the front. Escapes are not
// decoded: no name of a snapshot needs one, and safeName refuses the backslash.
func cutQuoted(text string) (inside, rest string, ok bool) {
	if text == "" || text[0] != '\'' && text[0] != '"' {
		return "", "", false
	}
	return strings.Cut(text[1:], text[:1])
}

func isInfohash(s string) bool {
	if len(s) != 40 {
		return false
	}
	for _, c := range []byte(s) {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return false
		}
	}
	return true
}

// Render writes a list as Erigon's torrent_hashes prints it: single quotes, in the order of the
// names' bytes, an empty line at the end. It refuses what must never be in one: a name
// that is no snapshot file's, a name twice, an entry without infohash. The .torrent of a file is published beside it
// and not in the list.
func (catalog) Render(_ context.Context, entries []core.Entry) ([]byte, error) {
	named := make(map[string]bool, len(entries))
	for _, e := range entries {
		named[e.Name] = true
	}
	sorted := slices.DeleteFunc(slices.Clone(entries), func(e core.Entry) bool {
		of, isTorrent := strings.CutSuffix(e.Name, torrentExt)
		return isTorrent && named[of]
	})
	slices.SortFunc(sorted, func(a, b core.Entry) int { return strings.Compare(a.Name, b.Name) })
	var out bytes.Buffer
	for i, e := range sorted {
		if _, err := parseName(e.Name); err != nil {
			return nil, err
		}
		if i > 0 && sorted[i-1].Name == e.Name {
			return nil, fmt.Errorf("%s is in the list twice", e.Name)
		}
		sum := e.Sums[infohash]
		if !isInfohash(sum) {
			return nil, fmt.Errorf("%s: %.60q is no infohash of 40 lower-case hex digits", e.Name, sum)
		}
		fmt.Fprintf(&out, "'%s' = '%s'\n", e.Name, sum)
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}
