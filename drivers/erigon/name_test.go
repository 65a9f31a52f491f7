package main

import (
	"errors"
	"os"
	"strings"
	"testing"
)

func TestParseName(t *testing.T) {
	for name, want := range map[string]fileName{
		"v1.1-000000-000500-headers.seg":                {familyBlock, "", "headers", "seg", version{1, 1, false}, 0, 500},
		"v1-000000-000500-bodies.idx":                   {familyBlock, "", "bodies", "idx", version{1, 0, true}, 0, 500},
		"v2.0-025180-025184-transactions-to-block.idx":  {familyBlock, "", "transactions-to-block", "idx", version{2, 0, false}, 25180, 25184},
		"v1.1-999999-1000000-transactions.seg":          {familyBlock, "", "transactions", "seg", version{1, 1, false}, 999999, 1000000},
		"v1.0-000000-000500-borevents.seg":              {familyBlock, "", "borevents", "seg", version{1, 0, false}, 0, 500},
		"v1.1-008620-008630-blobsidecars.seg":           {familySlot, "", "blobsidecars", "seg", version{1, 1, false}, 8620, 8630},
		"v1.1-008620-008630-blocksidecars.idx":          {familySlot, "", "blocksidecars", "idx", version{1, 1, false}, 8620, 8630},
		"v1.1-000000-000100-beaconblocks.seg":           {familySlot, "", "beaconblocks", "seg", version{1, 1, false}, 0, 100},
		"caplin/v1.1-000000-010500-Eth1DataVotes.idx":   {familyTable, "caplin", "Eth1DataVotes", "idx", version{1, 1, false}, 0, 10500},
		"domain/v255.255-accounts.0-8192.kv":            {familyState, "domain", "accounts", "kv", version{255, 255, false}, 0, 8192},
		"history/v2.0-commitment.8192-8704.v":           {familyState, "history", "commitment", "v", version{2, 0, false}, 8192, 8704},
		"idx/v3.0-tracesfrom.9056-9072.ef":              {familyState, "idx", "tracesfrom", "ef", version{3, 0, false}, 9056, 9072},
		"accessor/v1.2-receipt.0-1.vi":                  {familyState, "accessor", "receipt", "vi", version{1, 2, false}, 0, 1},
		"salt-blocks.txt":                               {Family: familySalt, Type: "salt-blocks", Ext: "txt"},
		"salt-state.txt":                                {Family: familySalt, Type: "salt-state", Ext: "txt"},
		"erigondb.toml":                                 {Family: familySettings, Type: "erigondb", Ext: "toml"},
		"accessor/v1.1-somethingnew.0-999999999999.efi": {familyState, "accessor", "somethingnew", "efi", version{1, 1, false}, 0, 999999999999},
	} {
		got, err := parseName(name)
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
		if got.String() != name {
			t.Errorf("%s is written %s", name, got)
		}
	}
}

func TestParseNameRefuses(t *testing.T) {
	for reason, names := range map[nameReason][]string{
		reasonUnsafe: {"", "..", "../v1.1-000000-000500-headers.seg", "domain/../salt-state.txt", "/salt-state.txt", "domain//x", "a/./b",
			"domain\\v1.1-accounts.0-64.kv", "salt-state.txt\n", "a\x00", "a'b", "a\"b", "\xff", strings.Repeat("a", 256)},
		reasonLeftover: {"v1.1-000000-000500-headers.seg.part", "domain/v1.1-accounts.0-64.kv.tmp", "idx/x.tmp.tmp", "x.lock"},
		reasonTorrent: {"v1.1-000000-000500-headers.seg.torrent", "domain/v1.1-accounts.0-64.kv.torrent123456789", "erigondb.toml.torrent",
			"x.torrent"},
		reasonLocal:  {"preverified.toml", "chain.toml", "manifest.txt", "prohibit_new_downloads.lock"},
		reasonFolder: {"forkable/v1.1-accounts.0-64.kv", "domain/sub/v1.1-accounts.0-64.kv", "snapshots/salt-state.txt"},
		reasonVersion: {"notes.txt", "v-000000-000500-headers.seg", "v256.0-000000-000500-headers.seg", "v1.256-000000-000500-headers.seg",
			"v01.1-000000-000500-headers.seg", "v1.01-000000-000500-headers.seg", "v1.-000000-000500-headers.seg", "v1.1.1-000000-000500-headers.seg",
			"V1.1-000000-000500-headers.seg", "caplin/salt-state.txt", "salt-other.txt"},
		reasonRange: {"v1.1-000500-000500-headers.seg", "v1.1-000500-000000-headers.seg", "v1.1-0-500-headers.seg", "v1.1-0000000-0000500-headers.seg",
			"v1.1-00000a-000500-headers.seg", "v1.1-000000-9999999999999-headers.seg", "domain/v1.1-accounts.00-64.kv", "domain/v1.1-accounts.64-64.kv",
			"domain/v1.1-accounts.64.kv", "domain/v1.1-accounts.0-+5.kv", "domain/v1.1-accounts", "v1.1-headers.seg"},
		reasonType: {"v1.1-000000-000500-heads.seg", "v1.1-000000-000500-.seg", "domain/v1.1-Accounts.0-64.kv", "domain/v1.1-.0-64.kv",
			"caplin/v1.1-000000-000500-lower.seg", "caplin/v1.1-000000-000500-Odd_Name.seg"},
		reasonExt: {"v1.1-000000-000500-headers.kv", "v1.1-000000-000500-headers", "v1.1-000000-000500-transactions-to-block.seg",
			"v1.1-008620-008630-blobsidecars.idx", "v1.1-008620-008630-blocksidecars.seg", "domain/v1.1-accounts.0-64.v", "history/v1.1-accounts.0-64.vi",
			"idx/v1.1-accounts.0-64.ef.bak", "accessor/v1.1-accounts.0-64."},
	} {
		for _, name := range names {
			got, err := parseName(name)
			var wrong *nameError
			if !errors.As(err, &wrong) || wrong.Reason != reason {
				t.Errorf("%.80q: got %+v, %v; want %q", name, got, err, reason)
			}
		}
	}
}

func FuzzName(f *testing.F) {
	for _, s := range []string{"v1.1-000000-000500-headers.seg", "v1-1000000-1000500-bodies.idx", "caplin/v1.1-000000-010500-BlockRoot.seg",
		"domain/v1.1-accounts.0-64.kv", "accessor/v2.0-code.1-2.efi.torrent", "salt-state.txt", "erigondb.toml", "x.torrent12", "../..", "v1.1-000000-000500-transactions-to-block.idx"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, err := parseName(s)
		if err != nil {
			var wrong *nameError
			if !errors.As(err, &wrong) || wrong.Reason == "" || wrong.Name != s || name != (fileName{}) {
				t.Fatalf("%q: %+v, %v", s, name, err)
			}
			return
		}
		if name.String() != s {
			t.Fatalf("%q is written %q", s, name)
		}
		if name.ranged() && name.From >= name.To || !safeName(s) || name.Family == 0 {
			t.Fatalf("%q: %+v", s, name)
		}
	})
}

// TestNamesOfTheCorpus: every name that was really published is understood.
func TestNamesOfTheCorpus(t *testing.T) {
	for _, list := range corpusLists(t) {
		for _, e := range readCorpus(t, list) {
			if f, err := parseName(e.Name); err != nil || f.String() != e.Name {
				t.Errorf("%s: %s: %+v, %v", list, e.Name, f, err)
			}
		}
	}
}

func corpusLists(t testing.TB) []string {
	t.Helper()
	table, err := os.ReadFile(corpus(t, "expected.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	seen := map[string]bool{}
	for word := range strings.FieldsSeq(string(table)) {
		if strings.HasSuffix(word, ".toml") && !seen[word] {
			seen[word] = true
			names = append(names, word)
		}
	}
	if len(names) < 2 {
		t.Fatalf("the corpus has only %q", names)
	}
	return names
}
