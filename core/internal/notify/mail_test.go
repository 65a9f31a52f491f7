package notify

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"strings"
	"testing"
	"time"

	"github.com/snapfw/snapfw/core/internal/config"
)

func mailTo(s *mailServer, query string) *Notify {
	return mailBy(fmt.Sprintf("smtp://%s/?from=snapfw@x.example&%s", s.Addr(), query))
}

// send sends an event to who is named in an address, and ends the server.
func (s *mailServer) send(t *testing.T, query string, e Event) error {
	t.Helper()
	defer s.end()
	return mailTo(s, query).Send(t.Context(), e)
}

func mailBy(address string) *Notify {
	return fast(config.Notify{On: config.Events, URLs: []config.URL{{Secret: config.Literal(address)}}})
}

// opened is a letter as its reader's program takes it apart.
type opened struct {
	subject, from, id string
	parts             []string // the types, a container's before those in it
	text, html        string
	file              *string // what is attached
}

// open reads a letter, each header by its rules.
func (l received) open(t *testing.T) opened {
	t.Helper()
	m, err := mail.ReadMessage(strings.NewReader(l.data))
	if err != nil {
		t.Fatal(err)
	}
	o := opened{from: m.Header.Get("From"), id: m.Header.Get("Message-ID")}
	if o.subject, err = new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject")); err != nil {
		t.Error(err)
	}
	if strings.Contains(l.to, "@") {
		to, err := m.Header.AddressList("To")
		if err != nil || len(to) != 1 || to[0].Address != l.to {
			t.Errorf("To: %v, %v; the envelope has %s", to, err, l.to)
		}
	}
	if at, err := m.Header.Date(); err != nil || time.Since(at).Abs() > time.Hour {
		t.Errorf("Date: %v, %v", at, err)
	}
	if _, err := mail.ParseAddress(o.id); err != nil || m.Header.Get("MIME-Version") != "1.0" {
		t.Errorf("Message-ID: %s, MIME-Version: %s", o.id, m.Header.Get("MIME-Version"))
	}
	o.part(t, m.Header.Get, m.Body)
	return o
}

func (o *opened) part(t *testing.T, header func(string) string, body io.Reader) {
	t.Helper()
	kind, params, err := mime.ParseMediaType(header("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	o.parts = append(o.parts, kind)
	if strings.HasPrefix(kind, "multipart/") {
		for in := multipart.NewReader(body, params["boundary"]); ; {
			part, err := in.NextRawPart()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			o.part(t, part.Header.Get, part)
		}
	}
	switch header("Content-Transfer-Encoding") {
	case "base64":
		body = base64.NewDecoder(base64.StdEncoding, body)
	case "quoted-printable":
		body = quotedprintable.NewReader(body)
	default:
		t.Errorf("%s is sent as %q", kind, header("Content-Transfer-Encoding"))
	}
	data, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.EqualFold(params["charset"], "utf-8") {
		t.Errorf("%s in %s", kind, params["charset"])
	}
	disposition, file, _ := mime.ParseMediaType(header("Content-Disposition"))
	switch {
	case disposition == "attachment":
		if o.file != nil || file["filename"] != "report.md" || kind != "text/markdown" {
			t.Errorf("attached as %s: %s", kind, file["filename"])
		}
		text := string(data)
		o.file = &text
	case kind == "text/plain":
		o.text = strings.TrimRight(string(data), "\n")
	case kind == "text/html":
		o.html = strings.TrimRight(string(data), "\n")
	}
}

// awkward is a report with what mails are known to change.
func awkward(size int) string {
	head := "# 2 changes → refused\n\n.\n..\n.dots\nFrom here\n--\n \"quotes\" 'ä' =3D\t\ntrailing \n" + strings.Repeat("ä\"'", 500) + "\n"
	return head + strings.TrimSpace(report(size-len(head)))
}

func TestMailHasTheReportAttached(t *testing.T) {
	want := awkward(250 << 10)
	if len(want) < 249<<10 || len(want) > maxReport {
		t.Fatalf("a report of %d bytes", len(want))
	}
	for query, parts := range map[string]string{
		"":             "multipart/mixed text/plain text/markdown",
		"&usehtml=yes": "multipart/mixed multipart/alternative text/plain text/html text/markdown",
	} {
		s := serveMail(t)
		e := refused(want)
		e.Chain = "mäin"
		if err := s.send(t, "to=ops@x.example,dev@x.example"+query, e); err != nil {
			t.Fatal(err)
		}
		if len(s.got) != 2 || s.got[0].to != "ops@x.example" || s.got[1].to != "dev@x.example" || s.got[0].from != "snapfw@x.example" {
			t.Fatalf("%d letters", len(s.got))
		}
		if s.asked["EHLO"] != 1 {
			t.Errorf("%d connections", s.asked["EHLO"])
		}
		ids := map[string]bool{}
		for _, l := range s.got {
			o := l.open(t)
			ids[o.id] = true
			if o.subject != "snapfw: mäin n0 was refused" || o.from != "<snapfw@x.example>" || strings.Join(o.parts, " ") != parts {
				t.Errorf("subject %q, from %s, parts %s", o.subject, o.from, o.parts)
			}
			if o.text != o.subject+"\njudge: a hash changed\nrun: r1" {
				t.Errorf("text %q", o.text)
			}
			if html := o.html != ""; html != strings.Contains(query, "html") || html && o.html != "<pre>"+o.text+"</pre>" {
				t.Errorf("HTML %q", o.html)
			}
			if o.file == nil || *o.file != want {
				t.Errorf("%s: the report is not what was attached", parts)
			}
		}
		if len(ids) != 2 || strings.Contains(strings.Join(s.heard, "\n"), "SMTPUTF8") {
			t.Errorf("Message-IDs %v; heard %q", ids, s.heard)
		}
	}
}

func TestMailWithoutAReport(t *testing.T) {
	s := serveMail(t)
	if err := s.send(t, "to=ops@x.example", refused("")); err != nil {
		t.Fatal(err)
	}
	if o := s.got[0].open(t); o.file != nil || strings.Join(o.parts, " ") != "text/plain" || o.text != o.subject+"\njudge: a hash changed\nrun: r1" {
		t.Errorf("%+v", o)
	}
}

func TestMailHoldsNoMoreThanTheLimit(t *testing.T) {
	s := serveMail(t)
	if err := s.send(t, "to=ops@x.example", refused(report(2*maxReport))); err != nil {
		t.Fatal(err)
	}
	if o := s.got[0].open(t); o.file == nil || len(*o.file) > maxReport || len(*o.file) < maxReport*9/10 || !strings.HasSuffix(*o.file, "…") {
		t.Error("the report is not cut at its limit")
	}
}

func TestMailLines(t *testing.T) {
	long := strings.Repeat("ä<&\"'.", 2000)
	for _, query := range []string{"to=ops@x.example", "to=ops@x.example&usehtml=yes"} {
		s := serveMail(t)
		e := refused(long)
		e.Text = "\n.\n..dots\x1b[31m\r\n" + strings.Repeat("<&\"'.", 2000) + "\n"
		e.Err = fmt.Errorf("%s", long)
		if err := s.send(t, query, e); err != nil {
			t.Fatal(err)
		}
		o := s.got[0].open(t)
		if !strings.HasPrefix(o.subject, "snapfw: main n0 was refused: ä<&") || len(o.subject) > 200 {
			t.Errorf("subject of %d bytes: %s", len(o.subject), o.subject)
		}
		want := "snapfw: main n0 was refused: " + long + "\n.\n..dots[31m\n" + strings.Repeat("<&\"'.", 2000) + "\nrun: r1"
		if o.text != want {
			t.Errorf("%s: the text of %d bytes ends %q", query, len(o.text), o.text[len(o.text)-40:])
		}
		if strings.Contains(query, "html") && (!strings.HasPrefix(o.html, "<pre>") || strings.Contains(o.html[5:], "ä<") || !strings.Contains(o.html, "ä&lt;&amp;&#34;&#39;.")) {
			t.Errorf("HTML %q", o.html[:min(len(o.html), 300)])
		}
	}
}

func TestMailThatIsRefused(t *testing.T) {
	for _, c := range []struct {
		what, answer string
		asked        int
		ok           bool
	}{
		{"ops@x.example", "450 4.2.0 greylisted, come again", 2, true},
		{"ops@x.example", "550 5.1.1 no such user", 1, false},
		{"", "421 4.3.2 too many connections", 2, true},
		{"", "554 5.7.1 not you", 1, false},
		{"MAIL", "452 4.3.1 no room", 2, true},
		{"MAIL", "550 5.7.1 not from you", 1, false},
		{"DATA", "451 4.3.0 later", 2, true},
		{".", "451 4.7.1 a scanner sleeps", 2, true},
		{".", "431 later", 2, true},
		{".", "552 5.3.4 too large, 450 is the limit", 1, false},
	} {
		s := serveMail(t, func(s *mailServer) { s.refuse[c.what] = c.answer })
		err := s.send(t, "to=ops@x.example", refused("bad"))
		if (err == nil) != c.ok || s.asked[c.what] != c.asked {
			t.Errorf("%s: error %v, asked %d times", c.answer, err, s.asked[c.what])
		}
		code, text, _ := strings.Cut(c.answer, " ")
		if err != nil && (!strings.Contains(err.Error(), "send the mail: ") || !strings.Contains(err.Error(), code+` "`+text+`"`)) {
			t.Errorf("error %v: want the server's answer", err)
		}
		if c.ok && (len(s.got) != 1 || *s.got[0].open(t).file != "bad") {
			t.Errorf("%s: %d letters", c.answer, len(s.got))
		}
	}
}

func TestMailReachesNobodyTwice(t *testing.T) {
	s := serveMail(t, func(s *mailServer) {
		s.refuse["later@x.example"] = "450 4.2.0 greylisted, come again"
		s.refuse["gone@x.example"] = "550 5.1.1 no such user"
	})
	err := s.send(t, "to=one@x.example,later@x.example,gone@x.example,,root,last@x.example", refused("bad"))
	if err == nil || !strings.Contains(err.Error(), `to gone@x.example: RCPT: 550 "5.1.1 no such user"`) || !strings.Contains(err.Error(), `"" is no address`) ||
		strings.Contains(err.Error(), "later@") || strings.Contains(err.Error(), "last@") {
		t.Errorf("error %v", err)
	}
	for _, to := range []string{"one@x.example", "gone@x.example", "root", "last@x.example"} {
		if s.asked[to] != 1 {
			t.Errorf("%s was asked %d times", to, s.asked[to])
		}
	}
	if len(s.got) != 4 || s.asked["later@x.example"] != 2 {
		t.Errorf("%d letters", len(s.got))
	}
}

func TestMailWhenTheLineBreaks(t *testing.T) {
	for _, where := range []string{"DATA", "."} {
		s := serveMail(t, func(s *mailServer) { s.hangUp[where] = 1 })
		if err := s.send(t, "to=one@x.example,two@x.example", refused(awkward(100<<10))); err != nil {
			t.Errorf("after %s: %v", where, err)
		}
		if len(s.got) != 2 || s.got[0].to != "one@x.example" || s.got[1].to != "two@x.example" || s.asked["EHLO"] != 2 {
			t.Errorf("after %s: %d letters over %d connections", where, len(s.got), s.asked["EHLO"])
		}
	}
}

// Nobody knows then whether the server has it: better twice than never, and to the reader's program it is one.
func TestMailIsTheSameOneWhenTheAnswerIsLost(t *testing.T) {
	s := serveMail(t, func(s *mailServer) { s.hangUp["answer"] = 1 })
	if err := s.send(t, "to=one@x.example,two@x.example", refused("bad")); err != nil {
		t.Fatal(err)
	}
	if len(s.got) != 3 || s.got[0] != s.got[1] || s.got[0].open(t).id == s.got[2].open(t).id {
		t.Errorf("letters %v", s.got)
	}
}

func TestMailThatNobodyAnswers(t *testing.T) {
	silent := func(s *mailServer) { s.silent = true }
	s := serveMail(t, silent)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := mailTo(s, "to=ops@x.example").Send(ctx, refused("bad")); err == nil || !strings.Contains(err.Error(), "deadline") {
		t.Errorf("error %v", err)
	}
	err := mailTo(serveMail(t, silent), "to=ops@x.example&encryption=ImplicitTLS&timeout=20ms").Send(t.Context(), refused("bad"))
	if err == nil || !strings.Contains(err.Error(), "took longer than") {
		t.Errorf("error %v", err)
	}
	s = serveMail(t)
	s.Close()
	if err := s.send(t, "to=ops@x.example", refused("bad")); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("error %v", err)
	}
}

func FuzzMail(f *testing.F) {
	f.Add("a  b "+strings.Repeat("long", 30)+"  c", "text\n.\n", "report =\r\n.\n", "N. \"ä\"")
	f.Add("ä\xff\x00\r\nBcc: x", strings.Repeat("é", 3000), strings.Repeat("\x1b→", 900), "\r\n x")
	for n := range 80 {
		f.Add(strings.Repeat("a", n)+"  "+strings.Repeat("b", 75), "", "", "") // a header is folded at blanks
	}
	s := serveMail(f)
	f.Fuzz(func(t *testing.T, fault, text, report, name string) {
		if len(name) > 200 {
			return
		}
		r := relayOf(t, fmt.Sprintf("smtp://%s/?from=snapfw@x.example&to=ops@x.example&usehtml=yes", s.Addr()))
		r.cfg.FromName = name
		e := Event{Kind: Refused, Chain: "main", Text: text, Err: errors.New(fault), Report: clip(visible(report), maxReport)}
		letters := r.letters(e)
		if again, err := r.deliver(t.Context(), letters); err != nil || again {
			t.Fatal(err)
		}
		o := s.got[len(s.got)-1].open(t)
		s.got = nil
		if o.text != e.alone(maxMailText) || (o.file == nil) != (e.Report == "") || o.file != nil && *o.file != e.Report {
			t.Errorf("%+v", o)
		}
		if bytes.ContainsAny([]byte(o.subject), "\r\n\x00") {
			t.Errorf("subject %q", o.subject)
		}
	})
}
