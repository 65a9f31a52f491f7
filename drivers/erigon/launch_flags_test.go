package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const goodFlags = "--chain=mainnet --no-downloader --prune.mode archive --persist.receipts --caplin.blocks-archive --caplin.states-archive --caplin.blobs-archive"

func TestJudgeFlags(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "c.yml"), []byte("no-downloader: true\nprune.mode: archive\nhttp.api: [eth, web3]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	without := func(flag string) string { return strings.Replace(goodFlags, flag, "", 1) }
	for name, c := range map[string]struct {
		argv, help, excuse string
		want               []string // that must change
	}{
		"good":              {argv: goodFlags},
		"no chain":          {argv: without("--chain=mainnet"), want: []string{"chain"}},
		"downloader":        {argv: without("--no-downloader"), want: []string{"no-downloader"}},
		"downloader, said":  {argv: without("--no-downloader") + " --no-downloader=false", want: []string{"no-downloader"}},
		"full":              {argv: strings.Replace(goodFlags, "archive", "full", 1), want: []string{"prune.mode"}},
		"by default":        {argv: without("--prune.mode archive"), want: []string{"prune.mode"}},
		"receipts":          {argv: without("--persist.receipts"), want: []string{"persist.receipts"}},
		"receipts, old":     {argv: without("--persist.receipts") + " --experiment.persist.receipts.v2"},
		"receipts, excused": {argv: without("--persist.receipts"), excuse: "persist.receipts"},
		"stops":             {argv: goodFlags + " --snap.stop --snap.state.stop", want: []string{"snap.stop", "snap.state.stop"}},
		"stops, not":        {argv: goodFlags + " --snap.stop=false"},
		"verify":            {argv: goodFlags + " --downloader.verify", want: []string{"downloader.verify"}},
		"caplin":            {argv: without("--caplin.blobs-archive"), want: []string{"caplin.blobs-archive"}},
		"caplin, elsewhere": {argv: "--chain x --no-downloader --prune.mode archive --persist.receipts --externalcl"},
		"2.60": {argv: "--chain x --no-downloader --prune.mode archive --persist.receipts --caplin.archive --caplin.backfilling", help: "  --caplin.archive\n",
			want: []string{"caplin.backfilling.blob"}},
		"old spelling, new program": {argv: strings.ReplaceAll(goodFlags, "--caplin.blocks-archive", "--caplin.backfilling"), help: "--caplin.blocks-archive --caplin.archive",
			want: []string{"caplin.blocks-archive"}},
		"config":         {argv: "--config c.yml --chain x --persist.receipts --externalcl"},
		"config, beaten": {argv: "--config=c.yml --prune.mode=full --chain x --persist.receipts --externalcl", want: []string{"prune.mode"}},
	} {
		l := launch{Argv: append([]string{"erigon"}, strings.Fields(c.argv)...), Dir: dir}
		found, _ := judgeFlags(l, c.help, strings.Split(c.excuse, ","))
		var must []string
		for _, f := range found {
			if !f.OK && !f.Excuse {
				must = append(must, f.Flag)
			}
		}
		if !slices.Equal(must, c.want) {
			t.Errorf("%s: %q must change, want %q", name, must, c.want)
		}
	}
	if _, notes := flagsOf(launch{Argv: []string{"erigon", "--config=x.toml"}, Dir: dir}); len(notes) != 1 {
		t.Errorf("a file that is not read is not told: %q", notes)
	}
}

func TestLaunchFlags(t *testing.T) {
	t.Parallel()
	dir := launchDatadir(t)
	mustSay(t, 1, "never saved", "flags", "--datadir", dir)
	node := runNode(t, dir, "--chain", "mainnet", "--http.token", "hunter2hunter2")
	mustSay(t, 3, "CHANGE  --no-downloader: not given", "flags", "--datadir", dir)
	mustSay(t, 0, "saved", "save", "--datadir", dir)
	mustSay(t, 0, "is gone", "stop", "--datadir", dir)
	mustSay(t, 3, `"from":"saved"`, "flags", "--datadir", dir, "--json")
	if node.Process == nil {
		t.Error("it never ran")
	}
}

// TestLaunchCommand sees that the command which is printed passes the rules.
func TestLaunchCommand(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := launchFlags(t.Context(), []string{"--for-chain", "gnosis", "--datadir", "/a b"}, &out, &out); err != nil {
		t.Fatal(err)
	}
	_, command, _ := strings.Cut(out.String(), "from then on")
	_, command, _ = strings.Cut(command, "\n")
	if !strings.Contains(command, "--datadir='/a b'") {
		t.Error(command)
	}
	found, _ := judgeFlags(launch{Argv: strings.Fields(strings.ReplaceAll(command, "\\\n", ""))}, "", nil)
	for _, f := range found {
		if !f.OK {
			t.Errorf("%+v", f)
		}
	}
	if err := launchFlags(t.Context(), []string{"--for-chain", "x;rm"}, &out, &out); err == nil {
		t.Error("a chain named x;rm is taken")
	}
}
