// Package releasetest runs whole releases with the real binaries: a stand-in erigon with a real datadir on a machine
// behind sshd, a real S3 server with R2's limits, a CDN that really caches, and a review on a GitHub stand-in that
// checks what it is asked, or on a plain git remote. A reader polls what is published all the while.
package releasetest

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/snapfw/snapfw/core/cli/clitest"
)

var programs clitest.Programs

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		flag.Set("test.parallel", "6") // they wait most of the time
	}
	if testing.Short() {
		fmt.Fprintln(os.Stderr, "\n*** SKIPPED core/cli/releasetest: it runs whole releases; leave -short away ***")
		return 0
	}
	for _, program := range []string{"nginx", "git"} {
		if _, err := exec.LookPath(program); err != nil {
			fmt.Fprintf(os.Stderr, "\n*** SKIPPED core/cli/releasetest: %s is not installed (Debian: apt-get install nginx-light git) ***\n", program)
			if os.Getenv("SNAPFW_TEST_NO_SKIP") != "" {
				return 1
			}
			return 0
		}
	}
	dir, err := os.MkdirTemp("", "snapfw-rel")
	if err == nil {
		defer os.RemoveAll(dir)
		programs, err = clitest.Get(dir, map[string]string{"snapfw-erigon-devnet": "drivers/erigon/devnet"},
			"drivers/erigon", "sinks/r2", "sinks/rclone")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "releasetest:", err)
		return 1
	}
	return m.Run()
}
