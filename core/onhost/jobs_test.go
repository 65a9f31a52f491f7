//go:build linux

package onhost

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestJobReportsAndIsJoined(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	j := sh("r/n/s/1", `echo one; echo '{"done":3,"total":9}'; echo grr >&2; echo '{"done":3,"x":1}'; sleep 0.3; exit 7`)
	res, all := b.job(j, nil)
	if res.Exit != 7 || res.Stdout != "one\n{\"done\":3,\"x\":1}\n" || res.Stderr != "grr\n" {
		t.Errorf("result %+v", res)
	}
	var log []string
	var last Progress
	for _, r := range all {
		if r.Log != "" {
			log = append(log, r.Log)
		}
		if r.Progress != nil {
			last = *r.Progress
		}
	}
	if !slices.Equal(log, []string{"grr"}) || last != (Progress{3, 9}) {
		t.Errorf("log %q, progress %v", log, last)
	}
	again, _ := b.job(sh("r/n/s/1", "echo another"), nil)
	if again.Stdout != res.Stdout || !again.Started.Equal(res.Started) {
		t.Errorf("the same ID ran again: %+v", again)
	}
}

func TestJobIsStartedOnceByMany(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	count := filepath.Join(b.root, "count")
	j := sh("r/n/s/1", "echo x >>"+count+"; sleep 0.2")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if s := b.call(encode(t, Start{Job: j}), "job", "run"); s.code != 0 {
				t.Errorf("exit %d: %s", s.code, s.err)
			}
		})
	}
	wg.Wait()
	if got, _ := os.ReadFile(count); string(got) != "x\n" {
		t.Errorf("8 job runs at once started it %d times", len(got)/2)
	}
}

func TestJobOutlivesItsClient(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	gate := filepath.Join(b.root, "gate")
	j := sh("r/n/s/1", "while [ ! -e "+gate+" ]; do sleep 0.05; done; echo through")
	client := b.begin(j, nil)
	client.Process.Kill()
	client.Wait()
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if res, _ := b.job(j, nil); res.Exit != 0 || res.Stdout != "through\n" || res.Lost {
		t.Errorf("joined %+v", res)
	}
}

func TestJobRunEndsWhenNobodyListens(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	j := sh("r/n/s/1", "exec sleep 60")
	cmd := b.command("job", "run")
	cmd.Stdin = strings.NewReader(encode(t, Start{Job: j}))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b.until("the job's child runs", func() bool { return aliveIn(b.file(j.ID, fileChild)) })
	out.Close() // as a cut connection does
	if err := cmd.Wait(); err == nil || !aliveIn(b.file(j.ID, fileChild)) {
		t.Errorf("it ended with %v", err)
	}
}

func TestJobWithoutItsSupervisor(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	gate := filepath.Join(b.root, "gate")
	j := sh("r/n/s/1", "echo before; while [ ! -e "+gate+" ]; do sleep 0.05; done; echo after; exit 0")
	client := b.begin(j, nil)
	syscall.Kill(b.pid(j.ID, fileSupervisor), syscall.SIGKILL)
	b.until("the supervisor is gone", func() bool { return !aliveIn(b.file(j.ID, fileSupervisor)) })
	if client.ProcessState != nil || !aliveIn(b.file(j.ID, fileChild)) {
		t.Error("the child died with its supervisor")
	}
	if _, done, err := result(filepath.Join(b.root, "jobs", j.ID)); done || err != nil {
		t.Errorf("it is said to be done while its child runs: %v", err)
	}
	os.WriteFile(gate, nil, 0o600)
	res, _ := b.job(j, nil)
	if !res.Lost || res.Exit == 0 || res.Stdout != "before\nafter\n" {
		t.Errorf("joined %+v", res)
	}
}

func TestJobOfAnotherBootIsLost(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	j := sh("r/n/s/1", "exec sleep 60")
	client := b.begin(j, nil)
	client.Process.Kill()
	sup, child := b.pid(j.ID, fileSupervisor), b.pid(j.ID, fileChild)
	t.Cleanup(func() { syscall.Kill(sup, syscall.SIGKILL); syscall.Kill(child, syscall.SIGKILL) })
	for name, pid := range map[string]int{fileSupervisor: sup, fileChild: child} {
		if err := writeJSON(b.file(j.ID, name), proc{PID: pid, Boot: "another", Start: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if res, _ := b.job(j, nil); !res.Lost || res.Exit == 0 {
		t.Errorf("joined %+v", res)
	}
}

func TestJobOfADeadClaimantIsStarted(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	j := sh("r/n/s/1", "echo ran")
	if err := os.MkdirAll(filepath.Dir(b.file(j.ID, fileJob)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := writeJSON(b.file(j.ID, fileJob), j); err != nil { // as far as it came
		t.Fatal(err)
	}
	if res, _ := b.job(j, nil); res.Stdout != "ran\n" {
		t.Errorf("%+v", res)
	}
}

func TestJobTime(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, script string
		end          string
		exit         int
		timeout      time.Duration
	}{
		{"in time", "exit 4", "", 4, time.Hour},
		{"ended by TERM", "exec sleep 60", "", 128 + 15, time.Second},
		{"ended by INT", "trap 'exit 9' INT; while :; do sleep 0.02; done", "INT", 9, 2 * time.Second},
		{"its group too", "sleep 60; exit 5", "TERM", 128 + 15, time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBox(t)
			j := sh("r/n/s/1", c.script)
			j.Timeout, j.End = c.timeout, c.end
			if res, _ := b.job(j, nil); res.Exit != c.exit || res.TimedOut != (c.timeout < time.Hour) || res.Stuck {
				t.Errorf("%+v", res)
			}
		})
	}
}

func TestJobThatDoesNotEndIsStuckAndNeverKilled(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	gate := filepath.Join(b.root, "gate")
	j := sh("r/n/s/1", "trap '' TERM; while [ ! -e "+gate+" ]; do sleep 0.05; done; echo late; exit 3")
	j.Timeout, j.Grace = 2*time.Second, 300*time.Millisecond
	res, _ := b.job(j, nil)
	if !res.Stuck || !res.TimedOut || res.Exit == 0 {
		t.Errorf("%+v", res)
	}
	if !aliveIn(b.file(j.ID, fileChild)) {
		t.Error("it was killed")
	}
	os.WriteFile(gate, nil, 0o600)
	b.until("it ended by itself", func() bool { return !aliveIn(b.file(j.ID, fileSupervisor)) })
	if res, _ := b.job(j, nil); res.Stuck || !res.TimedOut || res.Exit != 3 || res.Stdout != "late\n" {
		t.Errorf("afterwards %+v", res)
	}
}

func TestJobEnvironmentAndSecrets(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	const secret = "a-very-secret-value-4711"
	gate := filepath.Join(b.root, "gate")
	j := sh("r/n/s/1", `env | grep -v ^TOKEN= | sort; echo "length ${#TOKEN}"; while [ ! -e `+gate+` ]; do sleep 0.05; done`)
	j.Secrets, j.Env = []string{"TOKEN"}, map[string]string{"COLOUR": "blue", "LANG": "C"}
	client := b.begin(j, map[string]string{"TOKEN": secret})
	b.nowhere(secret, client.Process.Pid, b.pid(j.ID, fileSupervisor), b.pid(j.ID, fileChild))
	if env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", b.pid(j.ID, fileSupervisor))); err != nil || strings.Contains(string(env), secret) {
		t.Errorf("the supervisor's environment holds the secret, or: %v", err)
	}
	os.WriteFile(gate, nil, 0o600)
	res, _ := b.job(j, map[string]string{"TOKEN": secret})
	b.nowhere(secret)
	u := login()
	want := []string{"COLOUR=blue", "HOME=" + u.HomeDir, "LANG=C", "LOGNAME=" + u.Username, "PATH=" + cleanPath,
		"PWD=", "SNAPFW_CORE=" + binary, "SNAPFW_ROOT=" + b.root, "USER=" + u.Username, "length 24", ""}
	got := strings.Split(res.Stdout, "\n")
	for i, line := range got {
		if strings.HasPrefix(line, "PWD=") {
			got[i] = "PWD=" // the shell's own
		}
	}
	got = slices.DeleteFunc(got, func(s string) bool { return strings.HasPrefix(s, "_=") || strings.HasPrefix(s, "SHLVL=") })
	if !slices.Equal(got, want) {
		t.Errorf("environment\n got %q\nwant %q", got, want)
	}
}

// nowhere fails if a secret is in a file of the root or in the arguments of a process.
func (b *box) nowhere(secret string, pids ...int) {
	b.Helper()
	files := 0
	filepath.WalkDir(b.root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			text, _ := os.ReadFile(path)
			files++
			if strings.Contains(string(text), secret) {
				b.Errorf("%s holds the secret", path)
			}
		}
		return nil
	})
	for _, pid := range pids {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || len(line) == 0 || strings.Contains(string(line), secret) {
			b.Errorf("arguments of %d: %q, %v", pid, line, err)
		}
	}
	if files == 0 {
		b.Error("there was no file to look into")
	}
}

func TestJobRefuses(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	for _, id := range []string{"", "r/n/s", "r/n/s/1/2", "r/../s/1", "r/n//1", "r/n/s/.1", "r/n/s t/1", "/r/n/s/1"} {
		if s := b.call(encode(t, Start{Job: Job{ID: id, Argv: []string{"true"}}}), "job", "run"); s.code != 2 || !strings.Contains(s.err, "job id") {
			t.Errorf("id %q: %+v", id, s)
		}
	}
	if s := b.call(`{"Job":{"ID":"r/n/s/1","Argv":["true"],"Colour":1}}`, "job", "run"); s.code == 0 {
		t.Error("an unknown field was taken")
	}
	for name, j := range map[string]Job{
		"no program":        {ID: "r/n/a/1"},
		"TERM or INT":       {ID: "r/n/b/1", Argv: []string{"true"}, End: "KILL"},
		"not absolute":      {ID: "r/n/c/1", Argv: []string{"true"}, Dir: "x"},
		"into Secrets":      {ID: "r/n/d/1", Argv: []string{"true"}, Env: map[string]string{"A": "secret:B"}},
		"is not in":         {ID: "r/n/e/1", Argv: []string{"snapfw-no-such-program"}},
		"no such file":      {ID: "r/n/f/1", Argv: []string{"/no/such/program"}},
		"is not there":      {ID: "r/n/g/1", Argv: []string{"true"}, Dir: "/no/such/folder"},
		"is not armed":      {ID: "r/n/h/1", Argv: []string{"true"}, Guard: "g"},
		"no user snapfw-no": {ID: "r/n/i/1", Argv: []string{"/bin/true"}, User: "snapfw-nobody"},
		"no value":          {ID: "r/n/j/1", Argv: []string{"true"}, Secrets: []string{"A"}},
	} {
		if name == "no user snapfw-no" && os.Getuid() != 0 {
			continue
		}
		if res, _ := b.job(j, nil); !strings.Contains(res.Err, name) || res.Exit == 0 {
			t.Errorf("want %q: %+v", name, res)
		}
	}
}

func TestJobOutputIsCapped(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	j := sh("r/n/s/1", `head -c 9000000 /dev/zero | tr '\0' 'o'; echo; i=0
		while [ $i -lt 90 ]; do head -c 99999 /dev/zero | tr '\0' 'e' >&2; echo >&2; i=$((i+1)); done; echo last >&2`)
	res, _ := b.job(j, nil)
	if len(res.Stdout) != maxStdout || len(res.Stderr) != maxStderr || !strings.HasSuffix(res.Stderr, "e\nlast\n") {
		t.Errorf("exit %d, %d bytes of stdout, %d of stderr, ending in %q", res.Exit, len(res.Stdout), len(res.Stderr), res.Stderr[max(0, len(res.Stderr)-9):])
	}
	var st syscall.Stat_t
	if err := syscall.Stat(b.file(j.ID, fileErr), &st); err != nil {
		t.Fatal(err)
	}
	if st.Size < 9e6 || st.Blocks*512 > 6<<20 {
		t.Logf("a file of %d bytes has %d on disk: this file system punches no holes", st.Size, st.Blocks*512)
	}
}

func TestJobNice(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	j := sh("r/n/s/1", "cut -d' ' -f19 /proc/self/stat; ionice 2>/dev/null || echo idle")
	j.Nice, j.Idle = 7, true
	if res, _ := b.job(j, nil); res.Stdout != "7\nidle\n" {
		t.Errorf("%+v", res)
	}
}

func TestEndAndForget(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	j := sh("r/n/s/1", "exec sleep 60")
	b.begin(j, nil)
	b.job(sh("other/n/s/1", "true"), nil)
	if s := b.call("", "job", "forget", "r"); s.code != 3 || !strings.Contains(s.err, "job r/n/s/1") {
		t.Errorf("forget of what runs: %+v", s)
	}
	for args, code := range map[string]int{"end r/other": 0, "end ../r": 2, "end r/n/s": 2, "forget r/n": 2} {
		if s := b.call("", append([]string{"job"}, strings.Fields(args)...)...); s.code != code || s.out != "" {
			t.Errorf("job %s: %+v", args, s)
		}
	}
	var res Result
	b.ok(nil, &res, "job", "end", "r/n")
	if res.ID != j.ID || res.Exit != 128+15 || res.TimedOut {
		t.Errorf("%+v", res)
	}
	if s := b.call("", "job", "end", "r"); s.code != 0 || s.out != "" {
		t.Errorf("there was nothing left to end: %+v", s)
	}
	b.ok(nil, nil, "job", "forget", "r")
	b.ok(nil, nil, "job", "forget", "r")
	if exists(filepath.Join(b.root, "jobs", "r")) || !exists(b.file("other/n/s/1", fileStatus)) {
		t.Error("forgotten is the wrong run")
	}
}

func TestEndOfALostJob(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	j := sh("r/n/s/1", "exec sleep 60")
	b.begin(j, nil)
	syscall.Kill(b.pid(j.ID, fileSupervisor), syscall.SIGKILL)
	b.until("the supervisor is gone", func() bool { return !aliveIn(b.file(j.ID, fileSupervisor)) })
	var res Result
	b.ok(nil, &res, "job", "end", "r")
	if !res.Lost || aliveIn(b.file(j.ID, fileChild)) {
		t.Errorf("%+v", res)
	}
}
