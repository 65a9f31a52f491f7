// Package sshdtest runs real OpenSSH servers on loopback, for tests and for demonstrations. Each
// connection gets an sshd of its own (sshd -i), so that the port is free by construction and a
// single connection can be cut. It needs no root; without root only the current user can log in.
package sshdtest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"
)

// ErrNoSSHD means that this machine has no sshd.
var ErrNoSSHD = errors.New("sshd is not installed (Debian: apt-get install openssh-server)")

// Options of a server. The zero value is right for most tests.
type Options struct {
	Passphrase string   // of the client's key
	NoSFTP     bool     // no sftp subsystem
	Sessions   int      // MaxSessions; 0 is 100
	Config     []string // further lines of sshd_config; they come first, and the first one counts
	Authorized []string // further lines of authorized_keys
}

// Server is an sshd on 127.0.0.1.
type Server struct {
	Port       int
	User       string // who can log in
	KeyPath    string // a private key that may
	KnownHosts string // a file that holds the host's key
	Dir        string // of all these, and of the log

	sshd     string
	listener *net.TCPListener
	wait     sync.WaitGroup

	mu      sync.Mutex
	open    map[*conn]bool
	dialled int
	deaf    bool
}

// conn is our hold on a connection that an sshd has.
type conn struct{ file *os.File }

// Start runs a server until the test ends. Without sshd it skips the test, loudly; where
// SNAPFW_TEST_NO_SKIP is set it fails it.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	s, err := Run(t.TempDir(), o)
	if errors.Is(err, ErrNoSSHD) && os.Getenv("SNAPFW_TEST_NO_SKIP") == "" {
		fmt.Fprintf(os.Stderr, "\n*** SKIPPED %s: %v ***\n\n", t.Name(), err)
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		if t.Failed() {
			t.Logf("log of sshd:\n%s", s.Log())
		}
	})
	return s
}

// Run runs a server with its files in dir, which has to be there, until Close.
func Run(dir string, o Options) (*Server, error) {
	sshd, err := find()
	if err != nil {
		return nil, err
	}
	u, err := user.Current()
	if err != nil {
		return nil, fmt.Errorf("start sshd: %w", err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, fmt.Errorf("start sshd: %w", err)
	}
	if os.Getuid() == 0 { // Debian's sshd wants its folder when it runs as root
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			return nil, fmt.Errorf("start sshd: %w", err)
		}
	}
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, fmt.Errorf("start sshd: %w", err)
	}
	s := &Server{User: u.Username, Dir: dir, KeyPath: filepath.Join(dir, "id"), KnownHosts: filepath.Join(dir, "known_hosts"),
		Port: l.Addr().(*net.TCPAddr).Port, sshd: sshd, listener: l, open: map[*conn]bool{}}
	if err := s.files(o); err != nil {
		l.Close()
		return nil, fmt.Errorf("start sshd: %w", err)
	}
	s.wait.Add(1)
	go s.serve()
	return s, nil
}

// find returns the absolute path of sshd: it starts itself again by that.
func find() (string, error) {
	if p, err := exec.LookPath("sshd"); err == nil {
		return filepath.Abs(p)
	}
	for _, p := range []string{"/usr/sbin/sshd", "/usr/local/sbin/sshd", "/sbin/sshd"} {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", ErrNoSSHD
}

func (s *Server) files(o Options) error {
	pub, err := WriteKey(s.KeyPath, o.Passphrase)
	if err != nil {
		return err
	}
	authorized := ssh.MarshalAuthorizedKey(pub)
	for _, a := range o.Authorized {
		authorized = append(authorized, a+"\n"...)
	}
	if err := os.WriteFile(filepath.Join(s.Dir, "authorized_keys"), authorized, 0o600); err != nil {
		return err
	}
	if err := s.NewHostKey(); err != nil {
		return err
	}
	if err := s.know(); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.Dir, "sshd_config"), s.config(o), 0o600)
}

func (s *Server) config(o Options) []byte {
	var b bytes.Buffer
	for _, line := range o.Config {
		fmt.Fprintln(&b, line)
	}
	// An empty home: the login shell's own start-up files are not what is tested, and can take longer than it.
	if !strings.Contains(strings.Join(o.Config, "\n"), "SetEnv ") { // only the first SetEnv line counts
		fmt.Fprintf(&b, "SetEnv HOME=%s\n", s.Dir)
	}
	sessions := o.Sessions
	if sessions == 0 {
		sessions = 100
	}
	fmt.Fprintf(&b, "HostKey %s\nAuthorizedKeysFile %s\n", filepath.Join(s.Dir, "host_key"), filepath.Join(s.Dir, "authorized_keys"))
	fmt.Fprintf(&b, "PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n")
	fmt.Fprintf(&b, "PermitRootLogin yes\nPrintMotd no\nUseDNS no\nMaxStartups 1000\nMaxSessions %d\nMaxAuthTries 20\nLogLevel VERBOSE\n", sessions)
	if !o.NoSFTP {
		fmt.Fprintf(&b, "Subsystem sftp internal-sftp\n")
	}
	return b.Bytes()
}

// know writes known_hosts for the host key of this moment.
func (s *Server) know() error {
	pub, err := os.ReadFile(filepath.Join(s.Dir, "host_key.pub"))
	if err != nil {
		return err
	}
	return os.WriteFile(s.KnownHosts, append(fmt.Appendf(nil, "[127.0.0.1]:%d ", s.Port), pub...), 0o600)
}

// NewHostKey gives the server another host key for connections from now on, as if the machine
// had been set up anew. known_hosts stays as it is.
func (s *Server) NewHostKey() error {
	pub, err := WriteKey(filepath.Join(s.Dir, "host_key"), "")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.Dir, "host_key.pub"), ssh.MarshalAuthorizedKey(pub), 0o600)
}

// WriteKey makes an ed25519 key and writes it to path, with a passphrase if that is not empty.
func WriteKey(path, passphrase string) (ssh.PublicKey, error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(key, "snapfw test")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		return nil, err
	}
	if passphrase != "" { // by ssh-keygen, which can do with one round of bcrypt instead of 16
		out, err := exec.Command("ssh-keygen", "-q", "-p", "-a", "1", "-P", "", "-N", passphrase, "-f", path).CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("ssh-keygen: %w: %s", err, out)
		}
	}
	return ssh.NewPublicKey(pub)
}

func (s *Server) serve() {
	defer s.wait.Done()
	for {
		c, err := s.listener.AcceptTCP()
		if err != nil {
			return
		}
		s.mu.Lock()
		deaf := s.deaf
		if deaf {
			s.dialled++
		}
		s.mu.Unlock()
		if deaf {
			c.Close()
			continue
		}
		if err := s.one(c); err != nil {
			s.logf("sshdtest: %v\n", err)
		}
	}
}

// one hands a connection to an sshd of its own.
func (s *Server) one(c *net.TCPConn) error {
	file, err := c.File()
	c.Close()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(s.logPath(), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		file.Close()
		return err
	}
	defer log.Close()
	cmd := exec.Command(s.sshd, "-i", "-e", "-f", filepath.Join(s.Dir, "sshd_config"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = file, file, log
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		file.Close()
		return err
	}
	k := &conn{file}
	s.mu.Lock()
	s.open[k] = true
	s.dialled++
	s.mu.Unlock()
	s.wait.Add(1)
	go func() {
		defer s.wait.Done()
		cmd.Wait()
		s.mu.Lock()
		delete(s.open, k)
		s.mu.Unlock()
		file.Close()
	}()
	return nil
}

// Cut cuts every connection at once, as a dying network does, and returns how many there
// were. What runs in the sessions is left to itself; new connections are welcome.
func (s *Server) Cut() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.open {
		syscall.Shutdown(int(k.file.Fd()), syscall.SHUT_RDWR)
	}
	return len(s.open)
}

// Deaf makes the server hang up on every new connection, or stop doing so.
func (s *Server) Deaf(yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deaf = yes
}

// Connections is how many connections were ever made, and how many are open.
func (s *Server) Connections() (ever, open int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dialled, len(s.open)
}

// Addr is "127.0.0.1:port".
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port)) }

// Close ends the server and all of its connections. A second call does nothing.
func (s *Server) Close() {
	s.listener.Close()
	s.Cut()
	s.wait.Wait()
}

func (s *Server) logPath() string { return filepath.Join(s.Dir, "sshd.log") }

func (s *Server) logf(format string, args ...any) {
	f, err := os.OpenFile(s.logPath(), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	fmt.Fprintf(f, format, args...)
}

// Log is what the sshds said.
func (s *Server) Log() string {
	b, _ := os.ReadFile(s.logPath())
	return string(b)
}
