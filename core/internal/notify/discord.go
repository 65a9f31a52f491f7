package notify

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/nicholas-fedor/shoutrrr/pkg/services/chat/discord"
	"github.com/nicholas-fedor/shoutrrr/pkg/types"
)

// reportFile is what an attached report is called; Discord shows a .md file in place.
const reportFile = "report.md"

// discord returns what sends an event to a webhook of Discord as one embed, the report attached:
// https://discord.com/developers/docs/resources/webhook#execute-webhook. An embed, which the time makes it,
// notifies nobody by a name that stands in it.
func (c *chat) discord(ctx context.Context, s *discord.Service, e Event) func() error {
	s.HTTPClient = &once{ctx: ctx, client: http.Client{Transport: c.via, Timeout: requestTime}}
	item := types.MessageItem{Text: e.alone(maxMessage), Timestamp: e.Time}
	if e.Report != "" {
		item.File = &types.File{Name: reportFile, Data: []byte(e.Report)}
	}
	return func() error { return s.SendItems([]types.MessageItem{item}, &types.Params{}) }
}

// once makes one request. The library would ask again by itself, for longer than anybody waits for it.
type once struct {
	ctx    context.Context
	client http.Client
}

// busyError is an answer after which one may ask again.
type busyError struct {
	status string
	after  time.Duration // 0: it was not said
}

func (b *busyError) Error() string { return "the webhook answered " + b.status }

func (o *once) Do(r *http.Request) (*http.Response, error) {
	resp, err := o.client.Do(r.WithContext(o.ctx))
	if err != nil {
		return nil, fmt.Errorf("post: %w", err)
	}
	if resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode < 500 {
		return resp, nil
	}
	resp.Body.Close()
	busy := &busyError{status: resp.Status}
	if s, err := strconv.ParseFloat(resp.Header.Get("Retry-After"), 64); err == nil && s > 0 {
		busy.after = time.Duration(min(s, 3600) * float64(time.Second))
	}
	return nil, busy
}
