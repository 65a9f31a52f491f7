package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// smallFile is copied rather than linked wherever it is not one of the snapshots: it costs nothing, and nobody
// has to know whether Erigon writes into it.
const smallFile = 64 << 10

// rewritten are files of any size that Erigon or its parts write into.
func rewritten(name string) bool {
	base := path.Base(name)
	switch base {
	case "mdbx.dat", "mdbx.lck", "jwt.hex", "LOCK", "nodekey":
		return true
	}
	switch path.Ext(base) {
	case ".toml", ".txt", ".log", ".lock", ".json", ".db", ".db-wal", ".db-shm", ".sqlite", ".torrent":
		return true
	}
	return strings.HasPrefix(name, "logs/") || strings.HasPrefix(name, "nodes/")
}

// list walks the datadir. Not backed up are our own folder, Erigon's temporary one, and what is neither file nor folder.
func (b *backingUp) list() error {
	roots := b.only
	if roots == nil {
		roots = []string{"."}
	}
	for _, root := range roots {
		err := filepath.WalkDir(filepath.Join(b.datadir, root), func(file string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%s: %w", file, errChanging)
			}
			if err != nil {
				return err
			}
			name, err := filepath.Rel(b.datadir, file)
			if err != nil {
				return err
			}
			return b.add(filepath.ToSlash(name), d)
		})
		if err != nil {
			return fmt.Errorf("list the datadir: %w", err)
		}
	}
	return nil
}

func (b *backingUp) add(name string, d fs.DirEntry) error {
	switch {
	case name == ".":
		return nil
	case name == ".snapfw" || name == "temp":
		return fs.SkipDir
	case name == backupManifest:
		return nil
	case d.IsDir():
		b.dirs = append(b.dirs, name)
		return nil
	case d.Type()&fs.ModeSymlink != 0:
		return declinef("%s is a link to another place: back that up by itself, and use --only for the rest", name)
	case !d.Type().IsRegular():
		b.made.Left = append(b.made.Left, name)
		return nil
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(b.datadir, name), &st); err == unix.ENOENT {
		return fmt.Errorf("%s: %w", name, errChanging)
	} else if err != nil {
		return fmt.Errorf("look at %s: %w", name, err)
	}
	inSnapshots := strings.HasPrefix(name, "snapshots/")
	b.files = append(b.files, backupFile{name: name, size: st.Size, used: st.Blocks * 512,
		copy: rewritten(name) || !inSnapshots && st.Size <= smallFile})
	return nil
}

// fill links, clones and copies what was listed.
func (b *backingUp) fill(ctx context.Context, to string) error {
	if err := b.room(to); err != nil {
		return err
	}
	b.count = restoreCount{out: b.stdout}
	for _, f := range b.files {
		if f.copy && !b.clone {
			b.count.total += f.size
		}
	}
	for _, dir := range b.dirs {
		if err := os.Mkdir(filepath.Join(to, dir), 0o755); err != nil {
			return err
		}
	}
	for _, f := range b.files {
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted: %w", ctx.Err())
		}
		err := b.one(ctx, f, to)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: %w", f.name, errChanging)
		}
		if err != nil {
			return fmt.Errorf("back up %s: %w", f.name, err)
		}
		b.made.Files++
		b.made.Bytes += f.size
	}
	// Last, as what is made in a folder changes its time, and its mode may forbid it.
	for _, dir := range slices.Backward(b.dirs) {
		if err := likeOriginal(filepath.Join(b.datadir, dir), filepath.Join(to, dir)); err != nil {
			return err
		}
	}
	return nil
}

// room sees whether the file system clones, and if not, whether what must be copied fits.
func (b *backingUp) room(to string) error {
	var need int64
	for _, f := range b.files {
		if !f.copy {
			continue
		}
		if !b.clone && need == 0 {
			trial := filepath.Join(to, ".trial")
			b.clone = cloneInto(filepath.Join(b.datadir, f.name), trial) == nil
			os.Remove(trial)
		}
		need += min(f.used, f.size+4096)
	}
	if b.clone {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(to, &st); err != nil {
		return fmt.Errorf("see how much room there is: %w", err)
	}
	const spare = 64 << 20
	if free := int64(st.Bavail) * st.Bsize; need > 0 && free < need+spare {
		return declinef("%d bytes can't be linked and have to be copied, and there is room for %d only: make room, or use --only snapshots", need, max(0, free-spare))
	}
	return nil
}

func cloneInto(from, to string) error {
	src, err := os.OpenFile(from, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer dst.Close()
	return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd()))
}

func (b *backingUp) one(ctx context.Context, f backupFile, to string) error {
	from, to := filepath.Join(b.datadir, f.name), filepath.Join(to, f.name)
	if !f.copy {
		err := os.Link(from, to)
		if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EMLINK) {
			return declinef("%s can't be linked to %s: %v: back up to the same mount, as the owner of the data", f.name, to, errors.Unwrap(err))
		}
		if err == nil {
			b.made.Linked++
		}
		return err
	}
	if b.clone {
		if err := cloneInto(from, to); err != nil {
			return err
		}
		b.made.Cloned++
		return likeOriginal(from, to)
	}
	n, err := b.copy(ctx, from, to)
	if err != nil {
		return err
	}
	b.made.Copied++
	b.made.Read += n
	return likeOriginal(from, to)
}

// copy makes a file of its own, with holes where the bytes are zero: an mdbx.dat has many.
func (b *backingUp) copy(ctx context.Context, from, to string) (n int64, err error) {
	src, err := os.OpenFile(from, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return 0, err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	defer dst.Close()
	buf, zero := make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		got, err := io.ReadFull(src, buf)
		if got > 0 && !bytes.Equal(buf[:got], zero[:got]) {
			if _, err := dst.WriteAt(buf[:got], n); err != nil {
				return n, err
			}
		}
		n += int64(got)
		b.count.add(int64(got))
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return n, dst.Truncate(n)
		}
		if err != nil {
			return n, err
		}
		if ctx.Err() != nil {
			return n, ctx.Err()
		}
	}
}

// likeOriginal gives a copy its original's mode, owner and time.
func likeOriginal(from, to string) error {
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		if err := os.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	if err := os.Chmod(to, fs.FileMode(st.Mode&0o777)); err != nil {
		return err
	}
	return os.Chtimes(to, time.Time{}, time.Unix(st.Mtim.Unix()))
}
