package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/capture"
)

// maxTorrentBytes is more than the torrent of a file of 4 TB needs.
const maxTorrentBytes = 48 << 20

// otherFolders lie below snapshots/ and are not published.
var otherFolders = map[string]bool{"forkable": true}

// walkSnapshots lists the files of a datadir's snapshots folder and reads the torrents and the
// settings among them. It follows no links and creates nothing: Erigon itself would make a datadir of
// any path that is mistyped.
func walkSnapshots(ctx context.Context, datadir string, torrents bool) (checkInput, error) {
	in := checkInput{Torrents: torrents}
	err := eachFile(ctx, datadir, false, func(name string, st *unix.Stat_t, _ bool) error {
		in.Files = append(in.Files, checkFileOf(name, st))
		return nil
	})
	if err != nil {
		return in, err
	}
	if err := in.read(filepath.Join(datadir, "snapshots")); err != nil || !torrents {
		return in, err
	}
	return in, in.addKept(filepath.Join(datadir, ".snapfw", "torrents.jsonl"))
}

// addKept adds the torrents that releases keep for views, where none lies beside the data. Those whose data is gone are forgotten by the next release.
func (in *checkInput) addKept(sumsFile string) error {
	root, err := os.OpenRoot(torrentStore(sumsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at the torrents that releases keep: %w", err)
	}
	defer root.Close()
	beside := make(map[string]bool, len(in.Files))
	for _, f := range in.Files {
		beside[f.Name] = true
	}
	for _, f := range slices.Clone(in.Files) {
		name := f.Name + torrentExt
		if beside[name] || parseReason(f.Name) != "" {
			continue
		}
		info, err := root.Lstat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return fmt.Errorf("look at the torrents that releases keep: %w", err)
		case !info.Mode().IsRegular():
			continue
		}
		kept := checkFile{Name: name, Size: info.Size(), Time: info.ModTime(), Mode: info.Mode()}
		kept.Torrent, kept.Damage = loadTorrent(root, name, kept.Size)
		in.Files = append(in.Files, kept)
	}
	return nil
}

// walkLive is walkSnapshots where a node may be merging, which removes files.
func walkLive(ctx context.Context, datadir string) (in checkInput, err error) {
	for range 10 {
		if in, err = walkSnapshots(ctx, datadir, false); !errors.Is(err, errWentAway) {
			break
		}
	}
	return in, err
}

func checkFileOf(name string, st *unix.Stat_t) checkFile {
	mode := fs.ModeIrregular
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		mode = fs.FileMode(st.Mode).Perm()
	}
	return checkFile{Name: name, Size: st.Size, Time: time.Unix(0, st.Mtim.Nano()), Mode: mode}
}

// errWentAway: a file was there and is gone while the folder is looked at.
var errWentAway = errors.New("something works on this datadir")

// eachFile tells do of every file below snapshots/ by its relative name. published is false for what lies in hidden folders and others
// that nobody publishes; these are walked over only if all is true.
func eachFile(ctx context.Context, datadir string, all bool, do func(name string, st *unix.Stat_t, published bool) error) error {
	dir := filepath.Join(datadir, "snapshots")
	within := "" // the folder that is not published, and "/"
	err := capture.Walk(dir, func(name string, st *unix.Stat_t, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && name == "":
			return fmt.Errorf("%s is no datadir: there is no %s", datadir, dir)
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("%s went away while it was looked at: %w", name, errWentAway)
		case err != nil:
			return &fs.PathError{Op: "look at", Path: path.Join(dir, name), Err: err}
		case ctx.Err() != nil:
			return ctx.Err()
		}
		published := within == "" || !strings.HasPrefix(name, within)
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return do(name, st, published)
		}
		if published && (otherFolders[name] || strings.HasPrefix(path.Base(name), ".")) {
			if within = name + "/"; !all {
				return fs.SkipDir
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	return nil
}

// read reads what the rules look into: the settings, and torrents where they are wanted.
func (in *checkInput) read(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open snapshots: %w", err)
	}
	defer root.Close()
	for i, f := range in.Files {
		if !f.Mode.IsRegular() {
			continue
		}
		if in.Torrents {
			if _, partial, ok := torrentOf(f.Name); ok && !partial {
				in.Files[i].Torrent, in.Files[i].Damage = loadTorrent(root, f.Name, f.Size)
			}
		}
		if f.Name == "erigondb.toml" {
			if in.Settings, err = readSmall(root, f.Name, 64<<10); err != nil {
				return fmt.Errorf("look at %s: %w", dir, err)
			}
		}
	}
	return nil
}

func loadTorrent(root *os.Root, name string, size int64) (*torrentFile, string) {
	if size > maxTorrentBytes {
		return nil, fmt.Sprintf("it has %d bytes", size)
	}
	body, err := readSmall(root, name, maxTorrentBytes)
	if err != nil {
		return nil, err.Error()
	}
	t, err := parseTorrent(body)
	if err != nil {
		return nil, err.Error()
	}
	return &t, ""
}

func readSmall(root *os.Root, name string, most int64) ([]byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	body, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(body)) > most {
		err = fmt.Errorf("%s has more than %d bytes", name, most)
	}
	return body, err
}

const checkUsage = `check --datadir DIR [--no-torrents | --live [--new-salts]] [--block-txnum N | --erigon PROGRAM] [--skip JSON] [--json]
looks at the files of DIR/snapshots, by name, size and torrent. Exit code 0: nothing stands in the
way of a release, 3: something does. --live is for a node that runs: only what neither it nor retire
nor index will put right, and with --new-salts no word of the salts.`

// checkVerb is the host verb "check". With --json every finding is a line on stdout.
func checkVerb(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("check", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprintln(stderr, checkUsage) }
	datadir := flags.String("datadir", "", "")
	without := flags.Bool("no-torrents", false, "")
	live := flags.Bool("live", false, "")
	newSalts := flags.Bool("new-salts", false, "")
	asJSON := flags.Bool("json", false, "")
	skip := flags.String("skip", "", "")
	erigon := flags.String("erigon", "", "")
	var txnum uint64
	flags.Func("block-txnum", "", func(s string) (err error) {
		txnum, err = strconv.ParseUint(s, 10, 64)
		return err
	})
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if *datadir == "" || flags.NArg() > 0 {
		flags.Usage()
		return 2
	}
	var skips []skipRule
	var err error
	if *skip != "" {
		skips, err = readSkips(json.RawMessage(`{"skip_checks":` + *skip + `}`))
	}
	if err == nil {
		var in checkInput
		if *live {
			in, err = walkLive(ctx, *datadir)
		} else {
			in, err = walkSnapshots(ctx, *datadir, !*without)
		}
		if err == nil {
			if in.BlockTxNum = txnum; txnum == 0 && *erigon != "" {
				in.BlockTxNum = askTxNum(ctx, *erigon, *datadir, in, stderr)
			}
			all := check(in, skips)
			if *live {
				inv := newInventory(in)
				all = slices.DeleteFunc(all, func(f checkFinding) bool { return !inv.stays(f) || *newSalts && f.Rule == "salt" })
			}
			says := "nothing stands in the way of a release"
			if *live {
				says = "nothing is found that retire and index would leave as it is"
			}
			return printFindings(all, fmt.Sprintf("%d files, %s", len(in.Files), says), *asJSON, stdout, stderr)
		}
	}
	fmt.Fprintln(stderr, err)
	return 1
}

var maxTxNum = regexp.MustCompile(`\bmax_txnum=([0-9]+)`)

// askTxNum asks Erigon's `seg txnum`, which takes no lock, for the first transaction number after the last block file.
// An Erigon that can't tell leaves the rule that needs it without an answer, which is said.
func askTxNum(ctx context.Context, program, datadir string, in checkInput, stderr io.Writer) uint64 {
	var last uint64
	for _, f := range in.Files {
		if name, reason := parse(f.Name); reason == "" && name.Family == familyBlock && name.Type == "headers" && name.Ext == "seg" {
			last = max(last, name.To*1000)
		}
	}
	if last == 0 {
		return 0
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	var said limited
	cmd := exec.CommandContext(ctx, program, "seg", "txnum", "--datadir", datadir, "--block", strconv.FormatUint(last-1, 10))
	cmd.Stdout, cmd.Stderr = &said, &said
	err := cmd.Run()
	if found := maxTxNum.FindStringSubmatch(said.String()); err == nil && found != nil {
		if n, err := strconv.ParseUint(found[1], 10, 64); err == nil {
			return n + 1
		}
	}
	fmt.Fprintf(stderr, "whether state is ahead of blocks is not checked: seg txnum --block %d does not tell (%v)\n", last-1, err)
	return 0
}

// findingsOfRule are as many of one rule as are printed for people.
const findingsOfRule = 3

// printFindings writes findings and returns the verb's exit code. well is said where none refuses.
func printFindings(all []checkFinding, well string, asJSON bool, stdout, stderr io.Writer) int {
	out := json.NewEncoder(stdout)
	out.SetEscapeHTML(false)
	var bad, warned []string
	for _, f := range all {
		if f.Severity == severityRefuse {
			bad = append(bad, f.brief())
		} else {
			warned = append(warned, f.Rule)
		}
		if asJSON {
			if err := out.Encode(f); err != nil {
				fmt.Fprintln(stderr, err)
				return 1
			}
		}
	}
	if !asJSON {
		printForPeople(all, stdout)
	}
	if len(bad) > 0 { // one line: a run's error is made of it
		some := bad[:min(len(bad), 3)]
		fmt.Fprintf(stderr, "findings that stand in the way of a release: %s%s\n", strings.Join(some, "; "), more(len(bad)-len(some)))
		return core.ExitRefused
	}
	known := "" // a release shows its steps' standard error
	if len(warned) > 0 {
		known = "; for your information: " + strings.Join(slices.Compact(warned), ", ")
	}
	fmt.Fprintln(stderr, well+known)
	return core.ExitDone
}

// printForPeople writes a line for each finding; of many of one rule it counts those after the first ones.
func printForPeople(all []checkFinding, stdout io.Writer) {
	type kind struct {
		rule string
		does severity
	}
	of, printed := map[kind]int{}, map[kind]int{}
	for _, f := range all {
		of[kind{f.Rule, f.Severity}]++
	}
	for _, f := range all {
		k := kind{f.Rule, f.Severity}
		if printed[k]++; printed[k] > findingsOfRule {
			if left := of[k] - findingsOfRule; printed[k] == findingsOfRule+1 {
				fmt.Fprintf(stdout, "%s %s: and %d more; --json prints all\n", f.Severity, f.Rule, left)
			}
			continue
		}
		fix := ""
		if f.Fix != "" {
			fix = "; repair: " + f.Fix
		}
		fmt.Fprintf(stdout, "%s %s %q: %s%s\n", f.Severity, f.Rule, f.File, f.Text, fix)
	}
}

// brief is a finding that refuses, for an error.
func (f checkFinding) brief() string {
	text := fmt.Sprintf("%s: %s (%s", f.File, f.Text, f.Rule)
	if f.Fix != "" {
		text += "; repair: snapfw fix " + f.Fix
	}
	return strings.TrimPrefix(text, ": ") + ")"
}
