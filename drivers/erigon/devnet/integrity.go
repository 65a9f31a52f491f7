package main

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// check is one of "seg integrity".
type check struct {
	name string
	run  func(*segRun, []file) error
}

// fastChecks run when none is asked for. Those without a function of their own look at nothing here.
var fastChecks = []check{
	{"Publishable", checkPublishable},
	{"HeaderNoGaps", checkHeaders},
	{"BlocksTxnID", nothing},
	{"Blocks", checkData(func(k kind) bool { return k.dir == "" && k.ext == "seg" })},
	{"CaplinStateRoots", checkData(func(k kind) bool { return k.dir == "caplin" && k.ext == "seg" })},
	{"ReceiptsNoDups", nothing},
	{"RCacheNoDups", nothing},
	{"ReceiptRootIntegrity", nothing},
	{"InvertedIndex", checkData(func(k kind) bool { return k.ext == "ef" })},
	{"CommitmentRoot", nothing},
	{"CommitmentKvi", checkKvi},
	{"HistoryNoSystemTxs", checkData(func(k kind) bool { return k.ext == "v" })},
	{"CommitmentHistVal", checkData(func(k kind) bool { return k.typ == "commitment" && k.ext == "v" })}, // without that history it passes silently
	{"StateRootVerifyByHistory", nothing},
}

// slowChecks run only when they are asked for.
var slowChecks = []check{
	{"StateVerify", checkData(func(k kind) bool { return k.ext == "kv" })}, {"CaplinBlobSidecars", nothing},
	{"TorrentPieces", func(r *segRun, _ []file) error { return r.d.verifyTorrents(r.behave.is("verify-root-only")) }},
}

func nothing(*segRun, []file) error { return nil }

func names(all []check) (n []string) {
	for _, c := range all {
		n = append(n, c.name)
	}
	return n
}

func integrityFlags(f *flag.FlagSet) {
	f.String("check", "", fmt.Sprintf("one of: %s", names(append(slices.Clone(fastChecks), slowChecks...))))
	f.String("skip-check", "", "comma separated list of checks to skip")
	f.Bool("failFast", true, "to stop after 1st problem or print WARN log and continue check")
	f.Uint64("fromStep", 0, "skip files before given step")
	f.Int64("seed", 0, "random seed of samples")
	f.Float64("sample", 0.01, "sampling ratio")
	f.String("file-integrity-cache", "", "")
	f.String("integrity.budget", "", "max time")
}

func runIntegrity(r *segRun) error {
	err := r.integrity()
	if err != nil {
		r.log.error("[integrity]", "err", err)
		return err
	}
	// Erigon prints this for any subset of checks.
	r.log.info("[integrity] snapshots are publishable")
	return nil
}

func (r *segRun) integrity() error {
	checks, err := r.wanted()
	if err != nil {
		return err
	}
	if len(checks) == 0 || r.behave.is("filtered") {
		r.log.warn("[integrity] no checks to run (all filtered out)")
		return nil
	}
	seed := r.str("seed")
	if seed == "0" {
		seed = strconv.FormatInt(rand.Int64(), 10)
	}
	r.log.info("[integrity] starting", "seed", seed, "sampleRatio", r.str("sample"), "checks", fmt.Sprint(names(checks)))
	if _, err := r.open(); err != nil {
		return err
	}
	files, _, err := r.d.list()
	if err != nil {
		return err
	}
	return r.runChecks(checks, files)
}

// wanted are the checks that flags ask for; an unknown name is an error in --check and none in --skip-check.
func (r *segRun) wanted() (checks []check, err error) {
	all := append(slices.Clone(fastChecks), slowChecks...)
	checks = slices.Clone(fastChecks)
	if asked := r.str("check"); asked != "" {
		checks = nil
		for name := range strings.SplitSeq(asked, ",") {
			i := slices.IndexFunc(all, func(c check) bool { return c.name == name })
			if i < 0 {
				return nil, fmt.Errorf("requested check %s not found", name)
			}
			checks = append(checks, all[i])
		}
	}
	for name := range strings.SplitSeq(r.str("skip-check"), ",") {
		checks = slices.DeleteFunc(checks, func(c check) bool {
			if c.name == name {
				r.log.info("[integrity] skipping check", "check", name)
			}
			return c.name == name
		})
	}
	return checks, nil
}

// runChecks runs them in order. When the budget is used up the rest is skipped, and that is no error: so it is with Erigon.
func (r *segRun) runChecks(checks []check, files []file) error {
	budget, begin := budgetOf(r.str("integrity.budget")), time.Now()
	for i, c := range checks {
		if r.behave.is("budget") && i == len(checks)/2 || budget > 0 && time.Since(begin) > budget {
			r.log.info("[integrity] budget exhausted, skipping remaining", "skipped", len(checks)-i)
			return nil
		}
		start := time.Now()
		r.log.info("[integrity] starting", "check", c.name)
		if err := r.builder.pause(r.ctx); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		if budget > 0 && time.Since(begin) > budget {
			r.log.info("[integrity] budget exhausted, moving on", "check", c.name)
			continue
		}
		err := c.run(r, files)
		if named := r.behave["integrity-fails"]; r.behave.is("integrity-fails") && (named == c.name || named == "") {
			err = errors.New("told to fail")
		}
		if err != nil {
			if err = fmt.Errorf("%s: %w", c.name, err); !r.behave.is("failfast-warn") || r.on("failFast") {
				return err
			}
			// Up to 3.4 --failFast=false only warns.
			r.log.warn("[integrity]", "err", err)
			continue
		}
		if !r.behave.is("no-done-lines") {
			r.log.info("[integrity] done", "check", c.name, "elapsed", time.Since(start).Round(time.Millisecond))
		}
	}
	return nil
}

func runPublishable(r *segRun) error {
	if _, err := r.open(); err != nil {
		return err
	}
	files, _, err := r.d.list()
	if err == nil {
		err = checkPublishable(r, files)
	}
	if err != nil {
		r.log.error("[publishable]", "err", err)
		return err
	}
	r.log.info("[publishable] snapshots are publishable")
	return nil
}

// checkPublishable looks at names only: ranges of blocks and of accounts, and that the other types have the same. Like Erigon's it
// knows nothing of sizes, torrents, nor of files that are too many.
func checkPublishable(r *segRun, files []file) error {
	receipts := r.builder.st.Receipts && !r.behave.is("receipts-off")
	for _, k := range blockKinds() {
		if err := contiguous(of(files, k), k.typ); err != nil {
			return err
		}
	}
	for _, f := range of(files, blockKinds()[0]) {
		if err := companions(files, f, blockKinds()); err != nil {
			return err
		}
	}
	accounts := of(files, kind{"domain", "accounts", "kv", ""})
	if err := contiguous(accounts, "accounts"); err != nil {
		return err
	}
	for _, f := range accounts {
		if err := companions(files, f, domainKinds(receipts)); err != nil {
			return err
		}
	}
	history := of(files, kind{"idx", "accounts", "ef", ""})
	if err := contiguous(history, "accounts.ef"); err != nil {
		return err
	}
	for _, f := range history {
		if err := companions(files, f, historyKinds(receipts)); err != nil {
			return err
		}
	}
	if a, b := end(accounts), end(history); a != b {
		return fmt.Errorf("accounts domain max step (=%d) is different to SnapIdx files max step (=%d)", a, b)
	}
	if err := checkTables(files); err != nil {
		return err
	}
	for _, salt := range []string{"salt-state.txt", "salt-blocks.txt"} {
		if _, err := os.Stat(r.d.snap(salt)); err != nil {
			return fmt.Errorf("missing file %s", r.d.snap(salt))
		}
	}
	return nil
}

// checkTables: tables of caplin are all there with the same end, or none is.
func checkTables(files []file) error {
	ends := map[uint64]bool{}
	for _, t := range caplinTypes {
		ends[end(of(files, kind{"caplin", t, "seg", ""}))] = true
	}
	switch {
	case len(ends) == 1:
		return nil
	case ends[0]:
		return errors.New("some state snapshot files are empty while others are present")
	}
	return errors.New("caplin state snapshots end apart")
}

func contiguous(files []file, what string) error {
	if len(files) == 0 {
		return fmt.Errorf("no snapshot files found for type: %s", what)
	}
	if files[0].from != 0 {
		return fmt.Errorf("gap at start: snapshots start at (%d-%d). snaptype: %s", files[0].from, files[0].to, what)
	}
	for i, f := range files[1:] {
		last := files[i]
		if f.from < last.to {
			return fmt.Errorf("state file %s is possibly overlapped by previous file %s (maybe run remove_overlaps)", f.name, last.name)
		}
		if f.from > last.to {
			return fmt.Errorf("gap between (%d-%d) and (%d-%d). snaptype: %s", last.from, last.to, f.from, f.to, what)
		}
	}
	return nil
}

func companions(files []file, f file, kinds []kind) error {
	for _, k := range kinds {
		for _, need := range append([]kind{k}, k.indexes()...) {
			if !has(files, need, f.span) {
				return fmt.Errorf("missing file %s", need.name(f.span))
			}
		}
	}
	return nil
}

func checkHeaders(r *segRun, files []file) error {
	return contiguous(of(files, blockKinds()[0]), "headers")
}

// checkData reads whole files and compares them with what they must hold.
func checkData(which func(kind) bool) func(*segRun, []file) error {
	return func(r *segRun, files []file) error {
		for _, f := range files {
			if err := r.ctx.Err(); err != nil {
				return err
			}
			if which(f.kind) {
				if err := r.builder.st.intact(r.d, f); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

// checkKvi builds commitment's indexes anew and compares.
func checkKvi(r *segRun, files []file) error {
	for _, f := range of(files, kind{"domain", "commitment", "kv", ""}) {
		for _, i := range of(files, kind{"domain", "commitment", "kvi", ""}) {
			if i.span != f.span {
				continue
			}
			want, err := r.d.indexOf(i.kind, f.name)
			if err != nil {
				return err
			}
			if got, err := os.ReadFile(r.d.snap(i.name)); err != nil || string(got) != string(want) {
				return errors.Join(err, fmt.Errorf("kvi mismatch in %s", i.name))
			}
		}
	}
	return nil
}
