package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestBehaviourIsRead(t *testing.T) {
	for _, tt := range []struct{ name, how, wrong string }{
		{"stall", "once", ""},
		{"stall", "always:5s", ""},
		{"lag", "always:12", ""},
		{"stall", "twice", "once or always"},
		{"stall", "once:soon", "duration"},
		{"lag", "once:-1", "syntax"},
		{"panic-on-term", "once:3s", "takes no argument"},
		{"dance", "once", "exit-mid-compaction"},
	} {
		_, err := parsePairs([]string{tt.name + "=" + tt.how})
		if (err == nil) != (tt.wrong == "") || err != nil && !strings.Contains(err.Error(), tt.wrong) {
			t.Errorf("%s=%s: %v, want %q", tt.name, tt.how, err, tt.wrong)
		}
	}
}

func FuzzBehaviour(f *testing.F) {
	f.Add("stall", "once:5s")
	f.Add("lag", "always:66")
	f.Fuzz(func(t *testing.T, name, how string) {
		b, err := parseBehaviour(name, how)
		if err != nil {
			return
		}
		if d := b.duration(time.Second); b.arg == "" && d != time.Second {
			t.Errorf("%s=%s: %s without an argument", name, how, d)
		}
	})
}

// What is told once happens once, whichever way it was told.
func TestOnce(t *testing.T) {
	for name, given := range map[string][]string{
		"flag": {"--behave", "panic-on-term=once", "--behave", "refuse-start=once"},
		"file": nil,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if name == "file" {
				if err := tell(dir, map[string]string{"panic-on-term": "once", "refuse-start": "once"}); err != nil {
					t.Fatal(err)
				}
			}
			n := launch(t, dir, given...)
			if n.url != "" || n.exit() != exitRefused {
				t.Fatalf("the first start: %q", n.url)
			}
			n = launch(t, dir, given...)
			n.reaches(3)
			if code := n.stop(unix.SIGTERM); code != exitDamaged || n.lastLine() == lastWords {
				t.Errorf("the first stop: exit %d, last line %s", code, n.lastLine())
			}
			log, _ := os.ReadFile(n.log)
			if !strings.Contains(string(log), "goroutine 1 [running]") {
				t.Error("the trace of the panic is not in the log")
			}
			n = launch(t, dir, given...)
			if code := n.stop(unix.SIGTERM); code != 0 || n.lastLine() != lastWords {
				t.Errorf("the second stop: exit %d, last line %s", code, n.lastLine())
			}
			checked(t, filepath.Join(dir, "harmony_db_0"))
		})
	}
}

func TestAlwaysUntilNever(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(behaveEnv, "refuse-start=always")
	for range 2 {
		if n := launch(t, dir); n.url != "" || n.exit() != exitRefused {
			t.Fatal("it started")
		}
	}
	if err := tell(dir, map[string]string{"refuse-start": "never"}); err != nil {
		t.Fatal(err)
	}
	if n := launch(t, dir); n.url == "" {
		t.Errorf("it does not start: %s", n.lastLine())
	}
}

func TestIgnoresTerm(t *testing.T) {
	n := launch(t, t.TempDir(), "--behave", "ignore-term=once:400ms")
	n.reaches(1)
	began := time.Now()
	n.cmd.Process.Signal(unix.SIGTERM)
	head := ask[uint64](t, n.url, "hmyv2_blockNumber")
	n.reaches(head + 2) // it goes on
	if code := n.exit(); code != 0 || time.Since(began) < 400*time.Millisecond {
		t.Errorf("exit %d after %s", code, time.Since(began))
	}

	n = launch(t, t.TempDir(), "--behave", "ignore-term=always")
	until(t, "the node is forced to quit", func() bool { // signals that come at once are one
		n.cmd.Process.Signal(unix.SIGTERM)
		select {
		case <-n.done:
			return true
		default:
			return false
		}
	})
	if code := n.exit(); code != exitRefused {
		t.Errorf("after many signals: exit %d", code)
	}
}

func TestStallLagRotateLie(t *testing.T) {
	dir := t.TempDir()
	n := launch(t, dir)
	n.reaches(80)
	type head struct {
		BlockNumber uint64
		Unixtime    int64
		Leader      string
	}
	say := func(pairs ...string) {
		t.Helper()
		m, err := parsePairs(pairs)
		if err != nil {
			t.Fatal(err)
		}
		if err := tell(dir, m); err != nil {
			t.Fatal(err)
		}
	}
	say("stall=always")
	until(t, "a stall", func() bool {
		log, _ := os.ReadFile(n.log)
		return strings.Contains(string(log), "stalled, as told")
	})
	still := ask[head](t, n.url, "hmyv2_latestHeader").BlockNumber
	say("lag=always:50")
	if got := ask[head](t, n.url, "hmyv2_latestHeader"); got.BlockNumber != still-50 {
		t.Errorf("50 blocks before %d it says %d", still, got.BlockNumber)
	}
	until(t, "inSync false", func() bool { return !ask[bool](t, n.url, "hmyv2_inSync") })
	if s := ask[map[string]uint64](t, n.url, "hmyv2_syncing"); s["currentBlock"] != still-50 || s["highestBlock"] < still {
		t.Errorf("syncing: %v", s)
	}
	say("lie-in-sync=always")
	if !ask[bool](t, n.url, "hmyv2_inSync") || ask[bool](t, n.url, "hmyv2_syncing") {
		t.Error("it does not lie")
	}
	say("stall=never", "lag=never", "rotate=always:50ms")
	n.reaches(still + 1)
	seen := map[bool]bool{}
	until(t, "leadership that comes and goes", func() bool {
		seen[ask[struct {
			L bool `json:"is-leader"`
		}](t, n.url, "hmyv2_getNodeMetadata").L] = true
		return len(seen) == 2
	})
}

func TestSlowStartAndDeath(t *testing.T) {
	began := time.Now()
	n := launch(t, t.TempDir(), "--behave", "slow-start=once:300ms", "--behave", "die=once:1ms")
	if time.Since(began) < 300*time.Millisecond {
		t.Errorf("it answered after %s", time.Since(began))
	}
	if code := n.exit(); code != exitDamaged {
		t.Errorf("it died with exit %d", code)
	}
}

// named returns the numbers of the tables that the manifest of a copied database names.
func named(t *testing.T, db string) map[string]bool {
	t.Helper()
	s, err := openStore(db, storeOptions{ReadOnly: true, MustExist: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	list, err := s.GetProperty("leveldb.sstables")
	if err != nil {
		t.Fatal(err)
	}
	live := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^(\d+):\d+\[`).FindAllStringSubmatch(list, -1) {
		live[fmt.Sprintf("%06s.ldb", m[1])] = true
	}
	return live
}

// An exit 0 in the middle of a compaction leaves tables that the manifest does not name, and the next start
// writes into some of them: who links every *.ldb has a copy that changes.
func TestExitMidCompaction(t *testing.T) {
	const trials = 6
	left, changed := 0, 0
	dir := t.TempDir()
	db := filepath.Join(dir, "harmony_db_0")
	args := []string{"--write-buffer", "65536", "--table-size", "32768", "--look-back", "5"}
	for range trials {
		n := launch(t, dir, append(args, "--behave", "exit-mid-compaction=always")...)
		n.reaches(1)
		if code := n.stop(unix.SIGTERM); code != 0 || n.lastLine() != lastWords {
			t.Fatalf("exit %d, last line %s", code, n.lastLine())
		}
		live := named(t, copyDir(t, db))
		tables, err := filepath.Glob(filepath.Join(db, "*.ldb"))
		if err != nil {
			t.Fatal(err)
		}
		links, sums, unnamed := t.TempDir(), map[string][32]byte{}, 0
		for _, path := range tables {
			name := filepath.Base(path)
			if err := os.Link(path, filepath.Join(links, name)); err != nil {
				t.Fatal(err)
			}
			b, _ := os.ReadFile(path)
			sums[name] = sha256.Sum256(b)
			if !live[name] {
				unnamed++
			}
		}
		if unnamed > 0 {
			left++
		}
		n = launch(t, dir, append(args, "--state-bytes", "65536")...)
		n.reaches(ask[uint64](t, n.url, "hmyv2_blockNumber") + 5)
		n.stop(unix.SIGTERM)
		rewritten := false
		for name, was := range sums {
			b, _ := os.ReadFile(filepath.Join(links, name))
			if sha256.Sum256(b) == was {
				continue
			}
			rewritten = true
			if live[name] {
				t.Errorf("%s is named by the manifest and was changed", name)
			}
		}
		if rewritten {
			changed++
		}
	}
	t.Logf("%d of %d exits left tables that the manifest does not name; the next start rewrote linked ones in %d", left, trials, changed)
	if left == 0 {
		t.Error("no exit happened in the middle of a compaction")
	}
	if changed == 0 {
		t.Error("no table's number was used again")
	}
	checked(t, copyDir(t, db))
}
