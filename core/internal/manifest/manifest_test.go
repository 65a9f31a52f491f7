package manifest

import (
	"bytes"
	"flag"
	"fmt"
	"iter"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapfw/snapfw/core"
)

var update = flag.Bool("update", false, "write the golden files")

var noon = time.Date(2025, 11, 21, 12, 0, 0, 0, time.UTC)

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got; -update writes it):\n%s", name, diff)
	}
}

func entry(name, content string) core.Entry {
	return core.Entry{Name: name, Size: int64(len(content)), Sums: map[string]string{"sha256": SHA256([]byte(content))}}
}

func sample() Manifest {
	m := Manifest{
		Chain: "chain", Node: "shard0", Run: "20251121-120000-chain", Intent: "snapshot",
		Prefix: "full/0/db_0.25-11-21-11-58-00.57120331", Height: 57120331, Hash: "0x" + strings.Repeat("ab", 32),
		NodeVersion: "v2025.1.0 <b>", Facts: map[string]string{"epoch": "2201"},
		Taken: noon.Add(-2 * time.Minute), DownSeconds: 1.25, Method: "link",
	}
	m.Fill([]core.Entry{entry("MANIFEST-000004", "m"), entry("000005.ldb", "table"), entry("sub/CURRENT", "c&<\u2028")})
	return m
}

func TestManifestRoundTrip(t *testing.T) {
	m := sample()
	body, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "manifest.json", body)
	back, err := Parse(body)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, back); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
	empty := sample()
	empty.Fill(nil)
	body, err = empty.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if back, err = Parse(body); err != nil || len(back.Entries) != 0 {
		t.Errorf("no entries: %v, %v", back.Entries, err)
	}
}

func TestManifestRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*Manifest)
		want  string
	}{
		"newer version":     {func(m *Manifest) { m.Version = 2 }, "use a newer one"},
		"no version":        {func(m *Manifest) { m.Version = 0 }, "version 0"},
		"prefix up":         {func(m *Manifest) { m.Prefix = "../x" }, "clean relative"},
		"files":             {func(m *Manifest) { m.Files++ }, "holds 3"},
		"bytes":             {func(m *Manifest) { m.Bytes-- }, "says 3 files"},
		"unsorted":          {func(m *Manifest) { m.Entries[0], m.Entries[1] = m.Entries[1], m.Entries[0] }, "not sorted"},
		"twice":             {func(m *Manifest) { m.Fill(append(m.Entries, m.Entries[0])) }, "twice"},
		"file and folder":   {func(m *Manifest) { m.Fill(append(m.Entries, entry("sub", ""))) }, "a folder"},
		"traversal":         {func(m *Manifest) { m.Fill([]core.Entry{entry("../etc/passwd", "")}) }, "clean relative"},
		"absolute":          {func(m *Manifest) { m.Fill([]core.Entry{entry("/etc/passwd", "")}) }, "clean relative"},
		"newline":           {func(m *Manifest) { m.Fill([]core.Entry{entry("a\nb", "")}) }, "control characters"},
		"backslash":         {func(m *Manifest) { m.Fill([]core.Entry{entry(`a\..\b`, "")}) }, "backslashes"},
		"own name":          {func(m *Manifest) { m.Fill([]core.Entry{entry("manifest.json", "")}) }, "belongs to snapfw"},
		"negative size":     {func(m *Manifest) { m.Entries[0].Size = -1 }, "size -1"},
		"sizes overflow":    {func(m *Manifest) { m.Entries[0].Size, m.Entries[1].Size = math.MaxInt64, 5 }, "add up"},
		"no sum":            {func(m *Manifest) { m.Entries[0].Sums = nil }, "no sha256"},
		"short sum":         {func(m *Manifest) { m.Entries[0].Sums["sha256"] = "abcd" }, "64 digits"},
		"upper-case sum":    {func(m *Manifest) { m.Entries[0].Sums["sha256"] = strings.Repeat("A", 64) }, "lower-case"},
		"strange algorithm": {func(m *Manifest) { m.Entries[0].Sums["a b"] = "00" }, "algorithm"},
		"hash":              {func(m *Manifest) { m.Hash = "0xZZ" }, "hash"},
		"line in a reason":  {func(m *Manifest) { m.Forced = "a\nb" }, "line of text"},
		"escape in a fact":  {func(m *Manifest) { m.Facts["x"] = "\x1b[2J" }, "line of text"},
		"never taken":       {func(m *Manifest) { m.Taken = time.Time{} }, "taken is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			m := sample()
			c.spoil(&m)
			if _, err := m.Encode(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("encode: %v, want %q", err, c.want)
			}
		})
	}
	for name, body := range map[string]string{
		"empty": "", "rubbish": "{", "two values": "{} {}", "a list": "[]", "null": "null",
		"height": `{"version":1,"height":-1}`, "page": "<html>not found</html>",
	} {
		if m, err := Parse([]byte(body)); err == nil {
			t.Errorf("%s: read as %+v", name, m)
		}
	}
	if _, err := Parse(make([]byte, MaxManifest+1)); err == nil || !strings.Contains(err.Error(), "are the most") {
		t.Errorf("too long: %v", err)
	}
}

func TestReadEntries(t *testing.T) {
	good := `{"name":"b","size":1,"sums":{"sha256":"` + strings.Repeat("0", 64) + `"}}`
	entries, err := ReadEntries(strings.NewReader(good + "\n\n" + strings.Replace(good, `"b"`, `"a"`, 1)))
	if err != nil || len(entries) != 2 || entries[1].Name != "a" {
		t.Fatalf("%v, %v", entries, err)
	}
	for name, text := range map[string]string{
		"empty":     "",
		"torn tail": good + "\n" + good[:20],
		"twice":     good + "\n" + good,
		"hostile":   strings.Replace(good, `"b"`, `"../b"`, 1),
		"no sum":    `{"name":"b","size":1}`,
		"long line": strings.Repeat(" ", 70<<10),
	} {
		if got, err := ReadEntries(strings.NewReader(text)); err == nil {
			t.Errorf("%s: read as %v", name, got)
		}
	}
}

func TestSumsAgainstSha256sum(t *testing.T) {
	dir := t.TempDir()
	var entries []core.Entry
	for i, name := range []string{"000001.ldb", "with space", "-dash", "sub/ünïcode", "*star", "# hash"} {
		content := strings.Repeat("x", i)
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		entries = append(entries, entry(name, content))
	}
	body, err := Sums(entries)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, SumsFile), body, 0o644); err != nil {
		t.Fatal(err)
	}
	check := exec.Command("sha256sum", "--strict", "-c", SumsFile)
	check.Dir = dir
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("sha256sum -c: %v\n%s", err, out)
	}
	sums, err := ReadSums(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if sums[e.Name] != e.Sums["sha256"] {
			t.Errorf("%s: %q", e.Name, sums[e.Name])
		}
	}
	sum := strings.Repeat("0", 64)
	for _, text := range []string{"x", sum + " a", sum + "  ", sum + "  ../a", sum + "  a\n" + sum + " *a", `\` + sum + "  a", strings.Repeat("g", 64) + "  a"} {
		if got, err := ReadSums(strings.NewReader(text)); err == nil {
			t.Errorf("%q: read as %v", text, got)
		}
	}
}

func TestSame(t *testing.T) {
	var before Manifest
	before.Fill([]core.Entry{entry("same", "1"), entry("changed", "1"), entry("longer", "1"), entry("gone", "1")})
	now := []core.Entry{entry("changed", "2"), entry("same", "1"), entry("longer", "11"), entry("new", "1")}
	uploads := Same(before, now)
	for _, u := range uploads {
		if u.Previous != (u.Name == "same") {
			t.Errorf("%s: previous %v", u.Name, u.Previous)
		}
	}
	if got, want := Sum(uploads), (Work{NewFiles: 3, CopiedFiles: 1, NewBytes: 4, CopiedBytes: 1}); got != want {
		t.Errorf("work %+v, want %+v", got, want)
	}
	for _, u := range Same(Manifest{}, now) {
		if u.Previous {
			t.Errorf("%s: no previous manifest holds it", u.Name)
		}
	}
	var b bytes.Buffer
	if err := WriteUploads(&b, uploads[1:2]); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("{\"name\":\"same\",\"size\":1,\"sums\":{\"sha256\":%q},\"previous\":true}\n", SHA256([]byte("1")))
	if b.String() != want {
		t.Errorf("line %s, want %s", b.String(), want)
	}
}

func listed(objects ...core.Object) iter.Seq2[core.Object, error] {
	return func(yield func(core.Object, error) bool) {
		for _, o := range objects {
			if !yield(o, nil) {
				return
			}
		}
	}
}

func TestArrived(t *testing.T) {
	entries := []core.Entry{entry("a", "1"), entry("b", "22")}
	whole := []core.Object{{Key: "p/a", Size: 1}, {Key: "p/b", Size: 2, Sums: map[string]string{"sha256": SHA256([]byte("22"))}}, {Key: "p/manifest.json", Size: 9}}
	if err := Arrived("p", entries, listed(whole...)); err != nil {
		t.Error(err)
	}
	for want, objects := range map[string][]core.Object{
		"b is missing":          whole[:1],
		"a has 3 bytes instead": {{Key: "p/a", Size: 3}, whole[1]},
		"b has another sha256":  {whole[0], {Key: "p/b", Size: 2, Sums: map[string]string{"sha256": "00"}}},
	} {
		if err := Arrived("p", entries, listed(objects...)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	many := make([]core.Entry, 9)
	for i := range many {
		many[i] = entry(fmt.Sprint(i), "")
	}
	if err := Arrived("p", many, listed()); err == nil || !strings.Contains(err.Error(), "and 4 more") {
		t.Error(err)
	}
	broken := func(yield func(core.Object, error) bool) { yield(core.Object{}, os.ErrDeadlineExceeded) }
	if err := Arrived("p", entries, broken); err == nil || !strings.Contains(err.Error(), "list p") {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	body, _ := sample().Encode()
	f.Add(body)
	f.Add([]byte(`{"version":1,"prefix":"..","taken":"2025-01-01T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := Parse(body)
		if err != nil {
			return
		}
		again, err := m.Encode()
		if err != nil {
			t.Fatalf("read but not written: %v", err)
		}
		if _, err := Parse(again); err != nil {
			t.Fatalf("written but not read: %v\n%s", err, again)
		}
		for _, e := range m.Entries {
			if !filepath.IsLocal(e.Name) {
				t.Fatalf("name %q leaves its folder", e.Name)
			}
		}
	})
}

func FuzzReadSums(f *testing.F) {
	f.Add(strings.Repeat("0", 64) + "  a\n" + strings.Repeat("a", 64) + " *b/c\n")
	f.Fuzz(func(t *testing.T, text string) {
		sums, err := ReadSums(strings.NewReader(text))
		if err != nil {
			return
		}
		for name, sum := range sums {
			if !filepath.IsLocal(name) || len(sum) != 64 {
				t.Fatalf("%q: %q", name, sum)
			}
		}
	})
}

func FuzzReadEntries(f *testing.F) {
	f.Add(`{"name":"b","size":1,"sums":{"sha256":"` + strings.Repeat("0", 64) + `"}}`)
	f.Fuzz(func(t *testing.T, text string) {
		entries, err := ReadEntries(strings.NewReader(text))
		if err != nil {
			return
		}
		m := sample()
		m.Fill(entries)
		if _, err := m.Encode(); err != nil {
			t.Fatalf("entries that no manifest takes: %v", err)
		}
	})
}
