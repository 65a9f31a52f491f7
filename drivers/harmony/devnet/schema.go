package main

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// The keys are those of go-ethereum's rawdb as Harmony has them (harmony-one/harmony,
// core/rawdb/schema.go), so that what reads a real node's head reads this one's. The values are
// plain bytes of our own: a header is 124 bytes, not RLP.
//
//	LastBlock, LastHeader, LastFast    hash of the head
//	"h" + number + "n"                 hash of the canonical block of that number
//	"H" + hash                         number, 8 bytes big endian
//	"h" + number + hash                header
//	"b" + number + hash                body: the keys of the state that the block wrote, 32 bytes each
//	"r" + number + hash                receipts, where the header names some
//	32 bytes                           state: the key is the SHA-256 of the value, as a trie node's is its hash
var (
	keyLastBlock  = []byte("LastBlock")
	keyLastHeader = []byte("LastHeader")
	keyLastFast   = []byte("LastFast")
	keyVersion    = []byte("DatabaseVersion")
	keySnapdb     = []byte("SnapdbInfo")
)

type hash [32]byte

func (h hash) String() string { return "0x" + hex.EncodeToString(h[:]) }

func sum(b []byte) hash { return sha256.Sum256(b) }

func toHash(b []byte) (hash, error) {
	var h hash
	if len(b) != len(h) {
		return h, fmt.Errorf("a hash has 32 bytes, this has %d", len(b))
	}
	copy(h[:], b)
	return h, nil
}

// header is a block's header; its encoding's SHA-256 is the block's hash, and it names the
// body, so that whoever walks from the head to the genesis has checked every byte of the chain.
type header struct {
	Parent   hash
	Root     hash // SHA-256 of the body
	Receipts hash // SHA-256 of the receipts; zero where there are none
	Number   uint64
	Time     uint64 // seconds since 1970
	Epoch    uint64
	Shard    uint32
}

const headerSize = 3*32 + 3*8 + 4

func (h header) encode() []byte {
	b := make([]byte, 0, headerSize)
	b = append(b, h.Parent[:]...)
	b = append(b, h.Root[:]...)
	b = append(b, h.Receipts[:]...)
	b = binary.BigEndian.AppendUint64(b, h.Number)
	b = binary.BigEndian.AppendUint64(b, h.Time)
	b = binary.BigEndian.AppendUint64(b, h.Epoch)
	return binary.BigEndian.AppendUint32(b, h.Shard)
}

func decodeHeader(b []byte) (header, error) {
	var h header
	if len(b) != headerSize {
		return h, fmt.Errorf("a header has %d bytes, this has %d", headerSize, len(b))
	}
	copy(h.Parent[:], b)
	copy(h.Root[:], b[32:])
	copy(h.Receipts[:], b[64:])
	h.Number = binary.BigEndian.Uint64(b[96:])
	h.Time = binary.BigEndian.Uint64(b[104:])
	h.Epoch = binary.BigEndian.Uint64(b[112:])
	h.Shard = binary.BigEndian.Uint32(b[120:])
	return h, nil
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func keyCanonical(n uint64) []byte { return append(append([]byte("h"), number(n)...), 'n') }

func keyNumber(h hash) []byte { return append([]byte("H"), h[:]...) }

func keyHeader(n uint64, h hash) []byte { return block('h', n, h) }

func keyBody(n uint64, h hash) []byte { return block('b', n, h) }

func keyReceipts(n uint64, h hash) []byte { return block('r', n, h) }

func block(prefix byte, n uint64, h hash) []byte {
	return append(append([]byte{prefix}, number(n)...), h[:]...)
}
