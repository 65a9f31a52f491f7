package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// datadir is Erigon's data folder.
type datadir struct {
	dir  string
	lock *os.File
}

var folders = []string{
	"chaindata", "temp", "snapshots", "snapshots/idx", "snapshots/history", "snapshots/domain", "snapshots/accessor", "snapshots/caplin",
	"downloader", "txpool", "nodes", "caplin", "caplin/blobs", "caplin/latest", "logs",
}

// newDatadir makes the tree, whatever the path is: a mistyped one becomes a new, empty datadir, as with Erigon (datadir.New).
func newDatadir(dir string) (*datadir, error) {
	if dir == "" {
		return nil, errors.New("the stand-in has no default datadir: give --datadir")
	}
	for _, f := range folders {
		if err := os.MkdirAll(filepath.Join(dir, f), 0o755); err != nil {
			return nil, err
		}
	}
	return &datadir{dir: dir}, nil
}

func (d *datadir) path(parts ...string) string {
	return filepath.Join(append([]string{d.dir}, parts...)...)
}
func (d *datadir) snap(name string) string { return d.path("snapshots", filepath.FromSlash(name)) }

// flock takes the lock that a running erigon holds; it is free again when the process ends.
func (d *datadir) flock() error {
	f, err := os.OpenFile(d.path("LOCK"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return errors.New("datadir already used by another process")
	}
	d.lock = f
	return nil
}

func (d *datadir) unlock() {
	if d.lock != nil {
		d.lock.Close()
	}
}

// misbehaviours are what SNAPFW_ERIGON_BEHAVE and D/behave may name; a word may have a value: slow=5s.
var misbehaviours = map[string]bool{
	"budget": true, "filtered": true, "failfast-warn": true, "integrity-fails": true, "rm-eof": true, "integration-fails": true,
	"retire-crash": true, "index-crash": true, "slow": true, "stuck-stop": true, "start-fails-once": true, "killed-midmerge": true,
	"stop-takes": true, "no-done-lines": true, "new-bytes": true, "retire-leaves-overlap": true, "index-leaves-one": true, "clear-leaves-one": true,
	"verify-lies": true, "rebuild-panics": true, "integration-does-nothing": true, "rm-removes-less": true,
	"verify-root-only": true, "receipts-off": true,
}

// conduct is what this run is told to do wrong.
type conduct map[string]string

// behave reads what to do wrong: the environment first, then D/behave, in which words are separated by commas or white space.
func (d *datadir) behave(more ...string) (conduct, error) {
	body, err := os.ReadFile(d.path("behave"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	c := conduct{}
	words := strings.FieldsFunc(os.Getenv("SNAPFW_ERIGON_BEHAVE")+","+string(body)+","+strings.Join(more, ","), func(r rune) bool { return r == ',' || r == ' ' || r == '\n' })
	for _, w := range words {
		name, value, _ := strings.Cut(w, "=")
		if !misbehaviours[name] {
			return nil, fmt.Errorf("the stand-in knows no misbehaviour %q", name)
		}
		c[name] = value
	}
	return c, nil
}

func (c conduct) is(name string) bool { _, ok := c[name]; return ok }

// wait is a duration that was told, or 0.
func (c conduct) wait(name string) time.Duration {
	v, err := time.ParseDuration(c[name])
	if err != nil {
		return 0
	}
	return v
}

// chainState is what the chain's database holds.
type chainState struct {
	Chain      string            `json:"chain"`
	Head       uint64            `json:"head"`       // block
	Executed   uint64            `json:"executed"`   // block
	TxPerBlock uint64            `json:"txPerBlock"` // every block has as many transactions
	StepSize   uint64            `json:"stepSize"`
	Frozen     uint64            `json:"stepsInFrozenFile"`
	From       map[string]uint64 `json:"from"`       // by type of state: the first step that the database still holds
	Generation map[string]int    `json:"generation"` // by type: how often its content came out differently
	UnitBytes  int64             `json:"unitBytes"`  // of data for 1,000 blocks or a step
	MaxBytes   int64             `json:"maxBytes"`   // of a file
	Receipts   bool              `json:"receipts"`   // --persist.receipts
}

// The database is one file of two slots that are written in turn and in place, as MDBX writes its meta pages: the
// higher sequence with a right checksum counts. So a hard link to it is not a copy of it, and a torn write loses nothing.
const slotSize = 4096

func (d *datadir) dbPath() string { return d.path("chaindata", "mdbx.dat") }

// readChain returns fs.ErrNotExist where no chain was begun.
func (d *datadir) readChain() (chainState, error) {
	st, _, err := d.slots()
	return st, err
}

func (d *datadir) slots() (st chainState, seq uint64, err error) {
	b, err := os.ReadFile(d.dbPath())
	if err != nil {
		return st, 0, err
	}
	found := false
	for i := 0; (i+1)*slotSize <= len(b); i++ {
		s := b[i*slotSize : (i+1)*slotSize]
		n, at := binary.BigEndian.Uint32(s[4:]), binary.BigEndian.Uint64(s[8:])
		if n > slotSize-16 || crc32.ChecksumIEEE(s[4:16+n]) != binary.BigEndian.Uint32(s) || found && at < seq {
			continue
		}
		var one chainState
		if json.Unmarshal(s[16:16+n], &one) == nil {
			st, seq, found = one, at, true
		}
	}
	if !found {
		return st, 0, errors.New("mdbx: MDBX_CORRUPTED: database is corrupted")
	}
	return st, seq, nil
}

func (d *datadir) writeChain(st chainState) error {
	_, seq, err := d.slots()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	seq++
	body, err := json.Marshal(st)
	if err != nil {
		return err
	}
	if len(body) > slotSize-16 {
		return errors.New("mdbx: MDBX_MAP_FULL")
	}
	s := make([]byte, slotSize)
	copy(s[16:], body)
	binary.BigEndian.PutUint64(s[8:], seq)
	binary.BigEndian.PutUint32(s[4:], uint32(len(body)))
	binary.BigEndian.PutUint32(s, crc32.ChecksumIEEE(s[4:16+len(body)]))
	f, err := os.OpenFile(d.dbPath(), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(s, int64(seq%2)*slotSize); err != nil {
		return err
	}
	return f.Sync()
}
