package releasetest

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/snapfw/snapfw/core/internal/engine"
	"github.com/snapfw/snapfw/core/internal/journal"
	"github.com/snapfw/snapfw/sinks/r2/r2test"
)

// impatient makes the sink give up soon.
func (w *world) impatient() {
	w.config["sinks"].(table)["bucket"].(table)["patience_seconds"] = 1
}

// arrivals counts how often the bucket took the bytes of a key, in the stage or not; what snapfw keeps for itself left out.
type arrivals struct {
	mu   sync.Mutex
	puts map[string]int
}

func (w *world) arrivals() *arrivals {
	a := &arrivals{puts: map[string]int{}}
	w.site.After(func(r *http.Request, status int) {
		kind, key, _ := strings.Cut(r2test.Operation(r), " ")
		if status != http.StatusOK || kind != "PUT" && kind != "complete" || strings.HasPrefix(filepath.Base(key), ".") ||
			strings.Contains(key, ".probe-") || strings.HasSuffix(key, ".jsonl") || strings.HasSuffix(key, "/list") || strings.HasSuffix(key, ".objects.json") {
			return
		}
		if strings.HasPrefix(key, ".staged/") {
			key = strings.SplitN(key, "/", 3)[2]
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.puts[key]++
	})
	return a
}

// count is how many keys arrived.
func (a *arrivals) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.puts)
}

// twice lists what was sent more than once.
func (a *arrivals) twice() (keys []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, n := range a.puts {
		if n > 1 {
			keys = append(keys, key)
		}
	}
	return keys
}

func (a *arrivals) once(t testing.TB) {
	t.Helper()
	if twice := a.twice(); len(twice) > 0 || a.count() == 0 {
		t.Errorf("%d keys arrived; sent more than once: %v", a.count(), twice)
	}
}

// newest is the run that was begun last.
func (w *world) newest() string {
	all, err := engine.All(journal.Dir(w.path("home", ".local/state/snapfw/runs")))
	if err != nil || len(all) == 0 {
		w.t.Errorf("no run was begun: %v", err)
		return ""
	}
	return all[len(all)-1].Run
}

// The bucket has troubles of all kinds; every one of them ends in what to do next, and nothing is done twice.
func TestBucketHasTroubles(t *testing.T) {
	w := newWorld(t, options{local: true, still: true, byHand: true})
	w.impatient()
	arrived := w.arrivals()

	w.site.Expire(60, "PUT")
	r := w.want(1, "snapfw resume", "release", "--chain", chainName)
	if !strings.Contains(r.err, "expired") {
		t.Errorf("it does not say that the credentials expired: %s", r)
	}
	run, pid := w.newest(), w.pid()
	w.well()
	before := arrived.count()
	if before < 20 || w.published() != nil {
		t.Fatalf("%d keys arrived; published: %v", before, w.published())
	}

	w.site.Unavailable(10, "PUT", "list")
	w.want(5, "snapfw approve", "resume", run)
	if after := arrived.count(); after <= before {
		t.Errorf("%d keys arrived, then %d", before, after)
	}
	arrived.once(t)

	// The list can't be put: 503 for ever.
	w.want(0, "", "approve", run, "--reason", "read")
	w.site.Trouble(func(rw http.ResponseWriter, r *http.Request) bool {
		if r2test.Operation(r) != "PUT "+listKey {
			return false
		}
		r2test.Refuse(rw, http.StatusServiceUnavailable, "ServiceUnavailable", "Please reduce your request rate.")
		return true
	})
	r = w.want(1, "snapfw resume", "resume", run)
	if !strings.Contains(r.err, "503") && !strings.Contains(r.err, "ServiceUnavailable") {
		t.Errorf("it does not say why: %s", r)
	}
	if again := "put " + listKey + ": put"; strings.Contains(r.err, again) || strings.Contains(w.journal(run), again) {
		t.Errorf("it says twice what was tried: %s", r)
	}
	if w.published() != nil {
		t.Error("a list is published")
	}
	w.site.Trouble(nil)
	w.want(0, listKey, "resume", run)
	arrived.once(t)
	if w.pid() != pid {
		t.Error("the node was stopped again")
	}
	w.well()
	w.whole()
}

// The bucket says of an object that it has another size: it is refused, and the next release sends nothing twice. An
// object is lost between upload and look: the run that is carried on sends that one again.
func TestBucketLies(t *testing.T) {
	w := newWorld(t, options{local: true, still: true, byHand: true})
	arrived := w.arrivals()
	const key, lost = "v1.1-000000-000100-headers.seg", "v1.1-000000-000100-bodies.seg"
	w.site.Lie(key, 7)
	r := w.want(3, key+" has 7 bytes instead of", "release", "--chain", chainName)
	if !strings.Contains(r.err, "published with other content") {
		t.Errorf("it does not say why it ended: %s", r)
	}
	w.well()
	if w.published() != nil {
		t.Error("something is published")
	}
	arrived.once(t)
	all := arrived.count()
	w.site.Lie("", 0)

	var once sync.Once
	w.site.Trouble(func(_ http.ResponseWriter, r *http.Request) bool {
		if r2test.Kind(r) == "list" && strings.Contains(w.journal(w.newest()), `"uploaded"`) {
			once.Do(func() { w.site.Remove(t, lost, ".staged/"+w.newest()+"/"+lost) })
		}
		return false
	})
	w.want(1, lost+" is missing; `snapfw resume", "release", "--chain", chainName)
	w.site.Trouble(nil)
	w.well()
	pid, run := w.pid(), w.newest()
	w.want(5, "snapfw approve", "resume", run)
	w.want(0, "", "approve", run, "--reason", "read")
	w.want(0, listKey, "resume", run)
	if arrived.count() > all+1 || w.pid() != pid {
		t.Errorf("%d keys arrived, then %d; node %d, before %d", all, arrived.count(), w.pid(), pid)
	}
	if twice := arrived.twice(); len(twice) != 1 || twice[0] != lost {
		t.Errorf("sent again: %v", twice)
	}
	w.whole()
}

// journal is what a run has written down.
func (w *world) journal(run string) string {
	w.t.Helper()
	var all strings.Builder
	for _, f := range w.factsOf(run) {
		fmt.Fprintf(&all, "%q %s %s\n", f.Kind, f.Step, f.Data)
	}
	return all.String()
}

func (w *world) factsOf(run string) []journal.Fact {
	facts, err := journal.Read(journal.Dir(w.path("home", ".local/state/snapfw/runs")), run)
	if err != nil {
		w.t.Errorf("the journal of %s: %v", run, err)
	}
	return facts
}

// The cache can't be purged for a while, for ever, or of the list alone.
func TestCacheIsNotPurged(t *testing.T) {
	w := newWorld(t, options{local: true, still: true})
	first := w.release(5)
	w.merge()
	w.site.Purger.Fault(func([]string) int { return http.StatusForbidden }) // the token was revoked; a 500 is tried again for longer
	w.want(1, "purge", "resume", first.Run)
	if w.published() != nil {
		t.Fatal("the list went out though nothing could be purged")
	}
	pid := w.pid()
	w.site.Purger.Fault(func(urls []string) int {
		if slices.ContainsFunc(urls, func(u string) bool { return strings.HasSuffix(u, "/"+listKey) }) {
			return http.StatusForbidden
		}
		return 0
	})
	r := w.want(1, "snapfw resume", "resume", first.Run)
	if !strings.Contains(r.err, "purge") {
		t.Errorf("%s", r)
	}
	var faults atomic.Int64
	w.site.Purger.Fault(func([]string) int {
		if faults.Add(1) <= 2 {
			return http.StatusInternalServerError
		}
		return 0
	})
	w.want(0, listKey, "resume", first.Run)
	if w.pid() != pid {
		t.Error("the node was stopped again")
	}
	w.whole()

	// 429 with Retry-After while indexes are replaced.
	w.release(5, "--clear-indexes", "--force", "--reason", "new salts")
	w.merge()
	w.site.Purger.Slow(100)
	w.want(0, listKey, "resume")
	if w.site.Purger.Refused() == 0 {
		t.Error("the purge was never told to wait")
	}
	w.whole()
}

// begin starts snapfw in the background; dies kills it.
func (w *world) begin(args ...string) (*exec.Cmd, *bytes.Buffer) {
	w.t.Helper()
	cmd := w.prepare(args...)
	out := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { cmd.Process.Kill() })
	return cmd, out
}

func (w *world) dies(cmd *exec.Cmd) {
	w.t.Helper()
	cmd.Process.Signal(syscall.SIGKILL)
	cmd.Wait()
	if st, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !st.Signaled() {
		w.t.Fatalf("it was over before it could be killed: %v", cmd.ProcessState)
	}
}

// killAt runs snapfw and kills it when the bucket sees a request.
func (w *world) killAt(is func(op string) bool, args ...string) {
	w.t.Helper()
	reached, over := make(chan struct{}), make(chan struct{})
	var one sync.Once
	w.site.Trouble(func(_ http.ResponseWriter, r *http.Request) bool {
		if !is(r2test.Operation(r)) {
			return false
		}
		one.Do(func() {
			close(reached)
			select {
			case <-over:
			case <-time.After(time.Minute):
			}
		})
		return false
	})
	cmd, _ := w.begin(args...)
	select {
	case <-reached:
	case <-time.After(2 * time.Minute):
		w.t.Fatalf("snapfw %v never came to where it is to be killed: %s", args, last(w.log(), 2000))
	}
	w.dies(cmd)
	close(over)
	w.site.Trouble(nil)
}

// moved is how often snapfw began a move.
func (w *world) moved(move string) int { return strings.Count(w.log(), fmt.Sprintf("msg=%q", move)) }

func (w *world) log() string {
	body, _ := os.ReadFile(w.path("home", ".local/state/snapfw/snapshot.log"))
	return string(body)
}

// snapfw is killed while the node is down: the guard on its machine starts it.
func TestKilledWhileTheNodeIsDown(t *testing.T) {
	w := newWorld(t, options{still: true, byHand: true})
	pid := w.pid()
	w.behave("slow=30s")
	w.chain["guard_lease"] = "3s"
	cmd, _ := w.begin("release", "--chain", chainName)
	w.eventually("the node is down", func() bool { return w.height() == 0 })
	w.eventually("integrity is at work", func() bool { return strings.Contains(w.log(), "nothing stands in the way") })
	w.dies(cmd)
	at := time.Now()
	w.behave("")
	w.well()
	t.Logf("the node was back %s after snapfw was killed", time.Since(at).Round(time.Second/10))
	if time.Since(at) > 30*time.Second || w.pid() == pid {
		t.Errorf("the node was back after %s", time.Since(at))
	}
	s := w.release(5)
	w.want(0, "", "approve", s.Run, "--reason", "read")
	w.want(0, listKey, "resume", s.Run)
	w.well()
	w.whole()
}

// snapfw is killed during the upload, when it moves the first staged object, and when it puts the list.
func TestKilledWhileItPublishes(t *testing.T) {
	w := newWorld(t, options{still: true, local: true, byHand: true})
	arrived := w.arrivals()
	w.killAt(func(op string) bool { return strings.HasPrefix(op, "GET .probe-") }, "release", "--chain", chainName)
	probes := w.site.Keys(".probe-")
	if len(probes) != 1 {
		t.Fatalf("killed while it tried the bucket, and it holds %q", probes)
	}
	w.site.Age(t, 2*time.Hour, probes...) // a younger one may be of a run on another machine

	var n atomic.Int64
	w.killAt(func(op string) bool { return strings.HasPrefix(op, "PUT ") && n.Add(1) > 60 }, "release", "--chain", chainName)
	w.well()
	pid, run := w.pid(), w.newest()
	if left := w.site.Keys(".probe-"); len(left) > 0 {
		t.Errorf("%q is left of the run that was killed", left)
	}
	w.want(5, "snapfw approve", "resume", run)
	arrived.once(t)
	w.want(0, "", "approve", run, "--reason", "read")
	w.want(0, listKey, "resume", run)
	if w.pid() != pid {
		t.Error("the node was stopped again")
	}
	w.whole()

	var replaced []string
	for name := range w.published() {
		if strings.Contains(".idx .bt .kvi .kvei .vi .efi .txt", filepath.Ext(name)) {
			replaced = append(replaced, name)
		}
	}
	s := w.release(5, "--clear-indexes", "--force", "--reason", "new salts")
	w.want(0, "", "approve", s.Run, "--reason", "read")
	pid = w.pid()
	before := w.published()
	reader := w.reader(replaced...)
	w.killAt(func(op string) bool { return strings.HasPrefix(op, "copy") }, "resume", s.Run)
	if !equal(before, w.published()) {
		t.Error("the list is another already")
	}
	// There is no way back now, only on.
	if r := w.want(3, "`snapfw resume "+s.Run+"` carries on", "cancel", s.Run); len(w.site.Keys(".staged/")) == 0 {
		t.Errorf("the stage is empty: %s", r)
	}
	w.want(2, "--reason", "cancel", s.Run, "--force")
	w.killAt(func(op string) bool { return op == "PUT "+listKey }, "resume", s.Run)
	w.want(0, listKey, "resume", s.Run)
	report := reader.Stop()
	for _, b := range report.Bad {
		t.Errorf("somebody who read meanwhile saw %s", b)
	}
	t.Logf("the window: %d objects", len(report.Window))
	if w.pid() != pid || equal(before, w.published()) {
		t.Error("the node was stopped again, or nothing was published")
	}
	w.whole()
	if left := w.site.Keys(".staged/"); len(left) > 0 {
		t.Errorf("%d objects are left in the stage: %s", len(left), left[0])
	}
}

// Erigon's false greens end the release before anything is published.
func TestErigonLies(t *testing.T) {
	w := newWorld(t, options{still: true, local: true, byHand: true})
	for _, c := range []struct{ behave, says string }{
		{"budget", "budget exhausted"},
		{"filtered", "filtered out"},
		{"integrity-fails=Blocks", "Blocks"},
		{"failfast-warn,integrity-fails=InvertedIndex", "InvertedIndex"},
		{"index-leaves-one", "index"},
		{"retire-crash", "retire"},
		{"retire-leaves-overlap", "overlap"},
		{"index-crash", "index"},
	} {
		w.behave(c.behave)
		var args []string
		if strings.HasPrefix(c.behave, "index") {
			args = []string{"--clear-indexes", "--force", "--reason", "indexes were damaged"}
		}
		r := w.snapfw(append([]string{"release", "--chain", chainName}, args...)...)
		if r.exit != 1 || !strings.Contains(r.err, c.says) {
			t.Errorf("%s: exit code %d, want %q: %s", c.behave, r.exit, c.says, r)
		}
		if keys := w.site.Keys(""); len(keys) > 0 {
			t.Fatalf("%s: the bucket holds %d keys: %s", c.behave, len(keys), keys[0])
		}
		w.well()
	}
	w.behave("")
	s := w.release(5)
	w.want(0, "", "approve", s.Run, "--reason", "read")
	w.want(0, listKey, "resume", s.Run)
	w.whole()
}

// A node that does not stop in time is not killed. It goes on stopping, so it is started once it is gone.
func TestNodeDoesNotStopInTime(t *testing.T) {
	w := newWorld(t, options{still: true, local: true, byHand: true, behave: "stop-takes=6s"})
	w.chain["stop_timeout"] = "2s"
	pid := w.pid()
	w.behave("start-fails-once,stuck-stop")
	w.want(1, "still runs 2s after it was told to end, and nothing was killed", "release", "--chain", chainName)
	w.well()
	if now := w.pid(); now == pid || now == 0 {
		t.Fatalf("process %d runs, before it was %d", now, pid)
	}

	// This one never ends by itself.
	pid = w.pid()
	w.behave("stop-takes=4s")
	cmd, out := w.begin("release", "--chain", chainName)
	w.eventually("snapfw tries to start it again", func() bool { return w.moved("let the node go") == 2 })
	if w.pid() != pid {
		t.Errorf("process %d was killed: %s", pid, last(w.log(), 2000))
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil { // an operator
		t.Fatal(err)
	}
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit code %d: %s", code, out)
	}
	w.well()

	// Somebody gives the release up while the node stops.
	w.chain["stop_timeout"] = "1m"
	pid = w.pid()
	w.behave("")
	cmd, out = w.begin("release", "--chain", chainName)
	w.eventually("the node was told to end", func() bool { return w.moved("make the data stand still") == 3 })
	time.Sleep(time.Second) // it is told within a moment
	cmd.Process.Signal(os.Interrupt)
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit code %d: %s", code, out)
	}
	w.well()
	if now := w.pid(); now == pid {
		t.Errorf("process %d runs and was told to end: nobody will start it again", now)
	}
	if keys := w.site.Keys(""); len(keys) > 0 {
		t.Errorf("the bucket holds %s", keys[0])
	}
	w.release(5)
}
