package capture

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestWalk: everything is told once, in order, with what lstat says; links are not followed but for the directory itself.
func TestWalk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "real")
	want := []string{"a", "b", "b/c", "b/c/d", "hidden", "link"}
	for i := range 3 * lookShare {
		want = append(want, fmt.Sprintf("x%04d", i))
	}
	for _, d := range []string{"b/c", "hidden"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range append([]string{"a", "b/c/d", "hidden/y"}, want[6:]...) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	root := dir + ".link"
	if err := errors.Join(os.Symlink("b", filepath.Join(dir, "link")), os.Symlink(dir, root)); err != nil {
		t.Fatal(err)
	}
	var got []string
	err := Walk(root, func(name string, st *unix.Stat_t, err error) error {
		got = append(got, name)
		var is unix.Stat_t
		if err != nil || unix.Lstat(filepath.Join(dir, name), &is) != nil || IdentOf(&is) != IdentOf(st) || is.Mode != st.Mode {
			t.Errorf("%s: %+v, %v", name, st, err)
		}
		if name == "hidden" {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
	stop := errors.New("stop")
	if err := Walk(root, func(name string, _ *unix.Stat_t, err error) error { return stop }); err != stop {
		t.Errorf("it did not stop: %v", err)
	}
	// What goes away meanwhile is told as gone.
	gone := map[string]bool{}
	err = Walk(root, func(name string, st *unix.Stat_t, err error) error {
		if name == "b" && err == nil {
			return os.RemoveAll(filepath.Join(dir, "b"))
		}
		if errors.Is(err, fs.ErrNotExist) {
			gone[name] = true
			return nil
		}
		return err
	})
	if err != nil || !gone["b"] {
		t.Errorf("%v, %v", gone, err)
	}
	if err := Walk(dir+".none", func(name string, st *unix.Stat_t, err error) error { return err }); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of nothing: %v", err)
	}
}
