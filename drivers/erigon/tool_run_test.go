package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestToolTakesAwayTheHalf: after a merge that was killed (I10485), retiring makes it whole.
func TestToolTakesAwayTheHalf(t *testing.T) {
	t.Parallel()
	d := newStandIn(t, "--ahead", "3000")
	d.behave("retire-crash")
	if r := d.erigon(retire); r.exit != 1 {
		t.Fatal(r)
	}
	half := ""
	for name := range d.names() {
		if strings.HasSuffix(name, ".tmp") {
			half = name
		}
	}
	if half == "" {
		t.Fatal("the crash left nothing")
	}
	d.behave("")
	r := d.erigon(retire)
	r.want(t, 0, "")
	if !strings.Contains(r.stderr, half+" removed") {
		t.Error(r.stderr)
	}
	all, err := walkSnapshots(t.Context(), d.dir, false)
	if err != nil || refused(check(all, nil)) {
		t.Errorf("%v %v", err, check(all, nil))
	}
}

// TestToolAfterAPlainStop: a node that is only stopped may be in the middle of a merge (I14394); retiring ends it.
func TestToolAfterAPlainStop(t *testing.T) {
	t.Parallel()
	d := newStandIn(t)
	first := d.names()
	node := d.start("erigon", "--datadir", d.dir, "--http.port", "0", "--devnet.block-time", "10ms", "--devnet.blocks", "200", "--devnet.build-time", "30ms")
	overlap := func() bool {
		look := &tool{datadir: d.dir}
		now, err := look.see(t.Context())
		return err == nil && len(look.findings(now, func(f checkFinding) bool {
			return f.Rule == "overlap" || f.Rule == "missing-index" || f.Rule == "missing-data"
		})) > 0
	}
	d.until("files are built", func() bool { return len(d.names()) > len(first) && overlap() })
	d.stop(node)
	if code := node.ProcessState.ExitCode(); code != 0 {
		t.Fatalf("the node ended with %d", code)
	}
	d.erigon(retire).want(t, 0, "retired")
	all, err := walkSnapshots(t.Context(), d.dir, false)
	if err != nil || refused(check(all, nil)) {
		t.Errorf("%v %v", err, check(all, nil))
	}
}

// TestToolInterrupt: SIGINT is passed on, the program is waited for, and that it then exits with 0 is no success.
func TestToolInterrupt(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		verb    toolVerb
		program string
	}{{integrity, "erigon"}, {rebuildCommitment, "integration"}} {
		d := newStandIn(t)
		d.behave("slow=60s")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan toolResult)
		go func() { done <- d.run(ctx, c.verb, c.program) }()
		d.until("it works", func() bool {
			logs, _ := filepath.Glob(filepath.Join(d.dir, ".snapfw", "logs", "*.log"))
			for _, l := range logs {
				if b, _ := os.ReadFile(l); bytes.Contains(b, []byte("starting")) {
					return true
				}
			}
			return false
		})
		cancel()
		select {
		case r := <-done:
			if r.exit != 1 {
				t.Errorf("%s: exit %d: %s", c.program, r.exit, r.stderr)
			}
			if c.program == "integration" && !strings.Contains(r.last(), "interrupted") {
				t.Error(r.last())
			}
		case <-time.After(20 * time.Second):
			t.Fatal("it does not end")
		}
		if p, err := lockHolder(d.dir); err != nil || p != nil {
			t.Errorf("somebody still works on it: %v %v", p, err)
		}
	}
}

// TestToolNeverKills: a program that does not heed the interrupt is waited for.
func TestToolNeverKills(t *testing.T) {
	t.Parallel()
	d := newStandIn(t)
	script := filepath.Join(t.TempDir(), "erigon")
	body := "trap 'echo interrupted once >&2' INT\necho begun >&2\nwhile [ ! -e " + d.dir + "/end ]; do sleep 0.02; done\necho '[INFO] ended in order' >&2\n"
	putProgram(t, script, body)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan toolResult)
	go func() {
		var out, errs bytes.Buffer
		exit := runTool(ctx, []string{"--datadir", d.dir, "--erigon", script}, &out, &errs, retire)
		done <- toolResult{exit, out.String(), errs.String()}
	}()
	logHas := func(text string) func() bool {
		return func() bool {
			logs, _ := filepath.Glob(filepath.Join(d.dir, ".snapfw", "logs", "retire-*.log"))
			if len(logs) == 0 {
				return false
			}
			b, _ := os.ReadFile(logs[0])
			return bytes.Contains(b, []byte(text))
		}
	}
	d.until("it began", logHas("begun"))
	cancel()
	d.until("it was interrupted", logHas("interrupted once"))
	select {
	case r := <-done:
		t.Fatalf("it was not waited for: %v", r)
	case <-time.After(300 * time.Millisecond):
	}
	if err := os.WriteFile(filepath.Join(d.dir, "end"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	r := <-done
	r.want(t, 1, "interrupted")
	if !logHas("ended in order")() {
		t.Error("its last words are not in the log")
	}
}

// TestToolErrorOnce: the line of the log that is the reason is said once, at the end; other errors are said, too.
func TestToolErrorOnce(t *testing.T) {
	t.Parallel()
	d := newStandIn(t)
	for _, c := range []struct {
		behave, says string
		verb         toolVerb
		program      string
	}{
		{"integrity-fails=InvertedIndex", "InvertedIndex: told to fail", integrity, "erigon"},
		{"failfast-warn,integrity-fails=Blocks", "Blocks: told to fail", integrity, "erigon"},
		{"index-crash", "no space left on device", index, "erigon"},
		{"integration-fails", "told to fail", rebuildCommitment, "integration"},
	} {
		d.behave(c.behave)
		r := d.run(t.Context(), c.verb, c.program)
		if r.exit != 1 || strings.Count(r.stderr, c.says) != 1 || !strings.Contains(r.last(), c.says) {
			t.Errorf("%s: exit %d\n%s", c.behave, r.exit, r.stderr)
		}
	}
	script := filepath.Join(t.TempDir(), "erigon")
	putProgram(t, script, "echo '[EROR] first' >&2\necho '[EROR] second' >&2\necho '[EROR] third: no space left on device' >&2\n")
	var out, errs bytes.Buffer
	exit := runTool(t.Context(), []string{"--datadir", d.dir, "--erigon", script}, &out, &errs, retire)
	for _, says := range []string{"first", "second", "third"} {
		if strings.Count(errs.String(), says) != 1 {
			t.Errorf("%q is not said once", says)
		}
	}
	if r := (toolResult{exit, out.String(), errs.String()}); exit != 1 || !strings.Contains(r.last(), "third") {
		t.Errorf("exit %d: %s", exit, errs.String())
	}
}
