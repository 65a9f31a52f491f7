package config

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

func TestSecretsNeverPrint(t *testing.T) {
	var log bytes.Buffer
	type holder struct {
		S Secret
		P *Secret
		U URL
		M map[string]Secret
		n Secret
	}
	s := Literal("hunter2")
	h := holder{s, &s, URL{Secret: s}, map[string]Secret{"a": s}, s}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		fmt.Fprintf(&log, verb+"\n", s)
		fmt.Fprintf(&log, verb+"\n", h.U)
		fmt.Fprintf(&log, verb+"\n", h)
	}
	fmt.Fprintf(&log, "%v %+v %v %v\n", h.M, []URL{h.U}, s.String(), fmt.Sprint(s, &s))
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "s", s, "u", h.U, "list", []Secret{s})
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "s", s, "h", h)
	for _, encode := range []func(any) ([]byte, error){json.Marshal, yaml.Marshal} {
		text, err := encode(map[string]any{"s": s, "u": h.U, "m": h.M})
		if err != nil {
			t.Fatal(err)
		}
		log.Write(text)
	}
	text := log.String()
	for _, leak := range []string{"hunter2", fmt.Sprintf("%x", "hunter2"), fmt.Sprintf("%X", "hunter2"), "literal", "104 117"} {
		if strings.Contains(text, leak) {
			t.Errorf("%q is in\n%s", leak, text)
		}
	}
	if strings.Count(text, masked) < 20 {
		t.Errorf("got\n%s", text)
	}
}

func TestReveal(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("key", "from a file\r\n")
	write("empty", "\n")
	write("large", strings.Repeat("x", maxSecret+1))
	t.Setenv("SNAPFW_TEST", "from env")
	t.Setenv("SNAPFW_EMPTY", "")
	t.Setenv("HOME", dir)
	for _, c := range []struct{ ref, want, err string }{
		{"env:SNAPFW_TEST", "from env", ""},
		{"file:key", "from a file", ""},
		{"file:" + dir + "/key", "from a file", ""},
		{"file:~/key", "from a file", ""},
		{"cmd:printf '%s\\n' \"a b\"", "a b", ""},
		{`cmd:["printf","%s"," x "]`, " x ", ""},
		{"cmd:cat key", "from a file", ""},
		{"env:SNAPFW_NOT_SET", "", "SNAPFW_NOT_SET is not set"},
		{"env:SNAPFW_EMPTY", "", "is empty"},
		{"file:empty", "", "is empty"},
		{"file:absent", "", "no such file"},
		{"file:large", "", "more than 1 MiB"},
		{"cmd:false", "", "run false: exit status 1"},
		{"cmd:sh -c 'echo secret; echo first >&2; echo why >&2; exit 3'", "", "run sh: exit status 3: why"},
		{"cmd:/no/such/program", "", "no such file"},
	} {
		s, err := ParseSecret(c.ref, dir)
		if err != nil {
			t.Errorf("%s: %v", c.ref, err)
			continue
		}
		got, err := s.Reveal(t.Context())
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %q, %v; want %q, %q", c.ref, got, err, c.want, c.err)
		}
		if err != nil && strings.Contains(err.Error(), "secret;") {
			t.Errorf("%s: the output is in the error %v", c.ref, err)
		}
		if s.Source() != c.ref || s.IsZero() {
			t.Errorf("source %q", s.Source())
		}
	}
	if _, err := (Secret{}).Reveal(t.Context()); err == nil {
		t.Error("no secret gives a value")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s, err := ParseSecret("cmd:sleep 60", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Reveal(ctx); err == nil {
		t.Error("a cancelled program gives a value")
	}
}

func TestParseSecretRefuses(t *testing.T) {
	for _, text := range []string{
		"", "hunter2secret", "env:", "env:A=hunter2secret", "env:hunter2secret hunter2secret", "file:", "cmd:", `cmd:["hunter2secret"`, `cmd:[]`, `cmd:[""]`,
		"cmd:echo hunter2secret | cat", "cmd:echo 'hunter2secret", "cmd:echo $hunter2secret", "literal:hunter2secret", "vault:hunter2secret",
	} {
		if _, err := ParseSecret(text, ""); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestShellWords(t *testing.T) {
	for text, want := range map[string][]string{
		`a  b`:             {"a", "b"},
		`a 'b c' "d\"e" f`: {"a", "b c", `d"e`, "f"},
		`a\ b '' ""`:       {"a b", "", ""},
		`'a'"b"c`:          {"abc"},
		"":                 nil,
	} {
		if got, err := shellWords(text); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
}

func TestValues(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "512B": 512, "1KiB": 1024, "1kB": 1000, "1.5 GiB": 3 << 29, "2TB": 2e12} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "-1B", "1", "MiB", "1 XiB", "1e3B", "99999999PiB", "1iB", "1MiB/h"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%s: %d", text, got)
		}
	}
	for text, want := range map[string]string{"0": "0s", "90s": "1m30s", "1h30m": "1h30m0s", "2d": "48h0m0s", "1w": "168h0m0s"} {
		if got, err := ParseDuration(text); err != nil || got.String() != want {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "5", "-5m", "1.5d", "99999w", "1 h", "forever"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("%s: %s", text, got)
		}
	}
	for text, want := range map[string]string{"": "", "full": "full", "sample 5%": "sample:5", "sample:0.5": "sample:0.5", "sample 100%": "sample:100"} {
		var v Verify
		if err := v.parse(text); err != nil || v.String() != want {
			t.Errorf("%s: %s, %v", text, v, err)
		}
	}
	for _, text := range []string{"sample 0%", "sample 101%", "sample", "half", "sample 1.2.3%"} {
		var v Verify
		if err := v.parse(text); err == nil {
			t.Errorf("%s: %s", text, v)
		}
	}
}
