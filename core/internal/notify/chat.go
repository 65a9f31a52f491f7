package notify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nicholas-fedor/shoutrrr/pkg/router"
	"github.com/nicholas-fedor/shoutrrr/pkg/types"

	"github.com/snapfw/snapfw/core/internal/config"
)

// maxMessage is what every service takes; Discord's 2000 characters are the least.
const maxMessage = 1800

// chat is one address that shoutrrr knows how to reach: a chat, a mailbox or a webhook.
type chat struct {
	label string
	url   config.Secret
	pause pauses
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
var titled = []string{"smtp", "generic", "ntfy", "gotify", "pushover", "pushbullet", "bark"}

func (c *chat) send(ctx context.Context, e Event) error {
	address, err := c.url.Reveal(ctx)
	if err != nil {
		return err
	}
	locate := router.ServiceRouter{}
	service, err := locate.Locate(address)
	if err != nil {
		return fmt.Errorf("the address can't be used: %s", scrub(err.Error(), address))
	}
	params := types.Params{}
	if u, err := url.Parse(address); err == nil && slices.Contains(titled, service.GetID()) &&
		!u.Query().Has("title") && !u.Query().Has("subject") {
		params.SetTitle(cut(e.title(), 200))
	}
	message := cut(e.title()+"\n"+e.body(), maxMessage)
	return c.pause.retry(ctx, func() (bool, time.Duration, error) {
		err := deliver(ctx, service, strings.TrimSpace(message), params)
		if err == nil {
			return false, 0, nil
		}
		text := scrub(err.Error(), address)
		return passing.MatchString(text) && ctx.Err() == nil, 0, errors.New(text)
	})
}

// passing recognises what may be over in a moment: too many requests, a fault of the server, the network.
// Services give no more than a text.
var passing = regexp.MustCompile(`\b(429|5\d\d)\b|connection re(fused|set)|[tT]imeout|no such host|EOF|took longer`)

// deliver sends one message. The library takes no context: one that hangs is left to itself.
func deliver(ctx context.Context, service types.Service, message string, params types.Params) error {
	sent := make(chan error, 1)
	go func() {
		defer func() {
			if r := recover(); r != nil {
				sent <- fmt.Errorf("the service's code panicked: %v", r)
			}
		}()
		sent <- service.Send(message, &params)
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

// tokens returns the parts of an address that may be secret, as written and decoded.
func tokens(address string) []string {
	var parts []string
	add := func(words ...string) {
		for _, w := range words {
			parts = append(parts, w)
			if plain, err := url.QueryUnescape(w); err == nil {
				parts = append(parts, plain)
			}
			if plain, err := url.PathUnescape(w); err == nil {
				parts = append(parts, plain)
			}
		}
	}
	_, rest, ok := strings.Cut(address, "://")
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
