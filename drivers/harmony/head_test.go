package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/storage"
	"github.com/syndtr/goleveldb/leveldb/util"

	"github.com/snapfw/snapfw/core"
)

func utilRange() util.Range { return util.Range{} }

func TestHeadReadsAndWritesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "harmony_db_0")
	db := openDB(t, dir)
	putBlocks(t, db, 1, 500)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	list, err := liveSet(dir)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "data")
	place(t, dir, to, list)
	before := sumFiles(t, to)
	var out, errs bytes.Buffer
	if code := verbHead(context.Background(), []string{"height", to}, &out, &errs); code != 0 || out.String() != "500\n" {
		t.Fatalf("height: exit %d, %q, %s", code, out.String(), errs.String())
	}
	out.Reset()
	want := fmt.Sprintf("0x%x\n", blockHashOf(500))
	if code := verbHead(context.Background(), []string{"hash", to, "--snapdb", "false"}, &out, &errs); code != 0 || out.String() != want {
		t.Fatalf("hash: exit %d, %q, %s", code, out.String(), errs.String())
	}
	if code := verbHead(context.Background(), []string{"height", to, "--snapdb", "true"}, &out, &errs); code != core.ExitRefused {
		t.Errorf("a plain copy passes for a state dump: exit %d", code)
	}
	if d := cmp.Diff(before, sumFiles(t, to)); d != "" {
		t.Errorf("reading the head changed the copy: %s", d)
	}
}

func TestHeadRefuses(t *testing.T) {
	ctx := context.Background()
	for name, spoil := range map[string]func(db *leveldb.DB) error{
		"no head":         func(db *leveldb.DB) error { return db.Delete(keyLastBlock, nil) },
		"short hash":      func(db *leveldb.DB) error { return db.Put(keyLastBlock, []byte("x"), nil) },
		"no number":       func(db *leveldb.DB) error { h := blockHashOf(9); return db.Delete(keyNumber(h[:]), nil) },
		"short number":    func(db *leveldb.DB) error { h := blockHashOf(9); return db.Put(keyNumber(h[:]), []byte{9}, nil) },
		"side chain":      func(db *leveldb.DB) error { h := blockHashOf(8); return db.Put(keyCanonical(9), h[:], nil) },
		"no header":       func(db *leveldb.DB) error { h := blockHashOf(9); return db.Delete(keyHeader(9, h[:]), nil) },
		"a state dump ok": func(db *leveldb.DB) error { return db.Put(keySnapDB, []byte{0xc0}, nil) },
	} {
		dir := t.TempDir()
		db := openDB(t, dir)
		putBlocks(t, db, 1, 9)
		if err := spoil(db); err != nil {
			t.Fatal(err)
		}
		db.Close()
		var out, errs bytes.Buffer
		code := verbHead(ctx, []string{"height", "--snapdb=true", dir}, &out, &errs)
		if good := strings.HasSuffix(name, " ok"); (code == 0) != good || !good && (out.Len() > 0 || errs.Len() == 0) {
			t.Errorf("%s: exit %d, %q, %q", name, code, out.String(), errs.String())
		}
	}
	if _, err := readHead(t.TempDir()); err == nil {
		t.Error("an empty directory has a head")
	}
	if err := (frozen{}).SetMeta(mustDesc(t, "MANIFEST-000001")); !errors.Is(err, errFrozen) {
		t.Errorf("SetMeta: %v", err)
	}
}

// exitWriter runs a process that writes without end and leaves with exit 0 in the middle of it, its
// store not closed: what a Harmony node does.
func exitWriter(t *testing.T, dir string, seed uint64) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "SNAPFW_TEST_CHILD=writer", "SNAPFW_TEST_DB="+dir, fmt.Sprintf("SNAPFW_TEST_SEED=%d", seed))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("writer: %v\n%s", err, out)
	}
}

func mustDesc(t *testing.T, name string) storage.FileDesc {
	t.Helper()
	fd, ok := descOf(name)
	if !ok {
		t.Fatalf("%s is no name of a file of a LevelDB", name)
	}
	return fd
}
