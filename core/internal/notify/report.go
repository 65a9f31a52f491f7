package notify

import (
	"context"
	"strings"
	"unicode/utf8"

	"github.com/nicholas-fedor/shoutrrr/pkg/services/chat/discord"
	"github.com/nicholas-fedor/shoutrrr/pkg/services/specialized/generic"
	"github.com/nicholas-fedor/shoutrrr/pkg/types"
)

// Limits in bytes.
const (
	maxReport   = 256 << 10 // of Event.Report
	maxMessage  = 1800      // what every service takes; Discord's 2000 characters are the least
	maxTitle    = 200
	maxMailText = 32 << 10 // of a mail, beside the report
)

// reportField is the field of a webhook's JSON that holds the report.
const reportField = "report"

// fit returns what sends an event in the form that a service takes: the report beside the message
// where that can be, else below it.
func (c *chat) fit(ctx context.Context, service types.Service, e Event, title string) func() error {
	params := types.Params{}
	if title != "" {
		params.SetTitle(title)
	}
	message := e.withHead(maxMessage)
	switch s := service.(type) {
	case *discord.Service:
		if !s.Config.JSON {
			return c.discord(ctx, s, e)
		}
	case *generic.Service:
		if e.Report != "" && strings.EqualFold(s.Config.Template, generic.JSONTemplate) && s.Config.TitleKey != reportField && s.Config.MessageKey != reportField {
			params[reportField] = e.Report
			message = e.alone(maxMessage)
		}
	}
	return func() error { return service.Send(message, &params) }
}

// alone is the message without the report.
func (e Event) alone(limit int) string {
	return clip(visible(e.title()+"\n"+e.body()), limit)
}

// withHead is the message with as much of the report as fits below it.
func (e Event) withHead(limit int) string {
	text := e.alone(limit)
	switch {
	case e.Report == "":
		return text
	case len(text)+2+len(e.Report) <= limit:
		return text + "\n\n" + e.Report
	}
	const least = 200 // less of a report says nothing
	text = e.alone(limit - least - len(e.rest()))
	return text + "\n\n" + e.head(limit-len(text)-2)
}

// head is the report, or its beginning and where the rest is.
func (e Event) head(limit int) string {
	if len(e.Report) <= limit {
		return e.Report
	}
	return clip(e.Report, limit-len(e.rest())) + e.rest()
}

func (e Event) rest() string {
	if e.Run == "" {
		return "\nThe whole report is in the run's journal."
	}
	return "\nThe whole report: snapfw show " + clip(oneLine(e.Run), 100)
}

// withoutReport is for who refuses the report.
func (e Event) withoutReport() Event {
	e.Text = strings.TrimSpace(e.Text + e.rest())
	e.Report = ""
	return e
}

// visible takes out of a text what is more than that to a terminal or a mail.
func visible(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if (r < ' ' && r != '\n' && r != '\t') || (r >= 0x7f && r < 0xa0) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "?")))
}

// clip shortens a text to so many bytes: at the end of a line where one is near.
func clip(s string, limit int) string {
	s = strings.ToValidUTF8(s, "?")
	const mark = "…"
	if len(s) <= limit {
		return s
	}
	end := max(0, limit-len(mark))
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	if line := strings.LastIndexByte(s[:end], '\n'); line > end*3/4 {
		end = line + 1
	}
	return s[:end] + mark
}
