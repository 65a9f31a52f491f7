package bench

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/snapfw/snapfw/core/internal/host/sshdtest"
	"github.com/snapfw/snapfw/core/internal/journal"
)

// programs is a folder with what "make build" makes, of this very tree; built when a benchmark wants it.
var programs string

var build = sync.OnceValue(func() (err error) {
	if programs, err = os.MkdirTemp("", "snapfw-bench"); err != nil {
		return err
	}
	return buildAll(programs)
})

func TestMain(m *testing.M) {
	code := m.Run()
	if programs != "" {
		os.RemoveAll(programs)
	}
	os.Exit(code)
}

func buildAll(dir string) error {
	const module = "github.com/snapfw/snapfw/"
	sums := ""
	if err := os.Mkdir(filepath.Join(dir, "plugins.d"), 0o755); err != nil {
		return err
	}
	overlay, err := hostOverlay(dir, module)
	if err != nil {
		return err
	}
	for out, pkg := range map[string]string{
		"snapfw": "cmd/snapfw", "snapfw-devnet": "drivers/harmony/devnet",
		"plugins.d/snapfw-harmony": "drivers/harmony", "plugins.d/snapfw-rclone": "sinks/rclone",
	} {
		if err := goBuild(filepath.Join(dir, out), "-overlay", overlay, module+pkg); err != nil {
			return err
		}
		if name, ok := strings.CutPrefix(out, "plugins.d/"); ok {
			body, err := os.ReadFile(filepath.Join(dir, out))
			if err != nil {
				return err
			}
			sums += fmt.Sprintf("%x  %s\n", sha256.Sum256(body), name)
		}
	}
	for name, kind := range map[string]string{"harmony": "chain", "rclone": "sink"} {
		text := fmt.Sprintf("name: %s\nkind: %s\nprotocol: 1\nexec: snapfw-%s\nenv: []\n", name, kind, name)
		if err := os.WriteFile(filepath.Join(dir, "plugins.d", name+".yaml"), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "plugins.d", "SHA256SUMS"), []byte(sums), 0o644)
}

// hostOverlay builds snapfw-host, and an overlay that embeds it instead of whatever "make build" left.
func hostOverlay(dir, module string) (string, error) {
	bin := filepath.Join(dir, "snapfw-host")
	if err := goBuild(bin, module+"cmd/snapfw-host"); err != nil {
		return "", err
	}
	embedded, err := filepath.Abs(filepath.Join("..", "..", "internal", "host", "bin", "snapfw-host-linux-"+goarch()))
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(map[string]any{"Replace": map[string]string{embedded: bin}})
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "overlay.json")
	return file, os.WriteFile(file, body, 0o644)
}

func goarch() string {
	out, err := exec.Command("go", "env", "GOARCH").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

func goBuild(out string, args ...string) error {
	cmd := exec.Command("go", append([]string{"build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", out}, args...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", filepath.Base(out), err, said)
	}
	// Whatever the umask is: the loader refuses what others can write.
	return os.Chmod(out, 0o755)
}

// world is a network of stand-ins whose machines are one sshd, and the configuration for it.
type world struct {
	b     *testing.B
	dir   string
	sshd  *sshdtest.Server
	nodes []node
}

type node struct {
	Name  string `json:"name"`
	Shard int    `json:"shard"`
	Port  int    `json:"port"`
}

func newWorld(b *testing.B, shards int, flags ...string) *world {
	b.Helper()
	if _, err := exec.LookPath("rclone"); err != nil {
		b.Skip("SKIPPED: rclone is not installed")
	}
	must(b, build())
	w := &world{b: b, dir: b.TempDir()}
	b.Cleanup(func() {
		w.devnet("down", "--dir", w.path("net"))
		// The nodes' keepers write down how they ended, a moment later where there are many.
		for end := time.Now().Add(30 * time.Second); os.RemoveAll(w.path("net")) != nil && time.Now().Before(end); {
			time.Sleep(50 * time.Millisecond)
		}
	})
	w.devnet(append([]string{"up", "--dir", w.path("net"), "--shards", strconv.Itoa(shards), "--detach", "--"}, flags...)...)
	var network struct{ Nodes []node }
	body, err := os.ReadFile(w.path("net", "network.json"))
	must(b, err)
	must(b, json.Unmarshal(body, &network))
	w.nodes = network.Nodes
	// Ten sessions is sshd's own default. The login shell gets an empty home: what is in somebody's
	// .bashrc is run once a command, and is not what is measured here.
	must(b, os.Mkdir(w.path("home"), 0o755))
	w.sshd = sshdtest.Start(b, sshdtest.Options{Sessions: 10, Config: []string{"SetEnv HOME=" + w.path("home")}})
	return w
}

func (w *world) path(names ...string) string {
	return filepath.Join(append([]string{w.dir}, names...)...)
}

// firstBlocks waits until every node has made a block: a chain's first one is years old.
func (w *world) firstBlocks() {
	for end := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		out, err := exec.Command(filepath.Join(programs, "snapfw-devnet"), "ctl", "--dir", w.path("net"), "status").Output()
		if nodes := strings.Count(string(out), `"name":`); err == nil && nodes > 0 && strings.Count(string(out), `"height":`) == nodes {
			return // a height of 0 is left out
		}
		if time.Now().After(end) {
			w.b.Fatalf("a node has no block after a minute: %v", err)
		}
	}
}

// devnet runs snapfw-devnet, and returns how long it took.
func (w *world) devnet(args ...string) time.Duration {
	w.b.Helper()
	began := time.Now()
	if out, err := exec.Command(filepath.Join(programs, "snapfw-devnet"), args...).CombinedOutput(); err != nil {
		w.b.Errorf("snapfw-devnet %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return time.Since(began)
}

func (w *world) ctl(verb, name string) time.Duration {
	w.b.Helper()
	return w.devnet("ctl", "--dir", w.path("net"), verb, name)
}

// configure writes the configuration; to is where the sink stores, more what else the sink needs.
func (w *world) configure(to string, more map[string]any) {
	w.b.Helper()
	devnet := filepath.Join(programs, "snapfw-devnet")
	var machines []any
	for _, n := range w.nodes {
		ctl := func(verb string) []string { return []string{devnet, "ctl", "--dir", w.path("net"), verb, n.Name} }
		machines = append(machines, map[string]any{
			"shard": n.Shard, "ip": "127.0.0.1", "port": w.sshd.Port, "user": w.sshd.User, "rpc_port": n.Port,
			"db_directory": w.path("net", n.Name, "data"),
			"commands":     map[string]any{"stop": ctl("stop"), "start": ctl("start"), "log": w.path("net", n.Name, "node.log")},
		})
	}
	chain := map[string]any{
		"driver": "harmony", "machines": machines, "max_downtime": "5m", "guard_lease": "2m",
		"condition": map[string]any{"network": "localnet", "role": "Validator", "max_seconds_since_last_block": 60},
	}
	sink := map[string]any{"plugin": "rclone", "to": to}
	maps.Copy(sink, more)
	chain["sink"] = "bucket"
	all := map[string]any{
		"state_dir": w.path("state"),
		"ssh":       map[string]any{"key": w.sshd.KeyPath, "known_hosts": []string{w.sshd.KnownHosts}, "host_dir": w.path("host")},
		"sinks":     map[string]any{"bucket": sink},
		"chains":    map[string]any{"net": chain},
	}
	body, err := json.Marshal(all)
	must(w.b, err)
	must(w.b, os.WriteFile(w.path("snapfw.json"), body, 0o600))
}

// ran is what a run of snapfw was like.
type ran struct {
	took             time.Duration
	control, plugins int64 // peak resident bytes
	facts            []journal.Fact
}

// snapshot runs "snapfw snapshot" to its end.
func (w *world) snapshot(args ...string) ran {
	w.b.Helper()
	var said strings.Builder
	cmd := exec.Command(filepath.Join(programs, "snapfw"), append([]string{"snapshot", "--chain", "net", "--config", w.path("snapfw.json")}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.dir, "SNAPFW_PLUGINS=" + filepath.Join(programs, "plugins.d")}
	cmd.Stdout, cmd.Stderr = &said, &said
	began := time.Now()
	must(w.b, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var r ran
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		select {
		case err := <-ended:
			tick.Stop()
			r.took = time.Since(began)
			if err != nil {
				w.b.Fatalf("snapfw: %v\n%s", err, said.String())
			}
			r.facts = w.lastRun()
			return r
		case <-tick.C: // a peak does not sink, so the last look is as good as all
			r.control = max(r.control, peak(cmd.Process.Pid))
			var sum int64
			for _, pid := range children(cmd.Process.Pid) {
				sum += peak(pid)
			}
			r.plugins = max(r.plugins, sum)
		}
	}
}

func (w *world) lastRun() []journal.Fact {
	w.b.Helper()
	dir := journal.Dir(w.path("state", "runs"))
	names, err := journal.Runs(dir)
	must(w.b, err)
	facts, err := journal.Read(dir, names[len(names)-1])
	must(w.b, err)
	return facts
}

// peak is the most memory that a process ever had resident, in bytes; 0 when it is gone.
func peak(pid int) int64 {
	body, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(body)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kb << 10
		}
	}
	return 0
}

func children(pid int) []int {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	var all []int
	for _, file := range files {
		body, _ := os.ReadFile(file)
		for _, word := range strings.Fields(string(body)) {
			if child, err := strconv.Atoi(word); err == nil {
				all = append(all, child)
			}
		}
	}
	return all
}

// each decodes the facts of a kind, and of a step if that is not "".
func each[T any](b *testing.B, facts []journal.Fact, kind, step string, see func(T)) {
	b.Helper()
	for _, f := range facts {
		if f.Kind == kind && (step == "" || f.Step == step) {
			var v T
			must(b, json.Unmarshal(f.Data, &v))
			see(v)
		}
	}
}

// moves logs where the time of a run went: from each fact of a node to its next.
func (w *world) moves(r ran) {
	if !testing.Verbose() {
		return
	}
	for i := 1; i < len(r.facts); i++ {
		f, was := r.facts[i], r.facts[i-1]
		w.b.Logf("%5d ms  to %s %s %s", f.Time.Sub(was.Time).Milliseconds(), f.Kind, f.Node, f.Step)
	}
	if n := len(r.facts); n > 0 {
		w.b.Logf("%5d ms  before the first fact and after the last", (r.took - r.facts[n-1].Time.Sub(r.facts[0].Time)).Milliseconds())
	}
}

// bucket is a storage on loopback that can copy inside itself, and counts what is sent to it.
type bucket struct {
	config string // of rclone, with a remote "bucket"
	sent   atomic.Int64
}

func newBucket(w *world) *bucket {
	w.b.Helper()
	must(w.b, os.Mkdir(w.path("bucket"), 0o755))
	behind := freeAddr(w.b)
	cmd := exec.Command("rclone", "serve", "webdav", w.path("bucket"), "--addr", behind, "--config", "/dev/null", "--log-level", "ERROR")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.dir}
	must(w.b, cmd.Start())
	w.b.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if resp, err := http.Get("http://" + behind); err == nil {
			resp.Body.Close()
			break
		}
		if time.Now().After(end) {
			w.b.Fatal("rclone serve webdav does not answer")
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(w.b, err)
	w.b.Cleanup(func() { l.Close() })
	k := &bucket{config: w.path("rclone.conf")}
	go k.serve(l, behind)
	must(w.b, os.WriteFile(k.config, fmt.Appendf(nil, "[bucket]\ntype = webdav\nurl = http://%s\nvendor = other\n", l.Addr()), 0o600))
	return k
}

func freeAddr(b *testing.B) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	defer l.Close()
	return l.Addr().String()
}

// counted counts what passes through it.
type counted struct {
	net.Conn
	n *atomic.Int64
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
