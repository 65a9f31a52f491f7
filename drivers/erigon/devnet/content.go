package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
)

// bytesOf is how long a data file is: by its range, up to a limit.
func (st chainState) bytesOf(k kind, s span) int64 {
	n := st.UnitBytes * int64(s.len())
	if k.typ == "transactions" || k.typ == "storage" || k.typ == "commitment" {
		n *= 2
	}
	// An odd end, so that a file is not a whole number of anything.
	return 64 + min(n, st.MaxBytes) + int64((s.from*31+s.to*17)%61)
}

// dataOf is a data file's content: the same for the same type, range and generation, whatever it was merged from. It begins like a
// .seg of Erigon with two counts of words; the rest has no structure.
func (st chainState) dataOf(k kind, s span) io.Reader {
	seed := sha256.Sum256(fmt.Appendf(nil, "%s %s/%s.%s %d-%d %d", st.Chain, k.dir, k.typ, k.ext, s.from, s.to, st.Generation[k.typ]))
	var head [16]byte
	binary.BigEndian.PutUint64(head[:], s.len()*1000)
	return io.MultiReader(bytes.NewReader(head[:]), io.LimitReader(mrand.NewChaCha8(seed), st.bytesOf(k, s)-16))
}

// writeFile makes a file as Erigon does: NAME.tmp, then fsync and a rename. Without sync it is written in place, which is for
// a datadir that nobody uses yet.
func (d *datadir) writeFile(name string, body io.Reader, sync bool) error {
	path := d.snap(name)
	if !sync {
		b, err := io.ReadAll(body)
		if err == nil {
			err = os.WriteFile(path, b, 0o644)
		}
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path + ".tmp")
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 64<<10)
	if _, err = io.Copy(w, body); err == nil {
		err = errors.Join(w.Flush(), f.Sync())
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

// saltOf reads a salt, or makes a new random one where there is none, as Erigon does.
func (d *datadir) saltOf(name string) ([]byte, error) {
	b, err := os.ReadFile(d.snap(name))
	if err == nil && len(b) == 4 {
		return b, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	b = make([]byte, 4)
	rand.Read(b)
	return b, d.writeFile(name, bytes.NewReader(b), true)
}

// indexOf is an index's content: the same for the same data and the same salt.
func (d *datadir) indexOf(k kind, data string) ([]byte, error) {
	salt, err := d.saltOf(k.salt())
	if err != nil {
		return nil, err
	}
	f, err := os.Open(d.snap(data))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	fmt.Fprintf(h, "%s.%s %x ", k.typ, k.ext, salt)
	n, err := io.Copy(h, f)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 48+n/16)
	mrand.NewChaCha8([32]byte(h.Sum(nil))).Read(b)
	return b, nil
}

// buildIndexes makes the indexes of a data file that are not there, and tells how many.
func (d *datadir) buildIndexes(data file, files []file, sync bool) (made int, err error) {
	for _, k := range data.indexes() {
		if has(files, k, data.span) {
			continue
		}
		b, err := d.indexOf(k, data.name)
		if err == nil {
			err = d.writeFile(k.name(data.span), bytes.NewReader(b), sync)
		}
		if err != nil {
			return made, err
		}
		made++
	}
	return made, nil
}

// intact compares a data file with what it must be.
func (st chainState) intact(d *datadir, f file) error {
	got, err := os.ReadFile(d.snap(f.name))
	if err != nil {
		return err
	}
	if int64(len(got)) != st.bytesOf(f.kind, f.span) {
		return fmt.Errorf("%s: compressed file %s: expected %d bytes, got %d", f.name, filepath.Base(f.name), st.bytesOf(f.kind, f.span), len(got))
	}
	want, err := io.ReadAll(st.dataOf(f.kind, f.span))
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("%s: unexpected word", f.name)
	}
	return err
}
