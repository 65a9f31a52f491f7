package engine

import (
	"context"
)

// freeze makes the data stand still. From here on the node counts as down.
func (r *Run) freeze(ctx context.Context, n *Node) error {
	if len(n.Plan.Freeze) == 0 {
		return nil // it serves all the while, or is down anyway
	}
	if err := r.fact(factStopping, n.Name, "", nil); err != nil {
		return err
	}
	ctx, stop := r.watch(ctx, n)
	defer stop()
	return because(ctx, r.steps(ctx, n, phaseFreeze, n.Plan.Freeze))
}

// capture takes the copy. Its last step settles it with the guard on the host; the line in the
// journal is the watershed: a death before it undoes, a death after it carries on.
func (r *Run) capture(ctx context.Context, n *Node) error {
	ctx, stop := r.watch(ctx, n)
	defer stop()
	if err := r.steps(ctx, n, phaseCapture, n.Plan.Capture); err != nil {
		return because(ctx, err)
	}
	return r.fact(factCaptured, n.Name, "", n.Kept)
}

// because returns why a context ended instead of that it did.
func because(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
