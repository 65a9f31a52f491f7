package manifest

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/snapfw/snapfw/core"
)

func taken(days int) Manifest {
	m := sample()
	m.Taken = noon.AddDate(0, 0, -days)
	m.Prefix = "full/0/db_0." + m.Taken.Format("06-01-02-15-04-05")
	m.Height -= uint64(days) * 43_200
	return m
}

func encoded(t *testing.T, m Manifest) []byte {
	t.Helper()
	body, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func TestPointer(t *testing.T) {
	var p Pointer
	for _, days := range []int{2, 1, 0, 0} { // the newest twice, as a resumed run does
		m := taken(days)
		p = p.Next(m, encoded(t, m), noon.AddDate(0, 0, -days).Add(time.Minute))
	}
	body, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "latest.json", body)
	back, err := ParsePointer(body)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(p, back); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
	if len(p.Previous) != 2 || p.SHA256 != SHA256(encoded(t, taken(0))) {
		t.Errorf("previous %v, sum %s", p.Previous, p.SHA256)
	}
	if less := p.Without(taken(2).Prefix); len(less.Previous) != 1 || less.Previous[0].Prefix != taken(1).Prefix || len(p.Previous) != 2 {
		t.Errorf("without the oldest: %v", less.Previous)
	}
	for name, c := range map[string]struct {
		spoil func(*Pointer)
		want  string
	}{
		"manifest elsewhere": {func(p *Pointer) { p.Manifest = "other/manifest.json" }, "not in"},
		"manifest up":        {func(p *Pointer) { p.Manifest = "../manifest.json" }, "clean relative"},
		"prefix":             {func(p *Pointer) { p.Prefix = "" }, "empty name"},
		"sum":                {func(p *Pointer) { p.SHA256 = "" }, "lower-case hex"},
		"version":            {func(p *Pointer) { p.Version = 9 }, "newer"},
		"itself before it":   {func(p *Pointer) { p.Previous = []Snapshot{p.Snapshot} }, "twice"},
		"bytes":              {func(p *Pointer) { p.Bytes = -1 }, "negative"},
		"node":               {func(p *Pointer) { p.Node = "\x00" }, "line of text"},
	} {
		spoiled := p
		c.spoil(&spoiled)
		if _, err := spoiled.Encode(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := ParsePointer(make([]byte, MaxPointer+1)); err == nil {
		t.Error("a pointer of 1 MiB and more was read")
	}
}

func TestMark(t *testing.T) {
	body, err := EncodeMark("run-1", noon)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "incomplete.json", body)
}

func TestIndex(t *testing.T) {
	var zero, one Pointer
	for _, days := range []int{9, 2, 0} {
		m := taken(days)
		zero = zero.Next(m, encoded(t, m), noon)
	}
	zero.Bytes = 1_534_000_000_000
	m := taken(1)
	m.Node, m.Prefix, m.Hash = "shard1", "full/1/db_1:x?#%", ""
	one = one.Next(m, encoded(t, m), noon)
	x := NewIndex(map[string]Pointer{"full/1/latest.json": one, "full/0/latest.json": zero}, noon)
	body, err := x.Encode()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "index.json", body)
	back, err := ParseIndex(body)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(x, back); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
	html, err := x.HTML("chain <testnet>")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "index.html", html)
	for _, want := range []string{"chain &lt;testnet&gt;", "v2025.1.0 &lt;b&gt;", `href="./full/1/db_1:x%3F%23%25/manifest.json"`, "1.4 TiB", "57,120,331", "1 day before"} {
		if !strings.Contains(string(html), want) {
			t.Errorf("index.html lacks %q", want)
		}
	}
	if strings.Contains(string(html), "<script") || strings.Contains(string(html), "ZgotmplZ") {
		t.Error("index.html holds a script or something the template refused")
	}
	empty, err := NewIndex(nil, noon).HTML("nothing")
	if err != nil || !strings.Contains(string(empty), "no snapshots yet") {
		t.Errorf("empty index: %v", err)
	}
	for _, text := range []string{"", "{}", `{"version":2}`, `{"version":1,"series":[{"key":"../x"}]}`} {
		if _, err := ParseIndex([]byte(text)); err == nil {
			t.Errorf("%q was read as an index", text)
		}
	}
}

func TestForPeople(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1 << 20: "1.0 MiB", 1<<20 - 1: "1.0 MiB", 1 << 62: "4.0 EiB", 1_534_000_000_000: "1.4 TiB"} {
		if got := Size(n); got != want {
			t.Errorf("Size(%d) = %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{-time.Hour: "less than a minute", time.Second: "less than a minute", time.Minute: "1 minute", 125 * time.Minute: "2 hours", 49 * time.Hour: "2 days", 800 * 24 * time.Hour: "2 years"} {
		if got := Age(d); got != want {
			t.Errorf("Age(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestSeries(t *testing.T) {
	old, new := noon.AddDate(0, 0, -3), noon
	objects := []core.Object{
		{Key: "full/0/latest.json", Size: 5, Modified: new},
		{Key: "full/0/a/1.ldb", Size: 10, Modified: old},
		{Key: "full/0/a/manifest.json", Size: 2, Modified: old.Add(time.Minute)},
		{Key: "full/0/a/sub/2", Size: 1, Modified: old},
		{Key: "full/0/b/1.ldb", Size: 4, Modified: new},
		{Key: "full/0/b/incomplete.json", Size: 1, Modified: old},
		{Key: "full/0/b/sub/manifest.json", Size: 1, Modified: old}, // a file of the snapshot, not its manifest
		{Key: "full/0/theirs/1.ldb", Size: 4, Modified: old},
		{Key: "full/0/../x/1", Size: 4, Modified: old},
		{Key: "full/1/a/1.ldb", Size: 4, Modified: old},
	}
	p := Pointer{Snapshot: Snapshot{Prefix: "full/0/theirs", Taken: old.AddDate(0, 0, -1)}}
	got, err := Series("full/0", listed(objects...), p)
	if err != nil {
		t.Fatal(err)
	}
	want := []Stored{
		{Prefix: "full/0/b", Marked: true, Taken: new, Newest: new, Files: 3, Bytes: 6, Keys: []string{"full/0/b/1.ldb", "full/0/b/incomplete.json", "full/0/b/sub/manifest.json"}},
		{Prefix: "full/0/a", Whole: true, Taken: old.Add(time.Minute), Newest: old.Add(time.Minute), Files: 3, Bytes: 13, Keys: []string{"full/0/a/manifest.json", "full/0/a/1.ldb", "full/0/a/sub/2"}},
		{Prefix: "full/0/theirs", Taken: old.AddDate(0, 0, -1), Newest: old, Files: 1, Bytes: 4, Keys: []string{"full/0/theirs/1.ldb"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("series (-want +got):\n%s", diff)
	}
	if got, err := Series(".", listed(core.Object{Key: "latest.json"}, core.Object{Key: "a/x", Modified: old}), Pointer{}); err != nil || len(got) != 1 || got[0].Prefix != "a" {
		t.Errorf("a series at the top: %v, %v", got, err)
	}
	broken := func(yield func(core.Object, error) bool) { yield(core.Object{}, os.ErrPermission) }
	if _, err := Series("full/0", broken, p); err == nil {
		t.Error("a list that broke off made a series")
	}
}

func TestPrune(t *testing.T) {
	day := 24 * time.Hour
	whole := func(name string, days int) Stored {
		at := noon.AddDate(0, 0, -days)
		return Stored{Prefix: "s/" + name, Whole: true, Taken: at, Newest: at}
	}
	marked := func(name string, age time.Duration, hasManifest bool) Stored {
		return Stored{Prefix: "s/" + name, Marked: true, Whole: hasManifest, Taken: noon.Add(-age), Newest: noon.Add(-age)}
	}
	foreign := Stored{Prefix: "s/foreign", Taken: noon.AddDate(-1, 0, 0), Newest: noon.AddDate(-1, 0, 0)}
	five := []Stored{whole("d2", 2), whole("d0", 0), whole("d4", 4), whole("d1", 1), whole("d3", 3)}
	for name, c := range map[string]struct {
		series    []Stored
		policy    Policy
		published string
		previous  []string
		want      []string
	}{
		"no limits":                       {series: five, published: "d0"},
		"count":                           {series: five, policy: Policy{Count: 3}, published: "d0", want: []string{"d4", "d3"}},
		"count of one":                    {series: five, policy: Policy{Count: 1}, published: "d0", want: []string{"d4", "d3", "d2", "d1"}},
		"the published one is not newest": {series: five, policy: Policy{Count: 2}, published: "d4", want: []string{"d3", "d2", "d1"}},
		"age":                             {series: five, policy: Policy{Age: 60 * time.Hour}, published: "d0", want: []string{"d4", "d3"}},
		"age never takes the last one":    {series: []Stored{whole("d90", 90), whole("d91", 91)}, policy: Policy{Age: day}, published: "d90", want: []string{"d91"}},
		"count and age":                   {series: five, policy: Policy{Count: 4, Age: 36 * time.Hour}, published: "d0", want: []string{"d4", "d3", "d2"}},
		"nothing is published":            {series: append(five[:5:5], marked("m", 2*day, false)), policy: Policy{Count: 1, Age: time.Hour}, want: []string{"m"}},
		"pins do not count":               {series: five, policy: Policy{Count: 2, Pins: []string{"d3"}}, published: "d0", want: []string{"d4", "d2"}},
		"pinned by pattern":               {series: five, policy: Policy{Count: 1, Pins: []string{"s/d[34]", "d2*"}}, published: "d0", want: []string{"d1"}},
		"a pin that is no pattern":        {series: five, policy: Policy{Count: 1, Pins: []string{"["}}, published: "d0", want: []string{"d4", "d3", "d2", "d1"}},
		"held":                            {series: append(five[:5:5], marked("m", 9*day, false)), policy: Policy{Count: 1, Held: []string{"s/m", "s/d1"}}, published: "d0", want: []string{"d4", "d3", "d2"}},
		"leftovers":                       {series: append(five[:5:5], marked("old", 25*time.Hour, false), marked("young", 23*time.Hour, false), marked("unpromoted", 48*time.Hour, true)), published: "d0", want: []string{"unpromoted", "old"}},
		"leftovers' grace":                {series: append(five[:5:5], marked("m", 2*time.Hour, false)), policy: Policy{Grace: time.Hour}, published: "d0", want: []string{"m"}},
		"marked but published":            {series: []Stored{marked("m", 9*day, true)}, policy: Policy{Count: 1, Age: day}, published: "m"},
		"marked but published before":     {series: append(five[:2:2], marked("m", 9*day, true)), policy: Policy{}, published: "d0", previous: []string{"m"}},
		"not ours":                        {series: append(five[:5:5], foreign), policy: Policy{Count: 1, Age: time.Hour}, published: "d0", want: []string{"d4", "d3", "d2", "d1"}},
	} {
		t.Run(name, func(t *testing.T) {
			var p Pointer
			if c.published != "" {
				p.Prefix = "s/" + c.published
			}
			for _, s := range c.previous {
				p.Previous = append(p.Previous, Snapshot{Prefix: "s/" + s})
			}
			before := slices.Clone(c.series)
			var got []string
			for _, s := range Prune(c.series, c.policy, p, noon) {
				got = append(got, strings.TrimPrefix(s.Prefix, "s/"))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("dropped (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(before, c.series); diff != "" {
				t.Errorf("the caller's series changed:\n%s", diff)
			}
		})
	}
	for name, p := range map[string]Policy{"count": {Count: -1}, "age": {Age: -1}, "pin": {Pins: []string{"["}}} {
		if p.Check() == nil {
			t.Errorf("%s: %+v is taken", name, p)
		}
	}
	if err := (Policy{Count: 7, Age: day, Pins: []string{"*.57*"}}).Check(); err != nil {
		t.Error(err)
	}
}

func FuzzParsePointer(f *testing.F) {
	m := sample()
	body, _ := Pointer{}.Next(m, []byte("x"), noon).Encode()
	f.Add(body)
	f.Fuzz(func(t *testing.T, body []byte) {
		p, err := ParsePointer(body)
		if err != nil {
			return
		}
		if _, err := p.Encode(); err != nil {
			t.Fatalf("read but not written: %v", err)
		}
		x := NewIndex(map[string]Pointer{"latest.json": p}, noon)
		html, err := x.HTML("fuzz")
		if err != nil || strings.Contains(string(html), "<script") {
			t.Fatalf("index.html: %v", err)
		}
	})
}
