package plugin_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/plugin"
	"github.com/snapfw/snapfw/core/plugin/plugintest/toy"
)

// The test's own binary is the plugin: PLAY, which only a plugin's environment holds beside
// the cookie, says which one.
func TestMain(m *testing.M) {
	if os.Getenv("SNAPFW_PLUGIN") == "" {
		os.Exit(m.Run())
	}
	play()
}

func play() {
	if os.Getenv("PLAY") == "parent" {
		os.Setenv("PLAY", "chain")
		self, err := os.Executable()
		if err != nil {
			panic(err)
		}
		c, err := plugin.Load(context.Background(), plugin.Command{Name: "toy", Path: self, Env: []string{"PLAY"}})
		if err != nil {
			panic(err)
		}
		fmt.Println(c.Pid())
		time.Sleep(time.Minute)
	}
	verb := plugin.Verb{Name: "upload", Usage: "-dir DIR …", Run: toy.Upload}
	switch os.Getenv("PLAY") {
	case "chain":
		plugin.ServeChain(odd{}, verb)
	case "sink":
		plugin.ServeSink(moody{}, verb)
	case "rubbish":
		fmt.Println("\x1b[2Jhello, I am a plugin")
		time.Sleep(time.Minute)
	case "hang":
		fmt.Fprintln(os.Stderr, "waiting for the moon")
		time.Sleep(time.Minute)
	case "crash":
		panic("no configuration, no plugin")
	case "quit":
	case "future":
		fmt.Println("1|7|unix|/nowhere/socket|grpc")
		time.Sleep(time.Minute)
	case "tcp":
		fmt.Println("1|1|tcp|127.0.0.1:1|grpc")
		time.Sleep(time.Minute)
	case "elsewhere":
		fmt.Println("1|1|unix|/dev/null|grpc")
		time.Sleep(time.Minute)
	case "silent":
		f := filepath.Join(os.Getenv("PLUGIN_UNIX_SOCKET_DIR"), "s")
		fd, _ := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
		_ = syscall.Bind(fd, &syscall.SockaddrUnix{Name: f})
		_ = syscall.Listen(fd, 5)
		fmt.Printf("1|1|unix|%s|grpc\n", f)
		time.Sleep(time.Minute)
	case "child":
		// A plugin that leaves a child which holds its pipes.
		attr := &os.ProcAttr{Files: []*os.File{nil, os.Stdout, os.Stderr}}
		if _, err := os.StartProcess("/bin/sleep", []string{"sleep", "60"}, attr); err != nil {
			panic(err)
		}
		os.Exit(4)
	}
	os.Exit(0)
}

// odd is a chain that misbehaves as its node's name says.
type odd struct{ toy.Chain }

func (o odd) Describe(ctx context.Context) (core.Description, error) {
	fmt.Fprintln(os.Stderr, "describing")
	return o.Chain.Describe(ctx)
}

func (o odd) Status(ctx context.Context, n core.Node, h core.Host) (core.Status, error) {
	switch n.Name {
	case "asks":
		out, err := h.Run(ctx, "one")
		if err != nil {
			return core.Status{}, err
		}
		more, err := h.Run(ctx, "two", string(out.Stdout))
		return core.Status{Up: true, Hash: string(more.Stdout), Height: uint64(os.Getpid())}, err
	case "many":
		var wg sync.WaitGroup
		var sum atomic.Uint64
		for range 20 {
			wg.Go(func() {
				if out, err := h.Run(ctx, "echo"); err == nil {
					sum.Add(uint64(len(out.Stdout)))
				}
			})
		}
		wg.Wait()
		return core.Status{Up: true, Height: sum.Load()}, nil
	case "panics":
		panic("a nil map\nof many lines")
	case "dies":
		fmt.Fprintln(os.Stderr, "fatal error: out of luck")
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "sleeps":
		<-ctx.Done()
		return core.Status{}, ctx.Err()
	case "hurry":
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		_, err := h.Run(short, "slow")
		if !errors.Is(err, context.DeadlineExceeded) {
			return core.Status{}, fmt.Errorf("a slow program ended with %v", err)
		}
		out, err := h.Run(ctx, "fast")
		return core.Status{Up: true, Hash: string(out.Stdout)}, err
	case "env":
		return core.Status{Hash: strings.Join(os.Environ(), "\n")}, nil
	}
	return o.Chain.Status(ctx, n, h)
}

// moody is a sink that dies once, over keys that say so, after it has done its work.
type moody struct{ toy.Sink }

func (m moody) Put(ctx context.Context, t core.Target, key string, body []byte, c core.Condition) (core.Object, error) {
	o, err := m.Sink.Put(ctx, t, key, body, c)
	if strings.HasPrefix(key, "dies-once") && err == nil {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	return o, err
}

type hostFunc func(ctx context.Context, argv ...string) (core.Output, error)

func (f hostFunc) Run(ctx context.Context, argv ...string) (core.Output, error) {
	return f(ctx, argv...)
}

func echo(_ context.Context, argv ...string) (core.Output, error) {
	return core.Output{Stdout: []byte(strings.Join(argv, "+"))}, nil
}

func command(t *testing.T, what string) plugin.Command {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PLAY", what)
	name := map[string]string{"chain": "toy", "sink": "folder"}[what]
	if name == "" {
		name = what
	}
	return plugin.Command{Name: name, Path: self, Env: []string{"PLAY"}}
}

func load(t *testing.T, what string) *plugin.Client {
	t.Helper()
	c, err := plugin.Load(t.Context(), command(t, what))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func loadChain(t *testing.T) (core.Chain, *plugin.Client) {
	t.Helper()
	c := load(t, "chain")
	chain, err := c.Chain()
	if err != nil {
		t.Fatal(err)
	}
	return chain, c
}

func TestConversation(t *testing.T) {
	chain, _ := loadChain(t)
	s, err := chain.Status(t.Context(), core.Node{Name: "asks"}, hostFunc(echo))
	if err != nil || s.Hash != "two+one" {
		t.Errorf("two asks: %+v, %v", s, err)
	}
	if s, err = chain.Status(t.Context(), core.Node{Name: "many"}, hostFunc(echo)); err != nil || s.Height != 20*4 {
		t.Errorf("asks from many goroutines: %+v, %v", s, err)
	}
	cut := errors.New("the connection was cut")
	_, err = chain.Status(t.Context(), core.Node{Name: "asks"}, hostFunc(func(context.Context, ...string) (core.Output, error) {
		return core.Output{}, cut
	}))
	if !errors.Is(err, cut) {
		t.Errorf("a Host's error became %v", err)
	}
	s, err = chain.Status(t.Context(), core.Node{Name: "hurry"}, hostFunc(func(ctx context.Context, argv ...string) (core.Output, error) {
		if argv[0] == "slow" {
			<-ctx.Done()
			return core.Output{}, ctx.Err()
		}
		return echo(ctx, argv...)
	}))
	if err != nil || s.Hash != "fast" {
		t.Errorf("a driver's own deadline: %+v, %v", s, err)
	}
}

func TestOptional(t *testing.T) {
	chain, _ := loadChain(t)
	entries, err := chain.(core.Catalog).Parse(t.Context(), []byte("3 a\n4 b\n"))
	if diff := cmp.Diff([]core.Entry{{Name: "a", Size: 3}, {Name: "b", Size: 4}}, entries); err != nil || diff != "" {
		t.Errorf("Parse: %v\n%s", err, diff)
	}
	if _, err := chain.(core.Importer).Import(t.Context(), []byte("else")); !errors.Is(err, core.ErrForeign) {
		t.Errorf("Import: %v", err)
	}
	v, err := chain.(core.Judge).Judge(t.Context(), core.Change{Published: map[string][]byte{"bucket": []byte("3 a\n4 b\n")}})
	if err != nil || v.Safe || len(v.Findings) != 2 {
		t.Errorf("Judge: %+v, %v", v, err)
	}
	sink, err := load(t, "sink").Sink()
	if err != nil {
		t.Fatal(err)
	}
	if err := sink.(core.Purger).Purge(t.Context(), core.Target{}); !errors.Is(err, core.ErrUnsupported) {
		t.Errorf("a Purger that is not there: %v", err)
	}
}

func TestDeath(t *testing.T) {
	chain, client := loadChain(t)
	first := client.Pid()
	// Killed between two asks, once: it is started again and the conversation begins anew.
	var killed atomic.Bool
	s, err := chain.Status(t.Context(), core.Node{Name: "asks"}, hostFunc(func(ctx context.Context, argv ...string) (core.Output, error) {
		if argv[0] == "two" && killed.CompareAndSwap(false, true) {
			syscall.Kill(client.Pid(), syscall.SIGKILL)
		}
		return echo(ctx, argv...)
	}))
	if err != nil || s.Hash != "two+one" || int(s.Height) == first {
		t.Errorf("killed between two asks: %+v, %v", s, err)
	}
	// Killed between two calls.
	syscall.Kill(client.Pid(), syscall.SIGKILL)
	if _, err := chain.Nodes(t.Context(), []byte(`{"nodes":[{"name":"a","height":"/h","data":"/d"}]}`)); err != nil {
		t.Errorf("killed between two calls: %v", err)
	}
	// Dying each time is an error that says so, in one line.
	_, err = chain.Status(t.Context(), core.Node{Name: "dies"}, hostFunc(echo))
	if !errors.Is(err, plugin.ErrDied) {
		t.Fatalf("dying each time: %v", err)
	}
	wantText(t, err, "asked 3 times: the plugin died when it was asked to look at dies: toy (signal: killed)")
	// A panic in a method is an answer, and the process lives.
	if _, err = chain.Status(t.Context(), core.Node{Name: "panics"}, hostFunc(echo)); err == nil || errors.Is(err, plugin.ErrDied) {
		t.Fatalf("a panic: %v", err)
	}
	wantText(t, err, "the plugin panicked in Status: a nil map")
	before := client.Pid()
	if _, err := chain.Status(t.Context(), core.Node{Name: "asks"}, hostFunc(echo)); err != nil || before == 0 || client.Pid() != before {
		t.Errorf("after a panic: %v, pid %d then %d", err, before, client.Pid())
	}
}

func TestCancel(t *testing.T) {
	chain, client := loadChain(t)
	pid := client.Pid()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := chain.Status(ctx, core.Node{Name: "sleeps"}, hostFunc(echo)); !errors.Is(err, context.Canceled) || errors.Is(err, plugin.ErrDied) {
		t.Errorf("cancelled: %v", err)
	}
	late, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := chain.Status(late, core.Node{Name: "sleeps"}, hostFunc(echo)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("late: %v", err)
	}
	// Frozen, it answers nothing; the caller's deadline holds all the same.
	syscall.Kill(pid, syscall.SIGSTOP)
	late, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := chain.Nodes(late, []byte(`{}`)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("frozen: %v", err)
	}
	if client.Pid() != pid {
		t.Error("a cancelled call restarted the plugin")
	}
	start := time.Now()
	client.Close()
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("closing a frozen plugin took %v", took)
	}
	if _, err := chain.Nodes(t.Context(), nil); err == nil {
		t.Error("a closed plugin answered")
	}
}

func TestConditionalPutOverADeath(t *testing.T) {
	sink, err := load(t, "sink").Sink()
	if err != nil {
		t.Fatal(err)
	}
	target := core.Target{Config: fmt.Appendf(nil, `{"dir":%q}`, t.TempDir())}
	o, err := sink.Put(t.Context(), target, "dies-once", []byte("x"), core.Condition{IfNoneMatch: true})
	if err != nil || o.Size != 1 {
		t.Errorf("a put that was done by a plugin that died: %+v, %v", o, err)
	}
	if _, err := sink.Put(t.Context(), target, "dies-once", []byte("y"), core.Condition{IfNoneMatch: true}); !errors.Is(err, core.ErrCondition) {
		t.Errorf("over another object: %v", err)
	}
	if body, _, err := sink.Get(t.Context(), target, "dies-once"); err != nil || string(body) != "x" {
		t.Errorf("Get: %q, %v", body, err)
	}
}

func TestBigMessages(t *testing.T) {
	sink, err := load(t, "sink").Sink()
	if err != nil {
		t.Fatal(err)
	}
	target := core.Target{Config: fmt.Appendf(nil, `{"dir":%q}`, t.TempDir())}
	body := []byte(strings.Repeat("0123456789abcdef", 8<<20/16))
	if _, err := sink.Put(t.Context(), target, "big", body, core.Condition{}); err != nil {
		t.Fatal(err)
	}
	if got, o, err := sink.Get(t.Context(), target, "big"); err != nil || len(got) != len(body) || o.Size != int64(len(body)) {
		t.Errorf("Get: %d bytes, %+v, %v", len(got), o, err)
	}
}

func TestWithheldEnvironment(t *testing.T) {
	t.Setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
	chain, client := loadChain(t)
	s, err := chain.Status(t.Context(), core.Node{Name: "env"}, hostFunc(echo))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(s.Hash, "hunter2") || strings.Contains(s.Hash, "HOME=") || !strings.Contains(s.Hash, "PLAY=chain") {
		t.Errorf("the plugin sees:\n%s", s.Hash)
	}
	if group, err := syscall.Getpgid(client.Pid()); err != nil || group != client.Pid() {
		t.Errorf("its process group is %d (%v), its pid %d", group, err, client.Pid())
	}
}

func TestLoadIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	start := time.Now()
	if _, err := plugin.Load(ctx, command(t, "hang")); !errors.Is(err, context.Canceled) || time.Since(start) > 10*time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
}

func TestLeavesWithSnapfw(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parent := exec.Command(self)
	parent.Env = append(os.Environ(), "SNAPFW_PLUGIN=none", "PLAY=parent")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	_, err = fmt.Fscan(out, &pid)
	if killErr := parent.Process.Kill(); err != nil || killErr != nil {
		t.Fatal(err, killErr)
	}
	if err := parent.Wait(); err == nil {
		t.Error("a killed process ended well")
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		if time.Now().After(deadline) {
			syscall.Kill(pid, syscall.SIGKILL)
			t.Fatal("the plugin outlives snapfw")
		}
	}
}

func TestNothingIsLeft(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "t")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	t.Setenv("TMPDIR", dir)
	for _, what := range []string{"chain", "rubbish", "crash", "tcp"} {
		if c, err := plugin.Load(t.Context(), command(t, what)); err == nil {
			syscall.Kill(c.Pid(), syscall.SIGKILL)
			if chain, _ := c.Chain(); chain != nil {
				if _, err := chain.Nodes(t.Context(), []byte("{}")); err == nil {
					t.Error("an empty configuration was taken")
				}
			}
			c.Close()
			c.Close()
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left in TMPDIR: %v, %v", left, err)
	}
}

func TestMainOfAPlugin(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		exit int
		want string
	}{
		"by hand": {nil, 2, "is a plugin of snapfw and is not started by hand: add it with `snapfw plugin add "},
		"help":    {[]string{"help"}, 0, "upload -dir DIR"},
		"version": {[]string{"version"}, 0, "toy 1.0.0"},
		"unknown": {[]string{"dance"}, 2, `there is no verb "dance"`},
		"verb":    {[]string{"upload", "-to", "/nowhere/at/all"}, 1, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(self, c.args...)
			cmd.Env = append(os.Environ(), "SNAPFW_PLUGIN=none", "PLAY=chain")
			out, _ := cmd.CombinedOutput()
			if cmd.ProcessState.ExitCode() != c.exit || !strings.Contains(string(out), c.want) {
				t.Errorf("exit %d:\n%s", cmd.ProcessState.ExitCode(), out)
			}
		})
	}
}

func wantText(t *testing.T, err error, want string) {
	t.Helper()
	if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("the error is\n\t%s\nand should hold, in one line,\n\t%s", err, want)
	}
}
