package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/syndtr/goleveldb/leveldb"

	"github.com/snapfw/snapfw/core"
)

// TestMain is also the small processes that tests start: a node, and a writer that leaves in the
// middle of its work.
func TestMain(m *testing.M) {
	switch os.Getenv("SNAPFW_TEST_CHILD") {
	case "writer":
		childWriter()
	case "node":
		childNode()
	}
	os.Exit(m.Run())
}

func childWriter() {
	seed, err := strconv.ParseUint(os.Getenv("SNAPFW_TEST_SEED"), 10, 64)
	if err != nil {
		panic(err)
	}
	db, err := leveldb.OpenFile(os.Getenv("SNAPFW_TEST_DB"), small)
	if err != nil {
		panic(err)
	}
	var t testing.T
	go func() {
		for n := seed * 10000; ; n += 10 {
			putBlocks(&t, db, n+1, n+10)
		}
	}()
	time.Sleep(time.Duration(150+seed*37) * time.Millisecond) // so that it ends at different moments
	os.Exit(0)
}

// childNode holds a database open, says "up" on its log and ends on SIGTERM as its mode says.
func childNode() {
	mode := os.Getenv("SNAPFW_TEST_MODE")
	db, err := leveldb.OpenFile(os.Getenv("SNAPFW_TEST_DB"), nil)
	if err != nil {
		panic(err)
	}
	defer db.Close()
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	fmt.Println("up")
	<-term
	switch mode {
	case "clean":
		fmt.Printf("{\"level\":\"debug\",\"message\":\"%s\\n\"}\n%s\n{\"level\":\"info\",\"message\":\"sync loop\"}\n", lastWords, lastWords)
		os.Exit(0)
	case "panic":
		fmt.Println(lastWords)
		panic("reader is nil")
	case "silent":
		os.Exit(0)
	}
	select {} // "stuck"
}

// startNode starts the child as a node and waits until it says "up".
func startNode(t *testing.T, mode, db, logPath string) *exec.Cmd {
	t.Helper()
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	from, err := log.Seek(0, 2)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "SNAPFW_TEST_CHILD=node", "SNAPFW_TEST_MODE="+mode, "SNAPFW_TEST_DB="+db)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { cmd.Wait(); close(done) }()
	t.Cleanup(func() { cmd.Process.Kill(); <-done })
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		b, err := os.ReadFile(logPath)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b[from:]), "up\n") {
			return cmd
		}
		if time.Now().After(end) {
			t.Fatalf("the node did not come up: %s", b)
		}
	}
}

func TestStoppedByLog(t *testing.T) {
	for _, c := range []struct {
		mode    string
		want    int
		timeout string
		rotate  bool
	}{
		{mode: "clean", want: core.ExitDone},
		{mode: "clean", want: core.ExitDone, rotate: true},
		{mode: "panic", want: core.ExitAgain},
		{mode: "silent", want: core.ExitAgain},
		{mode: "stuck", want: 1, timeout: "400ms"},
	} {
		t.Run(c.mode, func(t *testing.T) {
			dir := t.TempDir()
			db, log := filepath.Join(dir, "harmony_db_0"), filepath.Join(dir, "node.log")
			// An earlier run ended well: only what comes after the offset counts.
			if err := os.WriteFile(log, []byte("up\n"+lastWords+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			node := startNode(t, c.mode, db, log)
			l, err := lookAround(db, log, nil)
			if err != nil {
				t.Fatal(err)
			}
			if l.Holder == nil || l.Holder.PID != node.Process.Pid || !l.Holder.alive() {
				t.Fatalf("the running node is %d, the lock's holder %+v", node.Process.Pid, l.Holder)
			}
			if c.rotate {
				rotate(t, log)
			}
			node.Process.Signal(syscall.SIGTERM)
			args := []string{"--log", log, "--inode", fmt.Sprint(l.Log.Inode), "--offset", fmt.Sprint(l.Log.Size), "--db", db,
				"--pid", fmt.Sprint(l.Holder.PID), "--pid-start", fmt.Sprint(l.Holder.Start), "--timeout", "20s"}
			if c.timeout != "" {
				args[len(args)-1] = c.timeout
			}
			var errs bytes.Buffer
			if got := verbStopped(context.Background(), args, nil, &errs); got != c.want {
				t.Errorf("exit %d, want %d: %s", got, c.want, errs.String())
			}
		})
	}
}

// rotate truncates the log in place, as copytruncate does while the node appends.
func rotate(t *testing.T, log string) {
	t.Helper()
	if err := os.Truncate(log, 0); err != nil {
		t.Fatal(err)
	}
}

func TestJudgeTail(t *testing.T) {
	for tail, clean := range map[string]bool{
		"":                   false,
		lastWords + "\n":     true,
		"x\n" + lastWords:    true,
		lastWords + "\n\n\n": true,
		lastWords + "\npanic: runtime error\n\ngoroutine 1 [running]:\n": false,
		lastWords + "\n{\"level\":\"info\"}\n":                           true,
		lastWords + "\nWelcome to Harmony\n":                             false,
		"{\"level\":\"info\"}\n":                                         false,
	} {
		if err := judgeTail([]byte(tail)); (err == nil) != clean {
			t.Errorf("%q: %v", tail, err)
		}
	}
}

// program writes a shell script and returns its path.
func program(t *testing.T, name, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestStoppedByUnit(t *testing.T) {
	show := func(active, id, result, status string) string {
		return fmt.Sprintf("echo LoadState=loaded; echo ActiveState=%s; echo InvocationID=%s; echo Result=%s; echo ExecMainStatus=%s\n", active, id, result, status)
	}
	flips := filepath.Join(t.TempDir(), "asked")
	for _, c := range []struct {
		name, script, journal string
		want                  int
	}{
		{"clean", show("inactive", "aa", "success", "0"), "exit 1", core.ExitDone},
		{"panicked", show("failed", "aa", "exit-code", "2"), "exit 1", core.ExitAgain},
		{"killed", show("failed", "aa", "timeout", "9"), "exit 1", core.ExitAgain},
		{"started anew", show("active", "bb", "success", "0"), "exit 1", core.ExitAgain},
		{"ran again", show("inactive", "bb", "success", "0"), "exit 1", core.ExitAgain},
		{"still stopping", show("deactivating", "aa", "success", "0"), "exit 1", 1},
		{"stops at last", "test -e " + flips + " && { " + strings.TrimSpace(show("inactive", "aa", "success", "0")) + "; exit; }\n: > " + flips + "\n" +
			show("deactivating", "aa", "success", "0"), "exit 1", core.ExitDone},
		{"forgotten, in the journal", show("inactive", "", "success", "0"), `echo '{"MESSAGE_ID":"x"}'`, core.ExitDone},
		{"forgotten", show("inactive", "", "success", "0"), "exit 1", core.ExitRefused},
		{"no answer", "exit 0", "exit 1", core.ExitRefused},
		{"fails", "echo no bus >&2; exit 1", "exit 1", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("PATH", filepath.Dir(program(t, "journalctl", c.journal))+":"+os.Getenv("PATH"))
			var errs bytes.Buffer
			got := verbStopped(context.Background(), []string{"--unit", "h.service", "--invocation", "aa",
				"--systemctl", program(t, "systemctl", c.script), "--timeout", "1s"}, nil, &errs)
			if got != c.want || (got == 0) != (errs.Len() == 0) {
				t.Errorf("exit %d, want %d: %s", got, c.want, errs.String())
			}
		})
	}
}

func TestStoppedByContainer(t *testing.T) {
	inspect := func(state string) string {
		return fmt.Sprintf("cat <<'E'\n[{\"Id\":\"c0\",\"State\":{%s},\"Config\":{}}]\nE\n", state)
	}
	for _, c := range []struct {
		name, script string
		want         int
	}{
		{"clean", inspect(`"StartedAt":"s","ExitCode":0`), core.ExitDone},
		{"panicked", inspect(`"StartedAt":"s","ExitCode":2`), core.ExitAgain},
		{"out of memory", inspect(`"StartedAt":"s","ExitCode":0,"OOMKilled":true`), core.ExitAgain},
		{"started anew", inspect(`"StartedAt":"t","Running":true`), core.ExitAgain},
		{"still running", inspect(`"StartedAt":"s","Running":true`), 1},
		{"two", "echo '[{},{}]'", 1},
		{"rubbish", "echo '<html>'", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var errs bytes.Buffer
			got := verbStopped(context.Background(), []string{"--container", "hmy", "--id", "c0", "--started", "s",
				"--docker", program(t, "docker", c.script), "--timeout", "300ms"}, nil, &errs)
			if got != c.want {
				t.Errorf("exit %d, want %d: %s", got, c.want, errs.String())
			}
		})
	}
}

func TestSignal(t *testing.T) {
	for _, c := range []struct {
		state, signal, want string
		exit                int
	}{
		{`"Running":true`, "", "--signal TERM hmy", 0},
		{`"Running":true`, "SIGINT", "--signal INT hmy", 0},
		{`"Running":true`, "15", "--signal TERM hmy", 0},
		{`"Running":true`, "SIGKILL", "", core.ExitRefused},
		{`"Running":false`, "", "", 0},
		{`"Running":true,"StartedAt":"later"`, "", "", core.ExitAgain},
	} {
		t.Setenv("SNAPFW_ROOT", t.TempDir())
		said := filepath.Join(t.TempDir(), "said")
		docker := program(t, "docker", fmt.Sprintf("if [ $1 = kill ]; then shift; echo \"$@\" > %s; exit; fi\n"+
			"echo '[{\"Id\":\"c0\",\"State\":{\"StartedAt\":\"s\",%s},\"Config\":{\"StopSignal\":\"%s\"}}]'\n", said, c.state, c.signal))
		var errs bytes.Buffer
		got := verbSignal(context.Background(), []string{"--container", "hmy", "--id", "c0", "--started", "s", "--docker", docker}, nil, &errs)
		if got != c.exit {
			t.Errorf("%+v: exit %d: %s", c, got, errs.String())
		}
		b, _ := os.ReadFile(said)
		if got := strings.TrimSpace(string(b)); got != c.want {
			t.Errorf("%+v: docker kill %q", c, got)
		}
	}
}

func TestStart(t *testing.T) {
	ctx := context.Background()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
	dir := t.TempDir()
	db := filepath.Join(dir, "harmony_db_0")
	closed := openDB(t, db)
	closed.Close()
	run := func(wait string, argv ...string) (int, string) {
		var errs bytes.Buffer
		code := verbStart(ctx, append([]string{"--rpc", port, "--db", db, "--wait", wait, "--"}, argv...), nil, &errs)
		return code, errs.String()
	}
	if code, errs := run("10s", "/bin/true"); code != 0 {
		t.Errorf("a node that answers: exit %d, %s", code, errs)
	}
	if code, errs := run("10s", "/bin/sh", "-c", "echo no such thing >&2; exit 4"); code != 1 || !strings.Contains(errs, "no such thing") {
		t.Errorf("a start that fails: exit %d, %s", code, errs)
	}
	l.Close()
	if code, errs := run("200ms", "/bin/true"); code != 1 {
		t.Errorf("a node that is not there: exit %d, %s", code, errs)
	}
	startNode(t, "stuck", db, filepath.Join(dir, "node.log"))
	if code, errs := run("200ms", "/bin/true"); code != 0 {
		t.Errorf("a node that opens its database: exit %d, %s", code, errs)
	}
}

func TestUnchanged(t *testing.T) {
	ctx := context.Background()
	db := filepath.Join(t.TempDir(), "harmony_db_0")
	d := openDB(t, db)
	putBlocks(t, d, 1, 300)
	d.Close()
	to := filepath.Join(t.TempDir(), "copy")
	list := filepath.Join(to, "live.jsonl")
	var errs bytes.Buffer
	if code := verbLive(ctx, []string{db, "--to", list}, nil, &errs); code != 0 {
		t.Fatal(errs.String())
	}
	files, err := readList(list)
	if err != nil {
		t.Fatal(err)
	}
	place(t, db, filepath.Join(to, "data"), files)
	check := func() int {
		return verbUnchanged(ctx, []string{db, "--copy", filepath.Join(to, "data"), "--list", list}, nil, &errs)
	}
	if code := check(); code != 0 {
		t.Fatalf("nothing happened: exit %d, %s", code, errs.String())
	}
	node := startNode(t, "clean", db, filepath.Join(to, "node.log"))
	if code := check(); code != core.ExitAgain {
		t.Errorf("the node runs: exit %d", code)
	}
	node.Process.Kill()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if release, err := lockShared(db); err == nil {
			release()
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	if code := check(); code != core.ExitAgain {
		t.Errorf("the node ran: exit %d", code)
	}
}

func TestLook(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	db := filepath.Join(dir, "harmony_db_3")
	openDB(t, db).Close()
	l, err := lookAround("~/harmony_db_3", "", []string{"/bin/sh", "/nowhere/ctl"})
	if err != nil {
		t.Fatal(err)
	}
	if l.DB.Path != db || l.DB.Err != "" || !l.Current || l.Sharded || l.User == "" || len(l.Unusable) != 1 {
		t.Errorf("%+v", l)
	}
	if err := os.Rename(db, filepath.Join(dir, "harmony_sharddb_3")); err != nil {
		t.Fatal(err)
	}
	if l, err = lookAround(db, "", nil); err != nil || !l.Sharded || l.DB.Err == "" {
		t.Errorf("%+v, %v", l, err)
	}
}
