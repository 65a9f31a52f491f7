package githubtest

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// call is a request that was checked.
type call struct {
	r    *http.Request
	vars map[string]string
	body []byte
}

func (c call) number() int {
	for _, k := range []string{"pull_number", "issue_number"} {
		if n, err := strconv.Atoi(c.vars[k]); err == nil {
			return n
		}
	}
	return 0
}

// route is an operation of the description, by its own template.
type route struct {
	method   string
	template string
	pattern  *regexp.Regexp
	do       func(*Server, call) answer
}

const inRepo = "/repos/{owner}/{repo}"

var routes = []route{
	newRoute("GET", inRepo+"/git/ref/{ref}", (*Server).getRef),
	newRoute("GET", inRepo+"/git/matching-refs/{ref}", (*Server).matchingRefs),
	newRoute("POST", inRepo+"/git/refs", (*Server).createRef),
	newRoute("PATCH", inRepo+"/git/refs/{ref}", (*Server).updateRef),
	newRoute("DELETE", inRepo+"/git/refs/{ref}", (*Server).deleteRef),
	newRoute("GET", inRepo+"/git/commits/{commit_sha}", (*Server).getCommit),
	newRoute("POST", inRepo+"/git/commits", (*Server).createCommit),
	newRoute("POST", inRepo+"/git/trees", (*Server).createTree),
	newRoute("POST", inRepo+"/git/blobs", (*Server).createBlob),
	newRoute("GET", inRepo+"/contents/{path}", (*Server).contents),
	newRoute("GET", inRepo+"/pulls", (*Server).listPulls),
	newRoute("POST", inRepo+"/pulls", (*Server).createPull),
	newRoute("GET", inRepo+"/pulls/{pull_number}", (*Server).getPull),
	newRoute("PATCH", inRepo+"/pulls/{pull_number}", (*Server).editPull),
	newRoute("POST", inRepo+"/pulls/{pull_number}/requested_reviewers", (*Server).askReview),
	newRoute("POST", inRepo+"/issues/{issue_number}/labels", (*Server).addLabels),
	newRoute("POST", inRepo+"/issues/{issue_number}/comments", (*Server).addComment),
	newRoute("GET", inRepo+"/issues/{issue_number}/comments", (*Server).listComments),
	newRoute("GET", inRepo+"/issues/{issue_number}", (*Server).getIssue),
}

func newRoute(method, template string, do func(*Server, call) answer) route {
	// A reference and a path have slashes; nothing else has.
	p := varName.ReplaceAllStringFunc(template, func(v string) string {
		if v == "{ref}" || v == "{path}" {
			return "(?P<" + v[1:len(v)-1] + ">.+)"
		}
		return "(?P<" + v[1:len(v)-1] + ">[^/]+)"
	})
	return route{method, template, regexp.MustCompile("^" + p + "$"), do}
}

func (rt route) match(r *http.Request) (map[string]string, bool) {
	found := rt.pattern.FindStringSubmatch(r.URL.EscapedPath())
	if found == nil || r.Method != rt.method {
		return nil, false
	}
	vars := map[string]string{}
	for i, name := range rt.pattern.SubexpNames() {
		if name == "" {
			continue
		}
		v, err := url.PathUnescape(found[i])
		if err != nil {
			return nil, false
		}
		vars[name] = v
	}
	return vars, true
}

func (s *Server) showRef(name, sha string) map[string]any {
	return map[string]any{"ref": name, "node_id": "R" + sha, "url": s.URL + "repos/" + Repo + "/git/" + name,
		"object": map[string]any{"type": "commit", "sha": sha, "url": s.URL + "repos/" + Repo + "/git/commits/" + sha}}
}

func (s *Server) getRef(c call) answer {
	name := "refs/" + c.vars["ref"]
	if sha := s.git.ref(name); sha != "" {
		return answer{code: http.StatusOK, body: s.showRef(name, sha)}
	}
	return notFound()
}

func (s *Server) matchingRefs(c call) answer {
	out, err := s.git.line("for-each-ref", "--format=%(objectname) %(refname)")
	if err != nil {
		s.t.Error(err)
	}
	list := []any{}
	for line := range strings.Lines(out) {
		sha, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.HasPrefix(name, "refs/"+c.vars["ref"]) {
			list = append(list, s.showRef(name, sha))
		}
	}
	return answer{code: http.StatusOK, body: list}
}

func (s *Server) createRef(c call) answer {
	var in struct{ Ref, SHA string }
	if err := decode(c.body, &in); err != nil {
		return invalid("Problems parsing JSON")
	}
	switch _, err := s.git.line("check-ref-format", in.Ref); {
	case err != nil || !strings.HasPrefix(in.Ref, "refs/"):
		return invalid(in.Ref + " is not a valid ref name.")
	case s.git.ref(in.Ref) != "":
		return invalid("Reference already exists")
	case !s.git.has(in.SHA, "commit"):
		return invalid("Object does not exist")
	}
	if _, err := s.git.line("update-ref", in.Ref, in.SHA, strings.Repeat("0", 40)); err != nil {
		return invalid("Reference update failed")
	}
	return answer{code: http.StatusCreated, body: s.showRef(in.Ref, in.SHA)}
}

func (s *Server) updateRef(c call) answer {
	var in struct {
		SHA   string
		Force bool
	}
	if err := decode(c.body, &in); err != nil {
		return invalid("Problems parsing JSON")
	}
	name := "refs/" + c.vars["ref"]
	old := s.git.ref(name)
	switch {
	case old == "":
		return invalid("Reference does not exist")
	case !s.git.has(in.SHA, "commit"):
		return invalid("Object does not exist")
	case !in.Force && !s.git.contains(old, in.SHA):
		return invalid("Update is not a fast forward")
	}
	if _, err := s.git.line("update-ref", name, in.SHA, old); err != nil {
		return invalid("Reference update failed")
	}
	return answer{code: http.StatusOK, body: s.showRef(name, in.SHA)}
}

func (s *Server) deleteRef(c call) answer {
	name := "refs/" + c.vars["ref"]
	if s.git.ref(name) == "" {
		return invalid("Reference does not exist")
	}
	if _, err := s.git.line("update-ref", "-d", name); err != nil {
		return invalid("Reference update failed")
	}
	return answer{code: http.StatusNoContent}
}

func (s *Server) showCommit(sha string) map[string]any {
	out, err := s.git.line("show", "--no-patch", "--format=%T%n%P%n%an%n%ae%n%aI%n%cn%n%ce%n%cI", sha)
	if err != nil {
		s.t.Error(err)
	}
	f := append(strings.Split(out, "\n"), make([]string, 8)...)
	raw, err := s.git.do(nil, nil, "cat-file", "commit", sha)
	if err != nil {
		s.t.Error(err)
	}
	_, text, _ := strings.Cut(raw, "\n\n")
	x := s.example("git-commit-2", 1)
	at := s.URL + "repos/" + Repo + "/git/"
	x["sha"], x["url"], x["message"] = sha, at+"commits/"+sha, text
	x["tree"] = map[string]any{"sha": f[0], "url": at + "trees/" + f[0]}
	parents := []any{}
	for _, p := range strings.Fields(f[1]) {
		parents = append(parents, map[string]any{"sha": p, "url": at + "commits/" + p, "html_url": "https://github.com/" + Repo + "/commit/" + p})
	}
	x["parents"] = parents
	x["author"] = map[string]any{"name": f[2], "email": f[3], "date": f[4]}
	x["committer"] = map[string]any{"name": f[5], "email": f[6], "date": f[7]}
	return x
}

func (s *Server) getCommit(c call) answer {
	if !s.git.has(c.vars["commit_sha"], "commit") {
		return notFound()
	}
	return answer{code: http.StatusOK, body: s.showCommit(c.vars["commit_sha"])}
}

func (s *Server) createCommit(c call) answer {
	var in struct {
		Message, Tree string
		Parents       []string
		Author        *struct{ Name, Email, Date string }
	}
	if err := decode(c.body, &in); err != nil {
		return invalid("Problems parsing JSON")
	}
	if !s.git.has(in.Tree, "tree") {
		return invalid("Tree SHA does not exist")
	}
	for _, p := range in.Parents {
		if !s.git.has(p, "commit") {
			return invalid("Parent SHA does not exist or is not a commit object")
		}
	}
	var env []string
	if a := in.Author; a != nil {
		// The committer is the author where nothing else is said.
		env = []string{"GIT_AUTHOR_NAME=" + a.Name, "GIT_AUTHOR_EMAIL=" + a.Email, "GIT_AUTHOR_DATE=" + a.Date,
			"GIT_COMMITTER_NAME=" + a.Name, "GIT_COMMITTER_EMAIL=" + a.Email, "GIT_COMMITTER_DATE=" + a.Date}
	}
	sha, err := s.git.commit(in.Tree, in.Message, env, in.Parents...)
	if err != nil {
		return invalid("Validation Failed", err.Error())
	}
	return answer{code: http.StatusCreated, body: s.showCommit(sha)}
}

func (s *Server) createTree(c call) answer {
	var in struct {
		BaseTree string `json:"base_tree"`
		Tree     []entry
	}
	if err := decode(c.body, &in); err != nil {
		return invalid("Problems parsing JSON")
	}
	if in.BaseTree != "" && !s.git.has(in.BaseTree, "tree") {
		return invalid("base_tree is not a valid tree oid")
	}
	for _, e := range in.Tree {
		if e.SHA != nil && !s.git.has(*e.SHA, "blob") || e.Content != nil {
			return invalid(fmt.Sprintf("tree.sha %v is not a valid blob", e.SHA))
		}
	}
	sha, err := s.git.tree(in.BaseTree, in.Tree)
	if err != nil {
		return invalid("Validation Failed", err.Error())
	}
	out, err := s.git.line("ls-tree", "--long", sha)
	if err != nil {
		s.t.Error(err)
	}
	list := []any{}
	for line := range strings.Lines(out) {
		what, name, _ := strings.Cut(strings.TrimSpace(line), "\t")
		f := strings.Fields(what)
		e := map[string]any{"path": name, "mode": f[0], "type": f[1], "sha": f[2], "url": s.URL + "repos/" + Repo + "/git/" + f[1] + "s/" + f[2]}
		if n, err := strconv.Atoi(f[3]); err == nil {
			e["size"] = n
		}
		list = append(list, e)
	}
	return answer{code: http.StatusCreated, body: map[string]any{"sha": sha, "url": s.URL + "repos/" + Repo + "/git/trees/" + sha,
		"tree": list, "truncated": false}}
}

func (s *Server) createBlob(c call) answer {
	var in struct{ Content, Encoding string }
	if err := decode(c.body, &in); err != nil {
		return invalid("Problems parsing JSON")
	}
	content := []byte(in.Content)
	if in.Encoding == "base64" {
		var err error
		if content, err = base64.StdEncoding.DecodeString(in.Content); err != nil {
			return invalid("content is not valid Base64")
		}
	}
	sha, err := s.git.blob(content)
	if err != nil {
		return invalid("Validation Failed", err.Error())
	}
	return answer{code: http.StatusCreated, body: map[string]any{"sha": sha, "url": s.URL + "repos/" + Repo + "/git/blobs/" + sha}}
}

// contents knows the raw media type: the JSON one leaves out what has more than 1 MB.
func (s *Server) contents(c call) answer {
	accept := c.r.Header.Get("Accept")
	if accept != "application/vnd.github.raw+json" {
		s.t.Errorf("githubtest: contents are asked for as %q", accept)
	}
	at := c.r.URL.Query().Get("ref")
	if at == "" {
		at = "main"
	}
	name := at + ":" + c.vars["path"]
	switch kind, err := s.git.line("cat-file", "-t", name); {
	case err != nil:
		return notFound()
	case kind == "tree":
		return answer{code: http.StatusOK, raw: []byte("[]"), header: http.Header{"Content-Type": {"application/json; charset=utf-8"}}}
	}
	out, err := s.git.do(nil, nil, "cat-file", "blob", name)
	if err != nil {
		return notFound()
	}
	return answer{code: http.StatusOK, raw: append([]byte{}, out...), header: http.Header{"Content-Type": {accept + "; charset=utf-8"}}}
}
