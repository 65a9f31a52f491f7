package systemdtest

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/snapfw/snapfw/core/cli/clitest"
)

// The programs, and the folder of plugins.
var snapfwPath, devnetPath, erigonPath, pluginsDir string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		flag.Set("test.parallel", "4") // they wait most of the time
	}
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

// programs finds or builds what the tests run.
func programs(dir string) error {
	p, err := clitest.Get(dir, map[string]string{
		"snapfw-devnet": "drivers/harmony/devnet", "snapfw-erigon-devnet": "drivers/erigon/devnet",
	}, "drivers/harmony", "drivers/erigon", "sinks/rclone")
	snapfwPath, devnetPath, erigonPath, pluginsDir = p.Path("snapfw"), p.Path("snapfw-devnet"), p.Path("snapfw-erigon-devnet"), p.Plugins
	return err
}
