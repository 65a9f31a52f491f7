// Package e2etest runs the real binaries over real sshds: nodes are stopped, captured, started and
// published, and everything on the way is killed, filled, locked or lied to. The nodes are stand-ins with
// real LevelDBs, the machines are sshds on loopback, one a host, and the bucket is rclone's.
package e2etest

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
var (
	snapfwPath string
	devnetPath string
	pluginsDir string
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	atOnce()
	if testing.Short() {
		fmt.Fprintln(os.Stderr, "\n*** SKIPPED core/cli/e2etest: it runs networks of nodes over ssh; leave -short away ***")
		return 0
	}
	for _, program := range []string{"rclone", "ssh-keygen"} {
		if _, err := exec.LookPath(program); err != nil {
			fmt.Fprintf(os.Stderr, "\n*** SKIPPED core/cli/e2etest: %s is not installed (Debian: apt-get install rclone openssh-server) ***\n", program)
			if os.Getenv("SNAPFW_TEST_NO_SKIP") != "" {
				return 1
			}
			return 0
		}
	}
	dir, err := os.MkdirTemp("", "snapfw-e2e")
	if err == nil {
		defer os.RemoveAll(dir)
		err = programs(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2etest:", err)
		return 1
	}
	return m.Run()
}

// atOnce lets more scenarios run side by side than there are processors, unless -parallel was
// given: they wait most of the time.
func atOnce() {
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		flag.Set("test.parallel", "5")
	}
}

// programs takes what $SNAPFW_BIN holds, as `make test` leaves it, with plugins.d beside it; else it builds.
func programs(dir string) error {
	if bin := os.Getenv("SNAPFW_BIN"); bin != "" {
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
	return build(dir)
}

const root = "../../.." // of the module

// build makes every program of the sources as they are. The program for hosts goes into snapfw by an
// overlay, so that the one which an earlier build left in the tree is neither used nor changed.
func build(dir string) error {
	pluginsDir = filepath.Join(dir, "plugins.d")
	if err := os.Mkdir(pluginsDir, 0o755); err != nil {
		return err
	}
	host := filepath.Join(dir, "snapfw-host")
	snapfwPath, devnetPath = filepath.Join(dir, "snapfw"), filepath.Join(dir, "snapfw-devnet")
	embedded, err := filepath.Abs(filepath.Join(root, "core/internal/host/bin/snapfw-host-linux-"+runtime.GOARCH))
	if err != nil {
		return err
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {embedded: host}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o644); err != nil {
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
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w",
			"-overlay", filepath.Join(dir, "overlay.json"), "-o", b.out, "./"+b.of)
		cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
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
		if err := os.Chmod(b.out, 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{"harmony.yaml", "rclone.yaml"} {
		body, err := os.ReadFile(filepath.Join(root, "plugins.d", name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(pluginsDir, name), body, 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(pluginsDir, "SHA256SUMS"), sums, 0o644)
}
