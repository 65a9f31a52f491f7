package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/capture"
)

const torrentsUsage = "--datadir DIR [--verify full|sample:N] [--dry-run] [--entries FILE]  give each published file a torrent that is right"

// torrentsVerb is "@self torrents". It exits with 0 when every file that consumers download has the
// right torrent, 2 for wrong arguments, 3 when a file can't be published as it is, 1 for anything else.
func torrentsVerb(ctx context.Context, args []string) int {
	// Sums of the largest file take 10 MiB a TiB. The rest is garbage, and need not pile up.
	debug.SetMemoryLimit(verbMemory)
	return runTorrents(ctx, args, os.Stdout, os.Stderr)
}

func runTorrents(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, asJSON, nice, err := parseTorrents(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 2
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 2
	}
	if err := beNice(nice); err != nil {
		fmt.Fprintf(stderr, "nice %d: %v\n", nice, err)
		return 1
	}
	say := &torrentSayer{out: stdout, json: asJSON}
	o.news, o.progress = say.news, say.progress
	if f, ok := stdout.(*os.File); ok && !asJSON && term.IsTerminal(int(f.Fd())) {
		o.progress = func(done, total int64) {
			fmt.Fprintf(stderr, "\r%.1f of %.1f GB", float64(done)/1e9, float64(total)/1e9)
			if done == total {
				fmt.Fprintln(stderr)
			}
		}
	}
	sum, err := makeTorrents(ctx, o)
	var unfit *torrentError
	if err == nil || errors.As(err, &unfit) {
		say.summary(sum, o.dry)
	}
	if err == nil {
		return core.ExitDone
	}
	fmt.Fprintln(stderr, err)
	if unfit != nil && unfit.Failed == 0 {
		return core.ExitRefused
	}
	return 1
}

func parseTorrents(args []string, stderr io.Writer) (o torrentOptions, asJSON bool, nice int, err error) {
	fs := flag.NewFlagSet("torrents", flag.ContinueOnError)
	fs.SetOutput(stderr)
	datadir := fs.String("datadir", "", "Erigon's data folder")
	view := fs.String("snapshots", "", "the snapshots folder, if it is not the one in --datadir: a view of links")
	sums := fs.String("sums", "", "where piece sums are remembered (default DATADIR/.snapfw/torrents.jsonl)")
	verify := fs.String("verify", "", "full, or sample:N: read and compare N percent of what is remembered")
	workers := fs.Int("workers", 0, "pieces hashed at once (default: as many as there are processors)")
	limit := "0" // as the run's limits say
	if r := os.Getenv("SNAPFW_READ_RATE"); r != "" {
		limit = r
	}
	rate := fs.String("rate", limit, "read so many bytes a second at most; 0 is no limit; K, M and G are allowed")
	fs.IntVar(&nice, "nice", 0, "run with this niceness, for processor and disk: 0 to 19")
	fs.BoolVar(&o.dry, "dry-run", false, "say what would be done")
	fs.BoolVar(&o.clean, "clean", false, "remove torrents without data, and unfinished ones")
	fs.StringVar(&o.entryFile, "entries", "", "write name, size and infohash of each file here, a JSON line each")
	fs.BoolVar(&asJSON, "json", false, "print JSON lines")
	if err := fs.Parse(args); err != nil {
		return o, false, 0, flag.ErrHelp // the flag set has said what is wrong
	}
	if fs.NArg() > 0 {
		return o, false, 0, fmt.Errorf("torrents takes no argument %q", fs.Arg(0))
	}
	if nice < 0 || nice > 19 || *workers < 0 || *workers > 1024 {
		return o, false, 0, errors.New("--nice is 0 to 19 and --workers 1 to 1024")
	}
	if o.workers = *workers; o.workers == 0 {
		o.workers = runtime.GOMAXPROCS(0)
	}
	if o.verify, err = capture.ParseVerify(*verify); err != nil {
		return o, false, 0, fmt.Errorf("--verify: %w", err)
	}
	if o.rate, err = parseRate(*rate); err != nil {
		return o, false, 0, err
	}
	o.snapshots, o.sumsFile, err = torrentPlaces(*datadir, *view, *sums)
	if *view != "" && *datadir != "" && *sums == "" {
		o.store = torrentStore(o.sumsFile)
	}
	return o, asJSON, nice, err
}

// torrentPlaces finds the folders. Nothing is made that is not there: Erigon itself makes a
// whole tree for a mistyped --datadir.
func torrentPlaces(datadir, view, sums string) (snapshots, file string, err error) {
	if view == "" && datadir == "" {
		return "", "", errors.New("torrents needs --datadir DIR")
	}
	if snapshots = view; view == "" {
		snapshots = filepath.Join(datadir, "snapshots")
	}
	if file = sums; sums == "" {
		if datadir == "" {
			return "", "", errors.New("--snapshots without --datadir needs --sums FILE")
		}
		file = filepath.Join(datadir, ".snapfw", "torrents.jsonl")
	}
	if info, err := os.Stat(snapshots); err != nil || !info.IsDir() {
		return "", "", fmt.Errorf("there is no folder %s: name the data folder of an Erigon that has snapshots", snapshots)
	}
	return snapshots, file, nil
}

func parseRate(s string) (int64, error) {
	unit := int64(1)
	digits := s
	if n := len(s) - 1; n > 0 {
		if scale, ok := map[byte]int64{'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30}[s[n]]; ok {
			unit, digits = scale, s[:n]
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/unit {
		return 0, fmt.Errorf("--rate %q is no number of bytes a second, such as 200M", s)
	}
	return n * unit, nil
}

// beNice lowers this process in the eyes of the scheduler; the kernel derives the priority of its disk reads from that.
// Niceness is a thread's own on Linux, and a new thread has that of the one that starts it.
func beNice(n int) error {
	if n == 0 {
		return nil
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, t := range threads {
		if id, err := strconv.Atoi(t.Name()); err == nil {
			if err := unix.Setpriority(unix.PRIO_PROCESS, id, n); err != nil && err != unix.ESRCH {
				return err
			}
		}
	}
	return nil
}

// torrentSayer prints for people, or JSON lines. Progress is always a JSON line: what runs us reads it.
type torrentSayer struct {
	out  io.Writer
	json bool
	mu   sync.Mutex // progress comes while there is news
}

func (s *torrentSayer) write(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out.Write(b)
}

func (s *torrentSayer) line(v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings and numbers
	}
	s.write(append(b, '\n'))
}

func (s *torrentSayer) progress(done, total int64) {
	s.line(struct {
		Done  int64 `json:"done"`
		Total int64 `json:"total"`
	}{done, total})
}

func (s *torrentSayer) news(n torrentNews) {
	switch {
	case s.json:
		s.line(n)
	case n.Did == "made": // thousands of lines that tell nothing; the summary counts them
	case n.Why == "":
		s.write(fmt.Appendf(nil, "%s: %s\n", n.Name, n.Did))
	default:
		s.write(fmt.Appendf(nil, "%s: %s: %s\n", n.Name, n.Did, n.Why))
	}
}

func (s *torrentSayer) summary(t torrentSummary, dry bool) {
	if s.json {
		s.line(t)
		return
	}
	if dry {
		fmt.Fprintf(s.out, "would make %d torrents, remake %d and remove %d, and read %s; %d files are as they should be\n",
			t.Made, t.Remade, t.Removed, sized(t.Read), t.Files)
		return
	}
	fmt.Fprintf(s.out, "%d files, %s; %s read; %d torrents made, %d remade, %d removed; %d files verified\n",
		t.Files, sized(t.Bytes), sized(t.Read), t.Made, t.Remade, t.Removed, t.Verified)
}

// sized tells small sizes to the byte: that nothing was read is to be seen.
func sized(n int64) string {
	if n < 10e6 {
		return fmt.Sprintf("%d bytes", n)
	}
	return fmt.Sprintf("%.2f GB", float64(n)/1e9)
}
