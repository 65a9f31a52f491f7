package main

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// pieceLength is Erigon's for every file (downloadercfg.DefaultPieceSize); it is part of the infohash.
	pieceLength = 2 << 20

	torrentExt = ".torrent"
)

// torrentTrackers are those that Erigon's downloader writes, in one tier. They are no part of
// the infohash, and a node replaces them by its own when it loads the file.
var torrentTrackers = []string{
	"udp://tracker.opentrackr.org:1337/announce",
	"udp://tracker.torrent.eu.org:451/announce",
	"udp://open.stealth.si:80/announce",
}

// pieceCount is how many pieces a file of this size has; the last one may be short.
func pieceCount(size int64) int { return int((size + pieceLength - 1) / pieceLength) }

// pieceSize is how many bytes piece i of a file has.
func pieceSize(size int64, i int) int64 { return min(pieceLength, size-int64(i)*pieceLength) }

// appendInfoHead appends the info dictionary up to the piece sums, as Erigon's downloader
// makes it: single file, version 1, nothing but what there must be. The rest of the
// dictionary is the sums and an "e".
func appendInfoHead(b []byte, name string, size int64) []byte {
	return fmt.Appendf(b, "d6:lengthi%de4:name%d:%s12:piece lengthi%de6:pieces%d:",
		size, len(name), name, pieceLength, pieceCount(size)*sha1.Size)
}

// infohashOf returns the infohash of a file: 40 lower-case hex digits. name is relative to
// snapshots/, with forward slashes; pieces are the SHA-1 sums of its pieces, one after the other.
func infohashOf(name string, size int64, pieces []byte) string {
	h := sha1.New()
	h.Write(appendInfoHead(nil, name, size))
	h.Write(pieces)
	io.WriteString(h, "e")
	return sumHex(h)
}

func sumHex(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

// encodeTorrent writes a .torrent as Erigon's downloader does. Two of them differ in the
// creation date only, which is no part of the infohash.
func encodeTorrent(w io.Writer, name string, size int64, pieces []byte, created time.Time) error {
	b := []byte("d13:announce-listll")
	for _, t := range torrentTrackers {
		b = fmt.Appendf(b, "%d:%s", len(t), t)
	}
	b = fmt.Appendf(b, "ee10:created by6:erigon13:creation datei%de4:info", created.Unix())
	for _, part := range [][]byte{appendInfoHead(b, name, size), pieces, []byte("ee")} {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	return nil
}

// torrentFile is what a .torrent of one file says. Its slices are parts of what was parsed.
type torrentFile struct {
	Name        string
	Length      int64
	PieceLength int64
	Pieces      []byte // 20 bytes a piece

	info []byte    // the info dictionary as it stands, which the infohash is of
	file fileIdent // of which readTorrent read it
}

// Infohash is 40 lower-case hex digits.
func (t torrentFile) Infohash() string {
	sum := sha1.Sum(t.info)
	return hex.EncodeToString(sum[:])
}

// fits tells why this is not the torrent that Erigon makes of a file of this name and size;
// nil if it may be, which only the file's bytes can tell.
func (t torrentFile) fits(name string, size int64) error {
	switch {
	case t.Name != name:
		return fmt.Errorf("it is of a file named %q", clipName(t.Name))
	case t.PieceLength != pieceLength:
		return fmt.Errorf("its pieces have %d bytes, not %d", t.PieceLength, pieceLength)
	case t.Length != size:
		return fmt.Errorf("it is of a file of %d bytes, and this one has %d", t.Length, size)
	case len(t.Pieces) != pieceCount(size)*sha1.Size:
		return fmt.Errorf("it holds %d bytes of piece sums, not %d", len(t.Pieces), pieceCount(size)*sha1.Size)
	}
	head := appendInfoHead(nil, name, size)
	if len(t.info) != len(head)+len(t.Pieces)+1 || !bytes.HasPrefix(t.info, head) {
		return errors.New("its info dictionary holds more than Erigon puts there")
	}
	return nil
}

func clipName(s string) string {
	if len(s) > 120 {
		return s[:120] + "…"
	}
	return s
}

// maxTorrent bounds what is read of a .torrent that should be of a file of this size.
func maxTorrent(size int64) int64 { return 64<<10 + int64(pieceCount(size))*sha1.Size }

// errNoTorrent is the state of a file that has none; a stale one has an error that says why.
var errNoTorrent = errors.New("there is none")

// readTorrent reads the .torrent beside a data file of this name, size and change time, and
// returns an error that tells why it is not to be trusted: missing (errNoTorrent),
// older than its data, of something else, damaged. Without an error only its pieces may be wrong.
func readTorrent(file, name string, size int64, changed time.Time) (torrentFile, error) {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return torrentFile{}, errNoTorrent
	}
	if err != nil {
		return torrentFile{}, fmt.Errorf("it can't be opened: %w", err)
	}
	f := os.NewFile(uintptr(fd), file)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return torrentFile{}, errors.New("it is not a regular file")
	}
	if st.Size > maxTorrent(size) {
		return torrentFile{}, fmt.Errorf("it has %d bytes, more than a torrent of this file can have", st.Size)
	}
	b := make([]byte, st.Size)
	if _, err := io.ReadFull(f, b); err != nil {
		return torrentFile{}, fmt.Errorf("it can't be read: %w", err)
	}
	t, err := parseTorrent(b)
	if err != nil {
		return torrentFile{}, err
	}
	if err := t.fits(name, size); err != nil {
		return t, err
	}
	if t.file = identOfStat(&st); older(t.file, changed) {
		return t, errors.New("it is older than its data")
	}
	return t, nil
}

// older tells whether a file was last written before a time.
func older(id fileIdent, t time.Time) bool { return time.Unix(0, id.Mtime).Before(t) }

// parseTorrent reads a .torrent of one file. It takes nothing after the end, which
// Erigon's loader refuses too. What it accepts, every reader of bencode does.
func parseTorrent(b []byte) (torrentFile, error) {
	var t torrentFile
	end, err := eachKey(b, 0, func(key string, from, to int) error {
		if key == "info" {
			t.info = b[from:to]
		}
		return nil
	})
	switch {
	case err != nil:
		return torrentFile{}, err
	case end != len(b):
		return torrentFile{}, fmt.Errorf("%d bytes follow its end", len(b)-end)
	case t.info == nil:
		return torrentFile{}, errors.New("it has no info dictionary")
	}
	in := t.info
	_, err = eachKey(in, 0, func(key string, from, to int) (err error) {
		switch key {
		case "name":
			t.Name, err = benString(in, from)
		case "length":
			t.Length, err = benInt(in, from)
		case "piece length":
			t.PieceLength, err = benInt(in, from)
		case "pieces":
			var s int
			s, to, err = benSpan(in, from)
			t.Pieces = in[s:to]
		}
		return err
	})
	if err != nil {
		return torrentFile{}, err
	}
	return t, nil
}

var errBencode = errors.New("it is no well-formed torrent")

// maxNesting of lists and dictionaries: a real torrent has four.
const maxNesting = 16

// eachKey walks the dictionary at b[i:], whose keys must rise, and returns where it ends.
func eachKey(b []byte, i int, do func(key string, from, to int) error) (int, error) {
	return walkDict(b, i, 0, do)
}

func walkDict(b []byte, i, depth int, do func(key string, from, to int) error) (int, error) {
	if i >= len(b) || b[i] != 'd' || depth > maxNesting {
		return 0, errBencode
	}
	last, first := "", true
	for i++; i < len(b) && b[i] != 'e'; {
		from, to, err := benSpan(b, i)
		if err != nil {
			return 0, err
		}
		key := string(b[from:to])
		if !first && key <= last {
			return 0, errBencode
		}
		last, first = key, false
		if i, err = skipValue(b, to, depth+1); err != nil {
			return 0, err
		}
		if do != nil {
			if err := do(key, to, i); err != nil {
				return 0, err
			}
		}
	}
	if i >= len(b) {
		return 0, errBencode
	}
	return i + 1, nil
}

// skipValue returns where the value at b[i:] ends.
func skipValue(b []byte, i, depth int) (int, error) {
	if i >= len(b) || depth > maxNesting {
		return 0, errBencode
	}
	switch b[i] {
	case 'd':
		return walkDict(b, i, depth, nil)
	case 'l':
		for i++; i < len(b) && b[i] != 'e'; {
			var err error
			if i, err = skipValue(b, i, depth+1); err != nil {
				return 0, err
			}
		}
		if i >= len(b) {
			return 0, errBencode
		}
		return i + 1, nil
	case 'i':
		if _, err := benInt(b, i); err != nil {
			return 0, err
		}
		return i + bytes.IndexByte(b[i:], 'e') + 1, nil
	}
	_, to, err := benSpan(b, i)
	return to, err
}

// benInt reads the number at b[i:], in the only form that there is of it.
func benInt(b []byte, i int) (int64, error) {
	if i >= len(b) || b[i] != 'i' {
		return 0, errBencode
	}
	end := bytes.IndexByte(b[i:min(len(b), i+24)], 'e')
	if end < 0 {
		return 0, errBencode
	}
	digits := string(b[i+1 : i+end])
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || strconv.FormatInt(n, 10) != digits {
		return 0, errBencode
	}
	return n, nil
}

// benSpan returns where the bytes of the string at b[i:] are.
func benSpan(b []byte, i int) (from, to int, err error) {
	if i >= len(b) {
		return 0, 0, errBencode
	}
	colon := bytes.IndexByte(b[i:min(len(b), i+20)], ':')
	if colon < 0 {
		return 0, 0, errBencode
	}
	digits := string(b[i : i+colon])
	n, err := strconv.Atoi(digits)
	from = i + colon + 1
	if err != nil || strconv.Itoa(n) != digits || n < 0 || n > len(b)-from {
		return 0, 0, errBencode
	}
	return from, from + n, nil
}

func benString(b []byte, i int) (string, error) {
	from, to, err := benSpan(b, i)
	if err != nil {
		return "", err
	}
	return string(b[from:to]), nil
}

// writeTorrent puts a .torrent beside its data, durably but for its folder's own entry. On
// its way it is named NAME.torrent123456789, which Erigon knows as one that is not finished.
func writeTorrent(file, name string, size int64, pieces []byte) error {
	return putTorrent(file, name, size, pieces, (*os.File).Sync)
}

func putTorrent(file, name string, size int64, pieces []byte, sync func(*os.File) error) error {
	if strings.TrimSuffix(filepath.Base(file), torrentExt) != filepath.Base(filepath.FromSlash(name)) {
		return fmt.Errorf("write %s: it is not beside %s", file, name)
	}
	return writeBeside(file, 0o644, func(w io.Writer) error { return encodeTorrent(w, name, size, pieces, time.Now()) }, sync)
}

// writeWhole writes a file whole or not at all: readers see the old one or the new one.
func writeWhole(file string, mode fs.FileMode, fill func(io.Writer) error) error {
	return writeBeside(file, mode, fill, (*os.File).Sync)
}

func writeBeside(file string, mode fs.FileMode, fill func(io.Writer) error, sync func(*os.File) error) error {
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file))
	if err != nil {
		return err
	}
	err = fill(f)
	for _, step := range []func() error{func() error { return f.Chmod(mode) }, func() error { return sync(f) }} {
		if err == nil {
			err = step()
		}
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// syncFolder makes the names in a folder durable.
func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
