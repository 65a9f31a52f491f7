package host

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
)

// ground is what is known of a machine while a connection to it holds.
type ground struct {
	system, arch string // "linux", "amd64"
	user         string
	uid          int
	home         string
	root         string // where bin/, jobs/, guard/ and lock/ lie
	core         string // the placed snapfw-host
}

func (g *ground) platform() string { return g.system + "/" + g.arch }

// candidate is a folder that may become the root, as it was found.
type candidate struct {
	path  string
	state rootState
	why   string // for rootUnfit
}

type rootState int

const (
	rootUnfit rootState = iota // somebody else's, or others can write it
	rootNew                    // not there yet, or there without anything of ours
	rootUsed                   // holds jobs or guards of another version
	rootReady                  // this version's snapfw-host is there and runs
)

// probed is what a first look at a machine finds.
type probed struct {
	ground
	roots []candidate // in the order of preference
}

// systemRoot is where every user can get at what is placed.
const systemRoot = "/var/lib/snapfw"

// rootNames are the folders that are tried for a user; a configured one is the only one.
func rootNames(configured, home, tmp string, uid int) []string {
	if configured != "" {
		return []string{configured}
	}
	names := []string{systemRoot}
	if strings.HasPrefix(home, "/") {
		names = append(names, path.Join(home, ".local/lib/snapfw"))
	}
	if !strings.HasPrefix(tmp, "/") {
		tmp = "/tmp"
	}
	return append(names, path.Join(tmp, fmt.Sprintf("snapfw-%d", uid)))
}

// settle finds the root and sees snapfw-host run from it, placing it where it is missing. A
// root that is in use stays the root, whatever became possible since: guards lie there.
func settle(ctx context.Context, at carrier, hostDir string, cores map[string]program) (*ground, error) {
	p, err := at.probe(ctx, hostDir, cores)
	if err != nil {
		return nil, err
	}
	core, ok := cores[p.platform()]
	if !ok {
		return nil, noCore(at.String(), p.platform(), cores)
	}
	var tried []string
	for state := rootReady; state >= rootNew; state-- {
		for _, c := range p.roots {
			if c.state != state {
				continue
			}
			g := p.ground
			g.root = c.path
			g.core = path.Join(c.path, "bin", core.placedName())
			if state == rootReady {
				return &g, nil
			}
			err := tryRoot(ctx, at, g, core)
			if err == nil {
				return &g, nil
			}
			if passing(err) || ctx.Err() != nil {
				return nil, err
			}
			tried = append(tried, c.path+": "+err.Error())
		}
	}
	for _, c := range p.roots {
		if c.state == rootUnfit {
			tried = append(tried, c.path+": "+c.why)
		}
	}
	return nil, &Error{Kind: ErrNoExec, Machine: at.String(), Msg: fmt.Sprintf(
		"there is no folder from which snapfw-host can run (%s): make one that belongs to %s and is not mounted noexec, and set host_dir to it",
		strings.Join(tried, "; "), p.user)}
}

// tryRoot places snapfw-host and runs it.
func tryRoot(ctx context.Context, at carrier, g ground, core program) error {
	if err := at.makeRoot(ctx, g.root); err != nil {
		return err
	}
	if err := at.put(ctx, core, g.core); err != nil {
		return err
	}
	var out capped
	exit, err := at.exec(ctx, command{argv: []string{g.core, "-root", g.root, "facts"}, stdout: &capped{}, stderr: &out})
	switch {
	case err != nil:
		return err
	case exit == 126:
		return errors.New("programs don't run from there (is it mounted noexec?)")
	case exit != 0:
		return fmt.Errorf("snapfw-host exits %d: %s", exit, lastLine(out.bytes()))
	}
	return nil
}

func noCore(machine, platform string, cores map[string]program) error {
	msg := fmt.Sprintf("it is %s, and this snapfw holds no snapfw-host for that", platform)
	switch {
	case len(cores) == 0:
		msg = fmt.Sprintf("this snapfw was built without snapfw-host, so it can do nothing on %s: build it with: make build", platform)
	case platform == "linux/amd64" || platform == "linux/arm64":
		msg += ": build it with: make build"
	default:
		msg += ": build one with: GOOS=" + strings.Replace(platform, "/", " GOARCH=", 1) + " CGO_ENABLED=0 go build ./cmd/snapfw-host, and put it beside snapfw as snapfw-host-" + strings.ReplaceAll(platform, "/", "-")
	}
	return &Error{Kind: ErrNoBinary, Machine: machine, Msg: msg}
}

// capped keeps the first MiB of what is written and takes the rest without an error.
type capped struct {
	b     []byte
	limit int // 0 is 1 MiB
}

func (c *capped) Write(p []byte) (int, error) {
	limit := c.limit
	if limit == 0 {
		limit = 1 << 20
	}
	c.b = append(c.b, p[:min(len(p), limit-len(c.b))]...)
	return len(p), nil
}

func (c *capped) bytes() []byte { return c.b }
