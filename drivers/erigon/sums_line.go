package main

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"hash/crc32"
	"slices"
	"strconv"

	"github.com/snapfw/snapfw/core/capture"
)

// sumsHead is a line of the file of piece sums but for the sums, which come last:
//
//	{"dev":…,"ino":…,"size":…,"mtime":…,"first":0,"day":20000,"crc":…,"pieces":"base64 of 20 bytes a piece"}
//
// so that thousands of lines are indexed without decoding them. The last line of a file may say before "pieces" which torrent holds
// all of its sums:
//
//	"torrent":{"name":"…","infohash":"…","dev":…,"ino":…,"size":…,"mtime":…,"crc":…}
type sumsHead struct {
	fileIdent
	First int    `json:"first"`           // the first piece that the line is of
	Day   int64  `json:"day"`             // Unix day of the last run that met the file
	Doubt bool   `json:"doubt,omitempty"` // bytes were found that differ: the file is read until it is right
	CRC   uint32 `json:"crc"`             // Castagnoli, of the base64 text: a torn or rotten line is hashed again

	torrent *rightTorrent // nil if it says nothing of one, or that is rotten
}

// rightTorrent is a torrent that was compared with the sums of its data: while it is the same file, it need not be read.
type rightTorrent struct {
	name     string // of the data, which the torrent holds
	infohash string
	file     fileIdent
}

var (
	castagnoli  = crc32.MakeTable(crc32.Castagnoli)
	piecesField = []byte(`,"pieces":"`)
	piecesEnd   = []byte("\"}")
	doubtField  = []byte(`,"doubt":true`)
)

func sumsText(head *sumsHead, sums []byte) ([]byte, error) {
	text := base64.StdEncoding.AppendEncode(nil, sums)
	head.CRC = crc32.Checksum(text, castagnoli)
	b, err := json.Marshal(head)
	if err != nil {
		return nil, err
	}
	b = b[:len(b)-1]
	if head.torrent != nil && capture.Plain(head.torrent.name) {
		b = head.torrent.appendTo(b)
	}
	return slices.Concat(b, piecesField, text, piecesEnd, []byte("\n")), nil
}

func (r *rightTorrent) appendTo(b []byte) []byte {
	from := len(b)
	b = append(append(b, `,"torrent":{"name":"`...), r.name...)
	b = append(append(b, `","infohash":"`...), r.infohash...)
	b = r.file.AppendTo(append(b, `",`...))
	sum := crc32.Checksum(b[from:], castagnoli)
	return append(strconv.AppendUint(append(b, `,"crc":`...), uint64(sum), 10), '}')
}

// cutTorrent takes what appendTo appended from the front.
func cutTorrent(b []byte) (r *rightTorrent, rest []byte, ok bool) {
	name, rest, ok := capture.CutString(b, `,"torrent":{"name":"`)
	if !ok {
		return nil, nil, false
	}
	hash, rest, ok := capture.CutString(rest, `,"infohash":"`)
	if !ok || len(rest) == 0 || !isInfohash(string(hash)) {
		return nil, nil, false
	}
	file, rest, ok := capture.CutIdent(rest[1:])
	if !ok {
		return nil, nil, false
	}
	sum := crc32.Checksum(b[:len(b)-len(rest)], castagnoli)
	said, rest, ok := capture.CutNumber(rest, `,"crc":`)
	if !ok || said != int64(sum) || !bytes.HasPrefix(rest, []byte("}")) {
		return nil, nil, false
	}
	return &rightTorrent{string(name), string(hash), file}, rest[1:], true
}

// parseSumsLine reads a line but for its sums, and tells of how many pieces it is.
func parseSumsLine(b []byte) (sumsHead, int, bool) {
	i := bytes.Index(b, piecesField)
	text, whole := bytes.CutSuffix(bytes.TrimSuffix(b, []byte("\n")), piecesEnd)
	if i < 0 || !whole || len(text) < i+len(piecesField) {
		return sumsHead{}, 0, false
	}
	head, ok := cutSumsHead(b[:i])
	if !ok {
		head = sumsHead{}
		if json.Unmarshal(append(slices.Clip(b[:i:i]), '}'), &head) != nil {
			return head, 0, false
		}
	}
	text = text[i+len(piecesField):]
	raw := base64.StdEncoding.DecodedLen(len(text)) - (len(text) - len(bytes.TrimRight(text, "=")))
	n := raw / sha1.Size
	if raw%sha1.Size != 0 || n == 0 || n > sumsLineMost || head.Size <= 0 || head.First < 0 || head.First > pieceCount(head.Size)-n {
		return head, 0, false
	}
	return head, n, crc32.Checksum(text, castagnoli) == head.CRC
}

// cutSumsHead reads a head as it is written, which takes a tenth of what encoding/json does.
func cutSumsHead(b []byte) (head sumsHead, ok bool) {
	b, ok = bytes.CutPrefix(b, []byte("{"))
	if !ok {
		return head, false
	}
	if head.fileIdent, b, ok = capture.CutIdent(b); !ok {
		return head, false
	}
	first, b, ok1 := capture.CutNumber(b, `,"first":`)
	day, b, ok2 := capture.CutNumber(b, `,"day":`)
	b, head.Doubt = bytes.CutPrefix(b, doubtField)
	sum, b, ok3 := capture.CutNumber(b, `,"crc":`)
	if !ok1 || !ok2 || !ok3 || sum < 0 || sum > 1<<32-1 {
		return head, false
	}
	head.First, head.Day, head.CRC = int(first), day, uint32(sum)
	if len(b) > 0 {
		head.torrent, b, ok = cutTorrent(b)
	}
	return head, ok && len(b) == 0
}
