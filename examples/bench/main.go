// Command bench measures what snapfw promises and prints one table: each figure with the command that
// measures it alone, its value, what it should be, and how the two compare. Nothing fails on a figure:
// machines differ. "bench -list" names the groups, "bench GROUP…" runs some.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// group is one command, and the figures that it yields.
type group struct {
	name    string
	args    []string // of go test -run -
	env     []string
	figures []figure
}

// figure is one line of the table. The benchmark reports it as a metric of this unit.
type figure struct {
	what   string
	bench  string // the benchmark that reports it
	unit   string
	show   string // of the unit, for people
	aim    float64
	atMost bool // else the aim is a least; an aim of 0 is none
	beside string
}

const (
	here, captureDir        = "./core/cli/bench", "./core/capture"
	releaseDir, erigon, r2d = "./core/cli/releasetest", "./drivers/erigon", "./sinks/r2"
)

// capture measures a method with three sizes of a database; linked says where a bare link can be had to compare with.
func capture(method, words string, linked bool) group {
	g := group{name: method, args: []string{"-bench", "Take$/^" + method + "$", "-benchtime", "3x", captureDir}}
	for _, n := range []string{"512", "4096", "100000"} {
		bench := "BenchmarkTake/" + method + "/" + n
		take := figure{what: "capture of " + n + " tables by " + words, bench: bench, unit: "µs/file", show: "µs/file"}
		if method == "link" {
			take.aim, take.atMost = 20, true
		}
		g.figures = append(g.figures, take)
		if linked {
			g.figures = append(g.figures, figure{what: "  linkat(2) alone, there and then", bench: bench, unit: "bare-link-µs/file", show: "µs/file", beside: "µs/file"})
		}
	}
	return g
}

var groups = []group{
	capture("link", "link", true),
	capture("xfs-link", "link on xfs", true),
	capture("xfs-clone", "clone on xfs", false),
	{
		name: "rclone", args: []string{"-bench", "Take4GiB", "-benchtime", "1x", captureDir}, env: []string{"CAPTURE_BENCH_MIB=4096"},
		figures: []figure{
			{what: "capture of 4 GiB, first time", bench: "BenchmarkTake4GiB", unit: "take-first-s", show: "s"},
			{what: "  rclone sync --transfers 64 of the same", bench: "BenchmarkTake4GiB", unit: "rclone-first-s", show: "s", beside: "take-first-s"},
			{what: "capture of 4 GiB, second time, 5% new", bench: "BenchmarkTake4GiB", unit: "take-second-s", show: "s"},
			{what: "  rclone sync --transfers 64 of the same", bench: "BenchmarkTake4GiB", unit: "rclone-second-s", show: "s", beside: "take-second-s"},
		},
	},
	{
		name: "overhead", args: []string{"-bench", "Overhead", "-benchtime", "5x", here},
		figures: []figure{
			{what: "run on an empty database over ssh", bench: "BenchmarkOverhead/captured", unit: "run-s", show: "s"},
			{what: "  the node's own stop", bench: "BenchmarkOverhead/captured", unit: "stop-s", show: "s"},
			{what: "  the node's own start", bench: "BenchmarkOverhead/captured", unit: "start-s", show: "s"},
			{what: "  overhead: the rest", bench: "BenchmarkOverhead/captured", unit: "overhead-s", show: "s", aim: 3, atMost: true},
			{what: "  the node was down for", bench: "BenchmarkOverhead/captured", unit: "down-s", show: "s"},
			{what: "the same, published", bench: "BenchmarkOverhead/published", unit: "run-s", show: "s"},
			{what: "  overhead: the rest", bench: "BenchmarkOverhead/published", unit: "overhead-s", show: "s", aim: 3, atMost: true},
		},
	},
	{
		name: "second", args: []string{"-bench", "Second", "-benchtime", "1x", here},
		figures: []figure{
			{what: "second snapshot: new bytes", bench: "BenchmarkSecond", unit: "new-MiB", show: "MiB"},
			{what: "  bytes sent to the storage, by new bytes", bench: "BenchmarkSecond", unit: "sent/new", show: "", aim: 1.05, atMost: true},
			{what: "  bytes read for sums, by new bytes", bench: "BenchmarkSecond", unit: "read/new", show: "", aim: 1.05, atMost: true},
		},
	},
	{
		name: "nodes", args: []string{"-bench", "Nodes", "-benchtime", "1x", here},
		figures: []figure{
			{what: "control process, 100 nodes: peak RSS", bench: "BenchmarkNodes", unit: "control-MiB", show: "MiB", aim: 100, atMost: true},
			{what: "  its plugins beside it", bench: "BenchmarkNodes", unit: "plugins-MiB", show: "MiB"},
			{what: "  the whole run", bench: "BenchmarkNodes", unit: "run-s", show: "s"},
			{what: "  longest downtime of a node", bench: "BenchmarkNodes", unit: "down-s", show: "s"},
			{what: "  connections that it made", bench: "BenchmarkNodes", unit: "connections", show: ""},
		},
	},
	{
		name: "torrents", args: []string{"-bench", "TorrentHashing", "-benchtime", "3x", erigon}, env: []string{"SNAPFW_BENCH_MIB=4096"},
		figures: []figure{
			{what: "torrents of 4 GiB in memory, by the clock", bench: "BenchmarkTorrentHashing", unit: "GB/s", show: "GB/s"},
			{what: "  by openssl speed -multi 2 sha1, there and then", bench: "BenchmarkTorrentHashing", unit: "ours/openssl", aim: 0.9},
			{what: "  by mktorrent -l 21 -t 2 of the same", bench: "BenchmarkTorrentHashing", unit: "ours/mktorrent", aim: 1},
			{what: "  the same in processor time: by openssl", bench: "BenchmarkTorrentHashing", unit: "ours/openssl-cpu"},
			{what: "  the same in processor time: by mktorrent", bench: "BenchmarkTorrentHashing", unit: "ours/mktorrent-cpu"},
			{what: "  peak RSS", bench: "BenchmarkTorrentHashing", unit: "peak-MiB", show: "MiB", aim: 200, atMost: true},
		},
	},
	{
		name: "colddisk", args: []string{"-bench", "TorrentColdDisk", "-benchtime", "3x", erigon},
		figures: []figure{
			{what: "torrents of 1 GiB on the disk", bench: "BenchmarkTorrentColdDisk", unit: "GB/s", show: "GB/s"},
			{what: "  by dd iflag=direct of the same", bench: "BenchmarkTorrentColdDisk", unit: "ours/disk", aim: 0.9},
		},
	},
	{
		name: "nothingnew", args: []string{"-bench", "NothingNew$", "-benchtime", "5x", releaseDir},
		figures: []figure{
			{what: "release of 17,500 files with nothing new", bench: "BenchmarkNothingNew", unit: "run-s", show: "s"},
			{what: "  Erigon's own commands", bench: "BenchmarkNothingNew", unit: "erigon-s", show: "s"},
			{what: "  the node's own stop and start", bench: "BenchmarkNothingNew", unit: "node-s", show: "s"},
			{what: "  the rest", bench: "BenchmarkNothingNew", unit: "beside-s", show: "s", aim: 3, atMost: true},
			{what: "  for so long storage and CDN had something to answer, some of it meanwhile", bench: "BenchmarkNothingNew", unit: "storage-s", show: "s"},
			{what: "  data bytes read, where none should be: salts and erigondb.toml, which are copied", bench: "BenchmarkNothingNew", unit: "read-bytes"},
			{what: "  requests to the storage", bench: "BenchmarkNothingNew", unit: "requests"},
		},
	},
	{
		name: "diff", args: []string{"-bench", "Diff", "-benchtime", "20x", releaseDir},
		figures: []figure{
			{what: "snapfw diff of two lists of 17,500 lines", bench: "BenchmarkDiff", unit: "wall-ms", show: "ms", aim: 200, atMost: true},
		},
	},
	{
		name: "judge", args: []string{"-bench", "Judge", "-benchtime", "20x", erigon},
		figures: []figure{
			{what: "the judge alone: read, judge, report", bench: "BenchmarkJudge", unit: "cpu-ms/op", show: "ms of processor time"},
		},
	},
	{
		name: "upload", args: []string{"-bench", "Upload", "-benchtime", "1x", r2d}, env: []string{"SNAPFW_BENCH_MIB=4096"},
		figures: []figure{
			{what: "upload of 4 GiB in 40 files", bench: "BenchmarkUpload", unit: "MiB/s", show: "MiB/s"},
			{what: "  rclone copy of the same, as many at once", bench: "BenchmarkUpload", unit: "rclone-MiB/s", show: "MiB/s"},
			{what: "  rclone's time by ours", bench: "BenchmarkUpload", unit: "ratio", aim: 0.9},
			{what: "  rclone's processor time by ours", bench: "BenchmarkUpload", unit: "cpu-ratio"},
		},
	},
}

func main() {
	list := flag.Bool("list", false, "name the groups")
	flag.Parse()
	if *list {
		for _, g := range groups {
			fmt.Printf("%-10s %s\n", g.name, g.command())
		}
		return
	}
	for _, name := range flag.Args() {
		if !slices.ContainsFunc(groups, func(g group) bool { return g.name == name }) {
			fmt.Fprintf(os.Stderr, "bench: there is no group %q; see bench -list\n", name)
			os.Exit(2)
		}
	}
	os.Exit(run(flag.Args(), os.Stdout, os.Stderr))
}

// run measures the named groups, or all, and prints the table when it has them all.
func run(names []string, stdout, stderr io.Writer) int {
	exit := 0
	var table bytes.Buffer
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FIGURE\tVALUE\tAIM\tRATIO")
	for _, g := range groups {
		if len(names) > 0 && !slices.Contains(names, g.name) {
			continue
		}
		fmt.Fprintf(stderr, "%s\n", g.command())
		out, err := g.measure()
		if err != nil {
			fmt.Fprintf(stderr, "%s\nbench: %s: %v\n", out, g.name, err)
			exit = 1
		}
		g.print(w, metrics(out), skipped(out))
	}
	w.Flush()
	stdout.Write(table.Bytes())
	return exit
}

func (g group) argv() []string { return append([]string{"go", "test", "-run", "-"}, g.args...) }

// command is what to type to get the group alone.
func (g group) command() string {
	words := slices.Concat(g.env, g.argv())
	for i, word := range words {
		if strings.ContainsAny(word, "$^") {
			words[i] = "'" + word + "'"
		}
	}
	return strings.Join(words, " ")
}

func (g group) measure() ([]byte, error) {
	argv := append(g.argv(), "-v", "-timeout", "20m")
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), g.env...)
	return cmd.CombinedOutput()
}

// metrics reads what go test prints of benchmarks: a name with the number of processors, a count, then
// pairs of a value and its unit.
func metrics(out []byte) map[string]float64 {
	all := map[string]float64{}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") {
			continue
		}
		name := f[0]
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			if _, err := strconv.Atoi(name[i+1:]); err == nil {
				name = name[:i]
			}
		}
		for i := 2; i+1 < len(f); i += 2 {
			if v, err := strconv.ParseFloat(f[i], 64); err == nil {
				all[name+" "+f[i+1]] = v
			}
		}
	}
	return all
}

// skipped is why a benchmark was left out, if one was.
func skipped(out []byte) string {
	for line := range strings.Lines(string(out)) {
		if _, why, ok := strings.Cut(line, "SKIPPED: "); ok {
			return "skipped: " + strings.TrimSpace(why)
		}
	}
	return "not measured"
}

func (g group) print(w io.Writer, m map[string]float64, missing string) {
	fmt.Fprintf(w, "\t\t\t\n%s\t\t\t\n", g.command())
	for _, f := range g.figures {
		v, ok := m[f.bench+" "+f.unit]
		if !ok {
			fmt.Fprintf(w, "%s\t%s\t\t\n", f.what, missing)
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", f.what, value(v, f.show), f.wanted(), f.ratio(v, m))
	}
}

func value(v float64, unit string) string {
	return strings.TrimSpace(strconv.FormatFloat(v, 'f', decimals(v), 64) + " " + unit)
}

func decimals(v float64) int {
	switch {
	case v == float64(int64(v)):
		return 0
	case v >= 100:
		return 0
	case v >= 10:
		return 1
	}
	return 3
}

func (f figure) wanted() string {
	switch {
	case f.aim == 0:
		return ""
	case f.atMost:
		return "at most " + value(f.aim, f.show)
	}
	return "at least " + value(f.aim, f.show)
}

// ratio compares a value with its aim, or with the figure that it stands beside.
func (f figure) ratio(v float64, m map[string]float64) string {
	switch other := m[f.bench+" "+f.beside]; {
	case f.aim != 0:
		return fmt.Sprintf("%.2f of it", v/f.aim)
	case f.beside != "" && other > 0:
		return fmt.Sprintf("%.2f times that above", v/other)
	}
	return ""
}
