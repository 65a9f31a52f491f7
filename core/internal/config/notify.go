package config

import (
	"net/url"
	"slices"
	"strings"
)

// Events are the kinds of news that notify.on can name, by what they mean.
var Events = []string{
	"node_down",   // a node is down and snapfw could not start it
	"undo_failed", // starting a node again failed, and is being tried again
	"failed",      // a run failed; every node is up
	"refused",     // a check or a judge refused a run
	"parked",      // a run waits for somebody
	"guard_paid",  // a node was started by its own machine, since snapfw was gone or too slow
	"up_again",    // a node that was down is up
	"done",        // a run succeeded
}

// Notify says who is told what.
type Notify struct {
	PagerDuty *PagerDuty `json:"pagerduty" jsonschema_description:"Page somebody: one incident a node, resolved by itself."`
	URLs      []URL      `json:"urls" jsonschema_description:"Chat, mail and webhooks as shoutrrr URLs, or references to them; {url, on} for one that gets other events."`
	On        []string   `json:"on" jsonschema_description:"Which events are told. Default: all but done."`
}

// URL is an address that may hold a token: a reference to it, or the address itself. It is
// as secret as a Secret. It is written as one text, or as a mapping {url: TEXT, on: [EVENT…]}.
type URL struct {
	Secret
	On []string // the events that it gets; nil: those of Notify.On
}

// urlEntry is the mapping that a URL may be written as.
type urlEntry struct {
	URL address  `json:"url"`
	On  []string `json:"on"`
}

// address is a URL's text.
type address struct{ Secret }

func (e *urlEntry) check(fail func(field, format string, args ...any)) {
	if e.On != nil && len(e.On) == 0 {
		fail("on", "names no event: leave it out for those of notify.on")
	}
	checkEvents(e.On, fail)
}

// PagerDuty is the Events API v2 of PagerDuty.
type PagerDuty struct {
	RoutingKey Secret `json:"routing_key" jsonschema_description:"Reference to the integration key of a service."`
	Runbook    string `json:"runbook" jsonschema_description:"Address of what to do when a node is down; it is linked."`
	Ignore     bool   `json:"ignore" jsonschema_description:"Page nobody, without removing the rest."`
	URL        string `json:"url" jsonschema_description:"Another address of the API, without its path. Default: the vendor's."`
}

func (n *Notify) defaults() {
	*n = Notify{On: slices.DeleteFunc(slices.Clone(Events), func(e string) bool { return e == "done" })}
}

func (n *Notify) check(fail func(field, format string, args ...any)) {
	checkEvents(n.On, fail)
}

func checkEvents(on []string, fail func(field, format string, args ...any)) {
	for i, e := range on {
		if !slices.Contains(Events, e) {
			fail(index("on", i), "%s is no event%s; they are %s", shorten(e), didYouMean(e, Events), strings.Join(Events, ", "))
		}
	}
}

func (p *PagerDuty) check(fail func(field, format string, args ...any)) {
	if p.RoutingKey.IsZero() && !p.Ignore {
		fail("routing_key", "is missing: write a reference to the service's integration key, as env:PAGERDUTY_KEY")
	}
	for field, text := range map[string]string{"runbook": p.Runbook, "url": p.URL} {
		if u, err := url.Parse(text); text != "" && (err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http")) {
			fail(field, "is no address: write https://…")
		}
	}
}
