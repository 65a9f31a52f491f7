package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/syndtr/goleveldb/leveldb"
	lderrors "github.com/syndtr/goleveldb/leveldb/errors"
	"github.com/syndtr/goleveldb/leveldb/opt"
	"github.com/syndtr/goleveldb/leveldb/storage"
)

// errDamaged is returned for a database that is not whole: a node exits with exitDamaged.
var errDamaged = errors.New("the database is damaged")

// storeOptions are the sizes that decide how fast tables appear and how much is compacted, in bytes.
type storeOptions struct {
	WriteBuffer int
	TableSize   int
	LevelSize   int // of level 0; level n holds 10^n times it; 0 is LevelDB's own 10 MiB
	ReadOnly    bool
	MustExist   bool
	Fsync       bool // survive a power cut too, not only the end of the process
	Plain       bool // no compression: for random bytes
}

// store is one LevelDB, with an ear on what it does.
type store struct {
	*leveldb.DB
	files *listening
}

// openStore opens the database in dir, or makes it. It is locked (flock on LOCK) until Close.
// What can't be read is errDamaged; a lock that another process holds is not.
func openStore(dir string, o storeOptions) (*store, error) {
	if o.MustExist {
		if _, err := os.Stat(dir + "/CURRENT"); err != nil {
			return nil, fmt.Errorf("no database: %w", err)
		}
	}
	files, err := storage.OpenFile(dir, o.ReadOnly)
	if errors.Is(err, syscall.EAGAIN) {
		return nil, fmt.Errorf("open %s: another process has it open", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	l := &listening{Storage: files}
	compression := opt.DefaultCompression
	if o.Plain {
		compression = opt.NoCompression
	}
	db, err := leveldb.Open(l, &opt.Options{
		NoSync:                 !o.Fsync,
		Compression:            compression,
		WriteBuffer:            o.WriteBuffer,
		CompactionTableSize:    o.TableSize,
		CompactionTotalSize:    o.LevelSize,
		OpenFilesCacheCapacity: 64,
		BlockCacheCapacity:     1 << 20,
		ReadOnly:               o.ReadOnly,
		ErrorIfMissing:         o.MustExist,
		Strict:                 opt.DefaultStrict | opt.StrictManifest,
	})
	if err != nil {
		files.Close()
		if lderrors.IsCorrupted(err) || errors.Is(err, fs.ErrNotExist) {
			err = errors.Join(errDamaged, err)
		}
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	return &store{DB: db, files: l}, nil
}

// Close waits for the store's own work and frees its lock.
func (s *store) Close() error {
	return errors.Join(s.DB.Close(), s.files.Storage.Close())
}
