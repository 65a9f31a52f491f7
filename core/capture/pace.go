package capture

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Progress is told how far a long act is: bytes, or files where no bytes are read. It is called
// from one goroutine at a time, five times a second at most, and once at the end.
type Progress func(done, total int64)

// meter counts towards a total and reports it.
type meter struct {
	report Progress
	total  int64
	done   atomic.Int64
	next   atomic.Int64 // ns; when to report again
	mu     sync.Mutex
}

func newMeter(report Progress, total int64) *meter {
	return &meter{report: report, total: total}
}

func (m *meter) add(n int64) {
	m.done.Add(n)
	if m.report == nil {
		return
	}
	now, next := time.Now().UnixNano(), m.next.Load()
	if now < next || !m.next.CompareAndSwap(next, now+int64(200*time.Millisecond)) {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.report(m.done.Load(), m.total)
}

func (m *meter) end() {
	if m.report == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.report(m.done.Load(), m.total)
}

// pacer lets a number of bytes through a second. A nil one lets everything through.
type pacer struct {
	rate int64
	mu   sync.Mutex
	free time.Time // when what was let through so far is paid for
}

func newPacer(rate int64) *pacer {
	if rate <= 0 {
		return nil
	}
	return &pacer{rate: rate}
}

// wait returns when n more bytes may be read.
func (p *pacer) wait(ctx context.Context, n int64) error {
	if p == nil {
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
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// parallel runs do for 0 … n-1 on some workers, and returns the first error.
func parallel(ctx context.Context, workers, n int, do func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range max(1, min(workers, n)) {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := do(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}
