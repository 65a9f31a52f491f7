package review_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/snapfw/snapfw/core/internal/review"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

func newKey(t *testing.T) (ssh.Signer, []byte) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer, pem.EncodeToMemory(block)
}

// sshd runs git's own programs for who has the key, and answers where it is.
func sshd(t *testing.T, host ssh.Signer, user ssh.PublicKey) string {
	t.Helper()
	config := &ssh.ServerConfig{PublicKeyCallback: func(c ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if c.User() != "git" || !bytes.Equal(k.Marshal(), user.Marshal()) {
			return nil, fmt.Errorf("not %s", c.User())
		}
		return nil, nil
	}}
	config.AddHostKey(host)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serveSSH(c, config)
		}
	}()
	return l.Addr().String()
}

func serveSSH(c net.Conn, config *ssh.ServerConfig) {
	defer c.Close()
	_, chans, reqs, err := ssh.NewServerConn(c, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(reqs)
	for offered := range chans {
		ch, asked, err := offered.Accept()
		if err != nil {
			return
		}
		go func() {
			for r := range asked {
				var in struct{ Line string }
				if r.Type != "exec" || ssh.Unmarshal(r.Payload, &in) != nil {
					_ = r.Reply(false, nil)
					continue
				}
				_ = r.Reply(true, nil)
				runGit(ch, in.Line)
			}
		}()
	}
}

func runGit(ch ssh.Channel, line string) {
	defer ch.Close()
	program, path, _ := strings.Cut(line, " ")
	cmd := exec.Command("git", strings.TrimPrefix(program, "git-"), strings.Trim(path, "'"))
	cmd.Stdout, cmd.Stderr = ch, ch.Stderr()
	in, err := cmd.StdinPipe()
	if err != nil || cmd.Start() != nil {
		return
	}
	go func() {
		_, _ = io.Copy(in, ch)
		in.Close()
	}()
	code := uint32(0)
	if cmd.Wait() != nil {
		code = 1
	}
	_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{code}))
}

func TestGitOverSSH(t *testing.T) {
	f := newForge(t)
	host, _ := newKey(t)
	user, private := newKey(t)
	stranger, strange := newKey(t)
	addr := sshd(t, host, user.PublicKey())

	home := t.TempDir()
	write := func(name string, body []byte) string {
		at := filepath.Join(home, name)
		if err := os.WriteFile(at, body, 0o600); err != nil {
			t.Fatal(err)
		}
		return at
	}
	if err := os.Mkdir(filepath.Join(home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", home)
	t.Setenv("SSH_AUTH_SOCK", "")
	good, bad, junk := write("good", private), write("bad", strange), write("junk", []byte("no key at all"))

	for _, c := range []struct {
		name, key string
		known     ssh.PublicKey
		want      string // "" is no error
	}{
		{"all is right", good, host.PublicKey(), ""},
		{"another host key", good, stranger.PublicKey(), "known_hosts"},
		{"a stranger's key", bad, host.PublicKey(), "review"},
		{"no key", junk, host.PublicKey(), "review.ssh_key"},
		{"no file", filepath.Join(home, "none"), host.PublicKey(), "review.ssh_key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			write(".ssh/known_hosts", []byte(knownhosts.Line([]string{knownhosts.Normalize(addr)}, c.known)+"\n"))
			config := f.config()
			config.Repo, config.SSHKey = "ssh://git@"+addr+f.bare, c.key
			place := newPlace(t, config)
			if c.want == "" {
				o := propose(t, place, proposal("run-1"))
				if got := f.held(o.Branch, file); got != string(list("run-1")) {
					t.Fatalf("the branch holds %q", got)
				}
				look(t, place, o, review.Open)
				return
			}
			_, err := place.Published(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "no key at all") {
				t.Fatalf("got %v", err)
			}
		})
	}
}
