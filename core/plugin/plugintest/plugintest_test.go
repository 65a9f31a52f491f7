package plugintest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/plugin"
	"github.com/snapfw/snapfw/core/plugin/plugintest/toy"
)

// The test's own binary is the plugin that PLAY names.
func TestMain(m *testing.M) {
	if os.Getenv("SNAPFW_PLUGIN") != "" || len(os.Args) > 1 && os.Args[1] == "upload" {
		switch os.Getenv("PLAY") {
		case "chain":
			plugin.ServeChain(toy.Chain{})
		case "sloppy chain":
			plugin.ServeChain(sloppyChain{})
		case "sloppy sink":
			plugin.ServeSink(sloppySink{})
		default:
			plugin.ServeSink(toy.Sink{}, plugin.Verb{Name: "upload", Run: toy.Upload})
		}
	}
	os.Exit(m.Run())
}

func self(t *testing.T, play string) plugin.Command {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PLAY", play)
	name := "toy"
	if strings.HasSuffix(play, "sink") {
		name = "folder"
	}
	return plugin.Command{Name: name, Path: path, Env: []string{"PLAY"}}
}

func chainCase(t *testing.T) ChainCase {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "height"), []byte("42\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return ChainCase{
		Config: fmt.Appendf(nil, `{"nodes":[{"name":"a","height":%q,"data":%q},{"name":"b","wave":1,"height":%q,"data":%q}]}`,
			dir+"/height", dir+"/data", dir+"/height", dir+"/data"),
		Host:    func(core.Node) core.Host { return here{} },
		Entries: []core.Entry{{Name: "x", Size: 1}, {Name: "y", Size: 2}},
		Foreign: []byte("toy /srv/a"),
	}
}

// here runs programs on this machine.
type here struct{}

func (here) Run(ctx context.Context, argv ...string) (core.Output, error) {
	var out core.Output
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	stdout, err := cmd.Output()
	out.Stdout, out.Exit = stdout, cmd.ProcessState.ExitCode()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		out.Stderr, err = exit.Stderr, nil
	}
	return out, err
}

func TestChain(t *testing.T) { Chain(t, self(t, "chain"), chainCase(t)) }

func TestSink(t *testing.T) {
	cmd := self(t, "sink")
	Sink(t, cmd, SinkCase{
		Many: 300,
		Target: core.Target{Name: "here", Config: fmt.Appendf(nil, `{"dir":%q,"token":"env:TOKEN"}`, t.TempDir()),
			Secrets: map[string]string{"token": "hunter2"}},
		Run: func(ctx context.Context, c core.Command) (int, error) {
			run := exec.CommandContext(ctx, cmd.Path, c.Argv[1:]...)
			err := run.Run()
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				err = nil
			}
			return run.ProcessState.ExitCode(), err
		},
	})
}

// sloppyChain is wrong in a way for each check.
type sloppyChain struct{ toy.Chain }

func (s sloppyChain) Describe(ctx context.Context) (core.Description, error) {
	d, err := s.Chain.Describe(ctx)
	d.Version, d.Never, d.Schema = "", []string{"["}, json.RawMessage(`{"type":"objekt"}`)
	return d, err
}

func (s sloppyChain) Nodes(_ context.Context, config json.RawMessage) ([]core.Node, error) {
	var c struct {
		Nodes []struct{ Name string }
	}
	err := json.Unmarshal(config, &c)
	nodes := []core.Node{{Name: "a", Spec: config}}
	return nodes, err
}

func (s sloppyChain) Status(context.Context, core.Node, core.Host) (core.Status, error) {
	return core.Status{Up: true, Hash: "ABC"}, nil
}

func (s sloppyChain) Plan(context.Context, core.Node, core.Host, core.Intent) (core.Plan, error) {
	return core.Plan{
		Freeze:  []core.Step{{Name: "stop", Do: core.Command{Argv: []string{"systemctl"}, User: "root", Env: map[string]string{"P": "secret:p"}}}},
		Capture: []core.Step{{Name: "stop"}},
		Data:    "here", Publish: core.Layout{Prefix: "{height}"},
	}, nil
}

// sloppySink forgets conditions, overlooks what is missing, and lists folders.
type sloppySink struct{ toy.Sink }

func (s sloppySink) Put(ctx context.Context, t core.Target, key string, body []byte, _ core.Condition) (core.Object, error) {
	return s.Sink.Put(ctx, t, key, body, core.Condition{})
}

func (s sloppySink) Get(ctx context.Context, t core.Target, key string) ([]byte, core.Object, error) {
	body, o, err := s.Sink.Get(ctx, t, key)
	if err != nil {
		err = errors.New("404")
	}
	return body, o, err
}

// record is a T that remembers what failed.
type record struct {
	mu     *sync.Mutex
	name   string
	failed *[]string
}

func newRecord() record { return record{mu: new(sync.Mutex), failed: new([]string)} }

func (r record) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*r.failed = append(*r.failed, r.name+": "+fmt.Sprintf(format, args...))
}

func (r record) Logf(string, ...any) {}

func (r record) Run(name string, part func(T)) bool {
	before := len(*r.failed)
	part(record{mu: r.mu, name: name, failed: r.failed})
	return len(*r.failed) == before
}

func wantFailures(t *testing.T, r record, want ...string) {
	t.Helper()
	for _, w := range want {
		if !slices.ContainsFunc(*r.failed, func(f string) bool { return strings.Contains(f, w) }) {
			t.Errorf("the suite overlooks: %s", w)
		}
	}
	if t.Failed() {
		t.Log(strings.Join(*r.failed, "\n"))
	}
}

func TestSuiteFindsASloppyChain(t *testing.T) {
	r := newRecord()
	c := chainCase(t)
	CheckChain(t.Context(), r, self(t, "sloppy chain"), c)
	wantFailures(t, r,
		"Version is empty", `Never holds "["`, "does not compile",
		"an unknown key is to be refused by core.FieldErrors", "takes the configuration \"null\"",
		"is Up on a machine where nothing works", `the hash "ABC"`,
		"there is a plan for an intent that does not exist", "Data is not absolute",
		"a step's name is unique", "P is a secret", "root runs absolute system programs only", "holds {height}, which no step keeps", "runs nothing")
}

func TestSuiteFindsASloppySink(t *testing.T) {
	r := newRecord()
	CheckSink(t.Context(), r, self(t, "sloppy sink"), SinkCase{
		Target: core.Target{Config: fmt.Appendf(nil, `{"dir":%q}`, t.TempDir())}, Many: 20})
	wantFailures(t, r, "Get of nothing says 404", "Put with if-none-match says <nil>", "of 8 puts of one new key succeeded")
}

func TestSuiteNamesWhatIsNoPlugin(t *testing.T) {
	r := newRecord()
	CheckChain(t.Context(), r, plugin.Command{Path: "/bin/true"}, ChainCase{})
	wantFailures(t, r, "it can't be loaded")
	CheckSink(t.Context(), r, self(t, "chain"), SinkCase{})
	wantFailures(t, r, "plugin toy is a chain, and a sink is wanted here")
}
