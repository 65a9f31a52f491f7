package releasetest

import "testing"

// What the bucket expired, or somebody removed, is sent again by the next release, though its list is the one that is
// published (https://github.com/erigontech/erigon/issues/21688).
func TestWhatIsGoneIsSentAgain(t *testing.T) {
	w := newWorld(t, options{local: true, still: true, byHand: true})
	s := w.release(5)
	w.want(0, "", "approve", s.Run, "--reason", "first")
	w.want(0, "", "resume", s.Run)
	before := w.published()
	expired := []string{"v1.1-000000-000100-headers.seg", "v1.1-000000-000100-bodies.seg.torrent"}
	w.site.Remove(t, expired...)
	w.want(0, "", "release", "--chain", chainName)
	for _, key := range expired {
		if _, ok := w.site.Object(key); !ok {
			t.Errorf("%s is still gone", key)
		}
	}
	if !equal(before, w.published()) {
		t.Error("the list changed")
	}
	w.whole()
}
