package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestIntegrityBlind: checks of Erigon's that pass since there is nothing to look at say nothing of it; then we do.
func TestIntegrityBlind(t *testing.T) {
	t.Parallel()
	d := newStandIn(t)
	r := d.erigon(integrity)
	r.want(t, 0, "checks passed")
	if !strings.Contains(r.stderr, "CommitmentHistVal passed and looked at nothing: there is no history of commitment") {
		t.Errorf("nobody says that a check looked at nothing: %s", r.stderr)
	}
	if strings.Contains(r.stderr, "rcache") {
		t.Errorf("there is rcache: %s", r.stderr)
	}
	d.erigon(integrity, "--check", "Blocks,CommitmentHistVal").want(t, 1, "CommitmentHistVal was asked for, and says that it passed, and looked at nothing")

	without := newStandIn(t, "--receipts=false")
	r = without.erigon(integrity)
	r.want(t, 0, "checks passed")
	for _, says := range []string{"Publishable passed, but there is no rcache", "RCacheNoDups passed and looked at nothing", "ReceiptRootIntegrity passed and looked at nothing"} {
		if !strings.Contains(r.stderr, says) {
			t.Errorf("nobody says %q: %s", says, r.stderr)
		}
	}
	without.erigon(integrity, "--check", "Publishable").want(t, 0, "1 checks passed")
	without.erigon(integrity, "--check", "RCacheNoDups").want(t, 1, "there is no rcache")
}

// TestPublishableWithoutReceipts: Erigon asks for no rcache where its database says that none is kept. Our own checks go by the files.
func TestPublishableWithoutReceipts(t *testing.T) {
	t.Parallel()
	d := newStandIn(t)
	if err := os.Remove(filepath.Join(d.snap, "domain", "v3.0-rcache.0-4.kv")); err != nil {
		t.Fatal(err)
	}
	d.erigon(integrity, "--check", "Publishable").want(t, 1, "rcache")
	d.behave("receipts-off")
	d.erigon(integrity, "--check", "Publishable").want(t, 0, "1 checks passed")
	var out, errs bytes.Buffer
	if exit := checkVerb(t.Context(), []string{"--datadir", d.dir, "--no-torrents"}, &out, &errs); exit != 3 || !strings.Contains(out.String(), "rcache") {
		t.Errorf("exit %d: %s", exit, out.String())
	}
}

// TestVerifyOfRootOnly: up to 3.4 Erigon's verification sees no torrent in the folders. Our own hashing reads every file.
func TestVerifyOfRootOnly(t *testing.T) {
	t.Parallel()
	d := newStandIn(t)
	d.call("downloader", "torrent_create", "--datadir", d.dir)
	file := filepath.Join(d.snap, "domain", "v2.0-accounts.0-4.kv")
	body, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	body[len(body)/2] ^= 1
	if err := os.WriteFile(file, body, 0o644); err != nil {
		t.Fatal(err)
	}
	d.erigon(integrity, "--check", "TorrentPieces").want(t, 1, "hash mismatch")
	d.behave("verify-root-only")
	d.call("downloader", "--verify", "--datadir", d.dir) // exits with 0
	r := d.erigon(integrity, "--check", "TorrentPieces")
	r.want(t, 0, "1 checks passed")
	if !strings.Contains(r.stderr, "snapfw hashes what it publishes") {
		t.Errorf("its limits are not said: %s", r.stderr)
	}
	var out, errs bytes.Buffer
	if exit := runTorrents(t.Context(), []string{"--datadir", d.dir, "--verify", "full"}, &out, &errs); exit == 0 && !strings.Contains(out.String(), "1 remade") {
		t.Errorf("exit %d: %s %s", exit, out.String(), errs.String())
	}
}
