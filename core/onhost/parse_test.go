//go:build linux

package onhost

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseProgress(t *testing.T) {
	for line, want := range map[string]bool{
		`{"done":1,"total":2}`: true, ` {"total":2,"done":0} ` + "\n": true, `{"done":5}`: true,
		`{"done":1,"total":2,"x":3}`: false, `{"total":2}`: false, `{}`: false, `{"done":1}{"done":2}`: false,
		`{"done":"1"}`: false, `done`: false, ``: false, `{"done":1} x`: false,
	} {
		if _, ok := parseProgress([]byte(line)); ok != want {
			t.Errorf("%q: %v", line, ok)
		}
	}
}

func FuzzParseProgress(f *testing.F) {
	f.Add([]byte(`{"done":1,"total":2}`))
	f.Add([]byte(`{"done":1e99}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		if _, ok := parseProgress(line); ok && !strings.Contains(strings.ToLower(string(line)), "done") && !strings.Contains(string(line), `\u`) {
			t.Errorf("%q is no progress", line)
		}
	})
}

func FuzzParseStat(f *testing.F) {
	f.Add("12 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20")
	f.Add(")")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		start, state, err := parseStat(s)
		if err == nil && state == 0 || err != nil && start != 0 {
			t.Errorf("%q: %d %q %v", s, start, state, err)
		}
	})
}

func TestParseStat(t *testing.T) {
	start, state, err := parseStat("12 (a) b) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20")
	if start != 777 || state != 'R' || err != nil {
		t.Errorf("%d %q %v", start, state, err)
	}
}

func FuzzJobDir(f *testing.F) {
	for _, s := range []string{"a/b/c/1", "../b/c/1", "a/b/c/1/", "a//c/1", "a/b/c/..", "a/b/\x00/1", strings.Repeat("a", 129) + "/b/c/1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, id string) {
		dir, err := jobDir("/root", id)
		if err != nil {
			return
		}
		if dir != "/root/jobs/"+id || filepath.Clean(dir) != dir || strings.Count(id, "/") != 3 {
			t.Errorf("%q becomes %q", id, dir)
		}
	})
}

func FuzzWithLine(f *testing.F) {
	f.Add("a\nb # snapfw guard k\nc", "@reboot x # snapfw guard k")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, text, line string) {
		if strings.Contains(line, "\n") {
			return
		}
		const mark = "# snapfw guard k"
		once := withLine(text, mark, line)
		if twice := withLine(once, mark, line); strings.HasSuffix(line, mark) && twice != once {
			t.Errorf("%q, again %q", once, twice)
		}
		gone := withLine(text, mark, "")
		for l := range strings.Lines(text) {
			if l = strings.TrimRight(l, "\n"); !strings.HasSuffix(l, mark) && !strings.Contains(gone, l) {
				t.Errorf("line %q was lost", l)
			}
		}
	})
}

func TestGrowing(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	g := growing{f: f}
	var got []string
	each := func(line []byte) { got = append(got, string(line)) }
	for _, s := range []string{"a\nb", "c\n\x00\x00d\n", "e"} {
		f.WriteString(s)
		g.read(false, each)
	}
	g.read(true, each)
	if strings.Join(got, "|") != "a\n|bc\n|d\n|e" {
		t.Errorf("%q", got)
	}
	got = nil
	f.WriteString(strings.Repeat("x", 3*maxLine+5))
	g.read(true, each)
	if joined := strings.Join(got, ""); len(joined) != 3*maxLine+5 || len(got) < 4 {
		t.Errorf("%d bytes in %d pieces", len(joined), len(got))
	}
}

// TestSmall keeps the binary what it has to be: static, small, of the standard library and x/sys.
func TestSmall(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "github.com/snapfw/snapfw/cmd/snapfw-host").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range strings.Fields(string(out)) {
		switch {
		case strings.HasPrefix(p, "golang.org/x/sys/"):
		case p == "github.com/snapfw/snapfw/core" || p == "github.com/snapfw/snapfw/core/capture":
		case p == "github.com/snapfw/snapfw/core/onhost" || p == "github.com/snapfw/snapfw/cmd/snapfw-host":
		default:
			t.Errorf("it imports %s", p)
		}
	}
	fi, err := os.Stat(binary)
	if err != nil || fi.Size() > 10<<20 {
		t.Errorf("%v, %v: more than 10 MiB", fi, err)
	}
	if out, err := exec.Command("go", "version", "-m", binary).Output(); err != nil || !strings.Contains(string(out), "CGO_ENABLED=0") {
		t.Errorf("it is not static: %s, %v", out, err)
	}
}

func TestKillsProcesses(t *testing.T) {
	for _, c := range []struct {
		text      string
		kills, ok bool
	}{
		{"b true\nas 1 \"root\"\nas 0\n", true, true},
		{"b false\nas 1 \"root\"\nas 0\n", false, true},
		{"b true\nas 2 \"root\" \"ops\"\nas 0\n", false, true},
		{"b true\nas 0\nas 1 \"others\"\n", false, true},
		{"b true\nas 0\nas 1 \"ops\"\n", true, true},
		{"b true\nas 2 \"root\"\nas 0\n", false, false},
		{"b maybe\nas 0\nas 0\n", false, false},
		{"", false, false},
	} {
		if kills, ok := killsProcesses(c.text, "ops"); kills != c.kills || ok != c.ok {
			t.Errorf("%q: %t, %t", c.text, kills, ok)
		}
	}
}
