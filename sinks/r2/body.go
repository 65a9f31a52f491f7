package main

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"sync"
	"time"
)

// pace spreads out what is taken from it. The zero rate is no limit.
type pace struct {
	mu   sync.Mutex
	rate float64 // a second
	next time.Time
}

func newPace(rate float64) *pace { return &pace{rate: rate} }

// wait returns when n more may be used. Up to a quarter of a second's worth is given at once after a rest.
func (p *pace) wait(ctx context.Context, n int) error {
	if p == nil || p.rate <= 0 || n <= 0 {
		return nil
	}
	p.mu.Lock()
	now := time.Now()
	if earliest := now.Add(-time.Second / 4); p.next.Before(earliest) {
		p.next = earliest
	}
	p.next = p.next.Add(time.Duration(float64(n) / p.rate * float64(time.Second)))
	rest := p.next.Sub(now)
	p.mu.Unlock()
	if rest <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(rest)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// body is a part of a file on its way. It can be read again after a failure.
type body struct {
	*io.SectionReader
	ctx  context.Context
	pace *pace
}

func (b body) Read(p []byte) (int, error) {
	n, err := b.SectionReader.Read(p[:min(len(p), 256<<10)])
	if wait := b.pace.wait(b.ctx, n); wait != nil {
		return n, wait
	}
	return n, err
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}

// sums are a part's: the MD5 is what R2 gives as its ETag, the SHA-256 goes into the signature.
type sums struct {
	md5    [md5.Size]byte
	sha256 [sha256.Size]byte
}

func (s sums) etag() string { return hex.EncodeToString(s.md5[:]) }
func (s sums) sha() string  { return hex.EncodeToString(s.sha256[:]) }

// sum reads a part. A file that is shorter than it was is an error.
func sum(ctx context.Context, r io.ReaderAt, from, size int64) (sums, error) {
	m, h := md5.New(), sha256.New()
	if err := feed(ctx, io.MultiWriter(m, h), r, from, size); err != nil {
		return sums{}, err
	}
	var s sums
	m.Sum(s.md5[:0])
	h.Sum(s.sha256[:0])
	return s, nil
}

// sumMD5 is for comparing with what the storage has.
func sumMD5(ctx context.Context, reads *pace, r io.ReaderAt, from, size int64) (s [md5.Size]byte, err error) {
	m := md5.New()
	err = feed(ctx, io.MultiWriter(m, paced{ctx, reads}), r, from, size)
	m.Sum(s[:0])
	return s, err
}

// paced is written to by what must not read faster.
type paced struct {
	ctx context.Context
	*pace
}

func (p paced) Write(b []byte) (int, error) { return len(b), p.wait(p.ctx, len(b)) }

func feed(ctx context.Context, w io.Writer, r io.ReaderAt, from, size int64) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for done := int64(0); done < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := r.ReadAt((*buf)[:min(int64(len(*buf)), size-done)], from+done)
		if n == 0 && err != nil {
			return fmt.Errorf("read at %d: %w", from+done, err)
		}
		if _, err := w.Write((*buf)[:n]); err != nil {
			return err
		}
		done += int64(n)
	}
	return nil
}
