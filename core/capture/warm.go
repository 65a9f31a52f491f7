package capture

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// earlier is a real copy of some files, made before.
type earlier struct {
	warm bool // by the warm pass
	tree *tree
	recs map[string]Record
}

// earlier returns what a real copy need not copy again: the warm pass, and the copy before it.
func (p *place) earlier() []earlier {
	var all []earlier
	add := func(dir string, recs []Record) {
		t, err := openTree(p.path(dir), false)
		if err != nil {
			return // not there: then all is copied
		}
		e := earlier{warm: dir == warmName, tree: t, recs: make(map[string]Record, len(recs))}
		for _, rec := range recs {
			if rec.How != linked {
				e.recs[rec.Name] = rec
			}
		}
		all = append(all, e)
	}
	// A torn last line is that of a file whose copy was not finished.
	if warm, _ := readRecordsFile(p.path(warmRecords)); len(warm) > 0 {
		add(warmName, warm)
	}
	if c, recs, err := p.load(); err == nil && c.whole() {
		add(DataName, recs)
	}
	return all
}

// has returns the record of a file that was copied and has not changed since, on either side.
func (e earlier) has(name string, src Ident) (Record, bool) {
	rec, ok := e.recs[name]
	if !ok || rec.Src != src {
		return Record{}, false
	}
	st, err := e.tree.stat(name)
	if err != nil || IdentOf(&st) != rec.own() {
		return Record{}, false
	}
	return rec, true
}

// reuse puts an earlier copy of a file into the new one: both are ours, so a link does.
func (b *builder) reuse(name string) (Record, bool) {
	st, err := b.src.stat(name)
	if err != nil {
		return Record{}, false
	}
	for _, e := range b.before {
		rec, ok := e.has(name, IdentOf(&st))
		if !ok {
			continue
		}
		// A file system without links, or with too many of them: copied then.
		if _, err := linkFile(e.tree, name, b.dst, name); err == nil {
			return rec, true
		}
	}
	return Record{}, false
}

// WarmOptions say what to copy beforehand.
type WarmOptions struct {
	From     string
	To       string
	Method   Method // "" is Auto
	Workers  int    // 0 is one a processor
	Rate     int64  // bytes a second; 0 is no limit
	Progress Progress
}

// Warmed is what a warm pass did.
type Warmed struct {
	Method Method `json:"method"` // what Take will use; other than Copy: nothing was done
	Files  int    `json:"files"`  // held by the warm copy
	Bytes  int64  `json:"bytes"`
	Copied int64  `json:"copied"` // bytes that this pass read
}

// Warm copies the database's files while the node runs, where they can be neither linked nor cloned,
// so that Take has only the difference left. Files that change or vanish meanwhile are passed over: Take
// takes nothing from it that does not have the size and time that the node's file has then.
// A second Warm copies what is new.
func Warm(ctx context.Context, o WarmOptions) (Warmed, error) {
	from, err := checkFrom(o.From, o.To)
	if err != nil {
		return Warmed{}, err
	}
	p, err := openPlace(o.To)
	if err != nil {
		return Warmed{}, err
	}
	defer p.close()
	s, err := survey(from, nil)
	if err != nil {
		return Warmed{}, err
	}
	method, err := p.trial(from, s, o.Method)
	if err != nil || method != Copy {
		return Warmed{Method: method}, err
	}
	w, err := p.warm(ctx, from, s, o)
	if err != nil {
		return Warmed{}, fmt.Errorf("warm copy: %w", err)
	}
	return w, nil
}

func (p *place) warm(ctx context.Context, from string, s surveyed, o WarmOptions) (Warmed, error) {
	if err := os.Mkdir(p.path(warmName), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return Warmed{}, err
	}
	src, err := openTree(from, false)
	if err != nil {
		return Warmed{}, err
	}
	defer src.close()
	dst, err := openTree(p.path(warmName), true)
	if err != nil {
		return Warmed{}, err
	}
	defer dst.close()
	before := p.earlier()
	defer func() {
		for _, e := range before {
			e.tree.close()
		}
	}()

	w := warmer{out: Warmed{Method: Copy}, copier: copier{
		src: src, dst: dst, gentle: true, pace: newPacer(o.Rate), count: newMeter(o.Progress, s.bytes)}}
	var todo []string
	for _, f := range s.files {
		kept, inWarm := held(before, f)
		if kept == nil {
			todo = append(todo, f.name)
			continue
		}
		w.copier.count.add(f.id.Size)
		if inWarm {
			w.keep(*kept)
		}
	}
	// First only what is still good, in one go; then a line for each file that is whole.
	if err := w.open(p); err != nil {
		return Warmed{}, err
	}
	defer w.log.Close()
	if err := prune(p.path(warmName), w.kept); err != nil {
		return Warmed{}, err
	}
	err = parallel(ctx, workers(o.Workers), len(todo), func(ctx context.Context, i int) error { return w.one(ctx, todo[i]) })
	w.copier.count.end()
	return w.out, err
}

// held finds a file in an earlier copy; warm tells whether in the warm one.
func held(before []earlier, f found) (rec *Record, warm bool) {
	for _, e := range before {
		if r, ok := e.has(f.name, f.id); ok {
			return &r, e.warm
		}
	}
	return nil, false
}

// warmer adds files to the warm copy.
type warmer struct {
	copier copier
	mu     sync.Mutex
	log    *os.File
	kept   map[string]bool
	recs   []Record
	out    Warmed
}

func (w *warmer) keep(rec Record) {
	if w.kept == nil {
		w.kept = map[string]bool{}
	}
	w.kept[rec.Name] = true
	w.recs = append(w.recs, rec)
	w.out.Files++
	w.out.Bytes += rec.Src.Size
}

func (w *warmer) open(p *place) (err error) {
	file := p.path(warmRecords)
	if err := replaceRecords(file, w.recs); err != nil {
		return err
	}
	w.log, err = os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	return err
}

func (w *warmer) one(ctx context.Context, name string) error {
	if err := w.copier.dst.remove(name); err != nil {
		return err
	}
	rec, err := w.copier.file(ctx, name)
	switch {
	case errors.Is(err, errMoved), errors.Is(err, fs.ErrNotExist), errors.Is(err, errIrregular), errors.Is(err, unix.ENOTDIR):
		return w.copier.dst.remove(name) // the node is alive; Take sees to it
	case err != nil:
		w.copier.dst.remove(name)
		return fmt.Errorf("%s: %w", name, err)
	}
	line, err := encodeLine(rec)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.keep(rec)
	w.out.Copied += rec.Src.Size
	_, err = w.log.Write(line)
	return err
}

// prune removes what a directory holds beside some files.
func prune(dir string, keep map[string]bool) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil || keep[filepath.ToSlash(rel)] {
			return err
		}
		return os.Remove(path)
	})
}
