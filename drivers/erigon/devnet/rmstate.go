package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func rmStateFlags(f *flag.FlagSet) {
	f.String("step", "", "")
	f.Bool("latest", false, "")
	f.Bool("recentStep", false, "")
	f.Bool("dry-run", false, "")
	f.Var(&list{}, "domain", "")
}

var errAnswered = errors.New("exit 0")

func runRmState(r *segRun) error {
	err := r.d.rmState(rmRequest{
		latest: r.on("latest") || r.on("recentStep"), dry: r.on("dry-run"), step: r.str("step"), domains: *r.flags.Lookup("domain").Value.(*list),
		in: r.stdin, out: r.stdout, deaf: r.behave.is("rm-eof"), less: r.behave.is("rm-removes-less"),
	})
	if errors.Is(err, errAnswered) {
		return nil // os.Exit(0): "no", and rubbish or the end of the input, are no errors
	}
	return err
}

// rmRequest is DeleteStateSnapshots' arguments.
type rmRequest struct {
	latest, dry bool
	step        string
	domains     []string
	in          io.Reader
	out         io.Writer
	deaf        bool // acts as if its input had ended
	less        bool // leaves one file of what it should remove
}

// rmState removes files of state. Without step and latest it removes all that match, and asks nobody.
func (d *datadir) rmState(q rmRequest) error {
	for _, name := range q.domains {
		if !slices.Contains(stateTypes, name) && !slices.Contains(traceTypes, name) {
			return fmt.Errorf("unknown domain name: %s", name)
		}
	}
	files, roots, err := d.stateFiles(q)
	if err != nil {
		return err
	}
	remove := files
	if q.step != "" || q.latest {
		if remove, err = q.chosen(files, roots); err != nil {
			return err
		}
	}
	if q.less && !q.dry && len(remove) > 0 {
		remove = remove[1:]
	}
	for _, f := range remove {
		if q.dry {
			fmt.Fprintf(q.out, "[dry-run] rm %s\n[dry-run] rm %s.torrent\n", d.snap(f.name), d.snap(f.name))
			continue
		}
		d.remove(f.name)
	}
	n := len(remove)
	if q.dry {
		n = 0
	}
	fmt.Fprintf(q.out, "removed %d state snapshot segments files\n", n)
	d.rmTmp(q)
	fmt.Fprintf(q.out, "\n\nBefore restarting Erigon, run one of:\n  - `integration stage_custom_trace --reset` if deleted domains are handled by stage_custom_trace\n"+
		"  - `integration stage_exec --reset` otherwise\nThis prunes DB remnants to avoid gaps between snapshots and DB.\n")
	return nil
}

// stateFiles are the candidates, and commitment's files with the trie's root. A domain matches as a part of the file's name.
func (d *datadir) stateFiles(q rmRequest) (files, roots []file, err error) {
	all, _, err := d.list()
	for _, f := range all {
		if !f.isState() {
			continue
		}
		if f.typ == "commitment" && f.ext == "kv" && (len(q.domains) == 0 || slices.Contains(q.domains, "commitment")) {
			fmt.Fprintf(q.out, "found state key with kvi %s\n", d.snap(f.name))
			roots = append(roots, f)
		}
		if len(q.domains) == 0 || slices.ContainsFunc(q.domains, func(n string) bool { return strings.Contains(filepath.Base(f.name), n) }) {
			files = append(files, f)
		}
	}
	return files, roots, err
}

// chosen asks, and then takes what --step or --latest mean.
func (q rmRequest) chosen(files, roots []file) (remove []file, err error) {
	var from, to, maxFrom, maxTo uint64
	for _, f := range files {
		maxFrom, maxTo = max(maxFrom, f.from), max(maxTo, f.to)
	}
	if q.step != "" {
		if _, err := fmt.Sscanf(q.step, "%d-%d", &from, &to); err != nil {
			return nil, fmt.Errorf("step expected in format from-to, got %s", q.step)
		}
		q.latest = false
	}
	if q.latest {
		if !q.yes(fmt.Sprintf("remove latest snapshot files (stepFrom>=%d) and files ending at stepTo=%d?\n1) RemoveFile\n4) Exit\n (pick number): ", maxFrom, maxTo)) {
			return nil, errAnswered
		}
		from, to = maxFrom, math.MaxUint64
	}
	if from == to {
		if !q.yes("remove ALL snapshot files?\n\t1) RemoveFile\n\t4) NONONO (Exit)\n (pick number): ") {
			return nil, errAnswered
		}
		from, to = 0, math.MaxUint64
	} else {
		kept := 0
		for _, f := range roots {
			what := "REMOVE "
			if f.to <= from {
				what, kept = "KEEP   ", kept+1
			}
			fmt.Fprintln(q.out, what+f.name)
		}
		if kept == 0 && len(roots) > 0 {
			fmt.Fprintf(q.out, "this will remove ALL commitment files with state trie\n")
			if !q.yes("Do that anyway?\n\t1) RemoveFile\n\t4) NONONO (Exit)\n (pick number): ") {
				return nil, errAnswered
			}
		}
	}
	for _, f := range files {
		if f.from >= from && f.to <= to || q.latest && f.to == maxTo {
			remove = append(remove, f)
		}
	}
	return remove, nil
}

// yes asks until it gets a 1 or a 4; anything that is no number, and the end of the input, means no.
func (q rmRequest) yes(question string) bool {
	for {
		fmt.Fprintf(q.out, "\n%s", question)
		var answer uint8
		err := io.EOF
		if !q.deaf {
			_, err = fmt.Fscanf(q.in, "%d\n", &answer)
		}
		switch {
		case err != nil:
			fmt.Fprintf(q.out, "err: %v\n", err)
			return false
		case answer == 1:
			return true
		case answer == 4:
			return false
		}
		fmt.Fprintf(q.out, "invalid input: %d; Just a number 1 or 4 expected.\n", answer)
	}
}

// rmTmp removes every .tmp file.
func (d *datadir) rmTmp(q rmRequest) {
	n := 0
	for _, dir := range snapFolders {
		left, _ := filepath.Glob(filepath.Join(d.snap(dir), "*.tmp"))
		for _, path := range left {
			if n++; q.dry {
				fmt.Fprintf(q.out, "[dry-run] rm %s\n", path)
				continue
			}
			os.Remove(path)
		}
	}
	if n > 0 {
		fmt.Fprintf(q.out, "removed %d .tmp files\n", n)
	}
}
