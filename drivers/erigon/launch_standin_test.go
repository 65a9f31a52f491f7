package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestLaunchStandIn goes the way of a release around a program that is as Erigon is: one binary under several names, which
// merges files in the background and is stopped in the middle of that (erigon issue 14394).
func TestLaunchStandIn(t *testing.T) {
	t.Parallel()
	d := newStandIn(t)
	log := filepath.Join(filepath.Dir(d.dir), "out.log")
	f, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command(filepath.Join(d.bin, "erigon"), "--datadir="+d.dir, "--chain", "mainnet", "--http.port=0", "--no-downloader")
	cmd.Stdout, cmd.Stderr, cmd.Dir = f, f, filepath.Dir(d.dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go cmd.Wait()
	t.Cleanup(func() { say(t, "stop", "--datadir", d.dir, "--wait", "5s", "--kill-after", "5s") })
	eventually(t, func() bool { p, err := lockHolder(d.dir); return err == nil && p != nil })
	mustSay(t, 0, "saved", "save", "--datadir", d.dir)
	if code, _, said := liveOf(t, d.dir); code != 3 || !strings.Contains(said, "erigon is running") {
		t.Errorf("live: exit %d: %s", code, said)
	}
	mustSay(t, 3, "--prune.mode", "flags", "--datadir", d.dir)
	mustSay(t, 0, "is gone", "stop", "--datadir", d.dir, "--wait", "20s")
	mustSay(t, 0, "", "gone", "--datadir", d.dir)
	d.erigon(retire).want(t, 0, "")
	d.erigon(index).want(t, 0, "")
	code, items, said := liveOf(t, d.dir)
	if code != 0 || len(items) < 50 {
		t.Errorf("live: exit %d, %d files: %s", code, len(items), said)
	}
	mustSay(t, 0, "runs on", "start", "--datadir", d.dir, "--settle", "100ms")
	out := mustSay(t, 0, `"held":true`, "status", "--datadir", d.dir, "--json")
	if !strings.Contains(out, filepath.Join(d.bin, "erigon")) || strings.Contains(out, `"tool"`) {
		t.Error(out)
	}
	mustSay(t, 0, "is gone", "stop", "--datadir", d.dir, "--wait", "20s")
}
