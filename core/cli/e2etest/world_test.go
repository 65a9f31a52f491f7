package e2etest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/snapfw/snapfw/core/internal/host/sshdtest"
)

// table is a part of a configuration.
type table = map[string]any

// world is one scenario's own: a network of nodes, an sshd for each, a bucket, and the
// configuration, which a test may change before it runs snapfw.
type world struct {
	t      *testing.T
	dir    string
	bucket string // a directory, whatever the sink calls it
	sshds  []*sshdtest.Server

	config   table
	chain    table   // config's chains.net
	machines []table // its machines, by shard
}

// options of a world; the zero value is a network of two nodes whose tables appear, and are compacted, all the time.
type options struct {
	calm bool // the nodes begin with 4 MiB each that stay, and add little
}

var (
	busy = []string{"--block-time=50ms", "--state-bytes=4096", "--write-buffer=32768", "--table-size=32768", "--level-size=65536"}
	calm = []string{"--block-time=200ms", "--state-bytes=256", "--write-buffer=4194304", "--table-size=262144", "--look-back=5"}
)

func newWorld(t *testing.T, o options) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	w.bucket = w.path("bucket")
	t.Cleanup(w.nothingLeft)
	for _, d := range []string{"bucket", "hooks", "home", "bin"} {
		if err := os.Mkdir(w.path(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w.network(o)
	w.machinery()
	w.configure()
	t.Cleanup(w.tellMore)
	return w
}

func (w *world) path(names ...string) string {
	return filepath.Join(append([]string{w.dir}, names...)...)
}

// network starts the nodes, and writes the scripts that stop and start them for snapfw.
func (w *world) network(o options) {
	w.t.Helper()
	kind := busy
	if o.calm {
		kind = calm
		for i, n := range shards {
			w.devnet("fill", "--shard", fmt.Sprint(i), "--datadir", w.path("net", n, "data", fmt.Sprintf("harmony_db_%d", i)),
				"--blocks", "64", "--bytes", fmt.Sprint(4<<20), "--table-size", fmt.Sprint(256<<10), "--settle")
		}
	}
	w.devnet(append([]string{"up", "--dir", w.path("net"), "--shards", "2", "--detach", "--"}, kind...)...)
	w.t.Cleanup(func() { w.devnet("down", "--dir", w.path("net")) })
	w.t.Cleanup(func() {
		for _, n := range shards {
			w.release(n)
		}
	})
	for _, n := range shards {
		hook := w.path("hooks", n)
		w.script(hook+".stop", `%[1]s ctl --dir %[2]s stop %[3]s || exit
[ ! -e %[4]s.while-down ] || sh %[4]s.while-down
echo down >%[4]s.down
while [ -e %[4]s.hold ]; do sleep 0.05; done
`, devnetPath, w.path("net"), n, hook)
		w.script(hook+".start", `[ ! -e %[4]s.before-start ] || sh %[4]s.before-start
exec %[1]s ctl --dir %[2]s start %[3]s --wait 20s
`, devnetPath, w.path("net"), n, hook)
	}
}

func (w *world) script(path, format string, args ...any) {
	w.t.Helper()
	if err := os.WriteFile(path, fmt.Appendf([]byte("#!/bin/sh\n"), format, args...), 0o755); err != nil {
		w.t.Fatal(err)
	}
}

var shards = []string{"shard0", "shard1"}

// hold makes a node stay down once it is stopped, as one with much to copy does, until it is
// released, or until what runs is ended.
func (w *world) hold(node string) { w.write(w.path("hooks", node+".hold"), "") }

func (w *world) release(node string) { os.Remove(w.path("hooks", node+".hold")) }

// isHeld tells whether a node was stopped.
func (w *world) isHeld(node string) bool { return exists(w.path("hooks", node+".down")) }

func (w *world) write(path, body string) {
	w.t.Helper()
	if err := os.WriteFile(path, []byte(body), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// machinery starts the sshds. A crontab of this world's own stands in for the machine's: guards
// leave lines there.
func (w *world) machinery() {
	w.t.Helper()
	pub, err := sshdtest.WriteKey(w.path("id"), "")
	if err != nil {
		w.t.Fatal(err)
	}
	w.script(w.path("bin", "crontab"), `case "$1" in
-l) cat %[1]s 2>/dev/null || { echo "no crontab for you" >&2; exit 1; } ;;
-) cat >%[1]s.new && mv %[1]s.new %[1]s ;;
esac
`, w.path("crontab"))
	authorized := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pub)))
	for range shards {
		w.sshds = append(w.sshds, sshdtest.Start(w.t, sshdtest.Options{
			Authorized: []string{authorized},
			Config:     []string{"LogLevel ERROR", "SetEnv HOME=" + w.path("bin") + " PATH=" + w.path("bin") + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		}))
	}
}

func (w *world) configure() {
	w.t.Helper()
	var net struct {
		Nodes []struct {
			Name, DataDir, Log string
			Shard, Port        int
		}
	}
	readJSON(w.t, w.path("net", "network.json"), &net)
	known := []string{}
	for i, n := range net.Nodes {
		known = append(known, w.sshds[i].KnownHosts)
		w.machines = append(w.machines, table{
			"shard": n.Shard, "ip": "127.0.0.1", "port": w.sshds[i].Port, "db_directory": n.DataDir, "rpc_port": n.Port, "stop_timeout": "60s",
			"commands": table{"stop": []string{w.path("hooks", n.Name+".stop")}, "start": []string{w.path("hooks", n.Name+".start")}, "log": n.Log},
		})
	}
	w.chain = table{
		"driver": "harmony", "sink": "bucket", "max_downtime": "3m", "guard_lease": "60s", "machines": w.machines,
		"condition": table{"network": "localnet", "role": "Validator", "max_seconds_since_last_block": 30},
	}
	w.config = table{
		"state_dir": w.path("state"),
		"ssh":       table{"user": w.sshds[0].User, "key": w.path("id"), "known_hosts": known, "host_dir": w.path("host"), "connect_timeout": "5s"},
		"sinks":     table{"bucket": table{"plugin": "rclone", "to": w.bucket}},
		"chains":    table{"net": w.chain},
	}
}

func (w *world) condition() table { return w.chain["condition"].(table) }

// ended is how a snapfw ended.
type ended struct {
	exit     int
	out, err string
	took     time.Duration
	run      summary // where the command was run: with --output json
}

// summary is what `--output json` prints of a run.
type summary struct {
	Run, State, Error, Forced string
	Exit                      int
	Notes                     []string
	Nodes                     []struct {
		Node, State, Height, Hash, Published, Copy, Error string
		DownSeconds                                       float64 `json:"down_seconds"`
		Files, UploadedFiles                              int     `json:",omitempty"`
		Bytes                                             int64
		UploadedBytes                                     int64 `json:"uploaded_bytes"`
	}
}

func (e ended) String() string {
	s := fmt.Sprintf("exit %d after %s", e.exit, e.took.Round(10*time.Millisecond))
	for _, n := range e.run.Nodes {
		s += fmt.Sprintf("; %s %s", n.Node, n.State)
		if n.DownSeconds > 0 {
			s += fmt.Sprintf(", down %.2f s", n.DownSeconds)
		}
	}
	if text := strings.TrimSpace(e.err); text != "" && e.exit != 0 {
		lines := strings.Split(text, "\n")
		for i, l := range lines {
			if strings.HasPrefix(l, "snapfw: ") && !strings.Contains(l, "giving up") {
				s += ": " + strings.Join(lines[i:], " | ")
				break
			}
		}
	}
	return s
}

// process is a snapfw that runs.
type process struct {
	w        *world
	cmd      *exec.Cmd
	out, err bytes.Buffer
	begun    time.Time
	done     chan struct{}
}

// start starts snapfw with the configuration as it is now.
func (w *world) start(args ...string) *process {
	w.t.Helper()
	body, err := json.MarshalIndent(w.config, "", "  ")
	if err != nil {
		w.t.Fatal(err)
	}
	w.write(w.path("snapfw.json"), string(body)+"\n")
	p := &process{w: w, begun: time.Now(), done: make(chan struct{})}
	p.cmd = exec.Command(snapfwPath, append(args, "--config", w.path("snapfw.json"), "--plugins", pluginsDir, "--output", "json")...)
	p.cmd.Dir = w.dir
	p.cmd.Env = []string{"HOME=" + w.path("home"), "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.err
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		p.cmd.Wait()
		close(p.done)
	}()
	w.t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.done
	})
	return p
}

func (p *process) signal(s syscall.Signal) {
	p.w.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.w.t.Fatalf("signal snapfw: %v", err)
	}
}

func (p *process) wait() ended {
	p.w.t.Helper()
	select {
	case <-p.done:
	case <-time.After(2 * patience):
		p.w.t.Fatalf("snapfw %q is not done after %s:\n%s", p.cmd.Args[1:], 2*patience, p.err.String())
	}
	e := ended{exit: p.cmd.ProcessState.ExitCode(), out: p.out.String(), err: p.err.String(), took: time.Since(p.begun)}
	json.Unmarshal(p.out.Bytes(), &e.run) // where it is one; a test that looks at it sees that it is not
	return e
}

// snapfw runs a command to its end.
func (w *world) snapfw(args ...string) ended {
	w.t.Helper()
	e := w.start(args...).wait()
	w.t.Logf("snapfw %s: %v", strings.Join(args, " "), e)
	return e
}

// must runs a command that has to end with an exit code, and say each of some words.
func (w *world) must(exit int, args []string, words ...string) ended {
	w.t.Helper()
	e := w.snapfw(args...)
	w.expect(e, exit, words...)
	return e
}

func (w *world) expect(e ended, exit int, words ...string) {
	w.t.Helper()
	if e.exit != exit {
		w.t.Fatalf("exit %d, want %d:\n%s\n%s", e.exit, exit, e.out, e.err)
	}
	for _, word := range words {
		if !strings.Contains(e.err, word) {
			w.t.Errorf("nothing is said of %q:\n%s", word, e.err)
		}
	}
}

var (
	snapshot = []string{"snapshot", "--chain", "net"}
	publish  = []string{"snapshot", "--chain", "net", "--publish"}
)

// published runs a snapshot that has to publish both shards.
func (w *world) published() ended {
	w.t.Helper()
	e := w.must(0, publish)
	if len(e.run.Nodes) != 2 || e.run.Nodes[0].Published == "" || e.run.Nodes[1].Published == "" {
		w.t.Fatalf("not both are published: %+v", e.run)
	}
	w.nodesUp()
	w.bucketWhole(2)
	return e
}

// devnet runs a command of the stand-ins.
func (w *world) devnet(args ...string) string {
	w.t.Helper()
	var errs bytes.Buffer
	cmd := exec.Command(devnetPath, args...)
	cmd.Stderr = &errs
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 3) {
		w.t.Fatalf("snapfw-devnet %q: %v\n%s%s", args, err, out, errs.String())
	}
	return string(out)
}

func (w *world) ctl(args ...string) string {
	w.t.Helper()
	return w.devnet(append([]string{"ctl", "--dir", w.path("net")}, args...)...)
}

// node is what `ctl status` says of one.
type node struct {
	Name             string
	Running, Answers bool
	PID              int
	Height           uint64
}

func (w *world) nodes() []node {
	w.t.Helper()
	var all []node
	if err := json.Unmarshal([]byte(w.ctl("status")), &all); err != nil || len(all) != 2 {
		w.t.Fatalf("ctl status: %v: %+v", err, all)
	}
	return all
}

// nodesUp sees that both nodes answer, now.
func (w *world) nodesUp() {
	w.t.Helper()
	for _, n := range w.nodes() {
		if !n.Answers {
			w.t.Fatalf("%s is not up: %+v", n.Name, n)
		}
	}
}

// untouched returns a function that sees that no node was stopped since.
func (w *world) untouched() func() {
	was := w.nodes()
	return func() {
		w.t.Helper()
		for i, n := range w.nodes() {
			if !n.Answers || n.PID != was[i].PID {
				w.t.Errorf("%s was touched: %+v, and before %+v", n.Name, n, was[i])
			}
		}
	}
}

// patience is how long anything may take on a machine that is busy with other things.
const patience = 10 * time.Minute

// until waits for something that has to happen.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("waited %s for this: %s", patience, what)
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func readJSON(t *testing.T, path string, v any) {
	t.Helper()
	body, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(body, v)
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}
