package review_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/snapfw/snapfw/core/internal/review"
)

// forge is a bare repository and somebody's clone of it, both used through the git command.
type forge struct {
	t     *testing.T
	bare  string
	clone string
}

func newForge(t *testing.T) *forge {
	t.Helper()
	dir := t.TempDir()
	f := &forge{t, filepath.Join(dir, "repo.git"), filepath.Join(dir, "clone")}
	f.in(dir, "init", "--quiet", "--bare", "--initial-branch=main", f.bare)
	f.in(f.bare, "config", "http.receivepack", "true")
	f.in(dir, "init", "--quiet", "--initial-branch="+base, f.clone)
	f.git("remote", "add", "origin", f.bare)
	for i := range 3 {
		f.write("other.toml", fmt.Appendf(nil, "other %d", i))
	}
	f.write(file, list("0"))
	return f
}

func (f *forge) in(dir string, args ...string) string {
	f.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_AUTHOR_NAME=bob", "GIT_AUTHOR_EMAIL=bob@example.org",
		"GIT_COMMITTER_NAME=bob", "GIT_COMMITTER_EMAIL=bob@example.org", "GIT_EDITOR=true")
	out, err := cmd.CombinedOutput()
	if err != nil {
		f.t.Fatalf("git %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func (f *forge) git(args ...string) string { f.t.Helper(); return f.in(f.clone, args...) }

// write commits a file to the branch that is checked out and pushes it.
func (f *forge) write(name string, body []byte) {
	f.t.Helper()
	at := filepath.Join(f.clone, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, body, 0o644)); err != nil {
		f.t.Fatal(err)
	}
	f.git("add", name)
	f.git("commit", "--quiet", "-m", "update "+name)
	f.git("push", "--quiet", "origin", "HEAD")
}

func (f *forge) held(branch, name string) string {
	f.t.Helper()
	cmd := exec.Command("git", "cat-file", "blob", branch+":"+name)
	cmd.Dir = f.bare
	out, err := cmd.Output()
	if err != nil {
		f.t.Fatal(err)
	}
	return string(out)
}

func (f *forge) branches() string {
	return f.in(f.bare, "for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads/Snapshot-Automation/")
}

const gitToken = "glpat-secret-0123456789"

// serve gives the repository to who has the token, by git's own server program.
func (f *forge) serve() string {
	backend := "/usr/lib/git-core/git-http-backend"
	if out, err := exec.Command("git", "--exec-path").Output(); err == nil {
		backend = filepath.Join(strings.TrimSpace(string(out)), "git-http-backend")
	}
	if _, err := os.Stat(backend); err != nil {
		f.t.Skipf("NO GIT HTTP SERVER, NOT TESTED: %v", err)
	}
	h := &cgi.Handler{Path: backend, Env: []string{"GIT_PROJECT_ROOT=" + filepath.Dir(f.bare), "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=snapfw"}, Stderr: io.Discard}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, ok := r.BasicAuth(); !ok || u != "x-access-token" || p != gitToken {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			http.Error(w, "who are you? not "+p, http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	}))
	f.t.Cleanup(s.Close)
	return s.URL + "/repo.git"
}

func (f *forge) config() review.Config {
	return review.Config{Kind: review.KindGit, Repo: f.bare, Base: base, Path: file}
}

func TestGitOverEveryTransport(t *testing.T) {
	t.Parallel()
	for name, repo := range map[string]func(*forge) string{
		"http": (*forge).serve,
		"file": func(f *forge) string { return "file://" + f.bare },
		"path": func(f *forge) string { return f.bare },
	} {
		t.Run(name, func(t *testing.T) {
			f := newForge(t)
			c := f.config()
			c.Repo = repo(f)
			if name == "http" {
				c.Token = gitToken
			}
			place := newPlace(t, c)
			if got, err := place.Published(t.Context()); err != nil || !bytes.Equal(got, list("0")) {
				t.Fatalf("got %q, %v", got, err)
			}
			o := propose(t, place, proposal("run-1"))
			if o.Branch != "Snapshot-Automation/snapshotter-1.example.org/20260504-030201UTC" || o.From != f.git("rev-parse", "HEAD") {
				t.Fatalf("opened %+v", o)
			}
			if got := f.held(o.Branch, file); got != string(list("run-1")) {
				t.Fatalf("the branch holds %q", got)
			}
			f.in(f.bare, "fsck", "--strict")
			if got := f.in(f.bare, "rev-parse", o.Branch+"^"); got != o.From {
				t.Fatalf("it is not made from the head of the base: %s", got)
			}
			if got := f.in(f.bare, "show", "--name-only", "--format=%an <%ae> %s", o.Branch); got != "snapfw <snapfw@localhost> [automation] mainnet\n\n"+file {
				t.Fatalf("the commit is %q", got)
			}
			look(t, place, o, review.Open)
			f.git("fetch", "--quiet")
			f.git("merge", "--quiet", "--ff-only", "origin/"+o.Branch)
			f.git("push", "--quiet", "origin", "HEAD")
			if a := look(t, place, o, review.Merged); !bytes.Equal(a.Body, list("run-1")) {
				t.Fatalf("answer %+v", a)
			}
			for range 2 {
				if err := place.Withdraw(t.Context(), o, "tidy"); err != nil {
					t.Fatal(err)
				}
			}
			if f.branches() != "" {
				t.Fatal("the branch is still there")
			}
		})
	}
}

func TestGitVerdicts(t *testing.T) {
	edit := func(f *forge, o review.Opened) {
		f.git("checkout", "--quiet", o.Branch)
		f.write(file, list("edited"))
		f.git("checkout", "--quiet", base)
	}
	push := func(f *forge) { f.git("push", "--quiet", "origin", "HEAD") }
	drop := func(f *forge, o review.Opened) { f.git("push", "--quiet", "origin", ":"+o.Branch) }
	squash := func(f *forge, o review.Opened) {
		f.git("merge", "--quiet", "--squash", o.Branch)
		f.git("commit", "--quiet", "-m", "squashed")
		push(f)
	}
	for name, c := range map[string]struct {
		do   func(f *forge, o review.Opened)
		want string
		body string
	}{
		"merge commit": {func(f *forge, o review.Opened) {
			f.write("other.toml", []byte("moved on"))
			f.git("merge", "--quiet", "--no-ff", "-m", "merge", o.Branch)
			push(f)
		}, review.Merged, "run-1"},
		"squash, branch deleted": {func(f *forge, o review.Opened) { squash(f, o); drop(f, o) }, review.Merged, "run-1"},
		"cherry-pick, and 30 commits later": {func(f *forge, o review.Opened) {
			f.write("other.toml", []byte("moved on"))
			f.git("cherry-pick", o.Commit)
			for i := range 30 {
				f.git("commit", "--quiet", "--allow-empty", "-m", fmt.Sprint(i))
			}
			f.write(file, list("later"))
			drop(f, o)
		}, review.Merged, "later"},
		"edited, then squashed":   {func(f *forge, o review.Opened) { edit(f, o); squash(f, o) }, review.Merged, "edited"},
		"edited":                  {edit, review.Open, ""},
		"branch deleted":          {drop, review.Rejected, ""},
		"base moved, still there": {func(f *forge, _ review.Opened) { f.write(file, list("another")) }, review.Open, ""},
		"base moved, deleted":     {func(f *forge, o review.Opened) { f.write(file, list("another")); drop(f, o) }, review.Rejected, ""},
		"base brought into the branch": {func(f *forge, o review.Opened) {
			f.write(file, list("another"))
			f.git("checkout", "--quiet", o.Branch)
			f.git("merge", "--quiet", "-s", "recursive", "-X", "theirs", "-m", "take theirs", base)
			push(f)
			f.git("checkout", "--quiet", base)
		}, review.Open, ""},
		"taken back on the branch": {func(f *forge, o review.Opened) {
			f.git("checkout", "--quiet", o.Branch)
			f.git("revert", "--no-edit", "HEAD")
			push(f)
			f.git("checkout", "--quiet", base)
			f.write("other.toml", []byte("moved on"))
		}, review.Open, ""},
		"base rewritten": {func(f *forge, o review.Opened) {
			f.git("checkout", "--quiet", "--orphan", "fresh")
			f.git("commit", "--quiet", "-m", "fresh")
			f.git("push", "--quiet", "--force", "origin", "HEAD:"+base)
		}, review.Open, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newForge(t)
			place := newPlace(t, f.config())
			o := propose(t, place, proposal("run-1"))
			f.git("fetch", "--quiet")
			f.git("branch", "--quiet", "--track", o.Branch, "origin/"+o.Branch)
			c.do(f, o)
			a := look(t, place, o, c.want)
			if c.want == review.Merged && (!bytes.Equal(a.Body, list(c.body)) || a.By != "bob") {
				t.Fatalf("answer %q by %q", a.Body, a.By)
			}
			if c.want == review.Rejected && a.Why == "" {
				t.Fatal("it does not say why")
			}
		})
	}
}

func TestGitProposeAgain(t *testing.T) {
	t.Parallel()
	f := newForge(t)
	place := newPlace(t, f.config())
	o := propose(t, place, proposal("run-1"))
	f.git("fetch", "--quiet")
	f.git("checkout", "--quiet", o.Branch)
	f.write(file, list("edited"))
	f.git("checkout", "--quiet", base)
	f.write("other.toml", []byte("moved on"))
	again := proposal("run-1")
	again.Time = again.Time.Add(time.Hour)
	if got := propose(t, place, again); got != o {
		t.Fatalf("opened %+v, then %+v", o, got)
	}
	if got := f.held(o.Branch, file); got != string(list("edited")) {
		t.Fatalf("somebody's work was overwritten: %q", got)
	}
	other := proposal("run-x")
	other.Chain = "gnosis"
	x := propose(t, place, other)
	next := proposal("run-2")
	next.Time = next.Time.Add(2 * time.Hour)
	o2 := propose(t, place, next)
	if want := x.Branch + "\n" + o2.Branch; f.branches() != want {
		t.Fatalf("branches\n%s\nwant\n%s", f.branches(), want)
	}
	if got := f.held(o2.Branch, "other.toml"); got != "moved on" {
		t.Fatal("it is not made from the base's head")
	}
	look(t, place, o, review.Rejected)
}

func TestGitRefusals(t *testing.T) {
	t.Parallel()
	f := newForge(t)
	repo := f.serve()
	for name, c := range map[string]struct {
		change func(*review.Config)
		want   string
		absent bool
	}{
		"no file":     {func(c *review.Config) { c.Path = "none.toml" }, "none.toml", true},
		"a folder":    {func(c *review.Config) { c.Path = "lists" }, "lists", true},
		"no branch":   {func(c *review.Config) { c.Base = "release/9" }, "review.base", false},
		"no repo":     {func(c *review.Config) { c.Repo += "x" }, "review", false},
		"wrong token": {func(c *review.Config) { c.Token = "glpat-wrong" }, "review.token", false},
	} {
		t.Run(name, func(t *testing.T) {
			config := f.config()
			config.Repo, config.Token = repo, gitToken
			c.change(&config)
			_, err := newPlace(t, config).Published(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, fs.ErrNotExist) != c.absent || strings.Contains(err.Error(), config.Token) {
				t.Fatalf("got %v", err)
			}
		})
	}
	f.write("empty.toml", nil)
	empty := f.config()
	empty.Path = "empty.toml"
	if got, err := newPlace(t, empty).Published(t.Context()); err != nil || got == nil || len(got) != 0 {
		t.Fatalf("an empty list reads as %v, %v", got, err)
	}
	same := proposal("run-1")
	same.Body = list("0")
	if _, err := newPlace(t, f.config()).Propose(t.Context(), same); !errors.Is(err, review.ErrSame) || f.branches() != "" {
		t.Fatalf("got %v, branches %q", err, f.branches())
	}
}
