package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"time"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/internal/manifest"
)

// runTime is what a run's name has after its chain's: <chain>-20261121-101112-abcd.
const runTime = `[0-9]{8}-[0-9]{6}-[a-z0-9]+`

const (
	probeTries = 2 // nothing is lost yet, and somebody waits for the answer
	probeFile  = "probe.txt"
	probeLife  = time.Hour // that of a preflight is over long before
)

// probePrefix is under which key a run's probe lies, beside the pointer.
func probePrefix(n *Node, run string) string {
	return path.Join(path.Dir(n.Plan.Publish.Pointer), ".probe-"+run)
}

// preflight copies a probe file with the real upload command, from the node's machine, reads it
// back and deletes it: a missing program or a wrong credential shows before a node is stopped. So does a review that
// can't be read, and an address where nobody answers.
func (r *Run) preflight(ctx context.Context, n *Node) error {
	if !r.publishes() || n.Captured {
		return nil
	}
	if n.inPlace() {
		if err := errors.Join(r.tryReview(ctx, n), r.tryFronts(ctx, n)); err != nil {
			return err
		}
	}
	dir := path.Join(path.Dir(n.Plan.Data), "probe")
	prefix := probePrefix(n, r.ID)
	body := []byte("snapfw tries whether it can publish here: " + r.ID + "\n")
	entry := core.Entry{Name: probeFile, Size: int64(len(body)), Sums: map[string]string{"sha256": manifest.SHA256(body)}}
	m, err := r.machine(ctx, n)
	if err != nil {
		return err
	}
	if err := m.Write(ctx, n.Plan.Owner, path.Join(dir, probeFile), bytes.NewReader(body)); err != nil {
		return fmt.Errorf("write the probe file: %w", err)
	}
	if _, err := r.send(ctx, m, n, shipment{what: "preflight", dir: dir, prefix: prefix, uploads: []core.Upload{{Entry: entry}}}); err != nil {
		return fmt.Errorf("try sink %s from %s: %w", r.Sink.Name, m, err)
	}
	got, _, err := r.Sink.Get(ctx, r.Sink.Target, prefix+"/"+probeFile)
	if err != nil {
		return fmt.Errorf("try sink %s: read the probe file back: %w", r.Sink.Name, err)
	}
	if !bytes.Equal(got, body) {
		return fmt.Errorf("try sink %s: the probe file came back with %d other bytes; is another storage mounted there?", r.Sink.Name, len(got))
	}
	if err := r.Sink.Delete(ctx, r.Sink.Target, prefix+"/"+probeFile); err != nil {
		return fmt.Errorf("try sink %s: delete the probe file: %w", r.Sink.Name, err)
	}
	if err := r.oldProbes(ctx, n); err != nil {
		return r.note(n.Name, "what earlier runs left of their probes stays: %v", err)
	}
	return nil
}

// oldProbes deletes the probe files of this chain's runs that were killed in their preflight. One that is open, or that
// another machine may just have begun, keeps its own.
func (r *Run) oldProbes(ctx context.Context, n *Node) error {
	runs, err := Open(r.Journals, r.state.Begun.Chain)
	if err != nil {
		return err
	}
	open := map[string]bool{}
	for _, s := range runs {
		open[probePrefix(n, s.Run)+"/"+probeFile] = true
	}
	some := probePrefix(n, r.state.Begun.Chain+"-")
	ours := regexp.MustCompile("^" + regexp.QuoteMeta(some) + runTime + "/" + regexp.QuoteMeta(probeFile) + "$")
	before := r.Clock.Now().Add(-probeLife)
	var left []string
	for o, err := range r.Sink.List(ctx, r.Sink.Target, some) {
		if err != nil {
			return err
		}
		if ours.MatchString(o.Key) && !open[o.Key] && o.Modified.Before(before) {
			left = append(left, o.Key)
		}
	}
	if len(left) == 0 {
		return nil
	}
	return r.Sink.Delete(ctx, r.Sink.Target, left...)
}
