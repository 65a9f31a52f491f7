package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// report is what "check" prints.
type report struct {
	OK       bool   `json:"ok"`
	Error    string `json:"error,omitempty"`
	Keys     int64  `json:"keys"`     // every key of the database
	Bytes    int64  `json:"bytes"`    // of all keys and values
	State    int64  `json:"state"`    // pieces of state, each one's hash computed anew
	Blocks   int64  `json:"blocks"`   // walked, from the head to the genesis block
	Height   uint64 `json:"height"`   // of the head
	Hash     string `json:"hash"`     // of the head
	Compared int64  `json:"compared"` // canonical blocks that are the same in the other database
}

// checkDatabase opens a database as a node does, which may write to it: never give it one that shares
// files with a node's (it refuses tables with a second name unless readOnly). It reads every
// key, walks the chain from the head to the genesis block, and compares all
// canonical blocks up to height with another database; height 0 is the lower of the two heads.
func checkDatabase(dir, against string, height uint64, readOnly bool) report {
	var r report
	if err := r.check(dir, against, height, readOnly); err != nil {
		r.Error = err.Error()
	}
	r.OK = r.Error == ""
	return r
}

func (r *report) check(dir, against string, height uint64, readOnly bool) error {
	if !readOnly {
		if err := unshared(dir); err != nil {
			return err
		}
	}
	db, err := openStore(dir, storeOptions{MustExist: true, ReadOnly: readOnly})
	if err != nil {
		return err
	}
	defer db.Close()
	if err := r.keys(db); err != nil {
		return err
	}
	w, err := r.walk(db)
	if err != nil || against == "" {
		return err
	}
	other, err := openStore(against, storeOptions{MustExist: true, ReadOnly: true})
	if err != nil {
		return err
	}
	defer other.Close()
	return r.compare(w, other, height)
}

// unshared refuses a database whose tables are hard links.
func unshared(dir string) error {
	tables, err := filepath.Glob(filepath.Join(dir, "*.ldb"))
	if err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	for _, t := range tables {
		info, err := os.Stat(t)
		if err != nil {
			return fmt.Errorf("look at a table: %w", err)
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 {
			return fmt.Errorf("%s is a hard link: opening this database could destroy the other one; check a real copy, or use --read-only", t)
		}
	}
	return nil
}

func (r *report) keys(db *store) error {
	it := db.NewIterator(nil, nil)
	defer it.Release()
	for it.Next() {
		r.Keys++
		r.Bytes += int64(len(it.Key()) + len(it.Value()))
		if len(it.Key()) != len(hash{}) {
			continue
		}
		r.State++
		if s := sum(it.Value()); !bytes.Equal(s[:], it.Key()) {
			return fmt.Errorf("%w: state %x has another hash", errDamaged, it.Key())
		}
	}
	if err := it.Error(); err != nil {
		return errors.Join(errDamaged, err)
	}
	return nil
}

// blockHash is a walked block.
type blockHash struct {
	number uint64
	hash   hash
}

func (r *report) walk(db *store) ([]blockHash, error) {
	last, err := db.Get(keyLastBlock, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: LastBlock: %w", errDamaged, err)
	}
	w := walk{db: db, state: true}
	if err := w.start(last); err != nil {
		return nil, err
	}
	r.Height, r.Hash = w.at.Number, w.hash.String()
	all := []blockHash{{w.at.Number, w.hash}}
	for {
		more, err := w.back()
		r.Blocks = w.blocks
		if err != nil || !more {
			return all, err
		}
		all = append(all, blockHash{w.at.Number, w.hash})
	}
}

// compare looks each walked block up in the other database. The hashes cover header, body, receipts and
// state, which both sides' walks have computed anew.
func (r *report) compare(walked []blockHash, other *store, height uint64) error {
	last, err := other.Get(keyLastBlock, nil)
	if err != nil {
		return fmt.Errorf("the other database: LastBlock: %w", err)
	}
	w := walk{db: other, state: true}
	if err := w.start(last); err != nil {
		return fmt.Errorf("the other database: %w", err)
	}
	if height == 0 {
		height = min(r.Height, w.at.Number)
	}
	if height > r.Height || height > w.at.Number {
		return fmt.Errorf("compare up to block %d: the heads are %d and %d", height, r.Height, w.at.Number)
	}
	mine := map[uint64]hash{}
	for _, b := range walked {
		mine[b.number] = b.hash
	}
	for {
		if n := w.at.Number; n <= height {
			if mine[n] != w.hash {
				return fmt.Errorf("block %d is %s here and %s in the other database", n, mine[n], w.hash)
			}
			r.Compared++
		}
		more, err := w.back()
		if err != nil {
			return fmt.Errorf("the other database: %w", err)
		}
		if !more {
			return nil
		}
	}
}
