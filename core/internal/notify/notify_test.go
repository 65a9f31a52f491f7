package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/snapfw/snapfw/core/internal/config"
)

const routingKey = "e93facc04764012d7bfb002500d5d1a6"

// eventsAPI answers as the vendor documents it, field by field, and refuses what the vendor refuses:
// https://developer.pagerduty.com/docs/events-api-v2/trigger-events/ (fields, limits),
// https://developer.pagerduty.com/docs/events-api-v2/overview/ (answers, what to try again, 512 KB).
// The same as OpenAPI: PagerDuty/api-schema, reference/events-v2/openapiv3.json.
type eventsAPI struct {
	*httptest.Server
	mu     sync.Mutex
	events []map[string]any
	open   map[string]bool // dedup keys of incidents
	answer []int           // what the next requests get instead: 429, 500
	tried  int
}

func serveEvents(t *testing.T, answer ...int) *eventsAPI {
	api := &eventsAPI{open: map[string]bool{}, answer: answer}
	api.Server = httptest.NewServer(api)
	t.Cleanup(api.Close)
	return api
}

func (a *eventsAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tried++
	if len(a.answer) > 0 {
		status := a.answer[0]
		a.answer = a.answer[1:]
		w.WriteHeader(status)
		return
	}
	body, err := io.ReadAll(r.Body)
	var event map[string]any
	var wrong []string
	if err != nil || json.Unmarshal(body, &event) != nil {
		wrong = append(wrong, "JSON parse error")
	} else {
		wrong = a.check(event)
	}
	if r.Method != http.MethodPost || r.URL.Path != "/v2/enqueue" || r.Header.Get("Content-Type") != "application/json" {
		wrong = append(wrong, "not a POST of application/json to /v2/enqueue")
	}
	if len(body) > 512<<10 {
		wrong = append(wrong, "larger than 512 KB")
	}
	w.Header().Set("Content-Type", "application/json")
	if len(wrong) > 0 {
		w.WriteHeader(http.StatusBadRequest)
		json.NewEncoder(w).Encode(map[string]any{"status": "invalid event", "message": "Event object is invalid", "errors": wrong})
		return
	}
	key, _ := event["dedup_key"].(string)
	switch event["event_action"] {
	case "trigger":
		a.open[key] = true
	case "resolve":
		delete(a.open, key)
	}
	a.events = append(a.events, event)
	w.WriteHeader(http.StatusAccepted)
	json.NewEncoder(w).Encode(map[string]any{"status": "success", "message": "Event processed", "dedup_key": key})
}

func (a *eventsAPI) check(event map[string]any) (wrong []string) {
	fail := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	for k := range event {
		if !slices.Contains([]string{"payload", "routing_key", "event_action", "dedup_key", "client", "client_url", "links", "images"}, k) {
			fail("unknown field %s", k)
		}
	}
	if key, _ := event["routing_key"].(string); len(key) != 32 {
		fail("Length of 'routing_key' is incorrect (should be 32 characters)")
	}
	dedup, _ := event["dedup_key"].(string)
	if len(dedup) > 255 {
		fail("'dedup_key' is longer than 255")
	}
	action, _ := event["event_action"].(string)
	if !slices.Contains([]string{"trigger", "acknowledge", "resolve"}, action) {
		fail("'event_action' is %q", action)
	}
	if action != "trigger" {
		if dedup == "" {
			fail("'dedup_key' is missing")
		}
		return wrong
	}
	payload, ok := event["payload"].(map[string]any)
	if !ok {
		fail("'payload' is missing")
		return wrong
	}
	for _, k := range []string{"summary", "source", "severity"} {
		if s, _ := payload[k].(string); s == "" {
			fail("'payload.%s' is missing or blank", k)
		}
	}
	if s, _ := payload["summary"].(string); utf8.RuneCountInString(s) > 1024 {
		fail("'payload.summary' is too long (should be 1024 characters)")
	}
	if s, _ := payload["severity"].(string); !slices.Contains([]string{"critical", "warning", "error", "info"}, s) {
		fail("'payload.severity' is %q", s)
	}
	if s, ok := payload["timestamp"].(string); ok {
		if _, err := time.Parse(time.RFC3339, s); err != nil {
			fail("'payload.timestamp' is invalid")
		}
	}
	if _, ok := payload["custom_details"].(map[string]any); payload["custom_details"] != nil && !ok {
		fail("'payload.custom_details' is no object")
	}
	links, _ := event["links"].([]any)
	for _, l := range links {
		if link, _ := l.(map[string]any); link["href"] == nil {
			fail("a link has no href")
		}
	}
	return wrong
}

func (a *eventsAPI) incidents() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var keys []string
	for k := range a.open {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// fast makes a Notify that does not wait long between attempts.
func fast(cfg config.Notify) *Notify {
	n := New(cfg, nil)
	p := pauses{time.Millisecond, 4 * time.Millisecond}
	if n.pager != nil {
		n.pager.pause = p
	}
	for _, c := range n.chats {
		c.pause = p
	}
	return n
}

func paging(api *eventsAPI) config.Notify {
	return config.Notify{
		On: config.Events,
		PagerDuty: &config.PagerDuty{
			RoutingKey: config.Literal(routingKey), Runbook: "https://wiki.example/runbook", URL: api.URL,
		},
	}
}

func TestKinds(t *testing.T) {
	mine := []string{NodeDown, UndoFailed, Failed, Refused, Parked, GuardPaid, UpAgain, Done}
	if !slices.Equal(mine, config.Events) {
		t.Errorf("the configuration knows %v, this package %v", config.Events, mine)
	}
}

func TestIncidentOpensAndResolves(t *testing.T) {
	api := serveEvents(t)
	n := fast(paging(api))
	tell := func(kind, node string, want ...string) {
		t.Helper()
		err := n.Send(t.Context(), Event{Kind: kind, Chain: "main", Node: node, Run: "r1", Err: errors.New("start: exit 1")})
		if err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		if got := api.incidents(); !slices.Equal(got, want) {
			t.Errorf("after %s %s: incidents %v, want %v", kind, node, got, want)
		}
	}
	tell(UndoFailed, "n0", "snapfw/main/n0")
	tell(NodeDown, "n0", "snapfw/main/n0")
	tell(NodeDown, "n1", "snapfw/main/n0", "snapfw/main/n1")
	tell(UpAgain, "n0", "snapfw/main/n1")
	tell(Parked, "n2", "snapfw/main/n1")
	tell(Failed, "", "snapfw/main", "snapfw/main/n1")
	tell(Done, "n1")
}

func TestWhatIsSent(t *testing.T) {
	api := serveEvents(t)
	n := fast(paging(api))
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.FixedZone("", 3600))
	err := n.Send(t.Context(), Event{Kind: NodeDown, Chain: "main", Node: "n0", Run: "r1", Text: "snapfw up n0", Err: errors.New("start:\nexit 1"), Time: at})
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(api.events[0])
	if err != nil {
		t.Fatal(err)
	}
	want := `{"client":"snapfw","dedup_key":"snapfw/main/n0","event_action":"trigger",` +
		`"links":[{"href":"https://wiki.example/runbook","text":"What to do"}],` +
		`"payload":{"class":"node_down","component":"n0","custom_details":{"chain":"main","error":"start:\nexit 1","event":"node_down",` +
		`"node":"n0","run":"r1","runbook":"https://wiki.example/runbook","text":"snapfw up n0"},` +
		`"group":"main","severity":"critical","source":"main/n0",` +
		`"summary":"snapfw: main n0 is DOWN and could not be started: start:","timestamp":"2026-03-01T11:00:00Z"},` +
		`"routing_key":"` + routingKey + `"}`
	if string(got) != want {
		t.Errorf("sent\n%s\nwant\n%s", got, want)
	}
}

func TestResolveIsSentThoughNotAskedFor(t *testing.T) {
	api := serveEvents(t)
	cfg := paging(api)
	cfg.On = []string{NodeDown}
	n := fast(cfg)
	for _, kind := range []string{NodeDown, Failed, UpAgain} {
		if err := n.Send(t.Context(), Event{Kind: kind, Chain: "main", Node: "n0"}); err != nil {
			t.Fatal(err)
		}
	}
	if len(api.events) != 2 || len(api.incidents()) != 0 {
		t.Errorf("%d events and incidents %v; want node_down, then its end", len(api.events), api.incidents())
	}
}

func TestLimits(t *testing.T) {
	api := serveEvents(t)
	n := fast(paging(api))
	long := strings.Repeat("é\x00\xff", 400<<10)
	err := n.Send(t.Context(), Event{
		Kind: Failed, Chain: strings.Repeat("c", 400), Node: strings.Repeat("ñ", 400), Run: long, Text: long,
		Err: errors.New(long), Runbook: "https://x.example/" + strings.Repeat("r", 4000),
	})
	if err != nil {
		t.Fatal(err)
	}
	open := api.incidents()
	if err := n.Send(t.Context(), Event{Kind: UpAgain, Chain: strings.Repeat("c", 400), Node: strings.Repeat("ñ", 400)}); err != nil {
		t.Fatal(err)
	}
	if len(open) != 1 || len(api.incidents()) != 0 {
		t.Errorf("incidents %v, then %v: a long name is not one key", open, api.incidents())
	}
}

func TestRetries(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer []int
		tried  int
		want   string // in the error; "" is success
	}{
		{"at once", nil, 1, ""},
		{"too many requests, then a fault", []int{429, 503, 500}, 4, ""},
		{"a fault that stays", slices.Repeat([]int{500}, 20), attempts, "500"},
		{"refused", []int{400}, 1, "400"},
		{"forbidden", []int{403}, 1, "403"},
	} {
		t.Run(c.name, func(t *testing.T) {
			api := serveEvents(t, c.answer...)
			err := fast(paging(api)).Send(t.Context(), Event{Kind: Failed, Chain: "main", Node: "n0"})
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if api.tried != c.tried {
				t.Errorf("%d requests, want %d", api.tried, c.tried)
			}
		})
	}
}

func TestWrongRoutingKeyIsExplained(t *testing.T) {
	api := serveEvents(t)
	cfg := paging(api)
	cfg.PagerDuty.RoutingKey = config.Literal("short-key-123")
	err := fast(cfg).Send(t.Context(), Event{Kind: Failed, Chain: "main"})
	if err == nil || !strings.Contains(err.Error(), "should be 32 characters") || strings.Contains(err.Error(), "short-key") {
		t.Errorf("error %v: want the vendor's reason, without the key", err)
	}
}

func TestNobodyThere(t *testing.T) {
	api := serveEvents(t)
	api.Close()
	cfg := paging(api)
	cfg.URLs = []config.URL{{Secret: config.Literal("generic+" + api.URL + "/hook-token-1234?disabletls=yes")}}
	err := fast(cfg).Send(t.Context(), Event{Kind: Failed, Chain: "main"})
	if err == nil || strings.Count(err.Error(), "tell ") != 2 {
		t.Fatalf("error %v: want one for each of two", err)
	}
	for _, secret := range []string{routingKey, "hook-token-1234"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("error holds a secret: %v", err)
		}
	}
}

func TestCancelEndsTheWaiting(t *testing.T) {
	api := serveEvents(t, slices.Repeat([]int{503}, 100)...)
	n := New(paging(api), nil)
	n.pager.pause = pauses{time.Hour, time.Hour}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := n.Send(ctx, Event{Kind: Failed, Chain: "main"}); err == nil || api.tried != 1 {
		t.Errorf("error %v after %d requests; want the first one's error", err, api.tried)
	}
}

// webhook is what a generic shoutrrr URL posts to.
func webhook(t *testing.T, status ...int) (address string, got func() []string) {
	var mu sync.Mutex
	var bodies []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		body, _ := io.ReadAll(r.Body)
		bodies = append(bodies, string(body))
		if len(status) >= len(bodies) {
			w.WriteHeader(status[len(bodies)-1])
		}
	}))
	t.Cleanup(server.Close)
	return "generic+" + server.URL + "/hooks/T0ken-very-secret", func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(bodies)
	}
}

func TestWebhook(t *testing.T) {
	address, got := webhook(t, 503)
	t.Setenv("SNAPFW_TEST_HOOK", address+"?template=json")
	secret, err := config.ParseSecret("env:SNAPFW_TEST_HOOK", "")
	if err != nil {
		t.Fatal(err)
	}
	n := fast(config.Notify{On: []string{Done}, URLs: []config.URL{{Secret: secret}}})
	for _, kind := range []string{Failed, Done} {
		if err := n.Send(t.Context(), Event{Kind: kind, Chain: "main", Run: "r7", Text: "3 nodes"}); err != nil {
			t.Fatal(err)
		}
	}
	bodies := got()
	if len(bodies) != 2 { // the first was answered 503
		t.Fatalf("%d requests %q, want done twice", len(bodies), bodies)
	}
	var m struct{ Title, Message string }
	if err := json.Unmarshal([]byte(bodies[1]), &m); err != nil {
		t.Fatal(err)
	}
	if m.Title != "snapfw: main is done" || m.Message != "snapfw: main is done\n3 nodes\nrun: r7" {
		t.Errorf("got %+v", m)
	}
}

func TestWebhookErrorsHoldNoToken(t *testing.T) {
	address, got := webhook(t, 404)
	n := fast(config.Notify{On: []string{Done}, URLs: []config.URL{{Secret: config.Literal(address)}}})
	err := n.Send(t.Context(), Event{Kind: Done, Chain: "main"})
	if err == nil || !strings.Contains(err.Error(), "404") || strings.Contains(err.Error(), "T0ken") {
		t.Errorf("error %v: want the status, without the token", err)
	}
	if len(got()) != 1 {
		t.Errorf("%d requests: 404 was tried again", len(got()))
	}
	if !strings.Contains(err.Error(), "notify.urls[0] (generic)") {
		t.Errorf("error %v does not name the address by its field", err)
	}
}

func TestAddressesThatCantBeUsed(t *testing.T) {
	for _, address := range []string{
		"nosuchservice://tok3n-abcdef@host-abcdef/path-abcdef",
		"discord://tok3n-abcdef", "slack://tok3n-abcdef/%zz", "telegram://tok3n-abcdef", "not an address tok3n-abcdef",
		"discord+https://tok3n-abcdef/x",
	} {
		n := fast(config.Notify{On: []string{Done}, URLs: []config.URL{{Secret: config.Literal(address)}}})
		err := n.Send(t.Context(), Event{Kind: Done, Chain: "main"})
		if err == nil || strings.Contains(err.Error(), "abcdef") {
			t.Errorf("%s: error %v; want one without its parts", address, err)
		}
	}
}

func TestTest(t *testing.T) {
	api := serveEvents(t)
	good, got := webhook(t)
	cfg := paging(api)
	cfg.On = nil
	cfg.URLs = []config.URL{{Secret: config.Literal(good)}, {Secret: config.Literal("nosuch://x")}}
	results := fast(cfg).Test(t.Context())
	if len(results) != 3 || results[0].Err != nil || results[1].Err != nil || results[2].Err == nil {
		t.Fatalf("results %v", results)
	}
	if results[0].Target != "pagerduty" || results[1].Target != "notify.urls[0] (generic)" {
		t.Errorf("targets %v", results)
	}
	if len(api.events) != 2 || len(api.incidents()) != 0 || len(got()) != 1 || !strings.Contains(got()[0], "test") {
		t.Errorf("%d events, incidents %v, messages %q", len(api.events), api.incidents(), got())
	}
}

func TestIgnore(t *testing.T) {
	api := serveEvents(t)
	cfg := paging(api)
	cfg.PagerDuty.Ignore = true
	n := fast(cfg)
	if err := n.Send(t.Context(), Event{Kind: NodeDown, Chain: "main"}); err != nil || api.tried != 0 || !n.Empty() {
		t.Errorf("error %v, %d requests", err, api.tried)
	}
}

func FuzzScrub(f *testing.F) {
	f.Add("discord://tokentoken@1234567890?thread_id=99887766", "Post \"https://discord.com/api/webhooks/1234567890/tokentoken\": EOF")
	f.Add("smtp://user%40x:pa%20ssword@mail.example:587/?from=a@b.example", "auth pa ssword pa%20ssword")
	f.Add("generic+https://h.example/a/b", "")
	f.Add("//:!20ssword@.", "")
	f.Fuzz(func(t *testing.T, address, text string) {
		clean := scrub(text, address)
		if !utf8.ValidString(clean) || utf8.RuneCountInString(clean) > 500 {
			t.Errorf("%q", clean)
		}
		u, err := url.Parse(address)
		if err != nil || u.User == nil {
			return
		}
		if p, ok := u.User.Password(); ok && len(p) >= 8 && utf8.ValidString(p) && oneLine(p) == p && !strings.Contains(p, "*") &&
			strings.Contains(scrub("x "+p+" y", address), p) {
			t.Errorf("the password of %q stays", address)
		}
	})
}
