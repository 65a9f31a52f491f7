package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/snapfw/snapfw/core/internal/host/sshdtest"
	"github.com/snapfw/snapfw/core/onhost"
)

type testJob struct{ onhost.Job }

func jobOf(id string, argv ...string) testJob {
	return testJob{onhost.Job{ID: id, Argv: argv, Timeout: time.Minute, Grace: time.Second}}
}

func (j testJob) as(user string) onhost.Job { j.User = user; return j.Job }

// gateJob is a job that runs until its file appears, and counts its starts.
func gateJob(t *testing.T, id string) (job onhost.Job, started func() int, open func()) {
	dir := t.TempDir()
	text := fmt.Sprintf(`echo x >>%[1]s/starts; while [ ! -e %[1]s/open ]; do sleep 0.02; done; echo done`, dir)
	starts := func() int {
		b, _ := os.ReadFile(filepath.Join(dir, "starts"))
		return bytes.Count(b, []byte("x"))
	}
	return jobOf(id, "/bin/sh", "-c", text).Job, starts, func() {
		if err := os.WriteFile(filepath.Join(dir, "open"), nil, 0o600); err != nil {
			t.Error(err)
		}
	}
}

func TestJob(t *testing.T) {
	everywhere(t, func(t *testing.T, m *Machine, _ *sshdtest.Server) {
		ctx := testContext(t)
		self := script(t, "snapfw-self", `echo '{"done":1,"total":2}'; echo "$1 $ROOM"; echo said >&2; exit 75`)
		job := jobOf("run1/n/step/1", "@self", "arg '1'").Job
		job.Env = map[string]string{"ROOM": "blue room"}
		var mu sync.Mutex
		var progress []onhost.Progress
		report := func(r onhost.Report) {
			mu.Lock()
			defer mu.Unlock()
			if r.Progress != nil {
				progress = append(progress, *r.Progress)
			}
		}
		res, err := m.Job(ctx, self, job, nil, report)
		if err != nil {
			t.Fatal(err)
		}
		if res.Exit != 75 || res.Stdout != "arg '1' blue room\n" || res.Stderr != "said\n" || res.ID != job.ID {
			t.Errorf("got %+v", res)
		}
		mu.Lock()
		if len(progress) == 0 || progress[len(progress)-1] != (onhost.Progress{Done: 1, Total: 2}) {
			t.Errorf("progress %+v", progress)
		}
		mu.Unlock()
		again, err := m.Job(ctx, self, job, nil, nil)
		if err != nil || !again.Started.Equal(res.Started) {
			t.Errorf("the second time: %+v, %v; the first one was %+v", again, err, res)
		}
		if _, err := m.Job(ctx, self, jobOf("../../x", "true").Job, nil, nil); err == nil {
			t.Error("a job outside of jobs/ was accepted")
		}
		job.Secrets, job.ID = []string{"TOKEN"}, "run1/n/step/2"
		if _, err := m.Job(ctx, self, job, nil, nil); err == nil || !strings.Contains(err.Error(), "TOKEN") {
			t.Errorf("a missing secret: %v", err)
		}
		if err := m.Forget(ctx, "run1"); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(m.options.HostDir, "jobs", "run1")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after Forget: %v", err)
		}
	})
}

func TestJobOutlivesConnections(t *testing.T) {
	s := sshdtest.Start(t, sshdtest.Options{})
	var w warnings
	o := optionsFor(t, s)
	o.Warn = w.add
	m := machineAt(t, o, s)
	job, starts, open := gateJob(t, "cut/n/step/1")
	type end struct {
		res onhost.Result
		err error
	}
	ended := make(chan end, 1)
	go func() {
		res, err := m.Job(testContext(t), Binary{}, job, nil, nil)
		ended <- end{res, err}
	}()
	eventually(t, "the job starts", func() bool { return starts() == 1 })
	for range 3 {
		ever, _ := s.Connections()
		s.Cut()
		eventually(t, "it connects again", func() bool { e, open := s.Connections(); return e > ever && open > 0 })
	}
	s.Deaf(true) // a network that is away for a while
	s.Cut()
	ever, _ := s.Connections()
	eventually(t, "it keeps trying", func() bool { e, _ := s.Connections(); return e > ever+1 })
	s.Deaf(false)
	open()
	e := <-ended
	if e.err != nil || e.res.Exit != 0 || e.res.Stdout != "done\n" || starts() != 1 {
		t.Errorf("%+v, %v, %d starts", e.res, e.err, starts())
	}
	wantIn(t, w.String(), "joining it again")
}

func TestJobGoesOnWithoutUs(t *testing.T) {
	everywhere(t, func(t *testing.T, m *Machine, s *sshdtest.Server) {
		job, starts, open := gateJob(t, "gone/n/step/1")
		ctx, cancel := context.WithCancel(testContext(t))
		ended := make(chan error, 1)
		go func() {
			_, err := m.Job(ctx, Binary{}, job, nil, nil)
			ended <- err
		}()
		eventually(t, "the job starts", func() bool { return starts() == 1 })
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
		// Another process, later.
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		later := machineAt(t, m.options, s)
		open()
		res, err := later.Job(testContext(t), Binary{}, job, nil, nil)
		if err != nil || res.Exit != 0 || starts() != 1 {
			t.Errorf("%+v, %v, %d starts", res, err, starts())
		}
	})
}

func TestEndJobs(t *testing.T) {
	everywhere(t, func(t *testing.T, m *Machine, _ *sshdtest.Server) {
		job, starts, _ := gateJob(t, "ending/n/step/1")
		ended := make(chan onhost.Result, 1)
		go func() {
			res, err := m.Job(testContext(t), Binary{}, job, nil, nil)
			if err != nil {
				t.Error(err)
			}
			ended <- res
		}()
		eventually(t, "the job starts", func() bool { return starts() == 1 })
		if err := m.EndJobs(testContext(t), "ending/n"); err != nil {
			t.Fatal(err)
		}
		if res := <-ended; res.Exit == 0 {
			t.Errorf("it ended with %+v", res)
		}
		if err := m.EndJobs(testContext(t), "ending"); err != nil {
			t.Errorf("nothing to end: %v", err)
		}
	})
}

// TestSecretsStayInMemory looks for a secret in every file of the root and in every command line.
func TestSecretsStayInMemory(t *testing.T) {
	everywhere(t, func(t *testing.T, m *Machine, s *sshdtest.Server) {
		const secret = "hush-4f1d9c"
		job, starts, open := gateJob(t, "secret/n/step/1")
		job.Argv[2] += `; echo "${#TOKEN}"`
		job.Secrets = []string{"TOKEN"}
		ended := make(chan onhost.Result, 1)
		go func() {
			res, err := m.Job(testContext(t), Binary{}, job, map[string]string{"TOKEN": secret, "OTHER": "other-" + secret}, nil)
			if err != nil {
				t.Error(err)
			}
			ended <- res
		}()
		eventually(t, "the job starts", func() bool { return starts() == 1 })
		files := 0
		look := func(path string) {
			b, err := os.ReadFile(path)
			if err != nil {
				return
			}
			files++
			if bytes.Contains(b, []byte(secret)) {
				t.Errorf("the secret is in %s", path)
			}
		}
		filepath.WalkDir(m.options.HostDir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				look(path)
			}
			return nil
		})
		lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range lines {
			look(path)
		}
		if s != nil {
			look(filepath.Join(s.Dir, "sshd.log"))
		}
		t.Logf("looked into %d files", files)
		open()
		if res := <-ended; res.Exit != 0 || res.Stdout != fmt.Sprintf("done\n%d\n", len(secret)) {
			t.Errorf("the job got something else: %+v", res)
		}
	})
}

func TestGuard(t *testing.T) {
	everywhere(t, func(t *testing.T, m *Machine, s *sshdtest.Server) {
		ctx := testContext(t)
		mark := filepath.Join(t.TempDir(), "paid")
		self := script(t, "snapfw-self", `echo "$1" >>"$2"`)
		g := onhost.Guard{Key: "run.n", Run: "run", Node: "n", After: time.Hour, Lease: time.Hour,
			Undo: []onhost.Job{jobOf("run/n/undo/1", "@self", "started", mark).Job}}
		if st, err := m.Guard(ctx, g.Key); err != nil || st.State != onhost.None {
			t.Fatalf("before: %+v, %v", st, err)
		}
		for range 2 {
			if st, err := m.Arm(ctx, self, g); err != nil || st.State != onhost.Armed {
				t.Fatalf("%+v, %v", st, err)
			}
		}
		if st, err := m.Renew(ctx, g.Key); err != nil || st.State != onhost.Armed {
			t.Fatalf("%+v, %v", st, err)
		}
		for range 2 {
			if st, err := m.Disarm(ctx, g.Key); err != nil || st.State != onhost.Disarmed {
				t.Fatalf("%+v, %v", st, err)
			}
		}
		if _, err := os.Stat(mark); err == nil {
			t.Error("a guard that was disarmed acted")
		}

		// One that nobody renews acts, whatever becomes of us.
		g.Key, g.Lease = "run2.n", 300*time.Millisecond
		g.Undo[0].ID = "run2/n/undo/1"
		if st, err := m.Arm(ctx, self, g); err != nil || st.State != onhost.Armed {
			t.Fatalf("%+v, %v", st, err)
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the guard acts", func() bool { b, _ := os.ReadFile(mark); return string(b) == "started\n" })
		eventually(t, "it says so", func() bool {
			st, err := m.Guard(ctx, g.Key)
			return err == nil && st.State == onhost.Fired && st.Paid
		})
		g.Undo[0].Secrets = []string{"TOKEN"}
		if _, err := m.Arm(ctx, self, g); err == nil {
			t.Error("an undo with a secret was armed")
		}
	})
}

func TestLock(t *testing.T) {
	everywhere(t, func(t *testing.T, m *Machine, _ *sshdtest.Server) {
		ctx := testContext(t)
		if st, err := m.Lock(ctx, "chain", "one", time.Hour); err != nil || !st.Taken || st.Holder != "one" {
			t.Fatalf("%+v, %v", st, err)
		}
		if st, err := m.Lock(ctx, "chain", "two", time.Hour); err != nil || st.Taken || st.Holder != "one" {
			t.Errorf("a lock that is taken: %+v, %v", st, err)
		}
		if st, err := m.RenewLock(ctx, "chain", "one", 2*time.Hour); err != nil || !st.Taken || time.Until(st.Until) < 90*time.Minute {
			t.Errorf("%+v, %v", st, err)
		}
		if err := m.Unlock(ctx, "chain", "two"); err != nil {
			t.Errorf("freeing somebody else's: %v", err)
		}
		if err := m.Unlock(ctx, "chain", "one"); err != nil {
			t.Fatal(err)
		}
		if st, err := m.Lock(ctx, "chain", "two", time.Hour); err != nil || !st.Taken {
			t.Errorf("a lock that is free: %+v, %v", st, err)
		}
		if _, err := m.Lock(ctx, "../x", "two", time.Hour); err == nil {
			t.Error("a lock outside of lock/ was taken")
		}
	})
}
