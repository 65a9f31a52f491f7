package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"
)

// told is what is noted of a start that is told to end. Docker keeps no trace of that while the container goes on running, and
// "docker start" is a success then and starts nothing, so whoever undoes a stop has to know it.
type told struct {
	Started string
	First   time.Time
	Last    time.Time
	Times   int
	Sent    bool // the last one: in doubt it is not, and the signal is sent again
}

const (
	tellAgain = time.Minute
	tellMost  = 5 // there are nodes that end at once, and not in order, at the tenth
)

// Tell tells the container to end, by its own stop signal, and does not wait. Docker then keeps it down, whatever its restart
// policy. A second call within a minute sends nothing. Unlike "docker stop" this never kills.
func (c Container) Tell(ctx context.Context) error {
	s, err := c.Look(ctx)
	if err != nil {
		return err
	}
	if !c.is(s) {
		return fmt.Errorf("container %s was started anew meanwhile: %w", c.Name, ErrDirty)
	}
	if !s.State.Running {
		return nil
	}
	signal, err := s.StopSignal()
	if err != nil {
		return err
	}
	t := c.told()
	if t.Sent && (t.Times >= tellMost || time.Since(t.Last) < tellAgain) {
		return nil
	}
	t.Started, t.Last, t.Sent = c.Started, time.Now().UTC(), false
	if t.Times++; t.First.IsZero() {
		t.First = t.Last
	}
	return c.signal(ctx, t, signal)
}

// signal notes that it signals, and that it has.
func (c Container) signal(ctx context.Context, t told, signal string) error {
	if err := c.note(t); err != nil {
		return err
	}
	if _, err := c.run(ctx, c.Docker, "kill", "--signal", signal, c.Name); err != nil {
		if s, look := c.Look(ctx); look == nil && !s.State.Running {
			return nil // it ended by itself meanwhile
		}
		return fmt.Errorf("signal container %s: %w", c.Name, err)
	}
	t.Sent = true
	return c.note(t)
}

var plainID = regexp.MustCompile(`^[0-9A-Za-z]+$`)

// noteFile is in the folder of snapfw-host, which jobs and guards of one login user have in common.
func (c Container) noteFile() (string, error) {
	root := os.Getenv("SNAPFW_ROOT")
	if !filepath.IsAbs(root) || !plainID.MatchString(c.ID) {
		return "", errors.New("this is for snapfw to run: want SNAPFW_ROOT, and the container's id")
	}
	return filepath.Join(root, "containers", c.ID+".json"), nil
}

// note writes t down. It need not outlive the machine: no start of a container does.
func (c Container) note(t told) error {
	file, err := c.noteFile()
	if err != nil {
		return err
	}
	body, err := json.Marshal(t)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(file), 0o700)
	}
	if err == nil {
		err = os.WriteFile(file+".new", body, 0o600)
	}
	if err == nil {
		err = os.Rename(file+".new", file)
	}
	if err != nil {
		return fmt.Errorf("note that container %s is told to end: %w", c.Name, err)
	}
	return nil
}

// told is what is noted of this very start; Times is 0 where that is nothing.
func (c Container) told() told {
	file, err := c.noteFile()
	if err != nil {
		return told{}
	}
	var t told
	if b, err := os.ReadFile(file); err != nil || json.Unmarshal(b, &t) != nil || t.Started != c.Started {
		return told{}
	}
	return t
}

// forget removes the note of a start that is over.
func (c Container) forget() {
	if file, err := c.noteFile(); err == nil {
		os.Remove(file) // nobody misses it
	}
}
