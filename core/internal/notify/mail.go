package notify

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"html"
	"net/textproto"
	"strings"
	"time"

	"github.com/nicholas-fedor/shoutrrr/pkg/services/email/smtp"
	"github.com/wneessen/go-mail"
	gosmtp "github.com/wneessen/go-mail/smtp"
)

// letter is an event for one reader. It is written once, and has the same Message-ID whenever it is sent: who takes
// it twice, since the line broke before the server's answer, can tell.
type letter struct {
	to   string
	data []byte
	done bool  // taken, or refused for ever
	err  error // why it was not taken
}

// mail sends an event to each reader that an address names, in a letter of its own with the report attached.
// A reader whose letter was taken is not written to again. go-mail sends it: shoutrrr's own service can't attach.
func (c *chat) mail(ctx context.Context, s *smtp.Service, address string, e Event) error {
	r, err := newRelay(s, address)
	if err != nil {
		return fmt.Errorf("the address can't be used: %s", scrub(err.Error(), address))
	}
	letters := r.letters(e)
	return c.pause.retry(ctx, func() (bool, time.Duration, error) {
		again, err := r.deliver(ctx, letters)
		if err == nil {
			return false, 0, nil
		}
		return again && ctx.Err() == nil, 0, fmt.Errorf("send the mail: %w", r.hide(err))
	})
}

// letters writes an event to each reader. One who has no proper address is done with, and keeps nobody else from theirs.
func (r *relay) letters(e Event) []*letter {
	var all []*letter
	for _, name := range r.cfg.ToAddresses {
		l := &letter{to: name}
		if l.to, l.err = mailbox(name); l.err == nil {
			l.data, l.err = r.write(e, l.to)
		}
		l.done = l.err != nil
		all = append(all, l)
	}
	return all
}

// write makes the letter: the message as text, and as HTML where the address wants it, and the report as a file.
func (r *relay) write(e Event, to string) ([]byte, error) {
	m := mail.NewMsg(mail.WithNoDefaultUserAgent())
	m.SetGenHeaderPreformatted(mail.Header(mail.HeaderFrom), angled(r.cfg.FromName, r.from))
	m.SetGenHeaderPreformatted(mail.Header(mail.HeaderTo), angled("", to))
	subject := r.cfg.Subject
	if subject == "" {
		subject = clip(e.title(), maxTitle)
	}
	// It is folded at blanks, and two of them could make a line of nothing else: the header's end to some servers.
	m.Subject(strings.Join(strings.Fields(subject), " "))
	_, domain, ok := strings.Cut(r.from, "@")
	if !ok {
		domain = "localhost"
	}
	m.SetMessageIDWithValue(rand.Text() + "@" + domain)
	text := e.alone(maxMailText)
	m.SetBodyString(mail.TypeTextPlain, text)
	if r.cfg.UseHTML {
		m.AddAlternativeString(mail.TypeTextHTML, "<pre>"+html.EscapeString(text)+"</pre>")
	}
	if e.Report != "" {
		if err := m.AttachReader(reportFile, strings.NewReader(e.Report), mail.WithFileContentType("text/markdown; charset=utf-8")); err != nil {
			return nil, fmt.Errorf("attach the report: %w", err)
		}
	}
	var b bytes.Buffer
	if _, err := m.WriteTo(&b); err != nil {
		return nil, fmt.Errorf("write the letter: %w", err)
	}
	return b.Bytes(), nil
}

// deliver sends what is not done with over one connection, for as long as a request may take. It says whether
// another attempt may do better.
func (r *relay) deliver(ctx context.Context, letters []*letter) (again bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, requestTime, fmt.Errorf("it took longer than %s", requestTime))
	defer cancel()
	lost := r.send(ctx, letters)
	if lost != nil && ctx.Err() != nil {
		lost = context.Cause(ctx)
	}
	open := false
	var why []error
	for _, l := range letters {
		open = open || !l.done
		if l.err != nil {
			why = append(why, fmt.Errorf("to %s: %w", l.to, l.err))
		}
	}
	if open && lost != nil {
		why = append([]error{lost}, why...)
	}
	return open && (lost == nil || fleeting(lost)), errors.Join(why...)
}

// send returns what ended the connection before its time. What a reader's letter was answered is in the letter.
func (r *relay) send(ctx context.Context, letters []*letter) (lost error) {
	defer func() {
		if p := recover(); p != nil {
			lost = fmt.Errorf("the mail's code panicked: %v", p)
		}
	}()
	var session *gosmtp.Client
	for _, l := range letters {
		if l.done {
			continue
		}
		if session == nil {
			if session, lost = r.connect(ctx); lost != nil {
				return lost
			}
		}
		err := l.hand(session, r.from)
		var reply *textproto.Error
		if err != nil && !errors.As(err, &reply) {
			return err // without a QUIT, which would end a half letter as if it were whole
		}
		l.err, l.done = err, err == nil || reply.Code/100 != 4
		if err == nil {
			continue
		}
		if err := session.Reset(); err != nil {
			return fmt.Errorf("RSET: %w", err)
		}
	}
	if session != nil {
		_ = session.Quit() // what was taken is taken
	}
	return nil
}

func (l *letter) hand(session *gosmtp.Client, from string) error {
	if err := session.Mail(angled("", from)); err != nil {
		return fmt.Errorf("MAIL: %w", err)
	}
	if err := session.Rcpt(angled("", l.to)); err != nil {
		return fmt.Errorf("RCPT: %w", err)
	}
	data, err := session.Data()
	if err != nil {
		return fmt.Errorf("DATA: %w", err)
	}
	if _, err := data.Write(l.data); err != nil {
		return fmt.Errorf("DATA: %w", err)
	}
	if err := data.Close(); err != nil {
		return fmt.Errorf("end of DATA: %w", err)
	}
	return nil
}

// fleeting tells whether a fault may be over in a moment. A mail server says 4xx for that, and 5xx for ever.
func fleeting(err error) bool {
	var reply *textproto.Error
	if errors.As(err, &reply) {
		return reply.Code/100 == 4
	}
	return broken.MatchString(err.Error())
}
