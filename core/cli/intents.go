package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/internal/config"
	"github.com/snapfw/snapfw/core/internal/engine"
)

// Intents with a command of their own; every other one of a driver is a repair: `snapfw fix`.
const (
	intentSnapshot = "snapshot"
	intentRelease  = "release"
)

// intentCommand is a command whose flags are partly the driver's: which they are is known once the
// configuration and the driver were read, so the command line is parsed twice.
type intentCommand struct {
	app   *app
	asked asked
	wait  string
	name  string // of the intent; "" is the first word
	run   func(ctx context.Context, s *session, d engine.Deps, c config.Chain, in core.Intent) error
}

// command fills in what parses twice. The first time unknown flags are let through.
func (i *intentCommand) command(cmd *cobra.Command) *cobra.Command {
	i.app.runFlags(cmd, &i.asked)
	if i.name != intentSnapshot {
		cmd.Flags().MarkHidden("publish")
	}
	if i.name == intentRelease {
		cmd.Flags().StringVar(&i.wait, "wait", "", "wait for the review instead of parking: --wait=2h for a time, --wait alone for as long as it takes")
		cmd.Flags().Lookup("wait").NoOptDefVal = waitForever
	}
	cmd.DisableFlagParsing, cmd.ValidArgsFunction = true, i.complete
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return i.parseAndRun(cmd, args)
	}
	return cmd
}

func (i *intentCommand) parseAndRun(cmd *cobra.Command, args []string) error {
	flags := cmd.Flags()
	flags.AddFlagSet(cmd.InheritedFlags())
	help := flags.Lookup("help")
	if help == nil {
		flags.BoolP("help", "h", false, "help for "+cmd.Name())
	}
	flags.ParseErrorsAllowlist.UnknownFlags = true
	if err := flags.Parse(args); err != nil {
		return usage("%w; see `%s --help`", err, cmd.CommandPath())
	}
	wantsHelp, _ := flags.GetBool("help")
	if wantsHelp && i.app.chain == "" && i.app.configPath == "" {
		return cmd.Help()
	}
	ctx := cmd.Context()
	s, err := i.app.open(ctx, cmd)
	if err != nil {
		return err
	}
	d, c, err := s.deps(ctx, i.app.chain)
	if err != nil {
		return err
	}
	about, err := d.Chain.Describe(ctx)
	if err != nil {
		return err
	}
	info, err := i.intent(about, c, flags.Args())
	if err != nil {
		return err
	}
	in, err := i.parseAgain(cmd, args, info)
	if err != nil {
		return err
	}
	if wantsHelp {
		if i.name == "" {
			cmd.Use = fmt.Sprintf("fix --chain %s %s", c.Name, info.Name)
			if at := wordsOf(info); at >= 0 {
				cmd.Use += fmt.Sprintf(" [%s…]", strings.ToUpper(info.Args[at].Name))
			}
			cmd.Long = info.Name + ": " + info.Summary + ".\n\n" + cmd.Long
		}
		return cmd.Help()
	}
	d.Down = info.Down
	return i.run(ctx, s, d, c, in)
}

// intent finds which one is meant.
func (i *intentCommand) intent(about core.Description, c config.Chain, words []string) (core.IntentInfo, error) {
	name := i.name
	if name == "" && len(words) > 0 {
		name = words[0]
	}
	var list []string
	for _, info := range about.Intents {
		repair := info.Name != intentSnapshot && info.Name != intentRelease
		if info.Name == name && (i.name != "" || repair) {
			return info, nil
		}
		if repair {
			list = append(list, fmt.Sprintf("  %-20s %s", info.Name, info.Summary))
		}
	}
	switch {
	case i.name != "":
		return core.IntentInfo{}, usage("driver %s of chain %s has no %s", c.Driver, c.Name, i.name)
	case len(list) == 0:
		return core.IntentInfo{}, usage("driver %s of chain %s has no repairs", c.Driver, c.Name)
	case name == "":
		return core.IntentInfo{}, usage("say which repair; driver %s has\n%s", c.Driver, strings.Join(list, "\n"))
	}
	return core.IntentInfo{}, usage("driver %s has no repair %q; it has\n%s", c.Driver, name, strings.Join(list, "\n"))
}

// parseAgain parses the whole command line, the intent's own flags too.
func (i *intentCommand) parseAgain(cmd *cobra.Command, args []string, info core.IntentInfo) (core.Intent, error) {
	flags := cmd.Flags()
	flags.ParseErrorsAllowlist.UnknownFlags = false
	for _, arg := range info.Args {
		if flags.Lookup(arg.Name) != nil {
			return core.Intent{}, fmt.Errorf("driver: intent %s has an argument --%s, which is one of snapfw's own", info.Name, arg.Name)
		}
		switch arg.Type {
		case "bool":
			flags.Bool(arg.Name, arg.Default == "true", arg.Usage)
		case "list":
			flags.StringSlice(arg.Name, nil, arg.Usage)
		default:
			flags.String(arg.Name, arg.Default, arg.Usage)
		}
	}
	// Lists of snapfw's own would be appended to a second time.
	i.asked.nodes = nil
	if f := flags.Lookup("node"); f != nil {
		f.Changed = false
	}
	if err := flags.Parse(args); err != nil {
		return core.Intent{}, usage("%w; see `%s --help`", err, cmd.CommandPath())
	}
	if err := i.asked.check(); err != nil {
		return core.Intent{}, err
	}
	in := i.asked.intent(info.Name)
	words := flags.Args()
	if i.name == "" && len(words) > 0 {
		words = words[1:]
	}
	for _, arg := range info.Args {
		in.Args[arg.Name] = argValue(flags, arg)
	}
	return in, i.words(in, info, words)
}

func argValue(flags *pflag.FlagSet, arg core.ArgInfo) string {
	if arg.Type == "list" {
		list, _ := flags.GetStringSlice(arg.Name)
		return strings.Join(list, "\n")
	}
	return flags.Lookup(arg.Name).Value.String()
}

// wordsOf is which of its arguments the words after a repair's name are; -1 where it takes none.
func wordsOf(info core.IntentInfo) int {
	return slices.IndexFunc(info.Args, func(a core.ArgInfo) bool { return a.Type == "list" })
}

// words are the values of the intent's first list.
func (i *intentCommand) words(in core.Intent, info core.IntentInfo, words []string) error {
	if len(words) == 0 {
		return nil
	}
	at := wordsOf(info)
	if _, err := time.ParseDuration(words[0]); at < 0 && err == nil && i.wait == waitForever {
		return usage("%s takes no %q: write --wait=%s, with no space in between", info.Name, words[0], words[0])
	}
	if at < 0 {
		return usage("%s takes no %q", info.Name, words[0])
	}
	name := info.Args[at].Name
	if in.Args[name] != "" {
		words = append([]string{in.Args[name]}, words...)
	}
	in.Args[name] = strings.Join(words, "\n")
	return nil
}
