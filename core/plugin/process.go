package plugin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"
)

// process is one run of a plugin's executable.
type process struct {
	cmd    *exec.Cmd
	dir    string   // its socket lies here, and its TMPDIR is this
	stdin  *os.File // our end: it breaks when snapfw is gone, and the plugin leaves
	stdout *os.File
	stderr *os.File
	first  *head         // what it printed first
	said   *tail         // what it said last on standard error
	dead   chan struct{} // closed when it has exited
	state  string        // how, once dead is closed: "exit status 2"

	client *goplugin.Client
	conn   *grpc.ClientConn
	pid    atomic.Int64    // 0 before it runs
	within context.Context // ends when the handshake has taken too long
}

// start runs the executable and shakes hands. On an error nothing is left behind.
func start(ctx context.Context, c Command) (*process, error) {
	if err := checkSum(c); err != nil {
		return nil, err
	}
	dir, err := socketDir()
	if err != nil {
		return nil, fmt.Errorf("make a folder for the plugin's socket: %w", err)
	}
	p := &process{dir: dir, first: &head{}, said: newTail(c.Log), dead: make(chan struct{})}
	p.cmd = exec.Command(c.Path, c.Args...)
	p.cmd.Dir = dir
	p.cmd.Env = environment(c, dir)
	p.client = goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig:  handshake,
		Plugins:          goplugin.PluginSet{"snapfw": &wire{}},
		RunnerFunc:       p.adopt,
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		SkipHostEnv:      true,
		StartTimeout:     c.StartTimeout + 5*time.Second, // ours ends first, and knows why
		Stderr:           &lines{to: p.said},
		SyncStderr:       &lines{to: p.said},
		SyncStdout:       &lines{to: p.said},
		UnixSocketConfig: &goplugin.UnixSocketConfig{TempDir: dir},
		GRPCDialOptions: []grpc.DialOption{
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
			grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window),
			grpc.WithReadBufferSize(bufferSize), grpc.WithWriteBufferSize(bufferSize),
		},
		Logger: hclog.NewNullLogger(),
	})
	late, cancel := context.WithTimeout(ctx, c.StartTimeout)
	defer cancel()
	p.within = late
	if err := p.shakeHands(); err != nil {
		timeUp, state := late.Err() != nil, ""
		if !timeUp && p.pid.Load() != 0 && p.first.line() == "" {
			state = p.exit()
		}
		p.end() // and with it everything it said is read
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, p.diagnose(c, timeUp, state, err)
	}
	return p, nil
}

func (p *process) shakeHands() error {
	// go-plugin's start knows no context, and its first call on a connection that
	// nobody answers waits: ending the process ends both.
	stop := context.AfterFunc(p.within, p.kill)
	defer stop()
	if _, err := p.client.Start(); err != nil {
		return err
	}
	protocol, err := p.client.Client()
	if err != nil {
		return err
	}
	raw, err := protocol.Dispense("snapfw")
	if err != nil {
		return err
	}
	p.conn = raw.(*grpc.ClientConn)
	return p.within.Err()
}

// diagnose says in one sentence why the handshake did not come about.
func (p *process) diagnose(c Command, late bool, state string, err error) error {
	if p.pid.Load() == 0 {
		return fmt.Errorf("plugin %s can't be started: %w", c.Name, err)
	}
	line := p.first.line()
	parts := strings.Split(line, "|")
	switch {
	case line == "" && late:
		return fmt.Errorf("plugin %s (%s) said nothing for %s after it was started: it hangs, or it is not a plugin of snapfw%s",
			c.Name, c.Path, c.StartTimeout, p.said.words())
	case line == "":
		return fmt.Errorf("plugin %s (%s) ended before it said anything (%s): it crashed, or it is not a plugin of snapfw%s",
			c.Name, c.Path, state, p.said.words())
	case len(parts) < 4 || parts[0] != strconv.Itoa(goplugin.CoreProtocolVersion):
		return fmt.Errorf("plugin %s (%s) printed %q instead of the handshake: it is not a plugin of snapfw, or it prints to standard output before it serves",
			c.Name, c.Path, line)
	case parts[1] != strconv.Itoa(Protocol):
		return fmt.Errorf("plugin %s (%s) speaks version %q of the protocol and this snapfw speaks %d: take the plugin's release for this snapfw",
			c.Name, c.Path, parts[1], Protocol)
	case late:
		return fmt.Errorf("plugin %s (%s) shook hands and did not answer within %s%s", c.Name, c.Path, c.StartTimeout, p.said.words())
	}
	return fmt.Errorf("plugin %s (%s) shook hands with %q, which does not work: %w", c.Name, c.Path, line, err)
}

// end stops the process and removes its folder. A second call does nothing more.
func (p *process) end() {
	// Nothing that must still happen lives in a plugin, so one that does not go when
	// asked is killed.
	timer := time.AfterFunc(500*time.Millisecond, p.kill)
	p.client.Kill()
	timer.Stop()
	p.kill()
	_ = os.RemoveAll(p.dir)
}

// kill ends the plugin and whatever it started in its process group.
func (p *process) kill() {
	if pid := int(p.pid.Load()); pid != 0 && !p.isDead() {
		_ = syscall.Kill(-pid, syscall.SIGKILL)
	}
}

func (p *process) isDead() bool {
	select {
	case <-p.dead:
		return true
	default:
		return false
	}
}

// exit waits a moment, since a connection breaks a little before its process is gone.
func (p *process) exit() string {
	select {
	case <-p.dead:
		return p.state
	case <-time.After(time.Second):
		return "its output is closed and it runs still"
	}
}

// From here on process is a runner.Runner: go-plugin's own gives the plugin snapfw's
// terminal, leaves the plugin's children alive, and believes any address.

var _ runner.Runner = (*process)(nil)

func (p *process) adopt(_ hclog.Logger, cmd *exec.Cmd, _ string) (runner.Runner, error) {
	p.cmd.Env = append(p.cmd.Env, cmd.Env...)
	return p, nil
}

func (p *process) Start(context.Context) error {
	if err := p.within.Err(); err != nil {
		return err
	}
	theirs, err := p.pipes()
	if err == nil {
		p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = theirs[0], theirs[1], theirs[2]
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for snapfw
		err = p.cmd.Start()
	}
	closeAll(theirs...)
	if err != nil {
		closeAll(p.stdin, p.stdout, p.stderr)
		return err
	}
	p.pid.Store(int64(p.cmd.Process.Pid))
	go p.reap()
	if p.within.Err() != nil {
		p.kill()
	}
	return nil
}

// pipes makes the three and returns the plugin's ends; on an error, what there is of them.
func (p *process) pipes() (theirs []*os.File, err error) {
	for i, ours := range []**os.File{&p.stdin, &p.stdout, &p.stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			return theirs, err
		}
		if i == 0 {
			r, w = w, r
		}
		*ours, theirs = r, append(theirs, w)
	}
	return theirs, nil
}

func closeAll(files ...*os.File) {
	for _, f := range files {
		_ = f.Close() // of a nil file too: there is nothing to lose
	}
}

func (p *process) reap() {
	err := p.cmd.Wait()
	p.state = "exit status 0"
	if err != nil {
		p.state = err.Error()
	}
	// Its children go with it. Should one have left the group, it must not hold the pipes open.
	_ = syscall.Kill(-int(p.pid.Load()), syscall.SIGKILL)
	soon := time.Now().Add(500 * time.Millisecond)
	_ = p.stdout.SetReadDeadline(soon)
	_ = p.stderr.SetReadDeadline(soon)
	close(p.dead)
}

func (p *process) Wait(context.Context) error {
	<-p.dead
	closeAll(p.stdin, p.stdout, p.stderr)
	return nil
}

func (p *process) Kill(context.Context) error { p.kill(); return nil }

func (p *process) Stdout() io.ReadCloser { return teeCloser{io.TeeReader(p.stdout, p.first), p.stdout} }
func (p *process) Stderr() io.ReadCloser { return p.stderr }

type teeCloser struct {
	io.Reader
	io.Closer
}

func (p *process) Name() string                    { return p.cmd.Path }
func (p *process) Diagnose(context.Context) string { return "" }

func (p *process) ID() string {
	if pid := p.pid.Load(); pid != 0 {
		return strconv.FormatInt(pid, 10)
	}
	return ""
}

// PluginToHost refuses an address that others on this machine could have made.
func (p *process) PluginToHost(network, addr string) (string, string, error) {
	if network != "unix" {
		return "", "", fmt.Errorf("it listens on %s, and must listen on a unix socket in PLUGIN_UNIX_SOCKET_DIR", network)
	}
	real, err := filepath.EvalSymlinks(addr)
	if err != nil {
		return "", "", fmt.Errorf("its socket: %w", err)
	}
	if !strings.HasPrefix(real, p.dir+string(filepath.Separator)) {
		return "", "", errors.New("its socket is not in the folder that PLUGIN_UNIX_SOCKET_DIR names")
	}
	return network, real, nil
}

func (p *process) HostToPlugin(network, addr string) (string, string, error) {
	return network, addr, nil
}

// environment is all that a plugin sees: what it needs to run, and what its manifest names.
func environment(c Command, dir string) []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "TMPDIR=" + dir}
	for _, name := range c.Env {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// checkSum compares the executable with its pinned sum, anew for each launch.
func checkSum(c Command) error {
	if c.Sum == "" {
		return nil
	}
	sum, err := FileSum(c.Path)
	if err != nil {
		return fmt.Errorf("plugin %s: %w", c.Name, err)
	}
	if !strings.EqualFold(sum, c.Sum) {
		return fmt.Errorf("plugin %s: %s is not the file that was added: its sha256 is %s and the pinned one is %s; if you replaced it yourself, run `snapfw plugin add %s`",
			c.Name, c.Path, sum, c.Sum, c.Path)
	}
	return nil
}

// FileSum returns the sha256 of a file in lower-case hex, as a manifest holds it.
func FileSum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// socketDir makes a folder, 0700, whose path leaves room for a socket's: 108 bytes are all.
func socketDir() (string, error) {
	parent := os.TempDir()
	if len(parent) > 40 {
		parent = "/tmp"
	}
	dir, err := os.MkdirTemp(parent, "sf")
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(dir)
}

func discardLog(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}
