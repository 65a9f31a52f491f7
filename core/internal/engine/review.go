package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/snapfw/snapfw/core/internal/manifest"
	"github.com/snapfw/snapfw/core/internal/review"
)

// errParked: the run waits for somebody. Its locks and the copy on the host are given back.
var errParked = errors.New("waiting for the review")

// Reviewed says who let a list through.
type Reviewed struct {
	By  string `json:"by"`
	Why string `json:"why,omitempty"`
}

const publishedAlready = "it is published already"

// NothingNew tells whether the list that a node ended with was published before.
func (n *Node) NothingNew() bool {
	return n.Promoted && n.Reviewed != nil && n.Reviewed.Why == publishedAlready
}

// Chosen is what a run sends, and the sums of what it keeps in its stage.
type Chosen struct {
	Files    int               `json:"files"`
	Replaced int               `json:"replaced"`
	Bytes    int64             `json:"bytes"`
	Sums     map[string]string `json:"sums"`
}

func (r *Run) reviewHead(ctx context.Context) (body []byte, err error) {
	if r.Review == nil {
		return nil, nil
	}
	err = r.retry(ctx, nil, "read what is under review", func() error {
		body, err = r.Review.Published(ctx)
		if errors.Is(err, fs.ErrNotExist) {
			body, err = nil, nil
		}
		return err
	})
	return body, err
}

// tryReview reads what is under review, as the judge and a proposal will when the node was stopped.
func (r *Run) tryReview(ctx context.Context, n *Node) error {
	if r.Review == nil {
		return nil
	}
	err := r.retryTimes(ctx, n, "read what is under review", probeTries, func() error {
		_, err := r.Review.Published(ctx)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the first list is still to be merged
		}
		return err
	})
	if err != nil && ctx.Err() == nil {
		return &RefusedError{fmt.Sprintf("the place of the review can't be read: %v; put review: in the configuration right (repo, base, token) or make that branch; no node was stopped", err)}
	}
	return err
}

// review proposes the list and waits until somebody lets it through, or parks the run. A list that is
// published already needs nobody.
func (r *Run) review(ctx context.Context, n *Node) error {
	if !r.publishes() || !n.inPlace() || !n.Verified || n.Reviewed != nil {
		return nil
	}
	list, err := r.kept(ctx, n, stagedList)
	if isRefused(err) && n.Proposed != nil {
		// What was let through meanwhile can't be withdrawn any more.
		if a, lerr := r.answer(ctx, n); lerr == nil && a.State == review.Merged {
			if ferr := r.fact(factReviewed, n.Name, "", Reviewed{By: a.By, Why: a.Why}); ferr != nil {
				return ferr
			}
			list, err = r.kept(ctx, n, stagedList)
		}
	}
	if err != nil {
		return err
	}
	same, err := r.isPublished(ctx, n, list)
	if err != nil {
		return err
	}
	if same {
		return r.fact(factReviewed, n.Name, "", Reviewed{By: "nobody", Why: publishedAlready})
	}
	// A proposal that was opened and not completed (a reviewer whom nobody knows) is completed; that opens no second one.
	if n.Proposed == nil || n.Parks == 0 {
		if err := r.propose(ctx, n, list); err != nil || n.Reviewed != nil {
			return err
		}
	}
	return r.await(ctx, n, list)
}

// isPublished tells whether the bucket and the review hold the list already. What is replaced then has the
// sums that were let through before.
func (r *Run) isPublished(ctx context.Context, n *Node, list []byte) (bool, error) {
	now, _, _, err := r.published(ctx, n)
	if err != nil || !bytes.Equal(now, list) {
		return false, err
	}
	head, err := r.reviewHead(ctx)
	return head == nil || bytes.Equal(head, list), err
}

func (r *Run) propose(ctx context.Context, n *Node, list []byte) error {
	host := n.Addr.Host
	if host == "" {
		host = r.Here
	}
	p := review.Proposal{
		Chain: r.state.Begun.Chain, Run: r.ID, Host: host, Time: r.state.Started.UTC(),
		Title:  fmt.Sprintf("Updated %s", n.Plan.Publish.Pointer),
		Report: r.report(n), Body: list,
	}
	var opened review.Opened
	err := r.retry(ctx, n, "propose the list", func() (err error) {
		opened, err = r.reviewer().Propose(ctx, p)
		if errors.Is(err, review.ErrSame) {
			return nil
		}
		return err
	})
	if err == nil && opened == (review.Opened{}) {
		return r.fact(factReviewed, n.Name, "", Reviewed{By: "nobody", Why: "the reviewed branch holds this list already"})
	}
	if opened != (review.Opened{}) {
		err = errors.Join(err, r.fact(factProposed, n.Name, "", opened))
	}
	if err != nil {
		return fmt.Errorf("propose the list: %w", err)
	}
	return nil
}

func (r *Run) reviewer() review.Place {
	if r.Review != nil {
		return r.Review
	}
	byHand, err := review.New(review.Config{Kind: review.KindManual})
	if err != nil {
		panic(err) // there is nothing to configure
	}
	return byHand
}

// report is what reviewers read: the judge's words, and why it was forced.
func (r *Run) report(n *Node) string {
	var b strings.Builder
	if n.Judged.Forced != "" {
		fmt.Fprintf(&b, "**Forced:** %s\n\n", n.Judged.Forced)
	}
	fmt.Fprintf(&b, "%d objects, %s, were uploaded; %d of them replace what is published and wait under `%s/` until this is merged.\n\n",
		n.Chosen.Files, manifest.Size(n.Chosen.Bytes), n.Chosen.Replaced, r.stage())
	b.WriteString(n.Judged.Report)
	return b.String()
}

// await asks how the review stands, for as long as --wait says.
func (r *Run) await(ctx context.Context, n *Node, list []byte) error {
	began, pause := r.Clock.Now(), 5*time.Second
	for {
		a, err := r.answer(ctx, n)
		if err != nil {
			return err
		}
		switch a.State {
		case review.Merged:
			if a.Body != nil && !bytes.Equal(a.Body, list) {
				return &RefusedError{"what was merged is not what was proposed and uploaded; release again from what is merged now"}
			}
			return r.fact(factReviewed, n.Name, "", Reviewed{By: a.By, Why: a.Why})
		case review.Rejected:
			return &RefusedError{"the review was rejected, so nothing is published: " + strings.TrimSpace(a.By+" "+a.Why)}
		}
		left := r.Settings.Wait - r.Clock.Now().Sub(began)
		if r.Settings.Wait >= 0 && left <= 0 {
			return errors.Join(errParked, r.fact(factParked, n.Name, "", nil))
		}
		if r.Settings.Wait >= 0 {
			pause = min(pause, left)
		}
		n.there = nil // it may be days
		if err := r.Clock.Sleep(ctx, pause); err != nil {
			return err
		}
		pause = min(2*pause, time.Minute)
	}
}

func (r *Run) answer(ctx context.Context, n *Node) (a review.Answer, err error) {
	if n.Approved != nil {
		return review.Answer{State: review.Merged, By: n.Approved.By, Why: n.Approved.Why}, nil
	}
	err = r.retry(ctx, n, "ask how the review stands", func() error {
		a, err = r.reviewer().Look(ctx, *n.Proposed)
		return err
	})
	return a, err
}

// Approvable refuses to let a run's list through that waits for nobody, or where a review place is configured.
func (s *State) Approvable(reviewed bool) error {
	n := s.waiting()
	switch {
	case n == nil:
		return &RefusedError{fmt.Sprintf("run %s waits for nobody", s.Run)}
	case !reviewed:
		return nil
	case n.Proposed.URL != "":
		return &RefusedError{fmt.Sprintf("run %s is reviewed at %s: merge it there", s.Run, n.Proposed.URL)}
	case n.Proposed.Branch != "":
		return &RefusedError{fmt.Sprintf("run %s is reviewed on branch %s: merge that into %s", s.Run, n.Proposed.Branch, n.Proposed.Base)}
	}
	return &RefusedError{fmt.Sprintf("run %s was proposed by hand, and a review is configured by now: release again", s.Run)}
}

// waiting returns the node whose list waits for somebody, or nil.
func (s *State) waiting() *Node {
	for _, n := range s.Nodes {
		if n.Proposed != nil && n.Reviewed == nil && n.Failed == nil {
			return n
		}
	}
	return nil
}

// Approve records that somebody lets the list of a parked run through, where no review place is configured.
func (r *Run) Approve(by, reason string) error {
	defer r.journal.Close()
	defer r.unlock()
	if err := r.state.Approvable(r.Review != nil); err != nil {
		return err
	}
	return r.fact(factApproved, r.state.waiting().Name, "", Reviewed{By: by, Why: reason})
}

// withdraw closes the proposal of a run that ends without it.
func (r *Run) withdraw(ctx context.Context, n *Node, why string) error {
	if n.Proposed == nil || n.Reviewed != nil {
		return nil
	}
	return r.reviewer().Withdraw(ctx, *n.Proposed, why)
}
