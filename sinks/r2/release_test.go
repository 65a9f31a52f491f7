package main

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/sinks/r2/r2test"
)

// torrent writes beside a file what r2test.Consumer.Torrent reads, and lists both with an infohash and no other sum.
func (c *copyOf) torrent(t *testing.T, name string) (infohash string) {
	t.Helper()
	body, err := os.ReadFile(filepath.Join(c.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	m := r2test.Torrent{Length: int64(len(body)), PieceLength: 1 << 20}
	for piece := range slices.Chunk(body, 1<<20) {
		sum := sha1.Sum(piece)
		m.Pieces = append(m.Pieces, sum[:]...)
	}
	sum := sha1.Sum(m.Pieces)
	m.InfoHash = hex.EncodeToString(sum[:])
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.dir, name+".torrent"), text, 0o644); err != nil {
		t.Fatal(err)
	}
	sums := map[string]string{"infohash": m.InfoHash}
	c.entry(name).Sums = sums
	c.entries = slices.DeleteFunc(c.entries, func(u core.Upload) bool { return u.Name == name+".torrent" })
	c.entries = append(c.entries, core.Upload{Entry: core.Entry{Name: name + ".torrent", Size: int64(len(text)), Sums: sums}})
	return m.InfoHash
}

func readToyList(list []byte) (map[string]string, error) {
	var hashes map[string]string
	return hashes, json.Unmarshal(list, &hashes)
}

func readToyTorrent(body []byte) (m r2test.Torrent, err error) { return m, json.Unmarshal(body, &m) }

// What a release asks of this sink, in its order, while a node reads all the time: it never meets what does not
// match, but for the moment in which a key is replaced. Without the purge it does.
func TestReplacedUnderAReader(t *testing.T) {
	for name, purges := range map[string]bool{"purged": true, "not purged": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, c, k := r2test.New(t, r2test.Sliced(1<<20)), newCopy(t), newSink()
			target := s.Target()
			const stays, replaced, fresh = "domain/v1.0-stays.0-1.kv", "domain/v1.0-accounts.0-1.kv", "domain/v1.0-accounts.1-2.kv"
			hashes := map[string]string{}
			promote := func() {
				text, err := json.Marshal(hashes)
				if err == nil {
					_, err = k.Put(t.Context(), target, "mainnet.toml", text, core.Condition{})
				}
				if err == nil {
					err = k.Purge(t.Context(), target, "mainnet.toml")
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			for _, name := range []string{stays, replaced} {
				c.add(t, name, 7*mib+5, 1)
				hashes[name] = c.torrent(t, name)
			}
			if exit, _, said := c.run(t, target, core.UploadRequest{}); exit != 0 {
				t.Fatal(said)
			}
			promote()
			reader := s.Reader(t, r2test.Consumer{List: "mainnet.toml", Parse: readToyList, Torrent: readToyTorrent, Replaced: []string{replaced}})
			for at := int64(0); at < 7*mib; at += mib { // the whole old object is in the cache
				if r, err := s.Read(t.Context(), replaced, at, at+1); err != nil || r.Status != 206 {
					t.Fatalf("%+v, %v", r, err)
				}
			}
			if _, err := s.Read(t.Context(), replaced+".torrent", 0, 0); err != nil {
				t.Fatal(err)
			}

			c.entries = nil
			c.add(t, replaced, 7*mib+5, 2) // of the same size
			c.add(t, fresh, 6*mib, 2)
			hashes[replaced], hashes[fresh] = c.torrent(t, replaced), c.torrent(t, fresh)
			var moves []core.Move
			for _, key := range []string{replaced, replaced + ".torrent"} {
				c.entry(key).Replace = true
				moves = append(moves, core.Move{From: ".staged/run/" + key, To: key, Size: c.entry(key).Size})
			}
			for range 2 { // again after a failure, so also after a success
				if exit, _, said := c.run(t, target, core.UploadRequest{Stage: ".staged/run"}); exit != 0 {
					t.Fatal(said)
				}
			}
			for _, err := range k.Copy(t.Context(), target, moves) {
				if err != nil {
					t.Fatal(err)
				}
			}
			if purges {
				if err := k.Purge(t.Context(), target, replaced, replaced+".torrent"); err != nil {
					t.Fatal(err)
				}
			}
			promote()
			report := reader.Stop()
			if (len(report.Bad) == 0) != purges {
				t.Errorf("the reader met %v", report.Bad)
			}
			if !purges && !slices.ContainsFunc(report.Bad, func(m r2test.Mismatch) bool {
				return strings.HasPrefix(fmt.Sprint(m), replaced+".torrent: its infohash")
			}) {
				t.Errorf("the reader met %v", report.Bad)
			}
			if got, ok := s.Object(replaced); !ok || report.Torrents < 3 || report.Pieces < 3 {
				t.Errorf("%v, %+v", ok, report)
			} else if want, err := os.ReadFile(filepath.Join(c.dir, replaced)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("the bucket has %d other bytes: %v", len(got), err)
			}
			if b := append(s.Broken(), s.Purger.Broken()...); len(b) > 0 {
				t.Errorf("rules were broken: %v", b)
			}
		})
	}
}
