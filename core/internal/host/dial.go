package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/snapfw/snapfw/core"
	"golang.org/x/crypto/ssh"
)

// dialer makes ssh connections, through the jump host if there is one. Its connection to
// that is shared.
type dialer struct {
	options SSHOptions
	keys    *keyring
	known   *hostKeys

	mu   sync.Mutex
	jump *ssh.Client
}

// target is where to log in.
type target struct {
	user, address string // "host:port"
}

func (t target) String() string {
	host, port, _ := net.SplitHostPort(t.address)
	if port == "22" {
		return t.user + "@" + host
	}
	return t.user + "@" + t.address
}

// targetOf fills in what an Addr leaves open.
func (d *dialer) targetOf(a core.Addr) (target, error) {
	if strings.ContainsAny(a.Host, " \t\n/@") || strings.HasPrefix(a.Host, "-") {
		return target{}, fmt.Errorf("machine %q: that is no name or address of a host", a.Host)
	}
	if a.Port < 0 || a.Port > 65535 {
		return target{}, fmt.Errorf("machine %s: %d is no port", a.Host, a.Port)
	}
	t := target{user: a.User}
	if t.user == "" {
		t.user = d.options.DefaultUser
	}
	if t.user == "" {
		u, err := user.Current()
		if err != nil {
			return target{}, fmt.Errorf("find out the login user for %s: %w", a.Host, err)
		}
		t.user = u.Username
	}
	port := a.Port
	if port == 0 {
		port = 22
	}
	t.address = net.JoinHostPort(strings.Trim(a.Host, "[]"), strconv.Itoa(port))
	return t, nil
}

// jumpTarget reads "user@host:port"; user and port may be left out.
func (d *dialer) jumpTarget() (target, error) {
	a := core.Addr{Host: d.options.Jump}
	if i := strings.LastIndexByte(a.Host, '@'); i >= 0 {
		a.User, a.Host = a.Host[:i], a.Host[i+1:]
	}
	if host, port, err := net.SplitHostPort(a.Host); err == nil {
		n, err := strconv.Atoi(port)
		if err != nil {
			return target{}, fmt.Errorf("jump host %q: %q is no port", d.options.Jump, port)
		}
		a.Host, a.Port = host, n
	}
	if a.Host == "" {
		return target{}, fmt.Errorf("jump host %q: write it as user@host:port", d.options.Jump)
	}
	return d.targetOf(a)
}

// dial logs in. standing is a clause for errors of host keys: "nothing was stopped".
func (d *dialer) dial(ctx context.Context, t target, standing string) (*ssh.Client, error) {
	// Before the clock starts: a person may have to type a passphrase.
	if _, err := d.keys.files(ctx); err != nil {
		return nil, fmt.Errorf("%s: %w", t, err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, d.options.DialTimeout, errNoAnswer)
	defer cancel()
	conn, err := d.connect(ctx, t, standing)
	if err != nil {
		return nil, err
	}
	return d.login(ctx, conn, t, standing)
}

var errNoAnswer error = timeoutError{}

// timeoutError is a net.Error, as a dialer's own is.
type timeoutError struct{}

func (timeoutError) Error() string   { return "no answer in time" }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }

func (d *dialer) connect(ctx context.Context, t target, standing string) (net.Conn, error) {
	if d.options.Jump == "" {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", t.address)
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			if errors.Is(err, context.Canceled) {
				return nil, err
			}
			return nil, unreachable(t.String(), t.address, err)
		}
		return conn, nil
	}
	jump, err := d.jumpClient(ctx, standing)
	if err != nil {
		return nil, err
	}
	conn, err := jump.DialContext(ctx, "tcp", t.address)
	if err == nil {
		return conn, nil
	}
	var refused *ssh.OpenChannelError
	if !errors.As(err, &refused) { // the jump host itself is gone: a new connection next time
		d.dropJump(jump)
	}
	return nil, &Error{Kind: ErrUnreachable, Machine: t.String(), Err: err, Msg: fmt.Sprintf(
		"it can't be reached through the jump host %s (%v): check that sshd runs at %s and that the jump host may forward to it (AllowTcpForwarding)",
		d.options.Jump, err, t.address)}
}

// jumpClient is the shared connection to the jump host.
func (d *dialer) jumpClient(ctx context.Context, standing string) (*ssh.Client, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.jump != nil {
		return d.jump, nil
	}
	t, err := d.jumpTarget()
	if err != nil {
		return nil, err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", t.address)
	if err != nil {
		return nil, fmt.Errorf("jump host %w", unreachable(t.String(), t.address, err))
	}
	client, err := d.login(ctx, conn, t, standing)
	if err != nil {
		return nil, fmt.Errorf("jump host %w", err)
	}
	d.jump = client
	go func() {
		watch(client, d.options.Keepalive)
		d.dropJump(client)
	}()
	return client, nil
}

func (d *dialer) dropJump(c *ssh.Client) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.jump == c && c != nil {
		c.Close()
		d.jump = nil
	}
}

func (d *dialer) close() {
	d.mu.Lock()
	c := d.jump
	d.mu.Unlock()
	d.dropJump(c)
}

// login does the handshake on a fresh connection, and closes that if it fails.
func (d *dialer) login(ctx context.Context, conn net.Conn, t target, standing string) (*ssh.Client, error) {
	keys, done, err := d.keys.signers(ctx)
	defer done()
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("%s: %w", t, err)
	}
	config := &ssh.ClientConfig{
		User:          t.user,
		ClientVersion: "SSH-2.0-snapfw",
		// One method for all keys: x/crypto tries each method only once.
		Auth: []ssh.AuthMethod{ssh.PublicKeysCallback(func() ([]ssh.Signer, error) {
			signers := make([]ssh.Signer, len(keys))
			for i, k := range keys {
				signers[i] = k.Signer
			}
			return signers, nil
		})},
	}
	if err := d.known.config(config, t.String(), t.address, standing); err != nil {
		conn.Close()
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	c, channels, requests, err := ssh.NewClientConn(conn, t.address, config)
	if !stop() && err == nil { // the time was up at the last moment
		c.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, loginTrouble(ctx, t, keys, err)
	}
	return ssh.NewClient(c, channels, requests), nil
}

func loginTrouble(ctx context.Context, t target, keys []named, err error) error {
	var said *Error
	if errors.As(err, &said) { // of the host key
		return said
	}
	if cause := context.Cause(ctx); cause != nil {
		if errors.Is(cause, context.Canceled) {
			return cause
		}
		return unreachable(t.String(), t.address, errNoAnswer)
	}
	text := err.Error()
	var disagree *ssh.AlgorithmNegotiationError
	switch {
	case strings.Contains(text, "unable to authenticate"), strings.Contains(text, "Too many authentication failures"):
		return &Error{Kind: ErrAuth, Machine: t.String(), Err: err, Msg: fmt.Sprintf(
			"it refuses to log %s in. Keys tried: %s. Add one of them to ~%s/.ssh/authorized_keys there, or configure another user or key",
			t.user, tried(keys), t.user)}
	case errors.As(err, &disagree):
		return &Error{Kind: ErrUnreachable, Machine: t.String(), Err: err, Msg: fmt.Sprintf(
			"its sshd shares no secure algorithm with snapfw (%v): update it", err)}
	}
	return unreachable(t.String(), t.address, err)
}

// watch returns when a connection has ended, and ends it when three keepalives in a row
// get no answer.
func watch(c *ssh.Client, every time.Duration) {
	gone := make(chan struct{})
	go func() {
		c.Wait()
		close(gone)
	}()
	answered := make(chan struct{}, 1)
	ask := func() {
		// Any answer will do; OpenSSH refuses the request.
		if _, _, err := c.SendRequest("keepalive@openssh.com", true, nil); err == nil {
			answered <- struct{}{}
		}
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for waiting := 0; ; {
		select {
		case <-gone:
			return
		case <-answered:
			waiting = 0
		case <-tick.C:
			if waiting == 0 {
				go ask()
			}
			if waiting++; waiting > 3 {
				c.Close()
				<-gone
				return
			}
		}
	}
}
