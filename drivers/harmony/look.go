package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// look is what the verb of this name prints: what the login user sees of a node's machine.
type look struct {
	Now      time.Time         // by the host's clock
	User     string            // who looks
	UID      int               //
	DB       found             // the database's directory
	Current  bool              // it holds a CURRENT
	Sharded  bool              // there is a harmony_sharddb_<shard> instead
	Holder   *process          `json:",omitempty"` // who has the database open, where that can be seen
	Log      *found            `json:",omitempty"` // the node's log, where one was asked for
	Journal  bool              // the login user can read systemd's journal
	Programs map[string]string // absolute paths of those that are there: "systemctl", "docker"
	Unusable []string          `json:",omitempty"` // programs asked for by path that can't be run, and why
	Refused  []string          `json:",omitempty"` // commands for the service that sudo does not allow
}

// found is a file or directory. Err says why it could not be seen.
type found struct {
	Path  string
	Err   string `json:",omitempty"`
	Owner string `json:",omitempty"` // name; "" for a uid without one
	UID   int
	Size  int64
	Inode uint64
}

func verbLook(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	fs := flags("look", stderr)
	db := fs.String("db", "", "the database's directory")
	log := fs.String("log", "", "the node's log")
	service := fs.String("service", "", "unit that has to be stopped and started")
	var programs words
	fs.Var(&programs, "program", "absolute path of a program that has to be there")
	if _, err := parse(fs, args, 0); err != nil {
		return usage(stderr, err)
	}
	l, err := lookAround(*db, *log, programs)
	if err != nil {
		return fail(stderr, err)
	}
	if l.Programs["systemctl"] != "" {
		l.Journal = journalReadable(ctx)
		if *service != "" && l.UID != 0 {
			l.Refused = refused(ctx, l.Programs["systemctl"], *service)
		}
	}
	return printJSON(stdout, stderr, l)
}

func lookAround(db, log string, programs []string) (look, error) {
	l := look{Now: time.Now(), UID: os.Getuid(), Programs: map[string]string{}}
	l.User = nameOf(l.UID)
	db, err := expand(db)
	if err != nil {
		return l, err
	}
	l.DB = find(db)
	_, err = os.Stat(filepath.Join(db, "CURRENT"))
	l.Current = err == nil
	l.Holder, err = lockHolder(db)
	if err != nil {
		l.Holder = nil // it is the better for being known, and no more
	}
	shard := strings.TrimPrefix(filepath.Base(db), "harmony_db_")
	_, err = os.Stat(filepath.Join(filepath.Dir(db), "harmony_sharddb_"+shard))
	l.Sharded = err == nil && l.DB.Err != ""
	if log != "" {
		f := find(log)
		l.Log = &f
	}
	for _, name := range []string{"systemctl", "docker"} {
		if p, err := exec.LookPath(name); err == nil && filepath.IsAbs(p) {
			l.Programs[name] = p
		}
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			l.Unusable = append(l.Unusable, err.Error())
		}
	}
	return l, nil
}

// refused asks sudo, without running them, for the commands by which a plan stops and starts a unit.
func refused(ctx context.Context, systemctl, unit string) []string {
	var no []string
	for _, verb := range []string{"stop", "start"} {
		if exec.CommandContext(ctx, "sudo", "-n", "-l", "--", systemctl, verb, unit).Run() != nil {
			no = append(no, strings.Join([]string{systemctl, verb, unit}, " "))
		}
	}
	return no
}

// expand replaces a leading ~ by the login user's home.
func expand(path string) (string, error) {
	rest, ok := strings.CutPrefix(path, "~")
	if !ok {
		return filepath.Clean(path), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the home of %s: %w", path, err)
	}
	return filepath.Join(home, rest), nil
}

func find(path string) found {
	f := found{Path: path}
	info, err := os.Stat(path)
	if err != nil {
		f.Err = "is not there"
		if !errors.Is(err, os.ErrNotExist) {
			f.Err = "can't be seen: " + err.Error()
		}
		return f
	}
	f.Size = info.Size()
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		f.UID, f.Inode = int(st.Uid), st.Ino
		f.Owner = nameOf(f.UID)
	}
	return f
}

func nameOf(uid int) string {
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return ""
	}
	return u.Username
}

// words is a flag that may be given several times.
type words []string

func (w *words) String() string     { return strings.Join(*w, " ") }
func (w *words) Set(s string) error { *w = append(*w, s); return nil }

// flags makes a flag set that reports to stderr and never exits.
func flags(name string, stderr io.Writer) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(stderr)
	return fs
}

// parse reads flags that may stand before and after exactly n words, up to a "--".
func parse(fs *flag.FlagSet, args []string, n int) ([]string, error) {
	var rest []string
	for {
		if err := fs.Parse(args); err != nil {
			return nil, err
		}
		args = fs.Args()
		if len(args) == 0 || len(rest) == n {
			break
		}
		rest, args = append(rest, args[0]), args[1:]
	}
	if len(rest) != n || len(args) != 0 {
		return nil, fmt.Errorf("%s takes %d words besides its flags", fs.Name(), n)
	}
	return rest, nil
}

func printJSON(stdout, stderr io.Writer, v any) int {
	if err := json.NewEncoder(stdout).Encode(v); err != nil {
		return fail(stderr, fmt.Errorf("print: %w", err))
	}
	return 0
}
