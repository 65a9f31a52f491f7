package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestLaunchSaveStopStart(t *testing.T) {
	t.Parallel()
	dir := launchDatadir(t)
	mustSay(t, 3, "does not run", "save", "--datadir", dir)
	mustSay(t, 0, "does not run", "stop", "--datadir", dir)
	mustSay(t, 1, "never saved", "start", "--datadir", dir)
	first := runNode(t, dir, "--http.token", "hunter2hunter2")
	mustSay(t, 3, "left running", "stop", "--datadir", dir) // it could not be started again
	mustSay(t, 0, "saved", "save", "--datadir", dir)
	mustSay(t, 0, "as it was", "save", "--datadir", dir)
	file := filepath.Join(dir, ".snapfw", "launch.json")
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", info, err)
	}
	was, err := lookAtLaunch(process{first.Process.Pid, startOf(first.Process.Pid)})
	if err != nil {
		t.Fatal(err)
	}
	if was.Dir != dir || was.Files[0].Path != os.DevNull || was.Files[1] != (stream{filepath.Join(dir, "node.log"), true}) {
		t.Errorf("looked at %+v", was)
	}
	mustSay(t, 3, "is held by pid", "gone", "--datadir", dir, "--wait", "1ms")
	mustSay(t, 0, "runs on", "start", "--datadir", dir)
	out := mustSay(t, 0, `"held":true`, "status", "--datadir", dir, "--json")
	if !strings.Contains(out, `"saved":true`) {
		t.Error(out)
	}
	mustSay(t, 0, "is gone", "stop", "--datadir", dir, "--wait", "20s")
	mustSay(t, 0, "", "gone", "--datadir", dir)
	mustSay(t, 0, "runs on", "start", "--datadir", dir, "--settle", "20ms")
	p, err := lockHolder(dir)
	if err != nil || p == nil {
		t.Fatal(p, err)
	}
	now, err := lookAtLaunch(*p)
	if err != nil || !now.same(was) {
		t.Errorf("it was started as\n%+v, not\n%+v: %v", now, was, err)
	}
	if sessionOf(p.PID) != p.PID {
		t.Error("it is not in a session of its own")
	}
	mustSay(t, 0, "as it was", "save", "--datadir", dir) // so the last good one stays
	if _, err := os.Stat(file + ".1"); err == nil {
		t.Error("an identical launch was rotated")
	}
}

// TestLaunchOutlives sees that whoever reads the output of "launch start" is not kept waiting by the node, and
// that the node gets no pipe of ours.
func TestLaunchOutlives(t *testing.T) {
	t.Parallel()
	dir := launchDatadir(t)
	runNode(t, dir)
	mustSay(t, 0, "saved", "save", "--datadir", dir)
	mustSay(t, 0, "is gone", "stop", "--datadir", dir)
	mustSay(t, 0, "runs on", "start", "--datadir", dir, "--settle", "0") // returns: the pipe is closed at its end
	p, _ := lockHolder(dir)
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.PID))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to := link(strconv.Itoa(p.PID), "fd/"+fd.Name()); strings.HasPrefix(to, "pipe:") {
			t.Errorf("it has %s open", to)
		}
	}
}

// TestLaunchKeepsTheLastGoodOne is two launches that differ.
func TestLaunchKeepsTheLastGoodOne(t *testing.T) {
	t.Parallel()
	dir := launchDatadir(t)
	runNode(t, dir, "--first")
	mustSay(t, 0, "saved", "save", "--datadir", dir)
	mustSay(t, 0, "is gone", "stop", "--datadir", dir)
	runNode(t, dir, "--second")
	mustSay(t, 0, "saved", "save", "--datadir", dir)
	for file, want := range map[string]string{launchFile: "--second", launchBefore: "--first"} {
		b, err := os.ReadFile(filepath.Join(dir, ".snapfw", file))
		if err != nil || !bytes.Contains(b, []byte(want)) {
			t.Errorf("%s has not %s: %v", file, want, err)
		}
	}
}

// TestLaunchStopIsPatient is a node that takes long to end: it is told once, and not killed (erigon issue 10485).
func TestLaunchStopIsPatient(t *testing.T) {
	t.Parallel()
	dir := launchDatadir(t)
	hold := filepath.Join(dir, "hold")
	if err := os.WriteFile(hold, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := runNode(t, dir)
	mustSay(t, 0, "saved", "save", "--datadir", dir)
	mustSay(t, 1, "nothing was killed", "stop", "--datadir", dir, "--wait", "100ms")
	mustSay(t, 1, "was told to end at", "stop", "--datadir", dir, "--wait", "100ms")
	if b, _ := os.ReadFile(filepath.Join(dir, "signals")); string(b) != "interrupt\n" {
		t.Errorf("it got the signals %q", b)
	}
	// A call that died before it sent the signal is made good by one that comes later.
	note := filepath.Join(dir, ".snapfw", stoppingFile)
	for range 10 {
		var told toldToEnd
		b, err := os.ReadFile(note)
		if err != nil || json.Unmarshal(b, &told) != nil {
			t.Fatal(err)
		}
		told.Last = told.Last.Add(-2 * tellAgain)
		b, _ = json.Marshal(told)
		if err := os.WriteFile(note, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := stopNode(t.Context(), dir, stopOptions{tell: time.Minute}, &bytes.Buffer{}); err == nil {
			t.Fatal("it ended")
		}
	}
	eventually(t, func() bool {
		b, _ := os.ReadFile(filepath.Join(dir, "signals"))
		return strings.Count(string(b), "interrupt\n") >= 2
	})
	if b, _ := os.ReadFile(filepath.Join(dir, "signals")); strings.Count(string(b), "interrupt\n") > tellMost {
		t.Errorf("it got the signals %q", b)
	}
	if startOf(cmd.Process.Pid) == 0 {
		t.Fatal("it was killed")
	}
	os.Remove(hold)
	mustSay(t, 0, "", "stop", "--datadir", dir, "--wait", "20s")

	if err := os.WriteFile(hold, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	runNode(t, dir)
	mustSay(t, 0, "is killed", "stop", "--datadir", dir, "--wait", "20s", "--kill-after", "50ms")
}

func TestLaunchStopSaysThatItStillRuns(t *testing.T) {
	t.Parallel()
	dir := launchDatadir(t)
	hold := filepath.Join(dir, "hold")
	if err := os.WriteFile(hold, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	runNode(t, dir)
	mustSay(t, 0, "saved", "save", "--datadir", dir)
	var out bytes.Buffer
	err := stopNode(t.Context(), dir, stopOptions{wait: 2 * time.Second, tell: 20 * time.Millisecond}, &out)
	if err == nil || strings.Count(out.String(), "still runs") < 2 {
		t.Errorf("%v: %s", err, out.String())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := stopNode(ctx, dir, stopOptions{wait: time.Minute, tell: time.Minute}, &out); err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Error(err)
	}
}

// TestLaunchStopSeesAnother is a script around Erigon that starts it again at once.
func TestLaunchStopSeesAnother(t *testing.T) {
	t.Parallel()
	dir := launchDatadir(t)
	cmd := runNode(t, dir)
	mustSay(t, 0, "saved", "save", "--datadir", dir)
	if err := os.WriteFile(filepath.Join(dir, "hold"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	w := stopping{datadir: dir, p: process{cmd.Process.Pid, startOf(cmd.Process.Pid)}, since: time.Now(), out: &bytes.Buffer{},
		stopOptions: stopOptions{wait: 20 * time.Second, tell: time.Minute}}
	unix.Kill(cmd.Process.Pid, unix.SIGKILL)
	eventually(t, func() bool { return !w.p.alive() })
	runNode(t, dir)
	go func() { done <- w.await(t.Context()) }()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "started erigon again") {
		t.Error(err)
	}
}

func TestLaunchStartFails(t *testing.T) {
	t.Parallel()
	dir := launchDatadir(t)
	runNode(t, dir, "--first")
	mustSay(t, 0, "saved", "save", "--datadir", dir)
	mustSay(t, 0, "is gone", "stop", "--datadir", dir)
	runNode(t, dir)
	mustSay(t, 0, "saved", "save", "--datadir", dir)
	mustSay(t, 0, "is gone", "stop", "--datadir", dir)
	if err := os.WriteFile(filepath.Join(dir, "fail"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	out := mustSay(t, 1, "port in use", "start", "--datadir", dir)
	if !strings.Contains(out, "token ***") || !strings.Contains(out, launchBefore) || strings.Count(out, "starting with") != 1 {
		t.Error(out)
	}
	os.Remove(filepath.Join(dir, "fail"))
	if err := os.WriteFile(filepath.Join(dir, "late"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	out = mustSay(t, 1, "it was left running", "start", "--datadir", dir, "--wait", "100ms")
	os.Remove(filepath.Join(dir, "late"))
	eventually(t, func() bool { p, _ := lockHolder(dir); return p != nil })
}

// TestLaunchWithoutItsFolder: a node whose working folder is gone could not be started again, so it is not stopped.
func TestLaunchWithoutItsFolder(t *testing.T) {
	t.Parallel()
	dir := launchDatadir(t)
	work := t.TempDir()
	node := runNodeIn(t, dir, work)
	mustSay(t, 0, "saved", "save", "--datadir", dir)
	if err := os.Remove(work); err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"save", "stop"} {
		mustSay(t, 3, "its working folder "+work+" is gone", verb, "--datadir", dir)
	}
	if p, err := lockHolder(dir); err != nil || p == nil {
		t.Fatalf("it was stopped: %v", err)
	}
	node.Process.Signal(os.Interrupt)
	eventually(t, func() bool { p, err := lockHolder(dir); return err == nil && p == nil })
	mustSay(t, 1, work+", in which erigon was launched, is no folder now", "start", "--datadir", dir)
	if err := os.Mkdir(work, 0o755); err != nil {
		t.Fatal(err)
	}
	mustSay(t, 0, "erigon runs", "start", "--datadir", dir)
	mustSay(t, 0, "is gone", "stop", "--datadir", dir)
}

// TestLaunchStartOnce is several starts at once: one node lives.
func TestLaunchStartOnce(t *testing.T) {
	t.Parallel()
	dir := launchDatadir(t)
	runNode(t, dir)
	mustSay(t, 0, "saved", "save", "--datadir", dir)
	mustSay(t, 0, "is gone", "stop", "--datadir", dir)
	os.Remove(filepath.Join(dir, "lives"))
	os.Remove(filepath.Join(dir, "node.log"))
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if code, out := say(t, "start", "--datadir", dir, "--settle", "10ms"); code != 0 {
				t.Errorf("exit %d: %s", code, out)
			}
		})
	}
	all.Wait()
	log, err := os.ReadFile(filepath.Join(dir, "node.log"))
	if err != nil || strings.Count(string(log), "starting with") != 1 {
		t.Errorf("%s %v", log, err)
	}
}

// TestLaunchWaitsForTools sees that a tool which holds the lock is not taken for the node.
func TestLaunchWaitsForTools(t *testing.T) {
	t.Parallel()
	dir := launchDatadir(t)
	runNode(t, dir)
	mustSay(t, 0, "saved", "save", "--datadir", dir)
	mustSay(t, 0, "is gone", "stop", "--datadir", dir)
	tool := exec.Command("flock", "--no-fork", filepath.Join(dir, "LOCK"), "sh", "-c", "read x; exit", "seg", "retire")
	hold, err := tool.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := tool.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { p, _ := lockHolder(dir); return p != nil && toolOf(argvOf(p.PID)) != "" })
	mustSay(t, 3, "which is no node", "save", "--datadir", dir)
	mustSay(t, 3, "which is no node", "stop", "--datadir", dir)
	mustSay(t, 1, "erigon is not started", "start", "--datadir", dir, "--wait", "50ms")
	mustSay(t, 0, `"tool":"sh seg retire"`, "status", "--datadir", dir, "--json")
	hold.Close()
	tool.Wait()
	mustSay(t, 0, "runs on", "start", "--datadir", dir, "--settle", "0")
}

// TestLaunchHeir is a lock whose taker has ended and left it to a child.
func TestLaunchHeir(t *testing.T) {
	t.Parallel()
	dir := launchDatadir(t)
	cmd := exec.Command("sh", "-c", `exec 9>"$1"; flock 9; cat <&8 >/dev/null & exit 0`, "sh", filepath.Join(dir, "LOCK"))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	cmd.ExtraFiles = []*os.File{nil, nil, nil, nil, nil, r} // 8
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	r.Close()
	p, err := lockIsHeld(dir)
	if err != nil || p == nil || !p.alive() || argvOf(p.PID)[0] != "cat" {
		t.Fatalf("%v %v", p, err)
	}
	w.Close()
	if err := goneNode(t.Context(), dir, 20*time.Second); err != nil {
		t.Error(err)
	}
}

func TestLaunchRefusesForeignFiles(t *testing.T) {
	t.Parallel()
	dir := launchDatadir(t)
	runNode(t, dir)
	mustSay(t, 0, "saved", "save", "--datadir", dir)
	mustSay(t, 0, "is gone", "stop", "--datadir", dir)
	file := filepath.Join(dir, ".snapfw", launchFile)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o622); err != nil {
		t.Fatal(err)
	}
	mustSay(t, 3, "written by others", "start", "--datadir", dir)
	os.Chmod(file, 0o600)
	for _, bad := range []string{"", "{", `{"argv":[]}`, `{"argv":["x"],"exe":"x","dir":"/"}`, strings.Replace(string(good), `"argv"`, `"argw"`, 1)} {
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		mustSay(t, 1, "by hand", "start", "--datadir", dir)
	}
	if os.Geteuid() == 0 {
		os.WriteFile(file, good, 0o600)
		os.Chown(file, 65534, 65534)
		mustSay(t, 3, "would start erigon as uid", "start", "--datadir", dir)
	}
	mustSay(t, 3, "no folder", "start", "--datadir", filepath.Join(dir, "mistyped"))
	if _, err := os.Stat(filepath.Join(dir, "mistyped")); err == nil {
		t.Error("it was made")
	}
}

// TestLaunchAsAnother is root that starts a node of another user.
func TestLaunchAsAnother(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: it takes root")
	}
	dir, err := os.MkdirTemp("/dev/shm", "snapfw-launch-")
	if err != nil {
		t.Skip("NOT TESTED: it takes a folder that everybody can enter")
	}
	t.Cleanup(func() { endAll(dir); os.RemoveAll(dir) })
	binary := filepath.Join(dir, "erigon")
	body, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(binary, body, 0o755); err != nil {
		t.Fatal(err)
	}
	os.Mkdir(filepath.Join(dir, "snapshots"), 0o755)
	os.Chmod(dir, 0o755)
	os.Chown(dir, 65534, 65534)
	cmd := exec.Command(binary, "-test.run=^TestNodeChild$")
	cmd.Env, cmd.Dir = []string{nodeChild + "=" + dir, "GORACE=atexit_sleep_ms=0"}, dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534, Groups: []uint32{65534}}}
	if err := cmd.Start(); err != nil {
		t.Skipf("NOT TESTED: %v", err)
	}
	go cmd.Wait()
	eventually(t, func() bool { p, _ := lockHolder(dir); return p != nil })
	mustSay(t, 0, "saved", "save", "--datadir", dir)
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, ".snapfw", launchFile), &st); err != nil || st.Uid != 65534 {
		t.Errorf("it belongs to %d: %v", st.Uid, err)
	}
	mustSay(t, 0, "is gone", "stop", "--datadir", dir)
	mustSay(t, 0, "runs on", "start", "--datadir", dir, "--settle", "0")
	p, _ := lockHolder(dir)
	if s, err := statusOf(p.PID); err != nil || s.UID != 65534 || s.GID != 65534 {
		t.Errorf("%+v %v", s, err)
	}
}

func TestToolOf(t *testing.T) {
	t.Parallel()
	for argv, want := range map[string]string{
		"erigon --datadir=/d --chain mainnet":               "",
		"erigon seg retire --datadir /d":                    "erigon seg retire",
		"/usr/bin/erigon --log.dir.path seg --chain=x":      "",
		"/usr/bin/erigon --verbosity=3 snapshots index":     "erigon snapshots index",
		"integration stage_exec --datadir /d":               "integration stage_exec",
		"/opt/downloader":                                   "/opt/downloader",
		"/r/bin/snapfw-erigon-0123456789ab live":            "/r/bin/snapfw-erigon-0123456789ab live",
		"/x/snapfw-erigon-devnet erigon --datadir /d":       "",
		"/x/snapfw-erigon-devnet erigon seg index -datadir": "snapfw-erigon-devnet seg index",
	} {
		if got := toolOf(strings.Fields(argv)); got != want {
			t.Errorf("%s: %q, want %q", argv, got, want)
		}
	}
}

func TestMasked(t *testing.T) {
	t.Parallel()
	for argv, want := range map[string]string{
		"erigon --http.token abc --x":                  "erigon --http.token *** --x",
		"erigon --authrpc.jwtsecret=/p --chain=a":      "erigon --authrpc.jwtsecret=*** --chain=a",
		"erigon --nodekeyhex --x":                      "erigon --nodekeyhex --x",
		"erigon --ethstats name:pw@host":               "erigon --ethstats name:pw@host",
		"erigon --l1 https://user:geheim@example.org/": "erigon --l1 https://user:***@example.org/",
	} {
		if got := strings.Join(masked(strings.Fields(argv)), " "); got != want {
			t.Errorf("%s: %q, want %q", argv, got, want)
		}
	}
}

func FuzzMasked(f *testing.F) {
	f.Add("--http.token", "geheim1", "--x")
	f.Add("--authrpc.jwtsecret=geheim1", "-nodekeyhex", "geheim2")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		argv := []string{"erigon", a, b, c, "--nodekeyhex=geheim3", "--metrics.password", "geheim4"}
		got := masked(argv)
		if len(got) != len(argv) || strings.Contains(strings.Join(got, " "), "geheim3") || strings.Contains(got[6], "geheim4") {
			t.Errorf("%q", got)
		}
		toolOf(argv)
		flagsOf(launch{Argv: argv[:len(argv)-1]})
	})
}
