package notify

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net/url"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/nicholas-fedor/shoutrrr/pkg/router"
	"github.com/nicholas-fedor/shoutrrr/pkg/services/email/smtp"
)

// relayOf reads an address.
func relayOf(t *testing.T, address string) *relay {
	t.Helper()
	locate := router.ServiceRouter{}
	service, err := locate.Locate(address)
	if err != nil {
		t.Fatal(err)
	}
	r, err := newRelay(service.(*smtp.Service), address)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// loginTo is an address with a password. localhost is 127.0.0.1, where a password needs no TLS; elsewhere is the
// same machine under a name for which it does.
func loginTo(s *mailServer, host, query string) string {
	_, port, _ := strings.Cut(s.Addr().String(), ":")
	u := url.URL{Scheme: "smtp", User: url.UserPassword(mailUser, mailPassword), Host: host + ":" + port, Path: "/"}
	u.RawQuery = "from=snapfw@x.example&to=ops@x.example" + query
	return u.String()
}

const (
	here      = "127.0.0.1"
	elsewhere = "[::ffff:127.0.0.1]"
)

// tells finds the password in what a server heard, as it is or in base64.
func (s *mailServer) tells(secret string) (heard, open bool) {
	for _, line := range s.heard {
		for word := range strings.FieldsSeq(line) {
			plain, _ := base64.StdEncoding.DecodeString(word)
			if strings.Contains(word, secret) || strings.Contains(string(plain), secret) {
				heard, open = true, open || !strings.HasPrefix(line, "TLS: ")
			}
		}
	}
	return heard, open
}

// secretsIn finds what must not be in an error: the password or a part of it that quoting leaves alone, and what is
// said for the login.
func secretsIn(err error) string {
	for _, s := range []string{mailUser, "p4ss", "wörd", "w%C3%B6rd"} {
		if strings.Contains(err.Error(), s) {
			return s
		}
	}
	for word := range strings.FieldsFuncSeq(err.Error(), func(r rune) bool { return strings.ContainsRune(" \"':;,", r) }) {
		if plain, _ := base64.StdEncoding.DecodeString(word); strings.Contains(string(plain), mailUser) || strings.Contains(string(plain), "wörd") {
			return word
		}
	}
	return ""
}

func TestMailLogin(t *testing.T) {
	const all = "CRAM-MD5 PLAIN LOGIN XOAUTH2"
	for _, c := range []struct {
		name, query, logins string
		implicit            bool
		heard               string
		password            bool // is sent
	}{
		{"by itself", "", all, false, "TLS: AUTH PLAIN ", true},
		{"plain", "&auth=plain&requirestarttls=yes", all, false, "TLS: AUTH PLAIN ", true},
		{"no other than LOGIN", "", "LOGIN XOAUTH2", false, "TLS: AUTH LOGIN", true},
		{"TLS from the start", "&encryption=ImplicitTLS", all, true, "TLS: AUTH PLAIN ", true},
		{"TLS from the start, LOGIN", "&encryption=ImplicitTLS&usestarttls=no", "LOGIN", true, "TLS: AUTH LOGIN", true},
		{"explicit TLS", "&encryption=ExplicitTLS", all, false, "TLS: AUTH PLAIN ", true},
		{"no TLS from the start", "&encryption=None", all, false, "TLS: AUTH PLAIN ", true},
		{"a hash", "&auth=CRAMMD5", all, false, "TLS: AUTH CRAM-MD5", false},
		{"a token", "&auth=OAuth2", all, false, "TLS: AUTH XOAUTH2 ", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serveMail(t, func(s *mailServer) {
				s.tls, s.logins, s.implicit = trusted("127.0.0.1"), c.logins, c.implicit
			})
			if err := mailBy(loginTo(s, elsewhere, c.query)).Send(t.Context(), refused("bad")); err != nil {
				t.Fatal(err)
			}
			s.end()
			if len(s.got) != 1 || !strings.Contains(strings.Join(s.heard, "\n"), c.heard) {
				t.Errorf("heard %q", s.heard)
			}
			if heard, open := s.tells(mailPassword); heard != c.password || open {
				t.Errorf("the password: sent %v, without TLS %v", heard, open)
			}
		})
	}
}

func TestMailPasswordThatIsWrong(t *testing.T) {
	for _, query := range []string{"", "&auth=CRAMMD5", "&auth=OAuth2"} {
		for _, logins := range []string{"CRAM-MD5 PLAIN XOAUTH2", "LOGIN"} {
			s := serveMail(t, func(s *mailServer) { s.tls, s.logins = trusted("127.0.0.1"), logins })
			address := strings.Replace(loginTo(s, here, query), "p4ss", "secret-p4ss", 1)
			err := mailBy(address).Send(t.Context(), refused("bad"))
			s.end()
			if err == nil || !strings.Contains(err.Error(), `535 "5.7.8`) || s.asked["AUTH"] != 1 {
				t.Errorf("error %v, asked %d times", err, s.asked["AUTH"])
				continue
			}
			if found := secretsIn(err); found != "" {
				t.Errorf("error %v holds %s", err, found)
			}
		}
	}
	s := serveMail(t, func(s *mailServer) {
		s.tls, s.logins, s.refuse["AUTH"] = trusted("127.0.0.1"), "PLAIN", "454 4.7.0 the directory sleeps"
	})
	err := mailBy(loginTo(s, here, "")).Send(t.Context(), refused("bad"))
	s.end()
	if err != nil || s.asked["AUTH"] != 2 {
		t.Errorf("error %v, asked %d times", err, s.asked["AUTH"])
	}
}

func TestMailWithAWrongCertificate(t *testing.T) {
	for name, c := range map[string]tls.Certificate{
		"unknown authority":                  certificate(nil, "127.0.0.1"),
		"valid for 192.0.2.1, not 127.0.0.1": certificate(&authority, "192.0.2.1"),
	} {
		for query, implicit := range map[string]bool{"": false, "&encryption=ImplicitTLS": true} {
			serve := func() *mailServer {
				return serveMail(t, func(s *mailServer) {
					s.tls, s.logins, s.implicit = &tls.Config{Certificates: []tls.Certificate{c}}, "PLAIN", implicit
				})
			}
			s := serve()
			err := mailBy(loginTo(s, here, query)).Send(t.Context(), refused("bad"))
			s.end()
			if err == nil || !strings.Contains(err.Error(), "failed to verify certificate") || !strings.Contains(err.Error(), name) || secretsIn(err) != "" {
				t.Errorf("%s: error %v", name, err)
			}
			if heard, _ := s.tells(mailPassword); heard || s.asked["AUTH"] != 0 || s.asked["EHLO"] > 1 || len(s.got) != 0 {
				t.Errorf("%s: heard %q", name, s.heard)
			}
			s = serve()
			err = mailBy(loginTo(s, here, query+"&skiptlsverify=yes")).Send(t.Context(), refused("bad"))
			s.end()
			if err != nil || len(s.got) != 1 {
				t.Errorf("%s: unverified: error %v", name, err)
			}
		}
	}
}

func TestMailPasswordNeedsTLS(t *testing.T) {
	for _, c := range []struct {
		host, query string
		starttls    bool // the server has it
		want        string
	}{
		{elsewhere, "", false, "no password is sent without TLS"},
		{elsewhere, "&encryption=None", false, "no password is sent without TLS"},
		{elsewhere, "&usestarttls=no", true, "no password is sent without TLS"},
		{elsewhere, "&auth=OAuth2", false, "no password is sent without TLS"},
		{elsewhere, "&requirestarttls=yes", false, "does not support STARTTLS"},
		{elsewhere, "&encryption=ExplicitTLS", false, "does not support STARTTLS"},
		{elsewhere, "&encryption=None&usestarttls=no", true, ""}, // the address says so
		{elsewhere, "&auth=CRAMMD5", false, ""},                  // a hash
		{elsewhere, "&auth=none", false, `530 "5.7.0 who are you?"`},
		{here, "", false, ""}, // nobody else hears it
	} {
		s := serveMail(t, func(s *mailServer) {
			s.logins = "PLAIN CRAM-MD5 XOAUTH2"
			if c.starttls {
				s.tls = trusted("127.0.0.1")
			}
		})
		err := mailBy(loginTo(s, c.host, c.query)).Send(t.Context(), refused("bad"))
		s.end()
		if c.want == "" {
			if err != nil || len(s.got) != 1 {
				t.Errorf("%s %s: error %v", c.host, c.query, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || secretsIn(err) != "" || s.asked["EHLO"] != 1 {
			t.Errorf("%s %s: error %v after %d connections", c.host, c.query, err, s.asked["EHLO"])
		}
		if heard, _ := s.tells(mailPassword); heard || s.asked["AUTH"] != 0 {
			t.Errorf("%s %s: heard %q", c.host, c.query, s.heard)
		}
	}
}

func TestMailAddressOptions(t *testing.T) {
	var s *mailServer
	send := func(query string) opened {
		t.Helper()
		s = serveMail(t)
		defer s.end()
		address := fmt.Sprintf("smtp://%s/?%s", s.Addr(), query)
		if err := mailBy(address).Send(t.Context(), refused("")); err != nil || len(s.got) != 1 {
			t.Fatalf("%s: %v", query, err)
		}
		return s.got[0].open(t)
	}
	machine, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ query, subject, from, hello string }{
		{"fromaddress=a@x.example&toaddresses=b@x.example&subject=ours+%C3%A4", "ours ä", "<a@x.example>", "localhost"},
		{"from=a@x.example&to=b@x.example&Title=ours&fromname=Night+watch&clienthost=snap.example", "ours", `"Night watch" <a@x.example>`, "snap.example"},
		{"from=a@x.example&to=b@x.example&fromname=%C3%A4&clienthost=auto", "snapfw: main n0 was refused", "=?utf-8?q?=C3=A4?= <a@x.example>", machine},
		{"from=a+c@x.example&to=b@x.example&timeout=1m", "snapfw: main n0 was refused", "<a+c@x.example>", "localhost"},
		{"from=root&to=b+tag@x.example&fromname=Root", "snapfw: main n0 was refused", `"Root" <root>`, "localhost"},
	} {
		o := send(c.query)
		if o.subject != c.subject || o.from != c.from || s.heard[0] != "EHLO "+c.hello {
			t.Errorf("%s: subject %q, from %s, %s", c.query, o.subject, o.from, s.heard[0])
		}
	}
	send("from=a@x.example&to=b@b%C3%BCcher.example")
	if !strings.Contains(strings.Join(s.heard, "\n"), "SMTPUTF8") {
		t.Errorf("heard %q", s.heard)
	}
}

func TestMailTLSByThePort(t *testing.T) {
	for address, want := range map[string]bool{
		"x.example:465": true, "x.example:465/?encryption=None": false, "x.example:465/?encryption=ExplicitTLS": false,
		"x.example": false, "x.example:587": false, "x.example/?encryption=ImplicitTLS": true,
	} {
		host, query, _ := strings.Cut(address, "/?")
		if r := relayOf(t, "smtp://"+host+"/?from=a@x.example&to=b@x.example&"+query); r.implicit != want {
			t.Errorf("%s: TLS from the start %v", address, r.implicit)
		}
	}
}

func TestMailAddressesThatAreRefused(t *testing.T) {
	for query, want := range map[string]string{
		":25/?from=a@x.example&to=b@x.example&timeout=0s":                         "no time to connect",
		":25/?from=a@x.example&to=b@x.example&clienthost=":                        "clienthost is empty",
		":25/?from=a@x.example&to=b@x.example&requirestarttls=yes&usestarttls=no": "requirestarttls needs usestarttls",
		":25/?from=a@x.example&to=b@x.example&encryption=explicittls&starttls=no": "needs usestarttls",
		":25/?from=a@x.example&to=b@x.example&to=c@x.example":                     "to stands there 2 times",
		":99999/?from=a@x.example&to=b@x.example":                                 "no port 99999",
		":0/?from=a@x.example&to=b@x.example":                                     "no port 0",
		"/?from=@&to=b@x.example":                                                 "fromaddress: ",
		"/?from=a@x.example":                                                      "toAddress missing",
		"/?from=a@x.example&to=b@x.example&auth=digest":                           "auth",
		"/?from=a@x.example&to=b@x.example&nosuch=1":                              "not a valid config key",
	} {
		err := mailBy("smtp://nobody.invalid"+query).Send(t.Context(), refused("bad"))
		if err == nil || !strings.Contains(err.Error(), "the address can't be used: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", query, err, want)
		}
	}
	err := mailBy("smtp://:tok3n-abcdef@nobody.invalid/?from=a@x.example&to=b@x.example").Send(t.Context(), refused("bad"))
	if err == nil || !strings.Contains(err.Error(), "a password and no user") || strings.Contains(err.Error(), "abcdef") {
		t.Errorf("error %v", err)
	}
}

// A field that a later shoutrrr adds has to mean something here, too.
func TestMailKnowsEveryFieldOfAnAddress(t *testing.T) {
	known := "Host Username Password Port FromAddress FromName ToAddresses Subject Auth Encryption UseStartTLS UseHTML ClientHost " +
		"RequireStartTLS SkipTLSVerify Timeout"
	var fields []string
	for field := range reflect.TypeFor[smtp.Config]().Fields() {
		fields = append(fields, field.Name)
	}
	if got := strings.Join(fields, " "); got != known {
		t.Errorf("shoutrrr's fields are %s", got)
	}
}
