package engine

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/snapfw/snapfw/core/internal/journal"
)

// A run that another process is at is not carried on, and its journal is not touched: closed
// by somebody else it would owe nothing although it is about to stop a node.
func TestARunOfALivingProcessIsLeftAlone(t *testing.T) {
	fsys := journal.Dir(t.TempDir())
	d := newWorld("node0").process(0).deps()
	d.Journals = fsys
	living, err := New(d, "run", Begun{Chain: "chain"})
	if err != nil {
		t.Fatal(err)
	}
	defer living.journal.Close()
	before, err := fsys.ReadFile("run.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	d.LockChain = func(context.Context, string, string) (func(), error) {
		return nil, &LockedError{What: "chain chain", Holder: "run"}
	}
	var locked *LockedError
	if _, err := CarryOn(t.Context(), d, "chain"); !errors.As(err, &locked) {
		t.Errorf("CarryOn: %v, want a LockedError", err)
	}
	if after, err := fsys.ReadFile("run.jsonl"); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the journal was %q and is %q, %v", before, after, err)
	}
}
