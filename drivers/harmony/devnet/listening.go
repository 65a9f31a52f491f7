package main

import (
	"fmt"
	"strings"
	"sync"

	"github.com/syndtr/goleveldb/leveldb/storage"
)

// listening is a store's folder, with an ear on what the store does there: its log tells when a compaction
// begins, has made a table that the manifest does not name yet, and is committed.
type listening struct {
	storage.Storage

	mu      sync.Mutex
	tell    func(compaction)
	journal int64         // number of the newest log of writes
	flushes int           // write buffers that became tables, since somebody listens
	made    map[int64]int // flushes, by the table that was begun then
}

// compaction is a moment of one.
type compaction int

const (
	begun     compaction = iota
	builtLate            // a table is made, unnamed; its number will not be used again
	built                // a table is made, unnamed, and the next start uses its number again
	committed
)

// listen has tell called at each moment of a compaction, on the store's own goroutine, which waits for it.
func (s *store) listen(tell func(compaction)) {
	s.files.mu.Lock()
	defer s.files.mu.Unlock()
	s.files.tell, s.files.made = tell, map[int64]int{}
}

func (l *listening) Create(fd storage.FileDesc) (storage.Writer, error) {
	l.mu.Lock()
	if fd.Type == storage.TypeJournal {
		l.journal = fd.Num
	}
	if fd.Type == storage.TypeTable && l.tell != nil {
		l.made[fd.Num] = l.flushes
	}
	l.mu.Unlock()
	return l.Storage.Create(fd)
}

func (l *listening) Log(line string) {
	l.Storage.Log(line)
	l.mu.Lock()
	tell, moment := l.tell, compaction(-1)
	switch {
	case tell == nil:
	case strings.HasPrefix(line, "memdb@flush committed"):
		l.flushes++
	case strings.HasPrefix(line, "table@compaction committed"):
		moment = committed
	case strings.HasPrefix(line, "table@compaction L"):
		moment = begun
	case strings.HasPrefix(line, "table@build created"):
		moment = l.table(line)
	}
	l.mu.Unlock()
	if moment >= 0 {
		tell(moment)
	}
}

// table tells whether the number of a new table will be used again if the process ends now. The
// manifest remembers the next free number as of the last commit, and a log's number marks those
// below as used: it will be used again if no commit and no log came after the table was begun.
func (l *listening) table(line string) compaction {
	var level int
	var num int64
	if _, err := fmt.Sscanf(line, "table@build created L%d@%d", &level, &num); err != nil {
		return builtLate
	}
	if then, known := l.made[num]; known && then == l.flushes && l.journal < num {
		return built
	}
	return builtLate
}
