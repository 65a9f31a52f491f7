package docker

import (
	"context"
	"fmt"
	"time"
)

// least is how long Start waits for a stop at least, whenever that began.
var least = time.Minute

// Start sees that the container runs. It does nothing where that runs in another start than the one of c, or was never told to
// end. Where it was told, Start waits until it has ended, for as long as a stop may take since it was told, and then
// starts it. It is a success when the container has stayed up for settle. It can be called twice, and at any time.
func (c Container) Start(ctx context.Context, stop, settle time.Duration) error {
	s, err := c.awaitStop(ctx, stop)
	if err != nil {
		return err
	}
	if s.State.Running {
		return nil
	}
	if _, err := c.run(ctx, c.Docker, "start", c.Name); err != nil {
		return fmt.Errorf("start container %s: %w", c.Name, err)
	}
	c.forget()
	for begin := time.Now(); ; {
		if s, err = c.Look(ctx); err != nil {
			return err
		}
		if !s.State.Running || s.State.Restarting {
			return fmt.Errorf("container %s was started and ended at once with exit code %d: see `docker logs %s`", c.Name, s.State.ExitCode, c.Name)
		}
		if time.Since(begin) >= settle {
			return nil
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

// awaitStop waits while the container is being stopped.
func (c Container) awaitStop(ctx context.Context, stop time.Duration) (State, error) {
	begin := time.Now()
	for {
		s, err := c.Look(ctx)
		if err != nil || !s.State.Running || !c.is(s) {
			return s, err
		}
		t := c.told()
		if t.Times == 0 {
			return s, nil
		}
		if !t.Sent { // whoever noted it died before the signal, or right after: it is not known whether it ends
			signal, err := s.StopSignal()
			if err == nil {
				err = c.signal(ctx, t, signal)
			}
			if err != nil {
				return s, err
			}
		}
		if time.Since(t.First) >= stop && time.Since(begin) >= least {
			return s, fmt.Errorf("container %s was told to end %s ago and has not ended: see `docker logs %s`; it is started once it is down",
				c.Name, time.Since(t.First).Round(time.Second), c.Name)
		}
		if err := pause(ctx); err != nil {
			return s, fmt.Errorf("interrupted: container %s was told to end, and has not ended: %w", c.Name, err)
		}
	}
}
