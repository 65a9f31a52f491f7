package main

import (
	"errors"
	"strings"
	"testing"
)

const okIntegrity = `[INFO] [11-21|10:00:00.000] [integrity] starting                     seed=42 sampleRatio=0.01 checks="[Blocks Publishable]"
[INFO] [11-21|10:00:00.000] [integrity] starting                     check=Blocks
[INFO] [11-21|10:00:00.000] [integrity] done                         check=Blocks elapsed=1s
[INFO] [11-21|10:00:00.000] [integrity] starting                     check=Publishable
[INFO] [11-21|10:00:00.000] [integrity] done                         check=Publishable elapsed=1s
[INFO] [11-21|10:00:00.000] [integrity] snapshots are publishable
`

func judgeLines(text string, asked ...string) (lineJudge, error) {
	j := lineJudge{Checks: true}
	for line := range strings.SplitSeq(text, "\n") {
		j.line(line)
	}
	if err := j.err(); err != nil {
		return j, err
	}
	return j, j.passed(asked)
}

func TestJudgeOfIntegrity(t *testing.T) {
	j, err := judgeLines(okIntegrity)
	if err != nil || j.Seed != "42" || len(j.Started) != 2 {
		t.Fatalf("%v %+v", err, j)
	}
	for name, c := range map[string]struct {
		text  string
		asked []string
		want  string
	}{
		"no positive line":      {strings.Replace(okIntegrity, "snapshots are publishable", "snapshots are", 1), nil, "did not say"},
		"a check never ends":    {strings.Replace(okIntegrity, "done                         check=Blocks", "x", 1), nil, "Blocks never ended"},
		"a check never begins":  {strings.Replace(okIntegrity, "starting                     check=Blocks", "x", 1), nil, "never began the check Blocks"},
		"asked and not begun":   {okIntegrity, []string{"StateVerify"}, "never began the check StateVerify"},
		"no checks":             {"[INFO] [11-21|10:00:00.000] [integrity] snapshots are publishable", nil, "began no check"},
		"filtered":              {"[WARN] [11-21|10:00:00.000] [integrity] no checks to run (all filtered out)\n" + okIntegrity, nil, "nothing was checked"},
		"budget of one":         {"[INFO] [11-21|10:00:00.000] [integrity] budget exhausted, moving on check=Blocks\n" + okIntegrity, nil, "--budget"},
		"budget of all":         {okIntegrity + "[INFO] [11-21|10:00:00.000] [integrity] budget exhausted, skipping remaining skipped=3", nil, "skipped=3"},
		"skipped":               {"[INFO] [11-21|10:00:00.000] [integrity] skipping check                check=RCacheNoDups\n" + okIntegrity, nil, "RCacheNoDups"},
		"history is off":        {"[INFO] [11-21|10:00:00.000] CommitmentHistVal: skipped, commitment history is not enabled\n" + okIntegrity, nil, "--skip"},
		"coloured error":        {"\x1b[31m[EROR]\x1b[0m [11-21|10:00:00.000] [integrity]   err=\"Blocks: bad\"\n" + okIntegrity, nil, "Blocks: bad"},
		"a warning of a check":  {"[WARN] [11-21|10:00:00.000] [integrity]                              err=\"Blocks: bad\"\n" + okIntegrity, nil, "only warned of"},
		"panic":                 {okIntegrity + "panic: runtime error: index out of range", nil, "crashed"},
		"the line in a message": {strings.Replace(okIntegrity, "[INFO] [11-21|10:00:00.000] [integrity] snapshots", "[WARN] [11-21|10:00:00.000] no: [integrity] snapshots", 1), nil, "did not say"},
		"lock":                  {"datadir already used by another process", nil, "stop it first"},
	} {
		if _, err := judgeLines(c.text, c.asked...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := judgeLines("[INFO] [11-21|10:00:00.000] BorSpans skipped because not bor chain\n" + okIntegrity); err != nil {
		t.Errorf("no bor chain: %v", err)
	}
	var no *declined
	if _, err := judgeLines("datadir already used by another process"); !errors.As(err, &no) {
		t.Errorf("%v is no refusal", err)
	}
}

// TestLogHints: what a rule knows has a hint in it, or it would never be looked at.
func TestLogHints(t *testing.T) {
	for _, line := range []string{
		"datadir already used by another process", "requested check X not found", "flag provided but not defined: -x", "Error: unknown flag: --x",
		`Error: unknown command "x" for "integration"`, "No help topic for 'x'", "panic: not implemented", "panic: x", "fatal error: x", "SIGSEGV: x", "runtime error: x",
		"goroutine 1 [running]:", "x: no space left on device", "[INFO] Budget exhausted", "[WARN] no checks to run", "all filtered out",
		"x is possibly overlapped by y", "overlap between x", "overlap detected between x", "err: EOF", " (pick number): err: EOF", "MDBX_PANIC", "[EROR] x", "CRIT x",
		"[FATAL] x", "t=1 lvl=eror msg=x", "level=error x", `{"lvl":"crit"}`, `[INFO] [integrity] err="x"`, "[WARN] x",
	} {
		if j := (lineJudge{}); !j.line(line) {
			t.Errorf("%q is not told", line)
		} else if j.err() == nil && line != "[WARN] x" {
			t.Errorf("%q is taken for harmless", line)
		}
	}
}

func TestReadProgress(t *testing.T) {
	for s, want := range map[string][2]int64{
		"[INFO] x progress=12.34%":        {1234, 10000},
		"[INFO] x progress=100.00%":       {10000, 10000},
		`[INFO] x progress="3/17" a=b`:    {3, 17},
		"[INFO] x progress=900%":          {},
		"[INFO] x progress=9/3":           {},
		"[INFO] x inprogress=12% of what": {},
		"progress=99999999999999999999/1": {},
		"progress=1/0":                    {},
	} {
		done, total, ok := readProgress(s)
		if ok != (want[1] != 0) || ok && (done != want[0] || total != want[1]) {
			t.Errorf("%s: %d %d %t", s, done, total, ok)
		}
	}
}

// FuzzLineJudge: any log gives a verdict; no line makes a bad log good; and a log without the positive line never passes.
func FuzzLineJudge(f *testing.F) {
	for _, s := range []string{okIntegrity, "", "panic: x", "\x1b[31m[EROR] x", "progress=1/2", "[INFO] checks=\"[\" check=\"", "err: EOF", "\x00\xff\n\r\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		_, err := judgeLines(s)
		if err == nil && !strings.Contains(s, "snapshots are publishable") {
			t.Errorf("%q passes", s)
		}
		if _, err := judgeLines("panic: x\n" + s + "\n" + okIntegrity); err == nil {
			t.Errorf("%q hides a panic", s)
		}
		if _, err := judgeLines("[INFO] budget exhausted, moving on\n" + s); err == nil {
			t.Errorf("%q hides an exhausted budget", s)
		}
	})
}
