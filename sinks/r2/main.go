// Command snapfw-r2 is the sink for buckets of Cloudflare R2, with the cache in front of them.
package main

import (
	"context"
	"os"

	"github.com/snapfw/snapfw/core/plugin"
)

func main() {
	plugin.ServeSink(newSink(), plugin.Verb{Name: "upload", Usage: uploadUsage, Run: func(ctx context.Context, args []string) int {
		return uploadVerb(ctx, args, os.Getenv, os.Stdout, os.Stderr)
	}})
}
