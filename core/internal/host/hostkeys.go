package host

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"
	xknownhosts "golang.org/x/crypto/ssh/knownhosts"
)

// How host keys are checked: SSHOptions.HostKeys.
const (
	HostKeysCheck     = "check"      // only a key in known_hosts; also ""
	HostKeysAcceptNew = "accept-new" // the key of an unknown host is written down, a changed one refused
	HostKeysOff       = "off"        // anything
)

// hostKeys checks keys against known_hosts files. Files are read anew for each connection, so that
// a line that somebody adds counts at the next attempt.
type hostKeys struct {
	mode  string
	files []string // the first one is where accept-new writes
	warn  func(string)
	mu    sync.Mutex // one connection at a time adds lines
}

func newHostKeys(o SSHOptions, warn func(string)) (*hostKeys, error) {
	k := &hostKeys{mode: o.HostKeys, files: o.KnownHosts, warn: warn}
	switch k.mode {
	case "":
		k.mode = HostKeysCheck
	case HostKeysCheck, HostKeysAcceptNew, HostKeysOff:
	default:
		return nil, fmt.Errorf("host keys %q: it must be %q, %q or %q", k.mode, HostKeysCheck, HostKeysAcceptNew, HostKeysOff)
	}
	if len(k.files) == 0 {
		if home, err := os.UserHomeDir(); err == nil {
			k.files = append(k.files, filepath.Join(home, ".ssh", "known_hosts"))
		}
		k.files = append(k.files, "/etc/ssh/ssh_known_hosts")
	}
	return k, nil
}

// db reads the files that are there.
func (k *hostKeys) db() (*knownhosts.HostKeyDB, error) {
	var there []string
	for _, f := range k.files {
		_, err := os.Stat(f)
		switch {
		case err == nil:
			there = append(there, f)
		case !errors.Is(err, os.ErrNotExist):
			return nil, fmt.Errorf("read known hosts: %w", err)
		}
	}
	db, err := knownhosts.NewDB(there...)
	if err != nil {
		return nil, fmt.Errorf("read known hosts: %w: correct or remove that line", err)
	}
	return db, nil
}

// config fills in how the key of address ("host:port") is checked. The callback's error is
// plain: it goes to the operator as it is.
func (k *hostKeys) config(c *ssh.ClientConfig, machine, address, standing string) error {
	if k.mode == HostKeysOff {
		c.HostKeyCallback = ssh.InsecureIgnoreHostKey()
		return nil
	}
	db, err := k.db()
	if err != nil {
		return err
	}
	// What is known goes first, or the server may offer a key of another kind
	// and look as if it had changed.
	known := db.HostKeyAlgorithms(address)
	if len(known) > 0 {
		c.HostKeyAlgorithms = known
		for _, a := range ssh.SupportedAlgorithms().HostKeys {
			if !slices.Contains(known, a) {
				c.HostKeyAlgorithms = append(c.HostKeyAlgorithms, a)
			}
		}
	}
	c.HostKeyCallback = func(_ string, remote net.Addr, key ssh.PublicKey) error {
		return k.check(db, machine, address, standing, remote, key)
	}
	return nil
}

func (k *hostKeys) check(db *knownhosts.HostKeyDB, machine, address, standing string, remote net.Addr, key ssh.PublicKey) error {
	err := db.HostKeyCallback()(address, remote, key)
	if err == nil {
		return nil
	}
	say := func(msg string) error {
		return &Error{Kind: ErrHostKey, Machine: machine, Msg: msg + " (" + standing + ")", Err: err}
	}
	offered := key.Type() + " " + ssh.FingerprintSHA256(key)
	var revoked *xknownhosts.RevokedError
	var differs *xknownhosts.KeyError
	switch {
	case errors.As(err, &revoked):
		return say(fmt.Sprintf("its host key %s is revoked by %s:%d: do not connect before somebody knows why",
			offered, revoked.Revoked.Filename, revoked.Revoked.Line))
	case !errors.As(err, &differs):
		return say(fmt.Sprintf("its host key %s was not accepted: %v", offered, err))
	case len(differs.Want) > 0:
		return say(changedKey(address, offered, differs.Want))
	case k.mode == HostKeysAcceptNew:
		return k.accept(machine, address, remote, key)
	}
	host, port, _ := net.SplitHostPort(address)
	return say(fmt.Sprintf("its host key is not known (it offers %s): compare that with the machine's own, then add it to %s, for instance with: ssh-keyscan -p %s %s >> %s; or set host keys to accept-new",
		offered, k.files[0], port, host, k.files[0]))
}

func changedKey(address, offered string, want []xknownhosts.KnownKey) string {
	var lines []string
	for _, w := range want {
		lines = append(lines, fmt.Sprintf("%s:%d has %s %s", w.Filename, w.Line, w.Key.Type(), ssh.FingerprintSHA256(w.Key)))
	}
	return fmt.Sprintf("its host key has changed: it offers %s, but %s. Somebody may be in between. If the machine was set up anew, remove that line with: ssh-keygen -R %s -f %s",
		offered, strings.Join(lines, ", "), quote(knownhosts.Normalize(address)), want[0].Filename)
}

// accept writes a new host's key down. Another connection may have done so meanwhile.
func (k *hostKeys) accept(machine, address string, remote net.Addr, key ssh.PublicKey) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	db, err := k.db()
	if err != nil {
		return err
	}
	if db.HostKeyCallback()(address, remote, key) == nil {
		return nil
	}
	if len(db.HostKeys(address)) > 0 { // written down a moment ago, and it is another one
		return &Error{Kind: ErrHostKey, Machine: machine, Msg: "two connections were offered different host keys: somebody may be in between"}
	}
	file := k.files[0]
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("remember host key of %s: %w", machine, err)
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("remember host key of %s: %w", machine, err)
	}
	line := knownhosts.Line([]string{knownhosts.Normalize(address)}, key) + "\n"
	if !endsInNewline(f) {
		line = "\n" + line
	}
	_, err = f.WriteString(line)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("remember host key of %s: %w", machine, err)
	}
	k.warn(fmt.Sprintf("%s is new: its host key %s %s was accepted and written to %s", machine, key.Type(), ssh.FingerprintSHA256(key), file))
	return nil
}

// endsInNewline tells whether a file is empty or its last line is whole.
func endsInNewline(f *os.File) bool {
	st, err := f.Stat()
	if err != nil || st.Size() == 0 {
		return true
	}
	last := make([]byte, 1)
	_, err = f.ReadAt(last, st.Size()-1)
	return err != nil || last[0] == '\n'
}
