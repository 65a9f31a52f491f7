package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/capture"
)

// torrentOptions say how to make torrents.
type torrentOptions struct {
	snapshots string  // the snapshots folder, or a view of it
	sumsFile  string  // remembers piece sums
	verify    float64 // percent of what is remembered that is read and compared; 0 to 100
	workers   int     // at least 1
	rate      int64   // bytes read a second; 0 is no limit
	dry       bool    // say what would be done
	clean     bool    // remove orphans and leftovers
	store     string  // where the torrents of a view are kept; "" where snapshots is no view
	entryFile string  // where to write the core.Entry lines; "" is nowhere

	news     func(torrentNews)       // one call at a time; not of what is as it should be
	progress func(done, total int64) // of the bytes to read; may be nil
}

// torrentSummary is what a run did, or in a dry run would do.
type torrentSummary struct {
	Files    int   `json:"files"` // with a good torrent at the end
	Bytes    int64 `json:"bytes"`
	Read     int64 `json:"read"`     // bytes read; in a dry run, to be read
	Made     int   `json:"made"`     // torrents where there was none
	Remade   int   `json:"remade"`   // where there was a stale one
	Verified int   `json:"verified"` // files of which remembered sums were compared with bytes
	Removed  int   `json:"removed"`  // orphans and leftovers
	Refused  int   `json:"refused"`  // files that can't be published as they are
	Failed   int   `json:"failed"`   // files that could not be read or changed meanwhile
}

// torrentError ends a run of which some files could not be published; the others have their torrents.
type torrentError struct{ torrentSummary }

func (e *torrentError) Error() string {
	var parts []string
	if e.Refused > 0 {
		parts = append(parts, fmt.Sprintf("%d files can't be published as they are", e.Refused))
	}
	if e.Failed > 0 {
		parts = append(parts, fmt.Sprintf("%d files could not be hashed", e.Failed))
	}
	return strings.Join(parts, ", ") + ": each is named above; put them right and run this again, which reads only what is missing"
}

// torrenting is a run.
type torrenting struct {
	torrentOptions
	list snapshotList
	sums *pieceSums

	kept *folders // where the torrents are
	good []right  // by data file: its torrent, once that is known to be right

	mu      sync.Mutex // guards what follows, and calls of news
	out     torrentSummary
	written map[string]bool // folders in which names changed
}

// right is a torrent that holds the sums of its data; the zero value is none.
type right struct {
	rightTorrent
	read bool // it was read in this run, and not remembered
}

// makeTorrents gives each file that consumers download a .torrent that is right: it trusts none that it
// does not know to be of these bytes, and reads no bytes whose sums it knows. It may be run twice, and
// carries on where it was when it was killed. Entries are written last, and only if all went well.
//
// Errors: torrentError; errChanging if the set of files is another one at the end; errSumsBusy.
func makeTorrents(ctx context.Context, o torrentOptions) (torrentSummary, error) {
	t := &torrenting{torrentOptions: o, written: map[string]bool{}}
	if o.entryFile != "" && !o.dry {
		// Nobody may take those of an earlier run for ours.
		if err := os.Remove(o.entryFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return t.out, fmt.Errorf("remove the entries of the last run: %w", err)
		}
	}
	open := openPieceSums
	if o.dry {
		open = peekPieceSums
	}
	var err error
	if t.sums, err = open(o.sumsFile, time.Now()); err != nil {
		return t.out, err
	}
	defer t.sums.close()
	if t.list, err = listSnapshots(o.snapshots); err != nil {
		return t.out, err
	}
	for _, n := range t.list.unfit {
		t.say(n)
	}
	if err := t.openStore(); err != nil {
		return t.out, err
	}
	defer t.kept.close()
	t.good = make([]right, len(t.list.data))
	t.strays()
	looks, err := t.lookAtAll(ctx)
	if err != nil {
		return t.out, err
	}
	jobs := t.plan(looks)
	if o.dry {
		return t.out, t.verdict()
	}
	if err := t.hash(ctx, jobs); err != nil {
		return t.out, err
	}
	return t.out, t.finish()
}

// verdict is an error if a file was refused or failed.
func (t *torrenting) verdict() error {
	if t.out.Refused > 0 || t.out.Failed > 0 {
		return &torrentError{t.out}
	}
	return nil
}

// say counts and tells what was done about a file.
func (t *torrenting) say(n torrentNews) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch n.Did {
	case "made":
		t.out.Made++
	case "remade":
		t.out.Remade++
	case "removed":
		t.out.Removed++
	case "refused":
		t.out.Refused++
	case "failed":
		t.out.Failed++
	}
	if t.dry && n.Did != "refused" && n.Did != "found" && n.Did != "failed" {
		n.Did = "to be " + n.Did
	}
	if t.news != nil {
		t.news(n)
	}
}

// strays reports .torrent files without data, and removes them where that is wanted. A torrent_hashes of
// Erigon's would list each of them; our list is made from data files.
func (t *torrenting) strays() {
	for _, name := range t.list.waiting {
		t.say(torrentNews{Name: name, Did: "refused", Why: "its data is a .part: the downloader moved it aside or never finished it. " +
			"Run the node with --no-downloader, and see whether the data or its torrent is to go"})
	}
	for _, kind := range []struct {
		names []string
		why   string
	}{
		{t.list.orphans, "it is of no data file that is published"},
		{t.list.leftovers, "it was never finished"},
	} {
		for _, name := range kind.names {
			n := torrentNews{Name: name, Did: "found", Why: kind.why + ": --clean removes it"}
			if t.clean {
				n.Did, n.Why = "removed", kind.why
				if !t.dry {
					if err := os.Remove(t.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
						n.Did, n.Why = "failed", err.Error()
					}
					t.wrote(t.path(name))
				}
			}
			t.say(n)
		}
	}
}

func (t *torrenting) path(name string) string {
	return filepath.Join(t.snapshots, filepath.FromSlash(name))
}

// wrote remembers that a folder's entries changed.
func (t *torrenting) wrote(file string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.written[filepath.Dir(file)] = true
}

// torrentLook is what is known of a data file before any of its bytes is read.
type torrentLook struct {
	known   []bool // by piece: remembered; nil if none is, or all are
	whole   bool   // all are
	good    bool   // there is a torrent, and it is of the remembered sums
	suspect bool   // bytes differed from the sums once
}

// lookAtAll looks at the torrents and the remembered sums of all files.
func (t *torrenting) lookAtAll(ctx context.Context) ([]torrentLook, error) {
	looks := make([]torrentLook, len(t.list.data))
	errs := make([]error, t.workers)
	var wg sync.WaitGroup
	for w := range t.workers {
		wg.Go(func() {
			for i := w; i < len(looks) && ctx.Err() == nil && errs[w] == nil; i += t.workers {
				looks[i], errs[w] = t.look(i)
			}
		})
	}
	wg.Wait()
	return looks, errors.Join(append(errs, context.Cause(ctx))...)
}

func (t *torrenting) look(i int) (torrentLook, error) {
	f := t.list.data[i]
	if r, doubt := t.sums.right(f.ident); r != nil && r.name == f.name && t.unchanged(f, r) {
		t.enter(i, right{rightTorrent: *r})
		return torrentLook{whole: true, good: true, suspect: doubt}, nil
	}
	pieces, known, whole, err := t.sums.get(f.ident)
	if err != nil || !whole {
		return torrentLook{known: known}, err
	}
	tf, err := readTorrent(t.torrent(f.name), f.name, f.ident.Size, t.changed(f.ident))
	good := err == nil && bytes.Equal(tf.Pieces, pieces)
	if good {
		t.enter(i, right{rightTorrent{f.name, tf.Infohash(), tf.file}, true})
	}
	return torrentLook{whole: true, good: good, suspect: t.sums.suspected(f.ident)}, nil
}

// unchanged tells whether a torrent that was right once is still the same file, by the rule that data is trusted by.
func (t *torrenting) unchanged(f dataFile, r *rightTorrent) bool {
	is, err := t.kept.ident(f.name + torrentExt)
	return err == nil && is == r.file && !older(is, t.changed(f.ident))
}

// enter counts a file with a good torrent among what is published.
func (t *torrenting) enter(i int, r right) {
	t.good[i] = r // nobody else looks at this one now
	t.mu.Lock()
	defer t.mu.Unlock()
	t.out.Files++
	t.out.Bytes += t.list.data[i].ident.Size
}

// plan says what is to be read: what is not remembered, and a share of what is.
func (t *torrenting) plan(looks []torrentLook) []*hashJob {
	var jobs []*hashJob
	sampled := t.sample(looks)
	for i, f := range t.list.data {
		k := looks[i]
		units := unitsOf(f.ident.Size, func(piece int) bool {
			return !k.whole && (k.known == nil || !k.known[piece]) || k.suspect || sampled[sampledUnit{i, piece / unitPieces}]
		})
		if len(units) == 0 && k.good {
			continue
		}
		j := &hashJob{at: i, name: f.name, file: t.path(f.name), ident: f.ident, units: units}
		for _, u := range units {
			_, n := j.span(u)
			t.out.Read += n
		}
		if t.dry {
			t.foresee(f, k)
		} else if k.good {
			t.leave(i) // until its bytes were compared
		}
		if k.whole && len(units) > 0 {
			t.out.Verified++
		}
		jobs = append(jobs, j)
	}
	return jobs
}

func (t *torrenting) leave(i int) {
	t.out.Files--
	t.out.Bytes -= t.list.data[i].ident.Size
	t.good[i] = right{}
}

// foresee says what would become of a file's torrent as far as that can be known without reading.
func (t *torrenting) foresee(f dataFile, k torrentLook) {
	if k.good {
		return
	}
	tf, err := readTorrent(t.torrent(f.name), f.name, f.ident.Size, t.changed(f.ident))
	n := torrentNews{Name: f.name, Did: "remade", Was: hashOrNone(tf)}
	switch {
	case errors.Is(err, errNoTorrent):
		n.Did = "made"
	case err != nil:
		n.Why = err.Error()
	case k.whole:
		n.Why = errOtherPieces.Error()
	default:
		n.Did, n.Why = "compared", "nobody knows yet whether it is of these bytes"
	}
	t.say(n)
}

type sampledUnit struct{ file, unit int }

// sample picks that share of the units of files that are remembered as a whole.
func (t *torrenting) sample(looks []torrentLook) map[sampledUnit]bool {
	if t.verify <= 0 {
		return nil
	}
	var all []sampledUnit
	for i, k := range looks {
		if k.whole {
			for u := range (pieceCount(t.list.data[i].ident.Size) + unitPieces - 1) / unitPieces {
				all = append(all, sampledUnit{i, u})
			}
		}
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	picked := map[sampledUnit]bool{}
	for _, u := range all[:int(math.Ceil(float64(len(all))*min(t.verify, 100)/100))] {
		picked[u] = true
	}
	return picked
}

// hash reads what is to be read and writes the torrents.
func (t *torrenting) hash(ctx context.Context, jobs []*hashJob) error {
	h := &hashing{jobs: jobs, sums: t.sums, workers: t.workers, rate: t.rate, tell: t.progress, done: t.settle}
	h.failed = func(j *hashJob, err error) {
		if errors.Is(err, fs.ErrNotExist) && t.entryFile == "" {
			return // merged away by a node at work; finish says so
		}
		did := "failed"
		if errors.Is(err, errDamaged) {
			did = "refused"
		}
		t.say(torrentNews{Name: j.name, Did: did, Why: err.Error()})
	}
	err := h.run(ctx)
	t.out.Read = h.read.Load()
	return err
}

var errOtherPieces = errors.New("its piece sums are not those of the data")

// settle leaves a file with a torrent of these pieces.
func (t *torrenting) settle(j *hashJob, pieces []byte) error {
	file := t.torrent(j.name)
	n := torrentNews{Name: j.name, Did: "remade", Infohash: infohashOf(j.name, j.ident.Size, pieces)}
	was, err := readTorrent(file, j.name, j.ident.Size, t.changed(j.ident))
	if err == nil && !bytes.Equal(was.Pieces, pieces) {
		err = errOtherPieces
	}
	if err != nil {
		if n.Was, n.Why = hashOrNone(was), err.Error(); errors.Is(err, errNoTorrent) {
			n.Did, n.Why = "made", ""
		}
		sync := (*os.File).Sync
		if t.store != "" {
			sync = func(*os.File) error { return nil } // linkStore does, before the entries name it
		}
		if err := putTorrent(file, j.name, j.ident.Size, pieces, sync); err != nil {
			return fmt.Errorf("write its torrent: %w", err)
		}
		if was.file, err = identOf(file); err != nil {
			return err
		}
		t.wrote(file)
		t.say(n)
	}
	t.sums.clear(j.ident)
	t.enter(j.at, right{rightTorrent{j.name, n.Infohash, was.file}, true})
	return nil
}

func hashOrNone(t torrentFile) string {
	if t.info == nil {
		return ""
	}
	return t.Infohash()
}

// finish makes all of it durable, and sees that what was hashed is still what lies there.
func (t *torrenting) finish() error {
	if err := t.learn(); err != nil {
		return err
	}
	if err := t.linkStore(); err != nil {
		return err
	}
	for dir := range t.written {
		if err := syncFolder(dir); err != nil {
			return fmt.Errorf("sync %s: %w", dir, err)
		}
	}
	if err := t.sums.compact(); err != nil {
		return err
	}
	if err := t.verdict(); err != nil {
		return err
	}
	now, err := listSnapshots(t.snapshots)
	if err != nil {
		return err
	}
	name := t.list.differs(now)
	if name != "" && t.entryFile == "" {
		// A node at work on them: what it builds and merges meanwhile is for the next time.
		t.say(torrentNews{Name: name, Did: "found", Why: "it came, went or changed meanwhile: run this again for what is new"})
	} else if name != "" {
		// Files that are merged while they are published have made a bad release before.
		return fmt.Errorf("%s came, went or changed meanwhile: stop what works on these files and run this again", name)
	}
	if t.entryFile == "" {
		return nil
	}
	return t.writeEntries()
}

func (t *torrenting) writeEntries() error {
	file := t.entryFile
	err := writeWhole(file, 0o644, func(w io.Writer) error {
		buf := bufio.NewWriterSize(w, 1<<16)
		for i, f := range t.list.data {
			if err := writeEntry(buf, f.name, f.ident.Size, t.good[i].infohash); err != nil {
				return err
			}
		}
		// Each torrent is an object too. Its bytes hold the date when it was made, so its infohash is its sum.
		for i, f := range t.list.data {
			if err := writeEntry(buf, f.name+torrentExt, t.good[i].file.Size, t.good[i].infohash); err != nil {
				return err
			}
		}
		return buf.Flush()
	})
	if err == nil {
		err = syncFolder(filepath.Dir(file))
	}
	if err != nil {
		return fmt.Errorf("write the entries: %w", err)
	}
	return nil
}

// writeEntry writes a core.Entry. Nearly all names are their own JSON, which spares tens of thousands of calls of encoding/json.
func writeEntry(buf *bufio.Writer, name string, size int64, hash string) error {
	if !capture.Plain(name) {
		enc := json.NewEncoder(buf)
		enc.SetEscapeHTML(false)
		return enc.Encode(core.Entry{Name: name, Size: size, Sums: map[string]string{infohash: hash}})
	}
	b := append(append(buf.AvailableBuffer(), `{"name":"`...), name...)
	b = strconv.AppendInt(append(b, `","size":`...), size, 10)
	b = append(append(b, `,"sums":{"infohash":"`...), hash...)
	_, err := buf.Write(append(b, "\"}}\n"...))
	return err
}
