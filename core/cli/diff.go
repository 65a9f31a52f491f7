package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/internal/config"
	"github.com/snapfw/snapfw/core/internal/engine"
	"github.com/snapfw/snapfw/core/internal/plugins"
)

const maxList = 64 << 20 // bytes of a published list

func (a *app) diffCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "diff --chain NAME OLD NEW", Short: "judge the change between two lists of what is published", Args: cobra.ExactArgs(2),
		Long: `Judge the change between two lists in the chain's own format. OLD and NEW are files, http(s) addresses, or
git:REPO:REV:PATH. No configuration is needed: without one --chain names the driver, and no
change is let through by policy. Exit code 0 when the change is safe, 3 when it is not.`,
		Example: "  snapfw diff --chain NAME published.toml proposed.toml\n  snapfw diff --chain NAME git:.:HEAD~1:mainnet.toml git:.:HEAD:mainnet.toml",
	}
	a.chainFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return a.diff(cmd, args[0], args[1]) }
	return cmd
}

func (a *app) diff(cmd *cobra.Command, older, newer string) error {
	ctx := cmd.Context()
	if a.chain == "" {
		return usage("--chain says whose lists these are: a chain of the configuration, or a driver (`snapfw plugin list`)")
	}
	chain, own, err := a.judgeOf(cmd)
	if err != nil {
		return err
	}
	names := [2]string{older, newer}
	var lists [2][]byte
	for i, name := range names {
		if lists[i], err = readList(ctx, name); err != nil {
			return usage("read %s: %w", name, err)
		}
	}
	v, err := chain.(core.Judge).Judge(ctx, core.Change{Config: own, Published: map[string][]byte{older: lists[0]}, Proposed: lists[1]})
	if errors.Is(err, core.ErrUnsupported) {
		return usage("the driver of %s judges no lists", a.chain)
	}
	if err != nil {
		for i, name := range names { // which of them, in the words of who reads it
			if _, wrong := chain.(core.Catalog).Parse(ctx, lists[i]); wrong != nil {
				return usage("read %s: %w", name, wrong)
			}
		}
		return err
	}
	if a.json() {
		err = a.printJSON(judged(v))
	} else {
		a.printf("%s\n", strings.TrimRight(v.Report, "\n"))
	}
	if err == nil && !v.Safe {
		err = &exitError{engine.ExitRefused, nil}
	}
	return err
}

// judgeOf returns the driver of the chain, and the chain's own part of the configuration where there is one.
func (a *app) judgeOf(cmd *cobra.Command) (core.Chain, []byte, error) {
	file, err := config.Load(config.Options{Path: a.configPath, Flags: cmd.Flags()})
	if err == nil {
		if _, err = file.Chain(a.chain); err == nil {
			s, err := a.open(cmd.Context(), cmd)
			if err != nil {
				return nil, nil, err
			}
			c, driver, err := s.chain(cmd.Context(), a.chain)
			return driver, c.Own, err
		}
	}
	if a.configPath != "" {
		return nil, nil, err
	}
	s := a.bare()
	if s.dir, err = plugins.Find(a.pluginsDir); err != nil {
		return nil, nil, usage("%w", err)
	}
	client, err := s.client(cmd.Context(), core.KindChain, a.chain)
	if err != nil {
		return nil, nil, usage("%w", err)
	}
	driver, err := client.Chain()
	return driver, []byte("{}"), err
}

// judged is a verdict as --output json shows it: a list for each class, and the verdict.
func judged(v core.Verdict) map[string]any {
	out := map[string]any{"verdict": "refuse"}
	if v.Safe {
		out["verdict"] = "safe"
	}
	for _, class := range v.Classes {
		out[class] = []map[string]any{}
	}
	for _, f := range v.Findings {
		list, _ := out[f.Class].([]map[string]any)
		out[f.Class] = append(list, map[string]any{"name": f.Name, "detail": f.Detail, "refuse": f.Refuse})
	}
	return out
}

// readList reads a file, an address or git:REPO:REV:PATH.
func readList(ctx context.Context, name string) ([]byte, error) {
	if rest, ok := strings.CutPrefix(name, "git:"); ok {
		parts := strings.SplitN(rest, ":", 3)
		if len(parts) != 3 || strings.HasPrefix(parts[1], "-") {
			return nil, fmt.Errorf("want git:REPO:REV:PATH")
		}
		out, err := exec.CommandContext(ctx, "git", "-C", parts[0], "show", parts[1]+":"+parts[2]).Output()
		var exited *exec.ExitError
		if errors.As(err, &exited) {
			return nil, fmt.Errorf("git: %s", strings.TrimSpace(string(exited.Stderr)))
		}
		return out, err
	}
	if strings.HasPrefix(name, "http://") || strings.HasPrefix(name, "https://") {
		return fetchList(ctx, name)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f)
}

func fetchList(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, errors.New(res.Status)
	}
	return readAll(res.Body)
}

func readAll(r io.Reader) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, maxList+1))
	if err == nil && len(body) > maxList {
		err = fmt.Errorf("more than %d bytes", maxList)
	}
	return body, err
}
