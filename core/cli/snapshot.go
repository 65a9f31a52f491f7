package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/internal/config"
	"github.com/snapfw/snapfw/core/internal/engine"
)

// asked is what a run's flags say.
type asked struct {
	publish bool
	must    bool // the command is of no use without it
	nodes   []string
	force   bool
	reason  string
}

func (a *app) runFlags(cmd *cobra.Command, q *asked) {
	a.chainFlag(cmd)
	f := cmd.Flags()
	f.BoolVar(&q.publish, "publish", false, "upload the snapshot and point consumers at it (also --bucket-sync)")
	f.StringSliceVar(&q.nodes, "node", nil, "only these nodes")
	f.BoolVar(&q.force, "force", false, "bypass conditions, never the checks that protect data; needs --reason")
	f.StringVar(&q.reason, "reason", "", "why --force: it is recorded and published")
	f.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "bucket-sync" {
			name = "publish"
		}
		return pflag.NormalizedName(name)
	})
}

func (q asked) check() error {
	if q.force && strings.TrimSpace(q.reason) == "" {
		return usage("--force needs --reason \"why\": it is recorded in the run and in what is published")
	}
	if q.reason != "" && !q.force {
		return usage("--reason is for --force")
	}
	return nil
}

func (q asked) intent(name string) core.Intent {
	return core.Intent{Name: name, Force: q.force, Reason: strings.TrimSpace(q.reason), Args: map[string]string{}}
}

func (a *app) snapshotCmd() *cobra.Command {
	var q asked
	cmd := &cobra.Command{
		Use: "snapshot --chain NAME", Short: "stop nodes, copy their data, start them again, publish the copies", Args: cobra.NoArgs,
		Long: `Take a snapshot of every node of a chain: look whether all of them are well, stop them wave by
wave, link or copy their data, start them again, and see that they move on. With
--publish the copies are uploaded, checked and pointed at; without it they stay
beside the databases.

An earlier run of the chain that is not over is carried on first: what it owes is paid, and what
it captured is published.

Exit codes: 0 done or not now, 1 failed and every node is up, 2 usage or configuration,
3 refused by a check, 4 locked by another run, 10 a node is down, 130 interrupted.`,
		Example: "  snapfw snapshot --chain mychain --config testnet.yaml --publish",
	}
	a.runFlags(cmd, &q)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := q.check(); err != nil {
			return err
		}
		return a.takeSnapshot(cmd, q)
	}
	return cmd
}

func (a *app) takeSnapshot(cmd *cobra.Command, q asked) error {
	ctx := cmd.Context()
	s, err := a.open(ctx, cmd)
	if err != nil {
		return err
	}
	d, c, err := s.deps(ctx, a.chain)
	if err != nil {
		return err
	}
	if err := s.canRun(ctx, c, d.Chain, q); err != nil {
		return err
	}
	out, err := engine.CarryOn(ctx, d, c.Name)
	if err != nil {
		return err
	}
	if !out.Closed {
		return &exitError{out.Exit, fmt.Errorf("an earlier run is not over: %w", out.Err)}
	}
	return s.begin(ctx, d, c, runID(c.Name), q, q.intent(intentSnapshot), q.publish)
}

// canRun refuses what is wrong in the configuration before there is a run that could fail.
func (s *session) canRun(ctx context.Context, c config.Chain, driver core.Chain, q asked) error {
	nodes, err := driver.Nodes(ctx, c.Own)
	if err != nil {
		return s.place(c.Name, err)
	}
	for _, name := range q.nodes {
		if err := isNode(c.Name, nodes, name); err != nil {
			return err
		}
	}
	if (q.publish || q.must) && c.Sink == "" {
		return usage("chain %s has no sink to publish to: name one under sinks: in %s", c.Name, s.file.Path)
	}
	for _, w := range s.file.Warnings {
		s.view.Note("", w.Error())
	}
	return nil
}

// runID names a run: its chain, when it began, and something that no other run has.
func runID(chain string) string {
	return fmt.Sprintf("%s-%s-%s", chain, time.Now().UTC().Format("20060102-150405"), strings.ToLower(rand.Text()[:4]))
}

// finish prints what a run came to.
func (s *session) finish(c config.Chain, r *engine.Run, out engine.Outcome) error {
	s.view.Close()
	st := r.State()
	if s.app.json() {
		if err := s.app.printJSON(summary(st, out)); err != nil {
			return err
		}
	} else if len(st.Nodes) > 0 {
		s.app.printTable(st)
	}
	s.log.Info("run ended", "run", r.ID, "exit", out.Exit, "err", fmt.Sprint(out.Err))
	err := out.Err
	if fe := (core.FieldErrors)(nil); !errors.As(err, &fe) || fe[0].Field != st.Begun.Intent.Name { // else it is of the command line
		err = s.place(c.Name, err)
	}
	if reason, skip := core.IsSkip(err); skip {
		if !s.app.json() {
			s.app.printf("not now: %s\n", reason)
		}
		return nil
	}
	if out.Exit == engine.ExitDone {
		return nil
	}
	if len(st.Nodes) > 0 && !s.app.json() {
		err = fmt.Errorf("%w\n(run %s; `snapfw show %s` tells the rest)", err, r.ID, r.ID)
	}
	return &exitError{out.Exit, err}
}

func (a *app) resumeCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "resume [RUN]", Short: "carry on a run that is not over", Args: cobra.MaximumNArgs(1),
		Long: `Carry on a run that is not over: what it owes is paid, and what it captured is uploaded and
published. A node that was not captured is closed as failed: nobody's node is stopped
by a run that came back. Without RUN: the oldest one that is not over and waits for nobody, else the oldest that waits;
where every run is over there is nothing to do, and the exit code is 0.`,
	}
	a.chainFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		err := a.withOpenRun(cmd, args, func(ctx context.Context, s *session, c config.Chain, r *engine.Run) error {
			return s.finish(c, r, r.Go(ctx))
		})
		if !errors.Is(err, errNothingOpen) {
			return err
		}
		if a.json() { // a schedule that finds nothing to do did not fail
			return a.printJSON(map[string]any{"run": nil})
		}
		a.printf("%v\n", err)
		return nil
	}
	return cmd
}

func (a *app) cancelCmd() *cobra.Command {
	var reason string
	var force bool
	cmd := &cobra.Command{
		Use: "cancel RUN", Short: "close a run for good: nodes are let go, copies dropped, nothing published", Args: cobra.ExactArgs(1),
		Long: `Close a run for good: nodes are let go, copies are dropped, a proposal is withdrawn, nothing is published. A release
that has begun to replace published files is refused: until it is through, the published list does not fit
them, and resume carries on. --force gives up one that can't get through; release again at once then.`,
	}
	cmd.Flags().BoolVar(&force, "force", false, "also a release that has begun to replace published files; needs --reason")
	cmd.Flags().StringVar(&reason, "reason", "cancelled by hand", "why; it is recorded")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if force && !cmd.Flags().Changed("reason") {
			return usage("--force needs --reason \"why\": it is recorded in the run")
		}
		return a.withOpenRun(cmd, args, func(ctx context.Context, s *session, c config.Chain, r *engine.Run) error {
			out := r.Cancel(ctx, reason, force)
			if out.Exit != engine.ExitDone {
				return &exitError{out.Exit, out.Err}
			}
			if a.json() {
				return a.printJSON(summary(r.State(), out))
			}
			a.printf("run %s is cancelled\n", r.ID)
			return nil
		})
	}
	return cmd
}

var errNothingOpen = errors.New("every run is over; see `snapfw runs`")

func parked(st *engine.State) bool { return stateOf(st) == "parked" }

// withOpenRun opens a run that is not over: the named one, else the oldest, and one that is parked after all others.
func (a *app) withOpenRun(cmd *cobra.Command, args []string, do func(context.Context, *session, config.Chain, *engine.Run) error) error {
	return a.checkOpenRun(cmd, args, nil, do)
}

// checkOpenRun is withOpenRun; what check refuses is left as it is.
func (a *app) checkOpenRun(cmd *cobra.Command, args []string, check func(*engine.State, engine.Deps) error,
	do func(context.Context, *session, config.Chain, *engine.Run) error) error {
	ctx := cmd.Context()
	s, err := a.open(ctx, cmd)
	if err != nil {
		return err
	}
	open, err := engine.Open(s.journals(), a.chain)
	if err != nil {
		return err
	}
	var st *engine.State
	for _, o := range open {
		switch {
		case len(args) > 0 && o.Run != args[0]:
		case st == nil, parked(st) && !parked(o): // a release that died beside one that waits may owe a node
			st = o
		}
	}
	if st == nil {
		if len(args) > 0 {
			return usage("no run %s that is not over; see `snapfw runs`", args[0])
		}
		return errNothingOpen
	}
	d, c, err := s.deps(ctx, st.Begun.Chain)
	if err == nil && check != nil {
		err = check(st, d)
	}
	if err != nil {
		return err
	}
	r, err := engine.Resume(d, st.Run)
	if err != nil {
		return err
	}
	return do(ctx, s, c, r)
}

func (a *app) upCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "up [NODE|RUN]", Short: "start what a run stopped, nothing else", Args: cobra.MaximumNArgs(1),
		Long: `Pay every undo that is owed, on one node, of one run, or everywhere, and see the nodes come
back: for three in the morning. Nothing is stopped, uploaded or deleted.`,
		Example: "  snapfw up\n  snapfw up shard1",
	}
	a.chainFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		what := ""
		if len(args) > 0 {
			what = args[0]
		}
		return a.payOwed(cmd, what)
	}
	return cmd
}

func (a *app) payOwed(cmd *cobra.Command, what string) error {
	ctx := cmd.Context()
	s, err := a.open(ctx, cmd)
	if err != nil {
		return err
	}
	open, err := engine.Open(s.journals(), a.chain)
	if err != nil {
		return err
	}
	paid, known := []string{}, what == ""
	var worst error
	for _, st := range open {
		node := ""
		if st.Run != what && what != "" {
			if st.Node(what) == nil {
				continue
			}
			node = what
		}
		known = true
		if !owes(st, node) {
			continue
		}
		d, _, err := s.nodeDeps(ctx, st.Begun.Chain)
		if err != nil {
			return err
		}
		r, err := engine.Resume(d, st.Run)
		if err != nil {
			return err
		}
		if out := r.Up(ctx, node); out.Exit == engine.ExitDown || out.Exit == engine.ExitLocked {
			worst = errors.Join(worst, &exitError{out.Exit, out.Err})
			continue
		}
		paid = append(paid, st.Run)
	}
	if worst != nil {
		return worst
	}
	if a.json() {
		return a.printJSON(map[string]any{"paid": paid})
	}
	switch {
	case len(paid) > 0:
		a.printf("paid what was owed by %s; every node of it answers\n", strings.Join(paid, ", "))
	case known || a.knowsRun(s, what):
		a.printf("nothing is owed\n")
	default:
		return usage("no node or run %q that is not over; see `snapfw runs`", what)
	}
	return nil
}

func (a *app) knowsRun(s *session, what string) bool {
	runs, err := engine.All(s.journals())
	if err != nil {
		return false
	}
	for _, st := range runs {
		if st.Run == what || st.Node(what) != nil {
			return true
		}
	}
	return false
}

// owes tells whether a node of a run, or any, may be down because of it.
func owes(st *engine.State, node string) bool {
	for _, n := range st.Nodes {
		if (node == "" || n.Name == node) && (n.Down() || n.Armed) {
			return true
		}
	}
	return false
}
