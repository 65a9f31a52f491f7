package notify

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net"
	"net/mail"
	"strings"
	"sync"
	"testing"

	"github.com/snapfw/snapfw/core/internal/config"
)

// mailServer is an SMTP server that takes what RFC 5321 and RFC 5322 allow: the order of the commands, CRLF,
// lines of 998 octets, eight bits where they were announced (RFC 6152), headers in ASCII.
type mailServer struct {
	net.Listener
	mu       sync.Mutex
	got      []letter
	refuse   map[string]string // what a recipient is answered
	asked    map[string]int    // how often each was named
	sessions sync.WaitGroup
}

type letter struct{ from, to, data string }

func serveMail(t *testing.T) *mailServer {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &mailServer{Listener: l, refuse: map[string]string{}, asked: map[string]int{}}
	s.sessions.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			s.sessions.Go(func() { s.session(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		s.sessions.Wait()
	})
	return s
}

func (s *mailServer) session(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	say := func(line string) { io.WriteString(conn, line+"\r\n") }
	say("220 mail.example ESMTP")
	var l letter
	eight := false
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		word := strings.TrimSpace(line)
		verb, rest, _ := strings.Cut(word, " ")
		switch strings.ToUpper(verb) {
		case "EHLO":
			say("250-mail.example\r\n250-SIZE 10240000\r\n250 8BITMIME")
		case "MAIL":
			l, eight = letter{from: angle(rest)}, strings.Contains(rest, "BODY=8BITMIME")
			say("250 ok")
		case "RCPT":
			say(s.recipient(&l, angle(rest)))
		case "DATA":
			if l.to == "" {
				say("503 no recipient")
				continue
			}
			say("354 go on")
			data, wrong := readMail(in, eight)
			if wrong != nil {
				say("554 " + wrong.Error())
				continue
			}
			l.data = data
			s.mu.Lock()
			s.got = append(s.got, l)
			s.mu.Unlock()
			say("250 taken")
		case "QUIT":
			say("221 bye")
			return
		default:
			say("502 not known")
		}
	}
}

func angle(s string) string {
	_, s, _ = strings.Cut(s, "<")
	s, _, _ = strings.Cut(s, ">")
	return s
}

func (s *mailServer) recipient(l *letter, to string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[to]++
	if no := s.refuse[to]; no != "" {
		if strings.HasPrefix(no, "4") {
			delete(s.refuse, to) // it is over the next time
		}
		return no
	}
	l.to = to
	return "250 ok"
}

// readMail reads up to the lone dot and says what is not allowed.
func readMail(in *bufio.Reader, eight bool) (data string, wrong error) {
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
		case !ascii && (header || !eight):
			wrong = fmt.Errorf("eight bits where seven are allowed")
		}
		header = header && text != ""
		b.WriteString(strings.TrimPrefix(text, ".") + "\n")
	}
}

func mailTo(s *mailServer, query string) *Notify {
	address := fmt.Sprintf("smtp://%s/?from=snapfw@x.example&%s", s.Addr(), query)
	return fast(config.Notify{On: config.Events, URLs: []config.URL{{Secret: config.Literal(address)}}})
}

// open reads a letter: its subject, and its text and HTML.
func (l letter) open(t *testing.T) (subject, text, html string) {
	t.Helper()
	m, err := mail.ReadMessage(strings.NewReader(l.data))
	if err != nil {
		t.Fatal(err)
	}
	if subject, err = new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject")); err != nil {
		t.Fatal(err)
	}
	to, err := m.Header.AddressList("To")
	if err != nil || len(to) != 1 || to[0].Address != l.to {
		t.Errorf("To: %v, %v; the envelope has %s", to, err, l.to)
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(m.Body)
	if err != nil {
		t.Fatal(err)
	}
	if kind == "text/plain" {
		return subject, string(body), ""
	}
	parts := multipart.NewReader(bytes.NewReader(body), params["boundary"])
	for _, into := range []*string{&text, &html} {
		part, err := parts.NextPart()
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		body, err := io.ReadAll(part)
		if err != nil {
			t.Fatal(err)
		}
		*into = string(body)
	}
	return subject, text, html
}

func TestMailHoldsTheWholeReport(t *testing.T) {
	s := serveMail(t)
	want := strings.TrimSpace(report(250 << 10))
	e := refused(want)
	e.Chain = "mäin"
	if err := mailTo(s, "to=ops@x.example,dev@x.example").Send(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if len(s.got) != 2 || s.got[0].to != "ops@x.example" || s.got[1].to != "dev@x.example" || s.got[0].from != "snapfw@x.example" {
		t.Fatalf("%d letters", len(s.got))
	}
	subject, text, _ := s.got[0].open(t)
	if subject != "snapfw: mäin n0 was refused" {
		t.Errorf("subject %q", subject)
	}
	if got := strings.TrimRight(text, "\n"); got != subject+"\njudge: a hash changed\nrun: r1\n\nThe report:\n\n"+want {
		t.Errorf("text of %d bytes begins %q", len(got), got[:min(len(got), 300)])
	}
}

func TestMailLines(t *testing.T) {
	long := strings.Repeat("ä<&\"'.", 2000)
	for _, query := range []string{"to=ops@x.example", "to=ops@x.example&usehtml=yes"} {
		s := serveMail(t)
		e := refused(long + "\n.\n..dots\x1b[31m\r\nend")
		e.Err = fmt.Errorf("%s", long)
		if err := mailTo(s, query).Send(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		subject, text, html := s.got[0].open(t)
		if !strings.HasPrefix(subject, "snapfw: main n0 was refused: ä<&") || len(subject) > 200 {
			t.Errorf("subject of %d bytes: %s", len(subject), subject)
		}
		text = strings.TrimRight(text, "\n")
		if strings.Count(strings.ReplaceAll(text, "\n", ""), long) != 2 || !strings.HasSuffix(text, "\n.\n..dots[31m\nend") {
			t.Errorf("%s: the text of %d bytes ends %q", query, len(text), text[len(text)-40:])
		}
		if strings.Contains(query, "html") && (!strings.HasPrefix(html, "<pre>") || strings.Contains(html[5:], "ä<") || !strings.Contains(html, "ä&lt;&amp;&#34;&#39;.")) {
			t.Errorf("HTML %q", html[:min(len(html), 300)])
		}
	}
}

func TestMailThatIsRefused(t *testing.T) {
	for _, c := range []struct {
		answer string
		asked  int
		ok     bool
	}{
		{"450 4.2.0 greylisted, come again", 2, true},
		{"550 5.1.1 no such user", 1, false},
	} {
		s := serveMail(t)
		s.refuse["ops@x.example"] = c.answer
		err := mailTo(s, "to=ops@x.example").Send(t.Context(), refused("bad"))
		if (err == nil) != c.ok || s.asked["ops@x.example"] != c.asked {
			t.Errorf("%s: error %v, asked %d times", c.answer, err, s.asked["ops@x.example"])
		}
	}
}
