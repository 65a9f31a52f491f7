// Command snapfw-rclone is the sink for everything that rclone reaches, and for directories.
package main

import (
	"context"
	"os"
	"sync"

	"github.com/snapfw/snapfw/core/plugin"
)

func main() {
	plugin.ServeSink(sink{env: cleanEnv(os.Getenv), seen: new(sync.Map)},
		plugin.Verb{Name: "upload", Usage: uploadUsage, Run: func(ctx context.Context, args []string) int {
			return uploadVerb(ctx, args, os.Getenv, os.Stdout, os.Stderr)
		}},
		plugin.Verb{Name: "reap", Usage: "FILE  delete a file when standard input ends", Run: func(_ context.Context, args []string) int {
			if len(args) != 1 {
				return 2
			}
			return reap(args[0], os.Stdin)
		}})
}
