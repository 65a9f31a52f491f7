// Snapfw-erigon-devnet stands in for Erigon's programs: erigon, integration and downloader, with their real subcommands,
// flags, lock, log lines and exit codes, over small real files. Which one it is, its own file name says
// (a link called "erigon"), or its first word. README.md says what is real and what is not.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// program is one run of one of the programs.
type program struct {
	ctx    context.Context // ends at SIGINT or SIGTERM
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
}

// errSilent ends a program with exit code 1 after it has said why.
var errSilent = errors.New("exit 1")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	p := &program{ctx: ctx, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	os.Exit(p.run(filepath.Base(os.Args[0]), os.Args[1:]))
}

// run is main without the process. Errors of erigon and downloader are printed and exit with 1, as
// urfave/cli and cobra do it; integration logs them and exits with 0.
func (p *program) run(name string, args []string) int {
	if len(args) > 0 && name != "erigon" && name != "integration" && name != "downloader" {
		name, args = args[0], args[1:]
	}
	var err error
	switch name {
	case "erigon":
		err = p.erigon(args)
	case "integration":
		err = p.integration(args)
	case "downloader":
		err = p.downloader(args)
	case "fill":
		err = p.fill(args)
	default:
		fmt.Fprintln(p.stderr, "usage: snapfw-erigon-devnet fill|erigon|integration|downloader …, or a link with one of these names")
		return 2
	}
	if err == nil {
		return 0
	}
	if !errors.Is(err, errSilent) {
		fmt.Fprintln(p.stderr, err)
	}
	return 1
}

// erigon is the node, or "erigon seg …".
func (p *program) erigon(args []string) error {
	if len(args) == 0 {
		return p.node(args)
	}
	switch args[0] {
	case "snapshots", "seg", "snapshot", "segments", "segment":
		return p.seg(args[1:])
	case "--version", "-v", "version":
		fmt.Fprintln(p.stdout, clientVersion)
		return nil
	}
	return p.node(args)
}

// clientVersion is what web3_clientVersion answers.
const clientVersion = "erigon/v3.4.1-snapfwdev/linux-amd64/go1.26"
