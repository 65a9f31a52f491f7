package notify

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/PagerDuty/go-pagerduty"

	"github.com/snapfw/snapfw/core/internal/config"
)

// Limits of the Events API v2: https://developer.pagerduty.com/docs/events-api-v2/trigger-events/ for
// the summary (1024 characters) and the dedup_key (255), …/events-api-v2/overview/ for the
// event as a whole (512 KB). Texts in custom_details stay far below the last.
const (
	maxSummary = 1024
	maxKey     = 255
	maxDetail  = 32 << 10
	maxLink    = 2048

	maxReportDetail = 30 << 10
)

// requestTime is how long one request may take.
const requestTime = 20 * time.Second

// pager opens and resolves one incident a node.
type pager struct {
	key    config.Secret
	url    string // "" the vendor's
	client *http.Client
	pause  pauses
}

func newPager(cfg config.PagerDuty, pause pauses) *pager {
	return &pager{
		key: cfg.RoutingKey, url: strings.TrimSuffix(cfg.URL, "/"),
		client: &http.Client{Timeout: requestTime}, pause: pause,
	}
}

func (p *pager) name(context.Context) string { return "pagerduty" }

// resolves tells whether an event says that what was wrong is well again.
func (p *pager) resolves(e Event) bool { return e.Kind == UpAgain || e.Kind == Done }

// severity says how loud an event is; "" pages nobody.
func severity(kind string) string {
	return map[string]string{
		NodeDown: "critical", UndoFailed: "critical",
		Failed:  "error",
		Refused: "warning", GuardPaid: "warning",
		test: "info",
	}[kind]
}

func (p *pager) send(ctx context.Context, e Event) error {
	key, err := p.key.Reveal(ctx)
	if err != nil {
		return fmt.Errorf("routing key: %w", err)
	}
	if p.resolves(e) {
		keys := []string{dedupKey(e.Chain, e.Node)}
		if e.Kind == Done && e.Node != "" {
			keys = append(keys, dedupKey(e.Chain, "")) // an earlier run as a whole
		}
		var all []error
		for _, k := range keys {
			all = append(all, p.enqueue(ctx, key, pagerduty.V2Event{Action: "resolve", DedupKey: k}))
		}
		return errors.Join(all...)
	}
	if severity(e.Kind) == "" {
		return nil
	}
	if err := p.enqueue(ctx, key, p.trigger(e)); err != nil || e.Kind != test {
		return err
	}
	return p.enqueue(ctx, key, pagerduty.V2Event{Action: "resolve", DedupKey: dedupKey(e.Chain, e.Node)})
}

func (p *pager) trigger(e Event) pagerduty.V2Event {
	source, err := os.Hostname()
	if err != nil {
		source = "snapfw"
	}
	if e.Node != "" {
		source = e.Chain + "/" + e.Node
	}
	details := map[string]string{"event": e.Kind, "chain": e.Chain}
	for k, v := range map[string]string{"node": e.Node, "run": e.Run, "text": e.Text} {
		if v != "" {
			details[k] = cut(v, maxDetail)
		}
	}
	if e.Err != nil {
		details["error"] = cut(e.Err.Error(), maxDetail)
	}
	if e.Report != "" {
		details["report"] = e.head(maxReportDetail)
	}
	event := pagerduty.V2Event{
		Action: "trigger", DedupKey: dedupKey(e.Chain, e.Node), Client: "snapfw",
		Payload: &pagerduty.V2Payload{
			Summary: cut(e.title(), maxSummary), Source: cut(source, maxKey), Severity: severity(e.Kind),
			Timestamp: e.Time.UTC().Format(time.RFC3339), Component: cut(e.Node, maxKey),
			Group: cut(e.Chain, maxKey), Class: e.Kind, Details: details,
		},
	}
	if e.Runbook != "" && len(e.Runbook) <= maxLink {
		event.Links = []any{map[string]string{"href": e.Runbook, "text": "What to do"}}
		details["runbook"] = e.Runbook
	}
	return event
}

// dedupKey is one a node, so that whatever happens to a node is one incident.
func dedupKey(chain, node string) string {
	key := "snapfw/" + oneLine(chain)
	if node != "" {
		key += "/" + oneLine(node)
	}
	if len(key) <= maxKey {
		return key
	}
	sum := sha256.Sum256([]byte(key))
	return strings.ToValidUTF8(key[:maxKey-17], "") + "/" + hex.EncodeToString(sum[:8])
}

// enqueue sends an event until it is accepted. The vendor asks to try again on 429, on 5xx and when the
// network fails, and not on 400.
func (p *pager) enqueue(ctx context.Context, key string, event pagerduty.V2Event) error {
	event.RoutingKey = key
	return p.pause.retry(ctx, func() (bool, time.Duration, error) {
		seen := &exchange{client: p.client}
		var options []pagerduty.ClientOptions
		if p.url != "" {
			options = append(options, pagerduty.WithV2EventsAPIEndpoint(p.url))
		}
		client := pagerduty.NewClient("", options...)
		client.HTTPClient = seen
		_, err := client.ManageEventWithContext(ctx, &event)
		switch {
		case seen.status == 0 && err != nil:
			return ctx.Err() == nil, 0, errors.New(redact(err.Error(), key))
		case seen.status == http.StatusAccepted:
			return false, 0, nil // whatever the body says, it is in
		}
		again := seen.status == http.StatusTooManyRequests || seen.status >= 500
		return again, seen.after, errors.New(redact(seen.explain(), key))
	})
}

// exchange is an HTTP client that remembers what was answered: the library keeps neither the reasons
// of a 400 nor Retry-After.
type exchange struct {
	client *http.Client
	status int
	after  time.Duration
	body   []byte
}

func (x *exchange) Do(r *http.Request) (*http.Response, error) {
	resp, err := x.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	x.status = resp.StatusCode
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
		x.after = time.Duration(min(s, 3600)) * time.Second
	}
	x.body, _ = io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // what there is of a reason; the status counts
	resp.Body = io.NopCloser(bytes.NewReader(x.body))
	return resp, nil
}

func (x *exchange) explain() string {
	text := fmt.Sprintf("the Events API answered %d %s", x.status, http.StatusText(x.status))
	var reason pagerduty.V2EventResponse
	if json.Unmarshal(x.body, &reason) == nil {
		for _, s := range append([]string{reason.Message}, reason.Errors...) {
			if s != "" {
				text += ": " + cut(oneLine(s), 300)
			}
		}
	}
	if x.status == http.StatusBadRequest {
		text += " (is notify.pagerduty.routing_key the integration key of an Events API v2 integration?)"
	}
	return text
}

// redact takes a secret out of a text.
func redact(text, secret string) string {
	if len(secret) < 4 {
		return text
	}
	return strings.ReplaceAll(text, secret, "***")
}
