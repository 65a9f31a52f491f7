package notify

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	netmail "net/mail"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/nicholas-fedor/shoutrrr/pkg/services/email/smtp"
	"github.com/wneessen/go-mail"
	gosmtp "github.com/wneessen/go-mail/smtp"
)

// relay is the server that takes the mail: shoutrrr's address, field by field.
type relay struct {
	address  string // as it is written, secrets and all
	cfg      smtp.Config
	from     string
	implicit bool // TLS before the first word
	starttls mail.TLSPolicy
	login    *login // nil: none
}

// newRelay reads an address that shoutrrr has parsed. What shoutrrr would pass over is refused.
func newRelay(s *smtp.Service, address string) (*relay, error) {
	r := &relay{address: address, cfg: s.Config.Clone()}
	cfg := &r.cfg
	cfg.FixEmailTags()
	if err := wellFormed(address); err != nil {
		return nil, err
	}
	switch {
	case cfg.Timeout <= 0:
		return nil, fmt.Errorf("timeout=%s leaves no time to connect", cfg.Timeout)
	case cfg.ClientHost == "":
		return nil, errors.New("clienthost is empty")
	case cfg.RequireStartTLS && !cfg.UseStartTLS:
		return nil, errors.New("requirestarttls needs usestarttls")
	case cfg.Encryption == smtp.EncExplicitTLS && !cfg.UseStartTLS:
		return nil, errors.New("encryption ExplicitTLS needs usestarttls")
	case cfg.Auth == smtp.AuthNone && cfg.Username == "" && cfg.Password != "":
		return nil, errors.New("there is a password and no user")
	}
	var err error
	if r.from, err = mailbox(cfg.FromAddress); err != nil {
		return nil, fmt.Errorf("fromaddress: %w", err)
	}
	if cfg.ClientHost == "auto" {
		if cfg.ClientHost, err = os.Hostname(); err != nil {
			cfg.ClientHost = "localhost"
		}
	}
	r.implicit = cfg.Encryption == smtp.EncImplicitTLS || cfg.Encryption == smtp.EncAuto && cfg.Port == smtp.ImplicitTLSPort
	switch {
	case !cfg.UseStartTLS:
		r.starttls = mail.NoTLS
	case cfg.RequireStartTLS || cfg.Encryption == smtp.EncExplicitTLS:
		r.starttls = mail.TLSMandatory
	default:
		r.starttls = mail.TLSOpportunistic
	}
	if cfg.Auth != smtp.AuthNone {
		r.login = &login{cfg: cfg}
	}
	return r, nil
}

// unusable says why shoutrrr refuses an address. Its router keeps that to itself.
func unusable(s *smtp.Service, address string, err error) error {
	u, wrong := url.Parse(address)
	if wrong != nil {
		return err
	}
	if reason := s.Initialize(u, nil); reason != nil {
		return reason
	}
	return err
}

// wellFormed finds what shoutrrr takes for something else: a port out of range is 25 to it, and the second of two
// to= is nobody.
func wellFormed(address string) error {
	u, err := url.Parse(address)
	if err != nil {
		return err
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("there is no port %s", port)
		}
	}
	for key, values := range u.Query() {
		if len(values) > 1 {
			return fmt.Errorf("%s stands there %d times; several values are one with commas", key, len(values))
		}
	}
	return nil
}

// connect opens a session, with TLS and a login as the address has it. The connection ends with ctx at the latest.
func (r *relay) connect(ctx context.Context) (*gosmtp.Client, error) {
	trust := &tls.Config{ServerName: r.cfg.Host, MinVersion: tls.VersionTLS12, InsecureSkipVerify: r.cfg.SkipTLSVerify}
	options := []mail.Option{
		mail.WithPort(int(r.cfg.Port)), mail.WithHELO(r.cfg.ClientHost), mail.WithTimeout(requestTime),
		mail.WithTLSConfig(trust), mail.WithTLSPolicy(r.starttls),
		mail.WithDialContextFunc(func(dialing context.Context, network, _ string) (net.Conn, error) {
			return r.dial(ctx, dialing, network, trust)
		}),
	}
	if r.implicit {
		options = append(options, mail.WithSSL())
	}
	if r.login != nil {
		options = append(options, mail.WithSMTPAuthCustom(r.login))
	}
	if ascii(r.from) && !slices.ContainsFunc(r.cfg.ToAddresses, func(to string) bool { return !ascii(to) }) {
		options = append(options, mail.WithoutSMTPUTF8()) // a letter that asks for it needlessly gets stuck at a server without it
	}
	client, err := mail.NewClient(r.cfg.Host, options...)
	if err != nil {
		return nil, err
	}
	session, err := client.DialToSMTPClientWithContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return session, nil
}

// dial connects for as long as the address gives it. go-mail closes no connection on which a greeting, TLS or a login
// failed, and takes no IPv6 address: both are done here.
func (r *relay) dial(ctx, dialing context.Context, network string, trust *tls.Config) (net.Conn, error) {
	dialing, cancel := context.WithTimeoutCause(dialing, r.cfg.Timeout, fmt.Errorf("it took longer than %s", r.cfg.Timeout))
	defer cancel()
	conn, err := new(net.Dialer).DialContext(dialing, network, net.JoinHostPort(r.cfg.Host, strconv.Itoa(int(r.cfg.Port))))
	if err != nil {
		return nil, because(dialing, err)
	}
	context.AfterFunc(ctx, func() { conn.Close() })
	if !r.implicit {
		return conn, nil
	}
	secure := tls.Client(conn, trust)
	if err := secure.HandshakeContext(dialing); err != nil {
		return nil, because(dialing, err)
	}
	return secure, nil
}

// because is the error of what ran under ctx, or why ctx ended.
func because(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// hide takes the secrets of the address out of an error, and what was said for the login: some servers repeat it.
func (r *relay) hide(err error) error {
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	if r.login != nil {
		for _, said := range r.login.said {
			text = redact(text, said)
		}
	}
	return errors.New(scrub(text, r.address))
}

// login says who snapfw is, in the way that the address names. A password leaves this machine over TLS alone,
// unless the address switches off both kinds of it.
type login struct {
	gosmtp.Auth // chosen when the server is known
	cfg         *smtp.Config
	said        []string // in base64
}

func (l *login) Start(server *gosmtp.ServerInfo) (mechanism string, first []byte, err error) {
	user, password, host := l.cfg.Username, l.cfg.Password, l.cfg.Host
	here := slices.Contains([]string{"localhost", "127.0.0.1", "::1"}, host)
	plain := l.cfg.Encryption == smtp.EncNone && !l.cfg.UseStartTLS
	if l.cfg.Auth != smtp.AuthCRAMMD5 && !server.TLS && !here && !plain {
		return "", nil, errors.New("no password is sent without TLS, unless the address says encryption=None&usestarttls=no")
	}
	switch l.cfg.Auth {
	case smtp.AuthPlain:
		l.Auth = gosmtp.PlainAuth("", user, password, host, true)
		if slices.Contains(server.Auth, "LOGIN") && !slices.Contains(server.Auth, "PLAIN") {
			l.Auth = gosmtp.LoginAuth(user, password, host, true)
		}
	case smtp.AuthCRAMMD5:
		l.Auth = gosmtp.CRAMMD5Auth(user, password)
	case smtp.AuthOAuth2:
		l.Auth = gosmtp.XOAuth2Auth(user, password)
	default:
		return "", nil, fmt.Errorf("auth %s is not known", l.cfg.Auth)
	}
	mechanism, first, err = l.Auth.Start(server)
	l.said = append(l.said, base64.StdEncoding.EncodeToString(first))
	return mechanism, first, err
}

func (l *login) Next(challenge []byte, more bool) ([]byte, error) {
	answer, err := l.Auth.Next(challenge, more)
	l.said = append(l.said, base64.StdEncoding.EncodeToString(answer))
	return answer, err
}

var localName = regexp.MustCompile(`^[A-Za-z0-9._+-]+$`)

// mailbox reads the address of one. A name alone is somebody on the server's own machine: root.
func mailbox(s string) (string, error) {
	if localName.MatchString(s) {
		return s, nil
	}
	a, err := netmail.ParseAddress(s)
	if err != nil {
		return "", fmt.Errorf("%q is no address of a mailbox", s)
	}
	return a.Address, nil
}

// angled is a mailbox as headers and commands have it.
func angled(name, box string) string {
	s := (&netmail.Address{Name: name, Address: box}).String()
	if local, bare := strings.CutSuffix(s, "@>"); bare {
		return local + ">"
	}
	return s
}

func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r > 0x7e })
}
