// Package githubtest stands in for the part of GitHub's API that proposals need. It keeps a real
// git repository, and it checks every request and every one of its own answers against the
// vendor's published OpenAPI description.
package githubtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	Repo  = "acme/snapshots"         // the one repository there is
	Token = "ghp_StandIn0123456789x" // the one token that may write
	bot   = "snapshot-automation"    // whom the token belongs to
	alice = "alice"                  // who merges and closes
)

// Server is the stand-in. A wrong request fails the test and is answered as GitHub would.
type Server struct {
	URL           string   // for review.api_url
	Collaborators []string // who may be asked for a review
	Teams         []string // by slug

	t     testing.TB
	desc  *description
	git   repo
	mu    sync.Mutex
	pulls []*pull
	notes int // comments so far
	seen  []Request
	fault []fault
}

// Request is one that came in, as it was answered.
type Request struct {
	Method string
	Path   string
	Query  url.Values
	Header http.Header // without Authorization
	Body   []byte
	Status int
}

// Pull is a pull request as people see it.
type Pull struct {
	Number    int
	Title     string
	Body      string
	Head      string // branch
	Base      string // branch
	Open      bool
	Merged    bool
	Labels    []string
	Reviewers []string
	Teams     []string
	Comments  []string
}

type fault struct {
	method, path string
	status       int
	header       http.Header
}

// New starts the stand-in on loopback over the bare repository in a folder, which is made if it
// is not there, and ends it with the test. Without npm (and nothing in the cache) the test is skipped.
func New(t testing.TB, repoDir string) *Server {
	t.Helper()
	desc, err := load()
	if err != nil {
		t.Skipf("NO NPM, NOT TESTED: %v", err)
	}
	git, err := open(repoDir)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, desc: desc, git: git, Collaborators: []string{alice, "bob"}, Teams: []string{"snapshots"}}
	web := httptest.NewServer(s)
	t.Cleanup(web.Close)
	s.URL = web.URL + "/"
	return s
}

// Commit puts a file on a branch, which is made if it is not there, and returns the commit.
func (s *Server) Commit(branch, path string, body []byte) string {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	blob, err := s.git.blob(body)
	if err != nil {
		s.t.Fatal(err)
	}
	parent, base, parents := s.git.ref("refs/heads/"+branch), "", []string{}
	if parent != "" {
		base, parents = parent+"^{tree}", []string{parent}
	}
	tree, err := s.git.tree(base, []entry{{Path: path, Mode: "100644", SHA: &blob}})
	if err != nil {
		s.t.Fatal(err)
	}
	commit, err := s.git.commit(tree, "Update "+path, nil, parents...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.point(branch, commit)
	return commit
}

// File is what a branch holds, and whether it does.
func (s *Server) File(branch, path string) ([]byte, bool) {
	out, err := s.git.do(nil, nil, "cat-file", "blob", "refs/heads/"+branch+":"+path)
	return []byte(out), err == nil
}

// Branches lists the branches that begin with a prefix.
func (s *Server) Branches(prefix string) []string {
	s.t.Helper()
	out, err := s.git.line("for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads/")
	if err != nil {
		s.t.Fatal(err)
	}
	return slices.DeleteFunc(strings.Fields(out), func(b string) bool { return !strings.HasPrefix(b, prefix) })
}

// DeleteBranch deletes a branch as somebody would on the web; its pull requests close.
func (s *Server) DeleteBranch(branch string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.git.do(nil, nil, "update-ref", "-d", "refs/heads/"+branch); err != nil {
		s.t.Fatal(err)
	}
	s.settle()
}

// Merge merges a pull request by a merge commit, as alice.
func (s *Server) Merge(number int) { s.t.Helper(); s.merge(number, false) }

// Squash merges a pull request as one new commit, as alice.
func (s *Server) Squash(number int) { s.t.Helper(); s.merge(number, true) }

func (s *Server) merge(number int, squash bool) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pull(number)
	if p == nil || !p.open {
		s.t.Fatalf("githubtest: pull request %d is not open", number)
	}
	base := s.git.ref("refs/heads/" + p.base)
	tree, err := s.git.line("merge-tree", "--write-tree", base, p.sha)
	if err != nil {
		s.t.Fatal(err)
	}
	parents := []string{base, p.sha}
	if squash {
		parents = parents[:1]
	}
	commit, err := s.git.commit(tree, fmt.Sprintf("%s (#%d)", p.title, number), nil, parents...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.point(p.base, commit)
	p.end(true, alice, commit)
}

// CloseUnmerged closes a pull request, as alice.
func (s *Server) CloseUnmerged(number int) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pull(number)
	if p == nil || !p.open {
		s.t.Fatalf("githubtest: pull request %d is not open", number)
	}
	p.end(false, alice, "")
}

// Comment adds a comment to a pull request.
func (s *Server) Comment(number int, login, text string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pull(number)
	if p == nil {
		s.t.Fatalf("githubtest: there is no pull request %d", number)
	}
	s.note(p, login, text)
}

// Pulls is every pull request there ever was, the oldest first.
func (s *Server) Pulls() []Pull {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle()
	var all []Pull
	for _, p := range s.pulls {
		v := Pull{Number: p.number, Title: p.title, Body: p.body, Head: p.head, Base: p.base, Open: p.open, Merged: p.merged,
			Labels: slices.Clone(p.labels), Reviewers: slices.Clone(p.reviewers), Teams: slices.Clone(p.teams)}
		for _, c := range p.comments {
			v.Comments = append(v.Comments, c.text)
		}
		all = append(all, v)
	}
	return all
}

// Requests is what came in so far.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seen)
}

// Fail makes the next request of a method whose path holds a word be answered with a status and
// headers instead of being done. Several calls make several requests fail, in order.
func (s *Server) Fail(method, word string, status int, header http.Header) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = append(s.fault, fault{method, word, status, header})
}

// point moves a branch.
func (s *Server) point(branch, commit string) {
	s.t.Helper()
	if _, err := s.git.do(nil, nil, "update-ref", "refs/heads/"+branch, commit); err != nil {
		s.t.Fatal(err)
	}
}

// settle does what GitHub does behind the scenes: a pull request follows its branch, closes when that
// is deleted, and is merged when its base got its commits by a push.
func (s *Server) settle() {
	for _, p := range s.pulls {
		if !p.open {
			continue
		}
		head := s.git.ref("refs/heads/" + p.head)
		if head == "" {
			p.end(false, alice, "")
			continue
		}
		p.sha = head
		if s.git.contains(head, "refs/heads/"+p.base) {
			p.end(true, alice, head)
		}
	}
}

// answer is a status and what goes with it: JSON, or bytes.
type answer struct {
	code   int
	body   any
	raw    []byte
	header http.Header
}

var varName = regexp.MustCompile(`\{([a-z_]+)\}`)

// ServeHTTP checks, does, checks what it answers, and writes that down.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, err := io.ReadAll(io.LimitReader(r.Body, 200<<20))
	if err != nil {
		s.t.Errorf("githubtest: %s %s: %v", r.Method, r.URL, err)
	}
	s.settle()
	a := s.serve(r, body)
	header := r.Header.Clone()
	header.Del("Authorization")
	s.seen = append(s.seen, Request{r.Method, r.URL.Path, r.URL.Query(), header, body, a.code})
	for k, v := range a.header {
		w.Header()[k] = v
	}
	out := a.raw
	if a.body != nil {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		if out, err = json.Marshal(a.body); err != nil {
			s.t.Errorf("githubtest: %v", err)
		}
	}
	w.WriteHeader(a.code)
	_, _ = w.Write(out)
}

func (s *Server) serve(r *http.Request, body []byte) answer {
	for i, f := range s.fault {
		if f.method == r.Method && strings.Contains(r.URL.Path, f.path) {
			s.fault = slices.Delete(s.fault, i, i+1)
			return answer{code: f.status, header: f.header, body: map[string]any{"message": "the test says no"}}
		}
	}
	for _, rt := range routes {
		vars, ok := rt.match(r)
		if !ok {
			continue
		}
		if err := s.desc.request(rt.template, rt.method, vars, r, body); err != nil {
			s.t.Errorf("githubtest: %s %s: %v", r.Method, r.URL, err)
		}
		a := s.allow(r, vars)
		if a.code == 0 {
			a = rt.do(s, call{r, vars, body})
		}
		s.check(rt, a)
		return a
	}
	s.t.Errorf("githubtest: %s %s is not known to the stand-in", r.Method, r.URL)
	return notFound()
}

// check holds the stand-in's answer against the description.
func (s *Server) check(rt route, a answer) {
	if a.raw != nil || a.code == http.StatusUnauthorized {
		return // bytes have no schema; a wrong token is answered so everywhere
	}
	var raw []byte
	if a.body != nil {
		var err error
		if raw, err = json.Marshal(a.body); err != nil {
			s.t.Errorf("githubtest: %v", err)
		}
	}
	if err := s.desc.response(rt.template, rt.method, a.code, raw); err != nil {
		s.t.Errorf("githubtest: the stand-in's answer to %s %s: %v", rt.method, rt.template, err)
	}
}

// allow lets everybody read and the token write.
func (s *Server) allow(r *http.Request, vars map[string]string) answer {
	auth := r.Header.Get("Authorization")
	switch {
	case auth != "" && auth != "Bearer "+Token:
		return answer{code: http.StatusUnauthorized, body: message("Bad credentials")}
	case auth == "" && r.Method != http.MethodGet:
		return answer{code: http.StatusUnauthorized, body: message("Requires authentication")}
	case vars["owner"]+"/"+vars["repo"] != Repo:
		return notFound()
	}
	return answer{}
}

func message(text string) map[string]any {
	return map[string]any{"message": text, "documentation_url": "https://docs.github.com/rest"}
}

func notFound() answer { return answer{code: http.StatusNotFound, body: message("Not Found")} }

// invalid is a 422.
func invalid(text string, details ...string) answer {
	m := message(text)
	var list []any
	for _, d := range details {
		list = append(list, map[string]any{"resource": "PullRequest", "code": "custom", "message": d})
	}
	if list != nil {
		m["errors"] = list
	}
	return answer{code: http.StatusUnprocessableEntity, body: m}
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func decode(body []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	return d.Decode(into)
}
