package plugin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/plugin/pluginpb"
)

// ErrDied is in the chain of the error of a call whose plugin died each time it was asked. A
// call that was cancelled has the context's error instead.
var ErrDied = errors.New("the plugin died")

// How often a plugin that dies is asked, and how long snapfw waits in between.
var backOff = []time.Duration{100 * time.Millisecond, time.Second}

// Command says which plugin to load.
type Command struct {
	Name string   // as its Description has to say; "" takes any
	Kind string   // core.KindChain or core.KindSink; "" takes either
	Path string   // the executable, absolute
	Args []string // none for a plugin made with this package
	Sum  string   // its sha256 in hex, compared before each launch; "" compares nothing
	Env  []string // names of the variables it may see beside PATH, LANG and TMPDIR

	StartTimeout time.Duration // for the handshake and the first answer; 0 is 20 s
	Log          *slog.Logger  // gets its standard error, a line a record, with "plugin"; nil drops it
}

// Client is a loaded plugin. Its process is started again when it died; calls may be
// concurrent. Close it.
type Client struct {
	command     Command
	description core.Description

	mu      sync.Mutex
	process *process
	closed  bool
}

// Load starts a plugin and asks it to describe itself. What is wrong with a plugin is said in
// one sentence: it can't be started, its sum differs, it hangs, it crashes, it prints
// something else than the handshake, it speaks another version, it is of another kind or name.
func Load(ctx context.Context, c Command) (*Client, error) {
	if c.Name == "" {
		c.Name = strings.TrimPrefix(filepath.Base(c.Path), "snapfw-")
	}
	if !filepath.IsAbs(c.Path) {
		return nil, fmt.Errorf("plugin %s: the path of its executable is not absolute: %s", c.Name, c.Path)
	}
	if c.StartTimeout <= 0 {
		c.StartTimeout = 20 * time.Second
	}
	c.Log = discardLog(c.Log).With("plugin", c.Name)
	p := &Client{command: c}
	if _, err := p.running(ctx); err != nil {
		return nil, err
	}
	first, cancel := context.WithTimeoutCause(ctx, c.StartTimeout, errSlow)
	defer cancel()
	if err := p.describe(first); err != nil {
		p.Close()
		if context.Cause(first) == errSlow {
			return nil, fmt.Errorf("plugin %s (%s) did not describe itself within %s: %w", c.Name, c.Path, c.StartTimeout, err)
		}
		return nil, err
	}
	return p, nil
}

var errSlow = errors.New("the plugin is slow")

func (c *Client) describe(ctx context.Context) error {
	d, err := ask(ctx, c, "describe itself", func(conn *grpc.ClientConn) (core.Description, error) {
		d, err := pluginpb.NewPluginClient(conn).Describe(ctx, &pluginpb.DescribeRequest{})
		return fromDescription(d), err
	})
	switch {
	case errors.Is(err, core.ErrUnsupported):
		return fmt.Errorf("plugin %s (%s) shook hands and does not serve snapfw.plugin.v1.Plugin: it is a plugin of something else",
			c.command.Name, c.command.Path)
	case err != nil:
		return err
	case d.Kind != core.KindChain && d.Kind != core.KindSink:
		return fmt.Errorf("plugin %s says that its kind is %q: it must be chain or sink", c.command.Name, d.Kind)
	case c.command.Kind != "" && d.Kind != c.command.Kind:
		return fmt.Errorf("plugin %s is a %s, and a %s is wanted here", c.command.Name, d.Kind, c.command.Kind)
	case d.Name != c.command.Name:
		return fmt.Errorf("plugin %s says that its name is %q: the manifest's name and its own must be the same", c.command.Name, d.Name)
	}
	c.description = d
	return nil
}

// Description is what the plugin said when it was loaded.
func (c *Client) Description() core.Description { return c.description }

// Chain is the plugin as a core.Chain. It implements core.Catalog, core.Judge and
// core.Importer too; their methods return core.ErrUnsupported where the plugin has no such thing.
func (c *Client) Chain() (core.Chain, error) {
	if c.description.Kind != core.KindChain {
		return nil, fmt.Errorf("plugin %s is a %s and no chain", c.command.Name, c.description.Kind)
	}
	return &chainClient{c}, nil
}

// Sink is the plugin as a core.Sink. It implements core.Copier, core.Purger and core.Fronted too; their
// methods return core.ErrUnsupported where the plugin has no such thing.
func (c *Client) Sink() (core.Sink, error) {
	if c.description.Kind != core.KindSink {
		return nil, fmt.Errorf("plugin %s is a %s and no sink", c.command.Name, c.description.Kind)
	}
	return &sinkClient{c}, nil
}

// Pid is the process id of the plugin as it runs now, 0 if it does not.
func (c *Client) Pid() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.process == nil || c.process.isDead() {
		return 0
	}
	return int(c.process.pid.Load())
}

// Close ends the plugin's process. A call after it is an error; a second Close is none.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.process != nil {
		c.process.end()
		c.process = nil
	}
	return nil
}

// running returns the plugin's process, a new one if there is none.
func (c *Client) running(ctx context.Context) (*process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, fmt.Errorf("plugin %s was asked after it was closed", c.command.Name)
	}
	if c.process != nil && !c.process.isDead() {
		return c.process, nil
	}
	if c.process != nil {
		c.process.end()
		c.process = nil
	}
	p, err := start(ctx, c.command)
	if err != nil {
		return nil, err
	}
	c.process = p
	return p, nil
}

// ask carries out one call and asks again when the plugin died over it. question is for
// people, and for nothing else: "plan".
func ask[T any](ctx context.Context, c *Client, question string, call func(*grpc.ClientConn) (T, error)) (T, error) {
	var none T
	for try := 0; ; try++ {
		p, err := c.running(ctx)
		if err != nil {
			return none, err
		}
		answer, err := call(p.conn)
		if err == nil {
			return answer, nil
		}
		if ctx.Err() != nil {
			return none, fmt.Errorf("ask plugin %s to %s: %w", c.command.Name, question, ctx.Err())
		}
		if !died(p, err) {
			return none, decodeError(err)
		}
		p.end() // and with it its last words are read
		err = fmt.Errorf("%w when it was asked to %s: %s (%s)%s", ErrDied, question, c.command.Name, p.state, p.said.words())
		if try == len(backOff) {
			return none, fmt.Errorf("asked %d times: %w", try+1, err)
		}
		c.command.Log.Warn("the plugin died and is started again", "asked", question, "exit", p.state)
		select {
		case <-ctx.Done():
			return none, ctx.Err()
		case <-time.After(backOff[try]):
		}
	}
}

// died tells a plugin that is gone from one that says it can't.
func died(p *process, err error) bool {
	if status.Code(err) != codes.Unavailable && !errors.Is(err, errCutOff) {
		return false
	}
	select {
	case <-p.dead:
		return true
	case <-time.After(time.Second):
		return false
	}
}

// errCutOff is a conversation that ended without an answer.
var errCutOff = errors.New("the plugin ended the conversation without an answer")
