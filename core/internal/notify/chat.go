package notify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nicholas-fedor/shoutrrr/pkg/router"
	"github.com/nicholas-fedor/shoutrrr/pkg/services/email/smtp"

	"github.com/snapfw/snapfw/core/internal/config"
)

// chat is one address that shoutrrr knows how to reach: a chat, a mailbox or a webhook.
type chat struct {
	label string
	url   config.Secret
	on    []string // the kinds of events that it gets
	pause pauses
	via   http.RoundTripper // to Discord; nil is the default
}

func (c *chat) name(ctx context.Context) string {
	address, err := c.url.Reveal(ctx)
	if scheme, _, ok := strings.Cut(address, "://"); err == nil && ok && len(scheme) < 40 {
		service, _, _ := strings.Cut(scheme, "+")
		return fmt.Sprintf("%s (%s)", c.label, service)
	}
	return c.label
}

// titled are the services that show a title apart from the message.
var titled = []string{"generic", "ntfy", "gotify", "pushover", "pushbullet", "bark"}

func (c *chat) send(ctx context.Context, e Event) error {
	address, err := c.url.Reveal(ctx)
	if err != nil {
		return err
	}
	locate := router.ServiceRouter{}
	service, err := locate.Locate(address)
	post, isMail := service.(*smtp.Service)
	if isMail && err != nil {
		err = unusable(post, address, err)
	}
	if err != nil {
		return fmt.Errorf("the address can't be used: %s", scrub(err.Error(), address))
	}
	if isMail {
		return c.mail(ctx, post, address, e)
	}
	title := ""
	if u, err := url.Parse(address); err == nil && slices.Contains(titled, service.GetID()) &&
		!u.Query().Has("title") && !u.Query().Has("subject") {
		title = clip(e.title(), maxTitle)
	}
	tell := func(e Event) error {
		send := c.fit(ctx, service, e, title)
		return c.pause.retry(ctx, func() (bool, time.Duration, error) {
			err := deliver(ctx, send)
			if err == nil {
				return false, 0, nil
			}
			var busy *busyError
			var after time.Duration
			if errors.As(err, &busy) {
				after = busy.after
			}
			text := scrub(err.Error(), address)
			return passing.MatchString(text) && ctx.Err() == nil, after, errors.New(text)
		})
	}
	err = tell(e)
	if err != nil && e.Report != "" && !passing.MatchString(err.Error()) && ctx.Err() == nil {
		return tell(e.withoutReport())
	}
	return err
}

// passing recognises what may be over in a moment: too many requests, a fault of the server, the network.
// Services give no more than a text.
var (
	passing = regexp.MustCompile(`\b(429|5\d\d)\b|` + network)
	broken  = regexp.MustCompile(network)
)

const network = `connection re(fused|set)|broken pipe|[tT]imeout|no such host|EOF|took longer`

// deliver calls send and waits as long as a request may take. The library takes no context: one that hangs is left to itself.
func deliver(ctx context.Context, send func() error) error {
	sent := make(chan error, 1)
	go func() {
		defer func() {
			if r := recover(); r != nil {
				sent <- fmt.Errorf("the service's code panicked: %v", r)
			}
		}()
		sent <- send()
	}()
	timer := time.NewTimer(requestTime)
	defer timer.Stop()
	select {
	case err := <-sent:
		return err
	case <-timer.C:
		return fmt.Errorf("it took longer than %s", requestTime)
	case <-ctx.Done():
		return ctx.Err()
	}
}

var anyURL = regexp.MustCompile(`[A-Za-z][A-Za-z0-9+.-]*://[^\s"'<>]+`)

// scrub takes an address and each part of it that can be a token out of an error's text: services
// build other addresses from those parts. A host that is a domain stays.
func scrub(text, address string) string {
	text = strings.ReplaceAll(text, address, "***")
	text = anyURL.ReplaceAllStringFunc(text, func(u string) string {
		scheme, _, _ := strings.Cut(u, "://")
		return scheme + "://***"
	})
	parts := tokens(address)
	slices.SortFunc(parts, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	for _, part := range parts {
		text = redact(text, part)
	}
	return cut(oneLine(text), 500)
}

// tokens returns the parts of an address that may be secret, as written, decoded, and as they stand in quotes.
func tokens(address string) []string {
	var parts []string
	add := func(words ...string) {
		for _, w := range words {
			forms := []string{w}
			if plain, err := url.QueryUnescape(w); err == nil {
				forms = append(forms, plain)
			}
			if plain, err := url.PathUnescape(w); err == nil {
				forms = append(forms, plain)
			}
			for _, form := range forms {
				quoted := strconv.Quote(form)
				parts = append(parts, form, quoted[1:len(quoted)-1])
			}
		}
	}
	_, rest, ok := strings.Cut(address, "//") // also where the scheme is missing
	if !ok {
		return []string{address}
	}
	rest, query, _ := strings.Cut(rest, "?")
	authority, path, _ := strings.Cut(rest, "/")
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		user := authority[:i]
		authority = authority[i+1:]
		name, password, _ := strings.Cut(user, ":")
		add(user, name, password)
	}
	if !strings.ContainsAny(authority, ".:") { // else it is a domain or an IP with its port
		add(authority)
	}
	add(strings.Split(path, "/")...)
	for _, pair := range strings.FieldsFunc(query, func(r rune) bool { return r == '&' || r == ';' || r == '#' }) {
		_, value, _ := strings.Cut(pair, "=")
		add(value)
	}
	return slices.DeleteFunc(parts, func(s string) bool { return s == "" })
}
