package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/syndtr/goleveldb/leveldb/storage"
)

// errFrozen is returned for everything that would change a frozen store.
var errFrozen = errors.New("this copy is only read")

// frozen is a goleveldb storage that opens files for reading and can do nothing else: no
// lock file, no LOG, no repair of CURRENT. A linked copy shares its inodes with the running
// node, and what goleveldb takes for its own it truncates. With opt.Options.ReadOnly the
// logs are replayed into memory, so nothing is missing.
type frozen struct{ dir string }

func (f frozen) Lock() (storage.Locker, error) { return unlocked{}, nil }
func (f frozen) Log(string)                    {}
func (f frozen) Close() error                  { return nil }

func (f frozen) SetMeta(storage.FileDesc) error                  { return errFrozen }
func (f frozen) Remove(storage.FileDesc) error                   { return errFrozen }
func (f frozen) Rename(_, _ storage.FileDesc) error              { return errFrozen }
func (f frozen) Create(storage.FileDesc) (storage.Writer, error) { return nil, errFrozen }

// GetMeta returns the manifest that CURRENT names.
func (f frozen) GetMeta() (storage.FileDesc, error) {
	name, err := readCurrent(filepath.Join(f.dir, "CURRENT"))
	if err != nil {
		return storage.FileDesc{}, err
	}
	fd, ok := descOf(name)
	if !ok {
		return storage.FileDesc{}, fmt.Errorf("CURRENT names %s", name)
	}
	return fd, nil
}

// List returns the files of the given types.
func (f frozen) List(t storage.FileType) ([]storage.FileDesc, error) {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return nil, err
	}
	var out []storage.FileDesc
	for _, e := range entries {
		if fd, ok := descOf(e.Name()); ok && fd.Type&t != 0 {
			out = append(out, fd)
		}
	}
	return out, nil
}

// Open opens a file for reading.
func (f frozen) Open(fd storage.FileDesc) (storage.Reader, error) {
	r, err := os.Open(filepath.Join(f.dir, fd.String()))
	if errors.Is(err, os.ErrNotExist) && fd.Type == storage.TypeTable {
		return os.Open(filepath.Join(f.dir, fmt.Sprintf("%06d.sst", fd.Num)))
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

type unlocked struct{}

func (unlocked) Unlock() {}

// descOf parses the name of a file of a LevelDB.
func descOf(name string) (storage.FileDesc, bool) {
	if manifestName.MatchString(name) {
		n, err := strconv.ParseInt(name[len("MANIFEST-"):], 10, 64)
		return storage.FileDesc{Type: storage.TypeManifest, Num: n}, err == nil
	}
	digits, ext, _ := strings.Cut(name, ".")
	t, ok := map[string]storage.FileType{
		"log": storage.TypeJournal, "ldb": storage.TypeTable, "sst": storage.TypeTable,
	}[ext]
	n, err := strconv.ParseInt(digits, 10, 64)
	return storage.FileDesc{Type: t, Num: n}, ok && err == nil && n >= 0
}
