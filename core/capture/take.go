package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// TakeOptions say what to take.
type TakeOptions struct {
	From     string // the database's directory
	To       string // see Dir
	List     string // a file: the live list
	Run      string // whose copy it is: see Drop
	Method   Method // "" is Auto
	Workers  int    // 0 is one a processor; links of one folder are made by one
	Progress Progress
}

// Take makes To/data a copy of the files that the list names. The node must have stopped:
// a listed file that is missing, is not a regular one or changes meanwhile is a RefusedError.
//
// A copy that is there already is replaced only when the new one is whole. A second Take
// takes once more; one that died is cleaned up by the next. An error leaves the old copy as it
// was. Nothing is synced to the disk here: see Seal.
func Take(ctx context.Context, o TakeOptions) (Captured, error) {
	items, err := readListFile(o.List)
	if err != nil {
		return Captured{}, err
	}
	from, err := checkFrom(o.From, o.To)
	if err != nil {
		return Captured{}, err
	}
	p, err := openPlace(o.To)
	if err != nil {
		return Captured{}, err
	}
	defer p.close()
	c, err := p.take(ctx, from, items, o)
	if err != nil {
		// It would fill the disk under the node that is about to start.
		os.RemoveAll(p.path(newName))
		return Captured{}, err
	}
	return c, nil
}

// checkFrom refuses a database that is not there, or that holds or lies in its own copy.
func checkFrom(from, to string) (string, error) {
	abs, err := filepath.Abs(from)
	if err != nil {
		return "", err
	}
	st, err := os.Stat(abs)
	if errors.Is(err, fs.ErrNotExist) {
		return "", refusef("%s is not there: is it the database's directory?", abs)
	}
	if err != nil {
		return "", err
	}
	if !st.IsDir() {
		return "", refusef("%s is no directory", abs)
	}
	real, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return "", err
	}
	target := filepath.Clean(to)
	if up, err := filepath.EvalSymlinks(filepath.Dir(filepath.Dir(target))); err == nil {
		target = filepath.Join(up, folder, filepath.Base(target))
	}
	if inside(real, target) || inside(target, real) {
		return "", refusef("%s and %s lie in each other", from, to)
	}
	return abs, nil
}

func inside(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

func (p *place) take(ctx context.Context, from string, items []Item, o TakeOptions) (Captured, error) {
	if err := p.discard(newName); err != nil {
		return Captured{}, err
	}
	mode, err := dataMode(from)
	if err != nil {
		return Captured{}, err
	}
	if err := os.Mkdir(p.path(newName), mode); err != nil {
		return Captured{}, err
	}
	src, err := openTree(from, false)
	if err != nil {
		return Captured{}, err
	}
	defer src.close()
	dst, err := openTree(p.path(newName), true)
	if err != nil {
		return Captured{}, err
	}
	defer dst.close()

	b := builder{src: src, dst: dst, items: items, workers: workers(o.Workers)}
	defer b.close()
	if err := b.choose(p, o.Method); err != nil {
		return Captured{}, err
	}
	if err := b.build(ctx, o.Progress); err != nil {
		return Captured{}, err
	}
	c := b.captured(from)
	c.Run = o.Run
	return p.commit(c, b.recs)
}

// dataMode gives the copy the database's own permissions, and its owner all of them.
func dataMode(from string) (os.FileMode, error) {
	st, err := os.Stat(from)
	if err != nil {
		return 0, err
	}
	return st.Mode().Perm() | 0o700, nil
}

func workers(n int) int {
	if n > 0 {
		return n
	}
	return runtime.GOMAXPROCS(0)
}

// builder fills data.new.
type builder struct {
	src, dst *tree
	items    []Item
	method   Method
	workers  int
	before   []earlier
	copier   copier
	recs     []Record // by item
	reused   []bool
}

func (b *builder) close() {
	for _, e := range b.before {
		e.tree.close()
	}
}

// choose picks the method, by trying it on the first file that may be linked.
func (b *builder) choose(p *place, want Method) error {
	if want == "" {
		want = Auto
	}
	b.method = Copy
	for _, item := range b.items {
		if item.Mode != ModeLink {
			continue
		}
		m, err := pick(b.src, b.dst, item.Name, want)
		if err != nil {
			return live(item.Name, err)
		}
		b.method = m
		break
	}
	if b.method == Copy {
		b.before = p.earlier()
	}
	return nil
}

// live says what an error of one listed file means.
func live(name string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return refusef("the database counts %s, and it is not there: its copy would be broken, and so may the database be", name)
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, errIrregular):
		return refusef("%s: %v", name, errIrregular)
	case errors.Is(err, errMoved):
		return refusef("%s: %v", name, errMoved)
	}
	var refused *RefusedError
	if errors.As(err, &refused) {
		return err
	}
	return fmt.Errorf("capture %s: %w", name, err)
}

func (b *builder) build(ctx context.Context, report Progress) error {
	b.recs = make([]Record, len(b.items))
	b.reused = make([]bool, len(b.items))
	count := newMeter(report, int64(len(b.items)))
	b.copier = copier{src: b.src, dst: b.dst, count: newMeter(nil, 0)}
	if b.method == Copy {
		total, err := b.size()
		if err != nil {
			return err
		}
		b.copier.count = newMeter(report, total)
		count = newMeter(nil, 0)
	}
	shares := b.shares()
	n := b.workers
	if b.method == Link {
		n = min(n, foldersAtOnce)
	}
	err := parallel(ctx, n, len(shares), func(ctx context.Context, n int) error {
		for _, i := range shares[n] {
			if ctx.Err() != nil {
				return nil
			}
			rec, err := b.one(ctx, i)
			if err != nil {
				return live(b.items[i].Name, err)
			}
			b.recs[i] = rec
			count.add(1)
		}
		return nil
	})
	if err != nil {
		return err
	}
	count.end()
	b.copier.count.end()
	return b.still()
}

// shares are the items as workers take them: one by one, but links by folder, the largest first. Links of one folder would
// only wait for its lock.
func (b *builder) shares() [][]int {
	var shares [][]int
	at := map[string]int{}
	for i, item := range b.items {
		if b.method != Link {
			shares = append(shares, []int{i})
			continue
		}
		dir := path.Dir(item.Name)
		n, ok := at[dir]
		if !ok {
			n, at[dir] = len(shares), len(shares)
			shares = append(shares, nil)
		}
		shares[n] = append(shares[n], i)
	}
	slices.SortStableFunc(shares, func(a, b []int) int { return len(b) - len(a) })
	return shares
}

func (b *builder) size() (int64, error) {
	var total int64
	for _, item := range b.items {
		st, err := b.src.stat(item.Name)
		if err != nil {
			return 0, live(item.Name, err)
		}
		total += st.Size
	}
	return total, nil
}

// one captures one file. A single file that can't be linked or cloned, because it lies on
// another mount or has too many links already, is copied.
func (b *builder) one(ctx context.Context, i int) (Record, error) {
	item := b.items[i]
	switch {
	case item.Mode == ModeLink && b.method == Link:
		st, err := linkFile(b.src, item.Name, b.dst, item.Name)
		if err == nil {
			return Record{Name: item.Name, How: linked, Src: IdentOf(&st)}, nil
		}
		if err == unix.EPERM {
			if err := b.src.refuseForeign(item.Name); err != nil {
				return Record{}, err
			}
		}
		if !impossible(err) {
			return Record{}, err
		}
	case b.method == Clone:
		rec, err := cloneFile(b.src, item.Name, b.dst, item.Name)
		if err == nil || !impossible(err) {
			return rec, err
		}
	case b.method == Copy:
		if rec, ok := b.reuse(item.Name); ok {
			b.reused[i] = true
			b.copier.count.add(rec.Src.Size)
			return rec, nil
		}
	}
	return b.copier.file(ctx, item.Name)
}

// still looks once more at what was copied or cloned: whoever writes to a database whose node is
// said to have stopped is found out here. Links are looked at by Seal.
func (b *builder) still() error {
	for _, rec := range b.recs {
		if rec.How == linked {
			continue
		}
		st, err := b.src.stat(rec.Name)
		if err == nil && IdentOf(&st) != rec.Src {
			err = errMoved
		}
		if err != nil {
			return live(rec.Name, err)
		}
	}
	return nil
}

func (b *builder) captured(from string) Captured {
	c := Captured{Method: b.method, Files: len(b.recs), From: from, When: time.Now().UTC(), Boot: bootID()}
	for i, rec := range b.recs {
		c.Bytes += rec.Src.Size
		switch {
		case b.reused[i]:
			c.Reused++
		case rec.How == linked:
			c.Linked++
		case rec.How == cloned:
			c.Cloned++
		default:
			c.Copied++
		}
	}
	return c
}

// commit makes data.new the copy: the exchange is the moment from which on it is.
func (p *place) commit(c Captured, recs []Record) (Captured, error) {
	if c.Data = p.inode(newName); c.Data == 0 {
		return Captured{}, fmt.Errorf("%s is gone: something else works in %s", newName, p.dir)
	}
	c.List = fmt.Sprintf("%s%d.jsonl", filesPrefix, c.Data)
	if err := replaceRecords(p.path(c.List), recs); err != nil {
		return Captured{}, fmt.Errorf("write what was captured: %w", err)
	}
	line, err := encodeLine(c)
	if err != nil {
		return Captured{}, err
	}
	write := func(w io.Writer) error { _, err := w.Write(line); return err }
	if err := replaceFile(p.path(newJSON), 0o644, false, write); err != nil {
		return Captured{}, fmt.Errorf("write what was captured: %w", err)
	}
	// They would be read as the new copy's.
	if err := os.Remove(p.path(EntriesName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Captured{}, err
	}
	if err := p.swap(); err != nil {
		return Captured{}, fmt.Errorf("put the new copy in place: %w", err)
	}
	if err := os.Rename(p.path(newJSON), p.path(CapturedName)); err != nil {
		return Captured{}, err
	}
	// From here on the copy is whole; what stays behind is removed by Seal.
	for _, name := range []string{newName, warmName, warmRecords} {
		if err := p.discard(name); err != nil {
			return c, err
		}
	}
	return c, nil
}
