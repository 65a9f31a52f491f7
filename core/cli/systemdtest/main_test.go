package systemdtest

import (
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// The programs, and the folder of plugins.
var snapfwPath, devnetPath, pluginsDir string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if Missing() != nil {
		return m.Run() // each test says why it is skipped
	}
	dir, err := os.MkdirTemp("", "snapfw-systemd")
	if err == nil {
		defer os.RemoveAll(dir)
		err = programs(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "systemdtest:", err)
		return 1
	}
	return m.Run()
}

// programs takes what $SNAPFW_BIN holds, with plugins.d beside it; else it builds.
func programs(dir string) error {
	bin := os.Getenv("SNAPFW_BIN")
	if bin == "" {
		return build(dir)
	}
	bin, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	snapfwPath, devnetPath = filepath.Join(bin, "snapfw"), filepath.Join(bin, "snapfw-devnet")
	if pluginsDir = os.Getenv("SNAPFW_PLUGINS"); pluginsDir == "" {
		pluginsDir = filepath.Join(filepath.Dir(bin), "plugins.d")
	}
	return nil
}

const module = "../../.."

// build makes every program of the sources as they are. The program for hosts goes into snapfw by an
// overlay of the build, so that the tree stays as it is.
func build(dir string) error {
	bin := filepath.Join(dir, "bin")
	pluginsDir = filepath.Join(dir, "plugins.d")
	for _, d := range []string{bin, pluginsDir} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	host := filepath.Join(bin, "snapfw-host")
	snapfwPath, devnetPath = filepath.Join(bin, "snapfw"), filepath.Join(bin, "snapfw-devnet")
	embedded, err := filepath.Abs(filepath.Join(module, "core/internal/host/bin/snapfw-host-linux-"+runtime.GOARCH))
	if err != nil {
		return err
	}
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {embedded: host}})
	if err != nil {
		return err
	}
	overlay := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, replace, 0o644); err != nil {
		return err
	}
	var sums []byte
	for _, b := range []struct{ out, of string }{
		{host, "cmd/snapfw-host"},
		{snapfwPath, "cmd/snapfw"},
		{devnetPath, "drivers/harmony/devnet"},
		{filepath.Join(pluginsDir, "snapfw-harmony"), "drivers/harmony"},
		{filepath.Join(pluginsDir, "snapfw-rclone"), "sinks/rclone"},
	} {
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-overlay", overlay, "-o", b.out, "./"+b.of)
		cmd.Dir, cmd.Env = module, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", b.of, err, out)
		}
		if filepath.Dir(b.out) != pluginsDir {
			continue
		}
		body, err := os.ReadFile(b.out)
		if err != nil {
			return err
		}
		sums = fmt.Appendf(sums, "%x  %s\n", sha256.Sum256(body), filepath.Base(b.out))
		if err := os.Chmod(b.out, 0o755); err != nil { // whatever the umask
			return err
		}
	}
	for _, name := range []string{"harmony.yaml", "rclone.yaml"} {
		body, err := os.ReadFile(filepath.Join(module, "plugins.d", name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(pluginsDir, name), body, 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(pluginsDir, "SHA256SUMS"), sums, 0o644)
}
