package main

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapfw/snapfw/core/capture"
)

const (
	// unitPieces are hashed by one worker at a time and remembered together: 32 MiB.
	unitPieces = 16

	// hashChunk fits a core's own cache, so that bytes are still there when they are summed.
	hashChunk = 256 << 10

	// finishers write torrents while workers hash. A file system makes many durable in the time of one.
	finishers = 16

	// writtenBack is longer than any kernel keeps what was written to a file in memory only.
	writtenBack = time.Hour
)

var (
	errChanging = errors.New("it changed while it was hashed: see what writes to it, and run this again")
	errDamaged  = errors.New("its bytes are not those that were hashed before, though its size and time are the same: " +
		"the disk is failing, or something rewrote it and set its time back. Restore it, or touch it if these bytes are right")
)

// hashUnit is some pieces of a file.
type hashUnit struct{ first, n int }

// hashJob is one file of which some pieces must be read. With no units only its done is called.
type hashJob struct {
	at    int    // in the list of data files
	name  string // relative to snapshots/
	file  string
	ident fileIdent
	units []hashUnit

	open   sync.Once
	f      *os.File
	pieces []byte // 20 bytes a piece
	known  []bool // by piece: remembered, so it must be the same
	left   atomic.Int32
	mu     sync.Mutex
	err    error // the first
}

// unitsOf returns the units of a file of which any piece is wanted.
func unitsOf(size int64, wanted func(piece int) bool) []hashUnit {
	var units []hashUnit
	for n, first := pieceCount(size), 0; first < n; first += unitPieces {
		u := hashUnit{first, min(unitPieces, n-first)}
		for i := u.first; i < u.first+u.n; i++ {
			if wanted(i) {
				units = append(units, u)
				break
			}
		}
	}
	return units
}

// span returns where a unit lies in its file.
func (j *hashJob) span(u hashUnit) (off, n int64) {
	off = int64(u.first) * pieceLength
	return off, min(int64(u.n)*pieceLength, j.ident.Size-off)
}

func (j *hashJob) fail(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err == nil {
		j.err = err
	}
}

func (j *hashJob) failed() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.err
}

// hashing reads the units of all jobs in order, on all workers: a single file keeps
// all of them busy.
type hashing struct {
	jobs    []*hashJob
	sums    *pieceSums
	workers int
	rate    int64                                 // bytes a second; 0 is no limit
	tell    func(done, total int64)               // of bytes; one call at a time, and one at the end; may be nil
	done    func(j *hashJob, pieces []byte) error // a file that is whole and did not change; called concurrently
	failed  func(j *hashJob, err error)           // called concurrently; the others go on

	mu       sync.Mutex
	job      int
	unit     int
	total    int64
	read     atomic.Int64
	nextTell atomic.Int64
	tellMu   sync.Mutex
	pace     hashPace
	ends     sync.WaitGroup
	places   chan struct{} // for finishers
}

// run returns ctx's error if it ended, or nil: what is wrong with a file is told to failed.
func (h *hashing) run(ctx context.Context) error {
	for _, j := range h.jobs {
		j.left.Store(int32(max(1, len(j.units))))
		for _, u := range j.units {
			_, n := j.span(u)
			h.total += n
		}
	}
	h.pace.rate = h.rate
	h.places = make(chan struct{}, finishers)
	var wg sync.WaitGroup
	for range max(1, h.workers) {
		wg.Go(func() { h.work(ctx) })
	}
	wg.Wait()
	h.ends.Wait()
	for _, j := range h.jobs {
		if j.f != nil {
			j.f.Close() // of those that were given up
		}
	}
	if h.tell != nil && h.total > 0 {
		h.tell(h.read.Load(), h.total)
	}
	return context.Cause(ctx)
}

// hashTask is a unit that a worker has claimed.
type hashTask struct {
	job   *hashJob
	unit  hashUnit
	pages capture.Resident // what was in memory before
}

// work looks at the pages of its next unit before it reads the one that it has: by then all units up
// to that one were looked at, so that what the kernel reads ahead beyond a unit is not taken for the node's.
func (h *hashing) work(ctx context.Context) {
	buf := make([]byte, hashChunk)
	ahead := h.claim()
	for ahead != nil && ctx.Err() == nil {
		t := ahead
		ahead = h.claim()
		if err := h.hash(ctx, t, buf); err != nil {
			t.job.fail(err)
		}
		if t.job.left.Add(-1) == 0 && ctx.Err() == nil {
			h.places <- struct{}{}
			h.ends.Go(func() {
				h.finish(t.job)
				<-h.places
			})
		}
	}
}

// claim returns the next unit, its file open, or nil when there is none.
func (h *hashing) claim() *hashTask {
	h.mu.Lock()
	if h.job == len(h.jobs) {
		h.mu.Unlock()
		return nil
	}
	t := &hashTask{job: h.jobs[h.job]}
	if h.unit < len(t.job.units) {
		t.unit = t.job.units[h.unit]
		h.unit++
	}
	if h.unit >= len(t.job.units) {
		h.job, h.unit = h.job+1, 0
	}
	h.mu.Unlock()

	t.job.open.Do(func() {
		if err := h.begin(t.job); err != nil {
			t.job.fail(err)
		}
	})
	if t.unit.n > 0 && t.job.failed() == nil {
		off, n := t.job.span(t.unit)
		t.pages = capture.LookResident(t.job.f, off, n)
	}
	return t
}

// begin opens a file and sees that it is the one that was looked at.
func (h *hashing) begin(j *hashJob) error {
	// O_NONBLOCK: a fifo of that name must not hang us.
	fd, err := unix.Open(j.file, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	j.f = os.NewFile(uintptr(fd), j.file)
	if err := sameFile(j.f, j.ident); err != nil {
		return err
	}
	if len(j.units) > 0 { // else its sums are remembered, and outlive nothing
		if err := settleOnDisk(fd); err != nil {
			return err
		}
	}
	pieces, known, _, err := h.sums.get(j.ident)
	if err != nil {
		return err
	}
	if pieces == nil {
		n := pieceCount(j.ident.Size)
		pieces, known = make([]byte, n*sha1.Size), make([]bool, n)
	}
	j.pieces, j.known = pieces, known
	return nil
}

// settleOnDisk sees that a file's bytes are on the disk: a sum must not outlive them when the machine
// dies. It looks at the change time, which nobody can set back as a copy that keeps times does.
func settleOnDisk(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if age := time.Since(time.Unix(0, st.Ctim.Nano())); age > writtenBack {
		return nil
	}
	if err := unix.Fdatasync(fd); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return nil
}

// mtimeTick is longer than a file system's clock takes from one tick to the next: a
// write after it shows in the file's time.
const mtimeTick = 20 * time.Millisecond

// sameFile tells whether an open file is the one of this identity and no write to it can go unseen.
func sameFile(f *os.File, id fileIdent) error {
	// A time in the future is as good: a write would set it to now.
	if age := time.Since(time.Unix(0, id.Mtime)); age > -mtimeTick && age < mtimeTick {
		time.Sleep(mtimeTick - age)
	}
	var open, named unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &open); err != nil {
		return err
	}
	if err := unix.Lstat(f.Name(), &named); err != nil {
		return fmt.Errorf("%w (%w)", errChanging, err)
	}
	if identOfStat(&open) != id || identOfStat(&named) != id {
		return errChanging
	}
	return nil
}

// hash sums the pieces of a unit, compares them with what is remembered, and remembers the rest.
func (h *hashing) hash(ctx context.Context, t *hashTask, buf []byte) error {
	if t.unit.n == 0 || t.job.failed() != nil {
		return nil
	}
	sums := make([]byte, 0, t.unit.n*sha1.Size)
	fresh := false
	sum := sha1.New()
	for i := t.unit.first; i < t.unit.first+t.unit.n; i++ {
		sum.Reset()
		at, n := int64(i)*pieceLength, pieceSize(t.job.ident.Size, i)
		if h.rate == 0 && t.pages.Cached(at, n) > n-n/8 && sumMapped(sum, t.job.f, at, n) {
			h.count(n)
		} else if err := h.sum(ctx, sum, t.job.f, at, at+n, buf); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		sums = sum.Sum(sums)
		got, was := sums[len(sums)-sha1.Size:], t.job.pieces[i*sha1.Size:(i+1)*sha1.Size]
		if t.job.known[i] && !bytes.Equal(got, was) {
			if err := sameFile(t.job.f, t.job.ident); err != nil {
				return err
			}
			if err := h.sums.suspect(t.job.ident, i, was); err != nil {
				return err
			}
			return fmt.Errorf("piece %d, at byte %d: %w", i, at, errDamaged)
		}
		if !t.job.known[i] {
			copy(was, got) // known stays: only this worker looks at this piece
			fresh = true
		}
	}
	t.pages.GiveBack(t.job.f)
	if !fresh {
		return nil
	}
	return h.sums.put(t.job.ident, t.unit.first, sums)
}

// sum reads a file from one byte to another.
func (h *hashing) sum(ctx context.Context, w io.Writer, f *os.File, from, to int64, buf []byte) error {
	for from < to {
		n, err := f.ReadAt(buf[:min(int64(len(buf)), to-from)], from)
		if n == 0 && err == io.EOF {
			return errChanging // it was cut short
		}
		if n == 0 {
			return fmt.Errorf("read at byte %d: %w", from, err)
		}
		w.Write(buf[:n])
		from += int64(n)
		h.count(int64(n))
		if err := h.pace.wait(ctx, int64(n)); err != nil {
			return err
		}
	}
	return nil
}

// finish hands over a file that is whole, if it is still the same.
func (h *hashing) finish(j *hashJob) {
	err := j.failed()
	if err == nil {
		err = sameFile(j.f, j.ident)
	}
	if err == nil {
		err = h.done(j, j.pieces)
	}
	if j.f != nil {
		j.f.Close()
		j.f = nil
	}
	j.pieces, j.known = nil, nil
	if errors.Is(err, errChanging) {
		h.sums.forget(j.ident) // some of its pieces may be of one time and some of another
	}
	if err != nil {
		h.failed(j, err)
	}
}

func (h *hashing) count(n int64) {
	h.read.Add(n)
	if h.tell == nil {
		return
	}
	now, next := time.Now().UnixNano(), h.nextTell.Load()
	if now < next || !h.nextTell.CompareAndSwap(next, now+int64(time.Second/5)) {
		return
	}
	h.tellMu.Lock()
	defer h.tellMu.Unlock()
	h.tell(h.read.Load(), h.total)
}

// hashPace lets so many bytes through a second; a rate of 0 lets all of them through.
type hashPace struct {
	rate int64
	mu   sync.Mutex
	free time.Time // when what was let through is paid for
}

func (p *hashPace) wait(ctx context.Context, n int64) error {
	if p.rate <= 0 {
		return ctx.Err()
	}
	p.mu.Lock()
	now := time.Now()
	if p.free.Before(now) {
		p.free = now
	}
	p.free = p.free.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	pause := p.free.Sub(now)
	p.mu.Unlock()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(pause):
		return nil
	}
}
