package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/opt"
)

// head is where a database is in its chain.
type head struct {
	Height uint64
	Hash   [32]byte
	SnapDB bool // it was made by dumping the state of another one
}

// The keys of Harmony's database that are read here (harmony-one/harmony,
// core/rawdb/schema.go): LastBlock -> hash; H + hash -> number, 8 bytes big endian;
// h + number + n -> hash; h + number + hash -> header; SnapdbInfo.
var (
	keyLastBlock = []byte("LastBlock")
	keySnapDB    = []byte("SnapdbInfo")
)

func keyNumber(hash []byte) []byte { return append([]byte("H"), hash...) }

func keyCanonical(n uint64) []byte {
	return append(binary.BigEndian.AppendUint64([]byte("h"), n), 'n')
}

func keyHeader(n uint64, hash []byte) []byte {
	return append(binary.BigEndian.AppendUint64([]byte("h"), n), hash...)
}

// readHead reads the head of a copy, and writes to none of its files.
func readHead(dir string) (head, error) {
	var h head
	db, err := leveldb.Open(frozen{dir}, &opt.Options{
		ReadOnly:               true,
		ErrorIfMissing:         true,
		DisableSeeksCompaction: true,
		OpenFilesCacheCapacity: 64,
		// Not StrictJournal: the end of a log may be torn after a node that left without closing
		// its store, and every reader drops that end.
		Strict: opt.StrictManifest | opt.StrictBlockChecksum | opt.StrictReader,
	})
	if err != nil {
		return h, fmt.Errorf("open the copy: %w", err)
	}
	defer db.Close()
	hash, err := db.Get(keyLastBlock, nil)
	if errors.Is(err, leveldb.ErrNotFound) {
		return h, errors.New("the copy has no head block: it is no database of a chain, or an empty one")
	}
	if err != nil {
		return h, fmt.Errorf("read the head block: %w", err)
	}
	if len(hash) != len(h.Hash) {
		return h, fmt.Errorf("the hash of the head block has %d bytes", len(hash))
	}
	copy(h.Hash[:], hash)
	number, err := db.Get(keyNumber(hash), nil)
	if err != nil {
		return h, fmt.Errorf("read the number of block %x: %w", hash, err)
	}
	if len(number) != 8 {
		return h, fmt.Errorf("the number of block %x has %d bytes", hash, len(number))
	}
	h.Height = binary.BigEndian.Uint64(number)
	if err := checkHead(db, h); err != nil {
		return h, err
	}
	h.SnapDB, err = db.Has(keySnapDB, nil)
	if err != nil {
		return h, fmt.Errorf("read the origin of the copy: %w", err)
	}
	return h, nil
}

// checkHead sees that the head is on the canonical chain and that its header is there.
func checkHead(db *leveldb.DB, h head) error {
	canonical, err := db.Get(keyCanonical(h.Height), nil)
	if err != nil {
		return fmt.Errorf("read the canonical hash of block %d: %w", h.Height, err)
	}
	if !bytes.Equal(canonical, h.Hash[:]) {
		return fmt.Errorf("the head is block %d %x, and the chain has %x there", h.Height, h.Hash, canonical)
	}
	if _, err := db.Get(keyHeader(h.Height, h.Hash[:]), nil); err != nil {
		return fmt.Errorf("read the header of block %d: %w", h.Height, err)
	}
	return nil
}
