package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapfw/snapfw/core/capture"
)

func liveOf(t *testing.T, datadir string) (code int, items []capture.Item, said string) {
	t.Helper()
	var out bytes.Buffer
	to := filepath.Join(datadir, ".snapfw", "snapshots", "live.jsonl")
	code = exitCode(runLive(t.Context(), []string{"--datadir", datadir, "--to", to}, &out, &out), &out)
	if code != 0 {
		return code, nil, out.String()
	}
	f, err := os.Open(to)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if items, err = capture.ReadList(f); err != nil {
		t.Fatal(err)
	}
	return code, items, out.String()
}

// liveDatadir is writeSnapshots without what somebody was still writing, and with torrents.
func liveDatadir(t *testing.T) string {
	t.Helper()
	datadir := writeSnapshots(t)
	for _, name := range testForeign {
		if unfinished(name) && !localNames[name] {
			os.Remove(filepath.Join(datadir, "snapshots", name))
		}
	}
	for _, name := range []string{"erigondb.toml", "domain/v2.0-accounts.0-256.kv", "v1.1-000500-000510-headers.seg"} {
		putFile(t, filepath.Join(datadir, "snapshots", name+torrentExt), []byte("torrent"), 0)
	}
	putFile(t, filepath.Join(datadir, "snapshots", "salt-state.txt.torrent123"), []byte("torn"), 0)
	return datadir
}

func TestLive(t *testing.T) {
	t.Parallel()
	datadir := liveDatadir(t)
	putFile(t, filepath.Join(datadir, "snapshots", "foreign.seg"), []byte("x"), 0)
	code, items, said := liveOf(t, datadir)
	if code != 0 || !strings.Contains(said, "foreign.seg is left out") {
		t.Fatal(code, said)
	}
	var want []capture.Item
	for name := range testSnapshots {
		mode := capture.ModeLink
		if strings.HasPrefix(name, "salt-") || name == "erigondb.toml" {
			mode = capture.ModeCopy
		}
		want = append(want, capture.Item{Name: name, Mode: mode})
	}
	for _, name := range []string{"erigondb.toml.torrent", "domain/v2.0-accounts.0-256.kv.torrent"} {
		want = append(want, capture.Item{Name: name, Mode: capture.ModeCopy})
	}
	slices.SortFunc(want, func(a, b capture.Item) int { return strings.Compare(a.Name, b.Name) })
	if !slices.Equal(items, want) {
		t.Errorf("got %v", items)
	}
}

func TestLiveDeclines(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		do   func(t *testing.T, datadir string)
		want string
	}{
		"part":      {func(t *testing.T, d string) { putFile(t, d+"/snapshots/domain/v2.0-code.0-64.kv.part", nil, 0) }, "v2.0-code.0-64.kv.part"},
		"tmp":       {func(t *testing.T, d string) { putFile(t, d+"/snapshots/v1.1-000000-000010-bodies.seg.tmp", nil, 0) }, "bodies.seg.tmp"},
		"zero":      {func(t *testing.T, d string) { putFile(t, d+"/snapshots/idx/v3.0-code.0-64.ef", nil, 0) }, "it is empty"},
		"symlink":   {func(t *testing.T, d string) { os.Symlink("x", d+"/snapshots/idx/v3.0-code.0-64.ef") }, "not a regular file"},
		"nothing":   {func(t *testing.T, d string) { os.RemoveAll(d + "/snapshots"); os.Mkdir(d+"/snapshots", 0o755) }, "nothing to publish"},
		"no folder": {func(t *testing.T, d string) { os.RemoveAll(d + "/snapshots") }, "no folder"},
		"held": {func(t *testing.T, d string) {
			release, err := holdDatadir(d, unix.LOCK_EX)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(release)
		}, "erigon is running"},
	} {
		t.Run(name, func(t *testing.T) {
			datadir := liveDatadir(t)
			c.do(t, datadir)
			if code, _, said := liveOf(t, datadir); code != 3 || !strings.Contains(said, c.want) {
				t.Errorf("exit %d: %s", code, said)
			}
			if _, err := os.Stat(filepath.Join(datadir, ".snapfw", "snapshots", "live.jsonl")); err == nil {
				t.Error("there is a list")
			}
		})
	}
}

// TestViewUnchanged takes a real view and then changes files on either side (erigon issue 14394).
func TestViewUnchanged(t *testing.T) {
	t.Parallel()
	seg, toml := "v1.1-000000-000500-headers.seg", "erigondb.toml"
	for name, c := range map[string]struct {
		do   func(t *testing.T, datadir, view string)
		code int
		want string
	}{
		"nothing":      {func(*testing.T, string, string) {}, 0, "are what they were; 0 of"},
		"merged away":  {func(t *testing.T, d, _ string) { os.Remove(d + "/snapshots/" + seg) }, 0, "; 1 of them are merged away"},
		"torrent":      {func(t *testing.T, d, _ string) { putFile(t, d+"/snapshots/"+toml+torrentExt, []byte("new"), 0) }, 0, ""},
		"replaced":     {func(t *testing.T, d, _ string) { replace(t, d+"/snapshots/"+seg) }, 3, seg + " is not the file"},
		"settings":     {func(t *testing.T, d, _ string) { replace(t, d+"/snapshots/"+toml) }, 3, toml + " is not the file"},
		"in place":     {func(t *testing.T, d, _ string) { noteIn(d+"/snapshots/"+seg, "x") }, 3, seg + " is not the file"},
		"view":         {func(t *testing.T, _, v string) { replace(t, v+"/"+toml) }, 3, toml + " changed in the view"},
		"view is gone": {func(t *testing.T, _, v string) { os.Remove(v + "/" + seg) }, 3, "no longer in the view"},
	} {
		t.Run(name, func(t *testing.T) {
			datadir := liveDatadir(t)
			if code, _, said := liveOf(t, datadir); code != 0 {
				t.Fatal(said)
			}
			place := capture.Dir(filepath.Join(datadir, "snapshots"))
			list := filepath.Join(place, "live.jsonl")
			var out bytes.Buffer
			if code := capture.Main([]string{"take", "--from", filepath.Join(datadir, "snapshots"), "--list", list, "--to", place}, nil, &out, &out); code != 0 {
				t.Fatal(out.String())
			}
			view := filepath.Join(place, "data")
			c.do(t, datadir, view)
			out.Reset()
			code := exitCode(runViewUnchanged(t.Context(), []string{"--datadir", datadir, "--list", list, "--copy", view}, &out, &out), &out)
			if code != c.code || !strings.Contains(out.String(), c.want) {
				t.Errorf("exit %d: %s", code, out.String())
			}
		})
	}
}

// replace puts a new file of the same bytes and time under a name.
func replace(t *testing.T, file string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	putFile(t, file+".new", b, 0)
	os.Chtimes(file+".new", time.Time{}, info.ModTime())
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}
