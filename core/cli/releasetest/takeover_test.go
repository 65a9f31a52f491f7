package releasetest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
)

// A bucket that another tool filled is taken over as it is: what is published has the files' bytes and none of our
// metadata, and nobody remembers it. Files are compared, not sent, whether they were stored in one piece or in parts.
func TestForeignBucketIsTakenOver(t *testing.T) {
	w := newWorld(t, options{local: true, still: true, byHand: true, // with a few files of several MiB
		fill: []string{"--blocks", "112000", "--steps", "7", "--slots", "20", "--unit-bytes", "131072", "--max-bytes", "14000000"}})
	publish := func(exit int) (received int64, ops map[string]int) {
		t.Helper()
		w.site.Took()
		before := w.site.Received()
		if s := w.release(exit); exit == 5 {
			w.want(0, "", "approve", s.Run, "--reason", "read")
			w.want(0, listKey, "resume", s.Run)
		}
		ops = map[string]int{}
		for _, op := range w.site.Took() {
			kind, _, _ := strings.Cut(op, " ")
			ops[kind]++
		}
		return w.site.Received() - before, ops
	}
	first, _ := publish(5)
	names := w.published()

	sums := map[string][32]byte{}
	const broken = "v1.1-000000-000010-beaconblocks.seg" // as long as the file, and another
	var data, torrents, inParts int64
	for name := range names {
		for _, key := range []string{name, name + ".torrent"} {
			body := w.object(key)
			sums[key] = sha256.Sum256(body)
			if key != name {
				torrents += int64(len(body))
				body = foreignTorrent(t, body)
			} else {
				data += int64(len(body))
			}
			if key == broken {
				body = bytes.Clone(body)
				body[len(body)/2] ^= 1
			}
			if len(body) > 6<<20 {
				inParts++
				w.site.PutParts(t, key, body, 6<<20, map[string]string{"mtime": "1700000000.5"}) // ours have 5 MiB
			} else {
				w.site.Put(t, key, body, map[string]string{"mtime": "1700000000.5"})
			}
		}
	}
	w.site.Remove(t, strings.TrimSuffix(listKey, ".toml")+".objects.json")
	second, ops := publish(0) // the list is the one that is published: there is nothing to review
	again := int64(len(w.object(broken)))
	t.Logf("%d files of %d bytes, %d of them in parts; %d bytes of torrents; received: at first %d bytes, taken over with %d; %v",
		len(names), data, inParts, torrents, first, second, ops)
	if inParts < 3 || first < data {
		t.Errorf("%d files were in parts, %d bytes came at first", inParts, first)
	}
	if most := again + 2*torrents + 1<<20; second > most { // the memory of it all is put, too
		t.Errorf("%d bytes were received, of which %d are little", second, most)
	}
	if !equal(names, w.published()) {
		t.Error("the list changed")
	}
	for key, sum := range sums {
		if sha256.Sum256(w.object(key)) != sum && !strings.HasSuffix(key, ".torrent") {
			t.Errorf("%s has other bytes now", key)
		}
	}
	w.whole()

	// From now on it is remembered.
	before := w.site.Received()
	w.want(0, "", "release", "--chain", chainName)
	if sent := w.site.Received() - before; sent > 1<<20 {
		t.Errorf("a release with nothing new sent %d bytes", sent)
	}
}

func (w *world) object(key string) []byte {
	w.t.Helper()
	body, ok := w.site.Object(key)
	if !ok {
		w.t.Fatalf("%s is not there", key)
	}
	return body
}

// foreignTorrent is a .torrent made at another time.
func foreignTorrent(t *testing.T, body []byte) []byte {
	t.Helper()
	const date = "13:creation datei"
	at := strings.Index(string(body), date)
	if at < 0 {
		t.Fatal("a torrent has no date")
	}
	at += len(date)
	end := at + strings.IndexByte(string(body[at:]), 'e')
	other := fmt.Sprintf("%s%d%s", body[:at], 1700000000, body[end:])
	if was, err := parseTorrent(body); err != nil {
		t.Fatal(err)
	} else if is, err := parseTorrent([]byte(other)); err != nil || is.InfoHash != was.InfoHash {
		t.Fatalf("infohash %s became %s: %v", was.InfoHash, is.InfoHash, err)
	}
	return []byte(other)
}
