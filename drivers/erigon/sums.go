package main

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapfw/snapfw/core/capture"
)

// fileIdent is what a file must still be for its piece sums to be remembered. Not its change
// time: making a hard link changes that. Nor its name: a view of links shares the sums, and so do files that were renamed.
type fileIdent = capture.Ident

func identOfStat(st *unix.Stat_t) fileIdent { return capture.IdentOf(st) }

const (
	sumsKeepDays  = 60      // what no run met for so long is forgotten
	sumsLineMost  = 4096    // pieces in a line
	maxSumsLine   = 1 << 18 // bytes; 4096 pieces take 110 KiB
	sumsFreshDays = 7       // Day need not be truer than this
	sumsMostAdded = 64      // lines that a run may leave at the end of the file: to write it anew would take longer
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
	day     int64
	doubt   bool
	lines   []sumsLine
	torrent *rightTorrent // nil where none is known to hold these sums
}

// whole tells whether lines of all pieces are there.
func (k *knownFile) whole(pieces int) bool {
	end := int32(0)
	for _, l := range slices.SortedFunc(slices.Values(k.lines), func(a, b sumsLine) int { return cmp.Compare(a.first, b.first) }) {
		if l.first > end {
			return false
		}
		end = max(end, l.first+l.count)
	}
	return end == int32(pieces)
}

// pieceSums remembers the piece sums of files from one run to the next. It is appended to as pieces
// are hashed, so that a run that was killed carries on, and compacted at a run's end where much is new. Only an
// index of it is in memory. One process at a time has it open.
type pieceSums struct {
	file  string
	today int64
	guard *os.File // its lock says that we are at work

	mu    sync.Mutex
	log   *os.File
	end   int64
	known map[fileIdent]*knownFile
	lines int  // in the file
	added int  // of them by this run
	grown bool // the file must be written anew to say what is known
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
	s.known, s.end, s.lines = map[fileIdent]*knownFile{}, 0, 0
	br := bufio.NewReaderSize(io.NewSectionReader(s.log, 0, 1<<62), maxSumsLine)
	long := false // in the middle of a line that is none of ours
	for {
		b, err := br.ReadSlice('\n')
		at := s.end
		s.lines++
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

func (s *pieceSums) note(head sumsHead, n int, at int64, size int) {
	k := s.known[head.fileIdent]
	if k == nil {
		k = &knownFile{}
		s.known[head.fileIdent] = k
	}
	k.day, k.doubt = max(k.day, head.Day), k.doubt || head.Doubt
	k.torrent = head.torrent // one that held the sums before this line may not hold these
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
	s.met(k)
	return s.read(id, k)
}

func (s *pieceSums) met(k *knownFile) {
	if s.today-k.day > sumsFreshDays {
		s.grown = true // so that its day is written
	}
	k.day = s.today
}

// right returns the torrent of a file that is known to hold all of its sums, nil if there is none.
func (s *pieceSums) right(id fileIdent) (r *rightTorrent, doubt bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.known[id]
	if k == nil || k.torrent == nil || !k.whole(pieceCount(id.Size)) {
		return nil, false
	}
	s.met(k)
	return k.torrent, k.doubt
}

// learn remembers the torrent of a file whose sums it was compared with.
func (s *pieceSums) learn(id fileIdent, r rightTorrent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.known[id]; k != nil {
		k.torrent, s.grown = &r, true
	}
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
	s.lines, s.added = s.lines+1, s.added+1
	return nil
}

// forget drops what is known of a file, until the run ends.
func (s *pieceSums) forget(id fileIdent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, id)
	s.grown = true
}

// compact makes durable what was added, and writes the file anew where that is worth it: few lines a file, without what was
// forgotten. It does nothing if nothing is new.
func (s *pieceSums) compact() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.grown && s.added == 0 {
		return nil
	}
	if !s.grown && s.added <= sumsMostAdded && s.lines <= 2*len(s.known)+sumsMostAdded {
		if err := s.log.Sync(); err != nil {
			return fmt.Errorf("sync the sums: %w", err)
		}
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
	s.grown, s.added = false, 0
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
		head := sumsHead{fileIdent: id, First: first, Day: k.day, Doubt: k.doubt}
		if i == len(has) {
			head.torrent = k.torrent
		}
		line, err := sumsText(&head, pieces[first*sha1.Size:i*sha1.Size])
		if err != nil {
			return err
		}
		if _, err := w.Write(line); err != nil {
			return err
		}
	}
	return nil
}
