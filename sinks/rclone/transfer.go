package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/snapfw/snapfw/core"
)

// transfer brings files to a place. What is unchanged since the previous snapshot is what the
// list says, by snapfw's own sums; rclone compares nothing.
type transfer struct {
	upload
	program
	features
	place  string // to and prefix
	files  map[string]core.Upload
	sizes  map[string]int64
	record *record
	strict bool // what is there may be published: it is not written over, and size alone does not say that it is ours

	arrived map[string]bool // files that are whole at place
	*tally
}

// tally counts what several transfers do.
type tally struct {
	out   io.Writer
	done  int64 // bytes that arrived
	total int64
	sum   summary
}

func (t *tally) report(running int64) {
	line, err := json.Marshal(core.Progress{Done: min(t.done+running, t.total), Total: t.total})
	if err == nil {
		fmt.Fprintf(t.out, "%s\n", line)
	}
}

// end prints the summary. rclone's own last line came before its last file was counted.
func (t *tally) end() error {
	t.report(0)
	return json.NewEncoder(t.out).Encode(t.sum)
}

// summary is the last line on standard output: what it took.
type summary struct {
	Files       int   `json:"files"`
	Bytes       int64 `json:"bytes"`
	There       int   `json:"there"` // files that an earlier run had brought
	Copied      int   `json:"copied"`
	CopiedBytes int64 `json:"copied_bytes"` // inside the storage
	Sent        int   `json:"sent"`
	SentBytes   int64 `json:"sent_bytes"`
}

func newTransfer(u upload, p program, f features, files []core.Upload, count *tally) *transfer {
	t := &transfer{
		upload: u, program: p, features: f, place: join(u.to, u.prefix), tally: count,
		files: map[string]core.Upload{}, sizes: map[string]int64{}, arrived: map[string]bool{},
	}
	for _, f := range files {
		t.files[f.Name], t.sizes[f.Name] = f, f.Size
		t.total += f.Size
		t.sum.Bytes += f.Size
	}
	t.sum.Files += len(files)
	return t
}

// unsummed tells whether a file has no sum that a snapshot's have.
func (t *transfer) unsummed() bool {
	for _, f := range t.files {
		if f.Sums["sha256"] == "" {
			return true
		}
	}
	return false
}

// sumOf is what the record knows a file by.
func sumOf(f core.Upload) string {
	if sum := f.Sums["sha256"]; sum != "" {
		return sum
	}
	return f.Sums["infohash"]
}

// run is called after look. .torrent files go after all others: who finds one asks for its data at once, and caches
// keep a 404.
func (t *transfer) run(ctx context.Context) error {
	t.report(0)
	if err := t.copyUnchanged(ctx); err != nil {
		return err
	}
	var data, torrents []string
	for _, name := range t.pending() {
		if strings.HasSuffix(name, ".torrent") {
			torrents = append(torrents, name)
		} else {
			data = append(data, name)
		}
	}
	for _, names := range [][]string{data, torrents} {
		if err := t.rounds(ctx, names, t.always()...); err != nil {
			return err
		}
	}
	if t.Features.IsLocal {
		if err := syncFS(t.Root); err != nil {
			return err
		}
	}
	return t.verify(ctx)
}

// look finds what earlier runs brought. A bucket holds whole objects only; elsewhere a file of the right size may be
// half of one, so only what the record names counts. If strict, what nobody remembers is read and compared.
func (t *transfer) look(ctx context.Context) error {
	var unknown, taken []string
	err := t.list(ctx, func(l listed) error {
		f, ok := t.files[l.Path]
		switch {
		case !ok:
		case f.Size == l.Size && t.record.has(f.Name, sumOf(f)):
			t.found(f)
		case t.strict && t.record.has(f.Name, begun): // half of it, by us
		case t.strict && f.Size != l.Size:
			taken = append(taken, f.Name)
		case t.strict:
			unknown = append(unknown, f.Name)
		case f.Size == l.Size && t.Features.BucketBased && t.sureBySize():
			t.found(f)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if !t.strict {
		return nil
	}
	differ, err := t.compare(ctx, unknown)
	if err != nil {
		return err
	}
	if taken = append(taken, differ...); len(taken) > 0 {
		slices.Sort(taken)
		return refusal{fmt.Errorf("there with other content at %s, and not listed as a replacement: %s; where that is what a broken upload left, delete it", t.place, few(taken))}
	}
	for _, name := range t.pending() {
		t.record.add(name, begun)
	}
	return nil
}

// begun stands in the record for the sum of a file whose key was free when we looked.
const begun = "begun"

func (t *transfer) found(f core.Upload) {
	t.arrived[f.Name] = true
	t.done += f.Size
	t.sum.There++
}

// sureBySize is false where the same key is used for one version after another: where replacements are parked.
func (t *transfer) sureBySize() bool { return t.stage == "" }

// compare reads files back and returns those that differ; the others arrived.
func (t *transfer) compare(ctx context.Context, names []string) (differ []string, err error) {
	if len(names) == 0 {
		return nil, nil
	}
	same := 0
	err = t.program.stream(ctx, strings.NewReader(strings.Join(names, "\n")+"\n"), func(r io.Reader) error {
		for lines := bufio.NewScanner(r); lines.Scan(); {
			mark, name, _ := strings.Cut(lines.Text(), " ")
			f, ok := t.files[name]
			switch {
			case !ok:
			case mark == "=":
				same++
				t.found(f)
				t.record.add(name, sumOf(f))
			case mark == "*":
				differ = append(differ, name)
			}
		}
		return nil
	}, "check", t.dir, t.place, "--download", "--one-way", "--files-from-raw", "-", "--combined", "-")
	if same+len(differ) == len(names) {
		return differ, nil // a difference makes it exit with 1
	}
	if err == nil {
		err = errors.New("rclone check: it did not compare every file")
	}
	return nil, err
}

func (t *transfer) list(ctx context.Context, each func(listed) error) error {
	if t.Features.IsLocal {
		return listFiles(t.Root, t.prefix, each)
	}
	return t.program.list(ctx, t.place, each)
}

// pending is what has not arrived, sorted by name.
func (t *transfer) pending() []string {
	var names []string
	for name := range t.files {
		if !t.arrived[name] {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (t *transfer) arrive(name string, inside bool) {
	f, ok := t.files[name]
	if !ok || t.arrived[name] {
		return
	}
	t.arrived[name] = true
	t.done += f.Size
	t.record.add(name, sumOf(f))
	if inside {
		t.sum.Copied++
		t.sum.CopiedBytes += f.Size
	} else {
		t.sum.Sent++
		t.sum.SentBytes += f.Size
	}
}

// copyUnchanged copies inside the storage what the previous snapshot holds. What can't be
// copied so is left pending, and uploaded.
func (t *transfer) copyUnchanged(ctx context.Context) error {
	names := slices.DeleteFunc(t.pending(), func(name string) bool { return !t.files[name].Previous })
	if len(names) == 0 || t.previous == "" {
		return nil
	}
	if t.Features.IsLocal {
		return t.copyHere(ctx, names)
	}
	if !t.Features.Copy {
		return nil
	}
	// rclone looks for each file in --copy-dest and uploads the one that is not there.
	args := append(t.always(), "--copy-dest", join(t.to, t.previous), "--size-only")
	return t.rounds(ctx, names, args...)
}

func (t *transfer) copyHere(ctx context.Context, names []string) error {
	if err := os.MkdirAll(t.Root, 0o755); err != nil {
		return err
	}
	r, err := os.OpenRoot(t.Root)
	if err != nil {
		return err
	}
	defer r.Close()
	last := time.Now()
	for _, name := range names {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := copyInside(r, path.Join(t.previous, name), path.Join(t.prefix, name), t.files[name].Size); err != nil {
			continue // it is uploaded then
		}
		t.arrive(name, true)
		if time.Since(last) > time.Second {
			last = time.Now()
			t.report(0)
		}
	}
	return nil
}

// always makes rclone copy what it is told to without looking at the destination first. Storage that holds
// two files of one name would get a second one: there it looks, and replaces.
func (t *transfer) always() []string {
	if t.Features.DuplicateFiles {
		return []string{"--ignore-times"}
	}
	return []string{"--no-check-dest"}
}

// rounds copies files, and again those that failed as long as some get through.
func (t *transfer) rounds(ctx context.Context, names []string, args ...string) error {
	for round := 1; len(names) > 0; round++ {
		before := len(t.arrived)
		err := t.copy(ctx, names, args)
		names = slices.DeleteFunc(names, func(name string) bool { return t.arrived[name] })
		if err == nil || len(names) == 0 || ctx.Err() != nil {
			break
		}
		if round == 3 || len(t.arrived) == before {
			return err
		}
	}
	return ctx.Err()
}

// copy runs rclone once. Its error names the files that failed.
func (t *transfer) copy(ctx context.Context, names, args []string) error {
	runtime.LockOSThread() // see program.command
	defer runtime.UnlockOSThread()
	n := strconv.Itoa(t.transfers)
	args = append([]string{
		"copy", t.dir, t.place, "--files-from-raw", "-", "--retries", "1", "--low-level-retries", "10",
		"--transfers", n, "--checkers", n, "--use-json-log", "-v", "--stats", "1s", "--stats-log-level", "NOTICE",
	}, args...)
	if t.rate > 0 {
		args = append(args, "--bwlimit", strconv.FormatInt(t.rate, 10)+"B")
	}
	cmd := t.command(ctx, args...)
	cmd.Stdin = strings.NewReader(strings.Join(names, "\n") + "\n")
	read, write := io.Pipe()
	cmd.Stderr = write
	w := &watcher{failed: map[string]string{}, copied: t.arrive}
	w.running = func(bytes func(map[string]int64) int64) { t.report(bytes(t.sizes)) }
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start rclone: %w", err)
	}
	heard := make(chan struct{})
	go func() { w.read(read); close(heard) }()
	err := cmd.Wait()
	write.Close()
	<-heard
	if err == nil && len(w.failed) == 0 {
		return nil
	}
	if err = t.exit("copy", err, w.said); err == nil {
		err = errors.New("rclone copy: exit 0, with errors")
	}
	if len(w.failed) == 0 {
		return err
	}
	var failed []string
	for _, name := range slices.Sorted(maps.Keys(w.failed)) {
		failed = append(failed, t.redact.Replace(name+": "+w.failed[name]))
	}
	return fmt.Errorf("%w; %d files failed: %s", err, len(failed), few(failed))
}

// partial is how newer rclones call a file that they have not renamed yet.
var partial = regexp.MustCompile(`^(.+)\.[0-9A-Za-z]{8}\.partial$`)

// verify lists the place once more: every file is there with its size. What killed runs left half done is deleted.
func (t *transfer) verify(ctx context.Context) error {
	missing := maps.Clone(t.sizes)
	var wrong, halves []string
	err := t.list(ctx, func(l listed) error {
		if m := partial.FindStringSubmatch(l.Path); m != nil && t.files[m[1]].Name != "" && t.files[l.Path].Name == "" {
			halves = append(halves, l.Path)
		}
		if size, ok := missing[l.Path]; ok {
			delete(missing, l.Path)
			if size != l.Size {
				wrong = append(wrong, fmt.Sprintf("%s has %d bytes instead of %d", l.Path, l.Size, size))
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		wrong = append(wrong, name+" is missing")
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%s is not whole: %s; run it again to carry on", t.place, few(wrong))
	}
	if len(halves) == 0 {
		return nil
	}
	names := strings.NewReader(strings.Join(halves, "\n") + "\n")
	_, err = t.program.run(ctx, names, 1<<20, "delete", t.place, "--files-from-raw", "-")
	return err
}
