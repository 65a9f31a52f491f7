package r2test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Torrent is what a .torrent file says.
type Torrent struct {
	InfoHash    string // lower-case hex
	Length      int64
	PieceLength int64
	Pieces      []byte // the SHA-1 sums of the pieces, one after another
}

// Consumer says how a published list and its objects are read.
type Consumer struct {
	List     string                                       // the list's key
	Parse    func(list []byte) (map[string]string, error) // infohashes by name; names are keys
	Torrent  func(body []byte) (Torrent, error)
	Replaced []string      // names whose objects are replaced meanwhile: what doesn't match an older list is no error, see Report.Window
	Rate     int           // names a second, beside the polling of the list; 0 is 200
	Every    time.Duration // how often the list is polled; 0 is 5 ms
}

// Report is what a Reader saw.
type Report struct {
	Lists    []Seen // each time that the list was another one than before
	Torrents int    // that were read
	Pieces   int
	Bad      []Mismatch
	Window   []Mismatch // of Replaced, by a list that still had the first hash: how long readers met new bytes under an old name
}

// Seen is a list at the time when it was first seen.
type Seen struct {
	Via   string // "cdn" or "origin"
	At    time.Time
	Names int
}

// Mismatch is something that a node would choke on.
type Mismatch struct {
	Key, What   string
	First, Last time.Time
	Times       int
}

func (m Mismatch) String() string {
	return fmt.Sprintf("%s: %s (%d times in %v)", m.Key, m.What, m.Times, m.Last.Sub(m.First).Round(time.Millisecond))
}

// Reader is a node that never stops reading. It polls the list through the CDN and at the origin, and for each list
// reads, in turns, the .torrent files and pieces of the data through the CDN.
type Reader struct {
	site     *Site
	consumer Consumer
	replaced map[string]bool
	stop     func() Report
	torrents map[string]Torrent // parsed, by content

	mu     sync.Mutex
	lists  map[string]list // by via
	first  map[string]string
	report Report
	bad    map[string]*Mismatch
	window map[string]*Mismatch
}

type list struct {
	body   []byte
	hashes map[string]string
	names  []string
	next   int // in names
}

// Reader starts one; it ends with the test if not with Stop.
func (s *Site) Reader(t testing.TB, c Consumer) *Reader {
	t.Helper()
	r := &Reader{
		site: s, consumer: c, replaced: map[string]bool{}, torrents: map[string]Torrent{}, lists: map[string]list{},
		bad: map[string]*Mismatch{}, window: map[string]*Mismatch{},
	}
	if r.consumer.Rate == 0 {
		r.consumer.Rate = 200
	}
	if r.consumer.Every == 0 {
		r.consumer.Every = 5 * time.Millisecond
	}
	for _, name := range c.Replaced {
		r.replaced[name], r.replaced[name+".torrent"] = true, true
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { r.every(ctx, r.consumer.Every, r.poll) })
	all.Go(func() { r.every(ctx, time.Second/time.Duration(r.consumer.Rate), r.one) })
	end := sync.OnceFunc(func() {
		cancel()
		all.Wait()
	})
	t.Cleanup(end)
	r.stop = sync.OnceValue(func() Report {
		end()
		return r.last(context.Background())
	})
	return r
}

// Stop ends it, reads everything that is listed once more, and tells. A second call tells the same.
func (r *Reader) Stop() Report { return r.stop() }

func (r *Reader) every(ctx context.Context, d time.Duration, do func(context.Context)) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			do(ctx)
		}
	}
}

// poll reads the list on both ways.
func (r *Reader) poll(ctx context.Context) {
	got, err := r.site.Read(ctx, r.consumer.List, 0, 0)
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		r.mismatch(r.bad, r.consumer.List, fmt.Sprintf("through the CDN: %v", err))
	default:
		r.saw("cdn", got.Body, got.Status == http.StatusOK)
	}
	body, ok := r.site.Object(r.consumer.List)
	r.saw("origin", body, ok)
}

// saw takes a list. One that was there once may not go away, nor be something else than a list.
func (r *Reader) saw(via string, body []byte, ok bool) {
	r.mu.Lock()
	was, known := r.lists[via]
	r.mu.Unlock()
	if !ok && !known || known && ok && bytes.Equal(was.body, body) {
		return
	}
	if !ok {
		r.mismatch(r.bad, r.consumer.List, "gone, by the "+via)
		return
	}
	hashes, err := r.consumer.Parse(body)
	if err != nil || len(hashes) == 0 {
		r.mismatch(r.bad, r.consumer.List, fmt.Sprintf("by the %s no list: %d names, %v", via, len(hashes), err))
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	names := slices.Sorted(maps.Keys(hashes))
	r.lists[via] = list{body: body, hashes: hashes, names: names, next: rand.IntN(len(names))}
	if r.first == nil {
		r.first = hashes
	}
	r.report.Lists = append(r.report.Lists, Seen{Via: via, At: time.Now(), Names: len(names)})
}

// one reads the next name of each list.
func (r *Reader) one(ctx context.Context) {
	for _, via := range []string{"cdn", "origin"} {
		r.mu.Lock()
		l, ok := r.lists[via]
		if !ok || via == "origin" && bytes.Equal(l.body, r.lists["cdn"].body) {
			r.mu.Unlock()
			continue
		}
		name := l.names[l.next%len(l.names)]
		l.next++
		r.lists[via] = l
		r.mu.Unlock()
		r.name(ctx, name, l.hashes[name], false)
	}
}

// name reads what is listed under a name.
func (r *Reader) name(ctx context.Context, name, hash string, last bool) {
	key, what := r.look(ctx, name, hash)
	if what == "" || ctx.Err() != nil {
		return
	}
	r.mu.Lock()
	old := !last && r.replaced[name] && r.first[name] == hash
	r.mu.Unlock()
	if old {
		r.mismatch(r.window, key, what)
	} else {
		r.mismatch(r.bad, key, what)
	}
}

// look returns what is wrong with which key, or "".
func (r *Reader) look(ctx context.Context, name, hash string) (key, what string) {
	key = name + ".torrent"
	got, err := r.site.Read(ctx, key, 0, 0)
	if err != nil || got.Status != http.StatusOK {
		return key, fmt.Sprintf("status %d, %v", got.Status, err)
	}
	r.count(&r.report.Torrents)
	torrent, err := r.parse(got.Body)
	if err != nil {
		return key, "no torrent: " + err.Error()
	}
	if torrent.InfoHash != hash {
		return key, fmt.Sprintf("its infohash is %s, and %s is listed", torrent.InfoHash, hash)
	}
	if torrent.Length == 0 || torrent.PieceLength <= 0 || len(torrent.Pieces) < sha1.Size {
		return "", ""
	}
	piece := rand.Int64N(int64(len(torrent.Pieces) / sha1.Size))
	from := piece * torrent.PieceLength
	got, err = r.site.Read(ctx, name, from, min(from+torrent.PieceLength, torrent.Length))
	if err != nil || got.Status != http.StatusPartialContent { // to a node nothing else is an answer
		return name, fmt.Sprintf("a range: status %d, %v", got.Status, err)
	}
	r.count(&r.report.Pieces)
	if got.Total != torrent.Length {
		return name, fmt.Sprintf("%d bytes, and its torrent says %d", got.Total, torrent.Length)
	}
	sum := sha1.Sum(got.Body)
	if !bytes.Equal(sum[:], torrent.Pieces[piece*sha1.Size:(piece+1)*sha1.Size]) {
		return name, "a piece is not what its torrent says"
	}
	return "", ""
}

func (r *Reader) parse(body []byte) (Torrent, error) {
	r.mu.Lock()
	torrent, ok := r.torrents[string(body)]
	r.mu.Unlock()
	if ok {
		return torrent, nil
	}
	torrent, err := r.consumer.Torrent(body)
	if err == nil {
		r.mu.Lock()
		r.torrents[string(body)] = torrent
		r.mu.Unlock()
	}
	return torrent, err
}

func (r *Reader) count(n *int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*n++
}

func (r *Reader) mismatch(in map[string]*Mismatch, key, what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := in[key+" "+what]
	if m == nil {
		m = &Mismatch{Key: key, What: what, First: time.Now()}
		in[key+" "+what] = m
	}
	m.Last, m.Times = time.Now(), m.Times+1
}

// last reads every name of the lists as they are now. Both ways must show the same one.
func (r *Reader) last(ctx context.Context) Report {
	r.poll(ctx)
	cdn, origin := r.lists["cdn"], r.lists["origin"]
	if !bytes.Equal(cdn.body, origin.body) {
		r.mismatch(r.bad, r.consumer.List, "the CDN has another one than the origin")
	}
	for _, l := range []list{cdn, origin} {
		for _, name := range l.names {
			r.name(ctx, name, l.hashes[name], true)
		}
		if bytes.Equal(cdn.body, origin.body) {
			break
		}
	}
	r.report.Bad, r.report.Window = sorted(r.bad), sorted(r.window)
	return r.report
}

func sorted(in map[string]*Mismatch) []Mismatch {
	var all []Mismatch
	for _, m := range in {
		all = append(all, *m)
	}
	slices.SortFunc(all, func(x, y Mismatch) int { return strings.Compare(x.Key+" "+x.What, y.Key+" "+y.What) })
	return all
}
