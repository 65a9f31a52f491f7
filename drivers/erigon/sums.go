package main

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// fileIdent is what a file must still be for its piece sums to be remembered. Not its change
// time: making a hard link changes that. Nor its name: a view of links shares the sums, and so do files that were renamed.
type fileIdent struct {
	Dev   uint64 `json:"dev"`
	Ino   uint64 `json:"ino"`
	Size  int64  `json:"size"`
	Mtime int64  `json:"mtime"` // ns
}

func identOfStat(st *unix.Stat_t) fileIdent {
	return fileIdent{Dev: uint64(st.Dev), Ino: st.Ino, Size: st.Size, Mtime: st.Mtim.Nano()}
}

// sumsHead is a line of the file of piece sums but for the sums, which come last:
//
//	{"dev":…,"ino":…,"size":…,"mtime":…,"first":0,"day":20000,"crc":…,"pieces":"base64 of 20 bytes a piece"}
//
// so that thousands of lines are indexed without decoding them.
type sumsHead struct {
	fileIdent
	First int    `json:"first"`           // the first piece that the line is of
	Day   int64  `json:"day"`             // Unix day of the last run that met the file
	Doubt bool   `json:"doubt,omitempty"` // bytes were found that differ: the file is read until it is right
	CRC   uint32 `json:"crc"`             // Castagnoli, of the base64 text: a torn or rotten line is hashed again
}

const (
	sumsKeepDays  = 60      // what no run met for so long is forgotten
	sumsLineMost  = 4096    // pieces in a line
	maxSumsLine   = 1 << 18 // bytes; 4096 pieces take 110 KiB
	sumsFreshDays = 7       // Day need not be truer than this
)

var (
	castagnoli  = crc32.MakeTable(crc32.Castagnoli)
	piecesField = []byte(`,"pieces":"`)
	piecesEnd   = []byte("\"}")
)

// sumsLine is where a line lies in the file.
type sumsLine struct {
	at    int64
	size  int32
	first int32
	count int32
}

// knownFile is what is remembered of one file.
type knownFile struct {
	day   int64
	doubt bool
	lines []sumsLine
}

// pieceSums remembers the piece sums of files from one run to the next. It is appended to as pieces
// are hashed, so that a run that was killed carries on, and compacted when a run ends. Only an
// index of it is in memory. One process at a time has it open.
type pieceSums struct {
	file  string
	today int64
	guard *os.File // its lock says that we are at work

	mu    sync.Mutex
	log   *os.File
	end   int64
	known map[fileIdent]*knownFile
	grown bool
}

var errSumsBusy = errors.New("another run is making torrents with it: wait for that one, or end it")

// openPieceSums opens the file, or makes it and its folder.
func openPieceSums(file string, now time.Time) (*pieceSums, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, fmt.Errorf("make the folder of the sums: %w", err)
	}
	guard, err := os.OpenFile(file+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the sums: %w", err)
	}
	if err := unix.Flock(int(guard.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		guard.Close()
		if err == unix.EWOULDBLOCK {
			err = errSumsBusy
		}
		return nil, fmt.Errorf("lock %s: %w", file, err)
	}
	s := &pieceSums{file: file, today: now.Unix() / 86400, guard: guard}
	if err := s.load(); err != nil {
		s.close()
		return nil, fmt.Errorf("read the sums: %w", err)
	}
	return s, nil
}

// peekPieceSums opens the file for a dry run: nothing is made, locked or written.
func peekPieceSums(file string, now time.Time) (*pieceSums, error) {
	s := &pieceSums{file: file, today: now.Unix() / 86400, known: map[fileIdent]*knownFile{}}
	log, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the sums: %w", err)
	}
	s.log = log
	if _, err := s.index(); err != nil {
		log.Close()
		return nil, fmt.Errorf("read the sums: %w", err)
	}
	return s, nil
}

func (s *pieceSums) close() {
	if s.log != nil {
		s.log.Close()
	}
	if s.guard != nil {
		s.guard.Close()
	}
}

func (s *pieceSums) load() error {
	log, err := os.OpenFile(s.file, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	s.log = log
	torn, err := s.index()
	if err == nil && torn {
		var n int
		n, err = log.WriteString("\n") // or the next line would be a part of it
		s.end += int64(n)
	}
	return err
}

// index reads the heads of all lines; torn tells that the last one has no end.
func (s *pieceSums) index() (torn bool, err error) {
	s.known, s.end = map[fileIdent]*knownFile{}, 0
	br := bufio.NewReaderSize(io.NewSectionReader(s.log, 0, 1<<62), maxSumsLine)
	long := false // in the middle of a line that is none of ours
	for {
		b, err := br.ReadSlice('\n')
		at := s.end
		s.end += int64(len(b))
		if err == bufio.ErrBufferFull {
			long = true
			continue
		}
		if err != nil && err != io.EOF {
			return false, err
		}
		if head, n, ok := parseSumsLine(b); ok && !long {
			s.note(head, n, at, len(b))
		}
		if err == io.EOF {
			return len(b) > 0 || long, nil
		}
		long = false
	}
}

// parseSumsLine reads a line but for its sums, and tells of how many pieces it is.
func parseSumsLine(b []byte) (sumsHead, int, bool) {
	var head sumsHead
	i := bytes.Index(b, piecesField)
	text, whole := bytes.CutSuffix(bytes.TrimSuffix(b, []byte("\n")), piecesEnd)
	if i < 0 || !whole || len(text) < i+len(piecesField) || json.Unmarshal(append(slices.Clip(b[:i:i]), '}'), &head) != nil {
		return head, 0, false
	}
	text = text[i+len(piecesField):]
	raw := base64.StdEncoding.DecodedLen(len(text)) - (len(text) - len(bytes.TrimRight(text, "=")))
	n := raw / sha1.Size
	if raw%sha1.Size != 0 || n == 0 || n > sumsLineMost || head.Size <= 0 || head.First < 0 || head.First > pieceCount(head.Size)-n {
		return head, 0, false
	}
	return head, n, crc32.Checksum(text, castagnoli) == head.CRC
}

func (s *pieceSums) note(head sumsHead, n int, at int64, size int) {
	k := s.known[head.fileIdent]
	if k == nil {
		k = &knownFile{}
		s.known[head.fileIdent] = k
	}
	k.day, k.doubt = max(k.day, head.Day), k.doubt || head.Doubt
	k.lines = append(k.lines, sumsLine{at: at, size: int32(size), first: int32(head.First), count: int32(n)})
}

// get returns what is remembered of a file: the sums of all its pieces, 20 bytes each, and which
// of them are known. whole says that all are. It returns nil if nothing is.
func (s *pieceSums) get(id fileIdent) (pieces []byte, has []bool, whole bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.known[id]
	if k == nil {
		return nil, nil, false, nil
	}
	if s.today-k.day > sumsFreshDays {
		s.grown = true // so that its day is written
	}
	k.day = s.today
	return s.read(id, k)
}

func (s *pieceSums) read(id fileIdent, k *knownFile) (pieces []byte, has []bool, whole bool, err error) {
	n := pieceCount(id.Size)
	pieces, has = make([]byte, n*sha1.Size), make([]bool, n)
	left := n
	for _, l := range k.lines {
		b := make([]byte, l.size)
		if _, err := s.log.ReadAt(b, l.at); err != nil {
			return nil, nil, false, fmt.Errorf("read the sums: %w", err)
		}
		text := b[bytes.Index(b, piecesField)+len(piecesField):]
		text = bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), piecesEnd)
		sums, err := base64.StdEncoding.AppendDecode(nil, text)
		if err != nil || len(sums) != int(l.count)*sha1.Size {
			continue // its pieces are hashed again
		}
		copy(pieces[int(l.first)*sha1.Size:], sums)
		for i := l.first; i < l.first+l.count; i++ {
			if !has[i] {
				has[i], left = true, left-1
			}
		}
	}
	return pieces, has, left == 0, nil
}

// put remembers sums of a file from piece first on. It is kept when the process dies, and
// may be lost when the machine does.
func (s *pieceSums) put(id fileIdent, first int, sums []byte) error {
	return s.add(sumsHead{fileIdent: id, First: first, Day: s.today}, sums)
}

// suspect remembers that a file's bytes were not those of these remembered sums. A later run must not
// trust the sums alone.
func (s *pieceSums) suspect(id fileIdent, first int, sums []byte) error {
	return s.add(sumsHead{fileIdent: id, First: first, Day: s.today, Doubt: true}, sums)
}

// suspected tells whether a file's bytes were found to differ.
func (s *pieceSums) suspected(id fileIdent) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.known[id]
	return k != nil && k.doubt
}

// clear ends a suspicion: the file was read, and is right.
func (s *pieceSums) clear(id fileIdent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.known[id]; k != nil && k.doubt {
		k.doubt, s.grown = false, true
	}
}

func (s *pieceSums) add(head sumsHead, sums []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	line, err := sumsText(&head, sums)
	if err != nil {
		return err
	}
	if _, err := s.log.Write(line); err != nil {
		return fmt.Errorf("write the sums: %w", err)
	}
	s.note(head, len(sums)/sha1.Size, s.end, len(line))
	s.end += int64(len(line))
	s.grown = true
	return nil
}

func sumsText(head *sumsHead, sums []byte) ([]byte, error) {
	text := base64.StdEncoding.AppendEncode(nil, sums)
	head.CRC = crc32.Checksum(text, castagnoli)
	b, err := json.Marshal(head)
	if err != nil {
		return nil, err
	}
	return slices.Concat(b[:len(b)-1], piecesField, text, piecesEnd, []byte("\n")), nil
}

// forget drops what is known of a file, until the run ends.
func (s *pieceSums) forget(id fileIdent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, id)
	s.grown = true
}

// compact writes the file anew: few lines a file, without what was forgotten. It does nothing if
// nothing was added.
func (s *pieceSums) compact() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.grown {
		return nil
	}
	err := writeWhole(s.file, 0o600, func(w io.Writer) error {
		buf := bufio.NewWriterSize(w, 1<<18)
		for _, id := range slices.SortedFunc(maps.Keys(s.known), compareIdents) {
			if k := s.known[id]; s.today-k.day <= sumsKeepDays {
				if err := s.rewrite(buf, id, k); err != nil {
					return err
				}
			}
		}
		return buf.Flush()
	})
	if err != nil {
		return fmt.Errorf("compact the sums: %w", err)
	}
	s.grown = false
	s.log.Close()
	return s.load()
}

func compareIdents(a, b fileIdent) int {
	return cmp.Or(cmp.Compare(a.Dev, b.Dev), cmp.Compare(a.Ino, b.Ino), cmp.Compare(a.Mtime, b.Mtime), cmp.Compare(a.Size, b.Size))
}

// rewrite writes what is known of a file in as few lines as can be.
func (s *pieceSums) rewrite(w io.Writer, id fileIdent, k *knownFile) error {
	pieces, has, _, err := s.read(id, k)
	if err != nil {
		return err
	}
	for i := 0; i < len(has); {
		if !has[i] {
			i++
			continue
		}
		first := i
		for i < len(has) && has[i] && i-first < sumsLineMost {
			i++
		}
		line, err := sumsText(&sumsHead{fileIdent: id, First: first, Day: k.day, Doubt: k.doubt}, pieces[first*sha1.Size:i*sha1.Size])
		if err != nil {
			return err
		}
		if _, err := w.Write(line); err != nil {
			return err
		}
	}
	return nil
}
