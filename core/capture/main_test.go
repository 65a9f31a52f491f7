package capture

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/snapfw/snapfw/core"
)

func run(args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = Main(args, strings.NewReader(""), &out, &err)
	return code, out.String(), err.String()
}

func TestMainVerbs(t *testing.T) {
	d := newDB(t, t.TempDir())
	d.tables(5, "one")
	sums := filepath.Join(t.TempDir(), "sums")
	for _, args := range [][]string{
		{"check", "--from", d.dir, "--to", d.to, "--never", "*.key", "UTC--*", "--never", "keystore"},
		{"warm", "--from", d.dir, "--to", d.to},
		{"take", "--from", d.dir, "--to", d.to, "--list", d.list},
		{"seal", "--to", d.to, "--sums", sums},
		{"seal", "--to", d.to, "--sums", sums, "--verify", "full"},
		{"seal", "--to", d.to, "--sums", sums, "--verify", "sample:5"},
		{"drop", "--to", d.to, "--linked"},
		{"drop", "--to", d.to},
		{"help"},
	} {
		code, out, errs := run(args...)
		if code != core.ExitDone || errs != "" {
			t.Fatalf("%v ended with %d: %s", args, code, errs)
		}
		if args[0] == "drop" || args[0] == "help" {
			continue
		}
		all := strings.Split(strings.TrimSpace(out), "\n")
		var result map[string]any
		if err := json.Unmarshal([]byte(all[len(all)-1]), &result); err != nil || result["files"] == nil {
			t.Errorf("%v said %s: %v", args, out, err)
		}
		for _, line := range all[:len(all)-1] {
			var p struct{ Done, Total *int64 }
			if err := json.Unmarshal([]byte(line), &p); err != nil || p.Done == nil || p.Total == nil {
				t.Errorf("%v: %q is no progress: %v", args, line, err)
			}
		}
	}
	if _, err := os.Stat(sums); err != nil {
		t.Error(err)
	}
}

func TestMainExitCodes(t *testing.T) {
	d := newDB(t, t.TempDir())
	d.tables(2, "one")
	d.put("node.key", "secret")
	for _, test := range []struct {
		code int
		says string
		args []string
	}{
		{2, "usage", nil},
		{2, "no verb", []string{"look"}},
		{2, "--to", []string{"check", "--from", d.dir}},
		{2, "--from", []string{"take", "--to", d.to, "--list", d.list}},
		{2, "--list", []string{"take", "--to", d.to, "--from", d.dir}},
		{2, "not defined", []string{"seal", "--to", d.to, "--from", d.dir}},
		{2, "method", []string{"check", "--to", d.to, "--from", d.dir, "--method", "rsync"}},
		{2, "verify", []string{"seal", "--to", d.to, "--verify", "sample:0"}},
		{2, "verify", []string{"seal", "--to", d.to, "--verify", "sample:NaN"}},
		{2, "negative", []string{"seal", "--to", d.to, "--rate", "-1"}},
		{2, "no flag", []string{"drop", "--to", d.to, "extra"}},
		{2, ".snapfw", []string{"drop", "--to", d.dir}},
		{3, "node.key", []string{"check", "--to", d.to, "--from", d.dir, "--never", "*.key"}},
		{3, "no whole copy", []string{"seal", "--to", d.to}},
		{1, "live list", []string{"take", "--to", d.to, "--from", d.dir, "--list", d.list + ".none"}},
	} {
		code, out, errs := run(test.args...)
		if code != test.code || !strings.Contains(errs, test.says) || out != "" {
			t.Errorf("%v ended with %d, want %d and %q: %s%s", test.args, code, test.code, test.says, errs, out)
		}
		if last := strings.TrimSpace(errs); code != 2 && strings.Contains(last, "\n") {
			t.Errorf("%v: more than one line of reasons: %s", test.args, errs)
		}
	}
}
