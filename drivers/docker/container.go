// Package docker is what drivers share about nodes that are Docker containers: how one is told to end without being killed,
// whether it ended in order, and how it is started again whatever goes on. It runs the docker program.
package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// Container is a container, and the one start of it that a plan is about.
type Container struct {
	Docker  string // the program
	Name    string
	ID      string // while it ran
	Started string // as docker inspect says
}

// State is what is read of docker inspect.
type State struct {
	ID    string `json:"Id"`
	State struct {
		Running, Restarting, OOMKilled bool
		ExitCode                       int
		StartedAt                      string
	}
	Config     struct{ StopSignal string }
	HostConfig struct{ RestartPolicy struct{ Name string } }
}

// Inspect is the command that looks at a container; Read reads what it prints.
func Inspect(docker, name string) []string {
	return []string{docker, "inspect", "--type", "container", "--", name}
}

// Read reads what the command of Inspect prints.
func Read(out []byte) (State, error) {
	var l []State
	if err := json.Unmarshal(out, &l); err != nil {
		return State{}, fmt.Errorf("read docker inspect: %w", err)
	}
	if len(l) != 1 {
		return State{}, fmt.Errorf("docker inspect names %d containers", len(l))
	}
	return l[0], nil
}

// Returns tells whether Docker starts the container when the machine starts, though it was stopped by hand.
func (s State) Returns() bool { return s.HostConfig.RestartPolicy.Name == "always" }

// ErrSignal is returned for a container whose stop signal a node does not end by in order.
var ErrSignal = errors.New("a node does not stop cleanly on it")

// StopSignal is the signal that the container asks for, "TERM" or "INT". At another one Docker would start it
// again by its restart policy.
func (s State) StopSignal() (string, error) {
	name := strings.TrimPrefix(strings.ToUpper(s.Config.StopSignal), "SIG")
	if n, err := strconv.Atoi(name); err == nil {
		name = map[int]string{2: "INT", 15: "TERM"}[n]
	}
	switch name {
	case "", "TERM":
		return "TERM", nil
	case "INT":
		return "INT", nil
	}
	return "", fmt.Errorf("the container's stop signal is %q: %w", s.Config.StopSignal, ErrSignal)
}

// Look asks Docker about the container.
func (c Container) Look(ctx context.Context) (State, error) {
	out, err := c.run(ctx, Inspect(c.Docker, c.Name)...)
	if err != nil {
		return State{}, fmt.Errorf("ask docker about %s: %w", c.Name, err)
	}
	return Read(out)
}

func (c Container) run(ctx context.Context, argv ...string) ([]byte, error) {
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).Output()
	var e *exec.ExitError
	if errors.As(err, &e) && len(e.Stderr) > 0 {
		err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(e.Stderr))
	}
	return out, err
}

// is tells whether the container still is in, or ended after, the start that c is about.
func (c Container) is(s State) bool { return s.ID == c.ID && s.State.StartedAt == c.Started }

var (
	// ErrRunning is returned for a container that has not ended.
	ErrRunning = errors.New("it is still running")
	// ErrDirty is returned for one that did not end in order, or was started by somebody else.
	ErrDirty = errors.New("it did not stop cleanly: it has to be started, to repair itself, before its data can be taken")
)

// Ended tells how the container's start ended: nil if in order, else an error that is ErrRunning, ErrDirty, or neither
// where Docker could not be asked.
func (c Container) Ended(ctx context.Context) error {
	s, err := c.Look(ctx)
	switch {
	case err != nil:
		return err
	case !c.is(s):
		return fmt.Errorf("container %s was started anew meanwhile: %w", c.Name, ErrDirty)
	case s.State.Running || s.State.Restarting:
		return fmt.Errorf("container %s: %w", c.Name, ErrRunning)
	case s.State.ExitCode != 0 || s.State.OOMKilled:
		return fmt.Errorf("container %s ended with exit code %d, OOMKilled=%t: %w", c.Name, s.State.ExitCode, s.State.OOMKilled, ErrDirty)
	}
	return nil
}

// Await waits until the container has ended, and tells how. After wait it returns ErrRunning.
func (c Container) Await(ctx context.Context, wait time.Duration) error {
	for end := time.Now().Add(wait); ; {
		err := c.Ended(ctx)
		if !errors.Is(err, ErrRunning) || time.Now().After(end) || pause(ctx) != nil {
			return err
		}
	}
}

const pollEvery = 100 * time.Millisecond

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(pollEvery):
		return nil
	}
}
