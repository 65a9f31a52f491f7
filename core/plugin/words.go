package plugin

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"unicode"
)

const (
	tailLines = 60  // kept of a plugin's standard error
	lineBytes = 400 // kept of one line in an error
)

// head keeps the beginning of what is written to it.
type head struct {
	mu  sync.Mutex
	buf []byte
}

func (h *head) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.buf = append(h.buf, b[:min(len(b), 1024-len(h.buf))]...)
	return len(b), nil
}

func (h *head) line() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	line, _, _ := strings.Cut(string(h.buf), "\n")
	return printable(line)
}

// tail logs each line that a plugin says and keeps the last ones.
type tail struct {
	mu   sync.Mutex
	log  *slog.Logger
	last []string
}

func newTail(log *slog.Logger) *tail { return &tail{log: log} }

// lines is one of the ways to a tail. What is written is hostile: it may hold
// terminal escapes, or no newline at all.
type lines struct {
	to   *tail
	part []byte
}

func (l *lines) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		line, rest, whole := bytes.Cut(b, []byte("\n"))
		l.part = append(l.part, line[:min(len(line), max(0, 4096-len(l.part)))]...)
		b = rest
		if whole {
			l.to.keep(printable(string(l.part)))
			l.part = l.part[:0]
		}
	}
	return n, nil
}

func (t *tail) keep(line string) {
	if line == "" {
		return
	}
	t.log.Info(line)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last = append(t.last, line); len(t.last) > tailLines {
		t.last = t.last[1:]
	}
}

// words is the end of a sentence: the line that names a panic, else the last three.
func (t *tail) words() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.last) == 0 {
		return ""
	}
	last := t.last[max(0, len(t.last)-3):]
	for i, line := range t.last {
		if strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") {
			last = t.last[i : i+1]
		}
	}
	return `; its last words: "` + strings.Join(each(last, short), " / ") + `"`
}

func short(line string) string {
	if len(line) <= lineBytes {
		return line
	}
	return strings.ToValidUTF8(line[:lineBytes], "") + "…"
}

// printable drops what could move a terminal's cursor.
func printable(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD")))
}
