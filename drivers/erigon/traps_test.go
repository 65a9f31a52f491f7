package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/snapfw/snapfw/core"
)

// trap is something that went wrong in a real release, and what keeps it from going wrong here: tests, as "TestName: words
// in it", or "path: words" for a sentence in the code. An issue is one of github.com/erigontech/erigon, of
// erigontech/erigon-snapshot (S#) or of node-real/bsc-erigon (bsc#).
type trap struct {
	issues string
	what   string
	by     []string
}

var traps = []trap{
	{"13824", "a .torrent in the bucket is of another infohash than the list", []string{
		"TestProveFinds: stale torrent", "TestReplacementsWaitForTheReview: w.whole()", "TestReplacedUnderAReader: Without the purge"}},
	{"10656", "the bucket was written over and the review rejected it", []string{
		"TestRejectedMeansNothingIsPublished: why did the hash change", "TestReplacementsWaitForTheReview: the old list and the old bytes", "TestPublishedStays: published"}},
	{"14394", "files were read in the middle of a merge", []string{
		"TestToolAfterAPlainStop: merge", "TestViewUnchanged: replaced", "TestChangesMeanwhile: replaced", "TestLiveDeclines: held"}},
	{"S#479", "a changed hash was compared with another branch", []string{
		"TestJudgeTwoPublishedLists: since the bucket's list", "TestGitHubPublished: Commit", "TestSomebodyElsePublishes: the published lists differ"}},
	{"12577", "an overlapping inverted index was published", []string{
		"TestCheckRules: idx/v1.0-receipt.40-41.ef", "TestJudge: leftover of a merge", "TestErigonLies: retire-leaves-overlap"}},
	{"19104 S#1092 23019", "two versions of one range were published", []string{
		"TestJudge: two versions of one range", "TestCheckRules: two-versions", "TestBadDatadir: two versions", "TestRealChanges: two versions of every accounts index"}},
	{"21688", "old big files expired", []string{
		"TestWhatStaysIsMadeYoungInTime: made young", "TestWhatIsGoneIsSentAgain: expired", "TestManyStay: two are old",
		"TestARefusedReleaseKeepsWhatIsPublishedYoung: refuse", "TestNoListNamesWhatExpired: headers.seg", "TestWhatIsNotKeptYoungIsTold: told"}},
	{"21020", "a fixed name was published anew and the CDN kept the old bytes", []string{
		"TestProveFinds: erigon issue 21020", "TestPurgeForgets: purge", "TestJudgeExplainsHashes: purged", "TestCacheIsNotPurged: purge"}},
	{"19883", "the CDN failed on byte ranges of one large object", []string{"TestProveFinds: old and new ranges", "TestSamplePieces: pieces"}},
	{"19094", "the CDN answered 404 now and then", []string{"TestProveFinds: erigon issue 19094", "TestProveWaits: 404", "TestBucketHasTroubles: 503"}},
	{"17368", "regenerated files are published by force", []string{
		"TestJudge: not of the frontier", "TestJudgeExplainsHashes: an index of data that changed", "TestReplacementsWaitForTheReview: new salts after a leak"}},
	{"21522 21324 23859", "the downloader renames what was rebuilt to .part", []string{
		"TestCheckRules: .kv.part", "TestLiveDeclines: part", "TestJudgeFlags: downloader, said", "TestUnfit: moved aside by the downloader",
		"drivers/erigon/tool_files.go: Erigon's downloader never makes a torrent"}},
	{"17664", "other bytes of the same size were not looked at", []string{
		"TestStaleTorrents: made again, of the same size", "sinks/r2/same.go: Size alone never says so", "core/internal/manifest/objects.go: A size alone never says so"}},
	{"16532", "truncated files", []string{"TestCheckRules: truncated", "TestChangesMeanwhile: cut", "TestProveFinds: shorter object", "TestBucketLies: bytes instead of"}},
	{"17589 18162 18601", "--verify of the downloader exits with 0, or never", []string{"TestOwnHashingNotVerify: verify-lies", "TestDamage: full"}},
	{"20714", "checks that ran out of their budget count as passed", []string{
		"TestToolFalseGreens: I20714", "TestJudgeOfIntegrity: budget of all", "TestErigonLies: budget exhausted"}},
	{"18534 24145", "blobs one range behind are well, and further behind they are not", []string{
		"TestCheckHealthy: expected", "TestCheckRules: blobs-apart", "TestCheckRules: blocksidecars.idx"}},
	{"23927 24064 23911", "the content of caplin's files was bad", []string{"TestDamagedCaplin: CaplinStateRoots", "TestDamagedCaplin: CaplinBlobSidecars"}},
	{"18535 17913 19738", "state files ahead of block files", []string{"TestCheckStateAhead: state-ahead"}},
	{"10485", "a merge that was killed leaves a gap", []string{
		"TestLaunchStopIsPatient: killed", "TestToolNeverKills: waited for", "TestToolTakesAwayTheHalf: merge", "TestNodeDoesNotStopInTime: not killed",
		"drivers/erigon/plan.go: a killed merge leaves a"}},
	{"15341", "a merge of rcache forgot its .efi", []string{"TestCheckRules: accessor/v2.1-rcache.64-96.efi", "TestCheckEveryFileMatters: nobody misses", "TestErigonLies: index-leaves-one"}},
	{"18741", "another format under the same version and name", []string{"TestJudge: changed", "TestRealChanges: block data anew"}},
	{"19044", "a wrong history of commitment", []string{"TestJudgeOfIntegrity: history is off", "TestErigonLies: filtered out"}},
	{"18755", "data on the web seed that its torrent does not match", []string{"TestProveFinds: two objects under one name", "TestRealClient: aria2"}},
	{"18216 14808", "a branch was deleted; the copies of a list differ", []string{
		"TestSomebodyElsePublishes: is published otherwise than the reviewed branch has it", "TestReleaseWithAReviewOnGitHub: what is published is not what was merged",
		"core/internal/engine/front.go: what consumers read is not what was published"}},
	{"18677", "a chain without rcache can't pass", []string{"TestCheckSkips: no rcache yet", "TestToolFalseGreens: skipped by order", "TestToolExcuse: excuse"}},
	{"S#329 S#428 S#430 S#201", "caplin without torrents, a stale branch, changes that nobody explained", []string{
		"TestCheckEveryFileMatters: torrentExt", "TestGitHubSupersedes: Superseded by", "TestJudgeExplainsHashes: is not explained by"}},
	{"9750", "the ETag of an object in parts is no MD5", []string{"TestComposite: composite", "sinks/r2/same.go: its ETag is the MD5 sum of its content or, where it was sent in"}},
	{"bsc#729 bsc#593 bsc#510", "a listed name without its data or torrent", []string{
		"TestReleaseWithAReviewOnGitHub: w.whole()", "TestBucketLies: is missing", "TestKilledWhileItPublishes: upload", "TestRealClient: torrent"}},
}

// What keeps a trap shut exists: the function, with what it is named for in it, or the sentence.
func TestTraps(t *testing.T) {
	root := filepath.Join("..", "..")
	tests := testSources(t, root)
	for _, trap := range traps {
		if len(trap.by) == 0 {
			t.Errorf("%s: nothing keeps from %q", trap.issues, trap.what)
		}
		for _, by := range trap.by {
			name, words, ok := strings.Cut(by, ": ")
			if !ok {
				t.Errorf("%s: %q has no words", trap.issues, by)
				continue
			}
			var text string
			if strings.HasPrefix(name, "Test") {
				text = tests[name]
			} else if body, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name))); err == nil {
				text = string(body)
			}
			if !strings.Contains(text, words) {
				t.Errorf("%s (%s): %s does not hold %q any more", trap.issues, trap.what, name, words)
			}
		}
	}
}

// testSources is each test function of the module, its comment included.
func testSources(t *testing.T, root string) map[string]string {
	all := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		body, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, body, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Recv != nil || !strings.HasPrefix(f.Name.Name, "Test") {
				continue
			}
			from := f.Pos()
			if f.Doc != nil {
				from = f.Doc.Pos()
			}
			all[f.Name.Name] += string(body[set.Position(from).Offset:set.Position(f.End()).Offset])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// A caplin table that is damaged is found by the checks that every release runs; blobs by a check that is asked for.
func TestDamagedCaplin(t *testing.T) {
	t.Parallel()
	d := newStandIn(t)
	run := func(args ...string) (int, string) {
		var out, errs bytes.Buffer
		exit := runTool(t.Context(), append([]string{"--datadir", d.dir, "--erigon", filepath.Join(d.bin, "erigon")}, args...), &out, &errs, integrity)
		return exit, errs.String()
	}
	if exit, said := run("--check", "CaplinBlobSidecars"); exit != 0 || !strings.Contains(said, "1 checks passed: CaplinBlobSidecars") {
		t.Errorf("exit %d: %s", exit, said)
	}
	tables, err := filepath.Glob(filepath.Join(d.snap, "caplin", "*-BlockRoot.seg"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("no table: %v", err)
	}
	body, err := os.ReadFile(tables[0])
	if err != nil {
		t.Fatal(err)
	}
	body[len(body)-1] ^= 1
	if err := os.WriteFile(tables[0], body, 0o644); err != nil {
		t.Fatal(err)
	}
	if exit, said := run(); exit != 1 || !strings.Contains(said, "CaplinStateRoots") {
		t.Errorf("exit %d: %s", exit, said)
	}
}

// Changes of lists that were really published, in small, and what is said of them
// (https://github.com/erigontech/erigon-snapshot).
func TestRealChanges(t *testing.T) {
	blocks := func(ver string, from, to int) []string {
		var names []string
		for _, typ := range []string{"headers", "bodies", "transactions"} {
			names = append(names, fmt.Sprintf("%s-%06d-%06d-%s.seg", ver, from, to, typ))
		}
		return names
	}
	tag := func(names []string) []string {
		var all []string
		for _, n := range names {
			all = append(all, n+"=anew")
		}
		return all
	}
	join := func(lists ...[]string) (all []string) {
		for _, l := range lists {
			all = append(all, l...)
		}
		return all
	}
	steps := func(pattern string, bounds ...int) (all []string) {
		for i := 1; i < len(bounds); i++ {
			all = append(all, fmt.Sprintf(pattern, bounds[i-1], bounds[i]))
		}
		return all
	}
	thousands := join(blocks("v1.1", 0, 1), blocks("v1.1", 1, 2), blocks("v1.1", 2, 3))
	receipts := []string{"history/v3.0-rcache.0-64.v", "idx/v3.0-receipt.0-64.ef", "accessor/v1.2-rcache.0-64.vi", "accessor/v1.2-receipt.0-64.vi"}
	ghosts := join(steps("domain/v1.1-code.%d-%d.bt", 0, 1, 2, 3), steps("domain/v1.1-code.%d-%d.kvei", 0, 1, 2, 3))
	const ghostsAllowed = `{"allow": [{"class": "hash_changes", "ext": "kvei", "reason": "built anew"},
		{"class": "unexpected_deletions", "ext": "bt", "covered": true, "reason": "ghosts"}, {"class": "unexpected_deletions", "ext": "kvei", "covered": true, "reason": "ghosts"}]}`
	for _, c := range []struct {
		name, config string
		old, new     []string
		want         map[string]int // of the classes that refuse
		allowed      bool           // by the configuration
	}{
		{name: "merges alone (#1238)", old: thousands, new: blocks("v1.1", 0, 10)},
		{name: "receipts of the frontier anew (#1238)", old: join(thousands, receipts), new: join(blocks("v1.1", 0, 10), tag(receipts)),
			want: map[string]int{classHash: 4}},
		{name: "receipts that the policy knows", old: receipts, new: tag(receipts), want: map[string]int{classHash: 4}, allowed: true,
			config: `{"allow": [{"class": "hash_changes", "type": "receipt", "frontier": 1, "reason": "receipts are made anew"}, {"class": "hash_changes", "type": "rcache", "frontier": 1, "reason": "receipts are made anew"}]}`},
		{name: "every .kvei anew, and ghosts of merges go (#1162)", old: join(steps("domain/v2.0-code.%d-%d.kv", 0, 8), steps("domain/v1.1-code.%d-%d.kvei", 0, 8), steps("domain/v1.1-code.%d-%d.bt", 0, 8), ghosts),
			new:  join(steps("domain/v2.0-code.%d-%d.kv", 0, 8), tag(steps("domain/v1.1-code.%d-%d.kvei", 0, 8)), steps("domain/v1.1-code.%d-%d.bt", 0, 8)),
			want: map[string]int{classHash: 1, classDeletion: 6}},
		{name: "the same, allowed", config: ghostsAllowed, allowed: true,
			old:  join(steps("domain/v2.0-code.%d-%d.kv", 0, 8), steps("domain/v1.1-code.%d-%d.kvei", 0, 8), steps("domain/v1.1-code.%d-%d.bt", 0, 8), ghosts),
			new:  join(steps("domain/v2.0-code.%d-%d.kv", 0, 8), tag(steps("domain/v1.1-code.%d-%d.kvei", 0, 8)), steps("domain/v1.1-code.%d-%d.bt", 0, 8)),
			want: map[string]int{classHash: 1, classDeletion: 6}},
		{name: "leftovers of single steps under a merged file (before #1167)", old: steps("idx/v3.0-code.%d-%d.ef", 0, 4), new: join(steps("idx/v3.0-code.%d-%d.ef", 0, 4), steps("idx/v3.0-code.%d-%d.ef", 2, 3)),
			want: map[string]int{classOverlap: 1}},
		{name: "two versions of every accounts index (#1075)", old: steps("accessor/v1.1-accounts.%d-%d.vi", 0, 64),
			new:  join(steps("accessor/v1.1-accounts.%d-%d.vi", 0, 256, 512), steps("accessor/v1.2-accounts.%d-%d.vi", 0, 256, 512)),
			want: map[string]int{classConflict: 2}},
		{name: "block data anew (#1078)", old: blocks("v1.1", 18200, 18210), new: tag(blocks("v1.1", 18200, 18210)), want: map[string]int{classHash: 3, classGap: 3}},
		{name: "a bad tip goes (#974)", old: steps("idx/v3.0-code.%d-%d.ef", 0, 2000, 2001, 2002), new: steps("idx/v3.0-code.%d-%d.ef", 0, 2000),
			want: map[string]int{classDeletion: 2}},
		{name: "a merge is taken back (#992)", old: blocks("v1.1", 0, 20), new: join(blocks("v1.1", 0, 10), blocks("v1.1", 10, 20)), want: map[string]int{classDeletion: 3}},
		{name: "versions raised and data anew (#1042)", old: join(blocks("v1.0", 0, 10), steps("history/v1.0-code.%d-%d.v", 0, 64)),
			new: join(blocks("v1.1", 0, 10), tag(steps("history/v1.0-code.%d-%d.v", 0, 64))), want: map[string]int{classHash: 1}},
		{name: "v1 is written v1.0 (#531)", old: blocks("v1", 0, 10), new: blocks("v1.0", 0, 10)},
		{name: "an empty list (arb1)", old: blocks("v1.1", 0, 10), new: nil, want: map[string]int{classDeletion: 3}},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := judged(t, c.config, map[string][]core.Entry{"review": entries(c.old...), "bucket": entries(c.old...)}, entries(c.new...))
			got := map[string]int{}
			for _, f := range v.Findings {
				if refusing[f.Class] {
					got[f.Class]++
				}
				if f.Refuse && c.allowed {
					t.Errorf("it is not allowed: %+v", f)
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(c.want) || v.Safe != (len(c.want) == 0 || c.allowed) {
				t.Errorf("safe is %t, got %v, want %v: %+v", v.Safe, got, c.want, v.Findings)
			}
		})
	}
}
