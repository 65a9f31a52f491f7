package cli_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestScripts runs testdata/script/*.txtar: the real binaries, on nodes of this machine. Each script has
// a home, a state folder and a host folder of its own. commands_test.go says what a script
// can say beside testscript's own words; -update rewrites what cmp compares with.
//
// $SNAPFW_BIN names a folder with snapfw and snapfw-devnet, and plugins.d beside it; without it they are built.
// With $GOCOVERDIR what is built counts what it runs.
func TestScripts(t *testing.T) {
	bin, plugins := binaries(t)
	templates, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	docs, err := filepath.Abs("../../docs")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", UpdateScripts: *update, RequireUniqueNames: true,
		Cmds: commands,
		Setup: func(e *testscript.Env) error {
			home := filepath.Join(e.WorkDir, "home")
			e.Setenv("HOME", home)
			e.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
			e.Setenv("SNAPFW_PLUGINS", plugins)
			e.Setenv("DEVNET", filepath.Join(bin, "snapfw-devnet"))
			e.Setenv("TEMPLATES", templates)
			e.Setenv("DOCS", docs)
			e.Setenv("ODD", filepath.Join(bin, "odd"))
			e.Setenv("GOCOVERDIR", os.Getenv("GOCOVERDIR"))
			return os.MkdirAll(home, 0o700)
		},
	})
}

// binaries returns a folder with the programs and one with the plugins. In "odd" below the first are
// the plugins that no manifest names yet.
func binaries(t *testing.T) (bin, plugins string) {
	t.Helper()
	dir := t.TempDir()
	bin, plugins = filepath.Join(dir, "bin"), filepath.Join(dir, "plugins.d")
	odd := filepath.Join(bin, "odd")
	for _, d := range []string{bin, plugins, odd} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	build(t, filepath.Join(odd, "snapfw-toy"), "./testdata/plugins")
	for _, name := range []string{"crash", "liar", "rubbish", "hang"} {
		copyFile(t, filepath.Join(odd, "snapfw-toy"), filepath.Join(odd, "snapfw-"+name), 0o755)
	}
	if built := os.Getenv("SNAPFW_BIN"); built != "" {
		for _, name := range []string{"snapfw", "snapfw-devnet"} {
			copyFile(t, filepath.Join(built, name), filepath.Join(bin, name), 0o755)
		}
		files, err := filepath.Glob(filepath.Join(filepath.Dir(built), "plugins.d", "*"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no plugins beside $SNAPFW_BIN (%s): run `make build` (%v)", built, err)
		}
		for _, f := range files {
			info, err := os.Stat(f)
			if err != nil {
				t.Fatal(err)
			}
			copyFile(t, f, filepath.Join(plugins, filepath.Base(f)), info.Mode().Perm()&^0o022)
		}
		return bin, plugins
	}
	if hosts, _ := filepath.Glob("../internal/host/bin/snapfw-host-linux-*"); len(hosts) == 0 {
		t.Fatal("there are no snapfw-host binaries to embed: run `make build` once")
	}
	build(t, filepath.Join(bin, "snapfw"), "../../cmd/snapfw", "-ldflags", "-X github.com/snapfw/snapfw/core/cli.Version=v0.0.0-script")
	build(t, filepath.Join(bin, "snapfw-devnet"), "../../drivers/harmony/devnet")
	var sums []byte
	for name, pkg := range map[string]string{"harmony": "../../drivers/harmony", "erigon": "../../drivers/erigon", "rclone": "../../sinks/rclone"} {
		exe := filepath.Join(plugins, "snapfw-"+name)
		build(t, exe, pkg)
		copyFile(t, "../../plugins.d/"+name+".yaml", filepath.Join(plugins, name+".yaml"), 0o644)
		body, err := os.ReadFile(exe)
		if err != nil {
			t.Fatal(err)
		}
		sums = fmt.Appendf(sums, "%x  %s\n", sha256.Sum256(body), filepath.Base(exe))
	}
	if err := os.WriteFile(filepath.Join(plugins, "SHA256SUMS"), sums, 0o644); err != nil {
		t.Fatal(err)
	}
	return bin, plugins
}

func build(t *testing.T, to, pkg string, flags ...string) {
	t.Helper()
	args := append([]string{"build", "-trimpath", "-buildvcs=false", "-o", to}, flags...)
	if os.Getenv("GOCOVERDIR") != "" {
		args = append(args, "-cover", "-coverpkg=github.com/snapfw/snapfw/...")
	}
	cmd := exec.Command("go", append(args, pkg)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, out)
	}
	if err := os.Chmod(to, 0o755); err != nil { // whatever the umask
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string, mode os.FileMode) {
	t.Helper()
	body, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, body, mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(to, mode); err != nil {
		t.Fatal(err)
	}
}
