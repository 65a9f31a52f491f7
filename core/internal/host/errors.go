package host

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
)

// Kinds of trouble with a machine, for errors.Is. Their texts are whole
// sentences that end with what to do next; see Error.
var (
	ErrUnreachable = errors.New("the machine can't be reached")
	ErrCut         = errors.New("the connection was cut") // nobody knows yet how the command ended
	ErrHostKey     = errors.New("the host key is not the known one")
	ErrKey         = errors.New("the key can't be used")
	ErrAuth        = errors.New("the login was refused")
	ErrNoSudo      = errors.New("sudo is not allowed")
	ErrNoExec      = errors.New("no folder from which a program may run")
	ErrNoBinary    = errors.New("there is no binary for this architecture")
)

// Error is trouble with one machine, said for the person who has to mend it.
type Error struct {
	Kind    error  // one of the above
	Machine string // "ubuntu@10.0.0.1"
	Msg     string // what is wrong and what to do next
	Err     error  // what was behind it; may be nil
}

func (e *Error) Error() string { return e.Machine + ": " + e.Msg }

func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

// passing tells whether an error may be gone when one tries again.
func passing(err error) bool {
	return errors.Is(err, ErrCut) || errors.Is(err, ErrUnreachable)
}

// unreachable says why a connection could not be made.
func unreachable(machine, address string, err error) error {
	why, next := "it can't be reached at "+address, "check the address, the network and that sshd runs"
	var dns *net.DNSError
	var ne net.Error
	switch {
	case errors.As(err, &dns):
		why, next = fmt.Sprintf("its name %q is not known to DNS", dns.Name), "check the spelling or write its address"
	case errors.Is(err, syscall.ECONNREFUSED):
		why, next = "nothing listens at "+address, "check that sshd runs there and that the port is right"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		why, next = "there is no route to "+address, "check the network or the VPN of this machine"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &ne) && ne.Timeout():
		why, next = "it does not answer at "+address, "check that the machine is up and that no firewall is in between"
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, net.ErrClosed):
		why, next = "it hung up before the login at "+address, "check that it is sshd that listens there, its log, and its MaxStartups"
	}
	return &Error{Kind: ErrUnreachable, Machine: machine, Msg: why + " (" + plainCause(err) + "): " + next, Err: err}
}

// plainCause is the last part of an error's text: "connection refused".
func plainCause(err error) string {
	text := err.Error()
	if i := strings.LastIndex(text, ": "); i >= 0 {
		return text[i+2:]
	}
	return text
}

// lastLine is the last line of a program's standard error that says anything, at most 500 bytes.
func lastLine(stderr []byte) string {
	text := strings.TrimSpace(string(stderr))
	if i := strings.LastIndexByte(text, '\n'); i >= 0 {
		text = strings.TrimSpace(text[i+1:])
	}
	if len(text) > 500 {
		text = text[:500]
	}
	return strings.ToValidUTF8(text, "?")
}

// sudoTrouble reads what sudo or su said when it did not run the program. It
// returns nil when the program itself failed.
func sudoTrouble(machine, login, user string, exit int, stderr []byte) error {
	text := string(stderr)
	allow := fmt.Sprintf("add to /etc/sudoers.d/snapfw there: %s ALL=(%s) NOPASSWD: ALL", login, user)
	say := func(msg string) error { return &Error{Kind: ErrNoSudo, Machine: machine, Msg: msg} }
	switch {
	case exit == 0:
		return nil
	case strings.Contains(text, "sudo: a password is required"),
		strings.Contains(text, "sudo: a terminal is required"),
		strings.Contains(text, "is not in the sudoers file"),
		strings.Contains(text, "is not allowed to execute"),
		strings.Contains(text, "may not run sudo"):
		return say(fmt.Sprintf("%s may not run programs as %s without a password: %s", login, user, allow))
	case strings.Contains(text, "sudo: unknown user"), strings.Contains(text, "su: user "+user+" does not exist"),
		strings.Contains(text, "su: unknown user"):
		return say(fmt.Sprintf("there is no user %s: check who owns the node's data", user))
	case strings.Contains(text, "sudo: you must have a tty"), strings.Contains(text, "sudo: sorry, you must have a tty"):
		return say(fmt.Sprintf("sudo wants a terminal: add to /etc/sudoers.d/snapfw there: Defaults:%s !requiretty", login))
	case exit == 127 && strings.Contains(text, "sudo"):
		return say(fmt.Sprintf("sudo is not installed, and %s is not %s: install sudo, or log in as %s", login, user, user))
	}
	return nil
}
