package core_test

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/snapfw/snapfw"

// TestCoreNamesNoPlugin keeps core free of what it must not know: the names of our own drivers
// and sinks, which live under a stranger's rules, and of what these have in common.
func TestCoreNamesNoPlugin(t *testing.T) {
	names := append(folders(t, "../drivers"), folders(t, "../sinks")...)
	if len(names) < 2 {
		t.Fatalf("only %q were found: is this the source tree?", names)
	}
	// A word ends at an underscore, too: my_NAME_db names it as well.
	word := regexp.MustCompile(`(?i)(^|[^a-z0-9])(` + strings.Join(names, "|") + `)([^a-z0-9]|$)`)
	read := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if testsOnly(d.Name()) {
				return filepath.SkipDir
			}
			return nil
		}
		if strings.HasSuffix(path, "_test.go") {
			return nil
		}
		body, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if bytes.IndexByte(body, 0) >= 0 { // the embedded programs
			return nil
		}
		read++
		for i, line := range strings.Split(string(body), "\n") {
			if word.MatchString(line) {
				t.Errorf("core/%s:%d: names a plugin: %s", path, i+1, strings.TrimSpace(line))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if read < 50 {
		t.Errorf("only %d files were read", read)
	}
}

// testsOnly tells the folders that are part of tests. plugintest is none of them: strangers run it.
func testsOnly(name string) bool {
	return name == "testdata" || strings.HasSuffix(name, "test") && name != "plugintest"
}

func folders(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, regexp.QuoteMeta(e.Name()))
		}
	}
	return names
}

// TestImports keeps cloud, ssh and chain libraries out of what plugins and hosts stand on. A module that is not
// in a list needs a reason to come into it.
func TestImports(t *testing.T) {
	channel := []string{ // what go-plugin and gRPC bring along
		"github.com/fatih/color", "github.com/golang/protobuf", "github.com/hashicorp/go-hclog",
		"github.com/hashicorp/go-plugin", "github.com/hashicorp/yamux", "github.com/mattn/go-colorable",
		"github.com/mattn/go-isatty", "github.com/oklog/run", "golang.org/x/net", "golang.org/x/sys",
		"golang.org/x/text", "google.golang.org/genproto/googleapis/rpc", "google.golang.org/grpc",
		"google.golang.org/protobuf",
	}
	for _, c := range []struct {
		pkg     string
		own     []string // packages of ours
		modules []string
	}{
		{pkg: "core"},
		{"core/capture", []string{"core"}, []string{"golang.org/x/sys"}},
		{"core/onhost", []string{"core", "core/capture"}, []string{"golang.org/x/sys"}},
		{"core/plugin", []string{"core", "core/plugin/pluginpb"}, channel},
		{"core/plugin/plugintest", []string{"core", "core/plugin", "core/plugin/pluginpb"}, append(channel, "github.com/santhosh-tekuri/jsonschema/v6")},
	} {
		t.Run(c.pkg, func(t *testing.T) {
			seen := false
			for line := range strings.Lines(goList(t, "-deps", "-f", "{{if not .Standard}}{{.Module.Path}} {{.ImportPath}}{{end}}", "../"+c.pkg)) {
				from, pkg, _ := strings.Cut(strings.TrimSpace(line), " ")
				own, isOurs := strings.CutPrefix(pkg, module+"/")
				switch {
				case own == c.pkg:
					seen = true
				case isOurs && !slices.Contains(c.own, own):
					t.Errorf("%s imports %s", c.pkg, own)
				case !isOurs && !slices.Contains(c.modules, from):
					t.Errorf("%s imports %s of module %s", c.pkg, pkg, from)
				}
			}
			if !seen {
				t.Errorf("go list knows no %s", c.pkg)
			}
		})
	}
}

// TestCommandsAreThin keeps what can be tested out of package main.
func TestCommandsAreThin(t *testing.T) {
	for _, cmd := range folders(t, "../cmd") {
		files, err := filepath.Glob(filepath.Join("../cmd", cmd, "*"))
		if err != nil {
			t.Fatal(err)
		}
		if len(files) != 1 || filepath.Base(files[0]) != "main.go" {
			t.Errorf("cmd/%s holds %q, and main.go is all that it may hold", cmd, files)
			continue
		}
		body, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(body, []byte("\n")); n > 12 {
			t.Errorf("cmd/%s/main.go has %d lines: ten are enough to call a package", cmd, n)
		}
	}
}

func goList(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %s: %v\n%s", strings.Join(args, " "), err, errs.Bytes())
	}
	return string(out)
}
