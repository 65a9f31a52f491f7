package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain makes the test's binary the programs themselves, where a test starts one.
func TestMain(m *testing.M) {
	if os.Getenv("DEVNET_CHILD") != "" {
		main()
	}
	os.Exit(m.Run())
}

// memory is a temporary folder in memory, where there is one.
func memory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "snapfw-devnet-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "D")
}

// run runs a program in this process.
func run(t *testing.T, stdin string, args ...string) (exit int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	p := &program{ctx: context.Background(), stdin: strings.NewReader(stdin), stdout: &out, stderr: &errs}
	exit = p.run("snapfw-erigon-devnet", args)
	return exit, out.String(), errs.String()
}

func must(t *testing.T, args ...string) string {
	t.Helper()
	exit, out, errs := run(t, "", args...)
	if exit != 0 {
		t.Fatalf("%v: exit %d: %s%s", args, exit, out, errs)
	}
	return out + errs
}

func filled(t *testing.T, flags ...string) string {
	t.Helper()
	dir := memory(t)
	must(t, append([]string{"fill", "--datadir", dir, "--blocks", "12000", "--steps", "7", "--slots", "50", "--unit-bytes", "64"}, flags...)...)
	return dir
}

// sums reads all files in snapshots/.
func sums(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	d := &datadir{dir: dir}
	files, odd, err := d.list()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		odd = append(odd, f.name)
	}
	for _, name := range odd {
		b, err := os.ReadFile(d.snap(name))
		if err != nil {
			t.Fatal(err)
		}
		all[name] = string(b)
	}
	return all
}

func TestSpans(t *testing.T) {
	for _, c := range []struct {
		got  []span
		want string
	}{
		{blockSpans(112), "[{0 100} {100 110} {110 111} {111 112}]"},
		{blockSpans(0), "[]"},
		{domainSpans(9072), "[{0 8192} {8192 8704} {8704 8960} {8960 9024} {9024 9056} {9056 9072}]"}, // as published
		{historySpans(600, 256), "[{0 256} {256 512} {512 576} {576 592} {592 600}]"},
		{caplinSpans(120, 50), "[{0 50} {50 100}]"},
	} {
		if fmt.Sprint(c.got) != c.want {
			t.Errorf("%v, want %s", c.got, c.want)
		}
	}
}

// TestContentIsDeterministic: two datadirs that got to the same height in different ways hold the same data; and the same
// indexes where they have the same salt.
func TestContentIsDeterministic(t *testing.T) {
	a, b := filled(t), filled(t, "--blocks", "9000", "--ahead", "3000")
	st, err := (&datadir{dir: b}).readChain()
	if err != nil {
		t.Fatal(err)
	}
	st.TxPerBlock = (7*st.StepSize + 11_999) / 12_000
	if err := (&datadir{dir: b}).writeChain(st); err != nil {
		t.Fatal(err)
	}
	must(t, "erigon", "seg", "retire", "--datadir", b)
	x, y := sums(t, a), sums(t, b)
	if !slices.Equal(slices.Sorted(maps.Keys(x)), slices.Sorted(maps.Keys(y))) {
		t.Fatalf("%v\n%v", slices.Sorted(maps.Keys(x)), slices.Sorted(maps.Keys(y)))
	}
	for name := range x {
		if x[name] != y[name] {
			t.Errorf("%s differs", name)
		}
	}
	must(t, "erigon", "seg", "clearIndexing", "--datadir", b)
	must(t, "erigon", "seg", "index", "--datadir", b)
	for name, body := range sums(t, b) {
		index := regexp.MustCompile(`\.(idx|bt|kvi|kvei|vi|efi|txt)$`).MatchString(name)
		if index == (x[name] == body) {
			t.Errorf("%s: an index is %t, and equal is %t", name, index, x[name] == body)
		}
	}
}

func TestLockAndLog(t *testing.T) {
	dir := filled(t)
	d := &datadir{dir: dir}
	if err := d.flock(); err != nil {
		t.Fatal(err)
	}
	for _, c := range segCommands {
		exit, _, errs := run(t, "", "erigon", "seg", c.names[0], "--datadir", dir)
		if locked := strings.Contains(errs, "datadir already used by another process"); locked != c.lock || locked && exit != 1 {
			t.Errorf("%s: exit %d, %s", c.names[0], exit, errs)
		}
	}
	d.unlock()
	line := regexp.MustCompile(`^\[(INFO|WARN|EROR)\] \[\d\d-\d\d\|\d\d:\d\d:\d\d\.\d{3}\] .+$`)
	_, _, errs := run(t, "", "erigon", "seg", "integrity", "--datadir", dir)
	for l := range strings.SplitSeq(strings.TrimSpace(errs), "\n") {
		if !line.MatchString(l) {
			t.Errorf("%q", l)
		}
	}
	kept, err := os.ReadFile(filepath.Join(dir, "logs", "erigon.log"))
	if err != nil || !strings.Contains(string(kept), "[integrity] snapshots are publishable") {
		t.Errorf("%s %v", kept, err)
	}
}

// TestMistypedPath: Erigon makes a whole datadir of it.
func TestMistypedPath(t *testing.T) {
	dir := memory(t)
	if exit, _, _ := run(t, "", "erigon", "seg", "retire", "--datadir", dir); exit != 1 {
		t.Errorf("exit %d", exit)
	}
	if _, err := os.Stat(filepath.Join(dir, "snapshots", "accessor")); err != nil {
		t.Error(err)
	}
}

func TestIntegrityFindsDamage(t *testing.T) {
	for name, c := range map[string]struct {
		file string
		do   func(path string) error
		want string
	}{
		"cut off":  {"v1.1-000000-000010-bodies.seg", func(p string) error { return os.Truncate(p, 100) }, "Blocks: "},
		"gone":     {"idx/v3.0-storage.4-6.ef", os.Remove, "Publishable: missing file idx/v3.0-storage.4-6.ef"},
		"no salt":  {"salt-state.txt", os.Remove, "Publishable: missing file"},
		"index":    {"domain/v2.0-commitment.0-4.kvi", func(p string) error { return os.WriteFile(p, []byte("x"), 0o644) }, "CommitmentKvi: kvi mismatch"},
		"one byte": {"history/v2.0-code.0-4.v", func(p string) error { return flip(p) }, "HistoryNoSystemTxs: "},
	} {
		dir := filled(t)
		if err := c.do(filepath.Join(dir, "snapshots", c.file)); err != nil {
			t.Fatal(err)
		}
		exit, _, errs := run(t, "", "erigon", "seg", "integrity", "--datadir", dir)
		if exit != 1 || !strings.Contains(errs, c.want) || strings.Contains(errs, "are publishable") {
			t.Errorf("%s: exit %d: %s", name, exit, errs)
		}
	}
}

func flip(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	b[len(b)/2] ^= 1
	return os.WriteFile(path, b, 0o644)
}

// TestRmState: the questions, and what no answer does.
func TestRmState(t *testing.T) {
	for name, c := range map[string]struct {
		stdin string
		args  []string
		gone  int
		says  string
	}{
		"no answer":         {"", []string{"--latest"}, 0, "err: EOF"},
		"rubbish":           {"yes\n", []string{"--latest"}, 0, "err: expected integer"},
		"no":                {"4\n", []string{"--latest"}, 0, "pick number"},
		"asked again":       {"7\n4\n", []string{"--latest"}, 0, "invalid input: 7"},
		"latest":            {"1\n", []string{"--latest"}, 44, "removed 44"},
		"dry run asks":      {"", []string{"--latest", "--dry-run"}, 0, "err: EOF"},
		"dry run":           {"1\n", []string{"--latest", "--dry-run"}, 0, "[dry-run] rm "},
		"an empty range":    {"1\n", []string{"--step", "3-3"}, 132, "remove ALL snapshot files?"},
		"all commitment":    {"1\n", []string{"--step", "0-100", "--domain", "commitment"}, 6, "this will remove ALL commitment files"},
		"a domain, no word": {"", []string{"--domain", "receipt"}, 21, "removed 21"},
		"no argument":       {"", nil, 132, "removed 132"},
	} {
		dir := filled(t)
		before := sums(t, dir)
		exit, out, errs := run(t, c.stdin, append([]string{"erigon", "seg", "rm-state", "--datadir", dir}, c.args...)...)
		if gone := len(before) - len(sums(t, dir)); exit != 0 || gone != c.gone || !strings.Contains(out, c.says) {
			t.Errorf("%s: exit %d, %d files gone: %s%s", name, exit, gone, out, errs)
		}
	}
}

func TestDatabaseSurvivesATornWrite(t *testing.T) {
	dir := filled(t)
	d := &datadir{dir: dir}
	before, err := d.readChain()
	if err != nil {
		t.Fatal(err)
	}
	st := before
	st.Head++
	if err := d.writeChain(st); err != nil {
		t.Fatal(err)
	}
	body, err := os.ReadFile(d.dbPath())
	if err != nil {
		t.Fatal(err)
	}
	_, seq, err := d.slots()
	if err != nil {
		t.Fatal(err)
	}
	body[int(seq%2)*slotSize+40] ^= 1
	if err := os.WriteFile(d.dbPath(), body, 0o644); err != nil {
		t.Fatal(err)
	}
	if after, err := d.readChain(); err != nil || after.Head != before.Head {
		t.Errorf("%v %v", after, err)
	}
}

func TestTorrents(t *testing.T) {
	dir := filled(t)
	must(t, "downloader", "torrent_create", "--datadir", dir)
	// The vector that is proven against production.
	if hashes := must(t, "downloader", "torrent_hashes", "--datadir", dir); !strings.Contains(hashes, "'erigondb.toml' = '49fd79689b9cc4e5dc7ce7b2b72f2f9bf3c668b7'\n") || !strings.HasSuffix(hashes, "'\n\n") {
		t.Error(hashes)
	}
	must(t, "downloader", "--verify", "--datadir", dir)
	if err := flip(filepath.Join(dir, "snapshots", "v1.1-000000-000010-bodies.seg")); err != nil {
		t.Fatal(err)
	}
	if exit, _, errs := run(t, "", "downloader", "--verify", "--verify.failfast", "--datadir", dir); exit != 1 || !strings.Contains(errs, "hash mismatch") {
		t.Errorf("exit %d: %s", exit, errs)
	}
	must(t, "downloader", "torrent_clean", "--datadir", dir)
	if left, err := filepath.Glob(filepath.Join(dir, "snapshots", "*", "*.torrent")); err != nil || len(left) > 0 {
		t.Errorf("%v %v", left, err)
	}
}

// TestNode: a process that makes blocks, answers, holds the lock, and ends in order.
func TestNode(t *testing.T) {
	dir := filled(t)
	node := startNode(t, dir, "--behave", "stop-takes=50ms")
	url := node.url(t)
	first := rpcHead(t, url)
	for end := time.Now().Add(10 * time.Second); rpcHead(t, url) <= first; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no new blocks")
		}
	}
	if exit, _, errs := run(t, "", "erigon", "seg", "retire", "--datadir", dir); exit != 1 || !strings.Contains(errs, "already used") {
		t.Errorf("exit %d: %s", exit, errs)
	}
	begin := time.Now()
	node.cmd.Process.Signal(unix.SIGINT)
	if err := node.cmd.Wait(); err != nil || time.Since(begin) < 50*time.Millisecond {
		t.Errorf("%v after %s", err, time.Since(begin))
	}
	if st, err := (&datadir{dir: dir}).readChain(); err != nil || st.Head <= first {
		t.Errorf("%v %v", st, err)
	}
}

func TestNodeMisbehaves(t *testing.T) {
	dir := filled(t)
	failed := startNode(t, dir, "--behave", "start-fails-once")
	if err := failed.cmd.Wait(); err == nil || failed.cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("the first start: %v", err)
	}
	node := startNode(t, dir, "--behave", "start-fails-once,stuck-stop")
	node.url(t)
	node.cmd.Process.Signal(unix.SIGINT)
	node.until(t, "Got interrupt")
	if err := node.cmd.Process.Signal(unix.Signal(0)); err != nil {
		t.Errorf("it ended: %v", err)
	}
	node.cmd.Process.Kill()
	node.cmd.Wait()
	killed := startNode(t, dir, "--behave", "killed-midmerge")
	killed.url(t)
	killed.cmd.Process.Signal(unix.SIGINT)
	killed.cmd.Wait()
	if left, err := filepath.Glob(filepath.Join(dir, "snapshots", "domain", "*.tmp")); err != nil || len(left) != 1 || killed.cmd.ProcessState.ExitCode() != 137 {
		t.Errorf("%v %v, exit %d", left, err, killed.cmd.ProcessState.ExitCode())
	}
}

type running struct {
	cmd *exec.Cmd
	log string
}

func startNode(t *testing.T, dir string, flags ...string) *running {
	t.Helper()
	log := filepath.Join(t.TempDir(), "stderr")
	f, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	args := append([]string{"erigon", "--datadir", dir, "--http.port", "0", "--no-downloader", "--prune.mode", "archive", "--persist.receipts", "--devnet.block-time", "20ms"}, flags...)
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "DEVNET_CHILD=1")
	cmd.Stderr = f
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	return &running{cmd, log}
}

func (r *running) until(t *testing.T, text string) string {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		b, err := os.ReadFile(r.log)
		if err != nil {
			t.Fatal(err)
		}
		for l := range strings.SplitSeq(string(b), "\n") {
			if strings.Contains(l, text) {
				return l
			}
		}
		if time.Now().After(end) {
			t.Fatalf("never %q: %s", text, b)
		}
	}
}

func (r *running) url(t *testing.T) string {
	t.Helper()
	_, addr, _ := strings.Cut(r.until(t, "HTTP endpoint opened"), "url=")
	return "http://" + strings.TrimSpace(addr)
}

func rpcHead(t *testing.T, url string) (n uint64) {
	t.Helper()
	ask := `[{"jsonrpc":"2.0","id":1,"method":"web3_clientVersion"},{"jsonrpc":"2.0","id":2,"method":"eth_getBlockByNumber","params":["latest",false]},{"jsonrpc":"2.0","id":3,"method":"eth_syncing","params":[]},{"jsonrpc":"2.0","id":4,"method":"no_such"}]`
	resp, err := http.Post(url, "application/json", strings.NewReader(ask))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answers []struct {
		Result json.RawMessage
		Error  *rpcError
	}
	if err := json.Unmarshal(body, &answers); err != nil || len(answers) != 4 || string(answers[2].Result) != "false" || answers[3].Error == nil || answers[3].Error.Code != -32601 {
		t.Fatalf("%s: %v", body, err)
	}
	var head struct{ Number, Hash string }
	if err := json.Unmarshal(answers[1].Result, &head); err != nil || len(head.Hash) != 66 {
		t.Fatalf("%s: %v", body, err)
	}
	if _, err := fmt.Sscanf(head.Number, "0x%x", &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func FuzzParseName(f *testing.F) {
	for _, s := range []string{"v1.1-000000-000100-headers.seg", "domain/v2.0-accounts.0-64.kv", "caplin/v1.1-000000-000050-BlockRoot.idx", "x", "../v1-0-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, ok := parseName(s); ok && got.kind.name(got.span) != s && filepath.Clean(s) == s {
			if again, ok := parseName(got.kind.name(got.span)); !ok || again.kind != got.kind || again.span != got.span {
				t.Errorf("%q gives %v, which gives %q", s, got, got.kind.name(got.span))
			}
		}
	})
}
