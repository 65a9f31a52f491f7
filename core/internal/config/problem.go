package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing that is wrong in a configuration.
type Problem struct {
	Field string // from the root of the file: "chains.main.keep.count"; "" is the file as a whole
	Msg   string // what is wrong and what to write instead; never the value of a secret
	File  string // as it was named; for a setting from elsewhere "--ssh-user" or "SNAPFW_SSH_USER"
	Line  int    // 1 is the first; 0 where there is none
}

// Error gives "FIELD: MSG (FILE:LINE)".
func (p Problem) Error() string {
	text := p.Msg
	if p.Field != "" {
		text = p.Field + ": " + text
	}
	switch {
	case p.File == "":
		return text
	case p.Line == 0:
		return fmt.Sprintf("%s (%s)", text, p.File)
	}
	return fmt.Sprintf("%s (%s:%d)", text, p.File, p.Line)
}

// Problems is everything that is wrong, by line. Load returns it as its error.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, one := range p {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// Err returns nil if there are none.
func (p Problems) Err() error {
	if len(p) == 0 {
		return nil
	}
	return p
}

// sorted orders by line, then field, and leaves out what is said twice.
func (p Problems) sorted() Problems {
	slices.SortStableFunc(p, func(a, b Problem) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return strings.Compare(a.Field, b.Field)
	})
	return slices.Compact(p)
}

// AsProblems returns the problems that an error of this package consists of.
func AsProblems(err error) (Problems, bool) {
	var p Problems
	ok := errors.As(err, &p)
	return p, ok
}

// didYouMean returns ` (did you mean "x"?)` for the known word that is closest to
// the one that was written, or "" where none is close.
func didYouMean(word string, known []string) string {
	best, distance := "", 3
	for _, k := range known {
		if d := edits(strings.ToLower(word), k, distance); d < distance && d*2 < len(k)+1 {
			best, distance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// edits counts the letters to add, drop or change between a and b; at least limit
// where their lengths alone differ by that much.
func edits(a, b string, limit int) int {
	if diff := len(a) - len(b); diff >= limit || -diff >= limit {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		left := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := left
			if a[i] != b[j] {
				cost++
			}
			left = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
