// Snapfw-devnet starts stand-ins for Harmony nodes: real processes with real LevelDBs that make
// blocks all the time, answer Harmony's JSON-RPC, and misbehave as real nodes do when
// they are told to. It needs no root and no network beyond loopback.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// exitCode ends the program with a code and no further word.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit %d", int(e)) }

func main() {
	err := root().Execute()
	var code exitCode
	switch {
	case err == nil:
	case errors.As(err, &code):
		os.Exit(int(code))
	default:
		fmt.Fprintln(os.Stderr, "snapfw-devnet:", err)
		os.Exit(1)
	}
}

func root() *cobra.Command {
	c := &cobra.Command{
		Use:           "snapfw-devnet",
		Short:         "Stand-ins for Harmony nodes: real processes, real LevelDBs, Harmony's JSON-RPC",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	c.AddCommand(nodeCommand(), upCommand(), downCommand(), ctlCommand(), keepCommand(), checkCommand(), fillCommand())
	return c
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func interrupts() <-chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	return c
}
