package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/plugin"
	"github.com/snapfw/snapfw/core/plugin/plugintest"
)

var updatePlans = flag.Bool("update", false, "write the golden files anew")

// scripted is a snapshotter's machine that answers by script. What it has no answer for fails the test.
type scripted struct {
	t      *testing.T
	state  launchState
	unit   string // what systemctl show prints
	box    string // what docker inspect prints
	broken string // a program that fails
}

func (h scripted) Run(_ context.Context, argv ...string) (core.Output, error) {
	line := strings.Join(argv, " ")
	if h.broken != "" && strings.Contains(line, h.broken) {
		return core.Output{Exit: 1, Stderr: []byte("told to fail\n")}, nil
	}
	switch {
	case strings.HasPrefix(line, "@self launch status --datadir /erigon-data"):
		b, err := json.Marshal(h.state)
		return core.Output{Stdout: b}, err
	case argv[0] == "/usr/bin/systemctl" && argv[1] == "show" && h.unit != "":
		return core.Output{Stdout: []byte(h.unit)}, nil
	case argv[0] == "/usr/bin/docker" && argv[1] == "inspect" && h.box != "":
		return core.Output{Stdout: []byte(h.box)}, nil
	case line == "test -d /erigon-data/snapshots":
		return core.Output{}, nil
	case strings.HasPrefix(line, "@core http http://127.0.0.1:8545 "):
		now := fmt.Sprintf("0x%x", time.Now().Truncate(time.Hour).Unix())
		return core.Output{Stdout: []byte(`[{"id":3,"result":false},{"id":1,"result":"erigon/v3.4.1"},{"id":2,"result":{"number":"0x10","hash":"0xab","timestamp":"` + now + `"}}]`)}, nil
	}
	h.t.Errorf("asked for %q", argv)
	return core.Output{}, errors.New("not in the script")
}

const patientUnit = "LoadState=loaded\nUnitFileState=enabled\nTimeoutStopUSec=1h\nSendSIGKILL=yes\n"

const runningBox = `[{"Id":"c0ffee","State":{"Running":true,"StartedAt":"2026-11-21T19:00:00.1Z"},
 "Config":{"StopSignal":"2"},"HostConfig":{"RestartPolicy":{"Name":"always"}}}]`

// up is the machine of an Erigon that runs as a process, down one whose Erigon is stopped.
func up(t *testing.T) scripted {
	return scripted{t: t, state: launchState{Held: true, PID: 4711, UID: 1000, Saved: true}, unit: patientUnit, box: runningBox}
}

func down(t *testing.T) scripted {
	h := up(t)
	h.state = launchState{Saved: true}
	return h
}

// node reads a configuration; more is added to it.
func oneNode(t *testing.T, more string) core.Node {
	t.Helper()
	nodes, err := driver{}.Nodes(context.Background(), json.RawMessage(`{"ip":"192.0.2.7","datadir":"/erigon-data","chain":"mainnet"`+more+`}`))
	if err != nil {
		t.Fatal(err)
	}
	return nodes[0]
}

func intent(name string, args ...string) core.Intent {
	in := core.Intent{Name: name, Args: map[string]string{}}
	for i := 0; i+1 < len(args); i += 2 {
		in.Args[args[i]] = args[i+1]
	}
	return in
}

const (
	asUnit      = `,"service":"erigon.service"`
	asContainer = `,"container":"erigon","stop_timeout":"1h"`
	asOwner     = `,"owner":"erigon","kill_after":"2h","prefix":"v34","list":"lists/mainnet.toml"`
	checked     = `,"integrity":{"checks":["Blocks","Publishable"],"skip":[{"check":"InvertedIndex","reason":"slow"}],"budget":"30m","sample":0.05}`
	mirrored    = `,"integrity":{"on":"mirror"}`
	unchecked   = `,"integrity":{"on":"never"}`
	skipping    = `,"skip_checks":[{"rule":"rcache","reason":"made without receipts"}]`
)

func TestPlanGolden(t *testing.T) {
	for _, c := range []struct {
		file, more string
		in         core.Intent
		host       func(*testing.T) scripted
	}{
		{"release.golden", "", intent("release"), up},
		{"release-clear-indexes.golden", asOwner + checked + skipping, intent("release", "clear-indexes", "true", "verify", "sample:5"), up},
		{"release-service.golden", asUnit + unchecked, intent("release"), up},
		{"release-container.golden", asContainer + mirrored, intent("release"), up},
		{"retire.golden", "", intent("retire"), up},
		{"retire-down.golden", unchecked, intent("retire"), down},
		{"index.golden", asUnit, intent("index"), up},
		{"index-rebuild.golden", skipping, intent("index", "rebuild", "true"), up},
		{"clear-indexes.golden", mirrored, intent("clear-indexes"), up},
		{"torrents.golden", "", intent("torrents"), up},
		{"torrents-full.golden", "", intent("torrents", "full", "true"), down},
		{"integrity.golden", checked, intent("integrity"), up},
		{"integrity-check.golden", mirrored, intent("integrity", "check", "Blocks\nHeaderNoGaps"), down},
		{"rm-state.golden", "", intent("rm-state", "step", "64-70", "domain", "accounts\nstorage"), up},
		{"rm-state-latest.golden", unchecked, intent("rm-state", "latest", "true"), up},
		{"rm-state-dry.golden", "", intent("rm-state", "latest", "true", "dry-run", "true"), up},
		{"regen.golden", "", intent("regen", "domain", "receipt\nrcache"), up},
		{"regen-executed.golden", "", intent("regen", "domain", "accounts"), up},
		{"rebuild-commitment.golden", unchecked, intent("rebuild-commitment"), up},
		{"compact-domains.golden", unchecked, intent("compact-domains", "domain", "accounts"), up},
		{"restore.golden", asContainer, intent("restore", "file", "domain/v2.0-accounts.0-64.kv"), up},
		{"restore-down.golden", "", intent("restore", "file", "salt-state.txt"), down},
		{"backup.golden", "", intent("backup", "into", "/backup/one", "only", "snapshots\nchaindata"), up},
		{"launch-flags.golden", "", intent("launch-flags"), up},
	} {
		t.Run(c.file, func(t *testing.T) {
			p, err := driver{}.Plan(context.Background(), oneNode(t, c.more), c.host(t), c.in)
			if err != nil {
				t.Fatal(err)
			}
			checkPlan(t, c.in, p)
			if c.in.Name == "restore" && !slices.ContainsFunc(p.Capture, func(s core.Step) bool { return s.Name == "integrity" }) {
				t.Error("a restored file is not followed by integrity")
			}
			goldenPlan(t, c.file, printed(t, p))
		})
	}
}

// printed is a plan for people: steps by phase, their commands, and the rest as JSON.
func printed(t *testing.T, p core.Plan) []byte {
	t.Helper()
	var b bytes.Buffer
	command := func(word string, c core.Command) {
		fmt.Fprintf(&b, "    %s %s", word, strings.Join(c.Argv, " "))
		if c.User != "" {
			fmt.Fprintf(&b, "  [user %s]", c.User)
		}
		end := c.End
		if end == "" {
			end = "TERM"
		}
		fmt.Fprintf(&b, "  [%s, then %s and %s]\n", c.Timeout, end, c.Grace)
	}
	for _, phase := range []struct {
		name  string
		steps *[]core.Step
	}{{"prepare", &p.Prepare}, {"freeze", &p.Freeze}, {"capture", &p.Capture}, {"seal", &p.Seal}, {"prove", &p.Prove}} {
		fmt.Fprintln(&b, phase.name)
		for _, s := range *phase.steps {
			fmt.Fprintf(&b, "  %s\n", s.Name)
			command("do", s.Do)
			if s.Undo != nil {
				command("undo", *s.Undo)
			}
		}
		*phase.steps = nil
	}
	rest, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	b.Write(append(rest, '\n'))
	return b.Bytes()
}

func goldenPlan(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *updatePlans {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s (-want +got; -update writes it anew):\n%s", file, d)
	}
}

// checkPlan holds for every plan, whatever its golden file says.
func checkPlan(t *testing.T, in core.Intent, p core.Plan) {
	t.Helper()
	seen := map[string]bool{}
	for _, steps := range [][]core.Step{p.Prepare, p.Freeze, p.Capture, p.Seal, p.Prove} {
		for _, s := range steps {
			if seen[s.Name] {
				t.Errorf("two steps are called %q", s.Name)
			}
			seen[s.Name] = true
			for _, c := range []*core.Command{&s.Do, s.Undo} {
				if c == nil {
					continue
				}
				if len(c.Argv) == 0 || slices.Contains(c.Argv, "") {
					t.Errorf("%s: argv %q", s.Name, c.Argv)
				}
				if c.User == "root" && !strings.HasPrefix(c.Argv[0], "/") {
					t.Errorf("%s: %q runs as root", s.Name, c.Argv[0])
				}
				if c.Grace == 0 {
					t.Errorf("%s: has no time to end", s.Name)
				}
				if slices.Contains([]string{"retire", "index", "clear-indexes", "integrity", "rm-state", "regen", "rebuild-commitment", "compact-domains"}, c.Argv[1]) &&
					(c.End != "INT" || c.Grace < 10*time.Minute) {
					t.Errorf("%s: a tool of Erigon's is ended by %s within %s", s.Name, c.End, c.Grace)
				}
			}
		}
	}
	names := func(steps []core.Step) (all []string) {
		for _, s := range steps {
			all = append(all, s.Name)
		}
		return all
	}
	uses := func(flag string) bool {
		return slices.ContainsFunc(p.Capture, func(s core.Step) bool { return slices.Contains(s.Do.Argv, flag) })
	}
	for flag, step := range map[string]string{"--erigon": "see that erigon's commands are there", "--integration": "see that integration is there"} {
		if uses(flag) && !slices.Contains(names(p.Prepare), step) {
			t.Errorf("nobody sees that the program of %s is there before the node is stopped", flag)
		}
	}
	switch dry, later := in.Args["dry-run"] == "true", in.Name == "regen" && in.Args["domain"] == "accounts"; {
	case slices.Contains([]string{"release", "torrents", "integrity", "backup", "launch-flags"}, in.Name), dry, later:
	case !slices.ContainsFunc(p.Capture, func(s core.Step) bool { return slices.Contains(s.Do.Argv, "index") }):
		t.Errorf("%s is not followed by index", in.Name)
	}
	if len(p.Freeze) > 0 && p.Freeze[0].Undo == nil {
		t.Error("the stop has no undo")
	}
	if (p.Data != "") != (in.Name == "release") {
		t.Errorf("%s leaves %q to publish", in.Name, p.Data)
	}
}

func TestPlanRefuses(t *testing.T) {
	tool := up(t)
	tool.state.Tool = "erigon seg retire"
	foreign := up(t)
	foreign.state.Unit = "erigon3.service"
	with := func(unit string) scripted { h := up(t); h.unit = unit; return h }
	box := func(old, new string) scripted {
		h := up(t)
		h.box = strings.Replace(runningBox, old, new, 1)
		return h
	}
	broken := func(program string) scripted { h := up(t); h.broken = program; return h }
	rubbish := up(t)
	rubbish.unit = "LoadState=loaded\nTimeoutStopUSec=soon\n"
	for name, c := range map[string]struct {
		more, says string
		in         core.Intent
		host       scripted
	}{
		"an unknown intent":         {"", "not supported", intent("snapshot"), up(t)},
		"a tool at work":            {"", "erigon seg retire is at work", intent("release"), tool},
		"somebody else's unit":      {"", "write service: erigon3.service", intent("index"), foreign},
		"a unit that kills":         {asUnit, "TimeoutStopSec=1800", intent("release"), with("LoadState=loaded\nTimeoutStopUSec=1min 30s\nSendSIGKILL=yes\n")},
		"a unit that is not loaded": {asUnit, "LoadState=not-found", intent("release"), with("LoadState=not-found\nUnitFileState=\n")},
		"a unit of no time":         {asUnit, `"soon" is no time`, intent("release"), rubbish},
		"no systemctl":              {asUnit, "told to fail", intent("release"), broken("systemctl")},
		"no docker":                 {asContainer, "told to fail", intent("release"), broken("docker")},
		"a container that is down":  {asContainer, "not in the container erigon", intent("release"), box(`"Running":true`, `"Running":false`)},
		"a container that kills":    {asContainer, "--stop-signal SIGINT", intent("index"), box(`"2"`, `"SIGKILL"`)},
		"no status":                 {"", "look at who runs", intent("release"), broken("launch status")},
		"a release of what is down": {"", "start it", intent("release"), down(t)},
		"no range":                  {"", "--step FROM-TO, or --latest", intent("rm-state"), up(t)},
		"both ranges":               {"", "--step FROM-TO, or --latest", intent("rm-state", "step", "1-2", "latest", "true"), up(t)},
		"a range that is none":      {"", "is no range", intent("rm-state", "step", "1"), up(t)},
		"no domain":                 {"", "say which domains", intent("regen"), up(t)},
		"a mistyped domain":         {"", `"foo" is none of receipt`, intent("regen", "domain", "receipt\nfoo"), up(t)},
		"domains of both kinds":     {"", "one after the other", intent("regen", "domain", "receipt\ncode"), up(t)},
		"commitment from blocks":    {"", "use rebuild-commitment", intent("regen", "domain", "commitment"), up(t)},
		"nothing to compact":        {"", `no domain "foo"`, intent("compact-domains", "domain", "foo"), up(t)},
		"no file":                   {"", "say which files", intent("restore"), up(t)},
		"a file elsewhere":          {"", "is no name of a published file", intent("restore", "file", "../jwt.hex"), up(t)},
		"no place":                  {"", "--into", intent("backup"), up(t)},
		"a relative place":          {"", "--into", intent("backup", "into", "backup"), up(t)},
		"a check that is a flag":    {"", "is no name of a check", intent("integrity", "check", "--failFast=false"), up(t)},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := driver{}.Plan(context.Background(), oneNode(t, c.more), c.host, c.in)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("want %q, got %v and %+v", c.says, err, p)
			}
			if _, skip := core.IsSkip(err); skip != (name == "a tool at work") {
				t.Errorf("skip is %t: %v", skip, err)
			}
			var wrong core.FieldErrors
			repair := !slices.Contains([]string{"release", "index", "snapshot"}, c.in.Name)
			if errors.As(err, &wrong) != repair {
				t.Errorf("what is wrong on the command line is a field error, nothing else is: %v", err)
			}
			if name == "an unknown intent" && !errors.Is(err, core.ErrUnsupported) {
				t.Error("it is not ErrUnsupported")
			}
		})
	}
	for name, c := range map[string]struct{ more, unit string }{
		"a unit that waits for ever":  {asUnit, "LoadState=loaded\nTimeoutStopUSec=infinity\nSendSIGKILL=yes\n"},
		"a unit that does not kill":   {asUnit, "LoadState=loaded\nTimeoutStopUSec=5s\nSendSIGKILL=no\n"},
		"it may be killed":            {asUnit + `,"kill_after":"5s"`, "LoadState=loaded\nTimeoutStopUSec=5s\nSendSIGKILL=yes\n"},
		"just as long as it may take": {asUnit, "LoadState=loaded\nTimeoutStopUSec=30min\nSendSIGKILL=yes\n"},
	} {
		if _, err := (driver{}).Plan(context.Background(), oneNode(t, c.more), with(c.unit), intent("release")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReturns(t *testing.T) {
	for state, want := range map[string]bool{"enabled": true, "alias": true, "generated": true, "disabled": false, "static": false, "enabled-runtime": false, "": false} {
		if got := (scene{settings: settings{Service: "e"}, unit: map[string]string{"UnitFileState": state}}).returns(); got != want {
			t.Errorf("unit %s: %t", state, got)
		}
	}
	for policy, want := range map[string]bool{"always": true, "unless-stopped": false, "on-failure": false, "no": false, "": false} {
		e := scene{settings: settings{Container: "e"}}
		e.box.HostConfig.RestartPolicy.Name = policy
		if got := e.returns(); got != want {
			t.Errorf("policy %q: %t", policy, got)
		}
	}
	if (scene{}).returns() {
		t.Error("a process comes back by itself")
	}
}

var systemdTimes = map[string]time.Duration{
	"1min 30s": 90 * time.Second, "30min": 30 * time.Minute, "1h": time.Hour, "2d 1h": 49 * time.Hour, "1w": 168 * time.Hour,
	"500ms": 500 * time.Millisecond, "1.5s": 1500 * time.Millisecond, "1month": 2629800 * time.Second, "1y": 31557600 * time.Second, "10us": 10 * time.Microsecond, "0s": 0,
}

func TestSystemdTime(t *testing.T) {
	for text, want := range systemdTimes {
		if d, endless, err := systemdTime(text); d != want || endless || err != nil {
			t.Errorf("%q: %s, %t, %v", text, d, endless, err)
		}
	}
	if _, endless, err := systemdTime("infinity"); !endless || err != nil {
		t.Errorf("infinity: %t, %v", endless, err)
	}
	for _, text := range []string{"", " ", "soon", "90", "s", "-1s", "1 min", "1min,30s", "1e400y", "999999999y", "NaNs", "infinity 1s"} {
		if d, endless, err := systemdTime(text); err == nil {
			t.Errorf("%q is taken for %s, %t", text, d, endless)
		}
	}
}

func FuzzSystemdTime(f *testing.F) {
	for text := range systemdTimes {
		f.Add(text)
	}
	for _, text := range []string{"", "infinity", "soon", "1e9y", "-3s", "1min 30"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, endless, err := systemdTime(text)
		if d < 0 || err != nil && (d != 0 || endless) {
			t.Errorf("%q: %s, %t, %v", text, d, endless, err)
		}
	})
}

func TestBadSettings(t *testing.T) {
	const right = `"ip":"192.0.2.7","datadir":"/erigon-data","chain":"mainnet"`
	if _, err := readChainSettings(json.RawMessage(`{` + right + asUnit + checked + skipping + `,"owner":"erigon","rpc_port":9545}`)); err != nil {
		t.Fatal(err)
	}
	for config, field := range map[string]string{
		`{"ip":"192.0.2.7","chain":"mainnet"}`:                                 "datadir",
		`{"ip":"192.0.2.7","chain":"mainnet","datadir":"data"}`:                "datadir",
		`{"ip":"192.0.2.7","chain":"mainnet","datadir":"/data/"}`:              "datadir",
		`{"ip":"192.0.2.7","chain":"mainnet","datadir":"/"}`:                   "datadir",
		`{"ip":"192.0.2.7","chain":"mainnet","datadir":"/data/../etc"}`:        "datadir",
		`{"ip":"192.0.2.7","datadir":"/erigon-data"}`:                          "chain",
		`{"ip":"192.0.2.7","datadir":"/erigon-data","chain":"../x"}`:           "chain",
		`{"ip":"192.0.2.7","datadir":"/erigon-data","chain":"--mainnet"}`:      "chain",
		`{"datadir":"/erigon-data","chain":"mainnet"}`:                         "ip",
		`{` + right + `,"local":true}`:                                         "ip",
		`{"local":true,"user":"u","datadir":"/erigon-data","chain":"mainnet"}`: "local",
		`{` + right + `,"port":70000}`:                                         "port",
		`{` + right + `,"port":-1}`:                                            "port",
		`{` + right + `,"rpc_port":0}`:                                         "rpc_port",
		`{` + right + `,"rpc_port":65536}`:                                     "rpc_port",
		`{` + right + `,"service":"a","container":"b"}`:                        "container",
		`{` + right + `,"service":"a b"}`:                                      "service",
		`{` + right + `,"service":"--now"}`:                                    "service",
		`{` + right + `,"container":"-f"}`:                                     "container",
		`{` + right + `,"prefix":"/a"}`:                                        "prefix",
		`{` + right + `,"prefix":"../a"}`:                                      "prefix",
		`{` + right + `,"list":"a//b.toml"}`:                                   "list",
		`{` + right + `,"stop_timeout":"half an hour"}`:                        "stop_timeout",
		`{` + right + `,"stop_timeout":""}`:                                    "stop_timeout",
		`{` + right + `,"kill_after":"-1s"}`:                                   "kill_after",
		`{` + right + `,"integrity":{"on":"sometimes"}}`:                       "integrity.on",
		`{` + right + `,"integrity":{"budget":"0s"}}`:                          "integrity.budget",
		`{` + right + `,"integrity":{"sample":2}}`:                             "integrity.sample",
		`{` + right + `,"integrity":{"sample":-0.1}}`:                          "integrity.sample",
		`{` + right + `,"integrity":{"checks":["--failFast"]}}`:                "integrity.checks[0]",
		`{` + right + `,"integrity":{"skip":[{"check":"Blocks"}]}}`:            "integrity.skip[0]",
		`{` + right + `,"programs":{"erigon":""}}`:                             "programs.erigon",
		`{` + right + `,"programs":{"integration":"-x"}}`:                      "programs.integration",
		`{` + right + `,"programs":{"docker":"docker"}}`:                       "programs.docker",
		`{` + right + `,"programs":{"systemctl":"systemctl"}}`:                 "programs.systemctl",
		`{` + right + `,"allow":[{"class":"gaps"}]}`:                           "allow[0]",
		`{` + right + `,"skip_checks":[{"rule":"nothing","reason":"x"}]}`:      "skip_checks[0].rule",
	} {
		_, err := readChainSettings(json.RawMessage(config))
		var wrong core.FieldErrors
		if !errors.As(err, &wrong) {
			t.Errorf("%s is taken: %v", config, err)
		} else if !slices.ContainsFunc(wrong, func(w core.FieldError) bool { return w.Field == field }) {
			t.Errorf("%s: want %s, got %v", config, field, err)
		}
	}
	if _, err := readChainSettings(json.RawMessage(`{` + right + `,"datadirs":1}`)); err == nil || !strings.Contains(err.Error(), "datadirs") {
		t.Errorf("an unknown key: %v", err)
	}
}

// TestConforms runs the suite that every plugin has to pass.
func TestConforms(t *testing.T) {
	self := filepath.Join(t.TempDir(), "snapfw-erigon")
	if out, err := exec.Command("go", "build", "-o", self, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	hash := strings.Repeat("ab", 20)
	plugintest.Chain(t, plugin.Command{Name: "erigon", Path: self}, plugintest.ChainCase{
		Config:  json.RawMessage(`{"ip":"192.0.2.7","datadir":"/erigon-data","chain":"mainnet","service":"erigon","programs":{"erigon":"/opt/erigon"}` + checked + skipping + `}`),
		Host:    func(core.Node) core.Host { return up(t) },
		Entries: []core.Entry{{Name: "salt-state.txt", Sums: map[string]string{"infohash": hash}}, {Name: "domain/v2.0-accounts.0-64.kv", Sums: map[string]string{"infohash": hash}}},
		Intents: []core.Intent{
			intent("release"), intent("retire"), intent("index"), intent("clear-indexes"), intent("torrents"), intent("integrity"),
			intent("rm-state", "latest", "true"), intent("regen", "domain", "receipt"), intent("rebuild-commitment"), intent("compact-domains"),
			intent("restore", "file", "salt-state.txt"), intent("backup", "into", "/backup"), intent("launch-flags"),
		},
	})
}
