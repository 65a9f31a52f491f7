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
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/snapfw/snapfw/core"
)

const uploadUsage = "--list FILE --dir DIR --endpoint URL --bucket NAME [--base PREFIX] [--prefix PREFIX] [--previous PREFIX] [--stage PREFIX]  copy the files of a list"

// Where the verb finds the credentials: never in argv.
const (
	accessEnv  = "SNAPFW_ACCESS_KEY_ID"
	secretEnv  = "SNAPFW_SECRET_ACCESS_KEY"
	sessionEnv = "SNAPFW_SESSION_TOKEN"
)

// readRateEnv is the run's limits.read_rate, which every job is told.
const readRateEnv = "SNAPFW_READ_RATE"

// upload is what the verb "upload" was asked for.
type upload struct {
	list, dir               string
	prefix, previous, stage string
	access                  access
	transfers               int
	rate, partMiB, readRate int64
	stdout, stderr          io.Writer
}

// refusal is an error that trying again does not mend.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

// uploadVerb is "@self upload". It exits 0 when every file of the list is stored whole, 3 when the list can't be
// uploaded at all (a file is not as listed, a key is published with other content), else 1; the end of
// its standard error says why. Run again it carries on. Its last line is a core.Sent.
func uploadVerb(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	u := upload{stdout: stdout, stderr: stderr}
	u.access = access{key: getenv(accessEnv), secret: getenv(secretEnv), session: getenv(sessionEnv)}
	flags := flag.NewFlagSet("upload", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&u.list, "list", "", "`file` with one JSON upload a line")
	flags.StringVar(&u.dir, "dir", "", "`directory` that holds the files")
	flags.StringVar(&u.access.endpoint, "endpoint", "", "`address` of the S3 API")
	flags.StringVar(&u.access.bucket, "bucket", "", "`name` of the bucket")
	flags.StringVar(&u.access.base, "base", "", "`prefix` in the bucket that all others are relative to")
	flags.StringVar(&u.prefix, "prefix", "", "`prefix` of the keys")
	flags.StringVar(&u.previous, "previous", "", "`prefix` that holds the files that did not change")
	flags.StringVar(&u.stage, "stage", "", "`prefix` where replacements are parked, with the key after it")
	flags.IntVar(&u.transfers, "transfers", 8, "`files` at once")
	flags.Int64Var(&u.rate, "rate", 0, "bytes a second, 0 is no limit")
	limit, _ := strconv.ParseInt(getenv(readRateEnv), 10, 64) // none, where it is not set
	flags.Int64Var(&u.readRate, "read-rate", limit, "bytes a second of files that are compared with what is stored, 0 is no limit")
	flags.Int64Var(&u.partMiB, "part-size-mib", 64, "size of the parts of a large file, in `MiB`")
	flags.DurationVar(&u.access.patience, "patience", 3*time.Minute, "how long a request is tried again")
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
	errs := []error{checkPrefix(u.prefix, u.previous, u.stage, u.access.base), u.access.check()}
	if !isOrigin(u.access.endpoint) || !bucketForm.MatchString(u.access.bucket) {
		errs = append(errs, errors.New("--endpoint or --bucket is none"))
	}
	if !filepath.IsAbs(u.dir) || !filepath.IsAbs(u.list) || u.transfers < 1 || u.transfers > 256 || u.rate < 0 || u.readRate < 0 || u.partMiB < 5 || u.partMiB > 4096 {
		errs = append(errs, errors.New("--dir and --list are absolute, --transfers is 1 to 256, no rate is negative, --part-size-mib is 5 to 4096"))
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
	root, err := os.OpenRoot(u.dir)
	if err != nil {
		return refusal{fmt.Errorf("open the copy: %w", err)}
	}
	defer root.Close()
	u.access.connections = u.transfers * partsAtOnce
	s := &sending{
		upload: u, root: root, bucket: openBucket(u.access), pace: newPace(float64(u.rate)), reads: newPace(float64(u.readRate)), keys: map[string]*file{},
		etags: map[string]string{}, progress: newProgress(u.stdout),
	}
	for _, f := range files {
		if err := s.add(f); err != nil {
			return refusal{err}
		}
	}
	if err := s.checkSources(); err != nil {
		return refusal{err}
	}
	return s.run(ctx)
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

var (
	sumName  = regexp.MustCompile(`^[a-z][a-z0-9]{1,15}$`)
	sumValue = regexp.MustCompile(`^[0-9a-f]{2,128}$`)
)

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
		case u.Size < 0 || seen[u.Name] || n > 10_000_000 || len(u.Sums) > 8:
			return nil, fmt.Errorf("read the list: line %d: %s: twice, of negative size, with too many sums, or one too many", n, u.Name)
		}
		for name, value := range u.Sums {
			if !sumName.MatchString(name) || !sumValue.MatchString(value) || name == "mtime" {
				return nil, fmt.Errorf("read the list: line %d: %s: %.20q is no sum in lower-case hex", n, u.Name, name)
			}
		}
		seen[u.Name] = true
		files = append(files, u)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the list: %w", err)
	}
	if len(files) == 0 {
		return nil, errors.New("read the list: it is empty")
	}
	return files, nil
}

// few joins the first five.
func few(s []string) string {
	if len(s) > 5 {
		return strings.Join(s[:5], "; ") + fmt.Sprintf("; and %d more", len(s)-5)
	}
	return strings.Join(s, "; ")
}
