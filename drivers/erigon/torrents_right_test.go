package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func init() { fewTorrents = 0 } // so that all tests remember torrents, however few they have

// rewriteInPlace changes bytes of a file and nothing else that is known of it.
func rewriteInPlace(t testing.TB, file string, change func([]byte) []byte) {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, change(b), 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
}

// spoil changes the last piece's sum in a torrent.
func spoil(b []byte) []byte {
	b = bytes.Clone(b)
	b[len(b)-3]++
	return b
}

// TestRightTorrentsAreNotRead: a torrent that was right once and is the same file still is not read, until what is known of it
// does not hold, or a run is told to read.
func TestRightTorrentsAreNotRead(t *testing.T) {
	const name = "domain/v2.0-accounts.0-256.kv"
	for what, c := range map[string]struct {
		do   func(t *testing.T, torrent, sums string)
		args []string
		want string // what is done about the spoilt torrent
	}{
		"nothing": {func(t *testing.T, _, _ string) {}, nil, ""},
		"its time is another": {func(t *testing.T, torrent, _ string) {
			setAge(t, torrent, time.Minute)
		}, nil, "remade"},
		"it is another file": {func(t *testing.T, torrent, _ string) {
			b, _ := os.ReadFile(torrent)
			info, _ := os.Stat(torrent)
			if err := os.Rename(torrent, torrent+"1"); err != nil { // so that the inode is not used again
				t.Fatal(err)
			}
			putFile(t, torrent, b, 0)
			os.Chtimes(torrent, info.ModTime(), info.ModTime())
		}, nil, "remade"},
		"sums that say nothing of torrents": {func(t *testing.T, _, sums string) {
			rewriteInPlace(t, sums, func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(`"torrent":`), []byte(`"unknown":`)) })
		}, nil, "remade"},
		"the infohash is rotten": {func(t *testing.T, _, sums string) {
			rewriteInPlace(t, sums, func(b []byte) []byte {
				at := bytes.Index(b, []byte(`"name":"`+name)) + len(`"name":"`+name+`","infohash":"`)
				b[at] = '0' + (b[at]-'0'+1)%10
				return b
			})
		}, nil, "remade"},
		"other sums came later": {func(t *testing.T, torrent, sums string) {
			b, err := os.ReadFile(sums)
			if err != nil {
				t.Fatal(err)
			}
			for line := range bytes.Lines(b) {
				if at := bytes.Index(line, []byte(`,"torrent":{"name":"`+name)); at > 0 {
					plain := append(bytes.Clone(line[:at]), line[bytes.Index(line, piecesField):]...)
					b = append(b, plain...)
				}
			}
			if err := os.WriteFile(sums, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}, nil, "remade"},
		"verify full": {func(t *testing.T, _, _ string) {}, []string{"--verify", "full"}, "remade"},
	} {
		t.Run(what, func(t *testing.T) {
			datadir := writeSnapshots(t)
			torrent, sums := filepath.Join(datadir, "snapshots", name+torrentExt), filepath.Join(datadir, ".snapfw", "torrents.jsonl")
			for range 2 { // the first one writes torrents, which may be too young to be remembered
				if r := torrents(t, datadir); r.code != 0 {
					t.Fatalf("%+v", r)
				}
				time.Sleep(2 * mtimeTick)
			}
			rewriteInPlace(t, torrent, spoil)
			c.do(t, torrent, sums)
			r := torrents(t, datadir, c.args...)
			if r.code != 0 || r.of(name).Did != c.want || r.sum.Files != len(testSnapshots) {
				t.Errorf("%+v", r)
			}
			if c.want != "" {
				os.Remove(torrent + "1")
				checkTorrents(t, datadir)
			}
		})
	}
}

// TestSumsLinesWithTorrents: what is written of a torrent is read again; what is no whole line of ours says nothing of one.
func TestSumsLinesWithTorrents(t *testing.T) {
	id := fileIdent{Dev: 1, Ino: 2, Size: 3, Mtime: 1795318528154532908}
	right := rightTorrent{"domain/v2.0-accounts.0-256.kv", "0123456789012345678901234567890123456789", fileIdent{Dev: 4, Ino: 5, Size: 6, Mtime: 7}}
	for _, doubt := range []bool{false, true} {
		line, err := sumsText(&sumsHead{fileIdent: id, Day: 20000, Doubt: doubt, torrent: &right}, fakeSums(id.Size))
		if err != nil {
			t.Fatal(err)
		}
		head, n, ok := parseSumsLine(line)
		if !ok || n != 1 || head.fileIdent != id || head.Day != 20000 || head.Doubt != doubt || head.torrent == nil || *head.torrent != right {
			t.Fatalf("%s: %+v, %d, %v", line, head, n, ok)
		}
		for i := bytes.Index(line, []byte(`"torrent"`)); i < bytes.Index(line, piecesField); i++ {
			rotten := bytes.Clone(line)
			rotten[i] ^= 1
			if head, _, _ := parseSumsLine(rotten); head.torrent != nil && *head.torrent != right {
				t.Errorf("%s: read as %+v", rotten, head.torrent)
			}
		}
	}
	odd := right
	odd.name = `domain/"é.kv`
	line, err := sumsText(&sumsHead{fileIdent: id, torrent: &odd}, fakeSums(id.Size))
	if head, _, ok := parseSumsLine(line); err != nil || !ok || head.torrent != nil {
		t.Errorf("%s: %+v, %v, %v", line, head, ok, err)
	}
}
