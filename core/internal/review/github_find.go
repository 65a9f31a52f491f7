package review

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/go-github/v88/github"
)

const (
	// olderBy is how far the clocks of this machine and GitHub's may differ.
	olderBy = 24 * time.Hour
	// maxTries is how many branches of one second are looked at.
	maxTries = 20
)

// ours tells whether a pull request comes from a branch that snapfw may have made.
func (g *gitHub) ours(pr *github.PullRequest) bool {
	return strings.EqualFold(pr.GetHead().GetRepo().GetFullName(), g.Repo) && strings.HasPrefix(pr.GetHead().GetRef(), g.Branch+"/")
}

// find looks for the run's pull request, closed ones too: it may have been merged between
// its making and the moment when this was written down.
func (g *gitHub) find(ctx context.Context, p Proposal) (Opened, bool, error) {
	var o Opened
	err := g.each(ctx, "all", func(pr *github.PullRequest) bool {
		if m, ok := readMark(pr.GetBody()); ok && m == p.mark() && g.ours(pr) {
			o = Opened{Kind: KindGitHub, Branch: pr.GetHead().GetRef(), Base: g.Base, Commit: pr.GetHead().GetSHA(),
				URL: pr.GetHTMLURL(), Number: pr.GetNumber()}
			return false
		}
		return pr.GetCreatedAt().After(p.Time.Add(-olderBy))
	})
	if err != nil || o.Number == 0 {
		return Opened{}, false, err
	}
	c, _, err := g.api.Git.GetCommit(ctx, g.owner, g.name, o.Commit)
	if err != nil {
		return Opened{}, false, g.explain("read commit "+o.Commit, err)
	}
	if m, ok := readMark(c.GetMessage()); ok && m == p.mark() && len(c.Parents) == 1 {
		o.From = c.Parents[0].GetSHA()
	}
	return o, true, nil
}

// each yields the pull requests into Base, the newest first, until yield says false.
func (g *gitHub) each(ctx context.Context, state string, yield func(*github.PullRequest) bool) error {
	opts := &github.PullRequestListOptions{State: state, Base: g.Base, Sort: "created", Direction: "desc",
		ListOptions: github.ListOptions{PerPage: 100, Page: 1}}
	for opts.Page != 0 {
		list, resp, err := g.api.PullRequests.List(ctx, g.owner, g.name, opts)
		if err != nil {
			return g.explain("list pull requests", err)
		}
		for _, pr := range list {
			if !yield(pr) {
				return nil
			}
		}
		opts.Page = resp.NextPage
	}
	return nil
}

// supersede closes the chain's open pull requests that are older than this one.
func (g *gitHub) supersede(ctx context.Context, p Proposal, o Opened) error {
	var old []*github.PullRequest
	err := g.each(ctx, "open", func(pr *github.PullRequest) bool {
		m, ok := readMark(pr.GetBody())
		if ok && m.Chain == p.Chain && m.Run != p.Run && pr.GetNumber() < o.Number && g.ours(pr) {
			old = append(old, pr)
		}
		return true
	})
	if err != nil {
		return err
	}
	for _, pr := range old {
		if err := g.close(ctx, pr, "Superseded by "+o.URL); err != nil {
			return err
		}
	}
	return nil
}

// branchOf returns the run's branch: one that an earlier call left, or a new one.
func (g *gitHub) branchOf(ctx context.Context, p Proposal) (Opened, error) {
	refs, _, err := g.api.Git.ListMatchingRefs(ctx, g.owner, g.name, "heads/"+p.branches(g.Branch))
	if err != nil && status(err) != http.StatusNotFound {
		return Opened{}, g.explain("list branches", err)
	}
	// The newest are last; a host leaves few, since what is merged or closed is deleted.
	slices.SortFunc(refs, func(a, b *github.Reference) int { return strings.Compare(b.GetRef(), a.GetRef()) })
	head, err := g.head(ctx)
	if err != nil {
		return Opened{}, err
	}
	for _, ref := range refs[:min(len(refs), maxTries)] {
		o, ok, err := g.adopt(ctx, p, ref, head)
		if err != nil || ok {
			return o, err
		}
	}
	return g.newBranch(ctx, p, head)
}

// adopt takes a branch that was made for this run and puts the list on the head of Base there.
func (g *gitHub) adopt(ctx context.Context, p Proposal, ref *github.Reference, head string) (Opened, bool, error) {
	sha := ref.GetObject().GetSHA()
	c, _, err := g.api.Git.GetCommit(ctx, g.owner, g.name, sha)
	if err != nil {
		return Opened{}, false, g.explain("read commit "+sha, err)
	}
	if m, ok := readMark(c.GetMessage()); !ok || m != p.mark() {
		return Opened{}, false, nil
	}
	o, err := g.commit(ctx, p, head)
	if err != nil {
		return Opened{}, false, err
	}
	o.Branch = strings.TrimPrefix(ref.GetRef(), "refs/heads/")
	if o.Commit == sha {
		return o, true, nil
	}
	// No pull request shows this branch yet, so that nobody's work is on it.
	_, _, err = g.api.Git.UpdateRef(ctx, g.owner, g.name, "heads/"+o.Branch, github.UpdateRef{SHA: o.Commit, Force: github.Ptr(true)})
	if err != nil {
		return Opened{}, false, g.explain("move branch "+o.Branch, err)
	}
	return o, true, nil
}

// newBranch commits the list to the head of Base and names it.
func (g *gitHub) newBranch(ctx context.Context, p Proposal, head string) (Opened, error) {
	switch now, err := g.file(ctx, head); {
	case err == nil && string(now) == string(p.Body):
		return Opened{}, fmt.Errorf("review: propose %s: %w", g.Path, ErrSame)
	case err != nil && !isNotExist(err):
		return Opened{}, err
	}
	o, err := g.commit(ctx, p, head)
	if err != nil {
		return Opened{}, err
	}
	for nth := 1; nth <= maxTries; nth++ {
		o.Branch = p.branch(g.Branch, nth)
		_, _, err = g.api.Git.CreateRef(ctx, g.owner, g.name, github.CreateRef{Ref: "refs/heads/" + o.Branch, SHA: o.Commit})
		if err == nil {
			return o, nil
		}
		if !refExists(err) {
			break
		}
	}
	return Opened{}, g.explain("make branch "+o.Branch, err)
}

// refExists tells that a reference was not made because there is one: GitHub answers 422, and
// 409 where two make it at once.
func refExists(err error) bool {
	var e *github.ErrorResponse
	if !errors.As(err, &e) {
		return false
	}
	return e.Response.StatusCode == http.StatusConflict ||
		e.Response.StatusCode == http.StatusUnprocessableEntity && strings.Contains(strings.ToLower(e.Message), "already exists")
}
