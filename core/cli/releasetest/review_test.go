package releasetest

import (
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/snapfw/snapfw/sinks/r2/r2test"
)

// without is a list without the line of one name.
func without(t *testing.T, list []byte, name string) []byte {
	t.Helper()
	var out []byte
	for line := range bytes.Lines(list) {
		if !bytes.HasPrefix(line, []byte("'"+name+"'")) {
			out = append(out, line...)
		}
	}
	if len(out) == len(list) {
		t.Fatalf("%s is not in the list", name)
	}
	return out
}

// Somebody else changes what is reviewed or published: nothing of theirs is written over.
func TestSomebodyElsePublishes(t *testing.T) {
	w := newWorld(t, options{local: true, still: true})
	const name = "v1.1-000000-000100-headers.seg"

	// A reviewer changes the proposed list before it is merged.
	s := w.release(5)
	list, ok := w.github.File(w.github.Pulls()[0].Head, listKey)
	if !ok {
		t.Fatal("the branch has no list")
	}
	w.github.Commit(w.github.Pulls()[0].Head, listKey, without(t, list, name))
	w.merge()
	w.want(3, "what was merged is not what was proposed", "resume", s.Run)
	if w.published() != nil {
		t.Fatal("an edited list is published")
	}
	w.well()

	// The one in the bucket appears after the merge.
	w.github.Commit(base, listKey, list)
	w.site.Put(t, listKey, list, nil)
	w.release(0)
	theirs := without(t, list, name)
	s = w.release(5, "--clear-indexes", "--force", "--reason", "new salts")
	w.merge()
	var once sync.Once
	w.site.Trouble(func(_ http.ResponseWriter, r *http.Request) bool {
		if r2test.Operation(r) == "PUT "+listKey {
			once.Do(func() { w.site.Put(t, listKey, theirs, nil) })
		}
		return false
	})
	r := w.want(1, "replaced by somebody else", "resume", s.Run)
	if !strings.Contains(r.err, "snapfw resume") {
		t.Errorf("%s", r)
	}
	w.site.Trouble(nil)
	if got, _ := w.site.Object(listKey); !bytes.Equal(got, theirs) {
		t.Error("what somebody else published was written over")
	}
	w.want(0, listKey, "resume", s.Run) // it was forced

	// The bucket and the branch hold two lists: that is said, and what was merged is published.
	merged, _ := w.site.Object(listKey)
	theirs = without(t, merged, name)
	w.site.Put(t, listKey, theirs, nil)
	w.release(0)
	w.want(0, "is published otherwise than the reviewed branch has it", "show", w.newest())
	if j := w.journal(w.newest()); !strings.Contains(j, "the published lists differ in 1 names") {
		t.Errorf("the report does not say what differs: %s", last(j, 3000))
	}
	if got, _ := w.site.Object(listKey); !bytes.Equal(got, merged) {
		t.Error("what was merged is not what is published")
	}
	w.well()
	w.whole()
}

// One release at a time; one that waits is cancelled, and one waits until it is merged.
func TestWaitingReleases(t *testing.T) {
	w := newWorld(t, options{local: true, still: true})
	w.want(2, "write --wait=2h", "release", "--chain", chainName, "--wait", "2h")
	cmd, out := w.begin("release", "--chain", chainName)
	w.eventually("the first one is at work", func() bool { return w.moved("write the plan down") > 0 })
	w.want(4, "", "release", "--chain", chainName)
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 5 {
		t.Fatalf("the first one ended with %d: %s", code, out)
	}
	run := w.newest()
	if len(w.site.Keys(".staged/"+run)) == 0 || !w.github.Pulls()[0].Open {
		t.Fatal("nothing waits")
	}
	w.want(0, "", "cancel", run)
	if left := w.site.Keys(".staged/"); len(left) > 0 || w.github.Pulls()[0].Open || w.published() != nil {
		t.Errorf("cancelled, and there is %v; %+v", left, w.github.Pulls()[0])
	}
	w.well()

	cmd, out = w.begin("release", "--chain", chainName, "--wait=60s")
	w.eventually("it is proposed", func() bool { return len(w.github.Pulls()) == 2 || cmd.ProcessState != nil })
	w.eventually("it waits", func() bool {
		p := w.github.Pulls()
		return p[0].Open && len(p[0].Reviewers) > 0 || p[1].Open && len(p[1].Reviewers) > 0
	})
	w.merge()
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 0 {
		t.Fatalf("exit code %d: %s", code, out)
	}
	w.whole()
}

// The review is a plain git repository, integrity runs on a mirror, and the list goes to another bucket.
func TestReviewedWithGit(t *testing.T) {
	w := newWorld(t, options{local: true, still: true, byHand: true})
	lists := r2test.New(t, r2test.Named("lists"))
	second := lists.Config()
	second["plugin"] = "r2"
	w.config["sinks"].(table)["lists"] = second
	w.chain["list_sink"] = "lists"
	w.chain["integrity"] = table{"on": "mirror"}
	bare, clone := w.path("lists.git"), w.path("clone")
	w.git("init", "--quiet", "--bare", "--initial-branch="+base, bare)
	w.git("clone", "--quiet", bare, clone)
	w.git("-C", clone, "checkout", "--quiet", "-b", base)
	if err := os.WriteFile(w.path("clone", "README.md"), []byte("lists\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.git("-C", clone, "add", "README.md")
	w.git("-C", clone, "commit", "--quiet", "-m", "begin")
	w.git("-C", clone, "push", "--quiet", "origin", base)
	pid := w.pid()
	for _, wrong := range []table{
		{"kind": "git", "repo": "file://" + bare, "base": "release/9.9", "path": listKey},
		{"kind": "git", "repo": "file://" + w.path("nothing.git"), "base": base, "path": listKey},
	} {
		w.chain["review"] = wrong
		w.want(3, "put review: in the configuration right", "release", "--chain", chainName)
	}
	if w.pid() != pid {
		t.Error("the node was stopped for a review that does not exist")
	}
	w.chain["review"] = table{"kind": "git", "repo": "file://" + bare, "base": base, "path": listKey}

	s := w.release(5)
	w.well()
	w.want(5, "waiting for branch", "resume", s.Run)
	branch := strings.TrimSpace(w.git("-C", bare, "for-each-ref", "--format=%(refname:short)", "refs/heads/Snapshot-Automation"))
	if branch == "" || strings.Contains(branch, "\n") {
		t.Fatalf("branches: %q", branch)
	}
	if s = w.summary(w.want(0, "", "show", s.Run, "--output", "json")); s.Nodes[0].Review != branch || s.Nodes[0].Base != base {
		t.Errorf("the summary does not say where it is reviewed: %+v", s.Nodes[0])
	}
	next := "branch " + branch + " to be merged into " + base
	w.want(0, next, "show", s.Run)
	w.want(0, next, "status", "--chain", chainName)
	facts := len(w.factsOf(s.Run))
	w.want(3, "is reviewed on branch "+branch+": merge that into "+base, "approve", s.Run, "--reason", "read")
	if r := w.want(0, "parked", "runs"); len(w.factsOf(s.Run)) != facts {
		t.Errorf("a refused approval was written down: %s", r)
	}
	w.git("-C", clone, "fetch", "--quiet", "origin")
	w.git("-C", clone, "merge", "--quiet", "--no-ff", "-m", "merge", "origin/"+branch)
	w.git("-C", clone, "push", "--quiet", "origin", base)
	w.want(0, listKey, "resume", s.Run)
	if _, ok := w.site.Object(listKey); ok {
		t.Error("the list is beside the objects")
	}
	got, ok := lists.Object(listKey)
	if want := w.git("-C", bare, "show", base+":"+listKey); !ok || string(got) != want {
		t.Errorf("the other bucket has %d bytes, merged are %d", len(got), len(want))
	}
	names, err := parseList(got)
	if err != nil || len(names) < 100 {
		t.Errorf("%d names: %v", len(names), err)
	}
	for name := range names {
		if _, ok := w.site.Object(name); !ok {
			t.Errorf("%s is not in the bucket", name)
		}
	}
	if _, err := os.Stat(w.datadir + ".snapfw-mirror"); err == nil {
		t.Error("the mirror is left")
	}
	w.release(0) // nothing is new
	w.well()
}

func (w *world) git(args ...string) string {
	w.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Env = append(os.Environ(), "HOME="+w.path("home"), "GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@localhost", "GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@localhost")
	return w.must(cmd)
}

// The rclone sink publishes to a directory.
func TestReleaseWithRclone(t *testing.T) {
	if _, err := exec.LookPath("rclone"); err != nil {
		t.Skip("SKIPPED: rclone is missing: apt-get install rclone")
	}
	w := newWorld(t, options{local: true, still: true, byHand: true})
	w.config["sinks"].(table)["bucket"] = table{"plugin": "rclone", "to": w.path("public")}
	s := w.release(5)
	w.well()
	if _, err := os.Stat(w.path("public", listKey)); err == nil {
		t.Error("a list is published before it was approved")
	}
	w.want(0, "", "approve", s.Run, "--reason", "read")
	w.want(0, listKey, "resume", s.Run)
	first := w.directory()

	s = w.release(5, "--clear-indexes", "--force", "--reason", "new salts")
	w.want(0, "", "approve", s.Run, "--reason", "read")
	w.want(0, listKey, "resume", s.Run)
	second := w.directory()
	if equal(first, second) {
		t.Error("nothing was replaced")
	}
	if left, err := filepath.Glob(w.path("public", ".staged", "*")); err != nil || len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}

// directory reads the list that was published to a directory, and compares every torrent in it with its data's size.
func (w *world) directory() map[string]string {
	w.t.Helper()
	list, err := os.ReadFile(w.path("public", listKey))
	if err != nil {
		w.t.Fatal(err)
	}
	names, err := parseList(list)
	if err != nil || len(names) < 100 {
		w.t.Fatalf("%d names: %v", len(names), err)
	}
	for name, sum := range names {
		body, err := os.ReadFile(w.path("public", name+".torrent"))
		if err != nil {
			w.t.Fatal(err)
		}
		torrent, err := parseTorrent(body)
		if err != nil || torrent.InfoHash != sum {
			w.t.Errorf("%s has infohash %s, published is %s: %v", name, torrent.InfoHash, sum, err)
		}
		if st, err := os.Stat(w.path("public", name)); err != nil || st.Size() != torrent.Length {
			w.t.Errorf("%s is not the file of its torrent: %v", name, err)
		}
	}
	return names
}
