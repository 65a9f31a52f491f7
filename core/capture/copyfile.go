package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// errMoved says that a file was written while it was copied.
var errMoved = errors.New("it changed while it was copied: something is still writing to the database")

// copier copies files from one tree to another.
type copier struct {
	src, dst *tree
	pace     *pacer
	count    *meter
	gentle   bool // in the background: on the disk at once, and out of the page cache
}

const copyChunk = 4 << 20

// file makes dst/name a file of its own with src/name's bytes and permissions.
func (c *copier) file(ctx context.Context, name string) (Record, error) {
	sfd, before, err := c.src.open(name)
	if err != nil {
		return Record{}, err
	}
	in := os.NewFile(uintptr(sfd), name)
	defer in.Close()
	dfd, err := c.dst.create(name, before.Mode&0o777)
	if err != nil {
		return Record{}, err
	}
	out := os.NewFile(uintptr(dfd), name)
	defer out.Close()

	var cached Resident
	if c.gentle {
		cached = LookResident(in, 0, before.Size)
	}
	if err := c.bytes(ctx, in, out, before.Size); err != nil {
		return Record{}, err
	}
	var after unix.Stat_t
	if err := unix.Fstat(sfd, &after); err != nil {
		return Record{}, err
	}
	if IdentOf(&after) != IdentOf(&before) {
		return Record{}, errMoved
	}
	if c.gentle {
		if err := unix.Fdatasync(dfd); err != nil {
			return Record{}, fmt.Errorf("sync: %w", err)
		}
		cached.GiveBack(in)
		unix.Fadvise(dfd, 0, 0, unix.FADV_DONTNEED) // our own file: nobody misses it
	}
	// Its time stays that of its making: with its source's, a later file that gets the same inode
	// could pass for it, and for its sum.
	var own unix.Stat_t
	if err := unix.Fstat(dfd, &own); err != nil {
		return Record{}, err
	}
	id := IdentOf(&own)
	return Record{Name: name, How: copied, Src: IdentOf(&before), Own: &id}, nil
}

func (c *copier) bytes(ctx context.Context, in, out *os.File, size int64) error {
	for left := size; left > 0; {
		n := min(left, copyChunk)
		if err := c.pace.wait(ctx, n); err != nil {
			return err
		}
		// CopyN ends in copy_file_range(2) where the kernel has it for these two files.
		got, err := io.CopyN(out, in, n)
		if err == io.EOF {
			return errMoved
		}
		if err != nil {
			return err
		}
		c.count.add(got)
		left -= got
	}
	return ctx.Err()
}
