package githubtest

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// strict collects what the stand-in would fail a test with.
type strict struct {
	testing.TB
	said []string
}

func (s *strict) Errorf(format string, args ...any) {
	s.said = append(s.said, fmt.Sprintf(format, args...))
}

func TestWrongRequestsAreFound(t *testing.T) {
	tb := &strict{TB: t}
	s := New(tb, filepath.Join(t.TempDir(), "repo.git"))
	s.Commit("main", "a.toml", []byte("a"))
	for name, c := range map[string]struct {
		method, path, body string
		want               string // "" is right
	}{
		"right":              {"GET", "/pulls?state=all&per_page=100", "", ""},
		"unknown operation":  {"GET", "/nothing", "", "not known"},
		"unknown method":     {"PUT", "/pulls", "", "not known"},
		"unknown parameter":  {"GET", "/pulls?stat=all", "", "no query parameter stat"},
		"value not allowed":  {"GET", "/pulls?state=merged", "", "query parameter state"},
		"no number":          {"GET", "/pulls?page=x", "", "query parameter page"},
		"no number in path":  {"GET", "/pulls/x", "", "path parameter pull_number"},
		"missing property":   {"POST", "/git/refs", `{"ref":"refs/heads/x"}`, "sha"},
		"unknown property":   {"POST", "/git/blobs", `{"content":"","encodng":"base64"}`, "no property encodng"},
		"wrong type":         {"POST", "/git/blobs", `{"content":1}`, "content"},
		"body where none is": {"GET", "/pulls", `{}`, "takes no body"},
		"no JSON":            {"POST", "/git/blobs", `x`, "read the body"},
		"contents as JSON":   {"GET", "/contents/a.toml", "", "contents are asked for"},
	} {
		t.Run(name, func(t *testing.T) {
			tb.said = nil
			req, err := http.NewRequestWithContext(t.Context(), c.method, s.URL+"repos/"+Repo+c.path, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+Token)
			req.Header.Set("Content-Type", "application/json")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			said := strings.Join(tb.said, "\n")
			if c.want == "" && said != "" || !strings.Contains(said, c.want) {
				t.Fatalf("it said %q, want %q", said, c.want)
			}
		})
	}
	if n := len(s.Requests()); n != 13 {
		t.Fatalf("%d requests were written down", n)
	}
}
