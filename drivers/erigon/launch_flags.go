package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// flagRule is one thing that a snapshotter's command line has to say. Of several names, as versions spell them,
// the first that is given counts.
type flagRule struct {
	Names []string
	Want  string // "true", "false", another value, or "*" for any
	Why   string
}

var flagRules = []flagRule{
	{[]string{"chain"}, "*", "without it Erigon runs mainnet"},
	{[]string{"no-downloader"}, "true", "the downloader puts files aside that were built anew and that its torrents and lists do not know (issues 21324, 21522); only the first sync runs with it"},
	{[]string{"prune.mode"}, "archive", "all history is published, and what is pruned is never built again"},
	{[]string{"persist.receipts", "experiment.persist.receipts.v2"}, "true", "without it there is no rcache; it is remembered in chaindata from the first start on"},
	{[]string{"snap.stop"}, "false", "with it no new block files are made"},
	{[]string{"snap.state.stop"}, "false", "with it no new state files are made"},
	{[]string{"downloader.verify"}, "false", "it fetches what differs from the network over what was built here"},
}

// Caplin's archive, as 3.x and 2.60 spell it.
var (
	caplinRules = []flagRule{
		{[]string{"caplin.blocks-archive"}, "true", "without it there are no beaconblocks"},
		{[]string{"caplin.states-archive"}, "true", "without it there are no caplin tables"},
		{[]string{"caplin.blobs-archive"}, "true", "without it there are no blobsidecars"},
	}
	oldCaplinRules = []flagRule{
		{[]string{"caplin.archive", "caplin.states-archive"}, "true", "without it there are no caplin tables"},
		{[]string{"caplin.backfilling"}, "true", "without it there are no beaconblocks"},
		{[]string{"caplin.backfilling.blob"}, "true", "without it there are no blobsidecars"},
	}
)

// flagFinding is what was found of one rule.
type flagFinding struct {
	Flag   string `json:"flag"`
	Want   string `json:"want"`
	Got    string `json:"got"` // "" if it is not given
	OK     bool   `json:"ok"`
	Excuse bool   `json:"excused,omitempty"`
	Why    string `json:"why"`
}

// launchFlags looks at how the node runs, or was saved to run. It declines where something must change.
func launchFlags(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	f := flag.NewFlagSet("launch flags", flag.ContinueOnError)
	f.SetOutput(stderr)
	datadir := f.String("datadir", "", "Erigon's data folder")
	chain := f.String("for-chain", "", "print the command for a new snapshotter of this chain")
	asJSON := f.Bool("json", false, "print JSON")
	excuse := f.String("excuse", "", "flags that this chain does without, by comma")
	if err := f.Parse(args); err != nil {
		return errUsage
	}
	if f.NArg() > 0 || *datadir == "" && *chain == "" {
		fmt.Fprintln(stderr, launchUsage)
		return errUsage
	}
	if *chain != "" {
		return printCommand(*chain, *datadir, stdout)
	}
	if err := isDatadir(*datadir); err != nil {
		return err
	}
	l, from, err := anyLaunch(*datadir)
	if err != nil {
		return err
	}
	found, notes := judgeFlags(l, helpOf(ctx, l), strings.Split(*excuse, ","))
	if err := printFlags(stdout, found, notes, from, *asJSON); err != nil {
		return err
	}
	var must []string
	for _, f := range found {
		if !f.OK && !f.Excuse {
			must = append(must, "--"+f.Flag)
		}
	}
	if len(must) > 0 {
		return declinef("erigon on %s is not launched as a snapshotter has to be: %s; launch flags --for-chain NAME prints a whole command", *datadir, strings.Join(must, ", "))
	}
	return nil
}

// anyLaunch is how the node runs, else how it was saved to run.
func anyLaunch(datadir string) (l launch, from string, err error) {
	p, err := lockHolder(datadir)
	if err != nil {
		return l, "", err
	}
	if p != nil {
		if argv := argvOf(p.PID); len(argv) > 0 && toolOf(argv) == "" {
			if status, err := statusOf(p.PID); err == nil {
				l.UID = status.UID
			}
			l.Argv, l.Dir, l.Exe = argv, link(fmt.Sprint(p.PID), "cwd"), link(fmt.Sprint(p.PID), "exe")
			return l, "running", nil
		}
	}
	l, err = readLaunch(datadir)
	return l, "saved", err
}

// flagsOf reads a command line. A flag that stands alone is "true". The file that --config names is read too, and
// what the command line says goes before it, as with Erigon.
func flagsOf(l launch) (flags map[string]string, notes []string) {
	flags = map[string]string{}
	argv := l.Argv[min(1, len(l.Argv)):]
	for i := 0; i < len(argv); i++ {
		w := argv[i]
		if !strings.HasPrefix(w, "-") {
			continue
		}
		name, value, joined := strings.Cut(strings.TrimLeft(w, "-"), "=")
		switch {
		case joined:
		case i+1 < len(argv) && !strings.HasPrefix(argv[i+1], "-"):
			value = argv[i+1]
		default:
			value = "true"
		}
		flags[name] = value
	}
	file := flags["config"]
	if file == "" {
		return flags, nil
	}
	if !filepath.IsAbs(file) {
		file = filepath.Join(l.Dir, file)
	}
	more, err := readFlagFile(file)
	if err != nil {
		return flags, []string{fmt.Sprintf("flags in %s were not looked at: %v", file, err)}
	}
	for name, value := range more {
		if _, given := flags[name]; !given {
			flags[name] = value
		}
	}
	return flags, nil
}

// readFlagFile reads the YAML form of Erigon's --config: flags by name.
func readFlagFile(file string) (map[string]string, error) {
	if ext := filepath.Ext(file); ext != ".yaml" && ext != ".yml" {
		return nil, fmt.Errorf("%q is not read here", ext)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return nil, err
	}
	var values map[string]any
	if err := yaml.Unmarshal(b, &values); err != nil {
		return nil, fmt.Errorf("it is no YAML of flags by name") // the error would quote it
	}
	flags := map[string]string{}
	for name, v := range values {
		flags[name] = fmt.Sprint(v)
	}
	return flags, nil
}

// judgeFlags applies the rules. help is what the program says of its flags, "" if it said nothing.
func judgeFlags(l launch, help string, excuse []string) (found []flagFinding, notes []string) {
	flags, notes := flagsOf(l)
	rules := slices.Clone(flagRules)
	old := flags["caplin.archive"] != "" || flags["caplin.backfilling"] != ""
	switch {
	case flags["externalcl"] == "true":
		notes = append(notes, "--externalcl: Caplin does not run, so this snapshotter makes no beaconblocks, blobsidecars and caplin tables")
	case strings.Contains(help, "--caplin.blocks-archive"), !strings.Contains(help, "--caplin.archive") && !old:
		rules = append(rules, caplinRules...)
	default:
		rules = append(rules, oldCaplinRules...)
	}
	for _, r := range rules {
		got := ""
		name := r.Names[0]
		for _, n := range slices.Backward(r.Names) {
			if v, given := flags[n]; given {
				name, got = n, v
			}
		}
		ok := got == r.Want || r.Want == "*" && got != "" || r.Want == "false" && got == ""
		found = append(found, flagFinding{Flag: name, Want: r.Want, Got: clipped(got, 60), OK: ok, Excuse: !ok && slices.Contains(excuse, r.Names[0]), Why: r.Why})
	}
	return found, notes
}

// helpOf asks the program for its flags, since their spelling changes. It is run in an empty environment, away from the datadir.
func helpOf(ctx context.Context, l launch) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if !filepath.IsAbs(l.Exe) || l.UID != os.Geteuid() {
		return "" // root runs nobody else's program
	}
	cmd := exec.CommandContext(ctx, l.Exe, "--help")
	cmd.Env, cmd.Dir = []string{"PATH=/usr/bin:/bin"}, os.TempDir()
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	w := &atMost{w: &out, left: 1 << 20}
	cmd.Stdout, cmd.Stderr = w, w
	if cmd.Run() != nil {
		return ""
	}
	return out.String()
}

// atMost drops what is too much.
type atMost struct {
	w    io.Writer
	left int
}

func (a *atMost) Write(b []byte) (int, error) {
	n := min(len(b), a.left)
	a.left -= n
	if _, err := a.w.Write(b[:n]); err != nil {
		return 0, err
	}
	return len(b), nil
}

func printFlags(w io.Writer, found []flagFinding, notes []string, from string, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		return e.Encode(struct {
			From  string        `json:"from"` // running, saved
			Flags []flagFinding `json:"flags"`
			Notes []string      `json:"notes"`
		}{from, found, notes})
	}
	for _, f := range found {
		want := map[string]string{"true": "given", "false": "not given", "*": "given"}[f.Want]
		if want == "" {
			want = f.Want
		}
		got := f.Got
		if got == "" {
			got = "not given"
		}
		switch {
		case f.OK:
			fmt.Fprintf(w, "ok      --%s: %s\n", f.Flag, got)
		case f.Excuse:
			fmt.Fprintf(w, "excused --%s: %s, want %s: %s\n", f.Flag, got, want, f.Why)
		default:
			fmt.Fprintf(w, "CHANGE  --%s: %s, want %s: %s\n", f.Flag, got, want, f.Why)
		}
	}
	for _, n := range notes {
		fmt.Fprintf(w, "note    %s\n", n)
	}
	return nil
}

var chainName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,40}$`)

// printCommand prints how a new snapshotter of a chain is launched.
func printCommand(chain, datadir string, w io.Writer) error {
	if !chainName.MatchString(chain) {
		return declinef("%.60q is no name of a chain", chain)
	}
	if datadir == "" {
		datadir = "/erigon-data"
	}
	words := []string{"erigon", "--datadir=" + quoted(datadir), "--chain=" + chain, "--prune.mode=archive", "--persist.receipts"}
	for _, r := range caplinRules {
		words = append(words, "--"+r.Names[0])
	}
	words = append(words, "--http.addr=127.0.0.1", "--http.api=eth,erigon,web3,net,debug")
	line := strings.Join(words, " \\\n  ")
	fmt.Fprintf(w, "# the first sync fetches what is published:\n%s\n\n# from then on, without a downloader that would put aside what is built here:\n%s \\\n  --no-downloader\n", line, line)
	return nil
}

func quoted(s string) string {
	if regexp.MustCompile(`^[A-Za-z0-9/._-]+$`).MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
