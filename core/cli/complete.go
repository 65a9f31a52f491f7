package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/internal/config"
)

// complete is what comes next on a command line of which a part is the driver's. Cobra itself knows the flags that
// are snapfw's own; their values, the repairs and the driver's flags are found here. Nothing is changed by it,
// no machine is touched, and what goes wrong means that there is nothing to offer.
func (i *intentCommand) complete(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	const none = cobra.ShellCompDirectiveNoFileComp
	value, joined := strings.CutPrefix(typed, "--chain=")
	named := len(args) > 0 && args[len(args)-1] == "--chain"
	if named {
		args = args[:len(args)-1]
	}
	flags := cmd.Flags()
	flags.AddFlagSet(cmd.InheritedFlags())
	flags.ParseErrorsAllowlist.UnknownFlags = true
	if err := flags.Parse(args); err != nil {
		return nil, cobra.ShellCompDirectiveDefault // the value of a flag, as a file's name
	}
	switch {
	case joined:
		var names []string
		for _, name := range i.app.chainNames(cmd) {
			names = append(names, "--chain="+name)
		}
		return begins(names, "--chain="+value), none
	case named:
		return begins(i.app.chainNames(cmd), typed), none
	}
	about, err := i.app.about(cmd.Context(), cmd)
	if err != nil {
		return nil, none
	}
	name := i.name
	if words := flags.Args(); name == "" && len(words) > 0 {
		name = words[0]
	}
	var offers []string
	for _, info := range about.Intents {
		if name == "" && !strings.HasPrefix(typed, "-") && info.Name != intentSnapshot && info.Name != intentRelease {
			offers = append(offers, info.Name+"\t"+info.Summary)
		}
		for _, arg := range info.Args {
			if info.Name == name && strings.HasPrefix(typed, "-") {
				offers = append(offers, "--"+arg.Name+"\t"+arg.Usage)
			}
		}
	}
	return begins(offers, typed), none
}

func begins(offers []string, typed string) (some []string) {
	for _, o := range offers {
		if strings.HasPrefix(o, typed) {
			some = append(some, o)
		}
	}
	return some
}

// chainNames are those of the configuration.
func (a *app) chainNames(cmd *cobra.Command) []string {
	file, err := config.Load(config.Options{Path: a.configPath, Flags: cmd.Flags()})
	if err != nil {
		return nil
	}
	return file.ChainNames()
}

// about asks the driver of --chain, or of the only one, what it can do.
func (a *app) about(ctx context.Context, cmd *cobra.Command) (core.Description, error) {
	if ctx == nil {
		ctx = context.Background()
	}
	s, err := a.open(ctx, cmd)
	if err != nil {
		return core.Description{}, err
	}
	c, err := s.file.Chain(a.chain)
	if err != nil {
		return core.Description{}, err
	}
	return s.describe(ctx)(core.KindChain, c.Driver)
}
