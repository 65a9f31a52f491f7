package plugins

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
	"gopkg.in/yaml.v3"

	"github.com/snapfw/snapfw/core/plugin"
)

// Add makes a plugin known: it copies the executable into the folder unless it lies there,
// starts it once to hear what it is, and writes its manifest with its sha256. The file must be
// called snapfw-NAME. Added again, it gets the new sum and keeps its manifest's env and host.
func Add(ctx context.Context, dir Dir, path string, log *slog.Logger) (Manifest, error) {
	if err := private(string(dir)); err != nil {
		return Manifest{}, err
	}
	exec := filepath.Base(path)
	name, ok := strings.CutPrefix(exec, "snapfw-")
	if !ok || !nameForm.MatchString(name) {
		return Manifest{}, fmt.Errorf("%s: a plugin's file is called snapfw-NAME, NAME of lower-case letters, digits and -: rename it", path)
	}
	m := Manifest{Name: name, Exec: exec, Protocol: plugin.Protocol, dir: dir, File: filepath.Join(string(dir), name+".yaml")}
	if err := m.keepOld(); err != nil {
		return Manifest{}, err
	}
	trial, err := m.fetch(path)
	if err != nil {
		return Manifest{}, err
	}
	final := filepath.Join(string(dir), exec)
	if trial != final {
		defer os.Remove(trial)
	}
	if m.SHA256, err = plugin.FileSum(trial); err != nil {
		return Manifest{}, err
	}
	c, err := plugin.Load(ctx, plugin.Command{Name: name, Path: trial, Sum: m.SHA256, Env: m.Env, Log: log})
	if err != nil {
		return Manifest{}, err
	}
	defer c.Close()
	m.Kind = c.Description().Kind
	if trial != final {
		if err := os.Rename(trial, final); err != nil {
			return Manifest{}, err
		}
	}
	return m, m.write()
}

// keepOld takes over what somebody wrote into the manifest that is there.
func (m *Manifest) keepOld() error {
	others, err := Read(m.dir)
	for _, o := range others {
		if o.Name == m.Name {
			m.File, m.Env, m.Host = o.File, o.Env, o.Host
			return nil
		}
	}
	if _, statErr := os.Lstat(m.File); statErr == nil {
		return errors.Join(fmt.Errorf("%s is there and is not a manifest of %s: correct or remove it", m.File, m.Name), err)
	}
	return nil
}

// fetch returns the path of the executable in the folder: the one that lies there, or a copy
// under a name that is not its own yet.
func (m *Manifest) fetch(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	if real, err = filepath.Abs(real); err != nil {
		return "", err
	}
	if filepath.Dir(real) == string(m.dir) {
		b, err := m.binary(filepath.Base(real), "unknown")
		if err == nil && filepath.Base(real) != m.Exec {
			err = fmt.Errorf("%s is a link to %s: add the file itself", path, real)
		}
		return b.Path, err
	}
	from, err := os.Open(real)
	if err != nil {
		return "", err
	}
	defer from.Close()
	if info, err := from.Stat(); err != nil || !info.Mode().IsRegular() {
		return "", errors.Join(fmt.Errorf("%s is not a regular file", path), err)
	}
	to, err := os.CreateTemp(string(m.dir), ".add-"+m.Exec+"-")
	if err != nil {
		return "", err
	}
	_, err = io.Copy(to, from)
	err = errors.Join(err, to.Chmod(0o755), to.Sync(), to.Close())
	if err != nil {
		os.Remove(to.Name())
		return "", fmt.Errorf("copy %s: %w", path, err)
	}
	return to.Name(), nil
}

func (m Manifest) write() error {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := errors.Join(e.Encode(m), e.Close()); err != nil {
		return fmt.Errorf("write %s: %w", m.File, err)
	}
	if err := renameio.WriteFile(m.File, b.Bytes(), fs.FileMode(0o644), renameio.IgnoreUmask()); err != nil {
		return fmt.Errorf("write %s: %w", m.File, err)
	}
	return nil
}

// Finding is what Verify says of one plugin or one file.
type Finding struct {
	Plugin  string `json:"plugin,omitempty"`
	File    string `json:"file"`
	OK      bool   `json:"ok"`
	Problem string `json:"problem,omitempty"` // one line an error, with what to do
	Note    string `json:"note,omitempty"`    // worth knowing and no error
}

// Verify checks everything in a folder without starting anything: who can write it, the
// manifests, each executable and its sum. It also names what would never be loaded.
func Verify(dir Dir) []Finding {
	all, err := Read(dir)
	var findings []Finding
	if err != nil {
		findings = append(findings, Finding{File: string(dir), Problem: err.Error()})
	}
	named := map[string]bool{}
	for _, m := range all {
		_, err := m.compared(m.own())
		findings = append(findings, finding(m, filepath.Join(string(dir), m.Exec), err))
		named[m.Exec] = true
		for platform, h := range m.Host {
			_, err := m.HostBinary(platform)
			findings = append(findings, finding(m, filepath.Join(string(dir), h.Exec), err))
			named[h.Exec] = true
		}
	}
	files, _ := os.ReadDir(string(dir)) // that it can't be read was said above
	for _, f := range files {
		if strings.HasPrefix(f.Name(), "snapfw-") && !named[f.Name()] {
			findings = append(findings, Finding{File: filepath.Join(string(dir), f.Name()), OK: true,
				Note: "no manifest names it, so it is never run: add it with `snapfw plugin add`, or remove it"})
		}
	}
	return findings
}

func finding(m Manifest, file string, err error) Finding {
	f := Finding{Plugin: m.Name, File: file, OK: err == nil}
	if err != nil {
		f.Problem = err.Error()
	}
	return f
}
