package releasetest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A chain is released twice to a bucket behind a CDN, reviewed on GitHub, while somebody reads all the time; a real
// BitTorrent client then downloads what was published.
func TestReleaseWithAReviewOnGitHub(t *testing.T) {
	w := newWorld(t, options{})
	s := w.release(5)
	w.well()
	pulls := w.github.Pulls()
	if len(pulls) != 1 || !pulls[0].Open || pulls[0].Base != base || !strings.Contains(pulls[0].Body, "Verdict: safe") ||
		!strings.HasPrefix(pulls[0].Head, "Snapshot-Automation/") || len(pulls[0].Labels) != 1 || len(pulls[0].Reviewers) != 1 {
		t.Fatalf("the proposal: %+v", pulls)
	}
	if w.published() != nil {
		t.Fatal("a list is published before it was merged")
	}
	w.want(5, "pull/1", "resume", s.Run)
	w.merge()
	w.want(0, listKey, "resume", s.Run)
	if got, _ := w.site.Object(listKey); !same(w.github.File(base, listKey))(got) {
		t.Fatal("what is published is not what was merged")
	}
	first := w.published()
	w.whole()

	// Files grow and merge: names come and go, and nothing is replaced.
	reader := w.reader()
	w.grow(3000)
	w.release(5)
	w.merge()
	w.want(0, listKey, "resume")
	report := reader.Stop()
	for _, b := range report.Bad {
		t.Errorf("somebody who read meanwhile saw %s", b)
	}
	if len(report.Lists) < 2 {
		t.Errorf("the reader saw %d lists", len(report.Lists))
	}
	second := w.published()
	if len(second) == 0 || equal(first, second) {
		t.Fatalf("the second release published nothing new: %d names", len(second))
	}
	for name := range first {
		if _, ok := w.site.Object(name); !ok {
			t.Errorf("%s was named a moment ago and is gone", name)
		}
	}
	w.whole()
	w.download("salt-state.txt", "v1.1-000000-000100-headers.seg")
}

func same(want []byte, ok bool) func([]byte) bool {
	return func(got []byte) bool { return ok && bytes.Equal(want, got) }
}

func equal(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}

// download fetches files with a BitTorrent client, by the published torrent and from the CDN as the web seed.
func (w *world) download(names ...string) {
	w.t.Helper()
	if _, err := exec.LookPath("aria2c"); err != nil {
		w.t.Skip("SKIPPED: no real client was tried, since aria2c is missing: apt-get install aria2")
	}
	for _, name := range names {
		if _, ok := w.published()[name]; !ok {
			w.t.Fatalf("%s is not published", name)
		}
		to := w.t.TempDir()
		torrent := filepath.Join(to, "published.torrent")
		body, err := get(w.t.Context(), w.site.PublicURL+"/"+name+".torrent")
		if err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(torrent, body, 0o644); err != nil {
			w.t.Fatal(err)
		}
		out := filepath.Join(to, "out")
		w.must(exec.Command("aria2c", "--no-conf", "--dir", out, "--seed-time=0", "--enable-dht=false", "--bt-enable-lpd=false",
			"--enable-peer-exchange=false", "--bt-exclude-tracker=*", "--interface=127.0.0.1", "--listen-port=30000-60000", "--check-integrity=true",
			"--file-allocation=none", "--bt-stop-timeout=10", "--max-tries=1", "--summary-interval=0", "--header=X-Site-Key: test-header-value",
			"--torrent-file="+torrent, w.site.PublicURL+"/"+name))
		got, err := os.ReadFile(filepath.Join(out, filepath.Base(name)))
		want, _ := w.site.Object(name)
		if err != nil || !bytes.Equal(got, want) {
			w.t.Errorf("%s: %d bytes of %d came: %v", name, len(got), len(want), err)
		}
	}
}

// Replaced files wait under .staged/ until the review is through: every index changes with its salt.
func TestReplacementsWaitForTheReview(t *testing.T) {
	w := newWorld(t, options{still: true})
	s := w.release(5)
	w.merge()
	w.want(0, "", "resume", s.Run)
	before := w.published()
	w.whole()

	refused := w.want(3, "the change is not safe", "release", "--chain", chainName, "--clear-indexes")
	if !strings.Contains(refused.err, "hash_changes") {
		t.Errorf("%s", refused)
	}
	w.well()
	if !equal(before, w.published()) || len(w.github.Pulls()) != 1 {
		t.Fatal("a refused release was published or proposed")
	}
	w.want(2, "--reason", "release", "--chain", chainName, "--clear-indexes", "--force")
	forced := w.release(5, "--clear-indexes", "--force", "--reason", "new salts after a leak")
	pull := w.github.Pulls()[1]
	if !strings.Contains(pull.Body, "new salts after a leak") {
		t.Errorf("the proposal does not say why it was forced: %s", pull.Body)
	}
	w.whole() // the old list and the old bytes
	var replaced []string
	for name := range before {
		if strings.Contains(".idx .bt .kvi .kvei .vi .efi .txt", filepath.Ext(name)) {
			replaced = append(replaced, name)
		}
	}
	reader := w.reader(replaced...)
	w.merge()
	w.want(0, "", "resume", forced.Run)
	report := reader.Stop()
	for _, b := range report.Bad {
		t.Errorf("somebody who read meanwhile saw %s", b)
	}
	after := w.published()
	changed := 0
	for name, sum := range before {
		if after[name] != sum {
			changed++
		}
	}
	if changed < 20 {
		t.Errorf("%d of %d changed", changed, len(before))
	}
	w.whole()
	for _, key := range w.site.Keys(".staged/") {
		t.Errorf("%s is left", key)
	}
}

// Nobody's review means nobody's list.
func TestRejectedMeansNothingIsPublished(t *testing.T) {
	w := newWorld(t, options{local: true, still: true})
	s := w.release(5)
	n := w.github.Pulls()[0].Number
	w.github.Comment(n, "alice", "why did the hash change?")
	w.github.CloseUnmerged(n)
	w.want(3, "rejected", "resume", s.Run)
	if r, node := w.want(0, "rejected", "show", s.Run), s.Nodes[0].Node+": "; strings.Contains(r.out, node+node) {
		t.Errorf("it names the node twice: %s", r)
	}
	if w.published() != nil || len(w.site.Keys(".staged/")) > 0 {
		t.Error("rejected, and something is published or staged")
	}
	w.well()
	again := w.release(5)
	programs := w.chain["programs"]
	w.chain["programs"] = table{"erigon": w.path("bin", "nothing")}
	if r := w.snapfw("release", "--chain", chainName); r.exit == 0 || r.exit == 5 || !w.github.Pulls()[1].Open {
		t.Errorf("a release that can't begin: %s; proposals: %+v", r, w.github.Pulls())
	}
	w.chain["programs"] = programs
	newer := w.release(5) // supersedes the one before
	if again.Run == newer.Run || w.github.Pulls()[1].Open || !w.github.Pulls()[2].Open {
		t.Errorf("proposals: %+v", w.github.Pulls())
	}
	w.merge()
	w.want(0, "", "resume")
	w.whole()
}

func TestApprovedByHand(t *testing.T) {
	w := newWorld(t, options{local: true, still: true, byHand: true})
	s := w.release(5)
	w.want(2, "--reason", "approve", s.Run)
	w.want(5, "snapfw approve", "resume", s.Run)
	w.want(0, "snapfw resume", "approve", s.Run, "--reason", "read it")
	w.want(0, listKey, "resume", s.Run)
	w.whole()
	if r := w.want(0, listKey+": nothing new", "release", "--chain", chainName); strings.Contains(r.err, "snapfw approve") {
		t.Errorf("nothing is new, and somebody is asked: %s", r)
	}
}
