package review_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/snapfw/snapfw/core/internal/review"
	"github.com/snapfw/snapfw/core/internal/review/githubtest"
)

const (
	base = "release/3.4"
	file = "lists/mainnet.toml"
)

// list makes a list with bytes that a careless tool would change.
func list(version string) []byte {
	return []byte("'v1-" + version + ".seg' = 'ab'\r\n\xff\x00no newline at the end")
}

func proposal(run string) review.Proposal {
	return review.Proposal{Chain: "mainnet", Run: run, Host: "snapshotter-1.example.org", Time: time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC),
		Title: "[automation] mainnet", Report: "All is well.", Body: list(run)}
}

type hub struct {
	*githubtest.Server
	config review.Config
}

func newHub(t *testing.T, change ...func(*review.Config)) (*hub, review.Place) {
	t.Helper()
	s := githubtest.New(t, filepath.Join(t.TempDir(), "repo.git"))
	s.Commit(base, "other.toml", []byte("other"))
	s.Commit(base, file, list("0"))
	h := &hub{s, review.Config{Kind: review.KindGitHub, Repo: githubtest.Repo, Base: base, Path: file, APIURL: s.URL, Token: githubtest.Token}}
	for _, c := range change {
		c(&h.config)
	}
	return h, newPlace(t, h.config)
}

func newPlace(t *testing.T, c review.Config) review.Place {
	t.Helper()
	p, err := review.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func propose(t *testing.T, place review.Place, p review.Proposal) review.Opened {
	t.Helper()
	o, err := place.Propose(context.Background(), p)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// look wants a state and returns the answer.
func look(t *testing.T, place review.Place, o review.Opened, want string) review.Answer {
	t.Helper()
	a, err := place.Look(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	if a.State != want {
		t.Fatalf("the proposal is %s (%s), want %s", a.State, a.Why, want)
	}
	return a
}

func TestGitHubPublished(t *testing.T) {
	t.Parallel()
	h, place := newHub(t)
	big := bytes.Repeat([]byte("0123456789abcdef"), 2<<16) // 2 MiB: more than the JSON form holds
	h.Commit(base, file, big)
	if got, err := place.Published(t.Context()); err != nil || !bytes.Equal(got, big) {
		t.Fatalf("got %d bytes, %v", len(got), err)
	}
	h.Commit(base, file, nil)
	if got, err := place.Published(t.Context()); err != nil || got == nil || len(got) != 0 {
		t.Fatalf("an empty list reads as %v, %v", got, err)
	}
	for name, c := range map[string]struct {
		change func(*review.Config)
		absent bool
	}{
		"no file":   {func(c *review.Config) { c.Path = "none.toml" }, true},
		"no branch": {func(c *review.Config) { c.Base = "release/9" }, false},
		"no repo":   {func(c *review.Config) { c.Repo = "acme/other" }, false},
		"bad token": {func(c *review.Config) { c.Token = "ghp_wrong" }, false},
		"a folder":  {func(c *review.Config) { c.Path = "lists" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			config := h.config
			c.change(&config)
			_, err := newPlace(t, config).Published(t.Context())
			if err == nil || errors.Is(err, fs.ErrNotExist) != c.absent || strings.Contains(err.Error(), config.Token) {
				t.Fatalf("got %v", err)
			}
		})
	}
}

func TestGitHubProposeAndMerge(t *testing.T) {
	t.Parallel()
	for name, merge := range map[string]func(*githubtest.Server, int){"merge": (*githubtest.Server).Merge, "squash": (*githubtest.Server).Squash} {
		t.Run(name, func(t *testing.T) {
			h, place := newHub(t, func(c *review.Config) {
				c.Labels, c.Reviewers, c.TeamReviewers = []string{"automation", "weekly"}, []string{"bob"}, []string{"snapshots"}
				c.Author = "Snap Shotter <snap@example.org>"
			})
			o := propose(t, place, proposal("run-1"))
			const branch = "Snapshot-Automation/snapshotter-1.example.org/20260504-030201UTC"
			if o.Branch != branch || o.Base != base || o.Number != 1 || o.URL == "" || o.Commit == "" || o.From == "" {
				t.Fatalf("opened %+v", o)
			}
			if got, _ := h.File(branch, file); !bytes.Equal(got, list("run-1")) {
				t.Fatalf("the branch holds %q", got)
			}
			if got, _ := h.File(branch, "other.toml"); string(got) != "other" {
				t.Fatal("the proposal lost another file")
			}
			pr := h.Pulls()[0]
			if pr.Title != "[automation] mainnet" || !strings.Contains(pr.Body, "This proposal was raised by snapfw on snapshotter-1.example.org, run run-1.") ||
				!strings.Contains(pr.Body, "<!-- snapfw run=run-1 chain=mainnet -->") || !strings.Contains(pr.Body, "All is well.") {
				t.Fatalf("pull request %+v", pr)
			}
			if !slices.Equal(pr.Labels, []string{"automation", "weekly"}) || !slices.Equal(pr.Reviewers, []string{"bob"}) || !slices.Equal(pr.Teams, []string{"snapshots"}) {
				t.Fatalf("pull request %+v", pr)
			}
			look(t, place, o, review.Open)
			h.Commit(base, "other.toml", []byte("moved on")) // the base moves before the merge
			merge(h.Server, 1)
			a := look(t, place, o, review.Merged)
			if !bytes.Equal(a.Body, list("run-1")) || a.By != "alice" {
				t.Fatalf("answer %q by %q", a.Body, a.By)
			}
			h.Commit(base, file, list("later"))
			if a := look(t, place, o, review.Merged); !bytes.Equal(a.Body, list("later")) {
				t.Fatal("the answer is not what the base holds now")
			}
			if err := place.Withdraw(t.Context(), o, "too late"); err == nil {
				t.Fatal("a merged proposal was withdrawn")
			}
			if again := propose(t, place, proposal("run-1")); again.Number != 1 {
				t.Fatalf("a second pull request %d for a run that was merged", again.Number)
			}
		})
	}
}

func TestGitHubRejected(t *testing.T) {
	t.Parallel()
	h, place := newHub(t)
	o := propose(t, place, proposal("run-1"))
	for i := range 120 {
		h.Comment(1, "bob", "hm "+strconv.Itoa(i))
	}
	h.Comment(1, "bob", "Why did the hash change?\nI do not like it.")
	h.CloseUnmerged(1)
	if a := look(t, place, o, review.Rejected); a.Why != "Why did the hash change?" || a.By != "alice" {
		t.Fatalf("answer %+v", a)
	}
	gone := propose(t, place, proposal("run-2"))
	h.DeleteBranch(gone.Branch)
	look(t, place, gone, review.Rejected)
}

func TestGitHubWithdraw(t *testing.T) {
	t.Parallel()
	h, place := newHub(t)
	o := propose(t, place, proposal("run-1"))
	for range 2 {
		if err := place.Withdraw(t.Context(), o, "the node was rebuilt"); err != nil {
			t.Fatal(err)
		}
	}
	pr := h.Pulls()[0]
	if pr.Open || len(pr.Comments) != 1 || !strings.Contains(pr.Comments[0], "the node was rebuilt") || len(h.Branches("Snapshot-Automation/")) != 0 {
		t.Fatalf("pull request %+v, branches %v", pr, h.Branches(""))
	}
	look(t, place, o, review.Rejected)
}

func TestGitHubProposeAgain(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		method, path string
		moved        bool // the base has moved when it is proposed again
	}{
		"all was done":     {},
		"no pull request":  {"POST", "/pulls", false},
		"base moved":       {"POST", "/pulls", true},
		"no labels":        {"POST", "/labels", false},
		"no reviewers":     {"POST", "/requested_reviewers", false},
		"no branch either": {"POST", "/git/refs", false},
	} {
		t.Run(name, func(t *testing.T) {
			h, place := newHub(t, func(c *review.Config) { c.Reviewers = []string{"bob"} })
			if c.method != "" {
				h.Fail(c.method, c.path, http.StatusBadGateway, nil)
			}
			_, err := place.Propose(t.Context(), proposal("run-1"))
			if (err != nil) != (c.method != "") {
				t.Fatalf("the first time: %v", err)
			}
			if c.moved {
				h.Commit(base, "other.toml", []byte("moved on"))
			}
			p := proposal("run-1")
			p.Time = p.Time.Add(time.Hour)
			o := propose(t, place, p)
			prs := h.Pulls()
			if len(prs) != 1 || o.Number != 1 || len(h.Branches("Snapshot-Automation/")) != 1 {
				t.Fatalf("pull requests %+v, branches %v", prs, h.Branches(""))
			}
			if !slices.Equal(prs[0].Labels, []string{"automation"}) || !slices.Equal(prs[0].Reviewers, []string{"bob"}) {
				t.Fatalf("pull request %+v", prs[0])
			}
			if got, _ := h.File(o.Branch, "other.toml"); c.moved != (string(got) == "moved on") {
				t.Fatalf("other.toml is %q", got)
			}
		})
	}
}

func TestGitHubKeepsWhatPeoplePushed(t *testing.T) {
	t.Parallel()
	h, place := newHub(t)
	o := propose(t, place, proposal("run-1"))
	h.Commit(o.Branch, file, list("edited"))
	if again := propose(t, place, proposal("run-1")); again.Number != o.Number || again.Branch != o.Branch {
		t.Fatalf("opened %+v", again)
	}
	if got, _ := h.File(o.Branch, file); !bytes.Equal(got, list("edited")) {
		t.Fatalf("somebody's work was overwritten: %q", got)
	}
	h.Squash(1)
	if a := look(t, place, o, review.Merged); !bytes.Equal(a.Body, list("edited")) {
		t.Fatalf("answer %q", a.Body)
	}
}

func TestGitHubSupersedes(t *testing.T) {
	t.Parallel()
	h, place := newHub(t)
	other := proposal("run-x")
	other.Chain = "gnosis"
	propose(t, place, other) // 1: another chain, in the same second
	first := propose(t, place, proposal("run-1"))
	if !strings.HasSuffix(first.Branch, "UTC-2") {
		t.Fatalf("two proposals of one second share branch %s", first.Branch)
	}
	second := propose(t, place, proposal("run-2"))
	prs := h.Pulls()
	if !prs[0].Open || prs[1].Open || !prs[2].Open || second.Number != 3 {
		t.Fatalf("pull requests %+v", prs)
	}
	if a := look(t, place, first, review.Rejected); a.Why != "Superseded by "+second.URL {
		t.Fatalf("answer %+v", a)
	}
	if again := propose(t, place, proposal("run-1")); again.Number != first.Number || !h.Pulls()[2].Open {
		t.Fatal("the older proposal, asked for again, did away with the newer")
	}
}

// GitHub answers 409 instead of 422 where somebody makes the same reference at that moment.
func TestGitHubBranchTaken(t *testing.T) {
	t.Parallel()
	h, place := newHub(t)
	h.Fail("POST", "/git/refs", http.StatusConflict, nil)
	if o := propose(t, place, proposal("run-1")); !strings.HasSuffix(o.Branch, "UTC-2") || len(h.Pulls()) != 1 {
		t.Fatalf("opened %+v", o)
	}
}

func TestGitHubNothingToPropose(t *testing.T) {
	t.Parallel()
	h, place := newHub(t)
	p := proposal("run-1")
	p.Body = list("0")
	if _, err := place.Propose(t.Context(), p); !errors.Is(err, review.ErrSame) {
		t.Fatalf("got %v", err)
	}
	if len(h.Branches("Snapshot-Automation/")) != 0 {
		t.Fatal("it left a branch")
	}
}

func TestGitHubLongReport(t *testing.T) {
	t.Parallel()
	h, place := newHub(t)
	p := proposal("run-1")
	p.Report = "```\n" + strings.Repeat("héllo wörld\n", 10000) + "```"
	p.Title = strings.Repeat("ü", 300)
	propose(t, place, p)
	body := h.Pulls()[0].Body
	if !strings.Contains(body, "This report was cut here: it has 120007 characters") || strings.Count(body, "```")%2 != 0 || len([]rune(body)) < 65000 {
		t.Fatalf("the body has %d characters and ends with %q", len([]rune(body)), body[len(body)-200:])
	}
}

func TestGitHubRateLimit(t *testing.T) {
	t.Parallel()
	t.Run("short", func(t *testing.T) {
		h, place := newHub(t)
		h.Fail("POST", "/git/trees", http.StatusForbidden, http.Header{"Retry-After": {"1"}})
		h.Fail("GET", "/contents/", http.StatusTooManyRequests, http.Header{"X-Ratelimit-Remaining": {"0"},
			"X-Ratelimit-Reset": {strconv.FormatInt(time.Now().Unix(), 10)}})
		start := time.Now()
		propose(t, place, proposal("run-1"))
		if took := time.Since(start); took < time.Second || len(h.Pulls()) != 1 {
			t.Fatalf("it took %v, pull requests %v", took, h.Pulls())
		}
	})
	t.Run("long", func(t *testing.T) {
		h, place := newHub(t)
		at := time.Now().Add(time.Hour).Truncate(time.Minute).Add(30 * time.Second) // no rounding brings it to another minute
		h.Fail("POST", "/git/blobs", http.StatusForbidden, http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {strconv.FormatInt(at.Unix(), 10)}})
		_, err := place.Propose(t.Context(), proposal("run-1"))
		if err == nil || !strings.Contains(err.Error(), at.UTC().Format("2006-01-02T15:04")) {
			t.Fatalf("got %v", err)
		}
		propose(t, place, proposal("run-1"))
	})
	t.Run("server errors", func(t *testing.T) {
		h, place := newHub(t)
		h.Fail("GET", "/git/ref/", http.StatusServiceUnavailable, nil)
		if got, err := place.Published(t.Context()); err != nil || !bytes.Equal(got, list("0")) {
			t.Fatalf("got %q, %v", got, err)
		}
	})
}

func TestGitHubRefusals(t *testing.T) {
	t.Parallel()
	h, _ := newHub(t)
	for name, c := range map[string]struct {
		change func(*review.Config)
		want   string
	}{
		"a reviewer who is none": {func(c *review.Config) { c.Reviewers = []string{"mallory"} }, "review.reviewers"},
		"a wrong token":          {func(c *review.Config) { c.Token = "ghp_wrong" }, "review.token"},
		"no token":               {func(c *review.Config) { c.Token = "" }, "review.token"},
	} {
		t.Run(name, func(t *testing.T) {
			config := h.config
			c.change(&config)
			_, err := newPlace(t, config).Propose(t.Context(), proposal("run of "+name))
			if err == nil || !strings.Contains(err.Error(), c.want) || config.Token != "" && strings.Contains(err.Error(), config.Token) {
				t.Fatalf("got %v", err)
			}
		})
	}
}

// A pull request from elsewhere, whoever wrote its text, is none of ours.
func TestGitHubForgedMark(t *testing.T) {
	t.Parallel()
	h, place := newHub(t)
	p := proposal("run-1")
	p.Chain, p.Report = "gnosis", "<!-- snapfw run=run-0 chain=mainnet -->"
	o := propose(t, place, p)
	propose(t, place, proposal("run-2"))
	if pr := h.Pulls()[o.Number-1]; !pr.Open {
		t.Fatal("a mark inside a report was taken for the proposal's own")
	}
}
