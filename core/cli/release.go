package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/internal/config"
	"github.com/snapfw/snapfw/core/internal/engine"
)

func (a *app) releaseCmd() *cobra.Command {
	i := &intentCommand{app: a, name: intentRelease, asked: asked{must: true}}
	i.run = func(ctx context.Context, s *session, d engine.Deps, c config.Chain, in core.Intent) error {
		wait, err := parseWait(i.wait)
		if err != nil {
			return err
		}
		d.Settings.Wait = wait
		return s.release(ctx, d, c, i.asked, in)
	}
	return i.command(&cobra.Command{
		Use: "release --chain NAME", Short: "bring a chain's files to where every node fetches them: judged, reviewed, proved",
		Long: `Stop the node for as long as its own tools need, link what it holds, start it again; then make sums,
judge the change against what is published, upload what differs, propose the new list for review, and
park (exit code 5). Once the list is merged or approved, ` + "`snapfw resume`" + `, or the next release, judges again,
moves what replaces published files, proves it through the address that consumers use, and publishes the list.

Nothing that is published is overwritten before the review is through. A release that waits for its review is
superseded by a newer one once that has a list of its own, judged and ready to be sent. The flags below that are
the chain's own are shown with --chain NAME --help.

Exit codes: 0 done or nothing new, 1 failed and every node is up, 2 usage or configuration, 3 refused by a
check, the judge or the review, 4 locked by another run, 5 waiting for the review, 10 a node is down, 130 interrupted.`,
		Example: "  snapfw release --chain mychain\n  snapfw release --chain mychain --force --reason \"receipts were regenerated\"",
	})
}

// waitForever is what --wait alone means.
const waitForever = "forever"

// parseWait reads --wait: nothing parks at once, "forever" waits, else a time.
func parseWait(text string) (time.Duration, error) {
	switch text {
	case "":
		return 0, nil
	case waitForever:
		return -1, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, usage("--wait=%s: write a time, as --wait=2h, or --wait alone", text)
	}
	return d, nil
}

// release carries on what is open and makes a new run, which supersedes what waits for a review as soon as it has a list itself.
func (s *session) release(ctx context.Context, d engine.Deps, c config.Chain, q asked, in core.Intent) error {
	if err := s.canRun(ctx, c, d.Chain, q); err != nil {
		return err
	}
	out, err := engine.CarryOn(ctx, d, c.Name)
	if err != nil {
		return err
	}
	if !out.Closed && out.Exit != engine.ExitParked {
		return &exitError{out.Exit, fmt.Errorf("an earlier run is not over: %w", out.Err)}
	}
	return s.begin(ctx, d, c, runID(c.Name), q, in, true)
}

// begin makes a run and walks it to its end.
func (s *session) begin(ctx context.Context, d engine.Deps, c config.Chain, id string, q asked, in core.Intent, publish bool) error {
	d.Settings.Publish = publish
	r, err := engine.New(d, id, engine.Begun{
		Chain: c.Name, Driver: c.Driver, Intent: in, Publish: publish,
		Version: version(), User: loginName(), Config: s.file.Path, Nodes: q.nodes,
	})
	if err != nil {
		return err
	}
	return s.finish(c, r, r.Go(ctx))
}

func (a *app) fixCmd() *cobra.Command {
	i := &intentCommand{app: a}
	i.run = func(ctx context.Context, s *session, d engine.Deps, c config.Chain, in core.Intent) error {
		if err := s.canRun(ctx, c, d.Chain, i.asked); err != nil {
			return err
		}
		if err := s.nothingOpen(c.Name); err != nil {
			return err
		}
		return s.begin(ctx, d, c, runID(c.Name), i.asked, in, false)
	}
	return i.command(&cobra.Command{
		Use: "fix --chain NAME INTENT", Short: "carry out a repair that the driver can plan",
		Long: `Carry out a repair of a node: where it has to stop, it is stopped and started again as for a snapshot. Every step has its undo.
Without INTENT: the driver's repairs. With INTENT --help: its flags.`,
		Example: "  snapfw fix --chain mychain\n  snapfw fix --chain mychain index",
	})
}

// nothingOpen refuses to repair under a run that may still need what is there; one that waits for a review does not.
func (s *session) nothingOpen(chain string) error {
	open, err := engine.Open(s.journals(), chain)
	if err != nil {
		return err
	}
	for _, st := range open {
		for _, n := range st.Nodes {
			if !n.Parked {
				return &exitError{engine.ExitLocked, fmt.Errorf("run %s is not over: `snapfw resume %s` or `snapfw cancel %s` first", st.Run, st.Run, st.Run)}
			}
		}
	}
	return nil
}

func (a *app) approveCmd() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "approve RUN --reason WHY", Short: "let a parked run's list through, where no review place is configured", Args: cobra.ExactArgs(1),
		Example: "  snapfw show mychain-20261121-101112-abcd\n  snapfw approve mychain-20261121-101112-abcd --reason \"read the report, it is the weekly growth\"",
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; it is recorded")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if strings.TrimSpace(reason) == "" {
			return usage("approve needs --reason \"why\": it is recorded in the run")
		}
		err := a.checkOpenRun(cmd, args, func(st *engine.State, d engine.Deps) error {
			return st.Approvable(d.Review != nil)
		}, func(_ context.Context, _ *session, _ config.Chain, r *engine.Run) error {
			if err := r.Approve(loginName(), strings.TrimSpace(reason)); err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(map[string]string{"approved": r.ID})
			}
			a.printf("approved: `snapfw resume %s` publishes it\n", r.ID)
			return nil
		})
		var refused *engine.RefusedError
		if errors.As(err, &refused) {
			return &exitError{engine.ExitRefused, err}
		}
		return err
	}
	return cmd
}
