package capture

import (
	"bytes"
	"encoding/json"
	"math"
	"reflect"
	"testing"
)

// TestPlainRecords: what is written and read without encoding/json is what encoding/json writes and reads.
func TestPlainRecords(t *testing.T) {
	own := Ident{Dev: 1, Ino: math.MaxInt64, Size: 0, Mtime: math.MinInt64 + 1}
	for _, r := range []Record{
		{Name: "a b/c<&>.seg", How: linked, Src: Ident{Dev: 65024, Ino: 9977860, Size: 84, Mtime: 1795318528154532908}},
		{Name: "CURRENT", How: copied, Src: Ident{Mtime: -1}, Own: &own},
		{Name: "x", How: cloned, Own: &Ident{}},
	} {
		want, err := encodeLine(r)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := appendRecord(nil, &r)
		if !ok || !bytes.Equal(got, want) {
			t.Errorf("%s, want %s", got, want)
		}
		if back, ok := plainRecord(bytes.TrimSuffix(got, []byte("\n"))); !ok || !reflect.DeepEqual(back, r) {
			t.Errorf("%s: read as %+v, %v", got, back, ok)
		}
	}
	for _, name := range []string{`"`, `\`, "é", "\n", "\x7f"} {
		if line, ok := appendRecord(nil, &Record{Name: name}); ok {
			t.Errorf("%q: %s", name, line)
		}
	}
}

// FuzzPlainRecord: a line that is read without encoding/json means the same to it.
func FuzzPlainRecord(f *testing.F) {
	line := `{"name":"a","how":"copied","src":{"dev":1,"ino":2,"size":3,"mtime":4},"own":{"dev":1,"ino":2,"size":3,"mtime":-5}}`
	f.Add(line)
	for _, c := range [][2]string{{"3", "03"}, {"3", "-0"}, {"4", "9223372036854775808"}, {"4", "18446744073709551620"}, {"1", "-1"}, {"}}", "}} "}, {"a", `a\u0041`}, {"copied", "stolen"}} {
		f.Add(string(bytes.Replace([]byte(line), []byte(c[0]), []byte(c[1]), 1)))
	}
	f.Fuzz(func(t *testing.T, line string) {
		got, ok := plainRecord([]byte(line))
		if !ok {
			return
		}
		var want Record
		if err := json.Unmarshal([]byte(line), &want); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, want %+v, %v", line, got, want, err)
		}
	})
}

// BenchmarkLines writes and reads a record as we do and as encoding/json does. A release of a large chain has 17,500 of them, and writes
// or reads them five times while the node is down.
func BenchmarkLines(b *testing.B) {
	r := Record{Name: "accessor/v1.1-accounts.8192-8448.vi", How: linked, Src: Ident{Dev: 65026, Ino: 9437201, Size: 73400320, Mtime: 1700000000123456789}}
	b.Run("ours", func(b *testing.B) {
		var buf []byte
		for b.Loop() {
			buf, _ = appendRecord(buf[:0], &r)
			if _, ok := plainRecord(buf[:len(buf)-1]); !ok {
				b.Fatal("not read")
			}
		}
	})
	b.Run("encoding-json", func(b *testing.B) {
		for b.Loop() {
			body, err := json.Marshal(r)
			if err != nil {
				b.Fatal(err)
			}
			var back Record
			if err := json.Unmarshal(body, &back); err != nil {
				b.Fatal(err)
			}
		}
	})
}
