package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/snapfw/snapfw/core"
)

const uploadUsage = "--rclone PROGRAM --list FILE --dir DIR --to PLACE [--prefix PREFIX] [--previous PREFIX] [--stage PREFIX]  copy the files of a list"

// upload is what the verb "upload" was asked for. The configuration comes in the
// environment, never in argv.
type upload struct {
	rclone, list, dir, to, prefix, previous, stage, beside string
	transfers                                              int
	rate                                                   int64
	content                                                []byte
	env                                                    []string
	stdout, stderr                                         io.Writer
}

// refusal is an error that trying again does not mend.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

// uploadVerb is "@self upload". It exits 0 when every file of the list is there and durable, 3 when
// the list can't be uploaded at all, else 1; the end of its standard error says why.
func uploadVerb(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	u := upload{content: []byte(getenv(secretEnv)), env: cleanEnv(getenv), stdout: stdout, stderr: stderr}
	flags := flag.NewFlagSet("upload", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&u.rclone, "rclone", "", "the program `rclone`")
	flags.StringVar(&u.list, "list", "", "`file` with one JSON upload a line")
	flags.StringVar(&u.dir, "dir", "", "`directory` that holds the files")
	flags.StringVar(&u.to, "to", "", "remote:path or an absolute directory")
	flags.StringVar(&u.prefix, "prefix", "", "below that, the `prefix` of the keys")
	flags.StringVar(&u.previous, "previous", "", "`prefix` that holds the files that did not change")
	flags.StringVar(&u.stage, "stage", "", "`prefix` where replacements are parked, with the key after it")
	flags.StringVar(&u.beside, "config-beside", "", "`path` beside which the configuration may be written")
	flags.IntVar(&u.transfers, "transfers", 8, "`files` at once")
	flags.Int64Var(&u.rate, "rate", 0, "bytes a second, 0 is no limit")
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		fmt.Fprintln(stderr, "usage: upload", uploadUsage)
		return 2
	}
	err := u.run(ctx)
	var no refusal
	switch {
	case err == nil:
		return core.ExitDone
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "upload: ended by a signal; run it again to carry on")
		return 1
	case errors.As(err, &no):
		fmt.Fprintln(stderr, "upload:", err)
		return core.ExitRefused
	}
	fmt.Fprintln(stderr, "upload:", err)
	return 1
}

func (u upload) check() error {
	errs := []error{checkTo(u.to), checkPrefix(u.prefix), checkPrefix(u.previous), checkPrefix(u.stage)}
	if !filepath.IsAbs(u.dir) || !filepath.IsAbs(u.list) || u.transfers < 1 || u.rate < 0 {
		errs = append(errs, errors.New("--dir and --list are absolute, --transfers is 1 or more, --rate is not negative"))
	}
	if err := errors.Join(errs...); err != nil {
		return refusal{err}
	}
	return nil
}

func (u upload) run(ctx context.Context) error {
	if err := u.check(); err != nil {
		return err
	}
	files, err := readList(u.list)
	if err != nil {
		return refusal{err}
	}
	if err := checkSources(u.dir, files); err != nil {
		return refusal{err}
	}
	p, err := newProgram(u.rclone, u.env, u.content, u.beside)
	if err != nil {
		return err
	}
	defer p.close()
	f, err := p.features(ctx, u.to)
	if err != nil {
		return err
	}
	fresh, parked, err := u.split(files, f)
	if err != nil {
		return refusal{err}
	}
	return u.bring(ctx, p, f, fresh, parked)
}

// split tells what replaces something that is published from what is new.
func (u upload) split(files []core.Upload, f features) (fresh, parked []core.Upload, err error) {
	for _, file := range files {
		if file.Replace {
			parked = append(parked, file)
		} else {
			fresh = append(fresh, file)
		}
	}
	switch {
	case len(parked) > 0 && !f.Features.IsLocal && !f.Features.Copy:
		return nil, nil, fmt.Errorf("%s replaces what is published, and %s can't copy inside itself, so that nothing can wait there for its review; use storage that can", parked[0].Name, u.to)
	case len(parked) > 0 && u.stage == "":
		return nil, nil, fmt.Errorf("%s replaces what is published, and there is no --stage to park it under", parked[0].Name)
	}
	return fresh, parked, nil
}

// bring brings replacements to where they wait and new files to their keys.
func (u upload) bring(ctx context.Context, p program, f features, fresh, parked []core.Upload) error {
	count := &tally{out: u.stdout}
	var transfers []*transfer
	for _, part := range []struct {
		files  []core.Upload
		prefix string
		record string
	}{{parked, strings.Trim(u.stage+"/"+u.prefix, "/"), ".parked"}, {fresh, u.prefix, ".done"}} {
		if len(part.files) == 0 {
			continue
		}
		mine := u
		mine.prefix = part.prefix
		t := newTransfer(mine, p, f, part.files, count)
		t.strict = part.record == ".done" && (u.stage != "" || u.prefix == "" || t.unsummed())
		var err error
		if t.record, err = openRecord(u.list+part.record, bootID(), t.place); err != nil {
			fmt.Fprintf(u.stderr, "%v; where storage is no bucket, a second run uploads all of it again\n", err)
		}
		defer t.record.close()
		transfers = append(transfers, t)
	}
	for _, t := range transfers { // nothing is sent where one of them refuses
		if err := t.look(ctx); err != nil {
			return err
		}
	}
	for _, t := range transfers {
		if err := t.run(ctx); err != nil {
			return err
		}
	}
	return count.end()
}

// readList reads the list of an UploadRequest.
func readList(name string) ([]core.Upload, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read the list: %w", err)
	}
	defer f.Close()
	return parseList(f)
}

func parseList(r io.Reader) ([]core.Upload, error) {
	var files []core.Upload
	seen := map[string]bool{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 64<<10)
	for n := 1; lines.Scan(); n++ {
		var u core.Upload
		if err := json.Unmarshal(lines.Bytes(), &u); err != nil {
			return nil, fmt.Errorf("read the list: line %d: %w", n, err)
		}
		switch err := checkKey(u.Name); {
		case err != nil:
			return nil, fmt.Errorf("read the list: line %d: %w", n, err)
		case u.Size < 0 || seen[u.Name] || n > 10_000_000:
			return nil, fmt.Errorf("read the list: line %d: %s: twice, of negative size, or one too many", n, u.Name)
		}
		seen[u.Name] = true
		files = append(files, u)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the list: %w", err)
	}
	if len(files) == 0 {
		return nil, errors.New("read the list: it is empty") // to rclone that means everything
	}
	return files, nil
}

// checkSources wants each file to be there with its size: rclone passes over a name that is missing, and
// over symbolic links, without a word.
func checkSources(dir string, files []core.Upload) error {
	r, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open the copy: %w", err)
	}
	defer r.Close()
	var bad []string
	for _, f := range files {
		info, err := r.Lstat(f.Name)
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
		return fmt.Errorf("the copy in %s is not what the list says: %s", dir, few(bad))
	}
	return nil
}

// few joins the first five.
func few(s []string) string {
	if len(s) > 5 {
		return strings.Join(s[:5], "; ") + fmt.Sprintf("; and %d more", len(s)-5)
	}
	return strings.Join(s, "; ")
}
