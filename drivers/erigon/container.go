package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/drivers/docker"
)

const containerUsage = "stop|start --name NAME --id ID --started TIME …  stop and start an erigon that is a container, as snapfw does"

// containerVerb is "@self container": it stops an Erigon that is a container, and waits, and starts it. It exits with 0 when it is
// so, 75 where it did not end in order, 2 for wrong arguments, 1 for anything else.
func containerVerb(ctx context.Context, args []string) int {
	return runContainer(ctx, args, os.Stdout, os.Stderr)
}

// containerSettle is how long a container has to stay up; what becomes of Erigon is seen by its status.
const containerSettle = time.Second

func runContainer(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	f := flag.NewFlagSet("container", flag.ContinueOnError)
	f.SetOutput(stderr)
	var c docker.Container
	f.StringVar(&c.Name, "name", "", "the container")
	f.StringVar(&c.ID, "id", "", "its id while it ran")
	f.StringVar(&c.Started, "started", "", "when it was started")
	f.StringVar(&c.Docker, "docker", "docker", "path of docker")
	wait := f.Duration("wait", 30*time.Minute, "how long a stop may take")
	if len(args) == 0 || f.Parse(args[1:]) != nil || f.NArg() > 0 || c.Name == "" {
		fmt.Fprintln(stderr, containerUsage)
		return 2
	}
	var err error
	switch args[0] {
	case "stop":
		err = stopContainer(ctx, c, *wait, stdout)
	case "start":
		err = c.Start(ctx, *wait, containerSettle)
	default:
		err = errUsage
	}
	switch {
	case errors.Is(err, docker.ErrDirty):
		fmt.Fprintln(stderr, err)
		return core.ExitAgain
	case errors.Is(err, docker.ErrSignal):
		fmt.Fprintln(stderr, err)
		return core.ExitRefused
	}
	return exitCode(err, stderr)
}

// stopContainer tells the container to end, waits, and sees that it ended in order. Nothing is killed. A second call goes on waiting.
func stopContainer(ctx context.Context, c docker.Container, wait time.Duration, stdout io.Writer) error {
	if err := c.Tell(ctx); err != nil {
		return err
	}
	err := c.Await(ctx, wait)
	switch {
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("interrupted: container %s was told to end, and goes on doing so", c.Name)
	case errors.Is(err, docker.ErrRunning):
		return fmt.Errorf("%w %s after it was told to end, and nothing was killed: see `docker logs %s`", err, wait, c.Name)
	case err == nil:
		fmt.Fprintf(stdout, "container %s has ended in order\n", c.Name)
	}
	return err
}
