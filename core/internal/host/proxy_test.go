package host

import (
	"crypto/ed25519"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// proxy passes TCP on, until it becomes a hole that swallows every byte.
type proxy struct {
	port int
	to   string

	mu        sync.Mutex
	swallows  bool
	listening net.Listener
}

func newProxy(t *testing.T, to string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{port: l.Addr().(*net.TCPAddr).Port, to: to, listening: l}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.pass(c)
		}
	}()
	return p
}

func (p *proxy) hole(yes bool) { p.mu.Lock(); defer p.mu.Unlock(); p.swallows = yes }

func (p *proxy) pass(a net.Conn) {
	b, err := net.DialTimeout("tcp", p.to, 5*time.Second)
	if err != nil {
		a.Close()
		return
	}
	var once sync.WaitGroup
	once.Add(2)
	go func() { defer once.Done(); io.Copy(gate{p, b}, a); b.Close() }()
	go func() { defer once.Done(); io.Copy(gate{p, a}, b); a.Close() }()
	once.Wait()
}

type gate struct {
	p *proxy
	net.Conn
}

func (g gate) Write(b []byte) (int, error) {
	g.p.mu.Lock()
	swallows := g.p.swallows
	g.p.mu.Unlock()
	if swallows {
		return len(b), nil
	}
	return g.Conn.Write(b)
}

func authorizedLine(t *testing.T, pub ed25519.PublicKey) string {
	k, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k)))
}
