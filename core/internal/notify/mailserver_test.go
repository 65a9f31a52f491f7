package notify

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// mailServer is an SMTP server that takes what RFC 5321 and RFC 5322 allow: the order of the commands, CRLF,
// lines of 998 octets, eight bits where they were announced (RFC 6152), headers in ASCII
// without SMTPUTF8 (RFC 6531). With STARTTLS (RFC 3207)
// it forgets what was said before, and with AUTH (RFC 4954) it takes no mail from strangers.
type mailServer struct {
	net.Listener
	tls      *tls.Config // nil: no STARTTLS
	implicit bool        // TLS from the start
	logins   string      // the mechanisms that are offered; "" is no AUTH
	silent   bool        // it takes connections and says nothing

	mu       sync.Mutex
	got      []received
	refuse   map[string]string // what a recipient, a command, a letter (".") or a connection ("") is answered
	hangUp   map[string]int    // how often the connection breaks: after DATA, before a letter's "answer", after it (".")
	asked    map[string]int    // how often a recipient was named, a command was heard
	heard    []string          // the commands, with "TLS: " before them where nobody else could hear
	sessions sync.WaitGroup
}

type received struct{ from, to, data string }

const (
	mailUser     = "snapfw@x.example"
	mailPassword = `p4ss/"wörd\"&1`
)

func serveMail(t testing.TB, with ...func(*mailServer)) *mailServer {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &mailServer{Listener: l, refuse: map[string]string{}, hangUp: map[string]int{}, asked: map[string]int{}}
	for _, set := range with {
		set(s)
	}
	s.sessions.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			s.sessions.Go(func() { s.session(conn) })
		}
	})
	t.Cleanup(s.end)
	return s
}

// end waits until everything was heard. It hangs where a client leaves its connection open.
func (s *mailServer) end() {
	s.Close()
	s.sessions.Wait()
}

// no is what something is refused with. One that begins with 4 is over the next time.
func (s *mailServer) no(what string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[what]++
	no := s.refuse[what]
	if strings.HasPrefix(no, "4") {
		delete(s.refuse, what)
	}
	return no
}

func (s *mailServer) breaks(where string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hangUp[where]--
	return s.hangUp[where] >= 0
}

func (s *mailServer) session(conn net.Conn) {
	defer conn.Close()
	if s.silent {
		io.Copy(io.Discard, conn)
		return
	}
	if s.implicit {
		conn = tls.Server(conn, s.tls)
	}
	k := &talk{mailServer: s, conn: conn, in: bufio.NewReader(conn), secure: s.implicit}
	if no := s.no(""); no != "" {
		k.say(no)
		return
	}
	k.say("220 mail.example ESMTP")
	for {
		line, ok := k.hear()
		if !ok {
			return
		}
		verb, rest, _ := strings.Cut(line, " ")
		verb = strings.ToUpper(verb)
		if no := s.no(verb); no != "" {
			k.say(no)
		} else if !k.answer(verb, rest) {
			return
		}
	}
}

// talk is one connection.
type talk struct {
	*mailServer
	conn                       net.Conn
	in                         *bufio.Reader
	secure, hello, known, open bool
	eight, utf8                bool
	l                          received
	last                       string // what was heard
}

func (k *talk) say(line string) { io.WriteString(k.conn, line+"\r\n") }

func (k *talk) hear() (string, bool) {
	line, err := k.in.ReadString('\n')
	line = strings.TrimSpace(line)
	k.last = line
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.secure {
		k.heard = append(k.heard, "TLS: "+line)
	} else {
		k.heard = append(k.heard, line)
	}
	return line, err == nil
}

func (k *talk) answer(verb, rest string) (goOn bool) {
	switch {
	case verb == "QUIT":
		k.say("221 bye")
		return false
	case verb == "EHLO":
		k.hello, k.open = true, false
		extensions := "250-mail.example\r\n250-SIZE 10240000\r\n250-SMTPUTF8\r\n"
		if k.tls != nil && !k.secure {
			extensions += "250-STARTTLS\r\n"
		}
		if k.logins != "" {
			extensions += "250-AUTH " + k.logins + "\r\n"
		}
		k.say(extensions + "250 8BITMIME")
	case verb == "STARTTLS" && k.tls != nil && !k.secure:
		k.say("220 go on")
		k.conn = tls.Server(k.conn, k.tls)
		k.in = bufio.NewReader(k.conn)
		k.secure, k.hello = true, false
	case verb == "AUTH" && k.hello && k.logins != "" && !k.known:
		k.known = k.login(rest)
		if k.known {
			k.say("235 2.7.0 welcome")
		} else {
			said := k.last[strings.LastIndex(k.last, " ")+1:]
			plain, _ := base64.StdEncoding.DecodeString(said)
			k.say("535 5.7.8 not " + said + " " + strings.ReplaceAll(string(plain), "\x00", " ")) // careless servers repeat it
		}
	case verb == "RSET":
		k.open = false
		k.say("250 ok")
	case verb == "MAIL" && k.hello && k.logins != "" && !k.known:
		k.say("530 5.7.0 who are you?")
	case verb == "MAIL" && k.hello && !k.open:
		k.open, k.l = true, received{from: angle(rest)}
		k.eight, k.utf8 = strings.Contains(rest, "BODY=8BITMIME"), strings.Contains(rest, "SMTPUTF8")
		k.say("250 ok")
	case verb == "RCPT" && k.open:
		to := angle(rest)
		if no := k.no(to); no != "" {
			k.say(no)
			break
		}
		k.l.to = to
		k.say("250 ok")
	case verb == "DATA" && k.open && k.l.to != "":
		k.open = false
		return k.letter()
	default:
		k.say("503 not now")
	}
	return true
}

func (k *talk) letter() (goOn bool) {
	k.say("354 go on")
	if k.breaks("DATA") {
		return false
	}
	data, wrong := readMail(k.in, k.eight, k.utf8)
	if wrong != nil {
		k.say("554 " + wrong.Error())
		return true
	}
	if no := k.no("."); no != "" {
		k.say(no)
		return true
	}
	k.l.data = data
	k.mu.Lock()
	k.got = append(k.got, k.l)
	k.mu.Unlock()
	if k.breaks("answer") {
		return false
	}
	k.say("250 taken")
	return !k.breaks(".")
}

// login checks what a client says for itself.
func (k *talk) login(rest string) bool {
	mechanism, first, _ := strings.Cut(rest, " ")
	ask := func(challenge string) string {
		k.say("334 " + base64.StdEncoding.EncodeToString([]byte(challenge)))
		line, _ := k.hear()
		plain, _ := base64.StdEncoding.DecodeString(line)
		return string(plain)
	}
	plain, _ := base64.StdEncoding.DecodeString(first)
	switch mechanism {
	case "PLAIN":
		return string(plain) == "\x00"+mailUser+"\x00"+mailPassword
	case "LOGIN":
		return ask("Username:") == mailUser && ask("Password:") == mailPassword
	case "CRAM-MD5":
		mac := hmac.New(md5.New, []byte(mailPassword))
		io.WriteString(mac, "<1.2@mail.example>")
		return ask("<1.2@mail.example>") == fmt.Sprintf("%s %x", mailUser, mac.Sum(nil))
	case "XOAUTH2":
		return string(plain) == "user="+mailUser+"\x01auth=Bearer "+mailPassword+"\x01\x01"
	}
	return false
}

func angle(s string) string {
	_, s, _ = strings.Cut(s, "<")
	s, _, _ = strings.Cut(s, ">")
	return s
}

// readMail reads up to the lone dot and says what is not allowed.
func readMail(in *bufio.Reader, eight, utf8 bool) (data string, wrong error) {
	var b strings.Builder
	header := true
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return "", err
		}
		if line == ".\r\n" {
			return b.String(), wrong
		}
		text, crlf := strings.CutSuffix(line, "\r\n")
		ascii := !strings.ContainsFunc(text, func(r rune) bool { return r > 0x7e })
		switch {
		case !crlf || strings.ContainsRune(text, '\r'):
			wrong = fmt.Errorf("a line does not end in CRLF")
		case len(text) > 998:
			wrong = fmt.Errorf("a line has %d octets", len(text))
		case !ascii && (header && !utf8 || !eight):
			wrong = fmt.Errorf("eight bits where seven are allowed")
		case header && text != "" && strings.Trim(text, " \t") == "":
			wrong = fmt.Errorf("a line of blanks in the header")
		}
		header = header && text != ""
		b.WriteString(strings.TrimPrefix(text, ".") + "\n")
	}
}

// authority signs the certificates that the system trusts in these tests: TestMain sets SSL_CERT_FILE, which is
// read once in the life of a process.
var authority tls.Certificate

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "snapfw-notify-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		authority = certificate(nil, "authority.example")
		file := filepath.Join(dir, "ca.pem")
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Certificate[0]}), 0o600); err != nil {
			panic(err)
		}
		os.Setenv("SSL_CERT_FILE", file)
		return m.Run()
	}())
}

// certificate makes one for a host; by is nil for one that signs itself.
func certificate(by *tls.Certificate, host string) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: by == nil, BasicConstraintsValid: true,
	}
	if ip := net.ParseIP(host); ip != nil {
		c.IPAddresses = []net.IP{ip}
	} else {
		c.DNSNames = []string{host}
	}
	parent, signer := c, any(key)
	if by != nil {
		parent, signer = by.Leaf, by.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		panic(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: c}
}

// trusted is a server's side of TLS with a certificate of the authority.
func trusted(host string) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{certificate(&authority, host)}}
}
