package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func openSumsAt(t testing.TB, file string, now time.Time) *pieceSums {
	t.Helper()
	s, err := openPieceSums(file, now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

func putSums(t testing.TB, s *pieceSums, id fileIdent, first int, sums []byte) {
	t.Helper()
	if err := s.put(id, first, sums); err != nil {
		t.Fatal(err)
	}
}

// knownPieces tells how many pieces are remembered, and sees that they are right.
func knownPieces(t testing.TB, s *pieceSums, id fileIdent, want []byte) int {
	t.Helper()
	pieces, has, whole, err := s.get(id)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for i, h := range has {
		if h {
			n++
			if !bytes.Equal(pieces[i*20:i*20+20], want[i*20:i*20+20]) {
				t.Fatalf("piece %d: %x, want %x", i, pieces[i*20:i*20+20], want[i*20:i*20+20])
			}
		}
	}
	if whole != (n == pieceCount(id.Size)) {
		t.Fatalf("whole is %v with %d of %d pieces", whole, n, pieceCount(id.Size))
	}
	return n
}

func TestPieceSums(t *testing.T) {
	file := filepath.Join(t.TempDir(), "made", "sums.jsonl")
	now := time.Now()
	id := fileIdent{Dev: 1, Ino: 2, Size: 9000 * pieceLength, Mtime: 5}
	want := make([]byte, 9000*20)
	for i := range want {
		want[i] = byte(i * 7 / 3)
	}
	s := openSumsAt(t, file, now)
	if n := knownPieces(t, s, id, want); n != 0 {
		t.Fatalf("%d pieces of an unknown file", n)
	}
	for first := 0; first < 9000; first += unitPieces {
		if first != 160 {
			putSums(t, s, id, first, want[first*20:min(9000, first+unitPieces)*20])
		}
	}
	if _, err := openPieceSums(file, now); !errors.Is(err, errSumsBusy) {
		t.Errorf("opened twice: %v", err)
	}
	s.close() // as if killed: nothing was compacted

	s = openSumsAt(t, file, now)
	if n := knownPieces(t, s, id, want); n != 9000-unitPieces {
		t.Fatalf("%d pieces after a crash", n)
	}
	putSums(t, s, id, 160, want[160*20:176*20])
	other := id
	other.Mtime++
	putSums(t, s, other, 0, want[:20])
	long, _ := os.Stat(file)
	if err := s.compact(); err != nil {
		t.Fatal(err)
	}
	if short, _ := os.Stat(file); short.Size() >= long.Size() {
		t.Errorf("%d bytes compacted to %d", long.Size(), short.Size())
	}
	if n := knownPieces(t, s, id, want); n != 9000 {
		t.Errorf("%d pieces after compaction", n)
	}
	putSums(t, s, other, 1, want[20:40])
	s.close()

	s = openSumsAt(t, file, now.AddDate(0, 0, sumsKeepDays))
	if a, b := knownPieces(t, s, id, want), knownPieces(t, s, other, want); a != 9000 || b != 2 {
		t.Errorf("%d and %d pieces after reopening", a, b)
	}
	if err := s.compact(); err != nil {
		t.Fatal(err)
	}
	s.close()
	s = openSumsAt(t, file, now.AddDate(0, 0, 2*sumsKeepDays))
	knownPieces(t, s, id, want) // id is met again, other is not
	s.forget(fileIdent{})
	delete(s.known, other)
	if err := s.compact(); err != nil {
		t.Fatal(err)
	}
	s.close()
	s = openSumsAt(t, file, now.AddDate(0, 0, 4*sumsKeepDays))
	s.grown = true
	if err := s.compact(); err != nil {
		t.Fatal(err)
	}
	if n := knownPieces(t, s, id, want); n != 0 {
		t.Errorf("%d pieces of a file that nobody met for so long", n)
	}
}

func TestSumsAreReadAroundDamage(t *testing.T) {
	id := fileIdent{Dev: 1, Ino: 2, Size: 3 * pieceLength, Mtime: 5}
	want := fakeSums(id.Size)
	line := func(first int) []byte {
		b, err := sumsText(&sumsHead{fileIdent: id, First: first, Day: time.Now().Unix() / 86400}, want[first*20:first*20+20])
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	rotten := bytes.Replace(line(1), []byte("MDEy"), []byte("MDEz"), 1)
	if bytes.Equal(rotten, line(1)) {
		t.Fatal("the rotten line is not")
	}
	for _, c := range []struct {
		what string
		body []byte
		n    int
	}{
		{"whole", bytes.Join([][]byte{line(0), line(1), line(2)}, nil), 3},
		{"twice", bytes.Join([][]byte{line(0), line(0)}, nil), 1},
		{"torn", append(line(0), line(1)[:50]...), 1},
		{"torn at the newline", append(line(0), bytes.TrimSpace(line(1))...), 2},
		{"rotten", append(rotten, line(2)...), 1},
		{"zeros of a power cut", append(append(line(0), make([]byte, 3*maxSumsLine)...), '\n'), 1},
		{"a giant line", append(append(bytes.Repeat([]byte("x"), 2*maxSumsLine), '\n'), line(2)...), 1},
		{"a giant line that ends like one of ours", append(bytes.Repeat([]byte(" "), 2*maxSumsLine), line(2)...), 0},
		{"beyond the file", bytes.Replace(line(2), []byte(`"first":2`), []byte(`"first":3`), 1), 0},
		{"negative", bytes.Replace(line(2), []byte(`"first":2`), []byte(`"first":-1`), 1), 0},
		{"no JSON", []byte("]]]\n"), 0},
	} {
		file := filepath.Join(t.TempDir(), "sums")
		if err := os.WriteFile(file, c.body, 0o600); err != nil {
			t.Fatal(err)
		}
		s := openSumsAt(t, file, time.Now())
		if n := knownPieces(t, s, id, want); n != c.n {
			t.Errorf("%s: %d pieces, want %d", c.what, n, c.n)
		}
		other := id
		other.Ino = 99
		putSums(t, s, other, 0, want)
		s.close()
		s = openSumsAt(t, file, time.Now())
		if n := knownPieces(t, s, other, want); n != 3 {
			t.Errorf("%s: a line written after it has %d pieces", c.what, n)
		}
	}
}

func FuzzSums(f *testing.F) {
	id := fileIdent{Dev: 1, Ino: 2, Size: 2*pieceLength + 1, Mtime: 5}
	good, err := sumsText(&sumsHead{fileIdent: id, Day: 20000}, fakeSums(id.Size))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-9])
	f.Add([]byte(`{"dev":1,"ino":2,"size":9223372036854775807,"mtime":5,"first":0,"crc":0,"pieces":""}` + "\n"))
	f.Add([]byte(`{,"pieces":"}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		file := filepath.Join(dir, "sums")
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := peekPieceSums(file, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		for id := range s.known {
			if id.Size > 1<<40 {
				continue // its sums would be large, rightly
			}
			if _, has, _, err := s.get(id); err != nil || len(has) != pieceCount(id.Size) {
				t.Fatalf("%+v: %d pieces, %v", id, len(has), err)
			}
		}
	})
}
