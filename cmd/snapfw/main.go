// snapfw takes, checks, publishes and restores snapshots of blockchain nodes.
package main

import (
	"os"

	"github.com/snapfw/snapfw/core/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:])) }
