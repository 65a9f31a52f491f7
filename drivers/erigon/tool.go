package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// tool is Erigon's own programs at work on one datadir that no Erigon runs on.
type tool struct {
	verb    string
	datadir string
	program string // absolute
	chain   string // "" if nobody said it
	skip    []skipRule

	stdout, stderr io.Writer
}

// toolFlags are the flags that the verbs have in common.
type toolFlags struct {
	*flag.FlagSet
	datadir, program, chain, skip string
}

// newToolFlags begins a verb's flags. program is "erigon" or "integration": the flag's name, and its value by default.
func newToolFlags(verb, program string) *toolFlags {
	f := &toolFlags{FlagSet: flag.NewFlagSet(verb, flag.ContinueOnError)}
	f.StringVar(&f.program, program, program, "the program: a name in PATH, or a path")
	f.StringVar(&f.chain, "chain", "", "the chain's name")
	f.StringVar(&f.skip, "excuse", "", "skip_checks of the configuration, as JSON: findings that are known of this chain")
	return f
}

// open parses the arguments and declines what must not be begun: a path that is no datadir (Erigon would make one of it), a program
// that is not there, a datadir that a process works on.
func (f *toolFlags) open(args []string, stdout, stderr io.Writer) (*tool, error) {
	if err := parseWords(f.FlagSet, args, &f.datadir, stderr); err != nil {
		return nil, err
	}
	t := &tool{verb: f.Name(), datadir: filepath.Clean(f.datadir), chain: f.chain, stdout: stdout, stderr: stderr}
	if f.skip != "" {
		var err error
		if t.skip, err = readSkips(json.RawMessage(`{"skip_checks":` + f.skip + `}`)); err != nil {
			return nil, declinef("--excuse: %v", err)
		}
	}
	db := filepath.Join(t.datadir, "chaindata", "mdbx.dat")
	if _, err := os.Stat(db); err != nil {
		return nil, declinef("there is no %s: name the data folder of an Erigon that has run; its programs would begin a new database", db)
	}
	var err error
	if t.program, err = findProgram(f.program); err != nil {
		return nil, err
	}
	return t, t.unused()
}

// unused declines a datadir that a process works on.
func (t *tool) unused() error {
	holder, err := lockIsHeld(t.datadir)
	if err != nil || holder == nil {
		return err
	}
	if name := toolOf(argvOf(holder.PID)); name != "" {
		return declinef("%s works on %s (%s): wait for it, or end it with SIGINT", name, t.datadir, holder)
	}
	return declinef("erigon is running on %s (%s): stop it first", t.datadir, holder)
}

// findProgram returns the absolute path of a program that can be executed.
func findProgram(name string) (string, error) {
	if name == "" {
		return "", declinef("the program's name is empty: give its path")
	}
	path, err := exec.LookPath(name)
	if errors.Is(err, exec.ErrDot) {
		err = nil
	}
	if err != nil {
		return "", declinef("there is no program %s that can be executed: give its absolute path", name)
	}
	return filepath.Abs(path)
}

// sibling finds another program of Erigon beside the one that was given, else in PATH.
func (t *tool) sibling(name, given string) (*tool, error) {
	if given == "" {
		given = name
		if beside := filepath.Join(filepath.Dir(t.program), name); isExecutable(beside) {
			given = beside
		}
	}
	path, err := findProgram(given)
	if err != nil {
		return nil, err
	}
	other := *t
	other.program = path
	return &other, nil
}

func isExecutable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// say writes a line for people.
func (t *tool) say(format string, args ...any) { fmt.Fprintf(t.stderr, format+"\n", args...) }

// progress writes a line for the one that runs us.
func (t *tool) progress(done, total int64) {
	b, err := json.Marshal(struct {
		Done  int64 `json:"done"`
		Total int64 `json:"total"`
	}{done, total})
	if err == nil {
		t.stdout.Write(append(b, '\n'))
	}
}

// help is what a command prints about its flags. Erigon's flags and names change with every release, so they are looked up
// and never written down here.
func (t *tool) help(ctx context.Context, words ...string) (string, error) {
	cmd := exec.CommandContext(ctx, t.program, append(words, "--help")...)
	var out limited
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("ask %s for its flags: %w: %s", filepath.Base(t.program), err, clipped(strings.TrimSpace(out.String()), 200))
	}
	return out.String(), nil
}

// limited keeps the first MiB.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	l.Buffer.Write(p[:min(len(p), max(0, 1<<20-l.Len()))])
	return len(p), nil
}

// hasFlag tells whether a help text knows a flag. Both of Erigon's libraries write "--name" before a space, a comma or "=".
func hasFlag(help, name string) bool {
	for _, w := range strings.FieldsFunc(help, func(r rune) bool { return r == ' ' || r == ',' || r == '=' || r == '\n' || r == '\t' }) {
		if w == "--"+name {
			return true
		}
	}
	return false
}
