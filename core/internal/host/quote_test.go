package host

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
)

var awkward = []string{"", "a", "a b", "'", "''", `\`, `\\'`, `'\''`, "$HOME", "`id`", "$(id)", "a\nb", "\n", "*", "~", "-n", "a=b",
	"!x", "\x01\xff\xfe", "\"", "é", "#", "a'b\\c\"d$e`f", ";", "&", "|", "{a,b}", "[a]", "%1", "@x", "^a", "\r\n", "\t"}

func TestQuoteAgainstShells(t *testing.T) {
	tried := 0
	for _, shell := range []string{"sh", "bash", "dash", "zsh", "fish", "busybox"} {
		path, err := exec.LookPath(shell)
		if err != nil {
			continue
		}
		tried++
		argv := append([]string{"printf", `%s\0`}, awkward...)
		line, err := shellLine(argv)
		if err != nil {
			t.Fatal(err)
		}
		words := []string{"-c", line}
		if shell == "busybox" {
			words = append([]string{"sh"}, words...)
		}
		out, err := exec.Command(path, words...).Output()
		if err != nil {
			t.Fatalf("%s: %v", shell, err)
		}
		got := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
		if len(got) != len(awkward) {
			t.Fatalf("%s: %d words became %d: %q", shell, len(awkward), len(got), got)
		}
		for i := range got {
			if got[i] != awkward[i] {
				t.Errorf("%s: %q became %q", shell, awkward[i], got[i])
			}
		}
	}
	if tried == 0 {
		t.Fatal("there is no shell on this machine")
	}
	t.Logf("tried %d shells", tried)
}

func TestShellLineRefuses(t *testing.T) {
	for name, argv := range map[string][]string{
		"nothing": nil, "empty": {""}, "NUL": {"a", "b\x00c"}, "too long": {"a", strings.Repeat("x", maxLine)},
	} {
		if line, err := shellLine(argv); err == nil {
			t.Errorf("%s became a line of %d bytes", name, len(line))
		}
	}
}

// FuzzQuote compares with what a real sh makes of it.
func FuzzQuote(f *testing.F) {
	for _, w := range awkward {
		f.Add(w)
	}
	f.Fuzz(func(t *testing.T, word string) {
		if strings.IndexByte(word, 0) >= 0 || len(word) > 1000 {
			t.Skip()
		}
		out, err := exec.Command("/bin/sh", "-c", "printf %s "+quote(word)+"x").Output()
		if err != nil {
			t.Fatalf("%q: %v", word, err)
		}
		if !bytes.Equal(out, []byte(word+"x")) {
			t.Fatalf("%q became %q", word, out)
		}
	})
}

// FuzzReadProbe: whatever a machine answers, what is taken of it is sound.
func FuzzReadProbe(f *testing.F) {
	f.Add([]byte("snapfw-probe\nLinux x86_64\n0\nroot\n/root\n\n1 /var/lib/snapfw\n\n0 /tmp/x\nbelongs to somebody else\n"))
	f.Add([]byte("hello\nsnapfw-probe\n"))
	f.Add([]byte("snapfw-probe\nLinux x86_64\n-1\nroot\n/root\n\n"))
	f.Add([]byte("snapfw-probe\nLinux x86_64\n0\n-u\n/root\n\n3 relative\n\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		p, err := readProbe(out)
		if err != nil {
			return
		}
		if p.uid < 0 || !userName.MatchString(p.user) || p.home[0] != '/' || len(p.roots) > 8 {
			t.Fatalf("unsound: %+v", p)
		}
		for _, c := range p.roots {
			if c.path[0] != '/' || strings.Contains(c.path, "/../") || c.state < rootUnfit || c.state > rootReady {
				t.Fatalf("unsound root: %+v", c)
			}
		}
	})
}

// FuzzReports: lines of "job run" in any pieces.
func FuzzReports(f *testing.F) {
	f.Add([]byte("{\"Progress\":{\"done\":1,\"total\":2}}\n{\"Done\":{\"ID\":\"a\",\"Exit\":3}}\n"), 3)
	f.Add([]byte("rubbish\n"), 1)
	f.Add([]byte("{\"Done\":null}\n\n"), 2)
	f.Fuzz(func(t *testing.T, text []byte, piece int) {
		if piece < 1 {
			piece = 1
		}
		whole, parts := &reports{cancel: func(error) {}}, &reports{cancel: func(error) {}}
		whole.Write(text)
		for rest := text; len(rest) > 0; {
			n := min(piece, len(rest))
			parts.Write(rest[:n])
			rest = rest[n:]
		}
		a, aerr := whole.end()
		b, berr := parts.end()
		if (a == nil) != (b == nil) || (aerr == nil) != (berr == nil) || a != nil && a.Exit != b.Exit {
			t.Fatalf("in one piece: %+v %v, in pieces of %d: %+v %v", a, aerr, piece, b, berr)
		}
	})
}
