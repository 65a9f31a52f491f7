package review

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/go-git/go-git/v5/plumbing"
)

// What GitHub takes, in characters.
const (
	maxText  = 65536
	maxTitle = 256
)

// mark names a proposal's run and chain where people do not see it.
type mark struct {
	Run   string
	Chain string
}

var markLine = regexp.MustCompile(`<!-- snapfw run=([^\s&]*) chain=([^\s&]*) -->`)

func (m mark) String() string {
	return fmt.Sprintf("<!-- snapfw run=%s chain=%s -->", url.QueryEscape(m.Run), url.QueryEscape(m.Chain))
}

// readMark finds the first mark of a text. snapfw writes its own before everything
// that comes from elsewhere, so that a report can't forge one.
func readMark(text string) (mark, bool) {
	found := markLine.FindStringSubmatch(text)
	if found == nil {
		return mark{}, false
	}
	run, err1 := url.QueryUnescape(found[1])
	chain, err2 := url.QueryUnescape(found[2])
	return mark{run, chain}, err1 == nil && err2 == nil && run != ""
}

func (p Proposal) mark() mark { return mark{p.Run, p.Chain} }

// branch names the proposal's branch: PREFIX/HOST/YYYYMMDD-HHMMSSUTC, from the second on with "-2".
func (p Proposal) branch(prefix string, nth int) string {
	name := p.branches(prefix) + p.Time.UTC().Format("20060102-150405") + "UTC"
	if nth > 1 {
		name += fmt.Sprintf("-%d", nth)
	}
	return name
}

// branches is what the names of all branches of the proposal's host begin with.
func (p Proposal) branches(prefix string) string { return prefix + "/" + refPart(p.Host) + "/" }

var notRef = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// refPart makes one part of a branch's name of any string.
func refPart(s string) string {
	s = notRef.ReplaceAllString(s, "-")
	for strings.Contains(s, "..") {
		s = strings.ReplaceAll(s, "..", ".")
	}
	s = strings.Trim(s, ".-")
	if s == "" || plumbing.ReferenceName("refs/heads/"+s).Validate() != nil {
		return "host-" + strings.ReplaceAll(s, ".", "-")
	}
	return s
}

func (p Proposal) title() string {
	t := strings.Join(strings.Fields(p.Title), " ")
	if t == "" {
		t = fmt.Sprintf("Update %s", p.Chain)
	}
	if utf8.RuneCountInString(t) > maxTitle {
		t = string([]rune(t)[:maxTitle-1]) + "…"
	}
	return t
}

func (p Proposal) raised() string {
	return fmt.Sprintf("This proposal was raised by snapfw on %s, run %s.", p.Host, p.Run)
}

// text is the body of a pull request: at most limit characters.
func (p Proposal) text(limit int) string {
	head := p.mark().String() + "\n" + p.raised() + "\n\n"
	return head + clip(p.Report, limit-utf8.RuneCountInString(head))
}

// message is a commit's: the title, what is said about it, and the mark.
func (p Proposal) message(report bool) string {
	m := p.title() + "\n\n" + p.mark().String() + "\n" + p.raised() + "\n"
	if report && p.Report != "" {
		m += "\n" + clip(p.Report, maxText) + "\n"
	}
	return m
}

// clip cuts Markdown at the end of a line to at most limit characters, and says so.
func clip(report string, limit int) string {
	report = strings.ToValidUTF8(report, "\uFFFD")
	total := utf8.RuneCountInString(report)
	if total <= limit {
		return report
	}
	const note = "\n\n**This report was cut here: it has %d characters, more than fit.**"
	const fence = "\n```"
	tail := fmt.Sprintf(note, total)
	keep := max(limit-len(tail)-len(fence), 0)
	cut := string([]rune(report)[:keep])
	if at := strings.LastIndexByte(cut, '\n'); at >= 0 {
		cut = cut[:at]
	}
	if openFence(cut) {
		cut += fence
	}
	return cut + tail
}

// openFence tells whether a text ends inside a block of code.
func openFence(text string) bool {
	open := false
	for line := range strings.SplitSeq(text, "\n") {
		if strings.HasPrefix(strings.TrimLeft(line, " "), "```") {
			open = !open
		}
	}
	return open
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return strings.TrimSpace(line)
}
