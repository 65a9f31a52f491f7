package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/drivers/docker"
)

// verb is something that this binary does on a node's machine: "@self NAME …".
type verb struct {
	Name, Usage string
	Run         func(ctx context.Context, args []string, stdout, stderr io.Writer) int
}

var verbs = []verb{
	{"look", "--db DIR [--log FILE] [--program PATH …] [--service UNIT]  print what there is, as JSON", verbLook},
	{"stopped", "--unit|--container|--log …  wait for the node's end and say whether it was clean", verbStopped},
	{"signal", "--container NAME --id ID --started TIME  ask a container to stop", verbSignal},
	{"start", "--rpc PORT --wait D --container NAME … | -- ARGV…  start the node and see that it stays", verbStart},
	{"live", "DIR --to FILE  write the list of the database's live files", verbLive},
	{"unchanged", "DIR --copy DIR --list FILE  see that nothing opened the database since", verbUnchanged},
	{"head", "height|hash DIR [--snapdb BOOL]  print the head of a copy", verbHead},
}

// fail turns an error into an exit code, and says it on stderr.
func fail(stderr io.Writer, err error) int {
	if err == nil {
		return core.ExitDone
	}
	fmt.Fprintln(stderr, err)
	switch {
	case errors.Is(err, errDirty), errors.Is(err, errDamaged):
		return core.ExitAgain
	case errors.Is(err, errRefused), errors.Is(err, errUnknown), errors.Is(err, docker.ErrSignal):
		return core.ExitRefused
	}
	return 1
}

func usage(stderr io.Writer, err error) int {
	if !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(stderr, err)
	}
	return 2
}

func verbLive(_ context.Context, args []string, _, stderr io.Writer) int {
	fs := flags("live", stderr)
	to := fs.String("to", "", "the list to write")
	rest, err := parse(fs, args, 1)
	if err != nil {
		return usage(stderr, err)
	}
	list, err := liveSet(rest[0])
	if err != nil {
		return fail(stderr, err)
	}
	return fail(stderr, writeList(*to, list))
}

// writeList writes the list as JSON lines; a reader sees the old one or the new one.
func writeList(path string, list []liveFile) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make the copy's folder: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".live-*")
	if err != nil {
		return fmt.Errorf("write the live list: %w", err)
	}
	defer os.Remove(f.Name())
	w := bufio.NewWriter(f)
	enc := json.NewEncoder(w)
	for _, l := range list {
		if err = enc.Encode(l); err != nil {
			break
		}
	}
	for _, done := range []func() error{w.Flush, f.Sync, f.Close} {
		if e := done(); err == nil {
			err = e
		}
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write the live list: %w", err)
	}
	return nil
}

func readList(path string) ([]liveFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the live list: %w", err)
	}
	defer f.Close()
	var list []liveFile
	for dec := json.NewDecoder(bufio.NewReader(f)); ; {
		var l liveFile
		if err := dec.Decode(&l); err == io.EOF {
			return list, nil
		} else if err != nil {
			return nil, fmt.Errorf("read the live list: %w", err)
		}
		if l.Name == "" || l.Name != filepath.Base(l.Name) {
			return nil, fmt.Errorf("the live list holds %q, which is no name of a file", l.Name)
		}
		list = append(list, l)
	}
}

func verbUnchanged(_ context.Context, args []string, _, stderr io.Writer) int {
	fs := flags("unchanged", stderr)
	copied := fs.String("copy", "", "the copy")
	list := fs.String("list", "", "the live list that the copy was made by")
	rest, err := parse(fs, args, 1)
	if err != nil {
		return usage(stderr, err)
	}
	return fail(stderr, unchanged(rest[0], *copied, *list))
}

// unchanged sees that nobody opened the database while it was copied: whatever opens a LevelDB
// begins a new manifest and points CURRENT at it. Its supervisor may have, or a person.
func unchanged(db, copied, listPath string) error {
	release, err := lockShared(db)
	if errors.Is(err, errRefused) {
		return fmt.Errorf("the node was started while its data was copied: %w", errDirty)
	}
	if err != nil {
		return err
	}
	defer release()
	list, err := readList(listPath)
	if err != nil {
		return err
	}
	for _, l := range list {
		if l.Mode != modeCopy {
			continue
		}
		was, err := os.Stat(filepath.Join(copied, l.Name))
		if err != nil {
			return fmt.Errorf("look at the copy: %w", err)
		}
		is, err := os.Stat(filepath.Join(db, l.Name))
		if err != nil || is.Size() != was.Size() {
			return fmt.Errorf("%s changed while it was copied, so the node was started: %w", l.Name, errDirty)
		}
	}
	was, err := os.ReadFile(filepath.Join(copied, "CURRENT"))
	if err != nil {
		return fmt.Errorf("read the copy: %w", err)
	}
	is, err := os.ReadFile(filepath.Join(db, "CURRENT"))
	if err != nil || !bytes.Equal(is, was) {
		return fmt.Errorf("CURRENT changed while it was copied, so the node was started: %w", errDirty)
	}
	return nil
}

func verbHead(_ context.Context, args []string, stdout, stderr io.Writer) int {
	fs := flags("head", stderr)
	snapdb := fs.String("snapdb", "", "refuse a copy that is, or is not, made by a state dump")
	rest, err := parse(fs, args, 2)
	if err != nil {
		return usage(stderr, err)
	}
	h, err := readHead(rest[1])
	if err != nil {
		return fail(stderr, err)
	}
	if *snapdb != "" && *snapdb != strconv.FormatBool(h.SnapDB) {
		return fail(stderr, fmt.Errorf("condition.is_snapdb is %s and the copy says %t: %w", *snapdb, h.SnapDB, errRefused))
	}
	switch rest[0] {
	case "height":
		fmt.Fprintln(stdout, h.Height)
	case "hash":
		fmt.Fprintf(stdout, "0x%x\n", h.Hash)
	default:
		return usage(stderr, fmt.Errorf("head knows height and hash, not %q", rest[0]))
	}
	return 0
}

// verbStart starts a node that nobody watches over, and succeeds when it answers, or when it
// still holds its database open at the end of the wait: a large one takes minutes to answer.
// After a dirty stop a Harmony node may die once while it repairs itself; whoever
// pays this undo tries again.
func verbStart(ctx context.Context, args []string, _, stderr io.Writer) int {
	fs := flags("start", stderr)
	rpc := fs.Int("rpc", 9500, "port of the node's RPC")
	db := fs.String("db", "", "the database's directory")
	wait := fs.Duration("wait", 30*time.Second, "how long to watch")
	c := containerFlags(fs)
	stop := fs.Duration("stop", time.Minute, "how long the container's stop may take, where that still goes on")
	if err := fs.Parse(args); err != nil {
		return usage(stderr, err)
	}
	argv := fs.Args()
	if (len(argv) == 0) == (c.Name == "") {
		return usage(stderr, errors.New("start needs --container, or a command after --"))
	}
	begin := func() error { return launchNode(ctx, argv) }
	if c.Name != "" {
		begin = func() error { return c.Start(ctx, *stop, 0) }
	}
	if err := begin(); err != nil {
		return fail(stderr, err)
	}
	end := time.Now().Add(*wait)
	for time.Now().Before(end) && ctx.Err() == nil {
		if conn, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(*rpc)), time.Second); err == nil {
			conn.Close()
			return 0
		}
		time.Sleep(pollEvery)
	}
	// Where the lock can't be seen, its state is nothing to fail for: whether the node comes back
	// is looked at anyway.
	if p, err := lockHolder(*db); err != nil || p != nil {
		return 0
	}
	return fail(stderr, fmt.Errorf("the node was started and neither answers on port %d nor has its database open", *rpc))
}

// launchNode runs the command that starts the node. What it prints goes to a file without a
// name: the node inherits it and may keep it for good, so a pipe would never end.
func launchNode(ctx context.Context, argv []string) error {
	said, err := os.CreateTemp("", "snapfw-start-*")
	if err != nil {
		return fmt.Errorf("make a file for the start command's output: %w", err)
	}
	defer said.Close()
	if err := os.Remove(said.Name()); err != nil {
		return fmt.Errorf("make a file for the start command's output: %w", err)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Run(); err != nil {
		b := make([]byte, 2048)
		n, _ := said.ReadAt(b, 0)
		return fmt.Errorf("start the node with %s: %w: %s", argv[0], err, bytes.TrimSpace(b[:n]))
	}
	return nil
}
