package main

import (
	"cmp"
	crand "crypto/rand"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/util"
)

// fillConfig says how large a database to make.
type fillConfig struct {
	Dir       string
	Shard     uint32
	Blocks    uint64
	Bytes     int64 // of receipts, spread over the blocks
	TableSize int
	LevelSize int
	Settle    bool // leave the tables where a store of some age has them, see settle
}

// fill makes a database, or makes one longer, as fast as the disk takes it: the bytes are receipts, whose keys
// rise with the block's number, so that a full write buffer becomes one table of that size, which is never
// compacted, only moved to another level; and they go past the store's log of writes, in transactions. The
// small keys of the blocks follow at the end.
func fill(cfg fillConfig) (height uint64, err error) {
	c, err := openChain(cfg.Dir, cfg.Shard, storeOptions{WriteBuffer: cfg.TableSize, TableSize: cfg.TableSize, LevelSize: cfg.LevelSize, Plain: true}, 0)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.db.Close()) }()
	var seed [32]byte
	crand.Read(seed[:])
	rnd := rand.NewChaCha8(seed)
	parent, id := c.last()
	small := new(leveldb.Batch)
	tr, err := c.db.OpenTransaction()
	if err != nil {
		return 0, fmt.Errorf("write: %w", err)
	}
	defer func() {
		if tr != nil {
			tr.Discard() // nothing after a commit
		}
	}()
	var pending int
	for i := range cfg.Blocks {
		size := cfg.Bytes*int64(i+1)/int64(cfg.Blocks) - cfg.Bytes*int64(i)/int64(cfg.Blocks)
		receipts := make([]byte, size)
		rnd.Read(receipts)
		parent, id = putSmall(small, parent, id, receipts)
		if len(receipts) == 0 {
			continue
		}
		if err := tr.Put(keyReceipts(parent.Number, id), receipts, nil); err != nil {
			return 0, fmt.Errorf("write block %d: %w", parent.Number, err)
		}
		if pending += len(receipts); pending < 32*cfg.TableSize {
			continue
		}
		pending = 0
		if err := tr.Commit(); err != nil {
			return 0, fmt.Errorf("write block %d: %w", parent.Number, err)
		}
		if tr, err = c.db.OpenTransaction(); err != nil {
			return 0, fmt.Errorf("write: %w", err)
		}
	}
	if err := tr.Commit(); err != nil {
		return 0, fmt.Errorf("write: %w", err)
	}
	for _, k := range [][]byte{keyLastHeader, keyLastBlock, keyLastFast} {
		small.Put(k, id[:])
	}
	if err := c.db.Write(small, nil); err != nil {
		return 0, fmt.Errorf("write the blocks: %w", err)
	}
	if cfg.Settle {
		return parent.Number, settle(c.db.DB, int64(cmp.Or(cfg.LevelSize, 10<<20)))
	}
	return parent.Number, nil
}

// settle compacts once and waits until the store has moved its tables down. Without it they all lie in the
// upper levels, and the first compaction of a node that goes on writing rewrites every one; those
// of an old chain lie in the lower levels, and most of them stay as they are.
func settle(db *leveldb.DB, levelSize int64) error {
	if err := db.CompactRange(util.Range{}); err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	for range 600 {
		var st leveldb.DBStats
		if err := db.Stats(&st); err != nil {
			return fmt.Errorf("look at the levels: %w", err)
		}
		if len(st.LevelSizes) < 2 || st.LevelTablesCounts[0] == 0 && st.LevelSizes[1] <= 10*levelSize {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return errors.New("the store is still compacting after 30 s")
}

// putSmall adds to a batch what a block with these receipts consists of beside them.
func putSmall(batch *leveldb.Batch, parent header, parentID hash, receipts []byte) (header, hash) {
	h := header{Parent: parentID, Root: sum(nil), Number: parent.Number + 1, Time: parent.Time + 2, Shard: parent.Shard}
	h.Epoch = h.Number / blocksPerEpoch
	if len(receipts) > 0 {
		h.Receipts = sum(receipts)
	}
	enc := h.encode()
	id := sum(enc)
	batch.Put(keyHeader(h.Number, id), enc)
	batch.Put(keyBody(h.Number, id), nil)
	batch.Put(keyNumber(id), number(h.Number))
	batch.Put(keyCanonical(h.Number), id[:])
	return h, id
}
