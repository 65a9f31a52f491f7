package host

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// SSHOptions says how to log in. The zero value does as ssh without a configuration: the agent if
// there is one, the usual files in ~/.ssh, and known_hosts checked.
type SSHOptions struct {
	KeyPath     string                                // a private key; FILE-cert.pub beside it is used too
	Passphrase  func(context.Context) ([]byte, error) // asked once, and only if the key has one
	Agent       bool                                  // also the agent at $SSH_AUTH_SOCK
	KnownHosts  []string                              // none: ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts
	HostKeys    string                                // HostKeysCheck, …
	Jump        string                                // "user@host:port" to connect through; "" is none
	DefaultUser string                                // for an Addr without one; "" the current user
	Keepalive   time.Duration                         // between two; 0 is 15 s. Three without an answer cut the connection
	DialTimeout time.Duration                         // for connecting and logging in; 0 is 20 s
}

// keyring finds the keys to log in with. The key file is read and its passphrase asked for
// once, whatever the number of machines.
type keyring struct {
	options SSHOptions
	warn    func(string)

	mu      sync.Mutex
	loaded  bool
	fromKey []named
	err     error
}

// named is a key and where it is from, for the error that lists what was tried.
type named struct {
	ssh.Signer
	from string
}

// signers are the keys in the order in which they are tried. Close the returned function's
// connection to the agent after the login.
func (k *keyring) signers(ctx context.Context) (keys []named, done func(), err error) {
	done = func() {}
	files, err := k.files(ctx)
	if err != nil {
		return nil, done, err
	}
	keys = append(keys, files...)
	socket := os.Getenv("SSH_AUTH_SOCK")
	usual := k.options.KeyPath == "" && !k.options.Agent
	if !k.options.Agent && !(usual && socket != "") {
		return keys, done, k.none(keys)
	}
	held, done, err := agentKeys(ctx, socket)
	if err != nil && !usual {
		return nil, done, fmt.Errorf("%w: %w", ErrKey, err)
	}
	keys = append(keys, held...)
	return keys, done, k.none(keys)
}

func (k *keyring) none(keys []named) error {
	if len(keys) > 0 {
		return nil
	}
	if k.options.Agent {
		return fmt.Errorf("%w: the ssh agent holds no key: add one with ssh-add", ErrKey)
	}
	return fmt.Errorf("%w: there is no key to log in with: configure a key file or the agent", ErrKey)
}

// agentKeys lists what the agent holds. The signers use its connection until done is called.
func agentKeys(ctx context.Context, socket string) ([]named, func(), error) {
	nothing := func() {}
	if socket == "" {
		return nil, nothing, errors.New("SSH_AUTH_SOCK is not set, so there is no ssh agent: start one (eval $(ssh-agent); ssh-add), or configure a key file")
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, nothing, fmt.Errorf("the ssh agent at SSH_AUTH_SOCK does not answer: %w: start it anew, or configure a key file", err)
	}
	signers, err := agent.NewClient(conn).Signers()
	if err != nil {
		conn.Close()
		return nil, nothing, fmt.Errorf("list the ssh agent's keys: %w", err)
	}
	var keys []named
	for _, s := range signers {
		keys = append(keys, named{s, "agent"})
	}
	return keys, func() { conn.Close() }, nil
}

// files loads the configured key, or the usual ones that are there.
func (k *keyring) files(ctx context.Context) ([]named, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.loaded {
		return k.fromKey, k.err
	}
	keys, err := k.load(ctx)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx) // asking was interrupted; that says nothing of the key
	}
	k.loaded, k.fromKey, k.err = true, keys, err
	return keys, err
}

func (k *keyring) load(ctx context.Context) ([]named, error) {
	if k.options.KeyPath != "" {
		return k.loadFile(ctx, k.options.KeyPath)
	}
	home, err := os.UserHomeDir()
	if err != nil || k.options.Agent {
		return nil, nil
	}
	var keys []named
	for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
		path := filepath.Join(home, ".ssh", name)
		if _, err := os.Stat(path); err != nil {
			continue
		}
		found, err := k.loadFile(ctx, path)
		if err != nil && k.options.Passphrase == nil {
			continue // one that the agent may hold opened
		}
		if err != nil {
			return nil, err
		}
		keys = append(keys, found...)
	}
	return keys, nil
}

func (k *keyring) loadFile(ctx context.Context, path string) ([]named, error) {
	body, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: read key file: %w", ErrKey, err)
	}
	defer clear(body)
	if st, err := os.Stat(path); err == nil && st.Mode().Perm()&0o077 != 0 {
		k.warn(fmt.Sprintf("the key file %s can be read by others: chmod 600 %s", path, quote(path)))
	}
	signer, err := ssh.ParsePrivateKey(body)
	var locked *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &locked):
		if signer, err = k.unlock(ctx, path, body); err != nil {
			return nil, err
		}
	case err != nil && bytes.HasPrefix(body, []byte("PuTTY-User-Key-File")):
		return nil, fmt.Errorf("%w: %s is a key of PuTTY: convert it with puttygen %s -O private-openssh", ErrKey, path, quote(path))
	case err != nil:
		return nil, fmt.Errorf("%w: %s is no private key that ssh knows: %w", ErrKey, path, err)
	}
	keys := []named{{signer, path}}
	if cert, err := os.ReadFile(path + "-cert.pub"); err == nil {
		c, err := certified(signer, cert)
		if err != nil {
			return nil, fmt.Errorf("%w: %s-cert.pub: %w", ErrKey, path, err)
		}
		keys = append([]named{{c, path + "-cert.pub"}}, keys...)
	}
	return keys, nil
}

func (k *keyring) unlock(ctx context.Context, path string, body []byte) (ssh.Signer, error) {
	if k.options.Passphrase == nil {
		return nil, fmt.Errorf("%w: %s has a passphrase and none is configured: set it, or add the key to an ssh agent", ErrKey, path)
	}
	phrase, err := k.options.Passphrase(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: ask for the passphrase of %s: %w", ErrKey, path, err)
	}
	defer clear(phrase)
	signer, err := ssh.ParsePrivateKeyWithPassphrase(body, phrase)
	if errors.Is(err, x509.IncorrectPasswordError) {
		return nil, fmt.Errorf("%w: the passphrase is not the one of %s: correct it (ssh-keygen -y -f %s tries it); no machine was touched", ErrKey, path, quote(path))
	}
	if err != nil {
		return nil, fmt.Errorf("%w: open %s with its passphrase: %w", ErrKey, path, err)
	}
	return signer, nil
}

func certified(key ssh.Signer, line []byte) (ssh.Signer, error) {
	pub, _, _, _, err := ssh.ParseAuthorizedKey(line)
	if err != nil {
		return nil, err
	}
	cert, ok := pub.(*ssh.Certificate)
	if !ok {
		return nil, errors.New("is no certificate")
	}
	return ssh.NewCertSigner(cert, key)
}

// tried lists keys as an operator compares them with authorized_keys.
func tried(keys []named) string {
	var list []string
	for _, k := range keys {
		list = append(list, fmt.Sprintf("%s %s (%s)", k.PublicKey().Type(), ssh.FingerprintSHA256(k.PublicKey()), k.from))
	}
	return strings.Join(list, ", ")
}
