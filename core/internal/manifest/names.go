package manifest

import (
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/snapfw/snapfw/core"
)

// Limits of what is read. They are far above real snapshots and keep a hostile file from
// taking the machine's memory.
const (
	MaxManifest = 64 << 20 // bytes of a manifest, a list of sums or of entries
	MaxPointer  = 1 << 20  // bytes of a pointer
	maxEntries  = 1_000_000
	maxPrevious = 1_000
	maxName     = 1_024 // what S3 allows for a whole key
	maxText     = 4_096
	maxSums     = 8
)

// Names of the files that belong to snapfw in a snapshot's prefix. No Entry may have them.
const (
	File     = "manifest.json"
	SumsFile = "SHA256SUMS"
	MarkFile = "incomplete.json"
)

// CheckName refuses a name that is not a clean relative path with forward slashes: one that
// leaves its folder, that would be another file after cleaning, or that does not survive a line of text.
func CheckName(name string) error {
	switch {
	case name == "":
		return errors.New("empty name")
	case len(name) > maxName:
		return fmt.Errorf("name of %d bytes: %d are the most", len(name), maxName)
	case !utf8.ValidString(name):
		return fmt.Errorf("name %q: not UTF-8", name)
	case strings.ContainsFunc(name, func(r rune) bool { return unicode.IsControl(r) || r == '\\' || r == utf8.RuneError }):
		return fmt.Errorf("name %q: control characters and backslashes are not allowed", name)
	case path.IsAbs(name) || path.Clean(name) != name || name == "." || name == ".." || strings.HasPrefix(name, "../"):
		return fmt.Errorf("name %q: not a clean relative path", name)
	}
	return nil
}

// CheckEntries refuses entries that can't be the files of one snapshot: bad names, sizes or
// sums, one name twice, a name that is a folder of another, snapfw's own names. It wants a sum of each.
func CheckEntries(entries []core.Entry) error {
	if len(entries) > maxEntries {
		return fmt.Errorf("%d entries: %d are the most", len(entries), maxEntries)
	}
	names := make(map[string]bool, len(entries))
	var total int64
	for _, e := range entries {
		if err := checkEntry(e); err != nil {
			return err
		}
		if names[e.Name] {
			return fmt.Errorf("name %q: twice", e.Name)
		}
		names[e.Name] = true
		if total += e.Size; total < 0 {
			return errors.New("the sizes add up to more than can be")
		}
	}
	for name := range names {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if names[dir] {
				return fmt.Errorf("name %q: a file and a folder (%q)", dir, name)
			}
		}
	}
	return nil
}

func checkEntry(e core.Entry) error {
	if err := CheckName(e.Name); err != nil {
		return err
	}
	switch e.Name {
	case File, SumsFile, MarkFile:
		return fmt.Errorf("name %q: belongs to snapfw; leave this file out of the snapshot", e.Name)
	}
	if e.Size < 0 {
		return fmt.Errorf("%s: size %d", e.Name, e.Size)
	}
	if len(e.Sums) > maxSums {
		return fmt.Errorf("%s: %d sums: %d are the most", e.Name, len(e.Sums), maxSums)
	}
	for alg, sum := range e.Sums {
		if err := checkSum(alg, sum); err != nil {
			return fmt.Errorf("%s: %w", e.Name, err)
		}
	}
	if len(e.Sums) == 0 {
		return fmt.Errorf("%s: no sum", e.Name)
	}
	return nil
}

// checkSHA256 wants what consumers of a snapshot check it by.
func checkSHA256(entries []core.Entry) error {
	for _, e := range entries {
		if e.Sums["sha256"] == "" {
			return fmt.Errorf("%s: no sha256", e.Name)
		}
	}
	return CheckEntries(entries)
}

func checkSum(alg, sum string) error {
	if alg == "" || len(alg) > 32 || strings.ContainsFunc(alg, func(r rune) bool { return !isIDRune(r) }) {
		return fmt.Errorf("sum %q: not the name of an algorithm", alg)
	}
	raw, err := hex.DecodeString(sum)
	if err != nil || strings.ToLower(sum) != sum || len(raw) == 0 || len(raw) > 64 {
		return fmt.Errorf("%s %q: not lower-case hex", alg, clip(sum))
	}
	if alg == "sha256" && len(raw) != 32 {
		return fmt.Errorf("sha256 %q: not 64 digits", clip(sum))
	}
	return nil
}

func isIDRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-'
}

// checkText refuses what does not belong on one line for people.
func checkText(field, s string) error {
	if len(s) > maxText || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return fmt.Errorf("%s %q: not a line of text", field, clip(s))
	}
	return nil
}

// checkHash takes what core.Status.Hash may be.
func checkHash(s string) error {
	if s == "" {
		return nil
	}
	digits, ok := strings.CutPrefix(s, "0x")
	if !ok || len(digits) == 0 || len(digits) > 128 || strings.Trim(digits, "0123456789abcdef") != "" {
		return fmt.Errorf("hash %q: not 0x and lower-case hex", clip(s))
	}
	return nil
}

func clip(s string) string {
	if len(s) <= 80 {
		return s
	}
	return s[:80] + "…"
}
