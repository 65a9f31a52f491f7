package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/snapfw/snapfw/core/internal/engine"
)

// lockChain takes the lock of a chain on this machine. The kernel frees it when the process ends,
// however it ends; the file says which run has it.
func (s *session) lockChain(_ context.Context, chain, run string) (func(), error) {
	if err := os.MkdirAll(s.stateDir("locks"), 0o700); err != nil {
		return nil, fmt.Errorf("lock chain %s: %w", chain, err)
	}
	name := s.stateDir("locks", chain+".lock")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock chain %s: %w", chain, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock chain %s: %w", chain, err)
		}
		holder, _ := os.ReadFile(name)
		return nil, &engine.LockedError{What: "chain " + chain, Holder: strings.TrimSpace(string(holder))}
	}
	if err := f.Truncate(0); err == nil {
		_, err = f.WriteAt([]byte(fmt.Sprintf("%s (process %d)\n", run, os.Getpid())), 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock chain %s: %w", chain, err)
	}
	return func() { f.Close() }, nil
}

// holds says until when a node is left alone, by "chain/node".
type holds map[string]time.Time

func (h holds) held(chain, node string) (time.Time, bool) {
	until, ok := h[chain+"/"+node]
	return until, ok && time.Now().Before(until)
}

func (s *session) holds() (holds, error) {
	h := holds{}
	body, err := os.ReadFile(s.stateDir("holds.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err == nil {
		err = json.Unmarshal(body, &h)
	}
	if err != nil {
		return nil, fmt.Errorf("read which nodes are on hold: %w", err)
	}
	return h, nil
}

func (a *app) holdCmd() *cobra.Command {
	var until string
	cmd := &cobra.Command{
		Use: "hold NODE --until T", Short: "leave a node alone", Args: cobra.ExactArgs(1),
		Long: `Leave a node alone until T: no run touches it, and none touches nodes of later waves. T is a
time (2026-11-22T06:00:00Z), a duration from now (6h, 2d), or "now", which ends a hold.`,
		Example: "  snapfw hold shard0 --until 6h --chain mychain\n  snapfw hold shard0 --until now",
	}
	a.chainFlag(cmd)
	cmd.Flags().StringVar(&until, "until", "", "a time, a duration from now, or now")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		t, err := parseUntil(until, time.Now())
		if err != nil {
			return err
		}
		s, err := a.open(cmd.Context(), cmd)
		if err != nil {
			return err
		}
		c, driver, err := s.chain(cmd.Context(), a.chain)
		if err != nil {
			return err
		}
		if err := s.knowsNode(cmd.Context(), c, driver, args[0]); err != nil {
			return err
		}
		h, err := s.holds()
		if err != nil {
			return err
		}
		key := c.Name + "/" + args[0]
		if delete(h, key); t.After(time.Now()) {
			h[key] = t
		}
		body, err := json.MarshalIndent(h, "", "  ")
		if err != nil {
			return err
		}
		if err := renameio.WriteFile(s.stateDir("holds.json"), append(body, '\n'), 0o600); err != nil {
			return fmt.Errorf("write which nodes are on hold: %w", err)
		}
		if a.json() {
			return a.printJSON(h)
		}
		if t.After(time.Now()) {
			a.printf("%s is left alone until %s\n", args[0], t.Format(time.RFC3339))
		} else {
			a.printf("%s is not on hold\n", args[0])
		}
		return nil
	}
	return cmd
}
