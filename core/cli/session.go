package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/internal/config"
	"github.com/snapfw/snapfw/core/internal/engine"
	"github.com/snapfw/snapfw/core/internal/host"
	"github.com/snapfw/snapfw/core/internal/journal"
	"github.com/snapfw/snapfw/core/internal/manifest"
	"github.com/snapfw/snapfw/core/internal/notify"
	"github.com/snapfw/snapfw/core/internal/plugins"
	"github.com/snapfw/snapfw/core/internal/review"
	"github.com/snapfw/snapfw/core/onhost"
	"github.com/snapfw/snapfw/core/plugin"
)

// session is what a command stands on: the configuration, the plugins that it names, the
// machines, and the log.
type session struct {
	app    *app
	file   *config.File
	dir    plugins.Dir
	pool   *host.Pool
	log    *slog.Logger
	logged io.Closer
	view   view
	notify *notify.Notify

	mu      sync.Mutex
	clients map[string]*pluginClient
	selves  map[string]host.Binary // what "@self" means, by plugin
}

// pluginClient is a plugin that runs.
type pluginClient = plugin.Client

var discard = slog.New(slog.DiscardHandler)

// bare is a session that knows plugins and nothing else.
func (a *app) bare() *session {
	a.session = &session{app: a, clients: map[string]*pluginClient{}, selves: map[string]host.Binary{}, log: discard}
	return a.session
}

// open reads the configuration and prepares the rest; no plugin is started and no machine touched by it,
// but for the driver that reads a file of the tool that it replaces.
func (a *app) open(ctx context.Context, cmd *cobra.Command) (*session, error) {
	s := a.bare()
	var err error
	if s.dir, err = plugins.Find(a.pluginsDir); err != nil {
		return nil, usage("%w", err)
	}
	if err := s.load(ctx, cmd); err != nil {
		return nil, err
	}
	if err := s.openLog(); err != nil {
		return nil, err
	}
	s.view = a.newView(s.log)
	s.notify = notify.New(s.file.Notify, s.log)
	s.pool = host.NewPool(s.hostOptions())
	return s, nil
}

// load reads the configuration. A file with other root keys than ours is shown to the driver that
// --chain names: it may be one of the tool which that driver replaces.
func (s *session) load(ctx context.Context, cmd *cobra.Command) error {
	o := config.Options{Path: s.app.configPath, Flags: cmd.Flags()}
	path, err := config.Find(o.Path)
	if err != nil {
		return err
	}
	data, err := config.Read(path)
	if err != nil {
		return usage("%w", err)
	}
	o.Path = path
	imported, err := s.imported(ctx, path, data)
	if err != nil {
		return err
	}
	if imported != nil {
		s.file, err = config.LoadImported(o, imported, data)
	} else {
		s.file, err = config.LoadBytes(o, data)
	}
	return err
}

// imported returns today's form of a file of the tool that the driver replaces, nil if it is none.
func (s *session) imported(ctx context.Context, path string, data []byte) ([]byte, error) {
	var root map[string]json.RawMessage
	if s.app.chain == "" || json.Unmarshal(bytes.TrimSpace(data), &root) != nil || root["chains"] != nil {
		return nil, nil
	}
	c, err := s.client(ctx, core.KindChain, s.app.chain)
	if err != nil {
		return nil, nil // what is wrong with the file is said by whoever reads it as ours
	}
	chain, err := c.Chain()
	if err != nil {
		return nil, err
	}
	imp, ok := chain.(core.Importer)
	if !ok {
		return nil, nil
	}
	body, err := imp.Import(ctx, data)
	var wrong core.FieldErrors
	switch {
	case errors.Is(err, core.ErrForeign) || errors.Is(err, core.ErrUnsupported):
		return nil, nil
	case errors.As(err, &wrong):
		return nil, config.PlaceIn(path, data, wrong)
	case err != nil:
		return nil, usage("%s: %w", path, err)
	}
	return body, nil
}

// stateDir holds runs/, locks/, holds.json and snapshot.log.
func (s *session) stateDir(names ...string) string {
	return filepath.Join(append([]string{s.file.StateDir}, names...)...)
}

func (s *session) openLog() error {
	if err := os.MkdirAll(s.stateDir(), 0o700); err != nil {
		return fmt.Errorf("make the state folder (state_dir): %w", err)
	}
	f, err := os.OpenFile(s.stateDir("snapshot.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	s.logged = f
	level := slog.LevelInfo
	if s.app.verbose {
		level = slog.LevelDebug
	}
	s.log = slog.New(slog.NewTextHandler(f, &slog.HandlerOptions{Level: level}))
	return nil
}

func (s *session) close() {
	if s.view != nil {
		s.view.Close()
	}
	if s.pool != nil {
		s.pool.Close()
	}
	for _, c := range s.clients {
		c.Close()
	}
	if s.logged != nil {
		s.logged.Close()
	}
}

func (s *session) hostOptions() host.Options {
	ssh := s.file.SSH
	return host.Options{
		SSH: host.SSHOptions{
			KeyPath: ssh.Key, Agent: ssh.Agent, KnownHosts: ssh.KnownHosts, HostKeys: ssh.HostKeys,
			Jump: ssh.Jump, DefaultUser: ssh.User, DialTimeout: ssh.ConnectTimeout,
			Passphrase: func(ctx context.Context) ([]byte, error) { return s.passphrase(ctx, ssh) },
		},
		HostDir: ssh.HostDir, Log: s.log,
		Warn: func(text string) { s.view.Note("", text) },
	}
}

// passphrase reveals the configured reference, or asks a terminal.
func (s *session) passphrase(ctx context.Context, ssh config.SSH) ([]byte, error) {
	if !ssh.Passphrase.IsZero() {
		text, err := ssh.Passphrase.Reveal(ctx)
		return []byte(text), err
	}
	in, ok := s.app.in.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return nil, errors.New("the key has a passphrase: configure ssh.passphrase as a reference (env:NAME, file:PATH), or use an agent")
	}
	fmt.Fprintf(s.app.err, "Passphrase of %s: ", ssh.Key)
	defer fmt.Fprintln(s.app.err)
	return term.ReadPassword(int(in.Fd()))
}

// client starts a plugin, once.
func (s *session) client(ctx context.Context, kind, name string) (*pluginClient, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.clients[name]; c != nil {
		return c, nil
	}
	c, _, err := s.dir.Load(ctx, name, kind, s.log)
	if err != nil {
		return nil, err
	}
	s.clients[name] = c
	return c, nil
}

func (s *session) describe(ctx context.Context) config.Describe {
	return func(kind, name string) (core.Description, error) {
		c, err := s.client(ctx, kind, name)
		if err != nil {
			return core.Description{}, err
		}
		return c.Description(), nil
	}
}

// chain returns a configured chain and its driver, its part of the configuration checked.
func (s *session) chain(ctx context.Context, name string) (config.Chain, core.Chain, error) {
	c, err := s.file.Chain(name)
	if err != nil {
		return c, nil, usage("%w", err)
	}
	if err := s.file.Check(s.describe(ctx), c.Name).Err(); err != nil {
		return c, nil, err
	}
	client, err := s.client(ctx, core.KindChain, c.Driver)
	if err != nil {
		return c, nil, err
	}
	driver, err := client.Chain()
	return c, driver, err
}

// place gives what a driver says about its configuration a file and a line.
func (s *session) place(chain string, err error) error {
	var fe core.FieldErrors
	if errors.As(err, &fe) {
		return s.file.Place(chain, fe)
	}
	return err
}

// review returns where a chain's lists are reviewed, or nil if that is by hand.
func (s *session) review(ctx context.Context, c config.Chain) (review.Place, error) {
	if c.Review.Kind == review.KindManual {
		return nil, nil
	}
	token := ""
	if !c.Review.Token.IsZero() {
		var err error
		if token, err = c.Review.Token.Reveal(ctx); err != nil {
			return nil, fmt.Errorf("chains.%s.review.token: %w", c.Name, err)
		}
	}
	w := c.Review
	place, err := review.New(review.Config{
		Kind: w.Kind, Repo: w.Repo, Base: w.Base, Path: w.Path, APIURL: w.APIURL, Token: token, SSHKey: w.SSHKey,
		Author: w.Author, Branch: w.Branch, Labels: w.Labels, Reviewers: w.Reviewers, TeamReviewers: w.TeamReviewers,
	})
	if err != nil {
		return nil, usage("chains.%s.review: %w", c.Name, err)
	}
	return place, nil
}

func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return name
}

// storage returns a configured storage, or nil for "".
func (s *session) storage(ctx context.Context, name string) (*engine.Sink, error) {
	if name == "" {
		return nil, nil
	}
	cfg, err := s.file.Sink(name)
	if err != nil {
		return nil, err
	}
	client, err := s.client(ctx, core.KindSink, cfg.Plugin)
	if err != nil {
		return nil, err
	}
	impl, err := client.Sink()
	if err != nil {
		return nil, err
	}
	secrets, err := s.file.Secrets(ctx, client.Description().Schema, cfg.Own)
	if err != nil {
		return nil, fmt.Errorf("sinks.%s: %w", name, err)
	}
	return &engine.Sink{
		Sink: impl, Name: name, Plugin: cfg.Plugin,
		Target: core.Target{Name: name, Config: cfg.Own, Secrets: secrets},
		Secret: func(_ context.Context, name string) (string, error) {
			if v, ok := secrets[name]; ok {
				return v, nil
			}
			return "", fmt.Errorf("sinks.%s: no secret %q is configured", name, name)
		},
	}, nil
}

// bound is a machine on behalf of one plugin.
type bound struct {
	*host.Machine
	self host.Binary
}

func (b bound) Run(ctx context.Context, argv ...string) (core.Output, error) {
	return b.Machine.Run(ctx, b.self, argv...)
}

func (b bound) Job(ctx context.Context, job onhost.Job, secret map[string]string, report func(onhost.Report)) (onhost.Result, error) {
	return b.Machine.Job(ctx, b.self, job, secret, report)
}

func (b bound) Arm(ctx context.Context, g onhost.Guard) (onhost.GuardState, error) {
	return b.Machine.Arm(ctx, b.self, g)
}

func (s *session) machine(ctx context.Context, addr core.Addr, plugin string) (engine.Machine, error) {
	m, err := s.pool.Machine(ctx, addr)
	if err != nil {
		return nil, err
	}
	self, err := s.self(plugin)
	if err != nil {
		return nil, err
	}
	return bound{m, self}, nil
}

// self is a plugin's binary for every platform that it was built for.
func (s *session) self(name string) (host.Binary, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.selves[name]; ok {
		return b, nil
	}
	m, err := s.dir.Get(name, s.log)
	if err != nil {
		return host.Binary{}, err
	}
	b := host.Binary{Name: m.Exec, Files: map[string]host.File{}}
	for _, platform := range []string{"linux/amd64", "linux/arm64"} {
		// A platform without a binary is an error only on a host that needs it.
		if bin, err := m.HostBinary(platform); err == nil {
			b.Files[platform] = host.File{Path: bin.Path, SHA256: bin.Sum}
		}
	}
	s.selves[name] = b
	return b, nil
}

func (s *session) journals() journal.Dir { return journal.Dir(s.stateDir("runs")) }

// deps gathers what a run of a chain stands on.
func (s *session) deps(ctx context.Context, name string) (engine.Deps, config.Chain, error) {
	d, c, err := s.nodeDeps(ctx, name)
	if err != nil {
		return d, c, err
	}
	if d.Sink, err = s.storage(ctx, c.Sink); err != nil {
		return d, c, err
	}
	if d.Lists, err = s.storage(ctx, c.ListSink); err != nil {
		return d, c, err
	}
	d.Review, err = s.review(ctx, c)
	return d, c, err
}

// nodeDeps is deps without what is needed to publish: `snapfw up` must not want for a bucket's secret.
func (s *session) nodeDeps(ctx context.Context, name string) (engine.Deps, config.Chain, error) {
	c, driver, err := s.chain(ctx, name)
	if err != nil {
		return engine.Deps{}, c, err
	}
	holds, err := s.holds()
	if err != nil {
		return engine.Deps{}, c, err
	}
	return engine.Deps{
		Version: version(), Chain: driver, Driver: c.Driver, Config: c.Own, Here: hostName(),
		Machine: s.machine, Journals: s.journals(), LockChain: s.lockChain,
		Held: holds.held, Tell: s.tell(c), View: s.view, Settings: settings(c),
	}, c, nil
}

func settings(c config.Chain) engine.Settings {
	return engine.Settings{
		Publish: c.Sink != "", MaxDown: c.MaxDowntime, Lease: c.GuardLease, Margin: c.GuardMargin,
		UndoTries: undoTries(c.MaxDowntime), AllOrNothing: c.AllOrNothing,
		Keep:       manifest.Policy{Count: c.Keep.Count, Age: c.Keep.Age, Pins: c.Keep.Pins},
		UploadRate: int64(c.Limits.UploadRate), Transfers: c.Transfers, UploadTries: 5,
		Nice: c.Limits.Nice, Idle: c.Limits.IdleIO, ReadRate: int64(c.Limits.ReadRate), Verify: c.Verify.String(),
		Grace: c.Grace,
	}
}

// undoTries is how long starting a node is tried before somebody is called: the guard on its
// machine goes on. Who can't bear a long downtime wants to be called sooner.
func undoTries(maxDown time.Duration) time.Duration {
	if maxDown <= 0 {
		return 5 * time.Minute
	}
	return min(maxDown, 5*time.Minute)
}

// tell sends news to people, and logs it.
func (s *session) tell(c config.Chain) func(context.Context, engine.News) {
	return func(ctx context.Context, n engine.News) {
		s.log.Warn(n.Text, "news", n.Kind, "run", n.Run, "node", n.Node)
		kind := n.Kind
		if kind == engine.NewsUnwell {
			kind = notify.Failed
		}
		err := s.notify.Send(ctx, notify.Event{Kind: kind, Chain: c.Name, Node: n.Node, Run: n.Run, Text: n.Text, Report: n.Report, Time: time.Now()})
		if err != nil {
			s.view.Note(n.Node, "not everybody could be told: "+strings.ReplaceAll(err.Error(), "\n", "; "))
		}
	}
}

func loginName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return ""
}
