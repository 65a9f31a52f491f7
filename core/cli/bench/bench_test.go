package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/snapfw/snapfw/core/internal/engine"
	"github.com/snapfw/snapfw/core/internal/manifest"
	"github.com/snapfw/snapfw/core/onhost"
)

func seconds(d time.Duration) float64 { return d.Seconds() }

// BenchmarkOverhead runs snapfw for one node with an empty database over ssh, and takes off what the node's
// own stop and start take by themselves. A block that it waits for counts as overhead. With -v
// it says where the time went.
func BenchmarkOverhead(b *testing.B) {
	for _, publish := range []bool{false, true} {
		name, args := "captured", []string(nil)
		if publish {
			name, args = "published", []string{"--publish"}
		}
		b.Run(name, func(b *testing.B) {
			w := newWorld(b, 1, "--block-time", "100ms", "--state-bytes", "64")
			w.configure(w.path("published"), nil)
			w.snapshot(args...) // places the programs on the host
			var runs, stops, starts, downs []time.Duration
			var last ran
			for b.Loop() {
				stops = append(stops, w.ctl("stop", "shard0"))
				starts = append(starts, w.ctl("start", "shard0"))
				last = w.snapshot(args...)
				runs = append(runs, last.took)
				each(b, last.facts, "up", "", func(u engine.Up) { downs = append(downs, u.Down) })
			}
			w.moves(last)
			run, stop, start := median(runs), median(stops), median(starts)
			b.ReportMetric(seconds(run), "run-s")
			b.ReportMetric(seconds(stop), "stop-s")
			b.ReportMetric(seconds(start), "start-s")
			b.ReportMetric(seconds(run-stop-start), "overhead-s")
			b.ReportMetric(seconds(median(downs)), "down-s")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

// BenchmarkSecond takes a second snapshot after a node wrote new tables. What is new is told by comparing the two
// copies; what was sent is counted on the wire, headers and all.
func BenchmarkSecond(b *testing.B) {
	for b.Loop() {
		w := newWorld(b, 1, "--block-time", "50ms", "--state-bytes", "131072", "--table-size", "2097152", "--write-buffer", "1048576", "--level-size", "524288")
		w.ctl("stop", "shard0")
		w.devnet("fill", "--shard", "0", "--datadir", w.path("net", "shard0", "data", "harmony_db_0"), "--blocks", "200", "--bytes", "268435456", "--level-size", "524288", "--settle")
		w.ctl("start", "shard0")
		k := newBucket(w)
		w.configure("bucket:", map[string]any{"config_path_on_host": k.config})
		w.snapshot("--publish")
		before := w.snapshotEntries()
		w.grow("shard0", 0, 16<<20)
		sent := k.sent.Load()
		r := w.snapshot("--publish")
		sent = k.sent.Load() - sent
		var fresh, read int64
		for e, size := range w.snapshotEntries() {
			if _, ok := before[e]; !ok {
				fresh += size
			}
		}
		each(b, r.facts, "did", "seal.seal the copy", func(res onhost.Result) { read += readBySeal(b, res) })
		w.moves(r)
		b.ReportMetric(float64(fresh)/(1<<20), "new-MiB")
		b.ReportMetric(float64(sent)/float64(fresh), "sent/new")
		b.ReportMetric(float64(read)/float64(fresh), "read/new")
	}
	b.ReportMetric(0, "ns/op")
}

// grow waits until a node wrote so many bytes of tables that were not there before.
func (w *world) grow(name string, shard int, bytes int64) {
	w.b.Helper()
	tables := func() map[string]int64 {
		all := map[string]int64{}
		files, err := filepath.Glob(w.path("net", name, "data", fmt.Sprintf("harmony_db_%d", shard), "*.ldb"))
		must(w.b, err)
		for _, file := range files {
			if st, err := os.Stat(file); err == nil { // else it was compacted meanwhile
				all[file] = st.Size()
			}
		}
		return all
	}
	before := tables()
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		var fresh int64
		for file, size := range tables() {
			if _, ok := before[file]; !ok {
				fresh += size
			}
		}
		if fresh >= bytes {
			return
		}
		if time.Now().After(end) {
			w.b.Fatalf("%s wrote %d bytes of tables in two minutes", name, fresh)
		}
	}
}

func readBySeal(b *testing.B, res onhost.Result) int64 {
	var s struct {
		Read *int64 `json:"read"`
	}
	must(b, json.Unmarshal([]byte(strings.TrimSpace(res.Stdout)), &s))
	if s.Read == nil {
		b.Fatalf("seal does not say what it read: %s", res.Stdout)
	}
	return *s.Read
}

// snapshotEntries are those of the newest published snapshot of shard 0.
func (w *world) snapshotEntries() map[string]int64 {
	w.b.Helper()
	body, err := os.ReadFile(w.path("bucket", "pruned", "0", "latest.json"))
	must(w.b, err)
	p, err := manifest.ParsePointer(body)
	must(w.b, err)
	body, err = os.ReadFile(w.path("bucket", p.Manifest))
	must(w.b, err)
	m, err := manifest.Parse(body)
	must(w.b, err)
	all := map[string]int64{}
	for _, e := range m.Entries {
		all[e.Name+" "+e.Sums["sha256"]] = e.Size
	}
	return all
}

// serve passes connections on, and counts what is sent.
func (k *bucket) serve(l net.Listener, behind string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			s, err := net.Dial("tcp", behind)
			if err != nil {
				return
			}
			defer s.Close()
			go func() {
				io.Copy(s, counted{c, &k.sent})
				s.(*net.TCPConn).CloseWrite()
			}()
			io.Copy(c, s)
		}()
	}
}

// BenchmarkNodes runs snapfw for 100 nodes: the beacon, then 99 side by side, all on one machine whose sshd lets ten
// sessions into a connection, as sshd does where nobody changed it.
func BenchmarkNodes(b *testing.B) {
	for b.Loop() {
		w := newWorld(b, 100, "--block-time", "5s", "--state-bytes", "64")
		w.configure(w.path("published"), nil)
		w.firstBlocks()
		r := w.snapshot()
		w.moves(r)
		made, _ := w.sshd.Connections()
		var down time.Duration
		nodes := 0
		each(b, r.facts, "up", "", func(u engine.Up) { down, nodes = max(down, u.Down), nodes+1 })
		if nodes != len(w.nodes) {
			b.Fatalf("%d of %d nodes were captured", nodes, len(w.nodes))
		}
		b.ReportMetric(float64(r.control)/(1<<20), "control-MiB")
		b.ReportMetric(float64(r.plugins)/(1<<20), "plugins-MiB")
		b.ReportMetric(seconds(r.took), "run-s")
		b.ReportMetric(seconds(down), "down-s")
		b.ReportMetric(float64(made), "connections")
	}
	b.ReportMetric(0, "ns/op")
}
