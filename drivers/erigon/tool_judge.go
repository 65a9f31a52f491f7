package main

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// logRule says what a line of Erigon's log means for the verdict.
type logRule struct {
	line   *regexp.Regexp
	why    string // follows the line in the message
	refuse bool   // nothing was done: exit code 3
}

// logRules are in the order of what they tell: the first rule with a line gives the reason, however many lines others have.
// A line that none of them knows is harmless, unless Erigon itself calls it an error.
var logRules = []logRule{
	{regexp.MustCompile(`datadir already used by another process`), "a process works on this datadir: stop it first", true},
	{regexp.MustCompile(`requested check \S+ not found`), "this Erigon has no such check: see erigon seg integrity --help", true},
	{regexp.MustCompile(`flag provided but not defined|unknown (shorthand )?flag|unknown command|No help topic for`), "this version of Erigon does not know that: name the right program", true},
	{regexp.MustCompile(`^panic: not implemented`), "this version of Erigon can't do that", false},
	{regexp.MustCompile(`^(panic|fatal error|SIGSEGV|runtime error)\b|^goroutine \d+ \[`), "the program crashed", false},
	{regexp.MustCompile(`(?i)no space left on device`), "make room", false},
	{regexp.MustCompile(`(?i)budget exhausted`), "checks did not end in time, which Erigon counts as passed: give a longer --budget, or none", false},
	{regexp.MustCompile(`(?i)no checks to run|all filtered out`), "nothing was checked, which Erigon counts as passed", false},
	{regexp.MustCompile(`possibly overlapped|overlap (detected )?between`), "leftovers of a merge: retire once more", false},
	{regexp.MustCompile(`^err: |\(pick number\): err: `), "the answer to its question did not reach it, and it did nothing", false},
	{regexp.MustCompile(`MDBX_[A-Z_]+`), "the database could not be used", false},
	{regexp.MustCompile(`^\[?(EROR|CRIT|ERROR|FATAL)\b|\blvl=(eror|error|crit)\b|\blevel=(error|fatal)\b|"lvl":"(eror|crit)"`), "", false},
	{regexp.MustCompile(`\[integrity\].*\berr="`), "a check failed, and was only warned of", false},
}

// logHints are in every line that a rule could know, in small letters. A long merge logs many lines, and nearly all of them have none.
var logHints = []string{
	"already used", "requested check", "flag", "unknown command", "no help topic", "panic", "fatal", "sigsegv", "runtime error", "goroutine", "no space",
	"budget", "no checks", "filtered", "overlap", "err", "mdbx_", "eror", "crit", "warn",
}

func hasAny(s string, words []string) bool {
	return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(s, w) })
}

// checkSkipped is a rule of its own: it depends on what was ordered.
var (
	checkSkipped  = regexp.MustCompile(`(?i)\bskip(ped|ping)?\b`)
	harmlessSkips = regexp.MustCompile(`skipped because not bor chain`)
	checkOf       = regexp.MustCompile(`\bcheck="?([A-Za-z0-9]+)"?`)
	checksOf      = regexp.MustCompile(`\bchecks="?\[([A-Za-z0-9 ]*)\]"?`)
	startingCheck = regexp.MustCompile(`\[integrity\]\s+starting\b`)
	doneCheck     = regexp.MustCompile(`\[integrity\]\s+done\b`)
	seedOf        = regexp.MustCompile(`\bseed=(-?\d+)`)
	publishable   = regexp.MustCompile(`^\[?INFO\b.*\[(integrity|publishable)\] snapshots are publishable\s*$`)
	progressOf    = regexp.MustCompile(`\bprogress="?(?:(\d{1,3}(?:\.\d+)?)%|(\d{1,15})/(\d{1,15}))`)
	colours       = regexp.MustCompile("\x1b\\[[0-9;]*m")
	important     = regexp.MustCompile(`^\[?(WARN|EROR|CRIT|ERROR|FATAL)\b`)
)

// lineJudge reads the log of one command, line by line. Its zero value judges everything but skipped checks.
type lineJudge struct {
	Checks bool     // it is the log of integrity
	Skip   []string // checks whose skipping was ordered
	Step   func(done, total int64)

	found   []string // by rule: its first line
	skipped string   // the first line of a check that nobody ordered to skip

	Publishable bool
	Seed        string
	Listed      []string // checks that it said it would run
	Started     []string
	Done        []string
}

// line looks at one line, without its end. important tells whether people should see it.
func (j *lineJudge) line(s string) (tell bool) {
	s = plain(s)
	if j.found == nil {
		j.found = make([]string, len(logRules))
	}
	low := strings.ToLower(s)
	if hasAny(low, logHints) {
		tell = j.rules(s)
	}
	if j.Step != nil && strings.Contains(s, "progress=") {
		if done, total, ok := readProgress(s); ok {
			j.Step(done, total)
		}
	}
	if j.Checks && (strings.Contains(s, "[integrity]") || strings.Contains(low, "skip")) {
		j.check(s)
	}
	return tell
}

// plain is a line without its colours.
func plain(s string) string {
	if strings.Contains(s, "\x1b") {
		s = colours.ReplaceAllString(s, "")
	}
	return strings.TrimRight(s, " \r\t")
}

// mayDecide tells whether a line is one of those of which err picks the reason.
func (j *lineJudge) mayDecide(line string) bool {
	return line != "" && (line == j.skipped || slices.Contains(j.found, line))
}

// decisive is the line that err gives as the reason.
func (j *lineJudge) decisive() string {
	for _, text := range j.found {
		if text != "" {
			return text
		}
	}
	return j.skipped
}

func (j *lineJudge) rules(s string) (tell bool) {
	tell = important.MatchString(s)
	for i, r := range logRules {
		if j.found[i] == "" && r.line.MatchString(s) {
			j.found[i], tell = clipped(s, 500), true
		}
	}
	return tell
}

func (j *lineJudge) check(s string) {
	named := ""
	if m := checkOf.FindStringSubmatch(s); m != nil {
		named = m[1]
	}
	switch {
	case publishable.MatchString(s):
		j.Publishable = true
	case startingCheck.MatchString(s) && named != "":
		j.Started = append(j.Started, named)
	case doneCheck.MatchString(s) && named != "":
		j.Done = append(j.Done, named)
	case startingCheck.MatchString(s):
		if m := checksOf.FindStringSubmatch(s); m != nil {
			j.Listed = strings.Fields(m[1])
		}
		if m := seedOf.FindStringSubmatch(s); m != nil {
			j.Seed = m[1]
		}
	case checkSkipped.MatchString(s) && !harmlessSkips.MatchString(s) && !slices.Contains(j.Skip, named) && j.skipped == "":
		j.skipped = clipped(s, 500)
	}
}

// readProgress reads "progress=12.34%" or "progress=3/17".
func readProgress(s string) (done, total int64, ok bool) {
	m := progressOf.FindStringSubmatch(s)
	if m == nil {
		return 0, 0, false
	}
	if m[1] != "" {
		f, err := strconv.ParseFloat(m[1], 64)
		return int64(f * 100), 10_000, err == nil && f <= 100
	}
	done, err1 := strconv.ParseInt(m[2], 10, 64)
	total, err2 := strconv.ParseInt(m[3], 10, 64)
	return done, total, err1 == nil && err2 == nil && total > 0 && done <= total
}

// err is what the lines say; nil where they hold nothing bad. It knows nothing of the exit code.
func (j *lineJudge) err() error {
	for i, r := range logRules {
		if len(j.found) == 0 || j.found[i] == "" {
			continue
		}
		text := j.found[i]
		if r.why != "" {
			text += ": " + r.why
		}
		if r.refuse {
			return &declined{text}
		}
		return fmt.Errorf("%s", text)
	}
	if j.skipped != "" {
		return fmt.Errorf("%s: a check was skipped that nobody ordered to skip; if that is known of this chain, give --skip NAME", j.skipped)
	}
	return nil
}

// passed is the verdict on integrity, once the lines hold nothing bad. asked are the checks that were named; without any those count that
// Erigon lists itself. Versions up to 3.5 log the beginning of a check only.
func (j *lineJudge) passed(asked []string) error {
	if !j.Publishable {
		return fmt.Errorf("it did not say that the snapshots are publishable")
	}
	want := asked
	if len(want) == 0 {
		want = j.Listed
	}
	if len(j.Started) == 0 {
		return fmt.Errorf("it says the snapshots are publishable, and began no check")
	}
	for _, name := range want {
		if !slices.Contains(j.Started, name) {
			return fmt.Errorf("it says the snapshots are publishable, and never began the check %s", name)
		}
	}
	if len(j.Done) == 0 {
		return nil
	}
	for _, name := range j.Started {
		if !slices.Contains(j.Done, name) {
			return fmt.Errorf("it says the snapshots are publishable, and the check %s never ended", name)
		}
	}
	return nil
}
