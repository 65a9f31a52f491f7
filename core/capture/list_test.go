package capture

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReadList(t *testing.T) {
	good := `{"name":"CURRENT","mode":"copy"}

{"name":"deep/000001.ldb","mode":"link"}`
	items, err := ReadList(strings.NewReader(good))
	if err != nil || len(items) != 2 || items[1] != (Item{"deep/000001.ldb", ModeLink}) {
		t.Fatalf("%v, %v", items, err)
	}
	for what, list := range map[string]string{
		"no files":       "\n",
		"absolute":       `{"name":"/etc/passwd","mode":"copy"}`,
		"upwards":        `{"name":"../x","mode":"copy"}`,
		"upwards inside": `{"name":"a/../../x","mode":"copy"}`,
		"upwards at end": `{"name":"a/..","mode":"copy"}`,
		"here":           `{"name":".","mode":"copy"}`,
		"empty":          `{"name":"","mode":"copy"}`,
		"empty part":     `{"name":"a//b","mode":"copy"}`,
		"a folder":       `{"name":"a/","mode":"copy"}`,
		"zero byte":      `{"name":"a\u0000b","mode":"copy"}`,
		"new line":       `{"name":"a\nb","mode":"copy"}`,
		"twice":          `{"name":"a","mode":"copy"}` + "\n" + `{"name":"a","mode":"link"}`,
		"file as folder": `{"name":"a/b/c","mode":"copy"}` + "\n" + `{"name":"a","mode":"link"}`,
		"no mode":        `{"name":"a"}`,
		"unknown mode":   `{"name":"a","mode":"move"}`,
		"unknown field":  `{"name":"a","mode":"copy","to":"/etc"}`,
		"two on a line":  `{"name":"a","mode":"copy"}{"name":"b","mode":"copy"}`,
		"no JSON":        `a copy`,
		"long part":      `{"name":"` + strings.Repeat("a", 256) + `","mode":"copy"}`,
		"long name":      `{"name":"` + strings.Repeat("a/", 600) + `a","mode":"copy"}`,
		"long line":      strings.Repeat(" ", maxLine) + `{"name":"a","mode":"copy"}`,
	} {
		if items, err := ReadList(strings.NewReader(list)); err == nil {
			t.Errorf("%s: read as %v", what, items)
		}
	}
}

func TestWriteList(t *testing.T) {
	file := filepath.Join(t.TempDir(), "live.jsonl")
	want := []Item{{"<CURRENT>&", ModeCopy}, {"a/1.ldb", ModeLink}}
	must(t, WriteList(file, want))
	b, err := os.ReadFile(file)
	must(t, err)
	if string(b) != `{"name":"<CURRENT>&","mode":"copy"}`+"\n"+`{"name":"a/1.ldb","mode":"link"}`+"\n" {
		t.Errorf("%s", b)
	}
	if WriteList(file, []Item{{"../x", ModeCopy}}) == nil || WriteList(file, nil) == nil {
		t.Error("a list was written that can't be read")
	}
	if again, err := os.ReadFile(file); err != nil || !bytes.Equal(b, again) {
		t.Errorf("a refused list replaced the good one: %v", err)
	}
}

func FuzzReadList(f *testing.F) {
	f.Add([]byte(`{"name":"CURRENT","mode":"copy"}` + "\n" + `{"name":"a/000001.ldb","mode":"link"}`))
	f.Add([]byte(`{"name":"../x","mode":"copy"}`))
	f.Add([]byte(`{"name":"a/./b","mode":"link"}`))
	f.Add([]byte(`{"name":"/","mode":"link"}`))
	f.Add([]byte(`{"name":"000001.ldb","mode":"link"}`))
	f.Add([]byte(`{"name":"a","mode":"copy","mode":"link"}`))
	f.Add([]byte(`{"name":"a\"b\\","mode":"copy"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if short, ok := plainItem(b); ok {
			if long, err := parseItem(b); err != nil || long != short {
				t.Errorf("%q is read as %v in short and as %v, %v in full", b, short, long, err)
			}
		}
		items, err := ReadList(bytes.NewReader(b))
		if err != nil {
			return
		}
		for _, item := range items {
			if !filepath.IsLocal(item.Name) || filepath.Clean(item.Name) != item.Name || item.Name == "." {
				t.Errorf("%q leads out of the database", item.Name)
			}
		}
	})
}

func FuzzReadRecords(f *testing.F) {
	f.Add([]byte(`{"name":"a","how":"linked","src":{"dev":1,"ino":2,"size":3,"mtime":4}}` + "\n"))
	f.Add([]byte(`{"name":"a/../../b","how":"copied","src":{},"own":{"ino":5}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		recs, err := readRecords(bytes.NewReader(b))
		for _, rec := range recs {
			if !filepath.IsLocal(rec.Name) {
				t.Errorf("%q leads out of the copy", rec.Name)
			}
		}
		if err != nil {
			return
		}
		var buf bytes.Buffer
		must(t, encodeRecords(&buf, recs))
		again, err := readRecords(&buf)
		if err != nil || len(again) != len(recs) {
			t.Errorf("%d records came back as %d: %v", len(recs), len(again), err)
		}
	})
}

func FuzzReadSums(f *testing.F) {
	line := `{"dev":1,"ino":2,"size":3,"mtime":4,"sha256":"` + strings.Repeat("ab", 32) + `","used":20000}`
	f.Add([]byte(line + "\n" + line[:40]))
	f.Add([]byte(strings.Repeat(" ", maxLine+7) + line + "\n"))
	f.Add([]byte(`{"sha256":"ABAB","size":-1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		lines, _, err := readSums(bytes.NewReader(b))
		must(t, err)
		for _, l := range lines {
			if !validSum(l.SHA256) || l.Size < 0 {
				t.Errorf("%+v was taken for a sum", l)
			}
		}
	})
}
