package review

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/go-git/go-git/v5/plumbing"
)

func TestNew(t *testing.T) {
	good := Config{Kind: KindGitHub, Repo: "acme/snapshots", Base: "release/3.4", Path: "mainnet.toml"}
	git := Config{Kind: KindGit, Repo: "https://git.example.org/x.git", Base: "main", Path: "a/b.toml"}
	for name, c := range map[string]struct {
		config Config
		change func(*Config)
		want   string // "" is no error
	}{
		"nothing":          {Config{}, nil, ""},
		"github":           {good, nil, ""},
		"enterprise":       {good, func(c *Config) { c.APIURL = "https://ghe.example.org/api/v3" }, ""},
		"git":              {git, nil, ""},
		"scp":              {git, func(c *Config) { c.Repo = "git@git.example.org:x.git" }, ""},
		"path":             {git, func(c *Config) { c.Repo = "/srv/x.git" }, ""},
		"kind":             {good, func(c *Config) { c.Kind = "svn" }, "review.kind"},
		"no repo":          {good, func(c *Config) { c.Repo = "" }, "review.repo"},
		"repo of github":   {good, func(c *Config) { c.Repo = "https://github.com/a/b" }, "review.repo"},
		"dots":             {good, func(c *Config) { c.Repo = "acme/.." }, "review.repo"},
		"no base":          {good, func(c *Config) { c.Base = "" }, "review.base"},
		"bad base":         {good, func(c *Config) { c.Base = "a..b" }, "review.base"},
		"no path":          {good, func(c *Config) { c.Path = "" }, "review.path"},
		"path upwards":     {good, func(c *Config) { c.Path = "../x" }, "review.path"},
		"path into git":    {good, func(c *Config) { c.Path = ".Git/config" }, "review.path"},
		"author":           {good, func(c *Config) { c.Author = "me" }, "review.author"},
		"branch":           {good, func(c *Config) { c.Branch = "a b" }, "review.branch"},
		"api":              {good, func(c *Config) { c.APIURL = "api.example.org" }, "review.api_url"},
		"open api":         {good, func(c *Config) { c.APIURL, c.Token = "http://api.example.org", "secret" }, "review.api_url"},
		"open git":         {git, func(c *Config) { c.Repo, c.Token = "http://git.example.org/x", "secret" }, "review.repo"},
		"password":         {git, func(c *Config) { c.Repo = "https://u:secret@git.example.org/x" }, "review.repo"},
		"password of ssh":  {git, func(c *Config) { c.Repo = "ssh://u:secret@git.example.org/x" }, "review.repo"},
		"another protocol": {git, func(c *Config) { c.Repo = "ftp://git.example.org/x" }, "review.repo"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.change != nil {
				c.change(&c.config)
			}
			place, err := New(c.config)
			switch {
			case c.want == "" && (err != nil || place == nil):
				t.Fatal(err)
			case c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want+":")):
				t.Fatalf("got %v, want an error of %s", err, c.want)
			case err != nil && strings.Contains(err.Error(), "secret"):
				t.Fatalf("the error tells the secret: %v", err)
			}
		})
	}
}

func TestManual(t *testing.T) {
	place, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := place.Published(t.Context()); !isNotExist(err) {
		t.Fatalf("published: %v", err)
	}
	o, err := place.Propose(t.Context(), Proposal{})
	if err != nil || o.Kind != KindManual {
		t.Fatalf("opened %+v, %v", o, err)
	}
	if a, err := place.Look(t.Context(), o); err != nil || a.State != Open {
		t.Fatalf("answer %+v, %v", a, err)
	}
	if err := place.Withdraw(t.Context(), o, ""); err != nil {
		t.Fatal(err)
	}
}

func FuzzBranch(f *testing.F) {
	for _, s := range []string{"snapshotter-1", "", "..", "a..b", ".x.lock", "root@10.0.0.1:22", "-", "@", "a/b", "höst", "a.lock"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, host string) {
		p := Proposal{Host: host, Time: time.Unix(0, 0)}
		name := p.branch("Snapshot-Automation", 1)
		if err := plumbing.NewBranchReferenceName(name).Validate(); err != nil || strings.Count(name, "/") != 2 {
			t.Fatalf("%q makes branch %q: %v", host, name, err)
		}
	})
}

func FuzzMark(f *testing.F) {
	f.Add("run-1", "mainnet", "text")
	f.Add("a --> b", "x\ny", "<!-- snapfw run=forged chain=mainnet -->")
	f.Fuzz(func(t *testing.T, run, chain, report string) {
		p := Proposal{Run: run, Chain: chain, Report: report}
		got, ok := readMark(p.text(maxText))
		if run == "" {
			if ok {
				t.Fatal("a mark without a run")
			}
			return
		}
		if !ok || got != p.mark() {
			t.Fatalf("%q, %q reads as %+v", run, chain, got)
		}
		if m, ok := readMark(report); ok && m.Run == "" {
			t.Fatal("a mark without a run")
		}
	})
}

func FuzzClip(f *testing.F) {
	f.Add("```\nx\n```\n"+strings.Repeat("wörd\n", 50), 120)
	f.Add(strings.Repeat("x", 200), 150)
	f.Add("\xff\xfe"+strings.Repeat("x", 119), 120)
	f.Fuzz(func(t *testing.T, report string, limit int) {
		limit = max(limit, 120)
		got := clip(report, limit)
		if n := utf8.RuneCountInString(got); n > limit || !utf8.ValidString(got) {
			t.Fatalf("%d characters of %d", n, limit)
		}
		if utf8.RuneCountInString(strings.ToValidUTF8(report, "\uFFFD")) > limit && !strings.Contains(got, "This report was cut here") {
			t.Fatal("it does not say that it was cut")
		}
	})
}

func TestHide(t *testing.T) {
	_, err := New(Config{Kind: KindGitHub, Repo: "x"})
	if hide(err, "") != err || hide(nil, "x") != nil {
		t.Fatal("an error without the token has to stay itself")
	}
	if got := hide(plumbing.NewUnexpectedError(err), "unexpected"); strings.Contains(got.Error(), "unexpected") {
		t.Fatalf("got %v", got)
	}
}
