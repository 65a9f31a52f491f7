// Package e2etest runs the real binaries over real sshds: nodes are stopped, captured, started and
// published, and everything on the way is killed, filled, locked or lied to. The nodes are stand-ins with
// real LevelDBs, the machines are sshds on loopback, one a host, and the bucket is rclone's.
package e2etest

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/snapfw/snapfw/core/cli/clitest"
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

// programs finds or builds what the tests run.
func programs(dir string) error {
	p, err := clitest.Get(dir, map[string]string{"snapfw-devnet": "drivers/harmony/devnet"}, "drivers/harmony", "sinks/rclone")
	snapfwPath, devnetPath, pluginsDir = p.Path("snapfw"), p.Path("snapfw-devnet"), p.Plugins
	return err
}
