package capture

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// sumLine is one line of a file of sums: what a file's bytes hashed to when it was this one.
type sumLine struct {
	Ident
	SHA256 string `json:"sha256"`
	Used   int64  `json:"used"` // Unix day of the last capture that held it
}

// Sums that no capture used for so long are forgotten.
const keepDays = 30

// sums remembers what was hashed, from one capture to the next. It is written to as it
// grows, so that a seal that dies carries on, and rewritten when a seal ends. Lines that can't
// be read are dropped: their files are hashed again.
type sums struct {
	file  string
	today int64
	mu    sync.Mutex
	known map[Ident]sumLine
	log   *os.File
}

func openSums(file string, now time.Time) (*sums, error) {
	s := &sums{file: file, today: now.Unix() / 86400, known: map[Ident]sumLine{}}
	log, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open sums: %w", err)
	}
	lines, torn, err := readSums(log)
	if err == nil && torn {
		_, err = log.WriteString("\n") // or the next line would be part of it
	}
	if err != nil {
		log.Close()
		return nil, fmt.Errorf("read sums: %w", err)
	}
	for _, l := range lines {
		s.known[l.Ident] = l
	}
	s.log = log
	return s, nil
}

// readSums reads what it can; torn tells that the last line has no end.
func readSums(r io.Reader) (lines []sumLine, torn bool, err error) {
	br := bufio.NewReaderSize(r, maxLine)
	for {
		b, err := br.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			continue // no line of ours is as long; nor is what remains of it JSON
		}
		if err != nil && err != io.EOF {
			return nil, false, err
		}
		var l sumLine
		if json.Unmarshal(b, &l) == nil && validSum(l.SHA256) && l.Size >= 0 {
			lines = append(lines, l)
		}
		if err == io.EOF {
			return lines, len(b) > 0, nil
		}
	}
}

func validSum(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32 && hex.EncodeToString(b) == s
}

// get returns a remembered sum, and keeps it for the next capture.
func (s *sums) get(id Ident) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.known[id]
	if ok && l.Used != s.today {
		l.Used = s.today
		s.known[id] = l
	}
	return l.SHA256, ok
}

func (s *sums) put(id Ident, sum string) error {
	l := sumLine{Ident: id, SHA256: sum, Used: s.today}
	line, err := encodeLine(l)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[id] = l
	_, err = s.log.Write(line)
	return err
}

// rewrite leaves one line a file, and those out that were not used for long.
func (s *sums) rewrite() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return replaceFile(s.file, 0o600, true, func(w io.Writer) error {
		buf := bufio.NewWriterSize(w, 1<<16)
		enc := json.NewEncoder(buf)
		for _, l := range s.known {
			if s.today-l.Used > keepDays {
				continue
			}
			if err := enc.Encode(l); err != nil {
				return err
			}
		}
		return buf.Flush()
	})
}

func (s *sums) close() { s.log.Close() }
