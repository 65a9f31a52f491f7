package host

import (
	"context"
	"io"
)

// cleanPath is where programs are found on every machine.
const cleanPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// command is one program run to its end.
type command struct {
	argv   []string
	home   string // HOME of a clean environment; "" leaves the login's own, as snapfw-host wants it
	user   string // USER of a clean environment
	stdin  []byte
	stdout io.Writer
	stderr io.Writer
	// end asks that the program gets a TERM when ctx ends; otherwise it is left alone.
	end bool
}

// carrier is the way to a machine: this process, or ssh.
type carrier interface {
	// exec runs a command and returns its exit code: 127 when there is no such program, 126 when
	// it can't be run, 128+n for a signal. It fails with ErrCut when nobody knows the end.
	exec(ctx context.Context, c command) (exit int, err error)

	// probe looks at the machine and at the folders that may become the root.
	probe(ctx context.Context, hostDir string, cores map[string]program) (probed, error)

	// makeRoot makes the folders of a root; those that are there stay as they are.
	makeRoot(ctx context.Context, root string) error

	// has tells whether an executable of that size lies at path.
	has(ctx context.Context, path string, size int64) (bool, error)

	// put writes a program under another name, checks its sum there, and renames it to path.
	put(ctx context.Context, p program, path string) error

	// find looks for a program in cleanPath; "" if there is none.
	find(ctx context.Context, name string) (path string, err error)

	// epoch changes when a connection was lost: the machine may have been started anew.
	epoch() int

	close() error
	String() string
}
