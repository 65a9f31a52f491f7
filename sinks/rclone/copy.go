package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path"
	"strings"
	"sync"
	"syscall"

	"github.com/snapfw/snapfw/core"
)

const copiesAtOnce = 4

// Copy copies inside the storage, or is core.ErrUnsupported where rclone can't. A move that is done already is known by a
// sum that the storage has of both objects; where it has none the object is copied again, to the same effect. A
// move from a key to itself only sees that the key is there: rclone can't make an object younger.
func (s sink) Copy(ctx context.Context, t core.Target, moves []core.Move) iter.Seq2[core.Move, error] {
	return func(yield func(core.Move, error) bool) {
		st, err := s.open(ctx, t)
		if err != nil {
			yield(core.Move{}, fmt.Errorf("copy: %w", err))
			return
		}
		defer st.close()
		if st.dir == "" && !st.Features.Copy {
			yield(core.Move{}, fmt.Errorf("copy: %s can't copy inside itself: %w", st.To, core.ErrUnsupported))
			return
		}
		var todo, selves []core.Move
		for _, m := range moves {
			if err := errors.Join(checkKey(m.From), checkKey(m.To)); err != nil {
				yield(core.Move{}, fmt.Errorf("copy: %w", err))
				return
			}
			if m.From == m.To {
				selves = append(selves, m)
			} else {
				todo = append(todo, m)
			}
		}
		if err := st.there(ctx, selves); err != nil {
			yield(core.Move{}, err)
			return
		}
		for _, m := range selves {
			if !yield(m, nil) {
				return
			}
		}
		st.copyAll(ctx, todo, yield)
	}
}

// there sees with one list that keys are there, with their sizes.
func (st storage) there(ctx context.Context, moves []core.Move) error {
	if len(moves) == 0 {
		return nil
	}
	missing := map[string]core.Move{}
	var keys []string
	for _, m := range moves {
		missing[m.From] = m
		keys = append(keys, m.From)
	}
	folder := commonFolder(keys)
	each := func(l listed) error {
		key := path.Join(folder, l.Path)
		m, ok := missing[key]
		if ok && m.Size != 0 && m.Size != l.Size {
			return fmt.Errorf("copy: %s has %d bytes instead of %d", key, l.Size, m.Size)
		}
		delete(missing, key)
		return nil
	}
	var err error
	if st.dir != "" {
		err = listFiles(st.dir, folder, each)
	} else {
		err = st.program.list(ctx, join(st.To, folder), each)
	}
	if err != nil {
		return err
	}
	for key := range missing {
		return fmt.Errorf("copy: %s: %w", key, fs.ErrNotExist)
	}
	return nil
}

// copyAll copies several at once, yields each as it is done, and the first error last.
func (st storage) copyAll(ctx context.Context, moves []core.Move, yield func(core.Move, error) bool) {
	ctx, cancel := context.WithCancelCause(ctx)
	todo, done := make(chan core.Move), make(chan core.Move)
	var workers sync.WaitGroup
	for range min(copiesAtOnce, len(moves)) {
		workers.Go(func() {
			for m := range todo {
				if err := st.copyOne(ctx, m); err != nil {
					cancel(fmt.Errorf("copy %s to %s: %w", m.From, m.To, err))
					return
				}
				select {
				case done <- m:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	go func() {
		defer close(done)
		defer workers.Wait()
		defer close(todo)
		for _, m := range moves {
			select {
			case todo <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	stopped := false
	for m := range done {
		if !stopped && !yield(m, nil) {
			stopped = true
			cancel(errStop)
		}
	}
	err := context.Cause(ctx)
	cancel(nil)
	if err != nil && !stopped {
		yield(core.Move{}, err)
	}
}

func (st storage) copyOne(ctx context.Context, m core.Move) error {
	if st.dir != "" {
		return replaceInside(st.dir, m)
	}
	from, err := st.hashed(ctx, m.From)
	if err != nil {
		return err
	}
	if m.Size != 0 && from.Size != m.Size {
		return fmt.Errorf("%d bytes instead of %d", from.Size, m.Size)
	}
	if to, err := st.hashed(ctx, m.To); err == nil && from.same(to) {
		return nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := st.copyTo(ctx, m); err != nil {
		return err
	}
	to, err := st.hashed(ctx, m.To)
	if err != nil {
		return err
	}
	if to.Size != from.Size || from.differs(to) {
		return errors.New("it is not the same afterwards; resume to copy it again")
	}
	return nil
}

// copyTo copies in one go where a copy replaces what is there: in buckets. Elsewhere (webdav) rclone's copy may refuse to, so
// the copy is made beside and takes the name then; for a moment there is nothing under it.
func (st storage) copyTo(ctx context.Context, m core.Move) error {
	from, to := join(st.To, m.From), join(st.To, m.To)
	if st.Features.BucketBased {
		_, err := st.run(ctx, nil, 1<<20, "copyto", from, to, "--ignore-times", "--low-level-retries", "10")
		return err
	}
	beside := path.Join(path.Dir(m.To), "."+path.Base(m.To)+".snapfw")
	temp := join(st.To, beside)
	// One that a killed run left is in the way.
	if _, err := st.run(ctx, strings.NewReader(beside+"\n"), 1<<20, "delete", st.To, "--files-from-raw", "-"); err != nil && !notFound(err) {
		return err
	}
	if _, err := st.run(ctx, nil, 1<<20, "copyto", from, temp, "--ignore-times", "--low-level-retries", "10"); err != nil {
		return err
	}
	_, err := st.run(ctx, nil, 1<<20, "moveto", temp, to, "--ignore-times", "--low-level-retries", "10")
	return err
}

// hashed is what the storage says of an object, with its sums.
type hashed struct {
	Size   int64
	IsDir  bool
	Hashes map[string]string
}

func (st storage) hashed(ctx context.Context, key string) (hashed, error) {
	out, err := st.run(ctx, nil, 1<<20, "lsjson", "--stat", "--hash", "--no-mimetype", join(st.To, key))
	if notFound(err) {
		return hashed{}, fs.ErrNotExist
	}
	if err != nil {
		return hashed{}, err
	}
	var h *hashed
	if err := json.Unmarshal(out, &h); err != nil {
		return hashed{}, fmt.Errorf("rclone lsjson: %w", err)
	}
	if h == nil || h.IsDir {
		return hashed{}, fs.ErrNotExist
	}
	return *h, nil
}

// same tells that two objects have a sum in common, and all of those agree; size alone never says so.
func (h hashed) same(o hashed) bool {
	common := false
	for name, sum := range h.Hashes {
		common = common || sum != "" && o.Hashes[name] == sum
	}
	return common && h.Size == o.Size && !h.differs(o)
}

func (h hashed) differs(o hashed) bool {
	for name, sum := range h.Hashes {
		if other := o.Hashes[name]; sum != "" && other != "" && sum != other {
			return true
		}
	}
	return false
}

// replaceInside copies a file in a directory so that a reader sees the old or the new one, whole.
func replaceInside(root string, m core.Move) error {
	r, err := os.OpenRoot(root)
	if err != nil {
		return notThere(err)
	}
	defer r.Close()
	info, err := r.Stat(m.From)
	switch {
	case err != nil:
		return notThere(err)
	case !info.Mode().IsRegular():
		return fs.ErrNotExist
	case m.Size != 0 && info.Size() != m.Size:
		return fmt.Errorf("%d bytes instead of %d", info.Size(), m.Size)
	}
	dir := path.Dir(m.To)
	temp := path.Join(dir, "."+path.Base(m.To)+".snapfw-"+rand.Text()[:8])
	err = copyInside(r, m.From, temp, info.Size())
	if err == nil {
		err = syncFile(r, temp)
	}
	if err == nil {
		err = r.Chtimes(temp, info.ModTime(), info.ModTime())
	}
	if err == nil {
		err = r.Rename(temp, m.To)
	}
	if err != nil {
		return errors.Join(err, ignoreMissing(r.Remove(temp)))
	}
	for ; ; dir = path.Dir(dir) {
		if err := syncDir(r, dir); err != nil || dir == "." {
			return err
		}
	}
}

func syncFile(r *os.Root, name string) error {
	f, err := r.OpenFile(name, os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
