package main

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestToolRmState(t *testing.T) {
	t.Parallel()
	d := newStandIn(t)
	d.call("downloader", "torrent_create", "--datadir", d.dir)
	before := d.names()
	dry := d.erigon(rmState, "--latest", "--domain", "receipt", "--domain", "logaddrs", "--dry-run")
	dry.want(t, 0, "")
	if !maps.Equal(before, d.names()) {
		t.Fatal("the dry run changed something")
	}
	r := d.erigon(rmState, "--latest", "--domain", "receipt", "--domain", "logaddrs")
	r.want(t, 0, "files removed")
	gone, came, other := changed(before, d.names())
	if want := strings.Fields(dry.stdout); !slices.Equal(gone, want) || len(came)+len(other) > 0 {
		t.Errorf("gone %v\nwant %v\ncame %v changed %v", gone, want, came, other)
	}
	if !slices.Contains(gone, "domain/v3.0-receipt.6-7.kv") || !slices.Contains(gone, "domain/v3.0-receipt.6-7.kv.torrent") {
		t.Errorf("%v", gone)
	}
	d.erigon(rmState, "--step", "4-6", "--domain", "receipt").want(t, 0, "files removed")
}

func TestToolRegen(t *testing.T) {
	t.Parallel()
	d := newStandIn(t)
	d.call("downloader", "torrent_create", "--datadir", d.dir)
	before := d.names()
	d.behave("new-bytes")
	d.integration(regen, "--domain", "receipt,logaddrs", "--chain", "mainnet").want(t, 0, "made anew")
	gone, came, other := changed(before, d.names())
	for _, name := range append(gone, came...) {
		if !strings.HasSuffix(name, ".torrent") {
			t.Errorf("%s came or went", name)
		}
	}
	for _, name := range other {
		if f, err := parseName(name); err != nil || f.Type != "receipt" && f.Type != "logaddrs" {
			t.Errorf("%s was made anew", name)
		}
	}
	if len(other) == 0 || !slices.Contains(gone, "domain/v3.0-receipt.0-4.kv.torrent") {
		t.Errorf("changed %v, gone %v", other, gone)
	}
	d.behave("")
	d.erigon(integrity).want(t, 0, "checks passed")
}

// TestToolRegenGoesOn: a regen that fails after its files are gone is gone on with; a second removal would take the files before them.
func TestToolRegenGoesOn(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ domain, after string }{{"receipt", "made anew"}, {"accounts", "was set back"}} {
		d := newStandIn(t)
		bin := t.TempDir()
		program := filepath.Join(bin, "integration")
		body := "if [ $1 = print_stages ]; then exec " + d.bin + "/integration \"$@\"; fi\necho '[EROR] [11-21|10:00:00.000] told to fail' >&2\n"
		putProgram(t, program, body)
		bad := func() toolResult {
			var out, errs bytes.Buffer
			args := []string{"--datadir", d.dir, "--integration", program, "--erigon", filepath.Join(d.bin, "erigon"), "--domain", c.domain}
			exit := runTool(t.Context(), args, &out, &errs, regen)
			return toolResult{exit, out.String(), errs.String()}
		}
		before := d.names()
		bad().want(t, 1, "told to fail")
		first, _, _ := changed(before, d.names())
		bad().want(t, 1, "told to fail")
		if second, _, _ := changed(before, d.names()); !slices.Equal(first, second) || len(first) == 0 {
			t.Errorf("%s: %d files went at first, %d in the end", c.domain, len(first), len(second))
		}
		d.integration(regen, "--domain", "logaddrs").want(t, 3, "run that again first")
		d.integration(regen, "--domain", c.domain).want(t, 0, c.after)
		if _, err := os.Stat(filepath.Join(d.dir, ".snapfw", "removal.json")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("it is not forgotten: %v", err)
		}
	}
}

// TestToolExcuse: what the configuration knows of a chain is no failure.
func TestToolExcuse(t *testing.T) {
	t.Parallel()
	d := newStandIn(t)
	d.behave("index-leaves-one")
	excuse := `[{"rule":"missing-index","type":"accounts","reason":"known"}]`
	d.erigon(index, "--excuse", excuse).want(t, 0, "indexed")
	d.erigon(index, "--excuse", `[{"rule":"nonsense","reason":"x"}]`).want(t, 3, "no rule")
	d.erigon(index).want(t, 1, "it has no index")
}

func TestToolExecuteAgain(t *testing.T) {
	t.Parallel()
	d := newStandIn(t)
	d.integration(regen, "--domain", "accounts,storage").want(t, 0, "was set back")
	if _, there := d.names()["domain/v2.0-accounts.6-7.kv"]; there {
		t.Error("the last file is still there")
	}
	// What the node does when it is up again.
	d.call("integration", "stage_exec", "--datadir", d.dir)
	d.erigon(retire).want(t, 0, "retired")
	d.erigon(integrity).want(t, 0, "checks passed")
}

func TestToolRebuildAndCompact(t *testing.T) {
	t.Parallel()
	d := newStandIn(t)
	d.call("downloader", "torrent_create", "--datadir", d.dir)
	before := d.names()
	d.integration(rebuildCommitment).want(t, 0, "made anew")
	gone, _, other := changed(before, d.names())
	if name := "domain/v2.0-commitment.0-4.kv"; !slices.Contains(other, name) || !slices.Contains(gone, name+".torrent") {
		t.Errorf("gone %v, changed %v", gone, other)
	}
	d.call("downloader", "torrent_create", "--datadir", d.dir)
	before = d.names()
	d.integration(compactDomains, "--domain", "code").want(t, 0, "stale torrents removed")
	gone, _, other = changed(before, d.names())
	if !slices.Contains(gone, "domain/v2.0-code.0-4.kv.torrent") || !slices.Contains(other, "domain/v2.0-code.0-4.kv") {
		t.Errorf("gone %v, changed %v", gone, other)
	}
	d.erigon(index).want(t, 0, "indexed")
	d.erigon(integrity).want(t, 0, "checks passed")
}

// TestToolRmStateGoesOn: run again after it failed in the middle, it removes what is left of that and not the files before.
func TestToolRmStateGoesOn(t *testing.T) {
	t.Parallel()
	d := newStandIn(t)
	before := d.names()
	d.behave("rm-removes-less")
	d.erigon(rmState, "--latest").want(t, 1, "is still there")
	d.behave("")
	want := d.erigon(rmState, "--latest", "--dry-run").stdout
	d.erigon(rmState, "--step", "0-4").want(t, 3, "is not through")
	d.erigon(rmState, "--latest").want(t, 0, "files removed")
	gone, _, _ := changed(before, d.names())
	if !slices.Equal(gone, strings.Fields(want)) {
		t.Errorf("gone %v, want %v", gone, want)
	}
	for _, name := range gone {
		if f, err := parseName(name); err != nil || f.To != 7 {
			t.Errorf("%s went", name)
		}
	}
	d.erigon(rmState, "--step", "4-6").want(t, 0, "files removed")
}

// TestToolRmStateNeverBegan: what failed before anything went is not gone on with behind Erigon's back.
func TestToolRmStateNeverBegan(t *testing.T) {
	t.Parallel()
	d := newStandIn(t)
	script := filepath.Join(t.TempDir(), "erigon")
	body := "case \"$*\" in *--dry-run*) exec " + d.bin + "/erigon \"$@\";; esac\necho 'datadir already used by another process' >&2\nexit 1\n"
	putProgram(t, script, body)
	before := d.names()
	var out, errs bytes.Buffer
	exit := runTool(t.Context(), []string{"--datadir", d.dir, "--erigon", script, "--latest"}, &out, &errs, rmState)
	toolResult{exit, out.String(), errs.String()}.want(t, 3, "stop it first")
	if !maps.Equal(before, d.names()) {
		t.Error("files changed")
	}
	if _, err := os.Stat(filepath.Join(d.dir, ".snapfw", "removal.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is remembered: %v", err)
	}
}
