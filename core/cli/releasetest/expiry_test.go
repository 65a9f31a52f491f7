package releasetest

import (
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/snapfw/snapfw/core/internal/manifest"
	"github.com/snapfw/snapfw/sinks/r2/r2test"
)

// Where the bucket expires objects, what stays published is made young again by a release that has nothing new, but
// only when half of its time is over (https://github.com/erigontech/erigon/issues/21688).
func TestWhatStaysIsMadeYoungInTime(t *testing.T) {
	w := newWorld(t, options{local: true, still: true, byHand: true})
	w.config["sinks"].(table)["bucket"].(table)["expiry_days"] = 56
	s := w.release(5)
	w.want(0, "", "approve", s.Run, "--reason", "first")
	w.want(0, "", "resume", s.Run)
	const old, younger = "v1.1-000000-000100-headers.seg", "v1.1-000000-000100-bodies.seg"
	w.site.Age(t, 29*24*time.Hour, old, old+".torrent")
	w.site.Age(t, 27*24*time.Hour, younger)
	w.site.Took()
	w.want(0, "", "release", "--chain", chainName)
	var copied []string
	for _, op := range w.site.Took() {
		if key, ok := strings.CutPrefix(op, "copy "); ok {
			copied = append(copied, key)
		}
		if strings.HasPrefix(op, "PUT v1") || strings.HasPrefix(op, "part ") {
			t.Errorf("a release with nothing new did %s", op)
		}
	}
	slices.Sort(copied)
	if !slices.Equal(copied, []string{old, old + ".torrent"}) {
		t.Errorf("made young: %q", copied)
	}
	// What was copied onto itself is still known: nothing is sent again.
	before := w.site.Received()
	w.want(0, "", "release", "--chain", chainName)
	if sent := w.site.Received() - before; sent > 1<<20 {
		t.Errorf("%d bytes were sent", sent)
	}
	w.whole()
}

// The bucket expires what waits for a review that takes long: that run is over, and the next one works.
func TestTheStageExpires(t *testing.T) {
	w := newWorld(t, options{local: true, still: true})
	s := w.release(5)
	for _, key := range w.site.Keys(".staged/") {
		w.site.Remove(t, key)
	}
	w.want(3, "so its proposal is withdrawn", "resume", s.Run)
	if w.github.Pulls()[0].Open || w.published() != nil {
		t.Errorf("%+v", w.github.Pulls()[0])
	}
	s = w.release(5)
	w.merge()
	for _, key := range w.site.Keys(".staged/") {
		w.site.Remove(t, key)
	}
	w.want(0, listKey, "release", "--chain", chainName) // the list is under review already, and what was sent is there
	w.want(0, "is gone from the bucket", "show", s.Run)
	w.whole()
}

// An object that nobody sends again goes while the release waits: no list goes out that names it, forced or not, and the
// next release sends it.
func TestNoListNamesWhatExpired(t *testing.T) {
	w := newWorld(t, options{local: true, still: true, byHand: true})
	s := w.release(5)
	w.want(0, "", "approve", s.Run, "--reason", "first")
	w.want(0, "", "resume", s.Run)
	before := w.published()
	s = w.release(5, "--clear-indexes", "--force", "--reason", "new salts")
	w.want(0, "", "approve", s.Run, "--reason", "read")
	expired := []string{"v1.1-000000-000100-headers.seg.torrent", "v1.1-000000-000100-bodies.seg"}
	w.site.Remove(t, expired...)
	r := w.want(3, expired[0]+" is missing", "resume", s.Run)
	if !strings.Contains(r.err, expired[1]+" is missing") || !strings.Contains(r.err, "release again") {
		t.Errorf("%s", r)
	}
	if left := w.site.Keys(".staged/"); len(left) > 0 || !equal(before, w.published()) {
		t.Errorf("%d objects are staged; the list changed: %v", len(left), !equal(before, w.published()))
	}
	s = w.release(5, "--force", "--reason", "new salts")
	w.want(0, "", "approve", s.Run, "--reason", "read")
	w.want(0, listKey, "resume", s.Run)
	w.whole()
}

// Releases that are refused keep what is published young as well, the list and the memory of objects too. One that can't is
// told, and fails with the list published.
func TestARefusedReleaseKeepsWhatIsPublishedYoung(t *testing.T) {
	w := newWorld(t, options{local: true, still: true, byHand: true})
	s := w.release(5)
	w.want(0, "", "approve", s.Run, "--reason", "first")
	w.want(0, "", "resume", s.Run)
	const old = "v1.1-000000-000100-headers.seg"
	due := []string{"mainnet.objects.json", listKey, old, old + ".torrent"}
	w.site.Age(t, 29*24*time.Hour, due...)
	w.site.Took()
	w.want(3, "the change is not safe", "release", "--chain", chainName, "--clear-indexes")
	var copied []string
	for _, op := range w.site.Took() {
		if key, ok := strings.CutPrefix(op, "copy "); ok {
			copied = append(copied, key)
		}
	}
	slices.Sort(copied)
	if !slices.Equal(copied, due) {
		t.Errorf("made young: %q", copied)
	}
	w.well()
	w.whole()

	w.site.Age(t, 29*24*time.Hour, old)
	w.site.Trouble(func(rw http.ResponseWriter, r *http.Request) bool {
		if r2test.Operation(r) != "copy "+old {
			return false
		}
		r2test.Refuse(rw, http.StatusForbidden, "AccessDenied", "Access Denied")
		return true
	})
	s = w.release(5, "--force", "--reason", "new salts")
	w.want(0, "", "approve", s.Run, "--reason", "read")
	w.want(1, listKey+" is published, but", "resume", s.Run)
	w.site.Trouble(nil)
	w.want(0, "", "release", "--chain", chainName)
	if !slices.Contains(w.site.Took(), "copy "+old) {
		t.Errorf("%s is still old", old)
	}
	w.whole()
}

// What an upload that was killed and given up leaves under its keys is known, so that it is deleted when grace is over; and the
// next release sends all of it, since nobody saw it arrive.
func TestAKilledUploadIsRemembered(t *testing.T) {
	w := newWorld(t, options{local: true, still: true, byHand: true})
	var n atomic.Int64
	w.killAt(func(op string) bool { return strings.HasPrefix(op, "PUT ") && n.Add(1) > 60 }, "release", "--chain", chainName)
	w.want(0, "", "cancel", w.newest())
	body, _ := w.site.Object("mainnet.objects.json")
	known, err := manifest.ParseObjects(body)
	if err != nil {
		t.Fatal(err)
	}
	left := 0
	for _, key := range w.site.Keys("") {
		if k, ok := known.Objects[key]; ok && k.Unnamed != nil && k.ETag == "" {
			left++
		} else if key != "mainnet.objects.json" {
			t.Errorf("%s is left, and remembered as %+v", key, k)
		}
	}
	if left < 20 {
		t.Errorf("%d objects are left: was it killed too early?", left)
	}
	s := w.release(5)
	w.want(0, "", "approve", s.Run, "--reason", "read")
	w.want(0, listKey, "resume", s.Run)
	w.whole()
}
