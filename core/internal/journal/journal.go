// Package journal keeps every run's facts: a file a run, one JSON line a fact, written and
// synced before the act that it announces. A run is what its journal says; nothing
// else is remembered between two processes.
package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"sort"
	"strings"
	"sync"
	"time"
)

// Fact is one line. Data is decoded by whoever knows the Kind.
type Fact struct {
	Time time.Time       `json:"t"`
	Kind string          `json:"k"`
	Node string          `json:"node,omitempty"`
	Step string          `json:"step,omitempty"`
	Data json.RawMessage `json:"data,omitempty"`
}

// FS is what journals need of a file system. [Dir] is the real one; the engine's tests
// have one in memory that dies at any write.
type FS interface {
	// Open opens a file for appending, made if it is missing, and cuts it to size
	// bytes first. A file that is new is durable by name when Open returns.
	Open(name string, size int64) (File, error)
	ReadFile(name string) ([]byte, error)
	// Names lists the files there are, in no order; none is no error.
	Names() ([]string, error)
}

// File is an open journal. Append returns after the line is durable.
type File interface {
	Append(line []byte) error
	Close() error
}

const suffix = ".jsonl"

// Journal is one run's file, open for writing. It is safe for concurrent use.
type Journal struct {
	Run string

	mu   sync.Mutex
	file File
	err  error // the first failed write: nothing is written after it
	now  func() time.Time
}

// Open reads a run's facts and opens its file for more. A line torn by a death in
// the middle of a write is cut off: what it announced was not begun.
func Open(fsys FS, run string, now func() time.Time) (*Journal, []Fact, error) {
	facts, size, err := read(fsys, run)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	file, err := fsys.Open(run+suffix, size)
	if err != nil {
		return nil, nil, fmt.Errorf("open the journal of %s: %w", run, err)
	}
	return &Journal{Run: run, file: file, now: now}, facts, nil
}

// Read returns a run's facts, or an error that is fs.ErrNotExist.
func Read(fsys FS, run string) ([]Fact, error) {
	facts, _, err := read(fsys, run)
	return facts, err
}

// Runs lists the runs that have a journal, oldest name first.
func Runs(fsys FS) ([]string, error) {
	names, err := fsys.Names()
	if err != nil {
		return nil, fmt.Errorf("list the journals: %w", err)
	}
	var runs []string
	for _, n := range names {
		if run, ok := strings.CutSuffix(path.Base(n), suffix); ok {
			runs = append(runs, run)
		}
	}
	sort.Strings(runs)
	return runs, nil
}

// Append writes a fact and returns after it is durable. After a write that failed,
// every later one fails too: a journal with a hole is worse than a run that stops.
func (j *Journal) Append(f Fact) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err != nil {
		return j.err
	}
	if f.Time.IsZero() {
		f.Time = j.now().UTC()
	}
	line, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("journal %s: %w", f.Kind, err)
	}
	if err := j.file.Append(append(line, '\n')); err != nil {
		j.err = fmt.Errorf("journal of %s: %w", j.Run, err)
		return j.err
	}
	return nil
}

// Close closes the file.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.file.Close()
}

// read returns the facts and how many bytes of the file hold them.
func read(fsys FS, run string) ([]Fact, int64, error) {
	if run == "" || strings.ContainsAny(run, "/\\") || strings.HasPrefix(run, ".") {
		return nil, 0, fmt.Errorf("%q is not the name of a run", run)
	}
	body, err := fsys.ReadFile(run + suffix)
	if err != nil {
		return nil, 0, fmt.Errorf("read the journal of %s: %w", run, err)
	}
	facts, size, err := Parse(body)
	if err != nil {
		return nil, 0, fmt.Errorf("read the journal of %s: %w", run, err)
	}
	return facts, size, nil
}

// Parse reads facts and tells how many bytes hold them. A last line without its newline
// was torn and is left out; anything else that is no fact is an error, since what
// comes after it cannot be trusted.
func Parse(body []byte) (facts []Fact, size int64, err error) {
	for n := 1; len(body) > 0; n++ {
		line, rest, whole := bytes.Cut(body, []byte("\n"))
		if !whole {
			return facts, size, nil
		}
		var f Fact
		if err := json.Unmarshal(line, &f); err != nil {
			return nil, 0, fmt.Errorf("line %d: %w", n, err)
		}
		if f.Kind == "" {
			return nil, 0, fmt.Errorf("line %d: a fact has no kind", n)
		}
		facts = append(facts, f)
		size += int64(len(line)) + 1
		body = rest
	}
	return facts, size, nil
}
