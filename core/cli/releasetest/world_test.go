package releasetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/anacrolix/torrent/metainfo"

	"github.com/snapfw/snapfw/core/cli"
	"github.com/snapfw/snapfw/core/cli/clitest"
	"github.com/snapfw/snapfw/core/internal/host/sshdtest"
	"github.com/snapfw/snapfw/core/internal/review/githubtest"
	"github.com/snapfw/snapfw/sinks/r2/r2test"
)

type table = map[string]any

const (
	chainName = "erigon-mainnet"
	listKey   = "mainnet.toml"
	base      = "release/3.4"
)

// world is one scenario's own: a snapshotter, a bucket with its CDN, a review, and the configuration, which a test
// may change before it runs snapfw.
type world struct {
	t       testing.TB
	dir     string
	datadir string
	port    int
	site    *r2test.Site
	github  *githubtest.Server // nil: reviewed by hand

	config, chain table
	env           []string
}

type options struct {
	byHand bool     // no GitHub
	local  bool     // no sshd
	behave string   // what the stand-in does wrong
	blocks int      // 0 is 112,000
	still  bool     // the node makes no files of its own, and few blocks
	files  int      // at least so many tiny files, instead of blocks
	fill   []string // what the stand-in is told to fill the datadir with, instead of either
}

func newWorld(t testing.TB, o options) *world {
	t.Helper()
	if t, ok := t.(*testing.T); ok {
		t.Parallel()
	}
	w := &world{t: t, dir: t.TempDir()}
	w.datadir = w.path("erigon")
	for _, d := range []string{"home", "bin", "host"} {
		if err := os.Mkdir(w.path(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"erigon", "integration", "downloader"} {
		if err := os.Symlink(programs.Path("snapfw-erigon-devnet"), w.path("bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	if o.blocks == 0 {
		o.blocks = 112_000
	}
	size := []string{"--blocks", fmt.Sprint(o.blocks), "--steps", "70"}
	if o.files > 0 {
		size = []string{"--files", fmt.Sprint(o.files)}
	}
	if len(o.fill) > 0 {
		size = o.fill
	}
	w.must(w.command(programs.Path("snapfw-erigon-devnet"), append([]string{"fill", "--datadir", w.datadir}, size...)...))
	w.site = r2test.New(t)
	w.start(o)
	w.configure(o)
	return w
}

func (w *world) path(names ...string) string {
	return filepath.Join(append([]string{w.dir}, names...)...)
}

func (w *world) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "HOME=" + w.path("home"), "SNAPFW_PLUGINS=" + programs.Plugins, "LANG=C.UTF-8",
		"TEST_GITHUB_TOKEN=" + githubtest.Token,
	}, w.env...)
	return cmd
}

func (w *world) must(cmd *exec.Cmd) string {
	w.t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return string(out)
}

// start runs the snapshotter as an operator would, with nohup.
func (w *world) start(o options) {
	w.t.Helper()
	var err error
	if w.port, err = clitest.FreePort(); err != nil {
		w.t.Fatal(err)
	}
	if o.behave != "" {
		w.behave(o.behave)
	}
	log, err := os.OpenFile(w.path("erigon.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		w.t.Fatal(err)
	}
	defer log.Close()
	build, tick, blocks := "100ms", "100ms", "20"
	if o.still {
		build, tick, blocks = "1h", "500ms", "1"
	}
	cmd := w.command(w.path("bin", "erigon"), "--datadir", w.datadir, "--chain", "mainnet", "--http.port", fmt.Sprint(w.port), "--no-downloader",
		"--prune.mode", "archive", "--persist.receipts", "--devnet.block-time", tick, "--devnet.blocks", blocks, "--devnet.build-time", build)
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go cmd.Wait()
	w.t.Cleanup(func() {
		if pid := w.pid(); pid > 0 {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		if w.t.Failed() {
			if body, err := os.ReadFile(w.path("home", ".local/state/snapfw/snapshot.log")); err == nil {
				w.t.Logf("snapshot.log:\n%s", last(string(body), 6000))
			}
		}
	})
	w.eventually("the node answers", func() bool { return w.height() > 0 })
}

func (w *world) behave(words string) {
	if err := os.WriteFile(filepath.Join(w.datadir, "behave"), []byte(words), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

func last(s string, n int) string { return s[max(0, len(s)-n):] }

func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(60 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("waited in vain: %s", what)
		}
	}
}

// height asks the node; 0 if it does not answer.
func (w *world) height() uint64 {
	res, err := http.Post(fmt.Sprintf("http://127.0.0.1:%d", w.port), "application/json", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"eth_blockNumber","params":[]}`))
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	var a struct{ Result string }
	if json.NewDecoder(res.Body).Decode(&a) != nil {
		return 0
	}
	n, _ := strconv.ParseUint(strings.TrimPrefix(a.Result, "0x"), 16, 64)
	return n
}

// pid is the process that holds the datadir's lock, or 0.
func (w *world) pid() int {
	var st struct{ PID int }
	out, err := w.command(filepath.Join(programs.Plugins, "snapfw-erigon"), "launch", "status", "--datadir", w.datadir, "--json").Output()
	if err != nil || json.Unmarshal(out, &st) != nil {
		return 0
	}
	return st.PID
}

func (w *world) configure(o options) {
	w.t.Helper()
	w.chain = table{
		"driver": "erigon", "datadir": w.datadir, "chain": "mainnet", "rpc_port": w.port, "sink": "bucket",
		"programs":    table{"erigon": w.path("bin", "erigon"), "integration": w.path("bin", "integration")},
		"guard_lease": "5s", "guard_margin": "5s", "stop_timeout": "1m",
	}
	sink := w.site.Config()
	sink["plugin"] = "r2"
	w.config = table{"sinks": table{"bucket": sink}, "chains": table{chainName: w.chain}}
	if o.local {
		w.chain["local"] = true
		w.config["ssh"] = table{"host_dir": w.path("host")}
	} else {
		d := sshdtest.Start(w.t, sshdtest.Options{})
		w.chain["ip"], w.chain["port"], w.chain["user"] = "127.0.0.1", d.Port, d.User
		w.config["ssh"] = table{"key": d.KeyPath, "known_hosts": []string{d.KnownHosts}, "host_dir": w.path("host"), "agent": false}
	}
	if !o.byHand {
		w.github = githubtest.New(w.t, w.path("github.git"))
		w.github.Commit(base, "README.md", []byte("lists\n"))
		w.chain["review"] = table{
			"kind": "github", "repo": githubtest.Repo, "base": base, "path": listKey, "api_url": w.github.URL, "token": "env:TEST_GITHUB_TOKEN",
			"reviewers": []string{"alice"},
		}
	}
}

// result is how a command of snapfw ended.
type result struct {
	exit     int
	out, err string
}

func (r result) String() string {
	return fmt.Sprintf("exit code %d\n%s%s", r.exit, r.out[:min(len(r.out), 1500)], last(r.err, 3000))
}

func (w *world) snapfw(args ...string) result {
	w.t.Helper()
	cmd := w.prepare(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// prepare writes the configuration and makes the command.
func (w *world) prepare(args ...string) *exec.Cmd {
	w.t.Helper()
	body, err := json.Marshal(w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(w.path("snapfw.json"), body, 0o600); err != nil {
		w.t.Fatal(err)
	}
	return w.command(programs.Path("snapfw"), append(args, "--config", w.path("snapfw.json"), "--state-dir", w.path("home", ".local/state/snapfw"))...)
}

// want runs snapfw and wants an exit code, and words in what it prints.
func (w *world) want(exit int, says string, args ...string) result {
	w.t.Helper()
	r := w.snapfw(args...)
	if r.exit != exit || !strings.Contains(r.out+r.err, says) {
		w.t.Fatalf("snapfw %s: want exit code %d and %q, got %s", strings.Join(args, " "), exit, says, r)
	}
	return r
}

// release runs one and returns the run's summary.
func (w *world) release(exit int, args ...string) cli.RunSummary {
	w.t.Helper()
	r := w.want(exit, "", append([]string{"release", "--chain", chainName, "--output", "json"}, args...)...)
	return w.summary(r)
}

func (w *world) summary(r result) cli.RunSummary {
	w.t.Helper()
	var s cli.RunSummary
	if err := json.Unmarshal([]byte(r.out), &s); err != nil {
		w.t.Fatalf("%v: %s", err, r)
	}
	return s
}

// merge lets the newest open proposal through.
func (w *world) merge() {
	w.t.Helper()
	for _, p := range w.github.Pulls() {
		if p.Open {
			w.github.Merge(p.Number)
			return
		}
	}
	w.t.Fatal("no pull request is open")
}

// published is the list that the bucket holds.
func (w *world) published() map[string]string {
	w.t.Helper()
	body, ok := w.site.Object(listKey)
	if !ok {
		return nil
	}
	names, err := parseList(body)
	if err != nil {
		w.t.Fatal(err)
	}
	return names
}

var listLine = regexp.MustCompile(`(?m)^'([^']+)' = '([0-9a-f]{40})'$`)

func parseList(body []byte) (map[string]string, error) {
	names := map[string]string{}
	for _, m := range listLine.FindAllSubmatch(body, -1) {
		names[string(m[1])] = string(m[2])
	}
	if len(names) != strings.Count(strings.TrimSpace(string(body)), "\n")+1 {
		return nil, fmt.Errorf("%d lines of %d are none of a list", strings.Count(string(body), "\n"), len(names))
	}
	return names, nil
}

func parseTorrent(body []byte) (r2test.Torrent, error) {
	m, err := metainfo.Load(bytes.NewReader(body))
	if err != nil {
		return r2test.Torrent{}, err
	}
	info, err := m.UnmarshalInfo()
	return r2test.Torrent{InfoHash: m.HashInfoBytes().HexString(), Length: info.Length, PieceLength: info.PieceLength, Pieces: info.Pieces}, err
}

func (w *world) reader(replaced ...string) *r2test.Reader {
	return w.site.Reader(w.t, r2test.Consumer{List: listKey, Parse: parseList, Torrent: parseTorrent, Replaced: replaced})
}

// whole reads everything that is listed through the CDN, as a node does.
func (w *world) whole() {
	w.t.Helper()
	report := w.reader().Stop()
	for _, b := range report.Bad {
		w.t.Errorf("a node would choke on %s", b)
	}
	if names := w.published(); len(names) == 0 || report.Torrents < len(names) {
		w.t.Errorf("%d names are published, %d torrents were read", len(names), report.Torrents)
	}
	for _, broken := range append(w.site.Broken(), w.site.Purger.Broken()...) {
		w.t.Errorf("not by the vendor's rules: %s", broken)
	}
}

// well wants the node up and making blocks.
func (w *world) well() {
	w.t.Helper()
	var at uint64
	w.eventually("the node answers", func() bool { at = w.height(); return at > 0 })
	w.eventually("the node makes blocks", func() bool { return w.height() > at })
}

// grow waits until the node has so many blocks more.
func (w *world) grow(blocks uint64) {
	w.t.Helper()
	from := w.height()
	w.eventually("the chain grows", func() bool { return w.height() >= from+blocks })
}

func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set(r2test.Header, r2test.HeaderValue)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	return io.ReadAll(res.Body)
}
