package plugins

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/plugin"
	"github.com/snapfw/snapfw/core/plugin/plugintest/toy"
)

// The test's own binary, copied, is the plugin.
func TestMain(m *testing.M) {
	if os.Getenv("SNAPFW_PLUGIN") == "" {
		os.Exit(m.Run())
	}
	if os.Getenv("PLAY") == "rubbish" {
		fmt.Println("hello")
		os.Exit(0)
	}
	if strings.Contains(os.Args[0], "folder") {
		plugin.ServeSink(toy.Sink{})
	}
	plugin.ServeChain(toy.Chain{})
}

// newDir makes a folder with a plugin that was built elsewhere.
func newDir(t *testing.T) (dir Dir, built string) {
	t.Helper()
	d, err := folder(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(string(d), 0o755); err != nil {
		t.Fatal(err)
	}
	built = filepath.Join(t.TempDir(), "snapfw-toy")
	copySelf(t, built)
	return d, built
}

func copySelf(t *testing.T, to string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	from, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, from); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(to, 0o755); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, dir Dir, name, body string) string {
	t.Helper()
	file := filepath.Join(string(dir), name)
	if err := os.WriteFile(file, []byte(body), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("the error is\n\t%v\nand should hold\n\t%s", err, want)
	}
}

func TestAddAndLoad(t *testing.T) {
	dir, built := newDir(t)
	added, err := Add(t.Context(), dir, built, nil)
	if err != nil {
		t.Fatal(err)
	}
	if added.Name != "toy" || added.Kind != core.KindChain || len(added.SHA256) != 64 {
		t.Errorf("added %+v", added)
	}
	c, m, err := dir.Load(t.Context(), "toy", core.KindChain, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Chain(); err != nil || m.SHA256 != added.SHA256 {
		t.Errorf("loaded %+v, %v", m, err)
	}
	if _, _, err := dir.Load(t.Context(), "toy", core.KindSink, nil); err == nil {
		t.Error("a chain was loaded as a sink")
	}
	_, _, err = dir.Load(t.Context(), "nothing", core.KindSink, nil)
	wantError(t, err, "(it has toy): add it with `snapfw plugin add PATH`")

	here, err := m.HostBinary(runtime.GOOS + "/" + runtime.GOARCH)
	if err != nil || here.Sum != added.SHA256 {
		t.Errorf("the binary for this platform: %+v, %v", here, err)
	}
	_, err = m.HostBinary("plan9/mips")
	wantError(t, err, "CGO_ENABLED=0 GOOS=plan9 GOARCH=mips go build -o snapfw-toy.mips")
	for _, f := range Verify(dir) {
		if !f.OK {
			t.Errorf("verify: %+v", f)
		}
	}
	left, _ := filepath.Glob(filepath.Join(string(dir), ".*"))
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestAddAgainKeepsWhatWasWritten(t *testing.T) {
	dir, built := newDir(t)
	m, err := Add(t.Context(), dir, built, nil)
	if err != nil {
		t.Fatal(err)
	}
	m.Env = []string{"HOME"}
	m.Host = map[string]Host{"linux/arm64": {Exec: "snapfw-toy.arm64", SHA256: strings.Repeat("a", 64)}}
	if err := m.write(); err != nil {
		t.Fatal(err)
	}
	if _, err := Add(t.Context(), dir, filepath.Join(string(dir), "snapfw-toy"), nil); err != nil {
		t.Fatal(err)
	}
	got, err := dir.Get("toy", nil)
	if err != nil || len(got.Env) != 1 || got.Host["linux/arm64"].Exec != "snapfw-toy.arm64" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestAddRefuses(t *testing.T) {
	dir, built := newDir(t)
	other := filepath.Join(filepath.Dir(built), "toy")
	if err := os.Rename(built, other); err != nil {
		t.Fatal(err)
	}
	_, err := Add(t.Context(), dir, other, nil)
	wantError(t, err, "is called snapfw-NAME")
	// It says another name than its file does.
	liar := filepath.Join(filepath.Dir(built), "snapfw-liar")
	if err := os.Rename(other, liar); err != nil {
		t.Fatal(err)
	}
	_, err = Add(t.Context(), dir, liar, nil)
	wantError(t, err, `plugin liar says that its name is "toy"`)
	// Something that is no plugin.
	script := filepath.Join(filepath.Dir(built), "snapfw-script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho hello\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err = Add(t.Context(), dir, script, nil)
	wantError(t, err, `printed "hello" instead of the handshake`)
	if left, _ := os.ReadDir(string(dir)); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestSums(t *testing.T) {
	dir, _ := newDir(t)
	exec := filepath.Join(string(dir), "snapfw-folder")
	copySelf(t, exec)
	sum, err := plugin.FileSum(exec)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "folder.yaml", "name: folder\nkind: sink\nprotocol: 1\nexec: snapfw-folder\n")
	_, _, err = dir.Load(t.Context(), "folder", core.KindSink, nil)
	wantError(t, err, "is not pinned")
	write(t, dir, "SHA256SUMS", sum+"  snapfw-folder\n")
	c, _, err := dir.Load(t.Context(), "folder", core.KindSink, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	f, err := os.OpenFile(exec, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(f, "more")
	f.Close()
	_, _, err = dir.Load(t.Context(), "folder", core.KindSink, nil)
	wantError(t, err, "is not the file that was added")
	findings := Verify(dir)
	if len(findings) != 1 || findings[0].OK || !strings.Contains(findings[0].Problem, "is not the file that was added") {
		t.Errorf("verify: %+v", findings)
	}
}

func TestOthersMayNotWrite(t *testing.T) {
	dir, built := newDir(t)
	if _, err := Add(t.Context(), dir, built, nil); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "toy.yaml", "snapfw-toy"} {
		file := filepath.Join(string(dir), name)
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, extra := range []os.FileMode{0o020, 0o002} {
			if err := os.Chmod(file, info.Mode().Perm()|extra); err != nil {
				t.Fatal(err)
			}
			_, _, err = dir.Load(t.Context(), "toy", core.KindChain, nil)
			wantError(t, err, "chmod go-w "+file)
		}
		if err := os.Chmod(file, info.Mode().Perm()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBinaryRefused(t *testing.T) {
	for name, c := range map[string]struct {
		make func(t *testing.T, dir Dir, exec string) error
		want string
	}{
		"missing": {func(*testing.T, Dir, string) error { return nil }, "build it, or add it"},
		"folder":  {func(_ *testing.T, _ Dir, exec string) error { return os.Mkdir(exec, 0o755) }, "is not a regular file"},
		"plain":   {func(_ *testing.T, _ Dir, exec string) error { return os.WriteFile(exec, nil, 0o644) }, "chmod a+x " + "/"},
		"link":    {func(_ *testing.T, _ Dir, exec string) error { return os.Symlink("/bin/sh", exec) }, "is a link out of its folder"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, _ := newDir(t)
			write(t, dir, "toy.yaml", "name: toy\nkind: chain\nprotocol: 1\nexec: snapfw-toy\nsha256: "+strings.Repeat("0", 64)+"\n")
			if err := c.make(t, dir, filepath.Join(string(dir), "snapfw-toy")); err != nil {
				t.Fatal(err)
			}
			_, _, err := dir.Load(t.Context(), "toy", core.KindChain, nil)
			wantError(t, err, c.want)
		})
	}
}

func TestManifestErrors(t *testing.T) {
	for name, c := range map[string]struct{ body, want string }{
		"unknown field": {"name: toy\nkind: chain\nprotocol: 1\nexec: snapfw-toy\nexecs: b\n", "f.yaml:5: unknown field execs"},
		"type":          {"name: toy\nkind: chain\nprotocol: one\nexec: snapfw-toy\n", "f.yaml:3: cannot unmarshal"},
		"twice":         {"name: toy\nname: boy\n", "f.yaml:2: mapping key"},
		"syntax":        {"name: [\n", "f.yaml:"},
		"empty":         {"", "f.yaml: is empty"},
		"documents":     {"name: toy\nkind: chain\nprotocol: 1\nexec: a\n---\nname: b\n", "more than one document"},
		"name":          {"kind: chain\nname: Toy!\nprotocol: 1\nexec: a\n", `f.yaml:2: name: "Toy!" must be`},
		"kind":          {"name: toy\nprotocol: 1\nexec: a\nkind: moon\n", `f.yaml:4: kind: "moon" must be chain or sink`},
		"protocol":      {"name: toy\nkind: chain\nexec: a\nprotocol: 9\n", "f.yaml:4: protocol: 9 is not what this snapfw speaks (1)"},
		"path":          {"name: toy\nkind: chain\nprotocol: 1\nexec: ../sh\n", "f.yaml:4: exec: \"../sh\" must be the name of one file"},
		"sum":           {"name: toy\nkind: chain\nprotocol: 1\nexec: a\nsha256: abc\n", "f.yaml:5: sha256: must be 64"},
		"host":          {"name: toy\nkind: chain\nprotocol: 1\nexec: a\nhost: {linux/arm64: {exec: /bin/sh}}\n", "f.yaml:5: host[linux/arm64].exec"},
		"env":           {"name: toy\nkind: chain\nprotocol: 1\nexec: a\nenv: [\"A=B\"]\n", "f.yaml:5: env[0]"},
		"cookie":        {"name: toy\nkind: chain\nprotocol: 1\nexec: a\nenv: [PLUGIN_UNIX_SOCKET_DIR]\n", "is set by snapfw"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseManifest("f.yaml", []byte(c.body))
			wantError(t, err, c.want)
		})
	}
}

func TestTwoOfOneNameAndAWrongNeighbour(t *testing.T) {
	dir, built := newDir(t)
	if _, err := Add(t.Context(), dir, built, nil); err != nil {
		t.Fatal(err)
	}
	wrong := write(t, dir, "wrong.yaml", "nonsense: 1\n")
	if _, err := dir.Get("toy", nil); err != nil {
		t.Errorf("a wrong neighbour stands in the way: %v", err)
	}
	if _, err := Read(dir); err == nil || !strings.Contains(err.Error(), wrong) {
		t.Errorf("a wrong manifest is not named: %v", err)
	}
	write(t, dir, "toy2.yaml", "name: toy\nkind: chain\nprotocol: 1\nexec: snapfw-toy\n")
	_, err := dir.Get("toy", nil)
	wantError(t, err, "both describe toy")
}

func TestFind(t *testing.T) {
	dir, _ := newDir(t)
	t.Setenv("SNAPFW_PLUGINS", string(dir))
	if got, err := Find(""); err != nil || got != dir {
		t.Errorf("by the environment: %s, %v", got, err)
	}
	other, _ := newDir(t)
	if got, err := Find(string(other)); err != nil || got != other {
		t.Errorf("explicit: %s, %v", got, err)
	}
	_, err := Find(filepath.Join(string(dir), "nowhere"))
	wantError(t, err, "--plugins")
	t.Setenv("SNAPFW_PLUGINS", "")
	self, _ := os.Executable()
	beside := filepath.Join(filepath.Dir(self), "plugins.d")
	if err := os.Mkdir(beside, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(beside)
	if got, err := Find(""); err != nil || string(got) != beside {
		t.Errorf("beside the program: %s, %v", got, err)
	}
}

func TestLoadIsCancelled(t *testing.T) {
	dir, built := newDir(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Add(ctx, dir, built, nil); err == nil {
		t.Error("added over a cancelled context")
	}
	if left, _ := os.ReadDir(string(dir)); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte("name: toy\nkind: chain\nprotocol: 1\nexec: snapfw-toy\nenv: []\n"))
	f.Add([]byte("&a [*a]"))
	f.Add([]byte("name: !!binary x\n---\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := parseManifest("f.yaml", body)
		if err == nil && (m.Name == "" || strings.ContainsAny(m.Exec, "/\\") || m.Protocol != plugin.Protocol) {
			t.Fatalf("accepted %+v", m)
		}
	})
}

func FuzzSums(f *testing.F) {
	f.Add([]byte(strings.Repeat("a", 64) + "  snapfw-toy\n"))
	f.Add([]byte("x\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		sums, err := parseSums("SHA256SUMS", body)
		if err != nil && sums != nil {
			t.Fatal("sums beside an error")
		}
		for name, sum := range sums {
			if len(sum) != 64 || strings.ContainsRune(name, '/') {
				t.Fatalf("%q: %q", name, sum)
			}
		}
	})
}
