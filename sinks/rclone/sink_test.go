package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/snapfw/snapfw/core"
)

func TestDescribe(t *testing.T) {
	d, err := sink{}.Describe(t.Context())
	if err != nil || d.Name != "rclone" || d.Kind != core.KindSink || !slices.Equal(d.Programs, []string{"rclone"}) {
		t.Errorf("%+v, %v", d, err)
	}
}

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
	for config, good := range map[string]bool{
		`{"to":"testnet:pub.example.org/testnet","config_path_on_host":"/root/rclone.conf","config_path_on_client":"/tmp/rclone.conf"}`: true,
		`{"to":"r2:"}`:                                  true,
		`{"to":"/srv/snapshots","transfers":16}`:        true,
		`{"to":"a:b","public_url":"https://x.example"}`: true,
		`{"to":"a:b","public_url":"https://x.example/y/","header_name":"X-Key","header_value":"env:K"}`: true,
		`{"to":"a:b","public_url":"https://x.example","header_name":"X-Key"}`:                           false,
		`{"to":"a:b","public_url":"https://x.example","header_value":"env:K"}`:                          false,
		`{"to":"a:b","header_name":"X-Key","header_value":"env:K"}`:                                     false,
		`{"to":"a:b","public_url":"https://x.example","header_name":"a:b","header_value":"env:K"}`:      false,
		`{"to":"a:b","public_url":"https://u:p@x.example"}`:                                             false,
		`{}`:                    false,
		`{"to":""}`:             false,
		`{"to":"relative/dir"}`: false,
		`{"to":":s3,secret_access_key=x:bucket"}`:    false,
		`{"to":"s3,secret_access_key=x:bucket"}`:     false,
		`{"to":"-flag:x"}`:                           false,
		`{"to":"a:b","transfers":-1}`:                false,
		`{"to":"a:b","transfers":1000}`:              false,
		`{"to":"a:b","public_url":"ftp://x"}`:        false,
		`{"to":"a:b","config_path_on_client":"rel"}`: false,
		`{"to":"a:b","unknown":1}`:                   false,
		`{"to":7}`:                                   false,
	} {
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(config))
		if err != nil {
			t.Fatal(err)
		}
		if err := compiled.Validate(v); (err == nil) != good {
			t.Errorf("schema: %s: %v", config, err)
		}
		if _, err := readConfig(core.Target{Name: "s", Config: []byte(config)}); (err == nil) != good {
			t.Errorf("readConfig: %s: %v", config, err)
		}
	}
	for _, to := range []string{"/", "//", "a:../b", "a:b/../../c", "a:b\nc", "a/b:c"} {
		if checkTo(to) == nil {
			t.Errorf("%q is taken", to)
		}
	}
	var fields core.FieldErrors
	if _, err := readConfig(core.Target{Config: []byte(`{"to":"x","transfers":-1}`)}); !errors.As(err, &fields) || len(fields) != 2 || fields[0].Field != "to" {
		t.Errorf("fields: %v", err)
	}
}

func TestUploadCommand(t *testing.T) {
	target := core.Target{Name: "b", Config: []byte(`{"to":"t:pub/testnet","config_path_on_host":"/root/r.conf","config_path_on_client":"/tmp/r.conf","transfers":4}`)}
	got, err := sink{}.Upload(t.Context(), target, core.UploadRequest{Dir: "/d/data", List: "/d/list", Prefix: "full/0/b", Previous: "full/0/a", Rate: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	want := core.Command{
		Argv: []string{"@self", "upload", "--rclone", "@program:rclone", "--list", "/d/list", "--dir", "/d/data", "--to", "t:pub/testnet",
			"--prefix", "full/0/b", "--previous", "full/0/a", "--transfers", "4", "--rate", "1048576", "--config-beside", "/tmp/r.conf"},
		Env: map[string]string{"SNAPFW_SECRET_CONFIG": "secret:config_path_on_host"},
		End: "TERM", Grace: time.Minute,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("command (-want +got):\n%s", diff)
	}
	got, err = sink{}.Upload(t.Context(), core.Target{Config: []byte(`{"to":"t:pub"}`)}, core.UploadRequest{Dir: "/d", List: "/l", Stage: ".staged/run1"})
	want = core.Command{
		Argv: []string{"@self", "upload", "--rclone", "@program:rclone", "--list", "/l", "--dir", "/d", "--to", "t:pub", "--stage", ".staged/run1", "--transfers", "8"},
		End:  "TERM", Grace: time.Minute,
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("command at the root: %v (-want +got):\n%s", err, diff)
	}
	for name, r := range map[string]core.UploadRequest{
		"prefix up":     {Dir: "/d", List: "/l", Prefix: "../x"},
		"stage up":      {Dir: "/d", List: "/l", Stage: "../x"},
		"previous up":   {Dir: "/d", List: "/l", Prefix: "x", Previous: "/x"},
		"relative list": {Dir: "/d", List: "l", Prefix: "x"},
	} {
		if _, err := (sink{}).Upload(t.Context(), target, r); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func TestUploadVerbRefuses(t *testing.T) {
	for want, args := range map[string][]string{
		"usage":                   {"--nonsense"},
		"usage:":                  {"word"},
		"neither remote:path nor": {"--list", "/l", "--dir", "/d", "--to", "x", "--prefix", "p"},
		"no such file":            {"--list", "/nowhere/l", "--dir", "/d", "--to", "/x", "--prefix", "p"},
	} {
		var out, errs bytes.Buffer
		if code := uploadVerb(t.Context(), args, func(string) string { return "" }, &out, &errs); code == 0 || !strings.Contains(errs.String(), want) {
			t.Errorf("%v: exit %d: %s", args, code, errs.String())
		}
	}
}

func TestRedactor(t *testing.T) {
	r := redactor([]byte("[a]\ntype = s3\nsecret_access_key = s3cr3t/value \nendpoint = https://x\n  Token={\"access\":\"y\"}\npass =\nenv_auth = true\n"))
	got := r.Replace(`PUT https://x s3cr3t/value {"access":"y"} true`)
	if want := `PUT https://x *** *** true`; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestCommonFolder(t *testing.T) {
	for want, keys := range map[string][]string{
		"":      {"a/b", "c/d"},
		"a":     {"a/b/c", "a/bc"},
		"a/b":   {"a/b/c", "a/b/d/e"},
		"a/b/c": {"a/b/c/d"},
	} {
		if got := commonFolder(keys); got != want {
			t.Errorf("%v: %q, want %q", keys, got, want)
		}
	}
}

func TestRecord(t *testing.T) {
	file := filepath.Join(t.TempDir(), "list.done")
	write := func(boot, to string) *record {
		r, err := openRecord(file, boot, to)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := write("boot", "s3:x")
	r.add("a", "1")
	r.add("a\nb", "2")
	r.close()
	torn, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := torn.WriteString(`{"name":"c","su`); err != nil {
		t.Fatal(err)
	}
	torn.Close()
	r = write("boot", "s3:x")
	r.add("d", "4")
	r.close()
	r = write("boot", "s3:x")
	for name, sum := range map[string]string{"a": "1", "a\nb": "2", "d": "4"} {
		if !r.has(name, sum) || r.has(name, "other") {
			t.Errorf("%s: not remembered by its sum", name)
		}
	}
	if r.has("c", "") {
		t.Error("a torn line is remembered")
	}
	r.close()
	for name, r := range map[string]*record{"another boot": write("reboot", "s3:x"), "another place": write("reboot", "s3:y"), "no boot id": write("", "s3:y"), "none": nil} {
		if r.has("a", "1") {
			t.Errorf("%s: remembered", name)
		}
		r.close()
	}
}

func FuzzParseList(f *testing.F) {
	f.Add(`{"name":"a","size":1,"sums":{"sha256":"00"},"previous":true}` + "\n")
	f.Add(`{"name":"../a"}`)
	f.Fuzz(func(t *testing.T, text string) {
		files, err := parseList(strings.NewReader(text))
		if err != nil {
			return
		}
		if len(files) == 0 {
			t.Fatal("an empty list is taken")
		}
		for _, u := range files {
			if !filepath.IsLocal(u.Name) || strings.ContainsAny(u.Name, "\n\r\x00") || u.Size < 0 {
				t.Fatalf("%q of %d bytes is taken", u.Name, u.Size)
			}
		}
	})
}

func FuzzWatcher(f *testing.F) {
	f.Add(`{"level":"info","msg":"Copied (new)","object":"a"}` + "\n" + `{"level":"error","msg":"no","object":"b"}` + "\nFailed to copy\n")
	f.Add(`{"level":"warning","msg":"","stats":{"transferring":[{"name":"a","bytes":9223372036854775807},{"name":"zz","bytes":-1}]}}`)
	f.Fuzz(func(t *testing.T, text string) {
		w := watcher{failed: map[string]string{}, copied: func(string, bool) {}}
		w.running = func(bytes func(map[string]int64) int64) {
			if n := bytes(map[string]int64{"a": 10}); n > 10*int64(len(text)) {
				t.Fatalf("%d bytes are under way", n)
			}
		}
		w.read(strings.NewReader(text))
		if len(w.said) > 600 {
			t.Fatalf("said %d bytes", len(w.said))
		}
		if _, err := json.Marshal(w.failed); err != nil {
			t.Fatal(err)
		}
	})
}
