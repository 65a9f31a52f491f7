// Snapfw-erigon is the driver for Erigon 3: how a snapshotter is stopped, made ready and started again, what a node's
// snapshots folder consists of, which change of what is published is safe, and the torrents that consumers fetch by.
package main

import (
	"context"
	"os"
	"runtime/debug"

	"github.com/snapfw/snapfw/core/plugin"
)

// buildVersion is set by the linker: -X main.buildVersion=v1.2.3.
var buildVersion = "dev"

// verbMemory is what a verb, which works beside a node, may take before it collects its garbage more often.
const verbMemory = 128 << 20

func main() {
	debug.SetGCPercent(400) // lists come and go whole, and somebody waits
	if len(os.Args) > 1 {
		debug.SetMemoryLimit(verbMemory)
	}
	plugin.ServeChain(driver{},
		plugin.Verb{Name: "launch", Usage: "save|stop|gone|start|status|flags --datadir DIR … | flags --for-chain NAME  stop and start an erigon that nobody else looks after, or say how one is launched", Run: launchVerb},
		plugin.Verb{Name: "container", Usage: containerUsage, Run: containerVerb},
		plugin.Verb{Name: "has", Usage: hasUsage, Run: hasVerb},
		plugin.Verb{Name: "retire", Usage: retireUsage, Run: retireVerb},
		plugin.Verb{Name: "index", Usage: indexUsage, Run: indexVerb},
		plugin.Verb{Name: "clear-indexes", Usage: clearIndexesUsage, Run: clearIndexesVerb},
		plugin.Verb{Name: "integrity", Usage: integrityUsage, Run: integrityVerb},
		plugin.Verb{Name: "rm-state", Usage: rmStateUsage, Run: rmStateVerb},
		plugin.Verb{Name: "regen", Usage: regenUsage, Run: regenVerb},
		plugin.Verb{Name: "rebuild-commitment", Usage: rebuildCommitmentUsage, Run: rebuildCommitmentVerb},
		plugin.Verb{Name: "compact-domains", Usage: compactDomainsUsage, Run: compactDomainsVerb},
		plugin.Verb{
			Name: "check", Usage: "--datadir DIR [--no-torrents | --live [--new-salts]] [--block-txnum N | --erigon PROGRAM] [--skip JSON] [--json]  check the files of snapshots/: gaps, overlaps, companions, torrents",
			Run: func(ctx context.Context, args []string) int { return checkVerb(ctx, args, os.Stdout, os.Stderr) },
		},
		plugin.Verb{Name: "live", Usage: "--datadir DIR --to FILE  list what belongs into a view of snapshots/", Run: liveVerb},
		plugin.Verb{Name: "view-unchanged", Usage: "--datadir DIR --list FILE --copy DIR  see that a view is still what was listed", Run: viewUnchangedVerb},
		plugin.Verb{
			Name: "torrents", Usage: "--datadir DIR [--verify full|sample:N]  make the torrents that are missing or stale", Run: torrentsVerb,
		},
		plugin.Verb{Name: "prove", Usage: "--list FILE  read what was published back through the address that consumers use", Run: proveVerb},
		plugin.Verb{Name: "restore", Usage: "--datadir DIR --list FILE|URL --base URL NAME…  fetch published files, checked by piece, and put them in place", Run: restoreVerb},
		plugin.Verb{Name: "backup", Usage: "--datadir DIR --into DIR | drop DIR  hard links plus real copies of what changes", Run: backupVerb},
	)
}
