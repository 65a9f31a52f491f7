package githubtest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// What GitHub takes, in characters.
const (
	maxBody  = 65536
	maxTitle = 256
)

type pull struct {
	number           int
	title, body      string
	head, base, sha  string
	open, merged     bool
	by, mergeCommit  string
	labels           []string
	reviewers, teams []string
	comments         []comment
	created, closed  time.Time
}

type comment struct {
	id          int
	login, text string
	at          time.Time
}

func (p *pull) end(merged bool, by, commit string) {
	p.open, p.merged, p.by, p.mergeCommit, p.closed = false, merged, by, commit, time.Now()
}

func (s *Server) pull(number int) *pull {
	if number < 1 || number > len(s.pulls) {
		return nil
	}
	return s.pulls[number-1]
}

func (s *Server) note(p *pull, login, text string) comment {
	s.notes++
	c := comment{s.notes, login, text, time.Now()}
	p.comments = append(p.comments, c)
	return c
}

// example makes an object like the vendor's example, for our repository and a number.
func (s *Server) example(name string, number int) map[string]any {
	raw, err := json.Marshal(s.desc.example(name))
	if err != nil {
		s.t.Errorf("githubtest: %v", err)
	}
	text := strings.NewReplacer("octocat/Hello-World", Repo, "1347", strconv.Itoa(number), "https://api.github.com/", s.URL).Replace(string(raw))
	var x map[string]any
	if err := json.Unmarshal([]byte(text), &x); err != nil {
		s.t.Errorf("githubtest: %v", err)
	}
	return x
}

func (s *Server) user(login string) map[string]any {
	x, _ := s.example("issue-comment", 1)["user"].(map[string]any)
	raw, _ := json.Marshal(x)
	var u map[string]any
	_ = json.Unmarshal([]byte(strings.ReplaceAll(string(raw), "octocat", login)), &u)
	return u
}

func (s *Server) users(logins []string) []any {
	list := []any{}
	for _, l := range logins {
		list = append(list, s.user(l))
	}
	return list
}

func (s *Server) labels(names []string) []any {
	list := []any{}
	for i, n := range names {
		list = append(list, map[string]any{"id": i + 1, "node_id": "L" + n, "url": s.URL + "repos/" + Repo + "/labels/" + n,
			"name": n, "description": "", "color": "ededed", "default": false})
	}
	return list
}

// side is the head or the base of a pull request.
func (s *Server) side(x any, branch, sha string) {
	m := x.(map[string]any)
	m["ref"], m["sha"], m["label"] = branch, sha, "acme:"+branch
	r := m["repo"].(map[string]any)
	r["full_name"], r["name"] = Repo, "snapshots"
	r["owner"], m["user"] = s.user("acme"), s.user("acme")
}

// show is a pull request in full, as GET answers it, or as in a list.
func (s *Server) show(p *pull, full bool) map[string]any {
	x := s.example("pull-request", p.number)
	x["id"], x["state"], x["locked"], x["draft"] = p.number, "open", false, false
	x["title"], x["body"], x["user"] = p.title, p.body, s.user(bot)
	x["html_url"] = "https://github.com/" + Repo + "/pull/" + strconv.Itoa(p.number)
	x["labels"], x["requested_reviewers"] = s.labels(p.labels), s.users(p.reviewers)
	team := x["requested_teams"].([]any)[0].(map[string]any)
	teams := []any{}
	for _, slug := range p.teams {
		t := map[string]any{}
		for k, v := range team {
			t[k] = v
		}
		t["slug"], t["name"], t["type"], t["parent"] = slug, slug, "organization", nil
		teams = append(teams, t)
	}
	x["requested_teams"], x["assignees"], x["assignee"], x["milestone"] = teams, []any{}, nil, nil
	x["active_lock_reason"], x["author_association"] = nil, "MEMBER"
	x["created_at"], x["updated_at"], x["closed_at"], x["merged_at"] = stamp(p.created), stamp(time.Now()), nil, nil
	x["merge_commit_sha"], x["merged_by"], x["merged"] = nil, nil, p.merged
	if !p.open {
		x["state"], x["closed_at"] = "closed", stamp(p.closed)
	}
	if p.merged {
		x["merged_at"], x["merged_by"], x["merge_commit_sha"] = stamp(p.closed), s.user(p.by), p.mergeCommit
	}
	s.side(x["head"], p.head, p.sha)
	s.side(x["base"], p.base, s.git.ref("refs/heads/"+p.base))
	x["comments"], x["review_comments"], x["commits"], x["maintainer_can_modify"] = len(p.comments), 0, 1, false
	if !full {
		for _, k := range []string{"merged", "merged_by", "mergeable", "rebaseable", "mergeable_state", "comments", "review_comments",
			"maintainer_can_modify", "commits", "additions", "deletions", "changed_files"} {
			delete(x, k)
		}
	}
	return x
}

func (s *Server) showComment(p *pull, c comment) map[string]any {
	x := s.example("issue-comment", p.number)
	x["id"], x["body"], x["user"] = c.id, c.text, s.user(c.login)
	x["created_at"], x["updated_at"] = stamp(c.at), stamp(c.at)
	return x
}

func (s *Server) listPulls(c call) answer {
	q := c.r.URL.Query()
	var found []*pull
	for _, p := range s.pulls {
		state := q.Get("state")
		if state == "" {
			state = "open"
		}
		if (state == "all" || p.open == (state == "open")) && (q.Get("base") == "" || q.Get("base") == p.base) &&
			(q.Get("head") == "" || q.Get("head") == "acme:"+p.head) {
			found = append(found, p)
		}
	}
	// By creation, the newest first, unless asked for otherwise.
	if sort := q.Get("sort"); sort != "" && sort != "created" {
		s.t.Errorf("githubtest: the stand-in does not sort by %s", sort)
	}
	if q.Get("direction") != "asc" {
		slices.Reverse(found)
	}
	part, header := page(s, c, found)
	list := []any{}
	for _, p := range part {
		list = append(list, s.show(p, false))
	}
	return answer{code: http.StatusOK, body: list, header: header}
}

// page cuts a list as per_page and page say and links to the next one.
func page[T any](s *Server, c call, all []T) ([]T, http.Header) {
	q := c.r.URL.Query()
	number := func(name string, otherwise int) int {
		if n, err := strconv.Atoi(q.Get(name)); err == nil && n > 0 {
			return n
		}
		return otherwise
	}
	per, at := min(number("per_page", 30), 100), number("page", 1)
	from, to := min((at-1)*per, len(all)), min(at*per, len(all))
	header := http.Header{}
	if to < len(all) {
		q.Set("page", strconv.Itoa(at+1))
		header.Set("Link", fmt.Sprintf(`<%s%s?%s>; rel="next"`, s.URL, strings.TrimPrefix(c.r.URL.Path, "/"), q.Encode()))
	}
	return all[from:to], header
}

func (s *Server) createPull(c call) answer {
	var in struct{ Title, Head, Base, Body string }
	if err := decode(c.body, &in); err != nil {
		return invalid("Problems parsing JSON")
	}
	head, base := s.git.ref("refs/heads/"+in.Head), s.git.ref("refs/heads/"+in.Base)
	switch {
	case head == "" || base == "":
		return invalid("Validation Failed", "head or base is invalid")
	case s.git.contains(head, base):
		return invalid("Validation Failed", fmt.Sprintf("No commits between %s and %s", in.Base, in.Head))
	case utf8.RuneCountInString(in.Body) > maxBody:
		return invalid("Validation Failed", "body is too long (maximum is 65536 characters)")
	case in.Title == "" || utf8.RuneCountInString(in.Title) > maxTitle:
		return invalid("Validation Failed", "title is too long (maximum is 256 characters)")
	}
	for _, p := range s.pulls {
		if p.open && p.head == in.Head && p.base == in.Base {
			return invalid("Validation Failed", "A pull request already exists for acme:"+in.Head+".")
		}
	}
	p := &pull{number: len(s.pulls) + 1, title: in.Title, body: in.Body, head: in.Head, base: in.Base, sha: head, open: true, created: time.Now()}
	s.pulls = append(s.pulls, p)
	return answer{code: http.StatusCreated, body: s.show(p, true)}
}

func (s *Server) getPull(c call) answer {
	if p := s.pull(c.number()); p != nil {
		return answer{code: http.StatusOK, body: s.show(p, true)}
	}
	return notFound()
}

func (s *Server) editPull(c call) answer {
	p := s.pull(c.number())
	if p == nil {
		return notFound()
	}
	var in struct{ Title, Body, State *string }
	if err := decode(c.body, &in); err != nil {
		return invalid("Problems parsing JSON")
	}
	if in.Body != nil && utf8.RuneCountInString(*in.Body) > maxBody {
		return invalid("Validation Failed", "body is too long (maximum is 65536 characters)")
	}
	if in.Title != nil {
		p.title = *in.Title
	}
	if in.Body != nil {
		p.body = *in.Body
	}
	if in.State != nil && *in.State == "closed" && p.open {
		p.end(false, bot, "")
	} else if in.State != nil && *in.State == "open" && !p.open {
		return invalid("Validation Failed", "the stand-in opens nothing again")
	}
	return answer{code: http.StatusOK, body: s.show(p, true)}
}

func (s *Server) askReview(c call) answer {
	p := s.pull(c.number())
	if p == nil {
		return notFound()
	}
	var in struct {
		Reviewers     []string
		TeamReviewers []string `json:"team_reviewers"`
	}
	if err := decode(c.body, &in); err != nil {
		return invalid("Problems parsing JSON")
	}
	for _, l := range in.Reviewers {
		if !slices.Contains(s.Collaborators, l) {
			return answer{code: http.StatusUnprocessableEntity}
		}
	}
	for _, t := range in.TeamReviewers {
		if !slices.Contains(s.Teams, t) {
			return answer{code: http.StatusUnprocessableEntity}
		}
	}
	p.reviewers, p.teams = join(p.reviewers, in.Reviewers), join(p.teams, in.TeamReviewers)
	return answer{code: http.StatusCreated, body: s.show(p, false)}
}

// join adds what is not there yet.
func join(there, more []string) []string {
	for _, m := range more {
		if !slices.Contains(there, m) {
			there = append(there, m)
		}
	}
	return there
}

func (s *Server) addLabels(c call) answer {
	p := s.pull(c.number())
	if p == nil {
		return notFound()
	}
	var in struct{ Labels []string }
	if err := decode(c.body, &in); err != nil {
		return invalid("Problems parsing JSON")
	}
	p.labels = join(p.labels, in.Labels)
	return answer{code: http.StatusOK, body: s.labels(p.labels)}
}

func (s *Server) addComment(c call) answer {
	p := s.pull(c.number())
	if p == nil {
		return notFound()
	}
	var in struct{ Body string }
	if err := decode(c.body, &in); err != nil || in.Body == "" || utf8.RuneCountInString(in.Body) > maxBody {
		return invalid("Validation Failed", "body can't be blank or is too long (maximum is 65536 characters)")
	}
	return answer{code: http.StatusCreated, body: s.showComment(p, s.note(p, bot, in.Body))}
}

func (s *Server) listComments(c call) answer {
	p := s.pull(c.number())
	if p == nil {
		return notFound()
	}
	part, header := page(s, c, p.comments)
	list := []any{}
	for _, n := range part {
		list = append(list, s.showComment(p, n))
	}
	return answer{code: http.StatusOK, body: list, header: header}
}

func (s *Server) getIssue(c call) answer {
	p := s.pull(c.number())
	if p == nil {
		return notFound()
	}
	x := s.example("issue", p.number)
	x["title"], x["body"], x["user"], x["labels"], x["comments"] = p.title, p.body, s.user(bot), s.labels(p.labels), len(p.comments)
	x["state"], x["closed_by"], x["closed_at"] = "open", nil, nil
	x["assignee"], x["assignees"], x["milestone"], x["locked"] = nil, []any{}, nil, false
	if !p.open {
		x["state"], x["closed_by"], x["closed_at"] = "closed", s.user(p.by), stamp(p.closed)
	}
	return answer{code: http.StatusOK, body: x}
}
