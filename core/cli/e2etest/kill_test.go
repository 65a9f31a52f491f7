package e2etest

import (
	"os"
	"syscall"
	"testing"
	"time"
)

// TestKilledWhileDown kills snapfw while a node is down. The node's own machine starts it when the lease is
// over; the next run marks that as paid, voids what was begun, and succeeds.
func TestKilledWhileDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.chain["guard_lease"] = "8s"
	w.hold("shard0")
	p := w.start(publish...)
	w.until("shard0 is stopped", func() bool { return w.isHeld("shard0") })
	if lines, err := os.ReadFile(w.path("crontab")); err != nil || len(lines) == 0 {
		t.Errorf("no @reboot line while the node is down: %v", err)
	}
	was := w.nodes()[0]
	p.signal(syscall.SIGKILL)
	p.wait()
	dead, killed := w.newestRun(), time.Now()
	w.until("the guard starts shard0", func() bool { return w.nodes()[0].Answers })
	t.Logf("snapfw is dead, and shard0 answers again after %s; it did with process %d and does with %d",
		time.Since(killed).Round(10*time.Millisecond), was.PID, w.nodes()[0].PID)
	w.bucketWhole(0)
	w.release("shard0")
	w.chain["guard_lease"] = "60s"
	e := w.published()
	facts := w.factsOf(dead)
	if !has(facts, "paid", "shard0", `"by":"guard"`) || has(facts, "captured", "shard0", "") || !has(facts, "failed", "shard0", "") || !has(facts, "closed", "", "") {
		t.Errorf("the run that died was not closed as it should: %+v", facts)
	}
	w.fromRun(e.run.Run)
}

// fromRun sees that what both pointers name was made by one run.
func (w *world) fromRun(run string) {
	w.t.Helper()
	for shard := range shards {
		p, _ := w.pointerOf(shard)
		if m := w.snapshotWhole(p); m.Run != run {
			w.t.Errorf("shard %d is of run %s, want %s", shard, m.Run, run)
		}
	}
}

// TestHung stops the process of snapfw while a node is down, as a machine does that swaps or is moved. The guard
// starts the node; when snapfw goes on it must not touch it any more.
func TestHung(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.chain["guard_lease"] = "8s"
	w.hold("shard0")
	p := w.start(publish...)
	w.until("shard0 is stopped", func() bool { return w.isHeld("shard0") })
	p.signal(syscall.SIGSTOP)
	w.until("the guard starts shard0", func() bool { return w.nodes()[0].Answers })
	untouched := w.untouched()
	p.signal(syscall.SIGCONT)
	e := p.wait()
	t.Logf("%v", e)
	w.expect(e, 1, "guard")
	untouched()
	w.bucketWhole(0)
	if !has(w.facts(), "paid", "shard0", `"by":"guard"`) || has(w.facts(), "captured", "", "") {
		t.Errorf("the journal says otherwise: %+v", w.facts())
	}
	w.release("shard0")
	w.chain["guard_lease"] = "60s"
	w.published()
}

// TestKilledWhileUploading kills snapfw when both nodes are captured and up again. The uploads go on without it;
// the next run publishes what was captured, and then takes another snapshot.
func TestKilledWhileUploading(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{calm: true})
	w.chain["limits"] = table{"upload_rate": "512KiB"}
	p := w.start(publish...)
	w.until("shard1 is being uploaded", func() bool { return has(w.facts(), "doing", "shard1", "upload.entries") })
	p.signal(syscall.SIGKILL)
	p.wait()
	dead := w.newestRun()
	w.nodesUp()
	untouched := w.untouched()
	if has(w.factsOf(dead), "promoted", "", "") {
		t.Error("published before everything was uploaded")
	}
	delete(w.chain, "limits")
	w.must(0, []string{"resume", dead})
	untouched()
	w.bucketWhole(2)
	w.fromRun(dead)
	if facts := w.factsOf(dead); !has(facts, "promoted", "shard0", "") || !has(facts, "promoted", "shard1", "") || !has(facts, "closed", "", `"exit":0`) {
		t.Errorf("the run was not carried on to its end: %+v", facts)
	}
	e := w.published()
	w.fromRun(e.run.Run)
	for shard := range shards {
		if p, _ := w.pointerOf(shard); len(p.Previous) != 1 {
			t.Errorf("shard %d: what was carried on is not among the previous ones: %+v", shard, p.Previous)
		}
	}
}

// TestInterrupted presses Ctrl-C while a node is down, and while an upload runs.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{calm: true})
	w.hold("shard0")
	p := w.start(publish...)
	w.until("shard0 is stopped", func() bool { return w.isHeld("shard0") })
	p.signal(syscall.SIGINT)
	e := p.wait()
	t.Logf("while a node is down: %v", e)
	w.expect(e, 130, "giving up", "interrupted")
	w.nodesUp()
	if facts := w.facts(); !has(facts, "paid", "shard0", `"by":"snapfw"`) || !has(facts, "closed", "", "") {
		t.Errorf("the run was not closed: %+v", facts)
	}
	w.release("shard0")
	w.bucketWhole(0)

	w.chain["limits"] = table{"upload_rate": "512KiB"}
	p = w.start(publish...)
	w.until("shard1 is being uploaded", func() bool { return has(w.facts(), "doing", "shard1", "upload.entries") })
	p.signal(syscall.SIGINT)
	e = p.wait()
	t.Logf("while it uploads: %v", e)
	w.expect(e, 130, "interrupted")
	w.nodesUp()
	w.bucketWhole(0)
	if up := w.running("/snapfw-rclone-"); len(up) > 0 {
		t.Errorf("an upload goes on after Ctrl-C: %v", up)
	}
	delete(w.chain, "limits")
	given := w.newestRun()
	untouched := w.untouched()
	w.must(0, []string{"resume"})
	untouched()
	w.bucketWhole(2)
	w.fromRun(given)
}

// TestTwoAtOnce starts a second run beside the first, on this machine and as if on another one.
func TestTwoAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{calm: true})
	w.hold("shard0")
	p := w.start(publish...)
	w.until("shard0 is stopped", func() bool { return w.isHeld("shard0") })
	first := w.newestRun()
	w.must(4, publish, "locked by run "+first)
	state := w.config["state_dir"]
	w.config["state_dir"] = w.path("elsewhere")
	// The node is down, and a second machine does not know why: that alone is a refusal, if its lock is not.
	e := w.snapfw(snapshot...)
	if e.exit != 3 && e.exit != 4 {
		t.Errorf("exit %d: %s", e.exit, e.err)
	}
	w.must(4, append(snapshot[:len(snapshot):len(snapshot)], "--node", "shard1"), "locked by run "+first)
	w.config["state_dir"] = state
	w.release("shard0")
	e = p.wait()
	t.Logf("the first: %v", e)
	w.expect(e, 0)
	w.nodesUp()
	w.bucketWhole(2)
	w.fromRun(first)
}
