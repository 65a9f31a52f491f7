//go:build linux

package onhost

import (
	"os"
	"strings"
	"testing"
	"time"
)

// claimed starts "job run" and holds it between the claim and its supervisor until the returned
// function lets it go, which also returns how the job ended.
func (b *box) claimed(j Job) (letGo func() Result) {
	b.Helper()
	dir, err := jobDir(b.root, j.ID)
	if err != nil {
		b.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		b.Fatal(err)
	}
	claim, err := lockFile(inDir(dir, fileClaim), true)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { claim.Close() })
	done := make(chan said, 1)
	go func() { done <- b.call(encode(b.T, Start{Job: j}), "job", "run") }()
	return func() Result {
		b.Helper()
		claim.Close()
		res, _ := lastOf(b.T, <-done)
		return res
	}
}

func TestEndOfAJobThatIsClaimedOnly(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"r", "r/n"} {
		b := newBox(t)
		letGo := b.claimed(sh("r/n/s/1", "touch "+b.root+"/ran"))
		b.ok(nil, nil, "job", "end", end)
		if res := letGo(); !strings.Contains(res.Err, "end was asked for") || res.Exit == 0 {
			t.Errorf("end %s: %+v", end, res)
		}
		if exists(b.root + "/ran") {
			t.Errorf("end %s: the job was started after its end was asked for", end)
		}
		if res, _ := b.job(sh("r/n/s/2", "exit 0"), nil); res.Exit != 0 || res.Err != "" {
			t.Errorf("end %s: the next attempt: %+v", end, res)
		}
	}
}

func TestEndOfAJobThatNobodyClaimedYet(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	undo := sh("r/n/undo/1", "exit 0")
	guarded := func(id, key string) Job {
		j := sh(id, "touch "+b.root+"/ran")
		j.Guard = key
		return j
	}
	for _, n := range []string{"n", "other"} {
		b.arm(guardOf(n, time.Hour, "exit 0"))
	}
	b.ok(nil, nil, "job", "end", "r/n")
	late := guarded("r/n/stop/1", "r.n")
	if res, _ := b.job(late, nil); !strings.Contains(res.Err, "end was asked for") || exists(b.root+"/ran") {
		t.Errorf("a job of the guard, after the end and before the guard is disarmed: %+v", res)
	}
	if st := b.guard("renew", "r.n"); st.State != Armed {
		t.Errorf("the end of the jobs settled the guard: %+v", st)
	}
	if res, _ := b.job(undo, nil); res.Exit != 0 || res.Err != "" {
		t.Errorf("an undo, which no guard voids: %+v", res)
	}
	b.ok(nil, nil, "guard", "disarm", "r.n")
	b.arm(guardOf("n", time.Hour, "exit 0"))
	for id, key := range map[string]string{"r/n/stop/2": "r.n", "r/other/stop/1": "r.other"} {
		if res, _ := b.job(guarded(id, key), nil); res.Exit != 0 || res.Err != "" {
			t.Errorf("%s: a job of a guard that was armed anew, or of another node: %+v", id, res)
		}
	}
	for _, key := range []string{"r.n", "r.other"} {
		b.ok(nil, nil, "guard", "disarm", key)
	}
}
