package e2etest

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// fact is a line of a run's journal.
type fact struct {
	T          time.Time
	K          string
	Node, Step string
	Data       json.RawMessage
}

// newestRun is the one whose journal was written to last; "" where there is none.
func (w *world) newestRun() string {
	w.t.Helper()
	runs, err := filepath.Glob(w.path("state", "runs", "*.jsonl"))
	if err != nil {
		w.t.Fatal(err)
	}
	newest, at := "", time.Time{}
	for _, r := range runs {
		if info, err := os.Stat(r); err == nil && info.ModTime().After(at) {
			newest, at = r, info.ModTime()
		}
	}
	if newest == "" {
		return ""
	}
	return strings.TrimSuffix(filepath.Base(newest), ".jsonl")
}

// facts reads the newest run's journal, as far as it goes.
func (w *world) facts() []fact {
	w.t.Helper()
	if run := w.newestRun(); run != "" {
		return w.factsOf(run)
	}
	return nil
}

func (w *world) factsOf(run string) []fact {
	w.t.Helper()
	body, err := os.ReadFile(w.path("state", "runs", run+".jsonl"))
	if err != nil {
		w.t.Fatal(err)
	}
	var all []fact
	for _, line := range bytes.Split(body, []byte("\n")) {
		var f fact
		if json.Unmarshal(line, &f) == nil && f.K != "" {
			all = append(all, f)
		}
	}
	return all
}

// has tells whether there is such a fact; an empty node or word is any.
func has(facts []fact, kind, node, word string) bool {
	return slices.ContainsFunc(facts, func(f fact) bool {
		return f.K == kind && (node == "" || f.Node == node) && strings.Contains(f.Step+" "+string(f.Data), word)
	})
}

// pointer is what is used of latest.json, and of what it lists as previous.
type pointer struct {
	Prefix, Manifest, Hash string
	ManifestSHA256         string `json:"manifest_sha256"`
	Height                 uint64
	Previous               []pointer
}

type manifest struct {
	Prefix, Hash, Method, Forced, Run string
	Height                            uint64
	DownSeconds                       float64 `json:"down_seconds"`
	Entries                           []struct {
		Name string
		Size int64
		Sums map[string]string
	}
}

func (w *world) inBucket(key string) string { return filepath.Join(w.bucket, filepath.FromSlash(key)) }

// pointerOf is what consumers of a shard read first; ok is false where there is nothing yet.
func (w *world) pointerOf(shard int) (p pointer, ok bool) {
	w.t.Helper()
	name := w.inBucket(fmt.Sprintf("pruned/%d/latest.json", shard))
	if !exists(name) {
		return p, false
	}
	readJSON(w.t, name, &p)
	return p, true
}

// bucketWhole plays a consumer who reads everything that the pointers of so many shards name, down to the sums.
func (w *world) bucketWhole(series int) {
	w.t.Helper()
	found := 0
	for shard := range shards {
		p, ok := w.pointerOf(shard)
		if !ok {
			continue
		}
		found++
		for _, p := range append([]pointer{p}, p.Previous...) {
			w.snapshotWhole(p)
		}
	}
	if found != series {
		w.t.Errorf("%d shards are published, want %d", found, series)
	}
}

func (w *world) snapshotWhole(p pointer) manifest {
	w.t.Helper()
	var m manifest
	body, err := os.ReadFile(w.inBucket(p.Manifest))
	if err == nil {
		err = json.Unmarshal(body, &m)
	}
	if err != nil {
		w.t.Fatalf("%s is published: %v", p.Prefix, err)
	}
	if got := fmt.Sprintf("%x", sha256.Sum256(body)); got != p.ManifestSHA256 || len(m.Entries) == 0 {
		w.t.Errorf("%s has sum %s, published is %s", p.Manifest, got, p.ManifestSHA256)
	}
	for _, e := range m.Entries {
		got, err := sumOf(filepath.Join(w.inBucket(p.Prefix), e.Name))
		if err != nil || got != e.Sums["sha256"] {
			w.t.Errorf("published %s/%s: %v, sum %s, want %s", p.Prefix, e.Name, err, got, e.Sums["sha256"])
		}
	}
	if exists(filepath.Join(w.inBucket(p.Prefix), "incomplete.json")) {
		w.t.Errorf("published %s is marked as incomplete", p.Prefix)
	}
	return m
}

func sumOf(path string) (string, error) {
	body, err := os.ReadFile(path)
	return fmt.Sprintf("%x", sha256.Sum256(body)), err
}

// copyOf is a node's copy beside its database.
func (w *world) copyOf(shard int) string {
	return w.path("net", shards[shard], "data", ".snapfw", fmt.Sprintf("harmony_db_%d", shard), "data")
}

func (w *world) database(shard int) string {
	return w.path("net", shards[shard], "data", fmt.Sprintf("harmony_db_%d", shard))
}

// running lists the processes that have something to do with this world.
func (w *world) running(word string) map[int]string {
	found := map[int]string{}
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range all {
		body, err := os.ReadFile(name)
		line := strings.TrimSpace(string(bytes.ReplaceAll(body, []byte{0}, []byte(" "))))
		if err != nil || !strings.Contains(line, w.dir+"/") || !strings.Contains(line, word) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil && pid != os.Getpid() {
			found[pid] = line
		}
	}
	return found
}

// nothingLeft sees that no process of ours is left, and no line in the crontab.
func (w *world) nothingLeft() {
	left := w.running("")
	for end := time.Now().Add(10 * time.Second); len(left) > 0 && time.Now().Before(end); left = w.running("") {
		time.Sleep(50 * time.Millisecond)
	}
	for pid, line := range left {
		w.t.Errorf("left behind: process %d: %s", pid, line)
		syscall.Kill(pid, syscall.SIGKILL)
	}
	if lines, _ := os.ReadFile(w.path("crontab")); len(bytes.TrimSpace(lines)) > 0 {
		w.t.Errorf("left behind in the crontab: %s", lines)
	}
}

// tellMore prints the newest journal of a test that failed.
func (w *world) tellMore() {
	if !w.t.Failed() {
		return
	}
	for _, f := range w.facts() {
		data := string(f.Data)
		w.t.Logf("%s %-9s %-7s %s %s", f.T.Format("15:04:05.000"), f.K, f.Node, f.Step, data[:min(len(data), 400)])
	}
	for _, n := range shards {
		log, _ := os.ReadFile(w.path("net", n, "node.log"))
		w.t.Logf("log of %s: …%s", n, log[max(0, len(log)-1500):])
	}
}
