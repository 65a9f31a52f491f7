package config

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"
)

const small = `
sinks:
  bucket: {plugin: store, to: "x:y"}
chains:
  main:
    machines: [{shard: 0}]
`

var sameSecret = cmp.Comparer(func(a, b Secret) bool {
	return a.IsZero() == b.IsZero() && (a.IsZero() || a.at() == b.at())
})

// load reads a configuration as if it lay in a file called test.yaml in the working directory.
func load(t *testing.T, text string) (*File, error) {
	t.Helper()
	return LoadBytes(Options{Path: "test.yaml"}, []byte(text))
}

func mustLoad(t *testing.T, text string) *File {
	t.Helper()
	f, err := load(t, text)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestDefaultsOfAChain(t *testing.T) {
	f := mustLoad(t, small)
	got, err := f.Chain("main")
	if err != nil {
		t.Fatal(err)
	}
	want := Chain{
		Name: "main", Driver: "main", Sink: "bucket",
		Grace: 14 * 24 * time.Hour, GuardLease: 30 * time.Second, GuardMargin: 30 * time.Second,
		Review: Review{Kind: "manual"},
		Keep:   Keep{Count: 7}, Own: json.RawMessage(`{"machines":[{"shard":0}]}`),
	}
	if diff := cmp.Diff(want, got, sameSecret); diff != "" {
		t.Error(diff)
	}
	sink, err := f.Sink(got.Sink)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Sink{Name: "bucket", Plugin: "store", Own: json.RawMessage(`{"to":"x:y"}`)}, sink); diff != "" {
		t.Error(diff)
	}
	if !f.SSH.Agent || f.SSH.HostKeys != "check" || f.SSH.ConnectTimeout != 15*time.Second || len(f.Notify.On) != 7 {
		t.Errorf("ssh %+v, notify %+v", f.SSH, f.Notify)
	}
}

func TestEveryKey(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "all.yaml")
	text := `
state_dir: state
ssh: {key: keys/id, agent: true, passphrase: "cmd:pass show 'my key'", user: u, known_hosts: [kh, /etc/kh],
      host_keys: accept-new, jump: "u@j:22", connect_timeout: 1m30s, host_dir: /srv/snapfw}
sinks: {a: , b: {plugin: store, deep: {x: [1, 0x10, 1.5, .5, true, null, 2024-01-02, "é", yes]}}}
chains:
  one: {driver: d, sink: a, max_downtime: 90s, guard_lease: 1m, guard_margin: 2m, all_or_nothing: true,
        keep: {count: 0, age: 8w, pins: [v1, "x*"]}, verify: sample 2.5%, transfers: 8, list_sink: b, grace: 3w,
        review: {kind: github, repo: o/n, base: release/1, path: l.toml, api_url: "http://127.0.0.1:2", token: "env:GH", ssh_key: keys/gh,
                 author: "A <a@b>", branch: bot, labels: [l], reviewers: [r], team_reviewers: [t]},
        limits: {upload_rate: 1.5MB/s, read_rate: 0, nice: 19, idle_io: true}, 7: seven}
notify:
  pagerduty: {routing_key: "file:pd.key", runbook: "https://x.example", ignore: true, url: "http://127.0.0.1:1"}
  urls: ["env:HOOK", "generic+https://x.example/y", {url: "file:hook", on: [refused, parked]}, {url: "smtp://x.example/?from=a@b&to=c@d"}]
  on: [done, failed]
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Load(Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	want := &File{
		StateDir: filepath.Join(dir, "state"), Path: path,
		SSH: SSH{
			Key: filepath.Join(dir, "keys/id"), Agent: true, Passphrase: keep(source{"cmd:pass show 'my key'", dir}), User: "u",
			KnownHosts: []string{filepath.Join(dir, "kh"), "/etc/kh"}, HostKeys: "accept-new", Jump: "u@j:22",
			ConnectTimeout: 90 * time.Second, HostDir: "/srv/snapfw",
		},
		Sinks: map[string]Sink{
			"a": {Name: "a", Plugin: "a", Own: json.RawMessage(`{}`)},
			"b": {Name: "b", Plugin: "store", Own: json.RawMessage(`{"deep":{"x":[1,16,1.5,0.5,true,null,"2024-01-02","é","yes"]}}`)},
		},
		Chains: map[string]Chain{"one": {
			Name: "one", Driver: "d", Sink: "a", MaxDowntime: 90 * time.Second, GuardLease: time.Minute, GuardMargin: 2 * time.Minute,
			AllOrNothing: true, Keep: Keep{Age: 56 * 24 * time.Hour, Pins: []string{"v1", "x*"}}, Verify: Verify{Sample: 2.5}, Transfers: 8,
			ListSink: "b", Grace: 21 * 24 * time.Hour, Review: Review{
				Kind: "github", Repo: "o/n", Base: "release/1", Path: "l.toml", APIURL: "http://127.0.0.1:2", Token: keep(source{"env:GH", dir}),
				SSHKey: filepath.Join(dir, "keys/gh"), Author: "A <a@b>", Branch: "bot", Labels: []string{"l"}, Reviewers: []string{"r"}, TeamReviewers: []string{"t"},
			},
			Limits: Limits{UploadRate: 1_500_000, Nice: 19, IdleIO: true}, Own: json.RawMessage(`{"7":"seven"}`),
		}},
		Notify: Notify{
			PagerDuty: &PagerDuty{RoutingKey: keep(source{"file:pd.key", dir}), Runbook: "https://x.example", Ignore: true, URL: "http://127.0.0.1:1"},
			URLs: []URL{
				{Secret: keep(source{"env:HOOK", dir})}, {Secret: Literal("generic+https://x.example/y")},
				{Secret: keep(source{"file:hook", dir}), On: []string{"refused", "parked"}},
				{Secret: Literal("smtp://x.example/?from=a@b&to=c@d")},
			},
			On: []string{"done", "failed"},
		},
	}
	opts := cmp.Options{sameSecret, cmpopts.IgnoreUnexported(File{}), cmp.Comparer(func(a, b json.RawMessage) bool { return string(a) == string(b) })}
	if diff := cmp.Diff(want, f, opts); diff != "" {
		t.Error(diff)
	}
	everyKeyIsSet(t, reflect.ValueOf(*want), "File")
}

// everyKeyIsSet fails for a key that TestEveryKey forgot.
func everyKeyIsSet(t *testing.T, v reflect.Value, path string) {
	t.Helper()
	switch v.Kind() {
	case reflect.Pointer:
		everyKeyIsSet(t, v.Elem(), path)
	case reflect.Map:
		any := reflect.New(v.Type().Elem()).Elem()
		for _, k := range v.MapKeys() {
			any = v.MapIndex(k)
		}
		everyKeyIsSet(t, any, path)
	case reflect.Struct:
		if v.Type() == secretType || v.Type() == reflect.TypeFor[Verify]() {
			return
		}
		for i := range v.NumField() {
			f := v.Type().Field(i)
			zero := map[string]bool{"Count": true, "ReadRate": true} // whose zero differs from the default, or is it
			if f.IsExported() && f.Tag.Get("json") != "-" && !zero[f.Name] {
				if v.Field(i).IsZero() {
					t.Errorf("%s.%s is not set by this test", path, f.Name)
				}
				everyKeyIsSet(t, v.Field(i), path+"."+f.Name)
			}
		}
	}
}

func TestProblems(t *testing.T) {
	const sinks = "sinks: {s: {}}\n"
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "chains: nothing is configured: see docs/configuration.md (test.yaml:1)"},
		{"no mapping", "- a", "is a list: a mapping is wanted (test.yaml:1)"},
		{"not YAML", "a: [", "is neither YAML nor JSON: did not find expected node content (test.yaml:1)"},
		{"two documents", sinks + "chains: {a: }\n---\nx: 1\n", "holds more than one document: write one file a configuration (test.yaml:3)"},
		{"unknown key", sinks + "chains: {a: }\nshh: {}\n",
			`shh: is not known here (did you mean "ssh"?); the keys are chains, notify, sinks, ssh, state_dir (test.yaml:3)`},
		{"unknown key below", sinks + "chains:\n  a:\n    keep:\n      cuont: 3\n",
			`chains.a.keep.cuont: is not known here (did you mean "count"?); the keys are age, count, pins (test.yaml:5)`},
		{"a key twice", sinks + "chains: {a: }\nchains: {b: }\n", "chains: is already set in line 2 (test.yaml:3)"},
		{"a driver's key twice", sinks + "chains:\n  a:\n    x:\n    - y: 1\n      y: 2\n", "chains.a.x[0].y: is already set in line 5 (test.yaml:6)"},
		{"wrong types, all at once", sinks + "chains:\n  a:\n    all_or_nothing: yes\n    transfers: many\n    keep: 7\n    max_downtime: [1]\n    driver: 7\n", strings.Join([]string{
			"chains.a.all_or_nothing: is text: true or false is wanted (test.yaml:4)",
			"chains.a.transfers: is text: a number is wanted (test.yaml:5)",
			"chains.a.keep: is a number: a mapping is wanted (test.yaml:6)",
			"chains.a.max_downtime: is a list: text is wanted (test.yaml:7)",
			"chains.a.driver: is a number: text is wanted: write it in quotes (test.yaml:8)"}, "\n")},
		{"durations", sinks + "chains:\n  a: {max_downtime: 300,\n guard_lease: -1s,\n guard_margin: 10ms,\n keep: {age: 3 moons}}\n", strings.Join([]string{
			"chains.a.max_downtime: 300 has no unit: write 300s, or a number with m, h, d or w (test.yaml:3)",
			"chains.a.guard_lease: -1s is below zero (test.yaml:4)",
			"chains.a.guard_margin: must be 1s or more (test.yaml:5)",
			`chains.a.keep.age: "3 moons" is no duration: write a number with s, m, h, d or w (test.yaml:6)`}, "\n")},
		{"sizes", sinks + "chains:\n  a: {limits: {upload_rate: 50, \n read_rate: 50 Mb,\n nice: 20}}\n", strings.Join([]string{
			"chains.a.limits.upload_rate: 50 has no unit: write 50B, or a number with KiB, MiB or GiB (test.yaml:3)",
			`chains.a.limits.read_rate: "50 Mb" is no size: write a number with B, KiB, MiB, GiB or TiB (test.yaml:4)`,
			"chains.a.limits.nice: must be between 0 and 19 (test.yaml:5)"}, "\n")},
		{"verify", sinks + "chains: {a: {verify: some}}", `chains.a.verify: "some": write "full" or "sample 5%" (test.yaml:2)`},
		{"pins", sinks + "chains: {a: {keep: {pins: [ok, '[']}}}", `chains.a.keep.pins[1]: "[" is no pattern: write a name, or one with * and ? (test.yaml:2)`},
		{"which sink", "sinks: {s: , u: }\nchains: {a: }", "chains.a.sink: say which one of s, u (test.yaml:2)"},
		{"unknown sink", "sinks: {bucket: }\nchains:\n  a:\n    sink: buckett", `chains.a.sink: there is no "buckett" under sinks (did you mean "bucket"?) (test.yaml:4)`},
		{"names", sinks + "chains: {../a: , b: }", "chains.../a: is no name: use letters, digits, dots, dashes and underscores, 64 at most (test.yaml:2)"},
		{"ssh", sinks + "chains: {a: }\nssh: {host_keys: maybe,\n host_dir: rel,\n jump: ssh //x,\n connect_timeout: 0}", strings.Join([]string{
			`ssh.host_keys: "maybe": write "check", "accept-new" or "off" (test.yaml:3)`,
			`ssh.host_dir: "rel" is not absolute: it is a folder on the machines (test.yaml:4)`,
			`ssh.jump: "ssh //x": write [user@]host[:port] (test.yaml:5)`,
			"ssh.connect_timeout: must be above zero (test.yaml:6)"}, "\n")},
		{"notify", sinks + "chains: {a: }\nnotify:\n  on: [dead]\n  pagerduty: {runbook: wiki}\n", strings.Join([]string{
			`notify.on[0]: "dead" is no event; they are node_down, undo_failed, failed, refused, parked, guard_paid, up_again, done (test.yaml:4)`,
			"notify.pagerduty.routing_key: is missing: write a reference to the service's integration key, as env:PAGERDUTY_KEY (test.yaml:5)",
			"notify.pagerduty.runbook: is no address: write https://… (test.yaml:5)"}, "\n")},
		{"addresses", sinks + "chains: {a: }\nnotify:\n  urls:\n  - {on: [parkd]}\n  - url: t0ken\n    on: []\n  - {url: {url: 'env:X'}, onn: [done]}\n" +
			"  - url: env:X\n    on: done\n  - [env:X]\n  - {url: 7, on: [done, 7]}\n", strings.Join([]string{
			`notify.urls[0].on[0]: "parkd" is no event (did you mean "parked"?); they are node_down, undo_failed, failed, refused, parked, guard_paid, up_again, done (test.yaml:5)`,
			"notify.urls[0].url: is missing: write an address, or a reference to one, as env:DISCORD_URL (test.yaml:5)",
			"notify.urls[1].url: is not a reference: write env:NAME, file:PATH or cmd:PROGRAM, not the secret itself (test.yaml:6)",
			"notify.urls[1].on: names no event: leave it out for those of notify.on (test.yaml:7)",
			`notify.urls[2].onn: is not known here (did you mean "on"?); the keys are on, url (test.yaml:8)`,
			"notify.urls[2].url: is not a reference: write env:NAME, file:PATH or cmd:PROGRAM (test.yaml:8)",
			"notify.urls[3].on: is text: a list is wanted (test.yaml:10)",
			"notify.urls[4]: is not a reference: write env:NAME, file:PATH or cmd:PROGRAM (test.yaml:11)",
			"notify.urls[5].on[1]: is a number: text is wanted: write it in quotes (test.yaml:12)",
			`notify.urls[5].on[1]: "" is no event; they are node_down, undo_failed, failed, refused, parked, guard_paid, up_again, done (test.yaml:12)`,
			"notify.urls[5].url: is not a reference: write env:NAME, file:PATH or cmd:PROGRAM (test.yaml:12)"}, "\n")},
		{"merge keys", sinks + "x: &x {a: 1}\nchains: {a: {<<: *x}}", "chains.a.<<: merging is not supported: write the keys out (test.yaml:3)"},
		{"tags", sinks + "chains: {a: {b: !!binary aGk=, c: !mine x}}", strings.Join([]string{
			"chains.a.b: has a tag that is not understood: leave it out (test.yaml:2)",
			"chains.a.c: has a tag that is not understood: leave it out (test.yaml:2)"}, "\n")},
		{"no number for JSON", sinks + "chains: {a: {b: .inf}}", `chains.a.b: ".inf" is no number that can be used here (test.yaml:2)`},
		{"an alias in itself", sinks + "chains: {a: {b: &b [*b]}}", "chains.a.b" + strings.Repeat("[0]", 62) + ": is too large or too deep (test.yaml:2)"},
		{"JSON", "{\n\t\"sinks\": {\"s\": {}},\n\t\"chains\": {\"a\": {\"drivr\\u0065\": 1,\n\t\"max_downtime\": 1}, \"a\": {}}}", "chains.a: is already set in line 3 (test.yaml:4)"},
		{"JSON with a wrong type", "{\n\t\"sinks\": {\"s\": {}},\n\t\"chains\": {\"a\": {\"x\": \"\\/\",\n\t\"max_downtime\": 1}}}",
			"chains.a.max_downtime: 1 has no unit: write 1s, or a number with m, h, d or w (test.yaml:4)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := load(t, c.text)
			if err == nil {
				t.Fatal("no error")
			}
			if _, ok := AsProblems(err); !ok {
				t.Errorf("%T is no Problems", err)
			}
			if diff := cmp.Diff(c.want, err.Error()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAnchors(t *testing.T) {
	f := mustLoad(t, "sinks: {s: }\nchains:\n  a: {keep: &keep {count: 3}, machines: &m [{x: 1}]}\n  b: {keep: *keep, machines: *m}\n")
	if b := f.Chains["b"]; b.Keep.Count != 3 || string(b.Own) != `{"machines":[{"x":1}]}` {
		t.Errorf("%+v", b)
	}
}

func TestLaughter(t *testing.T) {
	text := "a0: &a0 x\n"
	for i := range 30 {
		n := string(rune('0'+i/10)) + string(rune('0'+i%10))
		prev := "a0"
		if i > 0 {
			prev = "b" + string(rune('0'+(i-1)/10)) + string(rune('0'+(i-1)%10))
		}
		text += "b" + n + ": &b" + n + " [*" + prev + ", *" + prev + "]\n"
	}
	begin := time.Now()
	if _, err := load(t, text); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Errorf("error %v", err)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestFlagsAndEnvironment(t *testing.T) {
	text := small + "ssh: {user: file, jump: file, key: id, host_keys: check}\n"
	t.Setenv("SNAPFW_SSH_USER", "env")
	t.Setenv("SNAPFW_SSH_JUMP", "env")
	t.Setenv("SNAPFW_SSH_AGENT", "true")
	t.Setenv("SNAPFW_STATE_DIR", "rel")
	t.Setenv("SNAPFW_SSH_KNOWN_HOSTS", "/a:/b")
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.String("ssh-user", "default", "")
	flags.String("ssh-host-keys", "off", "")
	flags.Duration("ssh-connect-timeout", time.Hour, "")
	if err := flags.Parse([]string{"--ssh-user=flag", "--ssh-connect-timeout=3s"}); err != nil {
		t.Fatal(err)
	}
	f, err := LoadBytes(Options{Path: "/etc/x/test.yaml", Flags: flags}, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	cwd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	want := SSH{Key: "/etc/x/id", Agent: true, User: "flag", Jump: "env", HostKeys: "check", ConnectTimeout: 3 * time.Second, KnownHosts: []string{"/a", "/b"}}
	if diff := cmp.Diff(want, f.SSH, sameSecret); diff != "" {
		t.Error(diff)
	}
	if f.StateDir != filepath.Join(cwd, "rel") {
		t.Errorf("state_dir %s", f.StateDir)
	}
}

func TestWrongFlagIsNamed(t *testing.T) {
	t.Setenv("SNAPFW_SSH_AGENT", "perhaps")
	t.Setenv("SNAPFW_SSH_PASSPHRASE", "hunter2hunter2")
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.String("ssh-host-keys", "", "")
	if err := flags.Parse([]string{"--ssh-host-keys=never"}); err != nil {
		t.Fatal(err)
	}
	_, err := LoadBytes(Options{Path: "t.yaml", Flags: flags}, []byte(small))
	want := strings.Join([]string{
		"ssh.agent: is text: true or false is wanted (SNAPFW_SSH_AGENT)",
		`ssh.host_keys: "never": write "check", "accept-new" or "off" (--ssh-host-keys)`,
		"ssh.passphrase: is not a reference: write env:NAME, file:PATH or cmd:PROGRAM, not the secret itself (SNAPFW_SSH_PASSPHRASE)",
	}, "\n")
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestFind(t *testing.T) {
	dir, conf := t.TempDir(), t.TempDir()
	t.Chdir(dir)
	t.Setenv("XDG_CONFIG_HOME", conf)
	if _, err := os.Stat("/etc/snapfw"); err != nil {
		if _, err := Load(Options{}); err == nil || !IsMissing(err) || !strings.Contains(err.Error(), "--config") {
			t.Errorf("nothing there: %v", err)
		}
	}
	write := func(path string) {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(small), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(conf, "snapfw", "snapfw.yaml"))
	if err := os.Mkdir(filepath.Join(dir, "snapfw.yaml"), 0o700); err != nil { // no file
		t.Fatal(err)
	}
	f, err := Load(Options{})
	if err != nil || f.Path != filepath.Join(conf, "snapfw", "snapfw.yaml") {
		t.Errorf("%v, %v", f, err)
	}
	write(filepath.Join(dir, "snapfw.json"))
	if f, err = Load(Options{}); err != nil || f.Path != "snapfw.json" {
		t.Errorf("%v, %v", f, err)
	}
	if _, err := Load(Options{Path: "absent.yaml"}); !IsMissing(err) {
		t.Errorf("%v", err)
	}
}

func TestDefaults(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", "/xdg")
	f, err := Defaults(Options{})
	if err != nil || f.StateDir != "/xdg/snapfw" || !f.SSH.Agent {
		t.Errorf("%+v, %v", f, err)
	}
	t.Setenv("SNAPFW_SSH_HOST_KEYS", "x")
	if _, err := Defaults(Options{}); err == nil {
		t.Error("a wrong setting is not refused")
	}
}

func TestChainByName(t *testing.T) {
	f := mustLoad(t, small)
	if c, err := f.Chain(""); err != nil || c.Name != "main" {
		t.Errorf("the only one: %v, %v", c.Name, err)
	}
	if _, err := f.Chain("mian"); err == nil || err.Error() != `no chain "mian" in test.yaml (did you mean "main"?); it has main` {
		t.Errorf("%v", err)
	}
	f = mustLoad(t, "sinks: {s: }\nchains: {a: , b: }")
	if _, err := f.Chain(""); err == nil || err.Error() != "say which chain with --chain: a, b" {
		t.Errorf("%v", err)
	}
	if _, err := f.Sink("t"); err == nil || err.Error() != `no sink "t" in test.yaml; it has s` {
		t.Errorf("%v", err)
	}
}

func TestTooLarge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "big.yaml")
	if err := os.WriteFile(path, make([]byte, maxBytes+100), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(Options{Path: path}); err == nil || !strings.Contains(err.Error(), "larger than 4 MiB") {
		t.Errorf("%v", err)
	}
}

func FuzzLoad(f *testing.F) {
	example, err := os.ReadFile("../../../docs/testnet.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example, false)
	f.Add([]byte(small), true)
	f.Add([]byte(`{"chains": {"a": {"x": [1e400, {"y": "\ud800"}]}}, "sinks": {"a": null}}`), true)
	f.Add([]byte("a: &a [*a]\n? [x]\n: y\n<<: *a\n!!set {z}"), false)
	f.Fuzz(func(t *testing.T, data []byte, imported bool) {
		file, err := LoadBytes(Options{Path: "f.yaml"}, data)
		if imported {
			file, err = LoadImported(Options{Path: "f.yaml"}, data, data)
		}
		if err != nil {
			problems, ok := AsProblems(err)
			if !ok || len(problems) == 0 {
				t.Fatalf("%T %v is no Problems", err, err)
			}
			return
		}
		for _, c := range file.Chains {
			if !json.Valid(c.Own) || (c.Sink == "" && len(file.Sinks) > 0) || c.Driver == "" || c.GuardLease < time.Second {
				t.Errorf("%+v", c)
			}
		}
		for _, s := range file.Sinks {
			if !json.Valid(s.Own) || s.Plugin == "" {
				t.Errorf("%+v", s)
			}
			if _, err := file.Secrets(context.Background(), json.RawMessage(`{"properties":{"a":{"x-secret":"reference"}}}`), json.RawMessage(`{}`)); err != nil {
				t.Error(err)
			}
		}
	})
}
