package main

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapfw/snapfw/core"
)

const (
	restoreWorkers = 4
	restoreRun     = 4 // pieces in a request
)

// restoredFile is one file on its way.
type restoredFile struct {
	name    string
	torrent torrentFile
	dest    string // in snapshots/
	part    string
	file    *os.File // the part; nil if the file in place is right
	inPlace bool     // the file in place is right
	has     []bool   // pieces that are right in the part
	old     *os.File // what is in place, if it has the right size
	oldHas  []bool   // pieces that are right there
}

func (f *restoredFile) close() {
	if f.file != nil {
		f.file.Close()
	}
	if f.old != nil {
		f.old.Close()
	}
}

// missing is how many bytes are still to be fetched, and how many to be written.
func (f *restoredFile) missing() (fetch, write int64) {
	for i, ok := range f.has {
		if ok || f.inPlace {
			continue
		}
		write += pieceSize(f.torrent.Length, i)
		if !f.oldHas[i] {
			fetch += pieceSize(f.torrent.Length, i)
		}
	}
	return fetch, write
}

func (f *restoredFile) right(i int, piece []byte) bool {
	sum := sha1.Sum(piece)
	return bytes.Equal(sum[:], f.torrent.Pieces[i*sha1.Size:(i+1)*sha1.Size])
}

// restoreCount tells how far it is.
type restoreCount struct {
	mu    sync.Mutex
	out   io.Writer
	done  int64
	total int64
	told  time.Time
}

func (c *restoreCount) add(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done += n; c.done == c.total || time.Since(c.told) > 500*time.Millisecond {
		c.told = time.Now()
		fmt.Fprintf(c.out, "{\"done\":%d,\"total\":%d}\n", c.done, c.total)
	}
}

// look gets a file's torrent and sees which of its pieces are here.
func (r *restoring) look(ctx context.Context, e core.Entry) (*restoredFile, error) {
	f := r.file(e.Name)
	err := r.insist(ctx, func() (err error) {
		f.torrent, err = r.front.torrent(ctx, e.Name, e.Sums[infohash], maxFrontTorrent)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := r.open(ctx, f); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// fetched looks at what an earlier run has fetched of a file: its torrent is there only if all of it was.
func (r *restoring) fetched(ctx context.Context, name string) (*restoredFile, error) {
	f := r.file(name)
	file, err := os.OpenFile(f.part+torrentExt, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, declinef("%s is not fetched: run restore with --fetch-only first", name)
	}
	if err != nil {
		return nil, fmt.Errorf("read the torrent that was fetched: %w", err)
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxFrontTorrent))
	if err == nil {
		f.torrent, err = parseTorrent(b)
	}
	if err == nil {
		err = f.torrent.fits(name, f.torrent.Length)
	}
	if err != nil {
		return nil, fmt.Errorf("read the torrent that was fetched: %w: run restore with --fetch-only again", err)
	}
	if err := r.open(ctx, f); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (r *restoring) file(name string) *restoredFile {
	local := filepath.FromSlash(name)
	return &restoredFile{name: name, dest: filepath.Join(r.datadir, "snapshots", local), part: filepath.Join(r.dir, local)}
}

// open sees which pieces are right in what was fetched before, and in the file that is in place, of which mostly a few
// are damaged.
func (r *restoring) open(ctx context.Context, f *restoredFile) error {
	for _, dir := range []string{filepath.Dir(f.part), filepath.Dir(f.dest)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make its folder: %w", err)
		}
	}
	if err := sameFilesystem(filepath.Dir(f.part), filepath.Dir(f.dest)); err != nil {
		return err
	}
	f.has = make([]bool, pieceCount(f.torrent.Length))
	f.oldHas = make([]bool, len(f.has))
	if err := f.lookAtOld(ctx); err != nil || f.inPlace {
		return err
	}
	return f.lookAtPart(ctx)
}

func (f *restoredFile) lookAtOld(ctx context.Context) error {
	old, err := os.OpenFile(f.dest, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the file in place: %w", err)
	}
	f.old = old
	info, err := old.Stat()
	if err != nil {
		return fmt.Errorf("look at the file in place: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	whole, err := f.scan(ctx, old, f.oldHas)
	f.inPlace = whole && info.Size() == f.torrent.Length
	return err
}

func (f *restoredFile) lookAtPart(ctx context.Context) (err error) {
	f.file, err = os.OpenFile(f.part, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o644)
	if err != nil {
		return fmt.Errorf("open what is fetched: %w", err)
	}
	info, err := f.file.Stat()
	if err != nil {
		return fmt.Errorf("look at what is fetched: %w", err)
	}
	if !info.Mode().IsRegular() {
		return declinef("%s is no regular file: remove it", f.part)
	}
	if size := f.torrent.Length; info.Size() != size {
		if err := f.file.Truncate(size); err != nil {
			return fmt.Errorf("make what is fetched as long as it will be: %w", err)
		}
	}
	if info.Size() == 0 {
		return nil // it is new
	}
	_, err = f.scan(ctx, f.file, f.has)
	return err
}

// reuse copies the pieces that are right in the file in place.
func (f *restoredFile) reuse(ctx context.Context) error {
	buf := make([]byte, pieceLength)
	for i, ok := range f.oldHas {
		if !ok || f.has[i] || f.inPlace {
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		piece := buf[:pieceSize(f.torrent.Length, i)]
		if n, _ := f.old.ReadAt(piece, int64(i)*pieceLength); n < len(piece) || !f.right(i, piece) {
			continue // it was, and it is no more: it is fetched
		}
		if _, err := f.file.WriteAt(piece, int64(i)*pieceLength); err != nil {
			return fmt.Errorf("write what is right already: %w", err)
		}
		f.has[i] = true
	}
	return nil
}

func sameFilesystem(a, b string) error {
	var sa, sb unix.Stat_t
	if err := unix.Stat(a, &sa); err != nil {
		return fmt.Errorf("look at %s: %w", a, err)
	}
	if err := unix.Stat(b, &sb); err != nil {
		return fmt.Errorf("look at %s: %w", b, err)
	}
	if sa.Dev != sb.Dev {
		return declinef("%s and %s are not on one file system, so a file can't be put in place in one go", a, b)
	}
	return nil
}

// scan sees which pieces of a file are right.
func (f *restoredFile) scan(ctx context.Context, from *os.File, has []bool) (whole bool, err error) {
	buf := make([]byte, pieceLength)
	whole = true
	for i := range has {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		piece := buf[:pieceSize(f.torrent.Length, i)]
		n, _ := from.ReadAt(piece, int64(i)*pieceLength) // what a disk can't read is fetched
		has[i] = n == len(piece) && f.right(i, piece)
		whole = whole && has[i]
	}
	return whole, nil
}

// fetch gets the pieces that are missing, a few at once, and makes them durable. Each is checked before it is written.
func (r *restoring) fetch(ctx context.Context, f *restoredFile) error {
	if !f.inPlace {
		if err := r.pieces(ctx, f); err != nil {
			return err
		}
		if err := f.file.Sync(); err != nil {
			return fmt.Errorf("make %s durable: %w", f.part, err)
		}
	}
	return writeTorrent(f.part+torrentExt, f.name, f.torrent.Length, f.torrent.Pieces)
}

func (r *restoring) pieces(ctx context.Context, f *restoredFile) error {
	if err := f.reuse(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	runs := make(chan [2]int)
	var workers sync.WaitGroup
	for range restoreWorkers {
		workers.Go(func() {
			for run := range runs {
				if err := r.fetchRun(ctx, f, run[0], run[1]); err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, run := range f.runs() {
		select {
		case runs <- run:
		case <-ctx.Done():
		}
	}
	close(runs)
	workers.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// runs are the missing pieces, [from, to), as many as go into a request.
func (f *restoredFile) runs() (all [][2]int) {
	for i := 0; i < len(f.has); i++ {
		if f.has[i] {
			continue
		}
		from := i
		for i < len(f.has) && !f.has[i] && i-from < restoreRun {
			i++
		}
		all = append(all, [2]int{from, i})
		i--
	}
	return all
}

// fetchRun gets pieces. Those that came right are kept, whatever the others are.
func (r *restoring) fetchRun(ctx context.Context, f *restoredFile, from, to int) error {
	return r.insist(ctx, func() error {
		for from < to && f.has[from] {
			from++
		}
		if from == to {
			return nil
		}
		start := int64(from) * pieceLength
		end := min(int64(to)*pieceLength, f.torrent.Length)
		b, head, err := r.front.span(ctx, f.name, start, end-start, f.torrent.Length)
		if err != nil {
			return err
		}
		var wrong error
		for i := from; i < to; i++ {
			piece := b[int64(i-from)*pieceLength:][:pieceSize(f.torrent.Length, i)]
			if f.has[i] {
				continue
			}
			if !f.right(i, piece) {
				wrong = &frontError{key: f.name, want: fmt.Sprintf("piece %d as published", i), got: "other bytes", cache: cacheOf(head), status: 206}
				continue
			}
			if _, err := f.file.WriteAt(piece, int64(i)*pieceLength); err != nil {
				return fmt.Errorf("write what was fetched: %w", err)
			}
			f.has[i] = true // no other worker has this piece
			r.count.add(int64(len(piece)))
		}
		return wrong
	})
}

// place puts a whole file where it belongs, with its torrent. What was there is kept in replaced/, not deleted. At every
// moment there is a file under its name, the one before or the new one.
func (r *restoring) place(f *restoredFile) error {
	kept := filepath.Join(snapfwDir(r.datadir), "replaced", r.now.Format("20060102-150405"), filepath.FromSlash(f.name))
	if f.inPlace {
		changed := time.Time{}
		if info, err := os.Stat(f.dest); err == nil {
			changed = info.ModTime()
		}
		if t, err := readTorrent(f.dest+torrentExt, f.name, f.torrent.Length, changed); err == nil && bytes.Equal(t.Pieces, f.torrent.Pieces) {
			return f.forget()
		}
	}
	if err := os.MkdirAll(filepath.Dir(kept), 0o755); err != nil {
		return err
	}
	// The torrent first: a stale one beside new data is what Erigon's tools would trust.
	if err := setAside(f.dest+torrentExt, kept+torrentExt, true); err != nil {
		return err
	}
	if !f.inPlace {
		if err := setAside(f.dest, kept, false); err != nil {
			return err
		}
		if err := likeFolder(f.file, filepath.Dir(f.dest)); err != nil {
			return err
		}
		if err := os.Rename(f.part, f.dest); err != nil {
			return err
		}
	}
	if err := writeTorrent(f.dest+torrentExt, f.name, f.torrent.Length, f.torrent.Pieces); err != nil {
		return err
	}
	if t, err := os.Open(f.dest + torrentExt); err == nil {
		err = likeFolder(t, filepath.Dir(f.dest))
		t.Close()
		if err != nil {
			return err
		}
	}
	if err := syncFolder(filepath.Dir(f.dest)); err != nil {
		return err
	}
	os.Remove(filepath.Dir(kept)) // fails while anything is in it
	if _, err := os.Lstat(kept); err == nil {
		fmt.Fprintf(r.stdout, "%s is in place; what was there is %s\n", f.name, kept)
	} else if !f.inPlace {
		fmt.Fprintf(r.stdout, "%s is in place\n", f.name)
	}
	return f.forget()
}

// forget removes what was fetched: it is in place.
func (f *restoredFile) forget() error {
	for _, file := range []string{f.part, f.part + torrentExt} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// setAside keeps a file under another name, and takes it away from its own if asked for.
func setAside(file, kept string, away bool) error {
	if away {
		err := os.Rename(file, kept)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	err := os.Link(file, kept)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// likeFolder gives a file the owner of the folder that it goes to, where root restores for another user.
func likeFolder(f *os.File, dir string) error {
	var st unix.Stat_t
	if os.Geteuid() != 0 {
		return nil
	}
	if err := unix.Stat(dir, &st); err != nil {
		return err
	}
	return f.Chown(int(st.Uid), int(st.Gid))
}
