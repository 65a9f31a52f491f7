package review

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/google/go-github/v88/github"
)

const githubAPI = "https://api.github.com/"

// gitHub proposes by pull requests. Files are written by the Git Data API, since a list has
// more bytes than the contents API takes.
type gitHub struct {
	Config
	owner string
	name  string
	api   *github.Client
}

var ownerName = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9-]*)/([A-Za-z0-9._-]+)$`)

func newGitHub(c Config) (*gitHub, error) {
	found := ownerName.FindStringSubmatch(c.Repo)
	if found == nil || strings.Trim(found[2], ".") == "" {
		return nil, fmt.Errorf("review.repo: %q is not of the form owner/name", c.Repo)
	}
	if c.APIURL == "" {
		c.APIURL = githubAPI
	}
	u, err := url.Parse(strings.TrimSuffix(c.APIURL, "/") + "/")
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http" {
		return nil, errors.New("review.api_url: it is no address of an API, as https://HOST/api/v3/")
	}
	if err := safeURL(u, c.Token); err != nil {
		return nil, fmt.Errorf("review.api_url: %w", err)
	}
	web := &http.Client{Transport: newPatient(u, c.Token), CheckRedirect: sameOrSafer}
	base := u.String()
	api, err := github.NewClient(github.WithHTTPClient(web), github.WithURLs(&base, nil),
		github.WithUserAgent("snapfw"), github.WithDisableRateLimitCheck())
	if err != nil {
		return nil, fmt.Errorf("review.api_url: %w", err)
	}
	return &gitHub{Config: c, owner: found[1], name: found[2], api: api}, nil
}

// Published reads the list at the commit that the branch points to now: by the branch's name
// a cache may answer.
func (g *gitHub) Published(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, opTime)
	defer cancel()
	head, err := g.head(ctx)
	if err != nil {
		return nil, err
	}
	return g.file(ctx, head)
}

// head is the commit that Base points to. A branch that is not there is never fs.ErrNotExist:
// that would read as a chain that was never published.
func (g *gitHub) head(ctx context.Context) (string, error) {
	ref, _, err := g.api.Git.GetRef(ctx, g.owner, g.name, "heads/"+g.Base)
	if status(err) == http.StatusNotFound {
		return "", fmt.Errorf("review: %s has no branch %s, or the token may not read it; correct review.repo, review.base or the token", g.Repo, g.Base)
	}
	if err != nil {
		return "", g.explain("read branch "+g.Base, err)
	}
	return ref.GetObject().GetSHA(), nil
}

// file reads the list at a commit, raw: GitHub gives files of 1 to 100 MB in no other way.
func (g *gitHub) file(ctx context.Context, commit string) ([]byte, error) {
	where := (&url.URL{Path: fmt.Sprintf("repos/%s/%s/contents/%s", g.owner, g.name, g.Path),
		RawQuery: url.Values{"ref": {commit}}.Encode()}).String()
	req, err := g.api.NewRequest(ctx, http.MethodGet, where, nil)
	if err != nil {
		return nil, fmt.Errorf("review: read %s: %w", g.Path, err)
	}
	req.Header.Set("Accept", "application/vnd.github.raw+json")
	var body capped
	resp, err := g.api.Do(req, &body)
	if status(err) == http.StatusNotFound {
		return nil, fmt.Errorf("review: %s is not in branch %s of %s: %w", g.Path, g.Base, g.Repo, fs.ErrNotExist)
	}
	if err != nil {
		return nil, g.explain("read "+g.Path, err)
	}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
		return nil, fmt.Errorf("review.path: %s is no file in branch %s of %s", g.Path, g.Base, g.Repo)
	}
	return append([]byte{}, body.Bytes()...), nil // never nil: an empty list is one
}

// capped keeps what a list may have at most.
type capped struct{ bytes.Buffer }

func (c *capped) Write(p []byte) (int, error) {
	if c.Len()+len(p) > maxBody {
		return 0, fmt.Errorf("the list has more than %d bytes", maxBody)
	}
	return c.Buffer.Write(p)
}

// Propose finds the run's pull request, else its branch, else makes what is missing.
func (g *gitHub) Propose(ctx context.Context, p Proposal) (Opened, error) {
	ctx, cancel := context.WithTimeout(ctx, opTime)
	defer cancel()
	o, found, err := g.find(ctx, p)
	if err != nil {
		return Opened{}, err
	}
	if !found {
		if o, err = g.branchOf(ctx, p); err != nil {
			return Opened{}, err
		}
		pr, _, err := g.api.PullRequests.Create(ctx, g.owner, g.name, &github.NewPullRequest{
			Title: github.Ptr(p.title()), Head: &o.Branch, Base: &g.Base, Body: github.Ptr(p.text(maxText)),
			MaintainerCanModify: github.Ptr(false),
		})
		if err != nil {
			return Opened{}, g.explain("open a pull request", err)
		}
		o.Number, o.URL = pr.GetNumber(), pr.GetHTMLURL()
	}
	return o, g.dress(ctx, p, o)
}

// dress adds what a new pull request has not yet: labels, reviewers, the end of its elders.
func (g *gitHub) dress(ctx context.Context, p Proposal, o Opened) error {
	pr, _, err := g.api.PullRequests.Get(ctx, g.owner, g.name, o.Number)
	if err != nil {
		return g.explain(fmt.Sprintf("read pull request %d", o.Number), err)
	}
	if pr.GetState() != "open" {
		return nil
	}
	if missing := without(g.Labels, pr.Labels, (*github.Label).GetName); len(missing) > 0 {
		if err := g.label(ctx, o.Number, missing); err != nil {
			return g.explain(fmt.Sprintf("review.labels: label %s", o.URL), err)
		}
	}
	ask := github.ReviewersRequest{
		Reviewers:     without(g.Reviewers, pr.RequestedReviewers, (*github.User).GetLogin),
		TeamReviewers: without(g.TeamReviewers, pr.RequestedTeams, (*github.Team).GetSlug),
	}
	if len(ask.Reviewers)+len(ask.TeamReviewers) > 0 {
		if _, _, err := g.api.PullRequests.RequestReviewers(ctx, g.owner, g.name, o.Number, ask); err != nil {
			return g.explain(fmt.Sprintf("review.reviewers: ask for a review of %s", o.URL), err)
		}
	}
	return g.supersede(ctx, p, o)
}

// label adds labels in the form that the API's description has; the library sends the older one.
func (g *gitHub) label(ctx context.Context, number int, names []string) error {
	body := map[string][]string{"labels": names}
	req, err := g.api.NewRequest(ctx, http.MethodPost, fmt.Sprintf("repos/%s/%s/issues/%d/labels", g.owner, g.name, number), body)
	if err != nil {
		return err
	}
	_, err = g.api.Do(req, nil)
	return err
}

// without returns the wanted names that are not among what is there.
func without[T any](wanted []string, there []T, name func(T) string) []string {
	var missing []string
	for _, w := range wanted {
		has := false
		for _, t := range there {
			has = has || strings.EqualFold(name(t), w)
		}
		if !has {
			missing = append(missing, w)
		}
	}
	return missing
}

// commit writes the list on top of a commit of Base; nothing points to it yet.
func (g *gitHub) commit(ctx context.Context, p Proposal, from string) (Opened, error) {
	want := plumbing.ComputeHash(plumbing.BlobObject, p.Body).String()
	blob, _, err := g.api.Git.CreateBlob(ctx, g.owner, g.name, github.Blob{
		Content: github.Ptr(base64.StdEncoding.EncodeToString(p.Body)), Encoding: github.Ptr("base64")})
	if err != nil {
		return Opened{}, g.explain("store the list", err)
	}
	if blob.GetSHA() != want {
		return Opened{}, fmt.Errorf("review: %s stored other bytes than the list's: %s instead of %s", g.Repo, blob.GetSHA(), want)
	}
	parent, _, err := g.api.Git.GetCommit(ctx, g.owner, g.name, from)
	if err != nil {
		return Opened{}, g.explain("read commit "+from, err)
	}
	tree, _, err := g.api.Git.CreateTree(ctx, g.owner, g.name, parent.GetTree().GetSHA(), []*github.TreeEntry{
		{Path: &g.Path, Mode: github.Ptr("100644"), Type: github.Ptr("blob"), SHA: &want}})
	if err != nil {
		return Opened{}, g.explain("store a tree", err)
	}
	who, err := g.author()
	if err != nil {
		return Opened{}, err
	}
	at := github.Timestamp{Time: p.Time.UTC()}
	made, _, err := g.api.Git.CreateCommit(ctx, g.owner, g.name, github.Commit{
		Message: github.Ptr(p.message(false)), Tree: &github.Tree{SHA: tree.SHA}, Parents: []*github.Commit{{SHA: &from}},
		Author: &github.CommitAuthor{Name: &who.Name, Email: &who.Address, Date: &at},
	}, nil)
	if err != nil {
		return Opened{}, g.explain("store a commit", err)
	}
	return Opened{Kind: KindGitHub, Base: g.Base, Commit: made.GetSHA(), From: from, Blob: want}, nil
}

// Look asks for the pull request; what was merged elsewhere than into Base is not merged here.
func (g *gitHub) Look(ctx context.Context, o Opened) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, opTime)
	defer cancel()
	pr, _, err := g.api.PullRequests.Get(ctx, g.owner, g.name, o.Number)
	if err != nil {
		return Answer{}, g.explain(fmt.Sprintf("read pull request %d", o.Number), err)
	}
	into := pr.GetBase().GetRef()
	switch {
	case pr.GetMerged() && into != g.Base:
		return Answer{State: Rejected, By: pr.GetMergedBy().GetLogin(), Why: fmt.Sprintf("it was merged into %s, not into %s", into, g.Base)}, nil
	case pr.GetMerged():
		body, err := g.Published(ctx)
		return Answer{State: Merged, Body: body, By: pr.GetMergedBy().GetLogin()}, err
	case pr.GetState() == "open":
		return Answer{State: Open}, nil
	}
	by, why, err := g.closed(ctx, o.Number, pr.GetComments())
	return Answer{State: Rejected, By: by, Why: why}, err
}

// closed tells who closed a pull request and what was said last.
func (g *gitHub) closed(ctx context.Context, number, comments int) (by, why string, err error) {
	issue, _, err := g.api.Issues.Get(ctx, g.owner, g.name, number)
	if err != nil {
		return "", "", g.explain(fmt.Sprintf("read issue %d", number), err)
	}
	const page = 100
	opts := &github.IssueListCommentsOptions{ListOptions: github.ListOptions{PerPage: page, Page: max((comments+page-1)/page, 1)}}
	for opts.Page != 0 {
		list, resp, err := g.api.Issues.ListComments(ctx, g.owner, g.name, number, opts)
		if err != nil {
			return "", "", g.explain(fmt.Sprintf("read the comments of %d", number), err)
		}
		if len(list) > 0 {
			why = firstLine(list[len(list)-1].GetBody())
		}
		opts.Page = resp.NextPage
	}
	return issue.GetClosedBy().GetLogin(), why, nil
}

// Withdraw comments, closes and deletes the branch.
func (g *gitHub) Withdraw(ctx context.Context, o Opened, why string) error {
	ctx, cancel := context.WithTimeout(ctx, opTime)
	defer cancel()
	pr, _, err := g.api.PullRequests.Get(ctx, g.owner, g.name, o.Number)
	if err != nil {
		return g.explain(fmt.Sprintf("read pull request %d", o.Number), err)
	}
	if pr.GetMerged() {
		return fmt.Errorf("review: %s is merged and can't be withdrawn; revert it there", o.URL)
	}
	return g.close(ctx, pr, "snapfw withdraws this proposal: "+why)
}

func (g *gitHub) close(ctx context.Context, pr *github.PullRequest, why string) error {
	n := pr.GetNumber()
	if pr.GetState() == "open" {
		if _, _, err := g.api.Issues.CreateComment(ctx, g.owner, g.name, n, &github.IssueComment{Body: github.Ptr(clip(why, maxText))}); err != nil {
			return g.explain(fmt.Sprintf("comment on pull request %d", n), err)
		}
		if _, _, err := g.api.PullRequests.Edit(ctx, g.owner, g.name, n, &github.PullRequest{State: github.Ptr("closed")}); err != nil {
			return g.explain(fmt.Sprintf("close pull request %d", n), err)
		}
	}
	branch := pr.GetHead().GetRef()
	if !g.ours(pr) {
		return nil // somebody else's branch
	}
	_, err := g.api.Git.DeleteRef(ctx, g.owner, g.name, "heads/"+branch)
	if s := status(err); err != nil && s != http.StatusNotFound && s != http.StatusUnprocessableEntity {
		return g.explain("delete branch "+branch, err)
	}
	return nil
}
