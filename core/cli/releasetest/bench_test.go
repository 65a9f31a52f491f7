package releasetest

import (
	"crypto/sha1"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/snapfw/snapfw/core/internal/journal"
	"github.com/snapfw/snapfw/core/onhost"
	"github.com/snapfw/snapfw/sinks/r2/r2test"
)

// timed is a program that runs another and notes how long that took, in nanoseconds.
const timed = `#!/bin/bash
begin=$(date +%%s%%N)
%q "$@"
exit=$?
echo "$(($(date +%%s%%N) - begin)) $*" >> %q
exit $exit
`

// BenchmarkNothingNew releases a chain of a real one's size over and over with nothing new. It takes off what Erigon's own
// commands take by themselves, as told by a program between us and them, and the node's own stop and start: from the moment
// that it is told, until it is gone, or until it has been up for as long as `launch start` and the look after it want to see. What
// is done meanwhile takes no time of its own. How long the storage had something to answer is reported beside it and not taken off.
func BenchmarkNothingNew(b *testing.B) {
	w := newWorld(b, options{still: true, files: 17_500})
	own := w.path("own")
	if err := os.WriteFile(w.path("timed"), fmt.Appendf(nil, timed, w.path("bin", "erigon"), own), 0o755); err != nil {
		b.Fatal(err)
	}
	w.chain["programs"] = table{"erigon": w.path("timed"), "integration": w.path("bin", "integration")}
	// The first release, of as many new names as there are files, is not what is measured: its purges take minutes by
	// Cloudflare's rules.
	bucket := w.config["sinks"].(table)["bucket"].(table)
	purged := maps.Clone(bucket)
	for _, name := range []string{"zone_id", "api_token", "api_endpoint"} {
		delete(bucket, name)
	}
	first := w.release(5)
	w.merge()
	defer func() {
		if b.Failed() {
			w.moves(w.lastRun(), 0)
		}
	}()
	w.want(0, listKey, "resume", first.Run)
	maps.Copy(bucket, purged)

	const commands, node, storage, rest, all, read, requests = "erigon-s", "node-s", "storage-s", "beside-s", "run-s", "read-bytes", "requests"
	figures := map[string][]float64{}
	for b.Loop() {
		os.Remove(own)
		before, worked := w.requests(), len(w.site.Worked())
		began := time.Now()
		w.release(0)
		took := time.Since(began).Seconds()
		facts := w.lastRun()
		c, n, s := w.ownTime(own), length(nodeTime(facts)), length(w.site.Worked()[worked:])
		for name, v := range map[string]float64{
			commands: c, node: n, storage: s, all: took, rest: took - c - n,
			read: bytesRead(b, facts), requests: float64(w.requests() - before),
		} {
			figures[name] = append(figures[name], v)
		}
		body, _ := os.ReadFile(own)
		b.Logf("%s", body)
		w.moves(facts, took)
	}
	for name, all := range figures {
		slices.Sort(all)
		b.ReportMetric(all[len(all)/2], name)
	}
	b.ReportMetric(0, "ns/op")
}

// requests is how many the bucket got.
func (w *world) requests() (n int) {
	for _, c := range w.site.Counts() {
		n += c
	}
	return n
}

func (w *world) ownTime(file string) (seconds float64) {
	body, err := os.ReadFile(file)
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		ns, err := strconv.ParseFloat(strings.Fields(line)[0], 64)
		if err != nil {
			w.t.Fatal(err)
		}
		seconds += ns / 1e9
	}
	return seconds
}

func (w *world) lastRun() []journal.Fact {
	w.t.Helper()
	facts, err := journal.Read(journal.Dir(w.path("home", ".local/state/snapfw/runs")), w.newest())
	if err != nil {
		w.t.Fatal(err)
	}
	return facts
}

// nodeTime is when the node stopped and started.
func nodeTime(facts []journal.Fact) (spans []r2test.Span) {
	var doing, captured time.Time
	for _, f := range facts {
		switch {
		case f.Kind == "doing" && f.Step == "freeze.stop erigon":
			doing = f.Time
		case f.Kind == "did" && f.Step == "freeze.stop erigon":
			spans = append(spans, r2test.Span{From: doing, To: f.Time})
		case f.Kind == "captured":
			captured = f.Time
		case f.Kind == "healthy":
			spans = append(spans, r2test.Span{From: captured, To: f.Time})
		}
	}
	return spans
}

// length is how long all of some times are, a moment of several counted once.
func length(spans []r2test.Span) (seconds float64) {
	slices.SortFunc(spans, func(a, b r2test.Span) int { return a.From.Compare(b.From) })
	var end time.Time
	for _, s := range spans {
		if s.From.Before(end) {
			s.From = end
		}
		if s.To.After(s.From) {
			seconds += s.To.Sub(s.From).Seconds()
			end = s.To
		}
	}
	return seconds
}

var readSummary = regexp.MustCompile(`; ([0-9]+) bytes read;`)

// bytesRead is what the torrents' step says that it read of the data.
func bytesRead(b *testing.B, facts []journal.Fact) float64 {
	for _, f := range facts {
		if f.Kind != "did" || f.Step != "seal.make the torrents" {
			continue
		}
		var res onhost.Result
		if err := json.Unmarshal(f.Data, &res); err != nil {
			b.Fatal(err)
		}
		if m := readSummary.FindStringSubmatch(res.Stdout); m != nil {
			n, err := strconv.ParseFloat(m[1], 64)
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
	}
	b.Fatal("no step says what it read for the torrents")
	return 0
}

// moves logs where the time of a run went.
func (w *world) moves(facts []journal.Fact, took float64) {
	for i := 1; i < len(facts); i++ {
		f := facts[i]
		w.t.Logf("%6d ms  to %s %s %.150s", f.Time.Sub(facts[i-1].Time).Milliseconds(), f.Kind, f.Step, f.Data)
	}
	w.t.Logf("%6.0f ms  before the first fact and after the last", took*1000-float64(facts[len(facts)-1].Time.Sub(facts[0].Time).Milliseconds()))
}

// BenchmarkDiff judges two lists of a large chain's size with the real program: snapfw and the driver are started anew
// each time. The newer list has two merges and 400 names more.
func BenchmarkDiff(b *testing.B) {
	dir := b.TempDir()
	older, newer := filepath.Join(dir, "old.toml"), filepath.Join(dir, "new.toml")
	writeList(b, older, 1092, 0)
	writeList(b, newer, 1116, 2)
	var took []float64
	for b.Loop() {
		cmd := exec.Command(programs.Path("snapfw"), "diff", "--chain", "erigon", older, newer)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "SNAPFW_PLUGINS=" + programs.Plugins}
		began := time.Now()
		out, err := cmd.CombinedOutput()
		took = append(took, float64(time.Since(began).Microseconds())/1000)
		if err != nil || !strings.Contains(string(out), "Verdict: safe") {
			b.Fatalf("%v\n%.2000s", err, out)
		}
	}
	slices.Sort(took)
	b.ReportMetric(took[len(took)/2], "wall-ms")
	b.ReportMetric(0, "ns/op")
}

// writeList writes a list with 16 files for each range of steps, in the order of bytes.
func writeList(b *testing.B, file string, ranges, merged int) {
	var lines []string
	add := func(from, to int) {
		for _, kind := range []string{"accounts", "storage", "code", "receipt"} {
			for _, name := range []string{"history/v2.0-%s.%d-%d.v", "accessor/v1.1-%s.%d-%d.vi", "idx/v3.0-%s.%d-%d.ef", "accessor/v2.0-%s.%d-%d.efi"} {
				name = fmt.Sprintf(name, kind, from, to)
				lines = append(lines, fmt.Sprintf("'%s' = '%x'\n", name, sha1.Sum([]byte(name))))
			}
		}
	}
	for i := 0; i < ranges; i++ {
		if i < 2*merged {
			add(i, i+2)
			i++
			continue
		}
		add(i, i+1)
	}
	slices.Sort(lines)
	if err := os.WriteFile(file, []byte(strings.Join(lines, "")+"\n"), 0o644); err != nil {
		b.Fatal(err)
	}
	b.Logf("%s: %d lines", filepath.Base(file), len(lines))
}
