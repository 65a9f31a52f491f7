package main

import (
	"bufio"
	"encoding/json"
	"io"
	"strings"
)

// logLine is a line of "rclone --use-json-log", as far as it matters here.
type logLine struct {
	Level  string
	Msg    string
	Object string
	Stats  *struct {
		Transferring []struct {
			Name  string
			Bytes int64
		}
	}
}

// watcher hears what an rclone copy says while it runs.
type watcher struct {
	copied  func(name string, inside bool)                 // a file is there; inside: copied in the storage
	running func(bytes func(sizes map[string]int64) int64) // how much of the files under way is done
	failed  map[string]string                              // by file, the last thing said about it
	said    string                                         // the last error that is of no file, or a line that is no JSON
}

// read reads standard error to its end. Lines that it can't make sense of are kept as said, so
// that what a program prints before it dies is never lost.
func (w *watcher) read(r io.Reader) {
	b := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := readLine(b)
		if len(line) > 0 {
			w.line(line)
		}
		if err != nil {
			return
		}
	}
}

// readLine reads a line of at most 4 MiB; what is beyond is thrown away.
func readLine(b *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := b.ReadSlice('\n')
		if len(line)+len(part) <= 4<<20 {
			line = append(line, part...)
		}
		if err != bufio.ErrBufferFull {
			return line, err
		}
	}
}

func (w *watcher) line(text []byte) {
	var l logLine
	if json.Unmarshal(text, &l) != nil || l.Level == "" {
		if s := strings.TrimSpace(string(text)); s != "" {
			w.said = clip(logTime.ReplaceAllString(s, ""))
		}
		return
	}
	switch l.Level {
	case "error", "critical", "alert", "emergency", "fatal":
		switch {
		case strings.HasPrefix(l.Msg, "Attempt "): // repeats what was said
		case l.Object != "":
			w.failed[l.Object] = clip(l.Msg)
		default:
			w.said = clip(l.Msg)
		}
		return
	}
	if l.Object != "" && strings.Contains(l.Msg, "Copied (") {
		delete(w.failed, l.Object)
		w.copied(l.Object, strings.Contains(l.Msg, "server-side copy"))
	}
	if l.Stats != nil {
		w.running(func(sizes map[string]int64) (n int64) {
			for _, t := range l.Stats.Transferring {
				n += max(0, min(t.Bytes, sizes[t.Name]))
			}
			return n
		})
	}
}

func clip(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > 500 {
		return s[:500] + "…"
	}
	return s
}
