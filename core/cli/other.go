package cli

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/internal/config"
	"github.com/snapfw/snapfw/core/internal/engine"
	"github.com/snapfw/snapfw/core/internal/plugins"
)

func (a *app) configCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "check, describe or convert the configuration"}
	check := &cobra.Command{
		Use: "check [--chain NAME]", Short: "read the configuration as a run would, and touch nothing", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.checkConfig(cmd) },
	}
	a.chainFlag(check)
	schema := &cobra.Command{
		Use: "schema", Short: "print the JSON Schema of the configuration, with the parts of every plugin", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.printSchema(cmd.Context()) },
	}
	convert := &cobra.Command{
		Use: "convert --chain NAME", Short: "print a file of the tool that a driver replaces in today's form", Args: cobra.NoArgs,
		Example: "  snapfw config convert --chain mychain --config testnet.json > snapfw.yaml",
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.convertConfig(cmd) },
	}
	a.chainFlag(convert)
	cmd.AddCommand(check, schema, convert)
	return cmd
}

func (a *app) checkConfig(cmd *cobra.Command) error {
	ctx := cmd.Context()
	s, err := a.open(ctx, cmd)
	if err != nil {
		return err
	}
	names := s.file.ChainNames()
	if a.chain != "" {
		names = []string{a.chain}
	}
	if len(names) == 0 {
		return usage("%s names no chain", s.file.Path)
	}
	nodes := map[string]int{}
	for _, name := range names {
		c, driver, err := s.chain(ctx, name)
		if err != nil {
			return err
		}
		list, err := driver.Nodes(ctx, c.Own)
		if err != nil {
			return &exitError{engine.ExitUsage, s.place(name, err)}
		}
		nodes[name] = len(list)
	}
	if a.json() {
		return a.printJSON(map[string]any{"file": s.file.Path, "nodes": nodes, "warnings": append(config.Problems{}, s.file.Warnings...)})
	}
	for _, w := range s.file.Warnings {
		a.printf("warning: %s\n", w.Error())
	}
	for _, name := range names {
		a.printf("%s: chain %s is good, %s\n", s.file.Path, name, count(nodes[name], "node"))
	}
	return nil
}

func (a *app) printSchema(ctx context.Context) error {
	dir, err := plugins.Find(a.pluginsDir)
	if err != nil {
		return usage("%w", err)
	}
	manifests, err := plugins.Read(dir)
	if err != nil {
		return usage("%w", err)
	}
	var descs []core.Description
	for _, m := range manifests {
		c, _, err := dir.Load(ctx, m.Name, m.Kind, nil)
		if err != nil {
			return err
		}
		descs = append(descs, c.Description())
		c.Close()
	}
	body, err := config.Schema(descs)
	if err != nil {
		return err
	}
	_, err = a.out.Write(append(body, '\n'))
	return err
}

func (a *app) convertConfig(cmd *cobra.Command) error {
	s := a.bare()
	var err error
	if s.dir, err = plugins.Find(a.pluginsDir); err != nil {
		return usage("%w", err)
	}
	if a.chain == "" {
		return usage("--chain says whose driver knows the file: the name of a chain plugin (`snapfw plugin list`)")
	}
	if _, err := s.client(cmd.Context(), core.KindChain, a.chain); err != nil {
		return usage("%w", err)
	}
	path, err := config.Find(a.configPath)
	if err != nil {
		return err
	}
	data, err := config.Read(path)
	if err != nil {
		return usage("%w", err)
	}
	imported, err := s.imported(cmd.Context(), path, data)
	if err != nil {
		return err
	}
	if imported == nil {
		return usage("%s: the driver of %s does not know this as a file of the tool that it replaces", path, a.chain)
	}
	body, err := config.Convert(imported)
	if err != nil {
		return err
	}
	_, err = a.out.Write(body)
	return err
}

func (a *app) pluginCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "plugin", Short: "add, list and verify plugins"}
	add := &cobra.Command{
		Use: "add PATH", Short: "start a plugin once and write its manifest into plugins.d", Args: cobra.ExactArgs(1),
		Long: `Start an executable once as a plugin, ask what it is, and write its manifest with its sha256 into
plugins.d. The executable has to lie there: copy it first.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := plugins.Find(a.pluginsDir)
			if err != nil {
				return usage("%w", err)
			}
			m, err := plugins.Add(cmd.Context(), dir, args[0], nil)
			if err != nil {
				return usage("%w", err)
			}
			if a.json() {
				return a.printJSON(m)
			}
			a.printf("%s: %s %s is added (sha256 %s)\n", dir, m.Kind, m.Name, m.SHA256)
			return nil
		},
	}
	list := &cobra.Command{
		Use: "list", Short: "list the plugins in plugins.d; none is started", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			dir, err := plugins.Find(a.pluginsDir)
			if err != nil {
				return usage("%w", err)
			}
			manifests, err := plugins.Read(dir)
			if a.json() {
				if jerr := a.printJSON(append([]plugins.Manifest{}, manifests...)); jerr != nil {
					return jerr
				}
				if err != nil {
					return usage("%w", err)
				}
				return nil
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tKIND\tEXEC\tPROTOCOL")
			for _, m := range manifests {
				fmt.Fprintf(w, "%s\t%s\t%s\t%d\n", m.Name, m.Kind, m.Exec, m.Protocol)
			}
			if err := errors.Join(w.Flush(), err); err != nil {
				return usage("%w", err)
			}
			return nil
		},
	}
	verify := &cobra.Command{
		Use: "verify", Short: "check owners, permissions and sums of every plugin; none is started", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return a.verifyPlugins() },
	}
	cmd.AddCommand(add, list, verify)
	return cmd
}

func (a *app) verifyPlugins() error {
	dir, err := plugins.Find(a.pluginsDir)
	if err != nil {
		return usage("%w", err)
	}
	findings := plugins.Verify(dir)
	bad := 0
	for _, f := range findings {
		if !f.OK {
			bad++
		}
		if !a.json() {
			a.printf("%s\n", findingLine(f))
		}
	}
	if a.json() {
		if err := a.printJSON(findings); err != nil {
			return err
		}
	}
	if bad > 0 {
		return &exitError{engine.ExitUsage, fmt.Errorf("%d of %d are not as they should be", bad, len(findings))}
	}
	return nil
}

func findingLine(f plugins.Finding) string {
	what := f.Plugin
	if what == "" {
		what = f.File
	}
	switch {
	case !f.OK:
		return what + ": " + f.Problem
	case f.Note != "":
		return what + ": good; " + f.Note
	}
	return what + ": good"
}

func (a *app) notifyCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "notify", Short: "who is told what"}
	cmd.AddCommand(&cobra.Command{
		Use: "test", Short: "send one message to everybody who is configured", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.open(cmd.Context(), cmd)
			if err != nil {
				return err
			}
			results := s.notify.Test(cmd.Context())
			if len(results) == 0 {
				return usage("%s configures nobody under notify:", s.file.Path)
			}
			var errs []error
			list := []map[string]string{}
			for _, r := range results {
				said := "sent"
				if r.Err != nil {
					said = r.Err.Error()
					errs = append(errs, fmt.Errorf("%s: %w", r.Target, r.Err))
				}
				list = append(list, map[string]string{"target": r.Target, "result": said})
				if !a.json() {
					a.printf("%s: %s\n", r.Target, said)
				}
			}
			if a.json() {
				if err := a.printJSON(list); err != nil {
					return err
				}
			}
			if len(errs) > 0 {
				return &exitError{engine.ExitFailed, fmt.Errorf("%d of %d could not be told", len(errs), len(results))}
			}
			return nil
		},
	})
	return cmd
}

// finding is a line of doctor.
type finding struct {
	Part string `json:"part"`
	OK   bool   `json:"ok"`
	Text string `json:"text"`
}

func (a *app) doctorCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "doctor", Short: "look at what snapfw stands on: files, plugins, programs, machines", Args: cobra.NoArgs,
		Long: `Look at what snapfw stands on: where the configuration and the plugins were found, whether their
owners and sums are right, which programs the sinks need, and whether every machine can be
reached. On machines it places its own program, as every command does; nothing else is changed.`,
	}
	a.chainFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var found []finding
		add := func(part string, err error, text string) {
			f := finding{part, err == nil, text}
			if err != nil {
				f.Text = err.Error()
			}
			found = append(found, f)
		}
		add("version", nil, version())
		a.diagnose(cmd, add)
		bad := false
		for _, f := range found {
			bad = bad || !f.OK
			if !a.json() {
				mark := "good"
				if !f.OK {
					mark = "BAD "
				}
				a.printf("%s  %-22s %s\n", mark, f.Part, f.Text)
			}
		}
		if a.json() {
			if err := a.printJSON(found); err != nil {
				return err
			}
		}
		if bad {
			return &exitError{engine.ExitFailed, nil}
		}
		return nil
	}
	return cmd
}

func (a *app) diagnose(cmd *cobra.Command, add func(part string, err error, text string)) {
	ctx := cmd.Context()
	dir, err := plugins.Find(a.pluginsDir)
	add("plugins", err, string(dir))
	if err == nil {
		for _, f := range plugins.Verify(dir) {
			var problem error
			if !f.OK {
				problem = errors.New(f.Problem)
			}
			add("plugin "+f.Plugin, problem, findingLine(f))
		}
	}
	s, err := a.open(ctx, cmd)
	if err != nil {
		add("configuration", err, "")
		return
	}
	defer s.view.Close()
	add("configuration", nil, s.file.Path)
	add("state", nil, s.file.StateDir)
	if s.notify.Empty() {
		add("notify", nil, "nobody is told anything; see notify: in docs/configuration.md")
	}
	for _, name := range s.file.ChainNames() {
		if a.chain == "" || a.chain == name {
			s.diagnoseChain(ctx, name, add)
		}
	}
}

func (s *session) diagnoseChain(ctx context.Context, name string, add func(part string, err error, text string)) {
	c, driver, err := s.chain(ctx, name)
	if err != nil {
		add("chain "+name, err, "")
		return
	}
	nodes, err := driver.Nodes(ctx, c.Own)
	if err != nil {
		add("chain "+name, s.place(name, err), "")
		return
	}
	add("chain "+name, nil, count(len(nodes), "node"))
	if c.Sink != "" {
		_, err := s.storage(ctx, c.Sink)
		add("sink "+c.Sink, err, "configured")
		if cfg, err := s.file.Sink(c.Sink); err == nil {
			if client, err := s.client(ctx, core.KindSink, cfg.Plugin); err == nil {
				for _, p := range client.Description().Programs {
					path, err := exec.LookPath(p)
					if err != nil {
						err = errors.New("not in PATH here; install it, or on every host")
					}
					add("program "+p, err, path)
				}
			}
		}
	}
	for _, n := range nodes {
		m, err := s.pool.Machine(ctx, n.Addr)
		if err != nil {
			add("machine of "+n.Name, err, "")
			continue
		}
		f, err := m.Facts(ctx)
		text := fmt.Sprintf("%s: %s/%s, user %s, snapfw lies in %s", m, f.OS, f.Arch, f.User, f.Root)
		if skew := time.Since(f.Now).Abs(); err == nil && skew > 30*time.Second {
			err = fmt.Errorf("%s: its clock is off by %s; ages of blocks would be wrong", m, skew.Round(time.Second))
		}
		add("machine of "+n.Name, err, strings.TrimSpace(text))
	}
}
