package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapfw/snapfw/core"
)

const restoreUsage = `restore --datadir DIR [--list FILE|URL] [--base URL] [--fetch-only|--place-only] NAME…
gets files of the published list from the address that consumers use`

// listURLEnv is the address of the published list.
const listURLEnv = "SNAPFW_LIST_URL"

// restoreVerb is "@self restore": it puts published files back into snapshots/. It exits with 0 when all of them are
// in place, 2 for wrong arguments, 3 when it must not be done, 1 when something could not be fetched;
// what was fetched stays and is not fetched again.
func restoreVerb(ctx context.Context, args []string) int {
	return exitCode(runRestore(ctx, args, os.Getenv, os.Stdout, os.Stderr), os.Stderr)
}

// restoring is a run of the verb.
type restoring struct {
	datadir  string
	dir      string // where files lie until they are whole
	front    *front
	patience time.Duration // without a byte that is right
	now      time.Time
	stdout   io.Writer
	stderr   io.Writer
	count    *restoreCount
}

func runRestore(ctx context.Context, args []string, env func(string) string, stdout, stderr io.Writer) error {
	f := flag.NewFlagSet("restore", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() { fmt.Fprintln(stderr, restoreUsage); f.PrintDefaults() }
	datadir := f.String("datadir", "", "Erigon's data folder")
	list := f.String("list", env(listURLEnv), "the published list: a file or a URL")
	base := f.String("base", env(frontURLEnv), "the address that consumers use")
	only := f.Bool("fetch-only", false, "fetch and check, and put nothing in place: erigon may run")
	place := f.Bool("place-only", false, "put in place what was fetched, and ask nobody")
	patience := f.Duration("patience", 10*time.Minute, "how long to go on asking while nothing comes")
	if err := f.Parse(args); err != nil {
		return errUsage
	}
	if *datadir == "" || f.NArg() == 0 || *only && *place || !*place && (*list == "" || *base == "") {
		f.Usage()
		return errUsage
	}
	if err := isDatadir(*datadir); err != nil {
		return err
	}
	r := &restoring{datadir: *datadir, dir: filepath.Join(snapfwDir(*datadir), "restore"), patience: *patience,
		now: time.Now().UTC(), stdout: stdout, stderr: stderr}
	if !*place {
		var err error
		if r.front, err = newFront(*base, env(frontHeaderEnv)); err != nil {
			return fmt.Errorf("--base: %w", err)
		}
	}
	if !*only {
		// Held to the end: an Erigon that came up meanwhile would open what is being replaced.
		release, err := holdDatadir(*datadir, unix.LOCK_EX)
		if err != nil {
			return err
		}
		defer release()
	}
	release, err := r.alone()
	if err != nil {
		return err
	}
	defer release()
	names := slices.Clone(f.Args())
	slices.Sort(names)
	names = slices.Compact(names)
	if *place {
		return r.placeAll(ctx, names)
	}
	wanted, err := r.published(ctx, *list, names)
	if err != nil {
		return err
	}
	return r.run(ctx, wanted, *only)
}

// published reads the list and finds the names in it. A name that is not a key of it is refused, so none can lead elsewhere.
func (r *restoring) published(ctx context.Context, list string, names []string) ([]core.Entry, error) {
	body, err := r.readList(ctx, list)
	if err != nil {
		return nil, fmt.Errorf("read the published list: %w", err)
	}
	entries, err := catalog{}.Parse(ctx, body)
	if err != nil {
		return nil, fmt.Errorf("read the published list: %w", err)
	}
	byName := make(map[string]core.Entry, len(entries))
	for _, e := range entries {
		byName[e.Name] = e
	}
	var wanted []core.Entry
	for _, name := range names {
		e, ok := byName[name]
		if !ok {
			return nil, declinef("%.120q is not in the published list of %d files: give its name as the list has it", name, len(entries))
		}
		if _, err := parseName(name); err != nil {
			return nil, declinef("%v", err)
		}
		wanted = append(wanted, e)
	}
	return wanted, nil
}

func (r *restoring) readList(ctx context.Context, list string) ([]byte, error) {
	if !strings.HasPrefix(list, "http://") && !strings.HasPrefix(list, "https://") {
		f, err := os.Open(list)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return io.ReadAll(io.LimitReader(f, maxList+1)) // Parse refuses one that is too long
	}
	u, err := url.Parse(list)
	if err != nil || u.User != nil {
		return nil, errors.New("the list's address is no plain URL")
	}
	key := strings.TrimPrefix(u.Path, "/")
	u.Path, u.RawPath = "", ""
	// The secret header goes to the address that asks for it, and nowhere else.
	from := &front{base: u, client: r.front.client}
	if u.Host == r.front.base.Host && u.Scheme == r.front.base.Scheme {
		from.name, from.value = r.front.name, r.front.value
	}
	var body []byte
	err = r.insist(ctx, func() (err error) {
		body, _, err = from.whole(ctx, key, maxList)
		return err
	})
	return body, err
}

// alone keeps another restore off the same datadir.
func (r *restoring) alone() (release func(), err error) {
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the folder for what is fetched: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(r.dir, "lock"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, declinef("another restore works on %s: wait until it has ended", r.datadir)
	}
	return func() { f.Close() }, nil
}

func (r *restoring) run(ctx context.Context, wanted []core.Entry, only bool) error {
	var files []*restoredFile
	defer func() {
		for _, f := range files {
			f.close()
		}
	}()
	for _, e := range wanted {
		f, err := r.look(ctx, e)
		if err != nil {
			return err
		}
		files = append(files, f)
	}
	if err := r.room(files); err != nil {
		return err
	}
	r.count = &restoreCount{out: r.stdout}
	for _, f := range files {
		n, _ := f.missing()
		r.count.total += n
	}
	for _, f := range files {
		if err := r.fetch(ctx, f); err != nil {
			return fmt.Errorf("%w; what was fetched stays, and is not fetched again", err)
		}
	}
	if only {
		for _, f := range files {
			fmt.Fprintf(r.stdout, "%s is here and whole\n", f.name)
		}
		return nil
	}
	return r.placeThese(files)
}

// placeAll puts in place what an earlier run fetched. Its bytes are summed again: days may have passed.
func (r *restoring) placeAll(ctx context.Context, names []string) error {
	var files []*restoredFile
	defer func() {
		for _, f := range files {
			f.close()
		}
	}()
	for _, name := range names {
		if _, err := parseName(name); err != nil {
			return declinef("%v", err)
		}
		f, err := r.fetched(ctx, name)
		if err != nil {
			return err
		}
		files = append(files, f)
		if _, missing := f.missing(); missing > 0 {
			return declinef("%d bytes of %s are not fetched: run restore with --fetch-only first", missing, name)
		}
	}
	return r.placeThese(files)
}

func (r *restoring) placeThese(files []*restoredFile) error {
	for _, f := range files {
		if f.inPlace {
			fmt.Fprintf(r.stdout, "%s is what was published already\n", f.name)
		}
		if err := r.place(f); err != nil {
			return fmt.Errorf("put %s in place: %w", f.name, err)
		}
	}
	return nil
}

// room declines to fetch what does not fit.
func (r *restoring) room(files []*restoredFile) error {
	var st unix.Statfs_t
	if err := unix.Statfs(r.dir, &st); err != nil {
		return fmt.Errorf("see how much room there is: %w", err)
	}
	var need int64
	for _, f := range files {
		_, n := f.missing()
		need += n
	}
	const spare = 64 << 20
	if free := int64(st.Bavail) * st.Bsize; need > 0 && free < need+spare {
		return declinef("%d bytes are to be written, and there is room for %d only: make room, or restore fewer files at a time", need, max(0, free-spare))
	}
	return nil
}

// insist does it again while there is hope. What the address says is not there, or is not for us, it is asked three times.
func (r *restoring) insist(ctx context.Context, do func() error) error {
	begin := time.Now()
	refused := 0
	for pause := 250 * time.Millisecond; ; pause = min(2*pause, 30*time.Second) {
		err := do()
		if err == nil || ctx.Err() != nil {
			return err
		}
		var fe *frontError
		if !errors.As(err, &fe) {
			return err
		}
		if fe.status >= 200 && fe.status < 500 && fe.status != 408 && fe.status != 429 {
			refused++
		}
		if refused >= 3 || time.Since(begin) >= r.patience {
			return err
		}
		if pauseFor(ctx, min(pause, r.patience)) != nil {
			return err
		}
	}
}
