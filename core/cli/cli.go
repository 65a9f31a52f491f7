// Package cli is snapfw's command line.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/snapfw/snapfw/core/internal/config"
	"github.com/snapfw/snapfw/core/internal/engine"
)

// Version is set by the linker: -X github.com/snapfw/snapfw/core/cli.Version=v1.2.3.
var Version = "dev"

// Main runs one command line and returns its exit code (package engine names them).
func Main(args []string) int {
	ctx, stop := interruptible()
	defer stop()
	app := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr}
	root := app.root()
	root.SetArgs(args)
	root.SetIn(app.in)
	root.SetOut(app.out)
	root.SetErr(app.err)
	return app.finish(root.ExecuteContext(ctx))
}

// interruptible is a context that the first Ctrl-C (or SIGTERM) ends: nodes are let go and the run is closed. The
// second one ends the process; then the guards on the hosts do it.
func interruptible() (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		fmt.Fprintln(os.Stderr, "snapfw: giving up: nodes are let go first; once more ends at once and leaves that to the guards on the hosts")
		cancel()
		<-signals
		os.Exit(engine.ExitInterrupted)
	}()
	return ctx, cancel
}

// app is one command line's flags and streams.
type app struct {
	in       io.Reader
	out, err io.Writer

	configPath string
	pluginsDir string
	chain      string
	output     string
	quiet      bool
	verbose    bool

	session *session // opened by the commands that need one
}

// exitError ends the program with a code; its error, if any, was not printed yet.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func usage(format string, args ...any) error {
	return &exitError{engine.ExitUsage, fmt.Errorf(format, args...)}
}

// finish prints an error once and finds the exit code.
func (a *app) finish(err error) int {
	if a.session != nil {
		a.session.close()
	}
	if err == nil {
		return engine.ExitDone
	}
	code := engine.ExitFailed
	var exit *exitError
	var locked *engine.LockedError
	if errors.As(err, &exit) {
		code, err = exit.code, exit.err
	} else if errors.As(err, &locked) {
		code = engine.ExitLocked
	} else if _, wrong := config.AsProblems(err); wrong || errors.Is(err, config.ErrNoFile) {
		code = engine.ExitUsage
	}
	if err != nil {
		fmt.Fprintf(a.err, "snapfw: %v\n", err)
	}
	return code
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "snapfw",
		Short: "take, check, publish and restore snapshots of blockchain nodes",
		Long: `snapfw takes, checks, publishes and restores snapshots of blockchain nodes, for any
chain. It stops a node for the moment that a copy takes, starts it again whatever
dies meanwhile, and lets consumers see whole snapshots only.`,
		SilenceUsage: true, SilenceErrors: true, Version: version(),
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if a.output != "text" && a.output != "json" {
				return usage("--output is text or json, not %q", a.output)
			}
			return nil
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage("%w; see `%s --help`", err, cmd.CommandPath())
	})
	f := root.PersistentFlags()
	f.StringVar(&a.configPath, "config", "", "configuration file (default: ./snapfw.yaml, $XDG_CONFIG_HOME/snapfw/, /etc/snapfw/)")
	f.StringVar(&a.pluginsDir, "plugins", "", "folder of plugins (default: the first of several; doctor says which)")
	f.StringVar(&a.output, "output", "text", "text or json")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "no progress")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "also what plugins and machines say")
	for _, s := range config.Settings {
		f.String(s.Flag, "", "the configuration's "+s.Key)
		f.Lookup(s.Flag).Hidden = s.Key != "state_dir"
	}
	root.AddCommand(a.snapshotCmd(), a.releaseCmd(), a.fixCmd(), a.approveCmd(), a.planCmd(), a.diffCmd(), a.statusCmd(), a.upCmd(), a.holdCmd(),
		a.runsCmd(), a.showCmd(), a.logsCmd(), a.resumeCmd(), a.cancelCmd(),
		a.configCmd(), a.pluginCmd(), a.notifyCmd(), a.doctorCmd(), a.versionCmd())
	wrapArgs(root)
	return root
}

// wrapArgs makes a wrong number of words a usage error, and an unknown word after a command that only holds others.
func wrapArgs(cmd *cobra.Command) {
	if cmd.Run == nil && cmd.RunE == nil {
		cmd.Args = known
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usage("%w; see `%s --help`", err, cmd.CommandPath())
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		wrapArgs(sub)
	}
}

// known refuses a word that is no command, and names the ones that are close to it.
func known(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.SuggestionsMinimumDistance <= 0 {
		cmd.SuggestionsMinimumDistance = 2
	}
	close := ""
	if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
		close = fmt.Sprintf(" (did you mean %q?)", strings.Join(s, `", "`))
	}
	return fmt.Errorf("unknown command %q%s", args[0], close)
}

// chainFlag adds --chain, completed from the configuration.
func (a *app) chainFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&a.chain, "chain", "", "a name under chains: in the configuration (default: the only one)")
	cmd.RegisterFlagCompletionFunc("chain", func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return a.chainNames(cmd), cobra.ShellCompDirectiveNoFileComp
	})
}

func (a *app) json() bool { return a.output == "json" }

func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func (a *app) printf(format string, args ...any) { fmt.Fprintf(a.out, format, args...) }

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if a.json() {
				return a.printJSON(map[string]string{"version": version()})
			}
			a.printf("snapfw %s\n", version())
			return nil
		},
	}
}

func version() string {
	if Version != "dev" {
		return Version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return Version
}
