package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/snapfw/snapfw/core/internal/engine"
	"github.com/snapfw/snapfw/core/internal/journal"
)

func (a *app) runsCmd() *cobra.Command {
	var most int
	cmd := &cobra.Command{Use: "runs", Short: "list the runs, the newest first", Args: cobra.NoArgs}
	a.chainFlag(cmd)
	cmd.Flags().IntVarP(&most, "number", "n", 20, "how many at the most; 0 is all")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := a.open(cmd.Context(), cmd)
		if err != nil {
			return err
		}
		runs, err := engine.All(s.journals())
		if err != nil {
			return err
		}
		list := []RunSummary{}
		for i := len(runs) - 1; i >= 0; i-- {
			if (a.chain == "" || runs[i].Begun.Chain == a.chain) && (most == 0 || len(list) < most) {
				list = append(list, past(runs[i]))
			}
		}
		if a.json() {
			return a.printJSON(list)
		}
		w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "RUN\tSTATE\tEXIT\tTOOK\tNODES")
		for _, r := range list {
			took := "-"
			if !r.Ended.IsZero() {
				took = seconds(r.Ended.Sub(r.Started))
			}
			var nodes []string
			for _, n := range r.Nodes {
				nodes = append(nodes, n.Node+" "+n.State)
			}
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", r.Run, r.State, r.Exit, took, strings.Join(nodes, ", "))
		}
		return w.Flush()
	}
	return cmd
}

// past is the summary of a run as its journal tells it.
func past(st *engine.State) RunSummary {
	var out engine.Outcome
	if stateOf(st) == "parked" {
		out.Exit = engine.ExitParked
	}
	if st.Closed != nil {
		out.Exit = st.Closed.Exit
		if st.Closed.Err != "" {
			out.Err = fmt.Errorf("%s", st.Closed.Err)
		}
	}
	return summary(st, out)
}

func (a *app) showCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show RUN", Short: "show one run: its nodes, what is owed, what went wrong", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.open(cmd.Context(), cmd)
			if err != nil {
				return err
			}
			st, err := engine.Load(s.journals(), args[0])
			if err != nil {
				return noRun(args[0], err)
			}
			r := past(st)
			if a.json() {
				return a.printJSON(r)
			}
			a.printf("run      %s\nchain    %s (%s)\nstate    %s, exit code %d\nstarted  %s by %s\n",
				r.Run, r.Chain, r.Intent, r.State, r.Exit, r.Started.Format(time.RFC3339), st.Begun.User)
			if r.Forced != "" {
				a.printf("forced   %s\n", r.Forced)
			}
			a.printf("\n")
			a.printTable(st)
			for _, n := range r.Nodes {
				if n.Base != "" {
					a.printf("\nreviewed at %s, to be merged into %s\n", n.Review, n.Base)
				} else if n.Review != "" {
					a.printf("\nreviewed at %s\n", n.Review)
				}
				if n.Report != "" {
					a.printf("\n%s\n", strings.TrimSpace(n.Report))
				}
			}
			a.printTroubles(st, r)
			if parked(st) {
				a.printf("\n%s\n", st.WaitsFor())
			}
			return nil
		},
	}
}

// noRun is a usage error, whatever the reason why a journal can't be read.
func noRun(run string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return usage("there is no run %q; see `snapfw runs`", run)
	}
	return usage("%w; see `snapfw runs`", err)
}

func (a *app) printTroubles(st *engine.State, r RunSummary) {
	for _, n := range st.Nodes {
		for _, d := range n.Debts {
			a.printf("\n%s owes the undo of %q: %s\n", n.Name, d.Step, strings.Join(d.Undo.Argv, " "))
		}
	}
	for _, n := range r.Nodes {
		if n.Error != "" {
			a.printf("\n%s: %s\n", n.Node, strings.TrimPrefix(n.Error, n.Node+": "))
		}
	}
	if len(r.Notes) > 0 {
		a.printf("\nnotes:\n")
	}
	for _, n := range r.Notes {
		a.printf("  %s\n", n)
	}
	if r.Error != "" {
		a.printf("\nerror: %s\n", r.Error)
	}
}

func (a *app) logsCmd() *cobra.Command {
	return &cobra.Command{
		Use: "logs RUN", Short: "print a run's journal, a fact a line", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.open(cmd.Context(), cmd)
			if err != nil {
				return err
			}
			facts, err := journal.Read(s.journals(), args[0])
			if err != nil {
				return noRun(args[0], err)
			}
			lines := json.NewEncoder(a.out)
			for _, f := range facts {
				if a.json() {
					if err := lines.Encode(f); err != nil {
						return err
					}
					continue
				}
				a.printf("%s  %-9s %-10s %s %s\n", f.Time.Format("15:04:05.000"), f.Kind, dash(f.Node), f.Step, f.Data)
			}
			return nil
		},
	}
}
