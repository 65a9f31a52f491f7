package main

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/plugin"
	"github.com/snapfw/snapfw/core/plugin/plugintest"
)

// The suite that every sink has to pass, over gRPC.
func TestConformance(t *testing.T) {
	t.Parallel()
	s := newSite(t, "conformance")
	s.Flat = true
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	plugintest.Sink(t, plugin.Command{Name: "r2", Path: self}, plugintest.SinkCase{
		Target: s.Target(map[string]any{"prefix": "some/where"}),
		Run: func(ctx context.Context, c core.Command) (int, error) {
			cmd := exec.CommandContext(ctx, self, c.Argv[1:]...)
			cmd.Env = credentials()
			var said bytes.Buffer
			cmd.Stderr = &said
			if err := cmd.Run(); err != nil {
				t.Logf("%v: %s", err, said.String())
			}
			return cmd.ProcessState.ExitCode(), nil
		},
	})
	if len(s.Broken()) > 0 {
		t.Errorf("R2's rules were broken: %v", s.Broken())
	}
}

const good = `"bucket":"snap-shots","account_id":"0123456789abcdef0123456789abcdef","access_key_id":"env:A","secret_access_key":"env:B"`

// The schema and readConfig refuse the same.
func TestConfig(t *testing.T) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	compiled, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	zone := `,"zone_id":"0123456789abcdef0123456789abcdef"`
	for config, want := range map[string]bool{
		`{` + good + `}`: true,
		`{` + good + `,"public_url":"https://x.example/a"` + zone + `,"api_token":"env:T","header_name":"X-Key","header_value":"env:H","expiry_days":56}`: true,
		`{"bucket":"abc","endpoint":"http://127.0.0.1:1","access_key_id":"env:A","secret_access_key":"env:B"}`:                                            true,
		`{}`: false,
		`{` + good + `,"endpoint":"https://x.example"}`: false,
		`{` + good + `,"unknown":1}`:                    false,
		`{` + good + `,"part_size_mib":4}`:              false,
		`{` + good + `,"transfers":0}`:                  false,
		`{` + good + `,"expiry_days":1}`:                false,
		`{` + good + `,"patience_seconds":-1}`:          false,
		`{` + good + `,"header_name":"X-Key"}`:          false,
		`{` + good + zone + `,"api_token":"env:T"}`:     false,
		`{` + good + `,"public_url":"ftp://x"}`:         false,
		`{"bucket":"Abc","endpoint":"http://x","access_key_id":"env:A","secret_access_key":"env:B"}`:           false,
		`{"bucket":"abc","endpoint":"http://u:p@x","access_key_id":"env:A","secret_access_key":"env:B"}`:       false,
		`{"bucket":"abc","endpoint":"http://x/some/path","access_key_id":"env:A","secret_access_key":"env:B"}`: false,
		`{"bucket":"abc","endpoint":"http://x"}`:                                                               false,
	} {
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(config))
		if err != nil {
			t.Fatal(err)
		}
		if err := compiled.Validate(v); (err == nil) != want {
			t.Errorf("schema: %s: %v", config, err)
		}
		if _, err := readConfig(core.Target{Name: "s", Config: []byte(config)}); (err == nil) != want {
			t.Errorf("readConfig: %s: %v", config, err)
		}
	}
	if _, err := readConfig(core.Target{Config: []byte(`{` + good + `,"prefix":"../x"}`)}); err == nil {
		t.Error("a prefix that climbs is taken")
	}
}

func TestUploadCommand(t *testing.T) {
	target := core.Target{Name: "b", Config: []byte(`{` + good + `,"prefix":"pub","session_token":"env:T","transfers":4}`)}
	got, err := newSink().Upload(t.Context(), target, core.UploadRequest{Dir: "/d/data", List: "/d/list", Stage: ".staged/run1", Rate: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	want := core.Command{
		Argv: []string{"@self", "upload", "--list", "/d/list", "--dir", "/d/data", "--endpoint", "https://0123456789abcdef0123456789abcdef.r2.cloudflarestorage.com",
			"--bucket", "snap-shots", "--transfers", "4", "--part-size-mib", "64", "--patience", "180s", "--base", "pub", "--stage", ".staged/run1", "--rate", "1048576"},
		Env: map[string]string{accessEnv: "secret:access_key_id", secretEnv: "secret:secret_access_key", sessionEnv: "secret:session_token"},
		End: "TERM", Grace: time.Minute,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("command (-want +got):\n%s", diff)
	}
	if _, err := newSink().Upload(t.Context(), target, core.UploadRequest{Dir: "/d", List: "/l", Prefix: "../x"}); err == nil {
		t.Error("a prefix that climbs is taken")
	}
}

// A condition that held is not mistaken for one that failed when the first answer was lost.
func TestPutWithLostAnswer(t *testing.T) {
	t.Parallel()
	s := newSite(t, "lost-answer")
	k := newSink()
	var n atomic.Int32
	s.Lose(func(r *http.Request) bool { return r.Method == http.MethodPut && n.Add(1) == 1 })
	o, err := k.Put(t.Context(), s.target, "pointer", []byte("1"), core.Condition{IfNoneMatch: true})
	if err != nil || n.Load() < 2 {
		t.Fatalf("%v after %d requests", err, n.Load())
	}
	n.Store(0)
	if o, err = k.Put(t.Context(), s.target, "pointer", []byte("2"), core.Condition{IfMatch: o.ETag}); err != nil || n.Load() < 2 {
		t.Fatalf("%v after %d requests", err, n.Load())
	}
	n.Store(9)
	if _, err = k.Put(t.Context(), s.target, "pointer", []byte("3"), core.Condition{IfMatch: `"00000000000000000000000000000000"`}); !errors.Is(err, core.ErrCondition) {
		t.Errorf("a condition that does not hold: %v", err)
	}
	if body, got, err := k.Get(t.Context(), s.target, "pointer"); err != nil || string(body) != "2" || got.ETag != o.ETag {
		t.Errorf("%q, %+v, %v", body, got, err)
	}
}

func TestPatience(t *testing.T) {
	for long, least := range map[time.Duration]int{time.Second: 2, 3 * time.Minute: 20, time.Hour: 360} {
		if n := patient(long).MaxAttempts(); n < least || n > 2*least {
			t.Errorf("%v: %d tries", long, n)
		}
	}
}

func TestPartSize(t *testing.T) {
	for _, c := range []struct{ size, wanted, want int64 }{
		{1, 5 * mib, 5 * mib}, {10_000 * 5 * mib, 5 * mib, 5 * mib}, {10_000*5*mib + 1, 5 * mib, 6 * mib}, {r2Limits.object, 64 * mib, 524 * mib}, {0, 64 * mib, 64 * mib},
	} {
		got := r2Limits.partSize(c.size, c.wanted)
		if got != c.want || int64(len(spans(c.size, got))) > r2Limits.parts {
			t.Errorf("%d bytes: parts of %d, %d of them, want %d", c.size, got, len(spans(c.size, got)), c.want)
		}
	}
}

func TestComposite(t *testing.T) {
	// The example of https://developers.cloudflare.com/r2/objects/multipart-objects/
	got := composite([]string{`"bce6bf66aeb76c7040fdd5f4eccb78e6"`, "8165449fc15bbf43d3b674595cbcc406"})
	if got != "f77dc0eecdebcd774a2a22cb393ad2ff-2" {
		t.Error(got)
	}
}

func FuzzParseList(f *testing.F) {
	f.Add(`{"name":"a","size":1,"sums":{"sha256":"00"},"previous":true}` + "\n")
	f.Add(`{"name":"../a"}`)
	f.Add(`{"name":"a","sums":{"x\n":"00"}}`)
	f.Fuzz(func(t *testing.T, text string) {
		files, err := parseList(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, u := range files {
			if checkKey(u.Name) != nil || u.Size < 0 {
				t.Fatalf("%q of %d bytes is taken", u.Name, u.Size)
			}
			for k, v := range u.Sums {
				if strings.ContainsAny(k+v, "\r\n :") {
					t.Fatalf("%q: %q would be a header", k, v)
				}
			}
		}
	})
}
