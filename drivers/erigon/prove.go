package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/snapfw/snapfw/core"
)

const (
	frontURLEnv  = "SNAPFW_FRONT_URL"
	proveWorkers = 8
	proveTold    = 20 // failures that are printed; the others are counted
)

// proveVerb is "@self prove": it reads back, through the address that consumers use, what was changed. It exits
// with 0 if all of it is right, 2 for wrong arguments, 1 if something is not once --wait is over.
func proveVerb(ctx context.Context, args []string) int {
	return exitCode(runProve(ctx, args, os.Getenv, os.Stdout, os.Stderr), os.Stderr)
}

func runProve(ctx context.Context, args []string, env func(string) string, stdout, stderr io.Writer) error {
	f := flag.NewFlagSet("prove", flag.ContinueOnError)
	list := f.String("list", "", "what was changed: JSON lines with name, size and sums.infohash")
	sample := f.Int("sample", 3, "pieces to read of each file; the first and the last always are")
	wait := f.Duration("wait", 2*time.Minute, "how long a cache may take to forget what was")
	seed := f.Uint64("seed", 0, "which pieces; 0 is a random one, and it is printed")
	if err := parseWords(f, args, nil, stderr); err != nil {
		return err
	}
	if *list == "" || *sample < 0 {
		fmt.Fprintln(stderr, "prove needs --list FILE")
		return errUsage
	}
	entries, err := readProofs(*list)
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		fmt.Fprintln(stdout, "nothing was changed, so there is nothing to prove")
		return nil
	}
	at, err := newFront(env(frontURLEnv), env(frontHeaderEnv))
	if err != nil {
		return fmt.Errorf("%s: %w", frontURLEnv, err)
	}
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	fmt.Fprintf(stderr, "reading %d files back from %s; seed %d\n", len(entries), at.base.Host, *seed) // standard error is shown at once
	p := &proving{front: at, sample: *sample, wait: *wait, seed: *seed, total: len(entries), stdout: stdout, stderr: stderr}
	for _, e := range entries {
		p.toRead += sampledBytes(e, *sample, *seed)
	}
	if err := p.reach(ctx, entries[0]); err != nil {
		return err
	}
	return p.run(ctx, entries)
}

// readProofs reads what is to be proved. Torrents are proved with their data, so they are left out.
func readProofs(file string) ([]core.Entry, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read what was changed: %w", err)
	}
	defer f.Close()
	var entries []core.Entry
	sc := bufio.NewScanner(f)
	for n := 1; sc.Scan(); n++ {
		if len(bytes.TrimSpace(sc.Bytes())) == 0 {
			continue
		}
		var e core.Entry
		if err := json.Unmarshal(sc.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("what was changed, line %d: %w", n, err)
		}
		if _, _, ok := torrentOf(e.Name); ok {
			continue
		}
		if !safeName(e.Name) || e.Size <= 0 || !isInfohash(e.Sums[infohash]) {
			return nil, fmt.Errorf("what was changed, line %d: it is no file with a size and an infohash", n)
		}
		entries = append(entries, e)
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("read what was changed: %w", err)
	}
	return entries, nil
}

// proving reads files back, several at once.
type proving struct {
	front  *front
	sample int
	wait   time.Duration
	seed   uint64
	total  int
	stdout io.Writer
	stderr io.Writer

	toRead int64 // bytes of all samples

	mu     sync.Mutex // guards what follows, and what is written
	done   int
	passed int64 // bytes of the samples of files that are done
	failed int
	silent int // of these, those that nothing answered for
	bytes  int64
	told   time.Time
}

// reachTime is how long an address may be away at the start: names and certificates of a new one take a moment.
const reachTime = 30 * time.Second

// reach sees that something answers at the address, whatever it says: where nothing does, each file would be waited for.
func (p *proving) reach(ctx context.Context, e core.Entry) error {
	begin := time.Now()
	for pause := time.Second; ; pause = min(2*pause, 10*time.Second) {
		_, err := p.front.torrent(ctx, e.Name, e.Sums[infohash], maxTorrent(e.Size))
		why := silence(err)
		if why == "" || ctx.Err() != nil {
			return nil
		}
		left := min(p.wait, reachTime) - time.Since(begin)
		if left <= 0 {
			return fmt.Errorf("nothing answers at %s (%s): see public_url of the sink", p.front.base.Redacted(), why)
		}
		pause = min(pause, left)
		fmt.Fprintf(p.stderr, "no answer of %s yet: asking again in %s\n", p.front.base.Host, pause.Round(time.Millisecond)) // short: it is in the error, too
		if pauseFor(ctx, pause) != nil {
			return nil
		}
	}
}

// silence is why there was no answer at all; "" if there was one.
func silence(err error) string {
	var f *frontError
	if errors.As(err, &f) && f.silent {
		return f.got
	}
	return ""
}

func (p *proving) run(ctx context.Context, entries []core.Entry) error {
	queue := make(chan core.Entry)
	var workers sync.WaitGroup
	for range min(proveWorkers, len(entries)) {
		workers.Go(func() {
			for e := range queue {
				p.settle(ctx, e, p.patiently(ctx, e))
			}
		})
	}
	for _, e := range entries {
		select {
		case queue <- e:
		case <-ctx.Done():
		}
	}
	close(queue)
	workers.Wait()
	if ctx.Err() != nil {
		return fmt.Errorf("interrupted: %w", context.Cause(ctx))
	}
	if p.failed > 0 && p.silent == p.failed {
		return fmt.Errorf("nothing answered for %d of %d files at %s: see that it is up, and resume", p.failed, p.total, p.front.base.Host)
	}
	if p.failed > 0 {
		return fmt.Errorf("%d of %d files are not what was published: purge what is named above at %s, and resume", p.failed, p.total, p.front.base.Host)
	}
	fmt.Fprintf(p.stdout, "%d files are what was published; %.1f MB of them were read\n", p.total, float64(p.bytes)/1e6)
	return nil
}

// settle counts a file and says what is wrong with it.
func (p *proving) settle(ctx context.Context, e core.Entry, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil && ctx.Err() == nil {
		advice := ": purge it"
		if silence(err) != "" {
			p.silent++
			advice = ""
		}
		if p.failed++; p.failed <= proveTold {
			fmt.Fprintf(p.stderr, "%v%s\n", err, advice)
		}
	}
	p.done++
	p.passed += sampledBytes(e, p.sample, p.seed)
	if p.done == p.total || time.Since(p.told) > 500*time.Millisecond {
		p.told = time.Now()
		fmt.Fprintf(p.stdout, "{\"done\":%d,\"total\":%d}\n", p.passed, p.toRead)
	}
}

// hopeless tells whether so much is wrong that waiting for each of the rest helps nobody.
func (p *proving) hopeless() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed >= proveTold
}

// patiently proves a file again until it is right or the wait is over: caches forget at their own pace.
func (p *proving) patiently(ctx context.Context, e core.Entry) error {
	begin := time.Now()
	for pause := 250 * time.Millisecond; ; pause = min(2*pause, 15*time.Second) {
		err := p.prove(ctx, e)
		if err == nil || ctx.Err() != nil {
			return err
		}
		left := p.wait - time.Since(begin)
		if left <= 0 || p.hopeless() {
			return err
		}
		if pauseFor(ctx, min(pause, left)) != nil {
			return err
		}
	}
}

// prove reads a file's torrent and a sample of its pieces.
func (p *proving) prove(ctx context.Context, e core.Entry) error {
	t, err := p.front.torrent(ctx, e.Name, e.Sums[infohash], maxTorrent(e.Size))
	if err != nil {
		return err
	}
	if t.Length != e.Size {
		return &frontError{key: e.Name, want: fmt.Sprintf("%d bytes", e.Size), got: fmt.Sprintf("a torrent of %d bytes", t.Length)}
	}
	etag := ""
	for _, i := range samplePieces(e, p.sample, p.seed) {
		from, n := int64(i)*pieceLength, pieceSize(e.Size, i)
		b, head, err := p.front.span(ctx, e.Name, from, n, e.Size)
		if err != nil {
			return err
		}
		p.mu.Lock()
		p.bytes += n
		p.mu.Unlock()
		if sum := sha1.Sum(b); !bytes.Equal(sum[:], t.Pieces[i*sha1.Size:(i+1)*sha1.Size]) {
			return &frontError{key: e.Name, want: fmt.Sprintf("piece %d (bytes %d-%d) with sum %x", i, from, from+n-1, t.Pieces[i*sha1.Size:(i+1)*sha1.Size]),
				got: fmt.Sprintf("%x", sum), cache: cacheOf(head), status: http.StatusPartialContent}
		}
		// A cache that holds ranges of two objects under one name shows here also where the sample missed the old ones.
		tag := strings.TrimPrefix(head.Get("Etag"), "W/")
		if etag != "" && tag != "" && tag != etag {
			return &frontError{key: e.Name, want: fmt.Sprintf("one object, with ETag %.80s", etag), got: fmt.Sprintf("another ETag %.80q for bytes %d-%d", tag, from, from+n-1),
				cache: cacheOf(head), status: http.StatusPartialContent}
		}
		etag = tag
	}
	return nil
}

// sampledBytes is what is read of a file.
func sampledBytes(e core.Entry, n int, seed uint64) (sum int64) {
	for _, i := range samplePieces(e, n, seed) {
		sum += pieceSize(e.Size, i)
	}
	return sum
}

// samplePieces picks the first, the last, and others up to n, the same ones for the same seed.
func samplePieces(e core.Entry, n int, seed uint64) []int {
	count := pieceCount(e.Size)
	h := fnv.New64a()
	io.WriteString(h, e.Name)
	rng := rand.New(rand.NewPCG(seed, h.Sum64()))
	picked := map[int]bool{0: true, count - 1: true}
	for len(picked) < min(n, count) {
		if n >= count {
			for i := range count {
				picked[i] = true
			}
			break
		}
		picked[rng.IntN(count)] = true
	}
	var all []int
	for i := range picked {
		all = append(all, i)
	}
	slices.Sort(all)
	return all
}
