package e2etest

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// webdav serves the bucket as a storage that can copy inside itself, and returns the configuration of
// rclone that leads there.
func (w *world) webdav() {
	w.t.Helper()
	log := w.path("webdav.log")
	cmd := exec.Command("rclone", "serve", "webdav", w.bucket, "--addr", "127.0.0.1:0", "--log-file", log, "--log-level", "NOTICE")
	cmd.Env = []string{"HOME=" + w.path("home"), "PATH=" + os.Getenv("PATH")}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	url := ""
	w.until("rclone serves the bucket", func() bool {
		said, _ := os.ReadFile(log)
		_, rest, ok := strings.Cut(string(said), "http://")
		url, _, _ = strings.Cut(rest, "/")
		return ok
	})
	w.write(w.path("rclone.conf"), "[dav]\ntype = webdav\nvendor = other\nurl = http://"+url+"\n")
	w.config["sinks"] = table{"bucket": table{"plugin": "rclone", "to": "dav:", "config_path_on_host": w.path("rclone.conf")}}
}

// TestPublish publishes both shards twice through a webdav, and plays the consumer: what is fetched is
// opened and compared with the source at the recorded height, after the source has compacted
// everything that it had when it was captured.
func TestPublish(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.webdav()
	first := w.published()
	tables := map[int][]string{}
	for shard := range shards {
		tables[shard] = w.tables(w.database(shard))
	}
	second := w.published()
	for i, n := range second.run.Nodes {
		if f := first.run.Nodes[i]; f.UploadedBytes != f.Bytes || n.Height <= f.Height && len(n.Height) == len(f.Height) {
			t.Errorf("first %+v, second %+v", f, n)
		}
		t.Logf("%s: height %s, %d bytes, of which %d were uploaded, down %.2f s", n.Node, n.Height, n.Bytes, n.UploadedBytes, n.DownSeconds)
	}
	for shard := range shards {
		w.compacted(shard, tables[shard])
		for i, run := range []ended{first, second} {
			w.consume(shard, run.run.Nodes[shard].Published, fmt.Sprintf("fetched%d-%d", shard, i))
		}
	}
	if exists(w.copyOf(0)) || exists(w.copyOf(1)) {
		t.Error("a linked copy stays beside the database after it was published: it pins what the node deletes")
	}
	w.nodesUp()
}

func (w *world) tables(dir string) []string {
	w.t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "*.ldb"))
	if err != nil {
		w.t.Fatal(err)
	}
	return all
}

// compacted waits until the source has deleted most of the tables that it had.
func (w *world) compacted(shard int, before []string) {
	w.t.Helper()
	gone := 0
	w.until("heavy compaction of the source", func() bool {
		gone = 0
		for _, t := range before {
			if !exists(t) {
				gone++
			}
		}
		return gone > len(before)/2
	})
	w.t.Logf("%s: %d of %d tables were compacted away meanwhile", shards[shard], gone, len(before))
}

// consume fetches a snapshot as a consumer does, checks its sums, opens it and compares it with
// the source, whose node has to be stopped for that.
func (w *world) consume(shard int, prefix, name string) {
	w.t.Helper()
	var m manifest
	readJSON(w.t, filepath.Join(w.inBucket(prefix), "manifest.json"), &m)
	dir := w.path(name)
	for _, argv := range [][]string{
		{"rclone", "--config", w.path("rclone.conf"), "copy", "dav:" + prefix, dir},
		{"sh", "-c", "cd " + dir + " && sha256sum --strict --quiet -c SHA256SUMS && rm SHA256SUMS manifest.json"},
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			w.t.Fatalf("%q: %v\n%s", argv, err, out)
		}
	}
	w.ctl("stop", shards[shard])
	defer w.ctl("start", shards[shard])
	w.same(shard, dir, m.Height, m.Hash)
}

// same opens a real copy, walks it, and compares it with the source up to a height, which is its head's.
func (w *world) same(shard int, dir string, height uint64, hash string) {
	w.t.Helper()
	var r struct {
		OK               bool
		Height           uint64
		Hash, Error      string
		Blocks, Compared uint64
	}
	out := w.devnet("check", "--datadir", dir, "--against", w.database(shard), "--height", fmt.Sprint(height))
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		w.t.Fatal(err)
	}
	if !r.OK || r.Height != height || r.Hash != hash || r.Compared < height {
		w.t.Errorf("the copy is at %d %s, recorded %d %s, compared %d: %s", r.Height, r.Hash, height, hash, r.Compared, r.Error)
	}
	w.t.Logf("%s opens at height %d, %d blocks walked, %d are the source's", filepath.Base(dir), r.Height, r.Blocks, r.Compared)
}

// TestWitness lets the copies stay and sums their files twice: before the node is started again,
// by the command that starts it, and after the node has compacted heavily. Not one linked
// byte may change; with a node that exits 0 in the middle of a compaction neither.
func TestWitness(t *testing.T) {
	for name, behave := range map[string]string{"clean": "", "exit-mid-compaction": "exit-mid-compaction=once"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, options{})
			for shard, n := range shards {
				w.write(w.path("hooks", n+".before-start"), fmt.Sprintf("[ -e %[1]s ] || cd %[2]s && sha256sum * >%[1]s\n", w.path(n+".sums"), w.copyOf(shard)))
				if behave != "" {
					w.ctl("behave", n, behave)
				}
			}
			e := w.must(0, snapshot)
			for shard, n := range e.run.Nodes {
				if n.State != "kept" || n.Copy != w.copyOf(shard) {
					t.Fatalf("%+v", n)
				}
				before := w.tables(w.database(shard))
				w.compacted(shard, before)
				w.witness(shard)
				var height uint64
				fmt.Sscan(n.Height, &height)
				w.ctl("stop", n.Node)
				w.same(shard, w.realCopy(shard), height, n.Hash)
				w.ctl("start", n.Node)
			}
		})
	}
}

// witness compares the copy with what the start command saw of it.
func (w *world) witness(shard int) {
	w.t.Helper()
	body, err := os.ReadFile(w.path(shards[shard] + ".sums"))
	if err != nil {
		w.t.Fatal(err)
	}
	var c struct {
		Method                        string
		Files, Linked, Cloned, Copied int
	}
	readJSON(w.t, filepath.Join(filepath.Dir(w.copyOf(shard)), "captured.json"), &c)
	files, pinned := 0, 0
	for _, line := range strings.Split(strings.TrimSpace(string(body)), "\n") {
		want, name, _ := strings.Cut(line, "  ")
		path := filepath.Join(w.copyOf(shard), name)
		got, err := sumOf(path)
		if err != nil || got != want {
			w.t.Errorf("%s changed after the node was started: %v, sum %s, was %s", path, err, got, want)
		}
		files++
		if filepath.Ext(name) == ".ldb" && !exists(filepath.Join(w.database(shard), name)) {
			pinned++
		}
	}
	if files != c.Files || c.Linked+c.Cloned == 0 || pinned == 0 {
		w.t.Errorf("%d files were summed, %d of them are no more in the source, and captured is %+v", files, pinned, c)
	}
	w.t.Logf("%s: %+v: %d files are as they were, %d of them only in the copy", shards[shard], c, files, pinned)
}

// realCopy copies the files of a copy, so that they can be opened.
func (w *world) realCopy(shard int) string {
	w.t.Helper()
	to := w.path("real-" + shards[shard])
	if out, err := exec.Command("cp", "-r", w.copyOf(shard), to).CombinedOutput(); err != nil {
		w.t.Fatalf("cp: %v\n%s", err, out)
	}
	return to
}
