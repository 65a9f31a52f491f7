// Package clitest gives end-to-end tests the real programs: those that `make build` left, or else
// new ones of the sources as they are.
package clitest

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// Programs says where they are.
type Programs struct {
	Bin     string // holds snapfw and what Get was asked for
	Plugins string // for --plugins
}

// Path is a program's.
func (p Programs) Path(name string) string { return filepath.Join(p.Bin, name) }

// Get takes what $SNAPFW_BIN holds, with plugins.d beside it or in $SNAPFW_PLUGINS; without it, it builds into dir:
// snapfw, other programs by name and package ("snapfw-x": "drivers/x/devnet"), and plugins by package ("drivers/x").
// Tests of a package may call it in TestMain.
func Get(dir string, others map[string]string, plugins ...string) (Programs, error) {
	bin := os.Getenv("SNAPFW_BIN")
	if bin == "" {
		return build(dir, others, plugins)
	}
	bin, err := filepath.Abs(bin)
	p := Programs{Bin: bin, Plugins: os.Getenv("SNAPFW_PLUGINS")}
	if p.Plugins == "" {
		p.Plugins = filepath.Join(filepath.Dir(bin), "plugins.d")
	}
	return p, err
}

// root is the module's folder.
func root() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}

// build puts the program for hosts into snapfw by an overlay, so that the one which an earlier build left in the
// tree is neither used nor changed.
func build(dir string, others map[string]string, plugins []string) (Programs, error) {
	p := Programs{Bin: filepath.Join(dir, "bin"), Plugins: filepath.Join(dir, "plugins.d")}
	for _, d := range []string{p.Bin, p.Plugins} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return p, err
		}
	}
	module, err := root()
	if err != nil {
		return p, err
	}
	host, overlay := p.Path("snapfw-host"), filepath.Join(dir, "overlay.json")
	embedded := filepath.Join(module, "core/internal/host/bin/snapfw-host-linux-"+runtime.GOARCH)
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {embedded: host}})
	if err != nil {
		return p, err
	}
	if err := os.WriteFile(overlay, replace, 0o644); err != nil {
		return p, err
	}
	compile := func(out, of string) error {
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-overlay", overlay, "-o", out, "./"+of)
		cmd.Dir, cmd.Env = module, append(os.Environ(), "CGO_ENABLED=0")
		if said, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", of, err, said)
		}
		return os.Chmod(out, 0o755) // whatever the umask
	}
	if err := compile(host, "cmd/snapfw-host"); err != nil {
		return p, err
	}
	if err := compile(p.Path("snapfw"), "cmd/snapfw"); err != nil {
		return p, err
	}
	for name, of := range others {
		if err := compile(p.Path(name), of); err != nil {
			return p, err
		}
	}
	return p, p.plugins(module, plugins, compile)
}

func (p Programs) plugins(module string, plugins []string, compile func(out, of string) error) error {
	var sums []byte
	for _, of := range plugins {
		name := filepath.Base(of)
		out := filepath.Join(p.Plugins, "snapfw-"+name)
		if err := compile(out, of); err != nil {
			return err
		}
		body, err := os.ReadFile(out)
		if err != nil {
			return err
		}
		sums = fmt.Appendf(sums, "%x  snapfw-%s\n", sha256.Sum256(body), name)
		manifest, err := os.ReadFile(filepath.Join(module, "plugins.d", name+".yaml"))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(p.Plugins, name+".yaml"), manifest, 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(p.Plugins, "SHA256SUMS"), sums, 0o644)
}

// FreePort is a port of 127.0.0.1 that nobody listens on, and that the kernel gives to nobody who asks for any: those
// begin at 32768. A test whose programs must know their port before they run takes it.
func FreePort() (int, error) {
	for range 100 {
		port := 10_000 + rand.IntN(20_000)
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, errors.New("no port of 127.0.0.1 is free")
}
