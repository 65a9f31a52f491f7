package main

import (
	crand "crypto/rand"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/syndtr/goleveldb/leveldb"
)

const (
	blocksPerEpoch = 16
	genesisTime    = 1561734000 // Harmony's own: 0x5d162b70
	stateValue     = 4 << 10    // bytes of one piece of state, at most
)

// chain is a chain of blocks in a store. Its methods may be called at once.
type chain struct {
	db    *store
	shard uint32
	rnd   *rand.ChaCha8

	mu   sync.RWMutex
	head header
	hash hash // of head
}

// openChain opens the chain in dir, or begins it with a genesis block, which is the same for
// every node of a shard. It checks the last blocks ("look" of them) and
// returns errDamaged if they are not whole.
func openChain(dir string, shard uint32, o storeOptions, look int) (*chain, error) {
	db, err := openStore(dir, o)
	if err != nil {
		return nil, err
	}
	var seed [32]byte
	crand.Read(seed[:])
	c := &chain{db: db, shard: shard, rnd: rand.NewChaCha8(seed)}
	if err := c.load(look); err != nil {
		db.Close()
		return nil, fmt.Errorf("read the chain in %s: %w", dir, err)
	}
	return c, nil
}

func (c *chain) load(look int) error {
	last, err := c.db.Get(keyLastBlock, nil)
	if errors.Is(err, leveldb.ErrNotFound) {
		empty, err := c.isEmpty()
		if err != nil {
			return errors.Join(errDamaged, err)
		}
		if !empty {
			return fmt.Errorf("%w: it has blocks and no LastBlock", errDamaged)
		}
		return c.add(header{Root: sum(nil), Time: genesisTime, Shard: c.shard}, nil, nil)
	}
	if err != nil {
		return errors.Join(errDamaged, err)
	}
	w := walk{db: c.db, state: true}
	if err := w.start(last); err != nil {
		return err
	}
	c.head, c.hash = w.at, w.hash
	if c.head.Shard != c.shard {
		return fmt.Errorf("%w: it is of shard %d, not %d", errDamaged, c.head.Shard, c.shard)
	}
	for range look {
		if more, err := w.back(); err != nil || !more {
			return err
		}
	}
	return nil
}

func (c *chain) isEmpty() (bool, error) {
	it := c.db.NewIterator(nil, nil)
	defer it.Release()
	return !it.Next(), it.Error()
}

// grow adds one block of n bytes of random state at a time (seconds since 1970).
func (c *chain) grow(now uint64, n int) error {
	var body []byte
	batch := new(leveldb.Batch)
	for n > 0 {
		value := make([]byte, min(n, stateValue))
		c.rnd.Read(value)
		key := sum(value)
		batch.Put(key[:], value)
		body = append(body, key[:]...)
		n -= len(value)
	}
	head, hash := c.last()
	h := header{Parent: hash, Root: sum(body), Number: head.Number + 1, Time: max(now, head.Time), Shard: c.shard}
	h.Epoch = h.Number / blocksPerEpoch
	return c.add(h, body, batch)
}

// add writes a block and makes it the head, all in one batch: a kill leaves it there or not.
func (c *chain) add(h header, body []byte, batch *leveldb.Batch) error {
	if batch == nil {
		batch = new(leveldb.Batch)
	}
	enc := h.encode()
	hash := sum(enc)
	batch.Put(keyHeader(h.Number, hash), enc)
	batch.Put(keyNumber(hash), number(h.Number))
	batch.Put(keyBody(h.Number, hash), body)
	batch.Put(keyCanonical(h.Number), hash[:])
	for _, k := range [][]byte{keyLastHeader, keyLastBlock, keyLastFast} {
		batch.Put(k, hash[:])
	}
	if h.Number == 0 {
		batch.Put(keyVersion, []byte{8})
		batch.Put(append([]byte("ethereum-config-"), hash[:]...), chainConfig)
	}
	if err := c.db.Write(batch, nil); err != nil {
		return fmt.Errorf("write block %d: %w", h.Number, err)
	}
	c.mu.Lock()
	c.head, c.hash = h, hash
	c.mu.Unlock()
	return nil
}

// last returns the head and its hash.
func (c *chain) last() (header, hash) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.head, c.hash
}

// at returns the canonical block of a number; ok is false where there is none.
func (c *chain) at(n uint64) (h header, id hash, ok bool) {
	b, err := c.db.Get(keyCanonical(n), nil)
	if err != nil {
		return h, id, false
	}
	if id, err = toHash(b); err != nil {
		return h, id, false
	}
	if b, err = c.db.Get(keyHeader(n, id), nil); err != nil {
		return h, id, false
	}
	h, err = decodeHeader(b)
	return h, id, err == nil
}

// rewind makes block n the head again and forgets the canonical blocks above it.
func (c *chain) rewind(n uint64) error {
	h, id, ok := c.at(n)
	if !ok {
		return fmt.Errorf("rewind: there is no block %d", n)
	}
	batch := new(leveldb.Batch)
	head, _ := c.last()
	for i := n + 1; i <= head.Number; i++ {
		batch.Delete(keyCanonical(i))
	}
	for _, k := range [][]byte{keyLastHeader, keyLastBlock, keyLastFast} {
		batch.Put(k, id[:])
	}
	if err := c.db.Write(batch, nil); err != nil {
		return fmt.Errorf("rewind to block %d: %w", n, err)
	}
	c.mu.Lock()
	c.head, c.hash = h, id
	c.mu.Unlock()
	return nil
}

// walk goes from a block to its parent and checks each one on the way: every hash is
// computed anew, and the canonical number, the body, the receipts and, if state is set, every
// piece of state are there and are what the hashes say.
type walk struct {
	db    *store
	state bool

	at   header
	hash hash
	body []byte

	blocks, pieces, bytes int64
}

func (w *walk) start(last []byte) error {
	id, err := toHash(last)
	if err != nil {
		return fmt.Errorf("%w: LastBlock: %w", errDamaged, err)
	}
	b, err := w.db.Get(keyNumber(id), nil)
	if err != nil || len(b) != 8 {
		return fmt.Errorf("%w: no number for LastBlock %s: %v", errDamaged, id, err)
	}
	var n uint64
	for _, d := range b {
		n = n<<8 | uint64(d)
	}
	return w.look(n, id)
}

// back goes to the parent; more is false at the genesis block.
func (w *walk) back() (more bool, err error) {
	if w.at.Number == 0 {
		if w.at.Parent != (hash{}) {
			return false, fmt.Errorf("%w: the genesis block has a parent", errDamaged)
		}
		return false, nil
	}
	return true, w.look(w.at.Number-1, w.at.Parent)
}

func (w *walk) look(n uint64, id hash) error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("%w: block %d: %s", errDamaged, n, fmt.Sprintf(format, args...))
	}
	if b, err := w.db.Get(keyCanonical(n), nil); err != nil || string(b) != string(id[:]) {
		return fail("%s is not the canonical one (%v)", id, err)
	}
	enc, err := w.db.Get(keyHeader(n, id), nil)
	if err != nil {
		return fail("header: %v", err)
	}
	h, err := decodeHeader(enc)
	if err != nil || sum(enc) != id || h.Number != n {
		return fail("the header is not that of %s (%v)", id, err)
	}
	body, err := w.db.Get(keyBody(n, id), nil)
	if err != nil || sum(body) != h.Root || len(body)%32 != 0 {
		return fail("the body is not the header's (%v)", err)
	}
	if h.Receipts != (hash{}) {
		r, err := w.db.Get(keyReceipts(n, id), nil)
		if err != nil || sum(r) != h.Receipts {
			return fail("the receipts are not the header's (%v)", err)
		}
		w.bytes += int64(len(r))
	}
	w.at, w.hash, w.body = h, id, body
	w.blocks++
	if !w.state {
		return nil
	}
	for i := 0; i < len(body); i += 32 {
		v, err := w.db.Get(body[i:i+32], nil)
		if err != nil || string(body[i:i+32]) != string(asBytes(sum(v))) {
			return fail("state %x: %v", body[i:i+32], err)
		}
		w.pieces++
		w.bytes += int64(len(v))
	}
	return nil
}

func asBytes(h hash) []byte { return h[:] }
