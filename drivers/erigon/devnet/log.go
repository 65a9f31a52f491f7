package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// logger writes lines as Erigon's terminal handler does, to stderr and to a file in D/logs.
type logger struct {
	mu  sync.Mutex
	out []io.Writer
}

// openLog opens D/logs/NAME.log for appending. A file that can't be opened is done without.
func openLog(stderr io.Writer, dir, name string) *logger {
	l := &logger{out: []io.Writer{stderr}}
	if f, err := os.OpenFile(filepath.Join(dir, "logs", name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err == nil {
		l.out = append(l.out, f)
	}
	return l
}

func (l *logger) info(msg string, kv ...any)  { l.line("INFO", msg, kv) }
func (l *logger) warn(msg string, kv ...any)  { l.line("WARN", msg, kv) }
func (l *logger) error(msg string, kv ...any) { l.line("EROR", msg, kv) }

// line is "[INFO] [11-21|10:00:00.000] message   key=value": a message is padded to 40 columns where values follow.
func (l *logger) line(level, msg string, kv []any) {
	var b strings.Builder
	fmt.Fprintf(&b, "[%s] [%s] %s", level, time.Now().Format("01-02|15:04:05.000"), msg)
	if len(kv) > 0 && len(msg) < 40 {
		b.WriteString(strings.Repeat(" ", 40-len(msg)))
	}
	for i := 0; i+1 < len(kv); i += 2 {
		fmt.Fprintf(&b, " %v=%s", kv[i], quoted(fmt.Sprint(kv[i+1])))
	}
	b.WriteByte('\n')
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.out {
		io.WriteString(w, b.String())
	}
}

func quoted(s string) string {
	if strings.ContainsAny(s, " =\"\n\t") || s == "" {
		return strconv.Quote(s)
	}
	return s
}
