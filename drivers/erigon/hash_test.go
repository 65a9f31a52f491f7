package main

import (
	"bytes"
	"crypto/sha1"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapfw/snapfw/core/capture"
)

// residentBytes tells how many of these bytes of a file are in memory.
func residentBytes(t *testing.T, f *os.File, off, n int64) int64 {
	t.Helper()
	pages := capture.LookResident(f, off, n)
	if !pages.Known() {
		t.Fatal("residency can't be told")
	}
	missing := int64(0)
	for _, n := range pages.Absent {
		missing += n
	}
	return n - min(n, missing)
}

// TestPageCacheIsLeftAsItWas: what the node had in memory stays, what we read goes.
func TestPageCacheIsLeftAsItWas(t *testing.T) {
	const size, hot = 3 * unitPieces * pieceLength, 10 << 20
	file := filepath.Join(t.TempDir(), "snapshots", "v1.1-000000-000500-bodies.seg")
	putFile(t, file, bytes.Repeat([]byte("snapfw!\n"), size/8), time.Hour)
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	at := int64(unitPieces*pieceLength - hot/2) // across two units
	unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM)
	unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	if left := residentBytes(t, f, 0, size); left > size/20 {
		t.Skipf("SKIPPED: this file system keeps %d of %d bytes in memory", left, size)
	}
	if _, err := f.ReadAt(make([]byte, hot), at); err != nil {
		t.Fatal(err)
	}
	r := torrents(t, filepath.Dir(filepath.Dir(file)))
	if r.code != 0 || r.sum.Read != size {
		t.Fatalf("%+v", r)
	}
	if kept := residentBytes(t, f, at, hot); kept < hot*9/10 {
		t.Errorf("of %d bytes that were in memory %d still are", hot, kept)
	}
	if all := residentBytes(t, f, 0, size); all > 2*hot {
		t.Errorf("%d of %d bytes are in memory, and %d were", all, size, hot)
	}
}

// TestSumMapped: a piece is summed as it is read, and one whose bytes went away while it was mapped does not kill us.
func TestSumMapped(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	body := bytes.Repeat([]byte("snapfw!\n"), (pieceLength+pieceLength/2)/8)
	putFile(t, file, body, time.Hour)
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum := sha1.New()
	for at, n := range map[int64]int64{0: pieceLength, pieceLength: pieceLength / 2} {
		sum.Reset()
		if !sumMapped(sum, f, at, n) || !bytes.Equal(sum.Sum(nil), sumsOf(body[at:at+n])) {
			t.Errorf("the piece at %d is summed as %x", at, sum.Sum(nil))
		}
	}
	if err := f.Truncate(pieceLength / 4); err != nil {
		t.Fatal(err)
	}
	sum.Reset()
	if sumMapped(sum, f, 0, pieceLength) {
		t.Error("a piece of which a part is gone was summed")
	}
	if !bytes.Equal(sum.Sum(nil), sha1.New().Sum(nil)) {
		t.Error("bytes of it are left in the sum")
	}
}

var peakMemory = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// TestTorrentMemory: a file of a TiB, nearly all of it a hole that was hashed before, takes less than 200 MiB.
func TestTorrentMemory(t *testing.T) {
	datadir := memoryFolder(t)
	const name, size = "v1.1-000000-000500-transactions.seg", 1 << 40
	file := filepath.Join(datadir, "snapshots", name)
	putFile(t, file, nil, 0)
	if err := os.Truncate(file, size); err != nil {
		t.Skipf("SKIPPED: no file of a TiB here: %v", err)
	}
	setAge(t, file, time.Hour)
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		t.Fatal(err)
	}
	sums := filepath.Join(datadir, ".snapfw", "torrents.jsonl")
	s := openSumsAt(t, sums, time.Now())
	zero := sumsOf(make([]byte, pieceLength))
	whole := pieceCount(size) - 64*unitPieces/8 // 256 MiB are left to read
	for first := 0; first < whole; first += 2048 {
		putSums(t, s, identOfStat(&st), first, bytes.Repeat(zero, min(2048, whole-first)))
	}
	s.close()
	out, err := torrentsCommand(t, "--datadir", datadir, "--nice", "1").CombinedOutput()
	m := peakMemory.FindSubmatch(out)
	if err != nil || m == nil {
		t.Fatalf("%v: %s", err, out)
	}
	kb, err := strconv.Atoi(string(m[1]))
	t.Logf("a file of a TiB: peak memory %d MiB", kb>>10)
	// Under the race detector memory is several times as much.
	if limit := 200 << 10; err != nil || !raceDetector && kb > limit {
		t.Errorf("peak memory %d KiB, more than %d", kb, limit)
	}
	tf, err := readTorrent(file+torrentExt, name, size, time.Unix(0, st.Mtim.Nano()))
	if err != nil || !bytes.Equal(tf.Pieces, bytes.Repeat(zero, size/pieceLength)) {
		t.Errorf("its torrent is wrong: %v", err)
	}
}
