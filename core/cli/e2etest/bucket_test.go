package e2etest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// TestKilledRclone kills rclone, and then the program that runs it, in the middle of an upload.
func TestKilledRclone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{calm: true})
	w.chain["limits"] = table{"upload_rate": "512KiB"}
	p := w.start(publish...)
	w.until("shard0 is being uploaded", func() bool { return has(w.facts(), "doing", "shard0", "upload.entries") })
	for _, victim := range []string{" --files-from-raw ", "/snapfw-rclone-"} {
		w.until("a process with"+victim, func() bool { return w.kill(victim) })
	}
	e := p.wait()
	t.Logf("%v; notes: %q", e, e.run.Notes)
	w.expect(e, 0)
	w.nodesUp()
	w.bucketWhole(2)
	if !has(w.facts(), "note", "", "tried again") {
		t.Error("no upload was tried again")
	}
}

// kill kills the upload's process of that word, if there is one.
func (w *world) kill(word string) bool {
	for pid, line := range w.running(word) {
		if syscall.Kill(pid, syscall.SIGKILL) == nil {
			w.t.Logf("killed %d: %.100s…", pid, line)
			return true
		}
	}
	return false
}

// TestBucketRefuses puts something in the bucket's way: before the run, which touches no node, and while a node is
// down, which brings it back and publishes nothing of it.
func TestBucketRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{calm: true})
	untouched := w.untouched()
	w.write(w.inBucket("pruned"), "in the way\n")
	w.must(1, publish, "try sink bucket")
	untouched()
	if err := os.Remove(w.inBucket("pruned")); err != nil {
		t.Fatal(err)
	}

	hook := w.path("hooks", "shard1.while-down")
	w.write(hook, fmt.Sprintf("mkdir -p %[1]s && rm -rf %[1]s/1 && echo in the way >%[1]s/1\n", w.inBucket("pruned")))
	e := w.must(1, publish, "shard1", "pruned/1")
	if e.run.Nodes[0].Published == "" || e.run.Nodes[1].State != "failed" {
		t.Errorf("%+v", e.run.Nodes)
	}
	w.nodesUp()
	w.bucketWhole(1)
	if exists(w.copyOf(1)) {
		t.Error("the linked copy of a failed node stays, and pins what the node deletes")
	}
	for _, name := range []string{hook, w.inBucket("pruned/1")} {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	w.published()
}

// TestFullDisk has a disk for the copy alone, so that it has to be a real one: too small, which is found before the
// node is stopped, and full when the node is down already.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{calm: true})
	at := filepath.Dir(filepath.Dir(w.copyOf(0)))
	w.tmpfs(at, "48m")
	untouched := w.untouched()
	w.must(3, publish, "make room")
	untouched()
	w.tmpfs(at, "96m,remount")
	hook, filler := w.path("hooks", "shard0.while-down"), filepath.Join(at, "filler")
	w.write(hook, fmt.Sprintf("dd if=/dev/zero of=%s bs=1M 2>/dev/null; true\n", filler))
	w.must(1, publish, "no space left on device")
	w.nodesUp()
	w.bucketWhole(0)
	for _, name := range []string{hook, filler} {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	w.published()
	p, _ := w.pointerOf(0)
	if m := w.snapshotWhole(p); m.Method != "copy" || !exists(w.copyOf(0)) {
		t.Errorf("method %q; a real copy has to stay, the next one is made from it", m.Method)
	}
	w.devnet("check", "--datadir", w.realCopy(0))
}

// tmpfs mounts a file system of a size, which takes root.
func (w *world) tmpfs(at, size string) {
	w.t.Helper()
	if err := os.MkdirAll(at, 0o755); err != nil {
		w.t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size="+size, "snapfw-e2e", at).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "\n*** SKIPPED %s: it mounts a small tmpfs, which takes root: %s ***\n\n", w.t.Name(), out)
		w.t.Skipf("mount: %v: %s", err, out)
	}
	w.t.Cleanup(func() { exec.Command("umount", at).Run() }) // the second one, of the remount, finds nothing
}

// TestRetention keeps two snapshots, a pinned one and what snapfw did not make, and removes old leftovers.
func TestRetention(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{calm: true})
	w.chain["keep"] = table{"count": 2}
	only := append(publish[:len(publish):len(publish)], "--node", "shard0")
	var made []string
	var before manifest
	var reused int64
	for i := range 4 {
		if i == 1 {
			w.chain["keep"] = table{"count": 2, "pins": []string{filepath.Base(made[0])}}
		}
		if i == 3 {
			w.leftover("pruned/0/harmony_db_0.dead", "incomplete.json", 48*time.Hour)
			w.leftover("pruned/0/harmony_db_0.now", "incomplete.json", 0)
			w.leftover("pruned/0/foreign", "README", 48*time.Hour)
		}
		e := w.must(0, only)
		n := e.run.Nodes[0]
		if len(e.run.Nodes) != 1 || n.Published == "" {
			t.Fatalf("%+v", e.run)
		}
		made = append(made, n.Published)
		var copied int64
		before, copied = w.sent(e.run.Run, before)
		reused += copied
	}
	if reused == 0 {
		t.Error("nothing was ever copied inside the storage, though little is new each time")
	}
	w.bucketWhole(1)
	want := []string{made[0], made[2], made[3], "pruned/0/harmony_db_0.now", "pruned/0/foreign"}
	entries, err := os.ReadDir(w.inBucket("pruned/0"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		if e.IsDir() {
			got = append(got, "pruned/0/"+e.Name())
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("in the bucket are\n%q, want\n%q", got, want)
	}
	if p, _ := w.pointerOf(0); p.Prefix != made[3] || len(p.Previous) != 2 {
		t.Errorf("the pointer is at %s, previous %+v", p.Prefix, p.Previous)
	}
}

// sent compares what the sink did for shard 0 with what is new since an earlier snapshot, and returns the new one's
// manifest and the bytes that the storage copied: what is unchanged is copied inside the storage, to the byte.
func (w *world) sent(run string, before manifest) (m manifest, copied int64) {
	w.t.Helper()
	p, _ := w.pointerOf(0)
	m = w.snapshotWhole(p)
	had := map[string]string{}
	for _, e := range before.Entries {
		had[e.Name] = e.Sums["sha256"]
	}
	var same, fresh int64
	for _, e := range m.Entries {
		if had[e.Name] == e.Sums["sha256"] {
			same += e.Size
		} else {
			fresh += e.Size
		}
	}
	var did struct {
		CopiedBytes int64 `json:"copied_bytes"`
		SentBytes   int64 `json:"sent_bytes"`
	}
	for _, f := range w.factsOf(run) {
		if f.K != "did" || f.Step != "upload.entries" {
			continue
		}
		var result struct{ Stdout string }
		err := json.Unmarshal(f.Data, &result)
		if err = errors.Join(err, json.Unmarshal([]byte(result.Stdout), &did)); err != nil {
			w.t.Fatalf("what the sink said: %v: %s", err, f.Data)
		}
	}
	if did.CopiedBytes != same || did.SentBytes != fresh {
		w.t.Errorf("%s: %+v, want %d copied and %d sent", p.Prefix, did, same, fresh)
	}
	w.t.Logf("%s: %d bytes are new and were sent, %d were copied inside the storage", p.Prefix, did.SentBytes, did.CopiedBytes)
	return m, did.CopiedBytes
}

// leftover makes a folder of a table and another file, as old as that.
func (w *world) leftover(prefix, file string, age time.Duration) {
	w.t.Helper()
	dir := w.inBucket(prefix)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		w.t.Fatal(err)
	}
	for _, name := range []string{"000001.ldb", file} {
		w.write(filepath.Join(dir, name), "left\n")
		at := time.Now().Add(-age)
		if err := os.Chtimes(filepath.Join(dir, name), at, at); err != nil {
			w.t.Fatal(err)
		}
	}
}
