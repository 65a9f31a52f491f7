package notify

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/snapfw/snapfw/core/internal/config"
)

func TestWebhookJSONHasTheReport(t *testing.T) {
	whole := strings.TrimSpace(report(200 << 10))
	for _, c := range []struct{ query, report, message string }{
		{"?template=json", whole, "snapfw: main n0 was refused\njudge: a hash changed\nrun: r1"},
		{"?template=json&$report=ours", "ours", "snapfw: main n0 was refused\njudge: a hash changed\nrun: r1"},
		{"?template=JSON&titlekey=report", "snapfw: main n0 was refused", ""},
	} {
		address, got := webhook(t)
		n := fast(config.Notify{On: []string{Refused}, URLs: []config.URL{{Secret: config.Literal(address + c.query)}}})
		if err := n.Send(t.Context(), refused(whole)); err != nil {
			t.Fatal(err)
		}
		var m map[string]string
		if err := json.Unmarshal([]byte(got()[0]), &m); err != nil {
			t.Fatal(err)
		}
		if m["report"] != c.report || c.message != "" && m["message"] != c.message || len(m["message"]) > maxMessage {
			t.Errorf("%s: message %q, report of %d bytes", c.query, m["message"], len(m["report"]))
		}
	}
}

func TestOthersGetTheHeadOfTheReport(t *testing.T) {
	for _, size := range []int{100, 5000} {
		address, got := webhook(t)
		n := fast(config.Notify{On: []string{Refused}, URLs: []config.URL{{Secret: config.Literal(address)}}})
		whole := strings.TrimSpace(report(size))
		if err := n.Send(t.Context(), refused(whole)); err != nil {
			t.Fatal(err)
		}
		head, rest, cut := strings.Cut(got()[0], "…")
		if !strings.HasPrefix(head, "snapfw: main n0 was refused\njudge: a hash changed\nrun: r1\n\n# 2 changes → refused\n") || len(got()[0]) > maxMessage {
			t.Errorf("got %d bytes: %q", len(got()[0]), head)
		}
		if whole := strings.HasSuffix(head, whole); whole == cut || cut && rest != "\nThe whole report: snapfw show r1" {
			t.Errorf("a report of %d bytes ends %q", size, rest)
		}
	}
}

func TestReportThatIsNotTaken(t *testing.T) {
	for _, c := range []struct {
		name   string
		status []int
		asked  int
		ok     bool
	}{
		{"too large", []int{http.StatusRequestEntityTooLarge}, 2, true},
		{"a fault, then too large", []int{503, http.StatusRequestEntityTooLarge}, 3, true},
		{"not for you", []int{403, 403}, 2, false},
		{"a fault that stays", slices.Repeat([]int{500}, 20), attempts, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			address, got := webhook(t, c.status...)
			n := fast(config.Notify{On: []string{Refused}, URLs: []config.URL{{Secret: config.Literal(address)}}})
			err := n.Send(t.Context(), refused("it is bad"))
			bodies := got()
			if (err == nil) != c.ok || len(bodies) != c.asked || !strings.Contains(bodies[0], "it is bad") {
				t.Errorf("error %v, bodies %q", err, bodies)
			}
			last := bodies[len(bodies)-1]
			if c.ok && (strings.Contains(last, "it is bad") || !strings.Contains(last, "snapfw show r1")) {
				t.Errorf("at last %q", last)
			}
		})
	}
}

func TestPagerGetsTheHeadOfTheReport(t *testing.T) {
	api := serveEvents(t)
	n := fast(paging(api))
	for _, e := range []Event{refused("short"), refused(strings.Repeat("<&>\n", 100<<10))} {
		if err := n.Send(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	of := func(i int) string {
		details := api.events[i]["payload"].(map[string]any)["custom_details"].(map[string]any)
		return details["report"].(string)
	}
	if of(0) != "short" {
		t.Errorf("%q", of(0))
	}
	if got := of(1); len(got) > 30<<10 || !strings.HasSuffix(got, "…\nThe whole report: snapfw show r1") {
		t.Errorf("%d bytes, at the end %q", len(got), got[len(got)-60:])
	}
}

func TestWhoGetsWhat(t *testing.T) {
	all, allGot := webhook(t)
	some, someGot := webhook(t)
	none, noneGot := webhook(t)
	api := serveEvents(t)
	cfg := paging(api)
	cfg.On = []string{Failed, Done}
	cfg.URLs = []config.URL{
		{Secret: config.Literal(all)},
		{Secret: config.Literal(some), On: []string{Refused, Done}},
		{Secret: config.Literal(none), On: []string{NodeDown}},
	}
	n := fast(cfg)
	for _, kind := range []string{Failed, Refused, Parked, Done} {
		if err := n.Send(t.Context(), Event{Kind: kind, Chain: "main"}); err != nil {
			t.Fatal(err)
		}
	}
	words := func(bodies []string) (out []string) {
		for _, b := range bodies {
			out = append(out, strings.Fields(b)[2])
		}
		return out
	}
	if got := words(allGot()); !slices.Equal(got, []string{"failed;", "is"}) {
		t.Errorf("by notify.on: %v", got)
	}
	if got := words(someGot()); !slices.Equal(got, []string{"was", "is"}) {
		t.Errorf("by its own: %v", got)
	}
	if got := noneGot(); len(got) != 0 {
		t.Errorf("got %v", got)
	}
	if len(api.events) != 2 {
		t.Errorf("the pager got %v", api.events)
	}
}

func FuzzMessage(f *testing.F) {
	f.Add("text", "report", "r1", 1800)
	f.Add(strings.Repeat("é\n", 2000), strings.Repeat("→\xff\x00", 900), strings.Repeat("r", 400), 600)
	f.Fuzz(func(t *testing.T, text, report, run string, limit int) {
		if limit < 600 || limit > 1<<20 {
			return
		}
		e := Event{Kind: Refused, Chain: "main", Run: run, Text: text, Report: clip(visible(report), maxReport)}
		for _, got := range []string{e.withHead(limit), e.alone(limit), e.head(limit), e.withoutReport().alone(limit)} {
			if len(got) > limit || !utf8.ValidString(got) || strings.ContainsAny(got, "\x00\x1b\r") {
				t.Errorf("%d bytes of %d: %q", len(got), limit, got)
			}
		}
	})
}
