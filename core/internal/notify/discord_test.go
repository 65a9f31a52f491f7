package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
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

// discordAPI takes what Discord documents, and refuses the rest:
// https://discord.com/developers/docs/resources/webhook#execute-webhook (fields, 2000 characters of content),
// …/docs/reference#uploading-files (payload_json, files[n], attachments; 25 MiB),
// …/docs/resources/message#embed-object-embed-limits (embeds).
type discordAPI struct {
	*httptest.Server
	mu     sync.Mutex
	got    []discordMessage
	answer []int // what the next requests get instead
	tried  int
	noFile bool // files are not allowed in this channel
}

type discordMessage struct {
	Content string
	Embeds  []struct {
		Title, Description, Timestamp string
		Fields                        []any
	}
	Attachments []struct {
		ID       int
		Filename string
	}
	files map[string]string // by the name in the form
	names map[string]string
}

func serveDiscord(t *testing.T, answer ...int) *discordAPI {
	d := &discordAPI{answer: answer}
	d.Server = httptest.NewServer(d)
	t.Cleanup(d.Close)
	return d
}

// RoundTrip brings what goes to discord.com here.
func (d *discordAPI) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" || r.URL.Host != "discord.com" {
		return nil, fmt.Errorf("a request to %s", r.URL.Host)
	}
	here, err := url.Parse(d.URL)
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host = here.Scheme, here.Host
	return http.DefaultTransport.RoundTrip(r)
}

func (d *discordAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tried++
	if len(d.answer) > 0 {
		status := d.answer[0]
		d.answer = d.answer[1:]
		w.Header().Set("Retry-After", "0.01")
		w.WriteHeader(status)
		return
	}
	if r.Method != http.MethodPost || r.URL.Path != "/api/webhooks/1234567890/t0ken-t0ken" {
		http.Error(w, `{"message": "Unknown Webhook", "code": 10015}`, http.StatusNotFound)
		return
	}
	m, err := readDiscord(http.MaxBytesReader(w, r.Body, 25<<20), r.Header.Get("Content-Type"))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		http.Error(w, `{"message": "Request entity too large", "code": 40005}`, http.StatusRequestEntityTooLarge)
		return
	case err == nil && d.noFile && len(m.files) > 0:
		err = errors.New("no files here")
	case err == nil:
		err = m.check()
	}
	if err != nil {
		http.Error(w, fmt.Sprintf(`{"message": %q, "code": 50035}`, err), http.StatusBadRequest)
		return
	}
	d.got = append(d.got, m)
	w.WriteHeader(http.StatusNoContent)
}

func readDiscord(body io.Reader, kind string) (discordMessage, error) {
	m := discordMessage{files: map[string]string{}, names: map[string]string{}}
	media, params, err := mime.ParseMediaType(kind)
	switch {
	case err != nil:
		return m, err
	case media == "application/json":
		return m, json.NewDecoder(body).Decode(&m)
	case media != "multipart/form-data":
		return m, errors.New("neither JSON nor a form")
	}
	form := multipart.NewReader(body, params["boundary"])
	for {
		part, err := form.NextPart()
		if errors.Is(err, io.EOF) {
			return m, nil
		}
		if err != nil {
			return m, err
		}
		data, err := io.ReadAll(part)
		if err != nil {
			return m, err
		}
		if part.FormName() == "payload_json" {
			err = json.Unmarshal(data, &m)
		} else if part.FileName() == "" {
			err = errors.New("a file without a name")
		}
		if err != nil {
			return m, err
		}
		if part.FileName() != "" {
			m.files[part.FormName()], m.names[part.FormName()] = string(data), part.FileName()
		}
	}
}

func (m *discordMessage) check() error {
	if m.Content == "" && len(m.Embeds) == 0 && len(m.files) == 0 {
		return errors.New("cannot send an empty message")
	}
	if utf8.RuneCountInString(m.Content) > 2000 || len(m.Embeds) > 10 {
		return errors.New("content or embeds are too long")
	}
	total := 0
	for _, e := range m.Embeds {
		title, text := utf8.RuneCountInString(e.Title), utf8.RuneCountInString(e.Description)
		if title > 256 || text > 4096 || len(e.Fields) > 25 {
			return errors.New("an embed is too long")
		}
		if _, err := time.Parse(time.RFC3339, e.Timestamp); e.Timestamp != "" && err != nil {
			return err
		}
		total += title + text
	}
	if total > 6000 {
		return errors.New("the embeds are too long together")
	}
	for _, a := range m.Attachments {
		if m.names[fmt.Sprintf("files[%d]", a.ID)] != a.Filename {
			return fmt.Errorf("attachment %d is not there", a.ID)
		}
	}
	return nil
}

// discordOnly tells one webhook.
func discordOnly(d *discordAPI, address string) *Notify {
	n := fast(config.Notify{On: config.Events, URLs: []config.URL{{Secret: config.Literal(address)}}})
	n.chats[0].via = d
	return n
}

const hook = "discord://t0ken-t0ken@1234567890"

func refused(report string) Event {
	return Event{Kind: Refused, Chain: "main", Node: "n0", Run: "r1", Text: "judge: a hash changed", Report: report}
}

// report is one of so many bytes, roughly, as a judge writes it.
func report(size int) string {
	return "# 2 changes → refused\n\n" + strings.Repeat("| `v1.0-accounts.0-64.kv` | hash changed | <why> |\n", size/51)
}

func TestDiscordGetsTheReportAttached(t *testing.T) {
	d := serveDiscord(t)
	want := strings.TrimSpace(report(250 << 10))
	if err := discordOnly(d, hook).Send(t.Context(), refused(want)); err != nil {
		t.Fatal(err)
	}
	if len(d.got) != 1 || len(d.got[0].Embeds) != 1 {
		t.Fatalf("%d messages: %+v", len(d.got), d.got)
	}
	m := d.got[0]
	if text := m.Embeds[0].Description; text != "snapfw: main n0 was refused\njudge: a hash changed\nrun: r1" || m.Content != "" {
		t.Errorf("text %q, content %q", text, m.Content)
	}
	if m.names["files[0]"] != "report.md" || m.files["files[0]"] != want {
		t.Errorf("attached: %v, %d bytes; want report.md with %d", m.names, len(m.files["files[0]"]), len(want))
	}
}

func TestDiscordWithoutAReport(t *testing.T) {
	d := serveDiscord(t)
	lines := strings.Repeat("one more line\n", 30) // more than a message has embeds
	err := discordOnly(d, hook+"?title=ours").Send(t.Context(), Event{Kind: Failed, Chain: "main", Text: lines, Err: errors.New("@everyone")})
	if err != nil {
		t.Fatal(err)
	}
	if len(d.got) != 1 || len(d.got[0].files) != 0 || d.got[0].Content != "" || d.got[0].Embeds[0].Title != "ours" {
		t.Fatalf("%+v", d.got)
	}
	if text := d.got[0].Embeds[0].Description; !strings.HasPrefix(text, "snapfw: main failed; every node is up: @everyone\none more line\n") || strings.Count(text, "one more") != 30 {
		t.Errorf("text %q", text)
	}
}

func TestDiscordRetries(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer []int
		tried  int
		got    int
		want   string
	}{
		{"too many requests, then a fault", []int{429, 502}, 3, 1, ""},
		{"a fault that stays", slices.Repeat([]int{503}, 20), attempts, 0, "503"},
		{"gone", []int{404, 404}, 2, 0, "404"}, // once with the report, once without
	} {
		t.Run(c.name, func(t *testing.T) {
			d := serveDiscord(t, c.answer...)
			err := discordOnly(d, hook).Send(t.Context(), refused("bad"))
			if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "t0ken")) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if d.tried != c.tried || len(d.got) != c.got {
				t.Errorf("%d requests, %d messages; want %d, %d", d.tried, len(d.got), c.tried, c.got)
			}
		})
	}
}

func TestDiscordThatTakesNoFilesGetsTheMessage(t *testing.T) {
	d := serveDiscord(t)
	d.noFile = true
	if err := discordOnly(d, hook).Send(t.Context(), refused("bad")); err != nil {
		t.Fatal(err)
	}
	if len(d.got) != 1 || !strings.Contains(d.got[0].Embeds[0].Description, "a hash changed\nThe whole report: snapfw show r1") {
		t.Errorf("%+v", d.got)
	}
}

func TestDiscordWaitsNoLongerThanAsked(t *testing.T) {
	d := serveDiscord(t)
	asked, gone := make(chan struct{}, 10), make(chan bool, 10)
	d.Config.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // then the server sees when the client goes
		asked <- struct{}{}
		select {
		case <-r.Context().Done():
			gone <- true
		case <-time.After(5 * time.Second):
			gone <- false
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	if err := discordOnly(d, hook).Send(ctx, refused("bad")); err == nil || !strings.Contains(err.Error(), "cancel") {
		t.Errorf("error %v", err)
	}
	if !<-gone {
		t.Error("the request went on")
	}
	if len(asked) != 0 {
		t.Error("it was asked again")
	}
}
