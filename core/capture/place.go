package capture

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Names in the directory of a copy.
const (
	DataName     = "data"          // the copy: a plan's Data
	EntriesName  = "entries.jsonl" // by Seal
	CapturedName = "captured.json" // a Captured
	SumsName     = "sums.jsonl"    // by Seal, unless told otherwise

	folder      = ".snapfw"
	newName     = "data.new"
	newJSON     = "new.json"
	warmName    = "data.warm"
	warmRecords = "warm.jsonl"
	trashPrefix = "trash-"
	filesPrefix = "files-"
	tempPrefix  = ".tmp-"
)

// Dir is where the copy of a database lies: PARENT/.snapfw/NAME for PARENT/NAME.
func Dir(db string) string {
	db = filepath.Clean(db)
	return filepath.Join(filepath.Dir(db), folder, filepath.Base(db))
}

// RefusedError says why it must not be done. A verb ends with code 3 then.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "refused: " + e.Reason }

func refusef(format string, args ...any) error {
	return &RefusedError{Reason: fmt.Sprintf(format, args...)}
}

// ErrNoCopy is returned where there is no whole copy.
var ErrNoCopy = errors.New("there is no whole copy here; take one first")

// ErrBusy is returned while another capture works on the same copy.
var ErrBusy = errors.New("another capture is at work here; wait until it has ended, or end its job")

// place is the directory of a copy, locked.
type place struct {
	dir string
	fd  *os.File // its lock, too
}

// checkTo refuses a directory that is not PARENT/.snapfw/NAME: what lies in it gets removed.
func checkTo(to string) (string, error) {
	clean := filepath.Clean(to)
	if !filepath.IsAbs(clean) || filepath.Base(filepath.Dir(clean)) != folder {
		return "", fmt.Errorf("the directory of a copy is an absolute PARENT/%s/NAME, and %q is not", folder, to)
	}
	for _, dir := range []string{filepath.Dir(clean), clean} {
		st, err := os.Lstat(dir)
		if err == nil && !st.IsDir() {
			return "", refusef("%s is no directory", dir)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return clean, nil
}

// openPlace locks the directory of a copy, which it makes if it has to, and finishes
// what a death left between two renames.
func openPlace(to string) (*place, error) {
	dir, err := checkTo(to)
	if err != nil {
		return nil, err
	}
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Mkdir(d, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make the directory of the copy: %w", err)
		}
	}
	return lockPlace(dir)
}

func lockPlace(dir string) (*place, error) {
	fd, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	// A file system that can't lock (EBADF on NFS) is no reason not to work there.
	if err := unix.Flock(int(fd.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == unix.EWOULDBLOCK {
		fd.Close()
		return nil, fmt.Errorf("%s: %w", dir, ErrBusy)
	}
	p := &place{dir: dir, fd: fd}
	if err := p.settle(); err != nil {
		p.close()
		return nil, fmt.Errorf("settle %s: %w", dir, err)
	}
	return p, nil
}

func (p *place) close() { p.fd.Close() }

func (p *place) path(name string) string { return filepath.Join(p.dir, name) }

// inode of a directory in the place; 0 where there is none.
func (p *place) inode(name string) uint64 {
	var st unix.Stat_t
	if unix.Lstat(p.path(name), &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return 0
	}
	return st.Ino
}

// settle finishes a take that died after its copy was whole, and forgets one that died before.
func (p *place) settle() error {
	next, err := readCaptured(p.path(newJSON))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	data := p.inode(DataName)
	switch {
	case err != nil: // torn by a power cut: it describes nothing
		return os.Remove(p.path(newJSON))
	case data == 0 && p.inode(newName) == next.Data: // between the two renames of a file system that can't exchange
		if err := os.Rename(p.path(newName), p.path(DataName)); err != nil {
			return err
		}
	case data != next.Data:
		return os.Remove(p.path(newJSON))
	}
	return os.Rename(p.path(newJSON), p.path(CapturedName))
}

// load reads what is known of the copy, or ErrNoCopy.
func (p *place) load() (Captured, []Record, error) {
	c, err := p.captured()
	if err != nil {
		return Captured{}, nil, err
	}
	recs, err := c.records(p.dir)
	return c, recs, err
}

func (c Captured) records(dir string) ([]Record, error) {
	recs, err := readRecordsFile(filepath.Join(dir, c.List))
	if err != nil {
		return nil, fmt.Errorf("read what was captured: %w", err)
	}
	if len(recs) != c.Files {
		return nil, fmt.Errorf("%s names %d files and not %d; take the copy again", c.List, len(recs), c.Files)
	}
	return recs, nil
}

func (p *place) captured() (Captured, error) {
	c, err := readCaptured(p.path(CapturedName))
	if errors.Is(err, fs.ErrNotExist) {
		return Captured{}, fmt.Errorf("%s: %w", p.dir, ErrNoCopy)
	}
	if err != nil {
		return Captured{}, err
	}
	if data := p.inode(DataName); data == 0 || data != c.Data {
		return Captured{}, fmt.Errorf("%s: %w", p.dir, ErrNoCopy)
	}
	return c, nil
}

// whole tells whether the bytes of the copy are what they were: on the disk, or written
// since the machine was started.
func (c Captured) whole() bool { return !c.Sealed.IsZero() || c.Boot == bootID() }

// swap makes data.new the copy. What was the copy is data.new afterwards.
func (p *place) swap() error {
	from, to := p.path(newName), p.path(DataName)
	if p.inode(DataName) == 0 {
		return os.Rename(from, to)
	}
	err := exchange(from, to)
	if err != unix.EINVAL && err != unix.ENOSYS && err != unix.EOPNOTSUPP {
		return err
	}
	if err := p.discard(DataName); err != nil {
		return err
	}
	return os.Rename(from, to)
}

// exchange is a variable so that a test can have a file system that is not able to.
var exchange = func(a, b string) error {
	return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
}

// discard puts something out of the way, in no time; clean removes it.
func (p *place) discard(name string) error {
	err := os.Rename(p.path(name), p.path(fmt.Sprintf("%s%016x", trashPrefix, rand.Uint64())))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// clean removes what earlier captures left behind, whole copies excepted.
func (p *place) clean() error {
	names, err := os.ReadDir(p.dir)
	if err != nil {
		return err
	}
	current, _ := p.captured() // none: then no list is needed either
	for _, e := range names {
		name := e.Name()
		stale := name == newName || strings.HasPrefix(name, trashPrefix) || strings.HasPrefix(name, tempPrefix) ||
			strings.HasPrefix(name, filesPrefix) && name != current.List
		if !stale {
			continue
		}
		if err := removeTree(p.path(name)); err != nil {
			return fmt.Errorf("remove leftovers: %w", err)
		}
	}
	return nil
}

// foldersAtOnce bounds in how many folders names are made or removed at a time: more only wait for the file system's journal.
const foldersAtOnce = 4

// removeTree is os.RemoveAll, several folders at a time: to remove names of one waits for its lock.
func removeTree(dir string) error {
	fd, err := openFolder(unix.AT_FDCWD, dir, unix.O_NOFOLLOW)
	if err != nil {
		return os.RemoveAll(dir)
	}
	d := os.NewFile(uintptr(fd), dir)
	defer d.Close()
	entries, err := d.ReadDir(-1)
	if err != nil {
		return err
	}
	shares := []func(){func() {
		for _, e := range entries {
			if !e.IsDir() {
				unix.Unlinkat(fd, e.Name(), 0)
			}
		}
	}}
	for _, e := range entries {
		if e.IsDir() {
			shares = append(shares, func() { os.RemoveAll(filepath.Join(dir, e.Name())) })
		}
	}
	parallel(context.Background(), min(workers(0), foldersAtOnce), len(shares), func(_ context.Context, i int) error { shares[i](); return nil })
	return os.RemoveAll(dir) // and says what could not be removed
}
