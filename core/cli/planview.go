package cli

import (
	"context"
	"fmt"
	"sort"
	"strings"

	"github.com/spf13/cobra"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/internal/config"
	"github.com/snapfw/snapfw/core/internal/engine"
	"github.com/snapfw/snapfw/core/internal/journal"
)

func (a *app) planCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "plan INTENT", Short: "print every command of a run; change nothing"}
	for _, name := range []string{intentSnapshot, intentRelease, "fix"} {
		sub := &cobra.Command{Use: name + " --chain NAME", Short: "print every command of a " + name + "; change nothing"}
		i := &intentCommand{app: a, name: name}
		if name == "fix" {
			i.name, sub.Use = "", "fix --chain NAME INTENT"
		}
		i.run = func(ctx context.Context, s *session, d engine.Deps, c config.Chain, in core.Intent) error {
			return a.printPlan(ctx, s, d, c, i.asked, in)
		}
		cmd.AddCommand(i.command(sub))
	}
	return cmd
}

func (a *app) printPlan(ctx context.Context, s *session, d engine.Deps, c config.Chain, q asked, in core.Intent) error {
	if err := s.canRun(ctx, c, d.Chain, q); err != nil {
		return err
	}
	publish := q.publish || in.Name == intentRelease
	d.Journals = journal.Memory{} // nothing of a plan is worth remembering
	r, err := engine.New(d, runID(c.Name), engine.Begun{Chain: c.Name, Driver: c.Driver, Intent: in, Publish: publish, Nodes: q.nodes})
	if err != nil {
		return err
	}
	out := r.Plan(ctx)
	s.view.Close()
	if out.Exit != engine.ExitDone || out.Err != nil {
		return s.finish(c, r, out)
	}
	if a.json() {
		plans := map[string]*core.Plan{}
		for _, n := range r.State().Nodes {
			plans[n.Name] = n.Plan
		}
		return a.printJSON(plans)
	}
	for _, n := range r.State().Nodes {
		a.printNodePlan(n, publish)
	}
	return nil
}

func (a *app) printNodePlan(n *engine.Node, publish bool) {
	where := n.Addr.Host
	if where == "" {
		where = "this machine"
	}
	a.printf("%s on %s, wave %d", n.Name, where, n.Wave)
	if n.Before != nil {
		a.printf(", height %d", n.Before.Height)
	}
	a.printf("\n")
	phases := []struct {
		name  string
		steps []core.Step
	}{
		{"make room", n.Plan.Prepare}, {"make the data stand still", n.Plan.Freeze}, {"take the copy", n.Plan.Capture},
		{"seal the copy", n.Plan.Seal}, {"prove it", n.Plan.Prove},
	}
	for _, ph := range phases {
		if len(ph.steps) == 0 {
			continue
		}
		a.printf("  %s\n", ph.name)
		for _, s := range ph.steps {
			a.printf("    %-36s %s\n", s.Name, commandLine(s.Do))
			if s.Undo != nil {
				a.printf("    %-36s %s\n", "  undone by", commandLine(*s.Undo))
			}
		}
	}
	if publish {
		prefix := n.Plan.Publish.Prefix
		if prefix == "" {
			prefix = "its files' own names"
		}
		a.printf("  publish %s\n    as %s, named by %s\n", n.Plan.Data, prefix, n.Plan.Publish.Pointer)
	} else if n.Plan.Data != "" {
		a.printf("  the copy stays in %s (no --publish)\n", n.Plan.Data)
	}
	a.printf("\n")
}

// commandLine is a command as somebody would type it, with what is set around it.
func commandLine(c core.Command) string {
	var words []string
	for _, w := range c.Argv {
		if w == "" || strings.ContainsAny(w, " \t\n'\"\\$`*?[]{}()<>|&;#~") {
			w = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		words = append(words, w)
	}
	var env []string
	for k := range c.Env {
		env = append(env, k)
	}
	sort.Strings(env)
	for i := len(env) - 1; i >= 0; i-- {
		words = append([]string{env[i] + "=" + c.Env[env[i]]}, words...)
	}
	s := strings.Join(words, " ")
	if c.User != "" {
		s = "(as " + c.User + ") " + s
	}
	if c.Timeout > 0 {
		s += fmt.Sprintf("  (within %s)", c.Timeout)
	}
	return s
}
