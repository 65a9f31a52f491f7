package engine

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/internal/manifest"
)

// Judged is what the chain's judge said of the proposed list.
type Judged struct {
	Safe   bool           `json:"safe"`
	Forced string         `json:"forced,omitempty"` // why it goes on all the same
	Counts map[string]int `json:"counts"`           // findings by class
	Refuse []string       `json:"refuse,omitempty"` // the first of those that refuse
	More   int            `json:"more,omitempty"`   // that refuse beside them
	Report string         `json:"report"`           // Markdown
	List   string         `json:"list"`             // sha256 of what was judged
	Over   string         `json:"over,omitempty"`   // sha256 of what the bucket held when it was judged first
}

const (
	maxReport  = 256 << 10 // kept in the journal
	maxRefused = 20
)

// judge compares what the copy would publish with what is published now, in the bucket and under review, before a byte is uploaded.
func (r *Run) judge(ctx context.Context, n *Node) error {
	if !r.publishes() || !n.inPlace() || n.Judged != nil {
		return nil
	}
	p, err := r.proposed(ctx, n)
	if err != nil {
		return err
	}
	return r.verdict(ctx, n, p.list)
}

// judgeAgain compares what the review let through with what is published by then.
func (r *Run) judgeAgain(ctx context.Context, n *Node) error {
	if !n.inPlace() || n.Reviewed == nil || n.Promoted {
		return nil
	}
	body, err := r.kept(ctx, n, stagedList)
	if err != nil {
		return err
	}
	return r.verdict(ctx, n, body)
}

func (r *Run) verdict(ctx context.Context, n *Node, list []byte) error {
	judge, ok := r.Chain.(core.Judge)
	if !ok {
		return fmt.Errorf("driver %s replaces keys in place and has no judge: %w", r.Driver, core.ErrUnsupported)
	}
	change := core.Change{Config: r.Config, Published: map[string][]byte{}, Proposed: list}
	bucket, _, _, err := r.published(ctx, n)
	if err != nil {
		return err
	}
	if n.Reviewed != nil && bytes.Equal(bucket, list) {
		return nil // it was judged, and nothing is published otherwise by it
	}
	if bucket != nil {
		change.Published["bucket"] = bucket
	}
	// Once it is through, the review holds what is proposed.
	if n.Reviewed == nil {
		if err := r.addReviewed(ctx, n, bucket, &change); err != nil {
			return err
		}
	}
	v, err := judge.Judge(ctx, change)
	if err != nil {
		return fmt.Errorf("judge: %w", err)
	}
	j := Judged{Safe: v.Safe, Counts: map[string]int{}, Report: clip(v.Report, maxReport), List: manifest.SHA256(list)}
	for _, f := range v.Findings {
		j.Counts[f.Class]++
		switch {
		case f.Refuse && len(j.Refuse) < maxRefused:
			j.Refuse = append(j.Refuse, strings.TrimSpace(f.Class+": "+f.Name+" "+f.Detail))
		case f.Refuse:
			j.More++
		}
	}
	if bucket != nil {
		j.Over = manifest.SHA256(bucket)
	}
	same := true // what is published is what it was when this was forced
	if n.Reviewed != nil {
		// Once bytes were replaced there is no way back: no other list fits them.
		same, j.Over = j.Over == n.Judged.Over || n.committed(), n.Judged.Over
	}
	if in := r.state.Begun.Intent; !v.Safe && in.Force && same {
		j.Forced = in.Reason
	}
	if err := r.fact(factJudged, n.Name, "", j); err != nil {
		return err
	}
	switch {
	case v.Safe:
		return nil
	case j.Forced != "":
		return r.note(n.Name, "the judge refused, and --force (%s) goes on: %s", j.Forced, j.refusals())
	}
	return &RefusedError{fmt.Sprintf("the change is not safe: %s; `snapfw show %s` has the report, an allowance in the configuration lets through what is known to be harmless, --force --reason the rest",
		j.refusals(), r.ID)}
}

// refusals names the first few and counts the rest.
func (j Judged) refusals() string {
	some := j.Refuse[:min(len(j.Refuse), 5)]
	text := strings.Join(some, ", ")
	if more := len(j.Refuse) - len(some) + j.More; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// addReviewed adds the list at the head of the review's branch, and says so if it is not the bucket's: somebody
// changed one of them, or a release ended between the two.
func (r *Run) addReviewed(ctx context.Context, n *Node, bucket []byte, change *core.Change) error {
	body, err := r.reviewHead(ctx)
	if err != nil || body == nil {
		return err
	}
	if bucket != nil && !bytes.Equal(bucket, body) {
		if err := r.note(n.Name, "%s is published otherwise than the reviewed branch has it: this change is judged against both", n.Plan.Publish.Pointer); err != nil {
			return err
		}
	}
	if _, err := r.parse(ctx, body); err != nil {
		return fmt.Errorf("the list under review: %w", err)
	}
	change.Published["review"] = body
	return nil
}
