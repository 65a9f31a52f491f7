// Package plugins reads plugins.d: which plugins there are, whether they are what was put
// there, and how to start the one that the configuration names. No file is ever run because
// it lies in the folder.
package plugins

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/snapfw/snapfw/core/plugin"
)

// Dir is a plugins.d folder, absolute.
type Dir string

// Find returns the first plugins.d there is: the explicit one (--plugins), $SNAPFW_PLUGINS,
// plugins.d beside this program, ../plugins.d of it, /usr/lib/snapfw/plugins.d,
// /etc/snapfw/plugins.d. One of the first two that does not exist is an error.
func Find(explicit string) (Dir, error) {
	for _, named := range []struct{ by, dir string }{{"--plugins", explicit}, {"$SNAPFW_PLUGINS", os.Getenv("SNAPFW_PLUGINS")}} {
		if named.dir == "" {
			continue
		}
		dir, err := folder(named.dir)
		if err != nil {
			return "", fmt.Errorf("%s: %w; name the folder that holds the plugins' manifests", named.by, err)
		}
		return dir, nil
	}
	var places []string
	if self, err := os.Executable(); err == nil {
		if self, err = filepath.EvalSymlinks(self); err == nil {
			beside := filepath.Dir(self)
			places = append(places, filepath.Join(beside, "plugins.d"), filepath.Join(filepath.Dir(beside), "plugins.d"))
		}
	}
	places = append(places, "/usr/lib/snapfw/plugins.d", "/etc/snapfw/plugins.d")
	for _, place := range places {
		if dir, err := folder(place); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("there is no plugins.d (looked for %s): name one with --plugins or $SNAPFW_PLUGINS", strings.Join(places, ", "))
}

func folder(path string) (Dir, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return "", err
	}
	info, err := os.Stat(abs)
	if err != nil {
		return "", err
	}
	if !info.IsDir() {
		return "", fmt.Errorf("%s is not a folder", abs)
	}
	return Dir(abs), nil
}

// Get returns the manifest of a name. That another manifest is wrong is logged and does
// not stand in the way.
func (d Dir) Get(name string, log *slog.Logger) (Manifest, error) {
	all, err := Read(d)
	for _, m := range all {
		if m.Name == name {
			if err != nil && log != nil {
				log.Warn("a plugin that is not used here is refused", "error", err)
			}
			return m, nil
		}
	}
	if err != nil {
		return Manifest{}, err
	}
	var names []string
	for _, m := range all {
		names = append(names, m.Name)
	}
	has := "it holds no manifest"
	if len(names) > 0 {
		has = "it has " + strings.Join(names, ", ")
	}
	return Manifest{}, fmt.Errorf("there is no plugin %q in %s (%s): add it with `snapfw plugin add PATH`", name, d, has)
}

// Load starts the plugin of a name and kind, after checking that it is what was added.
// log gets what the plugin says; it may be nil.
func (d Dir) Load(ctx context.Context, name, kind string, log *slog.Logger) (*plugin.Client, Manifest, error) {
	m, err := d.Get(name, log)
	if err != nil {
		return nil, Manifest{}, err
	}
	if m.Kind != kind {
		return nil, m, fmt.Errorf("%s: %s is a %s, and a %s is wanted here", m.File, name, m.Kind, kind)
	}
	own, err := m.own()
	if err != nil {
		return nil, m, err
	}
	c, err := plugin.Load(ctx, plugin.Command{Name: m.Name, Kind: m.Kind, Path: own.Path, Sum: own.Sum, Env: m.Env, Log: log})
	return c, m, err
}

// Binary is an executable to be placed on a host, and its sha256 in lower-case hex.
type Binary struct {
	Path string
	Sum  string
}

// HostBinary returns the plugin's binary for a host of a platform: "linux/arm64", as runtime.GOOS
// and runtime.GOARCH. Its sum was compared with the pinned one.
func (m Manifest) HostBinary(platform string) (Binary, error) {
	b, there := m.Host[platform]
	if !there && platform == runtime.GOOS+"/"+runtime.GOARCH {
		return m.compared(m.own())
	}
	if !there {
		goos, arch, _ := strings.Cut(platform, "/")
		return Binary{}, fmt.Errorf("plugin %s has no binary for %s: build one in its source with `CGO_ENABLED=0 GOOS=%s GOARCH=%s go build -o %s.%s`, "+
			"put it beside %s and name it there: host: {%s: {exec: %s.%s, sha256: …}}",
			m.Name, platform, goos, arch, m.Exec, arch, m.File, platform, m.Exec, arch)
	}
	return m.compared(m.binary(b.Exec, b.SHA256))
}

func (m Manifest) compared(b Binary, err error) (Binary, error) {
	if err != nil {
		return Binary{}, err
	}
	sum, err := plugin.FileSum(b.Path)
	if err != nil {
		return Binary{}, err
	}
	if sum != b.Sum {
		return Binary{}, fmt.Errorf("plugin %s: %s is not the file that was added: its sha256 is %s and the pinned one is %s", m.Name, b.Path, sum, b.Sum)
	}
	return b, nil
}

// own is the executable that runs on this machine.
func (m Manifest) own() (Binary, error) { return m.binary(m.Exec, m.SHA256) }

// binary checks who can write an executable, and finds its pinned sum.
func (m Manifest) binary(name, sum string) (Binary, error) {
	path := filepath.Join(string(m.dir), name)
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return Binary{}, fmt.Errorf("plugin %s: its executable: %w; build it, or add it with `snapfw plugin add PATH`", m.Name, err)
	}
	if filepath.Dir(real) != string(m.dir) {
		return Binary{}, fmt.Errorf("plugin %s: %s is a link out of its folder: put the file itself there", m.Name, path)
	}
	info, err := os.Stat(real)
	if err != nil {
		return Binary{}, fmt.Errorf("plugin %s: %w", m.Name, err)
	}
	if !info.Mode().IsRegular() {
		return Binary{}, fmt.Errorf("plugin %s: %s is not a regular file", m.Name, path)
	}
	if info.Mode()&0o111 == 0 {
		return Binary{}, fmt.Errorf("plugin %s: %s is not executable: chmod a+x %s", m.Name, path, path)
	}
	if err := private(real); err != nil {
		return Binary{}, fmt.Errorf("plugin %s: %w", m.Name, err)
	}
	if sum == "" {
		sum = m.sums[name]
	}
	if sum == "" {
		return Binary{}, fmt.Errorf("plugin %s: %s is not pinned: neither %s nor %s holds its sha256; run `snapfw plugin add %s`",
			m.Name, path, m.File, filepath.Join(string(m.dir), sumsFile), path)
	}
	return Binary{Path: real, Sum: sum}, nil
}

// private refuses what somebody else can write: he could run anything as us.
func private(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Mode()&0o022 != 0 {
		return fmt.Errorf("%s can be written by others (mode %04o): chmod go-w %s", path, info.Mode().Perm(), path)
	}
	uid, ok := owner(info)
	if me := os.Geteuid(); ok && uid != 0 && uid != me {
		return fmt.Errorf("%s belongs to user %d, who is neither root nor you: chown %d %s", path, uid, me, path)
	}
	return nil
}

// errDuplicate marks manifests of one name: none of them is taken.
var errDuplicate = errors.New("two manifests of one name: remove one")
