package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// FuzzLaunch: whatever launch.json holds, what is read names a program by its whole path, and is read the same when it is saved again.
func FuzzLaunch(f *testing.F) {
	whole := launch{
		Argv: []string{"erigon", "--datadir", "/data", "--http.token=geheim1"}, Exe: "/opt/erigon", Env: []string{"PATH=/bin", "API_TOKEN=geheim2"}, Dir: "/opt",
		Files: [3]stream{{Path: "/dev/null"}, {Path: "/var/log/erigon", Append: true}}, UID: os.Geteuid(), GID: os.Getegid(), Groups: []int{4}, Nice: 5, Umask: 18,
		Open: [2]uint64{1024, 4096},
	}
	body, err := json.Marshal(whole)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add([]byte(strings.Replace(string(body), `"/opt/erigon"`, `"erigon"`, 1)))
	f.Add([]byte(strings.Replace(string(body), `"argv":[`, `"argv":["\u0000",`, 1)))
	f.Add([]byte(`{"argv":["x"],"exe":"/x","dir":"/","files":[{},{},{},{}],"open_files":[1]}`))
	f.Add([]byte(`{"argv":["x"],"exe":"/x","dir":"/","more":1}`))
	f.Add([]byte(`{"argv":[]}{}`))
	f.Add(body[:len(body)/2])
	dir := f.TempDir()
	file := filepath.Join(dir, ".snapfw", launchFile)
	if err := os.Mkdir(filepath.Dir(file), 0o755); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, name := range []string{file, file + ".1"} {
			if err := os.RemoveAll(name); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(file, body, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := readLaunch(dir)
		if err != nil {
			return
		}
		if len(l.Argv) == 0 || !filepath.IsAbs(l.Exe) || !filepath.IsAbs(l.Dir) || l.UID != os.Geteuid() && os.Geteuid() != 0 {
			t.Fatalf("%q: %+v", body, l)
		}
		flagsOf(l)
		if strings.Contains(l.hide("it says geheim1"), "geheim1") && slices.Contains(l.Argv, "--http.token=geheim1") {
			t.Error("a secret is not hidden")
		}
		if again, err := saveLaunch(dir, l); err != nil || !again {
			t.Errorf("what was read is saved as another one: %t, %v", again, err)
		}
		l.Nice++
		if again, err := saveLaunch(dir, l); err != nil || again {
			t.Errorf("a change is not saved: %t, %v", again, err)
		}
		if back, err := readLaunch(dir); err != nil || !back.same(l) {
			t.Errorf("%v: %+v is read back as %+v", err, l, back)
		}
	})
}
