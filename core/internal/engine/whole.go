package engine

import (
	"context"
	"fmt"

	"github.com/snapfw/snapfw/core"
)

// whole sees in the storage that everything is there that a list is about to name, as it was when it was sent or found.
// What is about to be replaced is left out. Between the upload and this lies a review: days, in which objects expire,
// and others may be at work. Nothing bypasses it.
func (r *Run) whole(ctx context.Context, n *Node, replaced map[string]core.Entry) error {
	all, err := r.staged(ctx, n, stagedAll)
	if err != nil {
		return err
	}
	known, there, err := r.holds(ctx, n)
	if err != nil {
		return err
	}
	var wrong []string
	for _, u := range all {
		key := keyOf(n, u.Name)
		if _, ok := replaced[key]; ok {
			continue
		}
		o, ok := there[key]
		_, remembered := known.Objects[key]
		switch {
		case !ok:
			wrong = append(wrong, key+" is missing")
		case known.Holds(u.Entry, o):
		case remembered:
			wrong = append(wrong, key+" is not what an earlier release left there")
		case o.Size != u.Size:
			wrong = append(wrong, fmt.Sprintf("%s has %d bytes instead of %d", key, o.Size, u.Size))
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return r.lost(n, "the bucket does not hold what the list names: "+few(wrong))
}
