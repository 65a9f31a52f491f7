package capture

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/snapfw/snapfw/core"
)

// exitUsage is for a command line that is wrong.
const exitUsage = 2

const usage = `usage: snapfw-host capture VERB FLAGS

  check --from DIR --to COPY [--never PATTERN]... [--method M]
        will it work? Prints {"method","files","bytes","need","free"}
  warm  --from DIR --to COPY [--method M] [--rate N] [--workers N]
        copy beforehand, where files can be neither cloned nor linked
  take  --from DIR --to COPY --list FILE [--method M] [--workers N]
        copy what the live list names. Prints what captured.json says
  seal  --to COPY [--sums FILE] [--verify full|sample:PERCENT] [--rate N] [--workers N]
        bring it to the disk, hash it, write COPY/entries.jsonl
  drop  --to COPY [--linked]
        remove it; with --linked only if it is linked or cloned

COPY is PARENT/.snapfw/NAME for a database PARENT/NAME. Method: auto, clone, link, copy.
Rates are bytes a second. Exit codes: 0 done, 2 usage, 3 refused, 1 anything else.
`

// Main is "snapfw-host capture VERB …". Progress and a last line with the verb's result go to
// stdout as JSON, the reason of a failure to stderr. SIGTERM and SIGINT end it in order.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return exitUsage
	}
	c, err := parse(args[0], args[1:])
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage)
		return core.ExitDone
	}
	if err != nil {
		fmt.Fprintf(stderr, "capture: %v\n%s", err, usage)
		return exitUsage
	}
	out := &lines{w: bufio.NewWriter(stdout)}
	result, err := c.run(ctx, out.progress)
	if err == nil && result != nil {
		err = out.print(result)
	}
	return verdict(args[0], err, stderr)
}

func verdict(verb string, err error, stderr io.Writer) int {
	if err == nil {
		return core.ExitDone
	}
	fmt.Fprintf(stderr, "capture %s: %v\n", verb, err)
	var refused *RefusedError
	if errors.As(err, &refused) {
		return core.ExitRefused
	}
	return 1
}

// call is a verb with its flags.
type call struct {
	verb             string
	from, to, list   string
	sums             string
	never            patterns
	method           Method
	rate             int64
	workers          int
	verify           float64
	linked           bool
	methodS, verifyS string
}

// patterns collects a flag that is given several times.
type patterns []string

func (p *patterns) String() string     { return strings.Join(*p, " ") }
func (p *patterns) Set(s string) error { *p = append(*p, s); return nil }

func parse(verb string, args []string) (*call, error) {
	c := &call{verb: verb}
	need := c.flags(verb)
	if need == nil {
		if verb == "help" || verb == "-h" || verb == "--help" {
			return nil, flag.ErrHelp
		}
		return nil, fmt.Errorf("there is no verb %q", verb)
	}
	for {
		if err := need.set.Parse(args); err != nil {
			return nil, err
		}
		args = need.set.Args()
		if len(args) == 0 {
			break
		}
		if verb != "check" || len(c.never) == 0 {
			return nil, fmt.Errorf("%q is no flag of %s", args[0], verb)
		}
		c.never, args = append(c.never, args[0]), args[1:] // --never A B C
	}
	for _, name := range need.given {
		if need.set.Lookup(name).Value.String() == "" {
			return nil, fmt.Errorf("%s needs --%s", verb, name)
		}
	}
	return c, c.values()
}

type flags struct {
	set   *flag.FlagSet
	given []string // must not be empty
}

// flags returns the flags of a verb, or nil.
func (c *call) flags(verb string) *flags {
	f := &flags{set: flag.NewFlagSet(verb, flag.ContinueOnError), given: []string{"to"}}
	f.set.SetOutput(io.Discard)
	f.set.StringVar(&c.to, "to", "", "")
	source := func() {
		f.set.StringVar(&c.from, "from", "", "")
		f.set.StringVar(&c.methodS, "method", "", "")
		f.given = append(f.given, "from")
	}
	effort := func() { f.set.IntVar(&c.workers, "workers", 0, "") }
	switch verb {
	case "check":
		source()
		f.set.Var(&c.never, "never", "")
	case "warm":
		source()
		effort()
		f.set.Int64Var(&c.rate, "rate", readRate(), "")
	case "take":
		source()
		effort()
		f.set.StringVar(&c.list, "list", "", "")
		f.given = append(f.given, "list")
	case "seal":
		effort()
		f.set.Int64Var(&c.rate, "rate", readRate(), "")
		f.set.StringVar(&c.sums, "sums", "", "")
		f.set.StringVar(&c.verifyS, "verify", "", "")
	case "drop":
		f.set.BoolVar(&c.linked, "linked", false, "")
	default:
		return nil
	}
	return f
}

// readRate is the limit that snapfw sets for all of a run's jobs.
func readRate() int64 {
	n, err := strconv.ParseInt(os.Getenv("SNAPFW_READ_RATE"), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func (c *call) values() (err error) {
	if c.rate < 0 || c.workers < 0 {
		return errors.New("--rate and --workers are not negative")
	}
	if c.method, err = ParseMethod(c.methodS); err != nil {
		return err
	}
	if c.verify, err = ParseVerify(c.verifyS); err != nil {
		return err
	}
	var refused *RefusedError
	if _, err := checkTo(c.to); err != nil && !errors.As(err, &refused) {
		return err
	}
	return nil
}

func (c *call) run(ctx context.Context, progress Progress) (any, error) {
	switch c.verb {
	case "check":
		return Check(ctx, CheckOptions{From: c.from, To: c.to, Never: c.never, Method: c.method})
	case "warm":
		return Warm(ctx, WarmOptions{From: c.from, To: c.to, Method: c.method, Workers: c.workers, Rate: c.rate, Progress: progress})
	case "take":
		return Take(ctx, TakeOptions{From: c.from, To: c.to, List: c.list, Run: os.Getenv("SNAPFW_RUN"), Method: c.method, Workers: c.workers, Progress: progress})
	case "seal":
		return Seal(ctx, SealOptions{To: c.to, Sums: c.sums, Verify: c.verify, Workers: c.workers, Rate: c.rate, Progress: progress})
	default: // parse lets nothing else through
		return nil, Drop(c.to, c.linked, os.Getenv("SNAPFW_RUN"))
	}
}

// lines writes JSON lines.
type lines struct {
	mu sync.Mutex
	w  *bufio.Writer
}

func (l *lines) print(v any) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := json.NewEncoder(l.w).Encode(v); err != nil {
		return err
	}
	return l.w.Flush()
}

// progress drops errors: whoever reads may be gone, and the work goes on.
func (l *lines) progress(done, total int64) {
	_ = l.print(core.Progress{Done: done, Total: total})
}
