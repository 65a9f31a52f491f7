package host

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/internal/host/sshdtest"
	"golang.org/x/crypto/ssh/agent"
)

// connect returns the error of a first connection.
func connect(t *testing.T, o Options, a core.Addr) error {
	t.Helper()
	_, err := newPool(t, o).Machine(testContext(t), a)
	return err
}

func TestHostKeys(t *testing.T) {
	s := sshdtest.Start(t, sshdtest.Options{})
	known, err := os.ReadFile(s.KnownHosts)
	if err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "ssh", "known_hosts")
	with := func(mode string, file string, w *warnings) Options {
		o := optionsFor(t, s)
		o.SSH.HostKeys, o.SSH.KnownHosts, o.Warn = mode, []string{file}, w.add
		return o
	}

	t.Run("unknown", func(t *testing.T) {
		err := connect(t, with("check", empty, &warnings{}), addrOf(s))
		if !errors.Is(err, ErrHostKey) {
			t.Fatalf("got %v", err)
		}
		wantIn(t, err.Error(), "is not known", "SHA256:", "ssh-keyscan -p", "accept-new", "nothing was stopped", empty)
	})
	t.Run("accept-new", func(t *testing.T) {
		var w warnings
		if err := connect(t, with("accept-new", empty, &w), addrOf(s)); err != nil {
			t.Fatal(err)
		}
		wantIn(t, w.String(), "was accepted", empty)
		got, err := os.ReadFile(empty)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(known) {
			t.Errorf("written down:\n%swant:\n%s", got, known)
		}
		if err := connect(t, with("check", empty, &w), addrOf(s)); err != nil {
			t.Errorf("the second time: %v", err)
		}
	})
	t.Run("off", func(t *testing.T) {
		var w warnings
		if err := connect(t, with("off", "/nonexistent", &w), addrOf(s)); err != nil {
			t.Fatal(err)
		}
		wantIn(t, w.String(), "is not checked")
	})
	t.Run("wrong mode", func(t *testing.T) {
		if err := connect(t, with("maybe", empty, &warnings{}), addrOf(s)); err == nil {
			t.Fatal("accepted")
		}
	})
	t.Run("changed", func(t *testing.T) {
		if err := s.NewHostKey(); err != nil {
			t.Fatal(err)
		}
		for _, mode := range []string{"check", "accept-new"} {
			err := connect(t, with(mode, s.KnownHosts, &warnings{}), addrOf(s))
			if !errors.Is(err, ErrHostKey) {
				t.Fatalf("%s: got %v", mode, err)
			}
			wantIn(t, err.Error(), "has changed", s.KnownHosts+":1 has ssh-ed25519 SHA256:", "ssh-keygen -R", "nothing was stopped")
		}
	})
}

func TestPassphrase(t *testing.T) {
	s := sshdtest.Start(t, sshdtest.Options{Passphrase: "open sesame"})
	asked := 0
	say := func(p string) func(context.Context) ([]byte, error) {
		return func(context.Context) ([]byte, error) { asked++; return []byte(p), nil }
	}
	o := optionsFor(t, s)
	err := connect(t, o, addrOf(s))
	if !errors.Is(err, ErrKey) {
		t.Fatalf("without a passphrase: %v", err)
	}
	wantIn(t, err.Error(), s.KeyPath, "has a passphrase")

	o.SSH.Passphrase = say("wrong")
	p := newPool(t, o)
	for range 3 {
		_, err = p.Machine(testContext(t), addrOf(s))
		if !errors.Is(err, ErrKey) {
			t.Fatalf("a wrong passphrase: %v", err)
		}
	}
	wantIn(t, err.Error(), "is not the one of "+s.KeyPath, "no machine was touched")
	if strings.Contains(err.Error(), "wrong") {
		t.Error("the error holds the passphrase")
	}
	if ever, _ := s.Connections(); ever != 0 || asked != 1 {
		t.Errorf("%d connections and %d questions for a wrong passphrase; want 0 and 1", ever, asked)
	}
	o.SSH.Passphrase = say("open sesame")
	if err := connect(t, o, addrOf(s)); err != nil {
		t.Fatal(err)
	}
}

// startAgent is a real agent's protocol on a socket of our own.
func startAgent(t *testing.T, keys ...any) string {
	ring := agent.NewKeyring()
	for _, k := range keys {
		if err := ring.Add(agent.AddedKey{PrivateKey: k}); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.MkdirTemp("", "agent-") // socket paths are short
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); os.RemoveAll(dir) })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go agent.ServeAgent(ring, c)
		}
	}()
	return filepath.Join(dir, "s")
}

func TestAgent(t *testing.T) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := sshdtest.Start(t, sshdtest.Options{Authorized: []string{authorizedLine(t, pub)}})
	o := optionsFor(t, s)
	o.SSH.KeyPath, o.SSH.Agent = "", true

	t.Setenv("SSH_AUTH_SOCK", "")
	err = connect(t, o, addrOf(s))
	if !errors.Is(err, ErrKey) {
		t.Fatalf("no agent: %v", err)
	}
	wantIn(t, err.Error(), "SSH_AUTH_SOCK is not set", "ssh-add")

	t.Setenv("SSH_AUTH_SOCK", startAgent(t))
	err = connect(t, o, addrOf(s))
	if !errors.Is(err, ErrKey) {
		t.Fatalf("an empty agent: %v", err)
	}
	wantIn(t, err.Error(), "holds no key")

	t.Setenv("SSH_AUTH_SOCK", startAgent(t, &key))
	if err := connect(t, o, addrOf(s)); err != nil {
		t.Fatal(err)
	}
}

func TestRefusedLogin(t *testing.T) {
	s := sshdtest.Start(t, sshdtest.Options{})
	o := optionsFor(t, s)
	o.SSH.KeyPath = filepath.Join(t.TempDir(), "other")
	if _, err := sshdtest.WriteKey(o.SSH.KeyPath, ""); err != nil {
		t.Fatal(err)
	}
	err := connect(t, o, addrOf(s))
	if !errors.Is(err, ErrAuth) {
		t.Fatalf("got %v", err)
	}
	wantIn(t, err.Error(), "refuses to log "+s.User+" in", "ssh-ed25519 SHA256:", o.SSH.KeyPath, "authorized_keys")

	o.SSH.KeyPath = filepath.Join(t.TempDir(), "none")
	if err := connect(t, o, addrOf(s)); !errors.Is(err, ErrKey) {
		t.Errorf("a key that is not there: %v", err)
	}
	o.SSH.KeyPath = s.KnownHosts
	err = connect(t, o, addrOf(s))
	if !errors.Is(err, ErrKey) {
		t.Errorf("a file that is no key: %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	s := sshdtest.Start(t, sshdtest.Options{})
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := free.Addr().(*net.TCPAddr).Port
	free.Close()
	mute, err := net.Listen("tcp", "127.0.0.1:0") // accepts and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	o := optionsFor(t, s)
	o.SSH.DialTimeout = 300 * time.Millisecond
	for name, c := range map[string]struct {
		addr core.Addr
		want string
	}{
		"closed": {core.Addr{Host: "127.0.0.1", Port: closed}, "nothing listens at"},
		"mute":   {core.Addr{Host: "127.0.0.1", Port: mute.Addr().(*net.TCPAddr).Port}, "does not answer"},
		"name":   {core.Addr{Host: "no-such-host.invalid"}, "check"},
	} {
		err := connect(t, o, c.addr)
		if !errors.Is(err, ErrUnreachable) {
			t.Errorf("%s: got %v", name, err)
			continue
		}
		wantIn(t, err.Error(), c.want, c.addr.Host)
	}
	s.Deaf(true)
	err = connect(t, optionsFor(t, s), addrOf(s))
	if !errors.Is(err, ErrUnreachable) {
		t.Fatalf("a server that hangs up: %v", err)
	}
	wantIn(t, err.Error(), "hung up")
	for _, bad := range []core.Addr{{Host: "a b"}, {Host: "-oProxyCommand=x"}, {Host: "a", Port: 70000}} {
		if err := connect(t, o, bad); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
}

func TestJumpHost(t *testing.T) {
	jump := sshdtest.Start(t, sshdtest.Options{Config: []string{"AllowTcpForwarding yes"}})
	s := sshdtest.Start(t, sshdtest.Options{})
	both := filepath.Join(t.TempDir(), "known_hosts")
	a, err := os.ReadFile(jump.KnownHosts)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(s.KnownHosts)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(both, append(a, b...), 0o600); err != nil {
		t.Fatal(err)
	}
	pub, err := os.ReadFile(filepath.Join(s.Dir, "authorized_keys"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(jump.Dir, "authorized_keys"), pub, 0o600); err != nil {
		t.Fatal(err)
	}
	o := optionsFor(t, s)
	o.SSH.KnownHosts = []string{both}
	o.SSH.Jump = fmt.Sprintf("%s@127.0.0.1:%d", jump.User, jump.Port)
	p := newPool(t, o)
	for range 2 {
		m, err := p.Machine(testContext(t), addrOf(s))
		if err != nil {
			t.Fatal(err)
		}
		out, err := m.Run(testContext(t), Binary{}, "echo", "there")
		if err != nil || string(out.Stdout) != "there\n" {
			t.Fatalf("got %q, %v", out.Stdout, err)
		}
		// The jump host's end is a lost connection like any other.
		jump.Cut()
		eventually(t, "the loss is seen", func() bool { return m.at.epoch() > 0 })
	}
	if ever, _ := jump.Connections(); ever != 2 {
		t.Errorf("%d connections to the jump host, want 2", ever)
	}

	o.SSH.KnownHosts = []string{s.KnownHosts}
	err = connect(t, o, addrOf(s))
	if !errors.Is(err, ErrHostKey) {
		t.Fatalf("an unknown jump host: %v", err)
	}
	wantIn(t, err.Error(), "jump host ")
	o.SSH.Jump = "a:b:c:d@"
	if err := connect(t, o, addrOf(s)); err == nil {
		t.Error("a senseless jump host was accepted")
	}
}

func TestKeepaliveEndsADeadConnection(t *testing.T) {
	s := sshdtest.Start(t, sshdtest.Options{})
	proxy := newProxy(t, s.Addr())
	o := optionsFor(t, s)
	o.SSH.HostKeys, o.SSH.Keepalive = "off", 500*time.Millisecond
	m, err := newPool(t, o).Machine(testContext(t), core.Addr{User: s.User, Host: "127.0.0.1", Port: proxy.port})
	if err != nil {
		t.Fatal(err)
	}
	proxy.hole(true) // as a firewall that forgot the connection: no bytes, no reset
	eventually(t, "the dead connection is noticed", func() bool { return m.at.epoch() > 0 })
	proxy.hole(false)
	if _, err := m.Facts(testContext(t)); err != nil {
		t.Fatal(err)
	}
}
