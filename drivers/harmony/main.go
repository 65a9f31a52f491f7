// snapfw-harmony is snapfw's driver for Harmony nodes: started by snapfw it plans snapshots,
// and placed on a node's machine it does there what a plan calls "@self".
package main

import (
	"context"
	"os"

	"github.com/snapfw/snapfw/core/plugin"
)

func main() {
	var served []plugin.Verb
	for _, v := range verbs {
		served = append(served, plugin.Verb{Name: v.Name, Usage: v.Usage, Run: func(ctx context.Context, args []string) int {
			return v.Run(ctx, args, os.Stdout, os.Stderr)
		}})
	}
	plugin.ServeChain(newDriver(), served...)
}
