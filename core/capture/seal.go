package capture

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/snapfw/snapfw/core"
	"golang.org/x/sys/unix"
)

// SealOptions say how to seal.
type SealOptions struct {
	To       string
	Sums     string  // a file that remembers sums; "" is sums.jsonl in To
	Verify   float64 // percent of the remembered sums that are checked by reading; 0 to 100
	Workers  int     // 0 is one a processor
	Rate     int64   // bytes a second; 0 is no limit
	Progress Progress
}

// Sealed is what Seal did.
type Sealed struct {
	Files    int   `json:"files"`
	Bytes    int64 `json:"bytes"`
	Read     int64 `json:"read"`     // bytes that were read to know their sums
	Verified int   `json:"verified"` // files whose remembered sum was checked by reading
}

// ParseVerify reads "", "full" or "sample:N" as a percentage.
func ParseVerify(s string) (float64, error) {
	if s == "" {
		return 0, nil
	}
	if s == "full" {
		return 100, nil
	}
	n, ok := strings.CutPrefix(s, "sample:")
	if percent, err := strconv.ParseFloat(n, 64); ok && err == nil && percent > 0 && percent <= 100 {
		return percent, nil
	}
	return 0, fmt.Errorf("verify %q is neither full nor sample:N with N a percentage", s)
}

// Seal brings the copy to the disk, gets each file's SHA-256 and writes To/entries.jsonl: one core.Entry a
// line, sorted by name. Files that an earlier capture held are not read again.
//
// It is a RefusedError if a file of the copy is not what Take left (a node rewrote a table that
// it shares), if the machine was started anew before the copy was on its disk, or if a
// remembered sum turns out to be wrong. A second Seal does the same, from remembered sums; one
// that died carries on.
func Seal(ctx context.Context, o SealOptions) (Sealed, error) {
	to, err := checkTo(o.To)
	if err != nil {
		return Sealed{}, err
	}
	p, err := lockPlace(to)
	if errors.Is(err, fs.ErrNotExist) {
		return Sealed{}, refusef("%s: %v", to, ErrNoCopy)
	}
	if err != nil {
		return Sealed{}, err
	}
	defer p.close()
	c, recs, err := p.load()
	if errors.Is(err, ErrNoCopy) {
		return Sealed{}, refusef("%v", err)
	}
	if err != nil {
		return Sealed{}, err
	}
	if !c.whole() {
		return Sealed{}, refusef("%s was taken before this machine was started anew, and may have lost bytes: take it again", to)
	}
	if err := p.clean(); err != nil {
		return Sealed{}, err
	}
	return p.seal(ctx, c, recs, o)
}

func (p *place) seal(ctx context.Context, c Captured, recs []Record, o SealOptions) (Sealed, error) {
	file := o.Sums
	if file == "" {
		file = p.path(SumsName)
	}
	known, err := openSums(file, time.Now())
	if err != nil {
		return Sealed{}, err
	}
	defer known.close()
	data, err := openTree(p.path(DataName), false)
	if err != nil {
		return Sealed{}, err
	}
	defer data.close()

	s := &sealer{data: data, known: known, sums: file, recs: recs, entries: make([]core.Entry, len(recs)),
		pace: newPacer(o.Rate)}
	if c.Sealed.IsZero() {
		if err := s.sync(ctx, p, c.Method, workers(o.Workers)); err != nil {
			return Sealed{}, err
		}
	}
	s.plan(o.Verify)
	s.count = newMeter(o.Progress, s.toRead)
	if err := parallel(ctx, workers(o.Workers), len(recs), s.one); err != nil {
		return Sealed{}, err
	}
	s.count.end()
	s.out.Read, s.out.Verified = s.read.Load(), int(s.verified.Load())
	if err := known.rewrite(); err != nil {
		return Sealed{}, fmt.Errorf("write sums: %w", err)
	}
	return s.out, p.finish(c, s.entries)
}

// finish writes what Seal found. The copy counts as on the disk from here on.
func (p *place) finish(c Captured, entries []core.Entry) error {
	slices.SortFunc(entries, func(a, b core.Entry) int { return strings.Compare(a.Name, b.Name) })
	if c.Sealed.IsZero() {
		c.Sealed = time.Now().UTC()
		line, err := encodeLine(c)
		if err != nil {
			return err
		}
		if err := writeFile(p.path(CapturedName), line, 0o644); err != nil {
			return fmt.Errorf("write what was captured: %w", err)
		}
	}
	err := replaceFile(p.path(EntriesName), 0o644, true, func(w io.Writer) error {
		buf := bufio.NewWriterSize(w, 1<<16)
		enc := json.NewEncoder(buf)
		enc.SetEscapeHTML(false)
		for _, e := range entries {
			if err := enc.Encode(e); err != nil {
				return err
			}
		}
		return buf.Flush()
	})
	if err != nil {
		return fmt.Errorf("write entries: %w", err)
	}
	return nil
}

// sealer hashes the files of a copy.
type sealer struct {
	data    *tree
	known   *sums
	sums    string
	recs    []Record
	entries []core.Entry // by record
	verify  []bool       // by record: read it though its sum is remembered
	pace    *pacer
	count   *meter
	toRead  int64

	read, verified atomic.Int64
	out            Sealed
}

// sync waits until what Take wrote is on the disk. Linked files are the node's own business.
func (s *sealer) sync(ctx context.Context, p *place, m Method, n int) error {
	if m == Clone {
		// A log write for each of thousands of clones would take longer than one for all.
		if err := unix.Syncfs(int(p.fd.Fd())); err != nil {
			return fmt.Errorf("sync %s: %w", p.dir, err)
		}
		return nil
	}
	err := parallel(ctx, n, len(s.recs), func(_ context.Context, i int) error {
		if s.recs[i].How == linked {
			return nil
		}
		fd, _, err := s.data.open(s.recs[i].Name)
		if err != nil {
			return s.gone(i, err)
		}
		defer unix.Close(fd)
		if err := unix.Fsync(fd); err != nil {
			return fmt.Errorf("sync %s: %w", s.recs[i].Name, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	dirs := map[string]bool{".": true}
	for _, rec := range s.recs {
		for d := path.Dir(rec.Name); !dirs[d]; d = path.Dir(d) {
			dirs[d] = true
		}
	}
	for d := range dirs {
		if err := syncDir(path.Join(p.path(DataName), d)); err != nil {
			return err
		}
	}
	return syncDir(p.dir)
}

// plan finds out how much there is to read.
func (s *sealer) plan(percent float64) {
	s.verify = make([]bool, len(s.recs))
	var remembered []int
	for i, rec := range s.recs {
		s.out.Bytes += rec.Src.Size
		if _, ok := s.known.get(rec.sumKey()); ok {
			remembered = append(remembered, i)
		} else {
			s.toRead += rec.Src.Size
		}
	}
	s.out.Files = len(s.recs)
	rand.Shuffle(len(remembered), func(a, b int) { remembered[a], remembered[b] = remembered[b], remembered[a] })
	n := int(float64(len(remembered)) * percent / 100)
	if percent > 0 && n == 0 && len(remembered) > 0 {
		n = 1
	}
	for _, i := range remembered[:n] {
		s.verify[i] = true
		s.toRead += s.recs[i].Src.Size
	}
}

func (s *sealer) one(ctx context.Context, i int) error {
	rec := s.recs[i]
	sum, ok := s.known.get(rec.sumKey())
	st, err := s.data.stat(rec.Name)
	if err != nil {
		return s.gone(i, err)
	}
	if err := unchanged(rec, &st); err != nil {
		return err
	}
	if !ok || s.verify[i] {
		read, err := s.hash(ctx, i)
		if err != nil {
			return err
		}
		if ok && read != sum {
			return refusef("%s does not have the SHA-256 remembered for it (%s, now %s): either its bytes rotted on the disk or the sum is wrong. "+
				"Compare the file with another node's; to believe what is on the disk now, remove %s", rec.Name, sum, read, s.sums)
		}
		if ok {
			s.verified.Add(1)
		}
		if sum = read; !ok && settled(&st) {
			if err := s.known.put(rec.sumKey(), sum); err != nil {
				return fmt.Errorf("remember a sum: %w", err)
			}
		}
	}
	s.entries[i] = core.Entry{Name: rec.Name, Size: rec.Src.Size, Sums: map[string]string{"sha256": sum}}
	return nil
}

// gone says what it means that a file of the copy can't be reached.
func (s *sealer) gone(i int, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errIrregular) || errors.Is(err, unix.ENOTDIR) {
		return refusef("%s is not in the copy any more: take it again", s.recs[i].Name)
	}
	return fmt.Errorf("%s: %w", s.recs[i].Name, err)
}

// unchanged refuses a file of the copy that is not what Take left. The device is not compared: its number
// may be another one after the machine was started anew.
func unchanged(rec Record, st *unix.Stat_t) error {
	was, is := rec.own(), IdentOf(st)
	if was.Dev = is.Dev; was == is {
		return nil
	}
	if was.Size != is.Size {
		return refusef("%s had %d bytes when it was captured and has %d now: take the copy again", rec.Name, was.Size, is.Size)
	}
	return refusef("%s was rewritten since it was captured: take the copy again", rec.Name)
}

// settled tells whether a later change would show in the file's time: clocks of file systems tick.
func settled(st *unix.Stat_t) bool {
	return time.Since(time.Unix(0, st.Mtim.Nano())) > 20*time.Millisecond
}

const hashChunk = 1 << 20

var hashBuffers = sync.Pool{New: func() any { b := make([]byte, hashChunk); return &b }}

// hash reads a file of the copy, and leaves the page cache as it was.
func (s *sealer) hash(ctx context.Context, i int) (string, error) {
	rec := s.recs[i]
	fd, before, err := s.data.open(rec.Name)
	if err != nil {
		return "", s.gone(i, err)
	}
	f := os.NewFile(uintptr(fd), rec.Name)
	defer f.Close()
	cached := LookResident(f, 0, before.Size)
	h := sha256.New()
	buf := hashBuffers.Get().(*[]byte)
	defer hashBuffers.Put(buf)
	for {
		n, err := f.Read(*buf)
		if err := s.pace.wait(ctx, int64(n)); err != nil {
			return "", err
		}
		h.Write((*buf)[:n])
		s.read.Add(int64(n))
		s.count.add(int64(n))
		if err == io.EOF {
			break
		}
		if err != nil {
			return "", fmt.Errorf("read %s: %w", rec.Name, err)
		}
	}
	cached.GiveBack(f)
	var after unix.Stat_t
	if err := unix.Fstat(fd, &after); err != nil {
		return "", err
	}
	if err := unchanged(rec, &after); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
