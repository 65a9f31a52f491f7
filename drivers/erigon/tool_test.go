package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// devnet is the folder with the stand-in under its three names; it is built once.
var devnet = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "erigon-devnet-*")
	if err != nil {
		return "", err
	}
	devnetDir = dir
	out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "snapfw-erigon-devnet"), "./devnet").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build the stand-in: %w: %s", err, out)
	}
	for _, name := range []string{"erigon", "integration", "downloader"} {
		if err := os.Symlink("snapfw-erigon-devnet", filepath.Join(dir, name)); err != nil {
			return "", err
		}
	}
	return dir, nil
})

var devnetDir string // removed at the end

// standIn is a datadir of the stand-in's.
type standIn struct {
	t    testing.TB
	bin  string
	dir  string
	snap string
}

func newStandIn(t *testing.T, flags ...string) *standIn {
	t.Helper()
	bin, err := devnet()
	if err != nil {
		t.Fatal(err)
	}
	d := &standIn{t: t, bin: bin, dir: filepath.Join(memoryFolder(t), "D")}
	d.snap = filepath.Join(d.dir, "snapshots")
	args := append([]string{"fill", "--datadir", d.dir, "--blocks", "12000", "--steps", "7", "--slots", "50", "--unit-bytes", "64"}, flags...)
	d.call("snapfw-erigon-devnet", args...)
	return d
}

// call runs one of the stand-in's programs and returns what it printed.
func (d *standIn) call(name string, args ...string) string {
	d.t.Helper()
	out, err := exec.Command(filepath.Join(d.bin, name), args...).CombinedOutput()
	if err != nil {
		d.t.Fatalf("%s %s: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func (d *standIn) behave(words string) {
	d.t.Helper()
	if err := os.WriteFile(filepath.Join(d.dir, "behave"), []byte(words), 0o644); err != nil {
		d.t.Fatal(err)
	}
}

// names are the files in snapshots/, with what tells whether they are still the same.
func (d *standIn) names() map[string]seen {
	d.t.Helper()
	all, err := (&tool{datadir: d.dir}).look(context.Background())
	if err != nil {
		d.t.Fatal(err)
	}
	return all
}

type toolResult struct {
	exit           int
	stdout, stderr string
}

// last is the last line on stderr: the reason.
func (r toolResult) last() string {
	lines := strings.Split(strings.TrimSpace(r.stderr), "\n")
	return lines[len(lines)-1]
}

// run calls a verb; the program that it needs is the stand-in's.
func (d *standIn) run(ctx context.Context, verb toolVerb, program string, args ...string) toolResult {
	var out, errs bytes.Buffer
	args = append([]string{"--datadir", d.dir, "--" + program, filepath.Join(d.bin, program)}, args...)
	exit := runTool(ctx, args, &out, &errs, verb)
	return toolResult{exit, out.String(), errs.String()}
}

func (d *standIn) erigon(verb toolVerb, args ...string) toolResult {
	return d.run(context.Background(), verb, "erigon", args...)
}

func (d *standIn) integration(verb toolVerb, args ...string) toolResult {
	return d.run(context.Background(), verb, "integration", args...)
}

func TestMain(m *testing.M) {
	settle = 50 * time.Millisecond
	code := m.Run()
	if devnetDir != "" {
		os.RemoveAll(devnetDir)
	}
	os.Exit(code)
}

func (r toolResult) want(t *testing.T, exit int, reason string) {
	t.Helper()
	if r.exit != exit || !strings.Contains(r.last(), reason) {
		t.Errorf("exit %d, %q; want %d, %q\nall: %s", r.exit, r.last(), exit, reason, r.stderr)
	}
}

// TestToolSequence goes the way of a release: retire, index, integrity; and clear-indexes between.
func TestToolSequence(t *testing.T) {
	t.Parallel()
	d := newStandIn(t, "--ahead", "9500")
	d.call("downloader", "torrent_create", "--datadir", d.dir)
	before := d.names()
	d.erigon(retire).want(t, 0, "")
	after := d.names()
	gone, came, _ := changed(before, after)
	if len(gone) == 0 || !slices.Contains(came, "v1.1-000010-000020-headers.seg") || !slices.Contains(gone, "v1.1-000011-000012-headers.seg") {
		t.Fatalf("retire merged nothing: %v came, %v went", came, gone)
	}
	for name := range after {
		if data, _, ok := torrentOf(name); ok {
			if _, there := after[data]; !there {
				t.Errorf("%s is left without its data", name)
			}
		}
	}
	salt := after["salt-state.txt"]
	d.erigon(clearIndexes).want(t, 0, "files removed")
	if n := countExt(d.names(), "kvei", "bt", "idx", "efi", "vi", "kvi", "txt"); n != 0 {
		t.Errorf("%d indexes or salts are left", n)
	}
	d.erigon(index).want(t, 0, "indexed")
	if d.names()["salt-state.txt"] == salt {
		t.Error("the salt is the old one")
	}
	r := d.erigon(integrity, "--budget", "1h", "--sample", "0.5", "--seed", "7")
	r.want(t, 0, "checks passed: Publishable")
	if !strings.Contains(r.stderr, "--seed 7") {
		t.Errorf("the seed is not told: %s", r.stderr)
	}
	d.call("downloader", "torrent_create", "--datadir", d.dir)
	if all, err := walkSnapshots(t.Context(), d.dir, true); err != nil || refused(check(all, nil)) {
		t.Errorf("%v %v", err, check(all, nil))
	}
}

func countExt(files map[string]seen, exts ...string) (n int) {
	for name := range files {
		if slices.Contains(exts, strings.TrimPrefix(filepath.Ext(name), ".")) {
			n++
		}
	}
	return n
}

// TestToolRefusesFirst: nothing is begun, and nothing is made, for what can't be right.
func TestToolRefusesFirst(t *testing.T) {
	t.Parallel()
	d := newStandIn(t)
	typo := filepath.Join(t.TempDir(), "typo")
	plain := filepath.Join(t.TempDir(), "erigon")
	if err := os.WriteFile(plain, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	bare := t.TempDir()
	if err := os.Mkdir(filepath.Join(bare, "snapshots"), 0o755); err != nil {
		t.Fatal(err)
	}
	good := filepath.Join(d.bin, "erigon")
	for _, c := range []struct {
		args   []string
		exit   int
		reason string
	}{
		{[]string{"--datadir", typo, "--erigon", good}, 3, "name the data folder"},
		{[]string{"--datadir", bare, "--erigon", good}, 3, "chaindata/mdbx.dat"},
		{[]string{"--datadir", "D", "--erigon", good}, 3, "absolute"},
		{[]string{"--datadir", d.dir, "--erigon", filepath.Join(d.bin, "nothing")}, 3, "no program"},
		{[]string{"--datadir", d.dir, "--erigon", plain}, 3, "no program"},
		{[]string{"--datadir", d.dir, "--erigon", ""}, 3, "give its path"},
		{[]string{"--erigon", good}, 2, ""},
		{[]string{"--datadir", d.dir, "more"}, 2, ""},
		{[]string{"--datadir", d.dir, "--fail-fast"}, 2, ""},
	} {
		for _, verb := range []toolVerb{retire, index, clearIndexes, integrity} {
			var out, errs bytes.Buffer
			exit := runTool(t.Context(), c.args, &out, &errs, verb)
			toolResult{exit, out.String(), errs.String()}.want(t, c.exit, c.reason)
		}
	}
	for _, dir := range []string{typo, filepath.Join(bare, "chaindata")} {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s was made", dir)
		}
	}
}

// TestToolRunningErigon: a datadir whose lock is held, by the node or by another of Erigon's commands.
func TestToolRunningErigon(t *testing.T) {
	t.Parallel()
	d := newStandIn(t)
	node := d.start("erigon", "--datadir", d.dir, "--http.port", "0", "--no-downloader")
	before := d.names()
	for name, verb := range map[string]toolVerb{"retire": retire, "index": index, "clear-indexes": clearIndexes, "integrity": integrity} {
		r := d.erigon(verb)
		r.want(t, 3, fmt.Sprintf("erigon is running on %s (pid %d): stop it first", d.dir, node.Process.Pid))
		if r.exit != 3 {
			t.Errorf("%s", name)
		}
	}
	d.integration(compactDomains).want(t, 3, "stop it first")
	d.stop(node)
	if gone, _, _ := changed(before, d.names()); len(gone) > 0 {
		t.Errorf("files are gone: %v", gone)
	}
	d.behave("slow=20s")
	other := d.start("erigon", "seg", "integrity", "--datadir", d.dir)
	d.erigon(retire).want(t, 3, "wait for it")
	d.stop(other)
}

// start starts a program and waits until it holds the lock.
func (d *standIn) start(name string, args ...string) *exec.Cmd {
	d.t.Helper()
	cmd := exec.Command(filepath.Join(d.bin, name), args...)
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	d.until("the lock is held", func() bool {
		p, err := lockHolder(d.dir)
		return err == nil && p != nil && p.PID == cmd.Process.Pid
	})
	return cmd
}

func (d *standIn) stop(cmd *exec.Cmd) {
	d.t.Helper()
	cmd.Process.Signal(unix.SIGINT)
	cmd.Wait()
}

func (d *standIn) until(what string, so func() bool) {
	d.t.Helper()
	for end := time.Now().Add(20 * time.Second); !so(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			d.t.Fatalf("never: %s", what)
		}
	}
}

// TestToolFalseGreens: each way in which Erigon's commands fail, or end well without having done it.
func TestToolFalseGreens(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, behave string
		verb         toolVerb
		program      string
		args         []string
		exit         int
		reason       string
	}{
		// Budgets that end count as passed, and so does a check that is in the middle.
		{"I20714", "budget", integrity, "erigon", nil, 1, "budget exhausted"},
		{"I20714, its own clock", "slow=30ms", integrity, "erigon", []string{"--budget", "40ms"}, 1, "budget exhausted"},
		{"filtered", "filtered", integrity, "erigon", nil, 1, "nothing was checked"},
		{"failFast that warns", "failfast-warn,integrity-fails=Blocks", integrity, "erigon", nil, 1, "Blocks: told to fail"},
		{"a check fails", "integrity-fails=InvertedIndex", integrity, "erigon", nil, 1, "InvertedIndex: told to fail"},
		{"unknown check", "", integrity, "erigon", []string{"--check", "Nonsense"}, 3, "no check Nonsense"},
		{"unknown skip", "", integrity, "erigon", []string{"--skip", "Nonsense"}, 3, "no check Nonsense"},
		{"hostile check", "", integrity, "erigon", []string{"--check", "--datadir=/"}, 2, ""},
		{"all skipped", "", integrity, "erigon", []string{"--check", "Blocks", "--skip", "Blocks"}, 1, "nothing was checked"},
		{"some", "", integrity, "erigon", []string{"--check", "Blocks,StateVerify"}, 0, "2 checks passed: Blocks StateVerify"},
		{"skipped by order", "", integrity, "erigon", []string{"--skip", "RCacheNoDups", "--skip", "Blocks"}, 0, "12 checks passed"},
		{"older versions log no end", "no-done-lines", integrity, "erigon", nil, 0, "14 checks passed"},

		// A kill in the middle of a merge leaves half of it; and Done is logged by commands that fail.
		{"I10485", "retire-crash", retire, "erigon", nil, 1, "the program crashed"},
		{"overlap", "retire-leaves-overlap", retire, "erigon", nil, 1, "remove_overlaps"},
		{"index fails", "index-crash", index, "erigon", nil, 1, "make room"},
		{"index leaves one", "index-leaves-one", index, "erigon", nil, 1, "it has no index"},
		{"rebuild up to 3.4", "rebuild-panics", index, "erigon", []string{"--rebuild"}, 1, "can't do that"},
		{"clear leaves one", "clear-leaves-one", clearIndexes, "erigon", nil, 1, "salt-state.txt is still there"},

		{"rm-state EOF", "rm-eof", rmState, "erigon", []string{"--latest"}, 1, "did nothing"},
		{"rm-state removes less", "rm-removes-less", rmState, "erigon", []string{"--latest"}, 1, "is still there"},
		{"rm-state without steps", "", rmState, "erigon", nil, 3, "removes every file"},
		{"rm-state of an empty range", "", rmState, "erigon", []string{"--step", "5-5"}, 3, "all of them"},
		{"rm-state of both", "", rmState, "erigon", []string{"--step", "4-6", "--latest"}, 3, "ignore"},
		{"rm-state of nothing", "", rmState, "erigon", []string{"--step", "100-200", "--domain", "receipt"}, 3, "nothing matches"},
		{"rm-state of a hostile range", "", rmState, "erigon", []string{"--step", "1-2 --latest"}, 3, "needs --step"},
		{"rm-state of an unknown domain", "", rmState, "erigon", []string{"--latest", "--domain", "nonsense"}, 1, "exit status 1"},
		{"rm-state of all commitment", "", rmState, "erigon", []string{"--step", "0-8", "--domain", "commitment"}, 3, "use rebuild-commitment"},

		{"integration exits 0", "integration-fails", compactDomains, "integration", nil, 1, "permission denied"},
		{"integration does nothing", "integration-does-nothing", compactDomains, "integration", nil, 1, "replaced no file"},
		{"rebuild does nothing", "integration-does-nothing", rebuildCommitment, "integration", nil, 1, "wrote no file"},
		{"rebuild fails", "integration-fails", rebuildCommitment, "integration", nil, 1, "permission denied"},
		{"regen does nothing", "integration-does-nothing", regen, "integration", []string{"--domain", "receipt"}, 1, "has to reach 7"},
		{"regen fails", "integration-fails", regen, "integration", []string{"--domain", "logaddrs,receipt"}, 1, "permission denied"},
		{"exec does nothing", "integration-does-nothing", regen, "integration", []string{"--domain", "accounts"}, 1, "as before"},
		{"regen of commitment", "", regen, "integration", []string{"--domain", "commitment"}, 3, "rebuild-commitment"},
		{"regen of nothing", "", regen, "integration", nil, 3, "say which domains"},
		{"regen of both", "", regen, "integration", []string{"--domain", "receipt,code"}, 3, "one after the other"},
		{"wrong chain", "", compactDomains, "integration", []string{"--chain", "sepolia"}, 1, "database is of"},
		{"compact of no domain", "", compactDomains, "integration", []string{"--domain", "logaddrs"}, 3, "there is no domain"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := newStandIn(t)
			d.behave(c.behave)
			r := d.run(t.Context(), c.verb, c.program, c.args...)
			r.want(t, c.exit, c.reason)
		})
	}
}

// TestToolLogs: the whole log is kept for its owner's eyes, the last ten of a verb, and progress is told.
func TestToolLogs(t *testing.T) {
	t.Parallel()
	d := newStandIn(t, "--ahead", "2500")
	progress := d.erigon(retire).stdout
	if !strings.Contains(progress, `{"done":10000,"total":10000}`) {
		t.Errorf("no progress: %q", progress)
	}
	for range logsKept + 3 {
		d.erigon(index).want(t, 0, "indexed")
	}
	dir := filepath.Join(d.dir, ".snapfw", "logs")
	logs, err := filepath.Glob(filepath.Join(dir, "index-*.log"))
	if err != nil || len(logs) != logsKept {
		t.Fatalf("%d logs, %v", len(logs), err)
	}
	retired, err := filepath.Glob(filepath.Join(dir, "retire-*.log"))
	if err != nil || len(retired) != 1 {
		t.Fatalf("%v %v", retired, err)
	}
	for _, l := range append(logs, retired...) {
		info, err := os.Stat(l)
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("%v %v", info, err)
		}
	}
	if b, err := os.ReadFile(retired[0]); err != nil || !bytes.Contains(b, []byte("retiring blocks")) {
		t.Errorf("%s %v", b, err)
	}
}

// TestOwnHashingNotVerify is I17589, I18162 and I18601: the downloader's --verify exits with 0 on a damaged file. Our own
// hashing finds it.
func TestOwnHashingNotVerify(t *testing.T) {
	t.Parallel()
	d := newStandIn(t)
	d.call("downloader", "torrent_create", "--datadir", d.dir)
	file := filepath.Join(d.snap, "domain", "v2.0-accounts.0-4.kv")
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	body, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	body[len(body)/2] ^= 1
	if err := os.WriteFile(file, body, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	d.behave("verify-lies")
	d.call("downloader", "--verify", "--datadir", d.dir) // exits with 0
	var out, errs bytes.Buffer
	if exit := runTorrents(t.Context(), []string{"--datadir", d.dir, "--verify", "full"}, &out, &errs); exit == 0 && !strings.Contains(out.String(), "1 remade") {
		t.Errorf("exit %d: %s %s", exit, out.String(), errs.String())
	}
}

// putProgram writes a shell script that can be executed.
func putProgram(t testing.TB, path, script string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}
