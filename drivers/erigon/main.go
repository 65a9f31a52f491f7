// Snapfw-erigon is the driver for Erigon 3: what a node's snapshots folder consists of, which change of what is
// published is safe, and the torrents that consumers fetch by.
package main

import (
	"context"
	"os"

	"github.com/snapfw/snapfw/core/plugin"
)

// buildVersion is set by the linker: -X main.buildVersion=v1.2.3.
var buildVersion = "dev"

func main() {
	plugin.ServeChain(driver{},
		plugin.Verb{
			Name: "torrents", Usage: "--datadir DIR [--verify full|sample:N]  make the torrents that are missing or stale",
			Run: torrentsVerb,
		},
		plugin.Verb{
			Name: "check", Usage: "--datadir DIR [--json]  check the files of snapshots/: gaps, overlaps, companions, torrents",
			Run: func(ctx context.Context, args []string) int { return checkVerb(ctx, args, os.Stdout, os.Stderr) },
		},
	)
}
