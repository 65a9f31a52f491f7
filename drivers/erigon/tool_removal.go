package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// removal is what a verb has to know that is run again after it failed in the middle, when its files are removed already: to look anew
// would be to remove the files before them.
type removal struct {
	What     string            `json:"what"`               // the verb and its arguments
	Remove   []string          `json:"remove"`             // names relative to snapshots/
	Ends     map[string]uint64 `json:"ends,omitempty"`     // by series: how far its files reached
	Executed uint64            `json:"executed,omitempty"` // the block that execution was at
}

func (t *tool) removalPath() string { return filepath.Join(snapfwDir(t.datadir), "removal.json") }

// remember writes down what is about to be removed.
func (t *tool) remember(r removal) error {
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(snapfwDir(t.datadir), 0o755); err != nil {
		return fmt.Errorf("remember what is removed: %w", err)
	}
	if err := renameio.WriteFile(t.removalPath(), append(body, '\n'), 0o600); err != nil {
		return fmt.Errorf("remember what is removed: %w", err)
	}
	return nil
}

// remembered reads what an earlier run left, nil if there is none. It declines while another removal is not through.
func (t *tool) remembered(what string) (*removal, error) {
	body, err := os.ReadFile(t.removalPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what an earlier run removed: %w", err)
	}
	var r removal
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, fmt.Errorf("read %s: %w", t.removalPath(), err)
	}
	if r.What != what {
		return nil, declinef("an earlier %q is not through: run that again first, or remove %s if it is settled", clipped(r.What, 200), t.removalPath())
	}
	for _, name := range r.Remove {
		if !safeName(name) {
			return nil, declinef("%s names %q, which is no file of a datadir", t.removalPath(), clipped(name, 200))
		}
	}
	return &r, nil
}

// finish removes what an earlier run did not get to.
func (t *tool) finish(r *removal) error {
	for _, name := range r.Remove {
		path := filepath.Join(t.datadir, "snapshots", filepath.FromSlash(name))
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove what an earlier run left: %w", err)
		}
	}
	t.say("going on with an earlier %q", r.What)
	return nil
}

func (t *tool) forget() error {
	if err := os.Remove(t.removalPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget what was removed: %w", err)
	}
	return nil
}
