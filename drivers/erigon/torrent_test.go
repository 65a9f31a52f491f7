package main

import (
	"bytes"
	"crypto/sha1"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anacrolix/torrent/bencode"
	"github.com/anacrolix/torrent/metainfo"
)

// The published chain TOMLs of release/3.4 (mainnet, sepolia, hoodi, chiado) all hold this infohash for it.
const (
	erigonDBText     = "step_size = 390625\nsteps_in_frozen_file = 256\n"
	erigonDBInfohash = "49fd79689b9cc4e5dc7ce7b2b72f2f9bf3c668b7"
)

func TestInfohashIsErigons(t *testing.T) {
	if len(erigonDBText) != 46 {
		t.Fatalf("the vector has %d bytes", len(erigonDBText))
	}
	sum := sha1.Sum([]byte(erigonDBText))
	if got := infohashOf("erigondb.toml", 46, sum[:]); got != erigonDBInfohash {
		t.Errorf("infohash %s, published is %s", got, erigonDBInfohash)
	}
}

// sumsOf is the plain way to sum pieces.
func sumsOf(data []byte) []byte {
	var sums []byte
	for len(data) > 0 {
		n := min(len(data), pieceLength)
		sum := sha1.Sum(data[:n])
		sums, data = append(sums, sum[:]...), data[n:]
	}
	return sums
}

func fakeSums(size int64) []byte {
	return bytes.Repeat([]byte("0123456789abcdefghij"), pieceCount(size))
}

func encoded(t testing.TB, name string, size int64, pieces []byte, at time.Time) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := encodeTorrent(&buf, name, size, pieces, at); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// What Erigon's CreateMetaInfo does, with the library that it does it with.
func encodedByLibrary(t testing.TB, name string, size int64, pieces []byte, at time.Time) []byte {
	t.Helper()
	info, err := bencode.Marshal(&metainfo.Info{PieceLength: 2 << 20, Name: name, Length: size, Pieces: pieces})
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	mi := metainfo.MetaInfo{
		CreationDate: at.Unix(), CreatedBy: "erigon", InfoBytes: info,
		AnnounceList: [][]string{{
			"udp://tracker.opentrackr.org:1337/announce",
			"udp://tracker.torrent.eu.org:451/announce",
			"udp://open.stealth.si:80/announce",
		}},
	}
	if err := mi.Write(&buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestTorrentIsErigonsByteForByte(t *testing.T) {
	at := time.Unix(1_780_000_000, 0)
	for _, c := range []struct {
		name string
		size int64
	}{
		{"erigondb.toml", 46},
		{"domain/v2.0-accounts.0-8192.kv", pieceLength},
		{"caplin/v1.1-000000-000050-BlockRoot.seg", pieceLength + 1},
		{"v1.1-000000-000500-transactions.seg", 7*pieceLength - 1},
		{"v1.1-000000-000500-transactions.seg", 1 << 34},
	} {
		pieces := fakeSums(c.size)
		ours := encoded(t, c.name, c.size, pieces, at)
		if want := encodedByLibrary(t, c.name, c.size, pieces, at); !bytes.Equal(ours, want) {
			t.Errorf("%s of %d bytes:\n%.300q\nErigon writes\n%.300q", c.name, c.size, ours, want)
		}
		mi, err := metainfo.Load(bytes.NewReader(ours))
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if got := infohashOf(c.name, c.size, pieces); got != mi.HashInfoBytes().HexString() {
			t.Errorf("%s: infohash %s, the library says %s", c.name, got, mi.HashInfoBytes().HexString())
		}
		back, err := parseTorrent(ours)
		if err != nil || back.fits(c.name, c.size) != nil || !bytes.Equal(back.Pieces, pieces) {
			t.Errorf("%s: read back: %v, %v", c.name, err, back.fits(c.name, c.size))
		}
	}
}

func TestReadTorrentSaysWhy(t *testing.T) {
	const name, size = "domain/v2.0-code.0-256.kv", 3*pieceLength + 5
	pieces, now := fakeSums(size), time.Now()
	good := encoded(t, name, size, pieces, now)
	other := func(change func(*metainfo.Info)) []byte {
		in := metainfo.Info{PieceLength: pieceLength, Name: name, Length: size, Pieces: pieces}
		change(&in)
		info, err := bencode.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		return append(append([]byte("d4:info"), info...), 'e')
	}
	yes := true
	for _, c := range []struct {
		what, why string
		body      []byte
		age       time.Duration
	}{
		{what: "good", body: good},
		{what: "of the same time", body: good, age: -time.Hour},
		{what: "plain", body: other(func(*metainfo.Info) {})},
		{what: "older", body: good, age: time.Nanosecond, why: "older than its data"},
		{what: "empty", body: nil, why: "no well-formed torrent"},
		{what: "trailing", body: append(bytes.Clone(good), '\n'), why: "1 bytes follow its end"},
		{what: "twice", body: append(bytes.Clone(good), good...), why: "bytes follow its end"},
		{what: "torn", body: good[:len(good)-1], why: "no well-formed torrent"},
		{what: "no info", body: []byte("d8:announce1:xe"), why: "no info dictionary"},
		{what: "huge", body: make([]byte, 128<<10), why: "more than a torrent of this file can have"},
		{what: "base name only", body: other(func(i *metainfo.Info) { i.Name = "v2.0-code.0-256.kv" }), why: "of a file named"},
		{what: "longer", body: other(func(i *metainfo.Info) { i.Length++ }), why: "of a file of 6291462 bytes"},
		{what: "piece length", body: other(func(i *metainfo.Info) { i.PieceLength = 1 << 20 }), why: "have 1048576 bytes, not"},
		{what: "sums missing", body: other(func(i *metainfo.Info) { i.Pieces = pieces[:40] }), why: "40 bytes of piece sums"},
		{what: "private", body: other(func(i *metainfo.Info) { i.Private = &yes }), why: "more than Erigon puts there"},
		{what: "source", body: other(func(i *metainfo.Info) { i.Source = "x" }), why: "more than Erigon puts there"},
	} {
		file := filepath.Join(t.TempDir(), "v2.0-code.0-256.kv.torrent")
		if err := os.WriteFile(file, c.body, 0o600); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		_, err = readTorrent(file, name, size, info.ModTime().Add(c.age))
		if c.why == "" && err != nil || c.why != "" && (err == nil || !strings.Contains(err.Error(), c.why)) {
			t.Errorf("%s: %v, want %q", c.what, err, c.why)
		}
	}
	dir := t.TempDir()
	if _, err := readTorrent(filepath.Join(dir, "none"), name, size, now); err != errNoTorrent {
		t.Errorf("missing: %v", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "x.torrent"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := readTorrent(filepath.Join(dir, "x.torrent"), name, size, now); err == nil {
		t.Error("a folder was read as a torrent")
	}
}

// What we take for a torrent, Erigon's library does, with the same infohash.
func FuzzParseTorrent(f *testing.F) {
	at := time.Unix(1_780_000_000, 0)
	f.Add(encoded(f, "erigondb.toml", 46, fakeSums(46), at))
	f.Add(encoded(f, "domain/v2.0-accounts.0-8192.kv", 5<<20, fakeSums(5<<20), at))
	f.Add([]byte("d4:infod6:lengthi046e4:name1:xee"))
	f.Add([]byte("d1:a" + strings.Repeat("l", 300) + "4:infodee"))
	f.Add([]byte("d4:infod6:lengthi1e4:name1:x12:piece lengthi2097152e6:pieces99999999999:ee"))
	f.Fuzz(func(t *testing.T, b []byte) {
		tf, err := parseTorrent(b)
		if err != nil || tf.fits(tf.Name, tf.Length) != nil {
			return
		}
		mi, err := metainfo.Load(bytes.NewReader(b))
		if err != nil {
			// An unknown key of the outer dictionary may be of any type for us.
			if _, e := bencode.Marshal(tf.info); e != nil {
				t.Fatalf("%q: %v", b, err)
			}
			return
		}
		if got := mi.HashInfoBytes().HexString(); got != tf.Infohash() {
			t.Fatalf("%q: infohash %s, the library says %s", b, tf.Infohash(), got)
		}
		info, err := mi.UnmarshalInfo()
		if err != nil || info.Name != tf.Name || info.Length != tf.Length || !bytes.Equal(info.Pieces, tf.Pieces) {
			t.Fatalf("%q: %+v, the library says %+v, %v", b, tf, info, err)
		}
	})
}
