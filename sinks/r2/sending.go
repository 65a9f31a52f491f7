package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/snapfw/snapfw/core"
)

// Uploads in parts that nobody finished are aborted after this long; R2 does so itself by default:
// https://developers.cloudflare.com/r2/objects/multipart-objects/
const staleAfter = 7 * 24 * time.Hour

// sending brings files to a bucket.
type sending struct {
	upload
	root     *os.Root
	bucket   *bucket
	pace     *pace // of what is sent
	reads    *pace // of what is only compared
	progress *progress
	files    []*file
	keys     map[string]*file
	begun    map[string][]unfinished // by key, found at the start

	mu    sync.Mutex
	etags map[string]string // by key, of what was sent
	sent  core.Sent
}

// file is one line of the list.
type file struct {
	core.Upload
	key   string // where it goes: parked, if it replaces what is published
	there bool   // the storage holds it already
}

func (s *sending) add(u core.Upload) error {
	f := &file{Upload: u, key: join(s.prefix, u.Name)}
	if u.Replace {
		if s.stage == "" {
			return fmt.Errorf("%s replaces what is published, and there is no --stage to park it under", u.Name)
		}
		f.key = join(s.stage, f.key)
	}
	if err := checkKey(join(s.access.base, f.key)); err != nil {
		return err
	}
	if u.Size > s.bucket.limits.object {
		return fmt.Errorf("%s: %d bytes are more than an object may have", u.Name, u.Size)
	}
	s.files = append(s.files, f)
	s.keys[f.key] = f
	s.progress.total += u.Size
	return nil
}

// checkSources wants each file to be there with its size, before anything is sent.
func (s *sending) checkSources() error {
	var bad []string
	for _, f := range s.files {
		info, err := s.root.Lstat(f.Name)
		switch {
		case err != nil:
			bad = append(bad, fmt.Sprintf("%s: %v", f.Name, err))
		case !info.Mode().IsRegular():
			bad = append(bad, f.Name+": not a regular file")
		case info.Size() != f.Size:
			bad = append(bad, fmt.Sprintf("%s: %d bytes instead of %d", f.Name, info.Size(), f.Size))
		}
	}
	if len(bad) > 0 {
		return fmt.Errorf("the copy in %s is not what the list says: %s", s.dir, few(bad))
	}
	return nil
}

// run looks first, sends data, then the .torrent files that tell of it (a node that finds a .torrent asks for the
// data at once, and caches keep a 404), and looks again.
func (s *sending) run(ctx context.Context) error {
	stop := s.progress.start()
	defer stop()
	if err := s.look(ctx); err != nil {
		return err
	}
	var data, torrents []*file
	for _, f := range s.files {
		switch {
		case f.there:
		case strings.HasSuffix(f.Name, ".torrent"):
			torrents = append(torrents, f)
		default:
			data = append(data, f)
		}
	}
	for _, files := range [][]*file{data, torrents} {
		// The largest first: at the end no long one runs alone.
		slices.SortStableFunc(files, func(x, y *file) int { return int(max(-1, min(1, y.Size-x.Size))) })
		if err := each(ctx, s.transfers, files, s.bring); err != nil {
			return err
		}
	}
	if err := s.verify(ctx); err != nil {
		return err
	}
	stop()
	return json.NewEncoder(s.stdout).Encode(s.sent)
}

// look finds out what is there. A published key with other content is refused before anything is sent: only
// a file that is listed as a replacement may differ, and that one is parked.
func (s *sending) look(ctx context.Context) error {
	var found []*file
	var mu sync.Mutex
	var taken []string
	stored := map[string]core.Object{}
	for _, prefix := range s.places() {
		for o, err := range s.bucket.list(ctx, prefix) {
			if err != nil {
				return err
			}
			if f := s.keys[o.Key]; f != nil {
				stored[o.Key] = o
				found = append(found, f)
			}
		}
	}
	err := each(ctx, 16, found, func(ctx context.Context, f *file) error {
		same, err := s.same(ctx, f, stored[f.key])
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err != nil:
			return err
		case same:
			f.there = true
			s.progress.add(f.Size)
		case !f.Replace:
			taken = append(taken, f.key)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(taken) > 0 {
		slices.Sort(taken)
		return refusal{fmt.Errorf("published with other content, and not listed as a replacement: %s", few(taken))}
	}
	return s.findBegun(ctx)
}

// places are the prefixes that the keys begin with.
func (s *sending) places() []string {
	places := map[string]bool{}
	for _, f := range s.files {
		place := s.prefix
		if f.Replace {
			place = join(s.stage, s.prefix)
		}
		if place != "" {
			place += "/"
		}
		places[place] = true
	}
	if places[""] { // the whole bucket holds the others
		return []string{""}
	}
	return slices.Sorted(maps.Keys(places))
}

// findBegun finds what earlier runs left half done, and aborts what is of no use any more.
func (s *sending) findBegun(ctx context.Context) error {
	s.begun = map[string][]unfinished{}
	var stale []unfinished
	for _, prefix := range s.places() {
		begun, err := s.bucket.unfinished(ctx, prefix)
		if err != nil {
			return err
		}
		for key, list := range begun {
			f := s.keys[key]
			if f != nil && !f.there && f.Size > s.partSize(f) {
				s.begun[key] = list
				continue
			}
			for _, u := range list {
				if f != nil || time.Since(u.since) > staleAfter {
					stale = append(stale, u)
				}
			}
		}
	}
	return each(ctx, 8, stale, s.bucket.abort)
}

func (s *sending) partSize(f *file) int64 { return s.bucket.limits.partSize(f.Size, s.partMiB*mib) }

// verify lists once more: everything is there, with its size and, where it was sent, with the ETag
// that its bytes have.
func (s *sending) verify(ctx context.Context) error {
	missing := maps.Clone(s.keys)
	var wrong []string
	for _, prefix := range s.places() {
		for o, err := range s.bucket.list(ctx, prefix) {
			if err != nil {
				return err
			}
			f := s.keys[o.Key]
			if f == nil {
				continue
			}
			delete(missing, o.Key)
			if o.Size != f.Size {
				wrong = append(wrong, fmt.Sprintf("%s has %d bytes instead of %d", o.Key, o.Size, f.Size))
			} else if e := s.etags[o.Key]; e != "" && o.ETag != "" && !sameETag(e, o.ETag) {
				wrong = append(wrong, o.Key+" has another ETag than what was sent")
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(missing)) {
		wrong = append(wrong, key+" is missing")
	}
	if len(wrong) > 0 {
		return fmt.Errorf("the storage does not hold what was sent: %s; run it again to carry on", few(wrong))
	}
	return nil
}

// progress prints core.Progress lines, two a second at most.
type progress struct {
	mu          sync.Mutex
	out         *json.Encoder
	done, total int64
}

func newProgress(w io.Writer) *progress { return &progress{out: json.NewEncoder(w)} }

func (p *progress) add(n int64) {
	p.mu.Lock()
	p.done += n
	p.mu.Unlock()
}

// start prints until the returned function is called; calling that twice is fine.
func (p *progress) start() func() {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(time.Second / 2)
		defer tick.Stop()
		last := int64(-1)
		for over := false; !over; {
			select {
			case <-end:
				over = true
			case <-tick.C:
			}
			p.mu.Lock()
			done := p.done
			p.mu.Unlock()
			if done != last {
				// Who reads it may be gone; the upload goes on.
				_ = p.out.Encode(core.Progress{Done: done, Total: p.total})
				last = done
			}
		}
	}()
	return sync.OnceFunc(func() {
		close(end)
		<-ended
	})
}
