package engine

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

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

// TestRunsOfOneSecond: names of runs tell the second, and a run that is refused at once may have the next one in the same.
func TestRunsOfOneSecond(t *testing.T) {
	d := newWorld("node0").process(0).deps()
	d.Journals = journal.Dir(t.TempDir())
	for _, id := range []string{"chain-20261121-101112-zzzz", "chain-20261121-101112-aaaa"} {
		r, err := New(d, id, Begun{Chain: "chain"})
		if err != nil {
			t.Fatal(err)
		}
		r.journal.Close()
		if err := d.Clock.Sleep(t.Context(), 100*time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	for name, list := range map[string]func() ([]*State, error){
		"All":  func() ([]*State, error) { return All(d.Journals) },
		"Open": func() ([]*State, error) { return Open(d.Journals, "chain") },
	} {
		runs, err := list()
		if err != nil || len(runs) != 2 || runs[0].Run != "chain-20261121-101112-zzzz" {
			t.Errorf("%s: %v, %v", name, runs, err)
		}
	}
}
