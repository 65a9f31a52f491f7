//go:build linux

package onhost

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func guardOf(node string, after time.Duration, undo ...string) Guard {
	g := Guard{Key: "r." + node, Run: "r", Node: node, After: after}
	for i, script := range undo {
		g.Undo = append(g.Undo, sh(fmt.Sprintf("r/%s/undo%d/1", node, i), script))
	}
	return g
}

func (b *box) arm(g Guard) GuardState {
	b.Helper()
	var st GuardState
	b.ok(g, &st, "guard", "arm")
	return st
}

func (b *box) guard(verb, key string) GuardState {
	b.Helper()
	var st GuardState
	b.ok(nil, &st, "guard", verb, key)
	return st
}

// paid waits until a guard's own undo is done.
func (b *box) paid(key string) GuardState {
	b.Helper()
	var st GuardState
	b.until("guard "+key+" has paid", func() bool {
		st = b.guard("state", key)
		return st.Paid
	})
	return st
}

func TestGuardIsDisarmed(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	if st := b.guard("state", "r.n"); st.State != None {
		t.Errorf("before: %+v", st)
	}
	g := guardOf("n", time.Hour, "touch "+b.root+"/undone")
	st := b.arm(g)
	if st.State != Armed || st.By == "" || st.Paid || strings.Contains(st.Note, "gone") {
		t.Errorf("armed: %+v", st)
	}
	dir, _ := guardNow(b.root, g.Key)
	if again := b.arm(g); again.State != Armed || latest(guardDir(b.root, g.Key)) != 1 {
		t.Errorf("armed twice: %+v", again)
	}
	if s := b.call("", "job", "forget", "r"); s.code != 3 || !strings.Contains(s.err, "guard r.n") {
		t.Errorf("forget of an armed guard: %+v", s)
	}
	for range 2 {
		if st := b.guard("disarm", g.Key); st.State != Disarmed || st.Paid {
			t.Errorf("disarmed: %+v", st)
		}
	}
	b.until("nobody watches", func() bool { return !aliveIn(inDir(dir, fileWatch)) })
	if st := b.guard("renew", g.Key); st.State != Disarmed || exists(b.root+"/undone") {
		t.Errorf("renewed after: %+v", st)
	}
	if st := b.arm(g); st.State != Armed || latest(guardDir(b.root, g.Key)) != 2 {
		t.Errorf("armed anew: %+v", st)
	}
	b.guard("disarm", g.Key)
	b.ok(nil, nil, "job", "forget", "r")
	if st := b.guard("state", g.Key); st.State != None {
		t.Errorf("forgotten: %+v", st)
	}
}

func TestGuardRefuses(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	secret := guardOf("n", time.Hour, "true")
	secret.Undo[0].Secrets = []string{"A"}
	evil := guardOf("n", time.Hour, "true")
	evil.Key = "../x"
	for want, g := range map[string]Guard{
		"without an undo": guardOf("n", time.Hour),
		"never fire":      guardOf("n", 0, "true"),
		"needs a secret":  secret,
		`guard "../x"`:    evil,
	} {
		if s := b.call(encode(t, g), "guard", "arm"); s.code != 2 || !strings.Contains(s.err, want) {
			t.Errorf("want %q: %+v", want, s)
		}
	}
}

func TestGuardFiresInOrderUntilAllIsUndone(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	log := filepath.Join(b.root, "log")
	g := guardOf("n", 300*time.Millisecond,
		"echo first >>"+log+"; [ $(grep -c first "+log+") -ge 2 ]", // exits 1 at the first try
		"echo second >>"+log)
	b.arm(g)
	st := b.paid(g.Key)
	got, _ := os.ReadFile(log)
	if st.State != Fired || string(got) != "first\nfirst\nsecond\n" || len(st.Undo) != 2 {
		t.Errorf("%+v, log %q", st, got)
	}
	if again := b.guard("disarm", g.Key); again.State != Fired || !again.Paid {
		t.Errorf("disarmed after it fired: %+v", again)
	}
}

// fireNow takes the lease of a guard back, so that it fires when it looks next.
func (b *box) fireNow(key string) {
	b.Helper()
	dir, _ := guardNow(b.root, key)
	at, err := now()
	if err != nil {
		b.Fatal(err)
	}
	at.Since -= 2 * time.Hour
	if err := writeJSON(inDir(dir, fileLease), at); err != nil {
		b.Fatal(err)
	}
}

// leased is a guard that fires only when the test says so.
func leased(node string, undo ...string) Guard {
	g := guardOf(node, 0, undo...)
	g.Lease = time.Hour
	return g
}

func TestGuardLease(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	g := leased("n", "true")
	b.arm(g)
	dir, _ := guardNow(b.root, g.Key)
	at, err := now()
	if err != nil {
		t.Fatal(err)
	}
	at.Since -= 30 * time.Minute
	if err := writeJSON(inDir(dir, fileLease), at); err != nil {
		t.Fatal(err)
	}
	if st := b.guard("renew", g.Key); st.State != Armed {
		t.Errorf("%+v", st)
	}
	if m := leaseOf(dir, armedGuard{}); sinceBoot()-m.Since > 10*time.Minute {
		t.Errorf("renewed to %+v, %v ago", m, sinceBoot()-m.Since)
	}
	b.fireNow(g.Key)
	if st := b.paid(g.Key); st.State != Fired {
		t.Errorf("%+v", st)
	}
}

func TestLeftOf(t *testing.T) {
	t.Parallel()
	at, err := now()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		after, lease time.Duration
		armed, renew time.Duration // ago
		boot         string
		want         time.Duration
	}{
		{time.Hour, 0, 10 * time.Minute, 0, at.Boot, 50 * time.Minute},
		{0, time.Hour, 5 * time.Hour, 20 * time.Minute, at.Boot, 40 * time.Minute},
		{time.Hour, 30 * time.Minute, 40 * time.Minute, 20 * time.Minute, at.Boot, 10 * time.Minute},
		{time.Hour, 30 * time.Minute, 20 * time.Minute, 20 * time.Minute, at.Boot, 10 * time.Minute},
		{time.Hour, 0, 2 * time.Hour, 0, at.Boot, -time.Hour},
		{time.Hour, time.Hour, 0, 0, "another", 0},
	} {
		dir := t.TempDir()
		armed := moment{Boot: c.boot, Since: at.Since - c.armed}
		if err := writeJSON(inDir(dir, fileLease), moment{Boot: at.Boot, Since: at.Since - c.renew}); err != nil {
			t.Fatal(err)
		}
		left, err := leftOf(dir, armedGuard{Guard{After: c.after, Lease: c.lease}, armed})
		if err != nil || (left-c.want).Abs() > 30*time.Second {
			t.Errorf("%+v: %v, %v", c, left, err)
		}
	}
}

func TestGuardEndsTheJobAndThenUndoes(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	g := leased("n", "true")
	b.arm(g)
	j := sh("r/n/capture/1", "trap 'sleep 0.3; exit 0' TERM; echo ready; while :; do sleep 0.02; done")
	j.Guard, j.Settle = g.Key, true
	other := sh("r/n2/capture/1", "exec sleep 60")
	b.begin(other, nil)
	b.beginReady(j)
	b.fireNow(g.Key)
	res, _ := b.job(j, nil)
	if !res.Void || res.Exit != 0 {
		t.Errorf("the copy is not void: %+v", res)
	}
	st := b.paid(g.Key)
	if st.State != Fired || st.Undo[0].Started.Before(res.Ended.Add(-50*time.Millisecond)) {
		t.Errorf("undone at %v, while the job ended at %v: %+v", st.Undo[0].Started, res.Ended, st)
	}
	if !aliveIn(b.file(other.ID, fileChild)) {
		t.Error("a job of another node was ended")
	}
	late := sh("r/n/capture/2", "touch "+b.root+"/late")
	late.Guard = g.Key
	if res, _ := b.job(late, nil); !res.Void || res.Err == "" || exists(b.root+"/late") {
		t.Errorf("a job after it fired: %+v", res)
	}
}

func TestGuardAfterTheCopyIsWhole(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	g := leased("n", "true")
	b.arm(g)
	for i, c := range []struct {
		script string
		void   bool
		state  string
	}{{"exit 1", false, Armed}, {"exit 0", false, Copied}, {"exit 0", false, Copied}} {
		j := sh(fmt.Sprintf("r/n/capture/%d", i), c.script)
		j.Guard, j.Settle = g.Key, true
		if res, _ := b.job(j, nil); res.Void != c.void {
			t.Errorf("%d: %+v", i, res)
		}
		if st := b.guard("state", g.Key); st.State != c.state {
			t.Errorf("%d: %+v", i, st)
		}
	}
	b.fireNow(g.Key)
	if st := b.paid(g.Key); st.State != Returned {
		t.Errorf("%+v", st)
	}
}

// TestJobOfAnEarlierArming does not settle a guard that was armed anew meanwhile.
func TestJobOfAnEarlierArming(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	g := leased("n", "true")
	b.arm(g)
	j := sh("r/n/capture/1", "trap '' TERM; echo ready; while [ ! -e "+b.root+"/gate ]; do sleep 0.02; done")
	j.Guard, j.Settle, j.Grace = g.Key, true, 100*time.Millisecond
	b.beginReady(j)
	b.fireNow(g.Key)
	b.paid(g.Key)
	if st := b.arm(g); st.State != Armed {
		t.Fatalf("armed anew: %+v", st)
	}
	if err := touch(b.root + "/gate"); err != nil {
		t.Fatal(err)
	}
	b.until("the job ended", func() bool { return !aliveIn(b.file(j.ID, fileSupervisor)) })
	if res, _ := b.job(j, nil); res.Exit != 0 || !res.Void || res.Stuck {
		t.Errorf("%+v", res)
	}
	if st := b.guard("disarm", g.Key); st.State != Disarmed {
		t.Errorf("%+v", st)
	}
}

// TestGuardAgainstCapture lets a guard fire just when a capture ends, with real processes: either
// the copy is whole and the guard returned, or it is void and the guard fired.
func TestGuardAgainstCapture(t *testing.T) {
	t.Parallel()
	rounds, lanes := 60, 4
	if testing.Short() {
		rounds = 8
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := map[string]int{}
	for lane := range lanes {
		b := newBox(t)
		wg.Go(func() {
			for i := lane; i < rounds; i += lanes {
				state := b.raceOnce(i)
				mu.Lock()
				won[state]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Logf("%d rounds: %v", rounds, won)
	if won[Fired]+won[Returned] != rounds {
		t.Errorf("%d rounds: %v", rounds, won)
	}
}

func (b *box) raceOnce(i int) string {
	g := guardOf(fmt.Sprintf("n%d", i), 600*time.Millisecond, "true")
	s := b.call(encode(b.T, g), "guard", "arm")
	j := sh(fmt.Sprintf("r/n%d/capture/1", i), fmt.Sprintf("sleep 0.%02d", 4*(i%14)))
	j.Guard, j.Settle = g.Key, true
	s = b.call(encode(b.T, Start{Job: j}), "job", "run")
	var res Result
	if err := readJSON(b.file(j.ID, fileStatus), &res); err != nil {
		b.Errorf("%+v: %v", s, err)
		return "broken"
	}
	dir, _ := guardNow(b.root, g.Key)
	for end := time.Now().Add(30 * time.Second); !exists(inDir(dir, filePaid)); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			b.Errorf("round %d: the guard did not pay", i)
			return "broken"
		}
	}
	state := stateIn(dir)
	whole := res.Exit == 0 && !res.Void && res.Err == ""
	if whole != (state == Returned) || res.Lost {
		b.Errorf("round %d: the guard is %s and the job %+v", i, state, res)
	}
	return state
}

// TestSettle lets fire and copied race inside one process, where they come much closer.
func TestSettle(t *testing.T) {
	t.Parallel()
	copied, fired := 0, 0
	for i := range 300 {
		dir := t.TempDir()
		if err := writeJSON(inDir(dir, Armed), true); err != nil {
			t.Fatal(err)
		}
		var job error
		var first bool
		var wg sync.WaitGroup
		wg.Go(func() { job = (&work{guard: dir, dir: t.TempDir()}).copied() })
		late := time.Duration(i%50) * 200 * time.Microsecond // so that both get their chance
		wg.Go(func() { time.Sleep(late); first, _ = move(dir, Armed, Fired) })
		wg.Wait()
		state := stateIn(dir)
		switch {
		case first && job == errVoid && state == Fired:
			fired++
		case !first && job == nil && state == Copied:
			copied++
		default:
			t.Fatalf("fired %v, job %v, state %s", first, job, state)
		}
	}
	t.Logf("copied %d, fired %d", copied, fired)
}

func TestGuardWhoseWatcherDied(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	g := guardOf("n", time.Hour, "true")
	b.arm(g)
	dir, _ := guardNow(b.root, g.Key)
	kill := func() {
		var w watcher
		if err := readJSON(inDir(dir, fileWatch), &w); err != nil {
			t.Fatal(err)
		}
		syscall.Kill(w.PID, syscall.SIGKILL)
		b.until("the watcher is gone", func() bool { return !w.alive() })
	}
	kill()
	if st := b.guard("state", g.Key); st.State != Armed || !strings.Contains(st.Note, "nobody watches") {
		t.Errorf("%+v", st)
	}
	for _, verb := range []string{"renew", "arm"} {
		if verb == "renew" {
			b.guard(verb, g.Key)
		} else {
			b.arm(g)
		}
		if st := b.guard("state", g.Key); st.State != Armed || st.Note != "" {
			t.Errorf("after %s: %+v", verb, st)
		}
		kill()
	}
	b.guard("disarm", g.Key)
}

func TestGuardThatCanNotPayIsStopped(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	g := guardOf("n", 100*time.Millisecond, "exit 5", "touch "+b.root+"/second")
	b.arm(g)
	b.until("it tried", func() bool { return len(b.guard("state", g.Key).Undo) > 0 })
	st := b.guard("disarm", g.Key)
	if st.State != Fired || st.Paid || st.Undo[0].Exit != 5 || exists(b.root+"/second") {
		t.Errorf("%+v", st)
	}
	dir, _ := guardNow(b.root, g.Key)
	if aliveIn(inDir(dir, fileWatch)) {
		t.Error("it goes on trying")
	}
	b.ok(nil, nil, "job", "forget", "r")
}

func TestGuardAfterAReboot(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.path = fakes(t, map[string]string{"crontab": `#!/bin/sh
case "$1" in -l) [ -e $0.text ] || { echo "no crontab for me" >&2; exit 1; }; exec /bin/cat $0.text;; esac
exec /bin/cat > $0.text`})
	table := filepath.Join(b.path, "crontab.text")
	other := "0 4 * * * something of the operator's\n"
	if err := os.WriteFile(table, []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	g := guardOf("n", time.Hour, "true")
	g.Reboot = true
	if st := b.arm(g); st.Note != "" {
		t.Errorf("note %q", st.Note)
	}
	want := other + "@reboot " + binary + " -root " + b.root + " guard reboot r.n # snapfw guard r.n\n"
	if got, _ := os.ReadFile(table); string(got) != want {
		t.Errorf("crontab\n got %q\nwant %q", got, want)
	}
	b.ok(nil, nil, "guard", "reboot", g.Key) // cron was restarted: somebody watches, nothing happens
	if st := b.guard("state", g.Key); st.State != Armed {
		t.Errorf("%+v", st)
	}
	dir, _ := guardNow(b.root, g.Key)
	b.otherBoot(dir)
	b.ok(nil, nil, "guard", "reboot", g.Key)
	if st := b.guard("state", g.Key); st.State != Fired || !st.Paid {
		t.Errorf("%+v", st)
	}
	if got, _ := os.ReadFile(table); string(got) != other {
		t.Errorf("crontab afterwards %q", got)
	}
}

// otherBoot makes a guard look as after a reboot: its process is gone, its boot another one.
func (b *box) otherBoot(dir string) {
	b.Helper()
	var w watcher
	var a armedGuard
	if readJSON(inDir(dir, fileWatch), &w) != nil || readJSON(inDir(dir, fileGuard), &a) != nil {
		b.Fatal("no guard in " + dir)
	}
	syscall.Kill(w.PID, syscall.SIGKILL)
	b.until("the watcher is gone", func() bool { return !w.alive() })
	a.Armed.Boot = "another"
	if err := writeJSON(inDir(dir, fileGuard), a); err != nil {
		b.Fatal(err)
	}
}

func TestGuardWithoutCrontab(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.path = fakes(t, nil)
	g := guardOf("n", time.Hour, "true")
	g.Reboot = true
	if st := b.arm(g); st.State != Armed || !strings.Contains(st.Note, "crontab is not installed") {
		t.Errorf("%+v", st)
	}
	if st := b.guard("disarm", g.Key); st.State != Disarmed {
		t.Errorf("%+v", st)
	}
}

// fakes makes a folder of programs that stand in for those that this machine may lack or
// that a test must not touch.
func fakes(t *testing.T, programs map[string]string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "onhost-path")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	os.Chmod(dir, 0o755)
	for name, text := range programs {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
