package host

import (
	"crypto/sha256"
	"debug/elf"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
)

// built holds the snapfw-host binaries that were there when snapfw was built.
//
//go:embed all:bin
var built embed.FS

// coreName is how the binary behind "@core" is called.
const coreName = "snapfw-host"

// File is an executable file on this machine.
type File struct {
	Path   string
	SHA256 string // lower-case hex; "" is whatever lies there
}

// Binary is one program for the architectures that it was built for: what "@self" means.
type Binary struct {
	Name  string          // of [A-Za-z0-9._-]: "snapfw-example"
	Files map[string]File // by "linux/amd64"
}

// program is a File whose content is known.
type program struct {
	name string // on the host, before the sum: "snapfw-host"
	sum  string
	size int64
	open func() (io.ReadCloser, error)
}

func (p program) placedName() string { return p.name + "-" + p.sum[:12] }

// read finds out size and sum, and refuses a file that is not what File.SHA256 says.
func (f File) read(name string) (program, error) {
	r, err := os.Open(f.Path)
	if err != nil {
		return program{}, fmt.Errorf("read program %s: %w", name, err)
	}
	defer r.Close()
	h := sha256.New()
	n, err := io.Copy(h, r)
	if err != nil {
		return program{}, fmt.Errorf("read program %s: %w", name, err)
	}
	sum := hex.EncodeToString(h.Sum(nil))
	if f.SHA256 != "" && !strings.EqualFold(sum, f.SHA256) {
		return program{}, fmt.Errorf("program %s: the sum of %s is %s and should be %s: build or install it again", name, f.Path, sum, f.SHA256)
	}
	return program{name: name, sum: sum, size: n, open: func() (io.ReadCloser, error) { return os.Open(f.Path) }}, nil
}

// builtIn are the embedded snapfw-host binaries by platform.
var builtIn = sync.OnceValue(func() map[string]program {
	found := map[string]program{}
	entries, err := built.ReadDir("bin")
	if err != nil {
		return found
	}
	for _, e := range entries {
		platform, ok := strings.CutPrefix(e.Name(), coreName+"-")
		if !ok {
			continue
		}
		// Read where it lies: a copy of it would stay in memory for the whole run.
		open := func() (io.ReadCloser, error) { return built.Open("bin/" + e.Name()) }
		r, err := open()
		if err != nil {
			continue
		}
		h := sha256.New()
		size, err := io.Copy(h, r)
		r.Close()
		if err != nil {
			continue
		}
		found[strings.Replace(platform, "-", "/", 1)] = program{
			name: coreName, sum: hex.EncodeToString(h.Sum(nil)), size: size, open: open,
		}
	}
	return found
})

// corePrograms are the snapfw-host binaries that can be placed: the configured ones, else
// the embedded ones and what lies beside snapfw itself.
func corePrograms(configured Binary) (map[string]program, error) {
	found := map[string]program{}
	if len(configured.Files) > 0 {
		for platform, f := range configured.Files {
			p, err := f.read(coreName)
			if err != nil {
				return nil, err
			}
			found[platform] = p
		}
		return found, nil
	}
	for platform, p := range builtIn() {
		found[platform] = p
	}
	self, err := os.Executable()
	if err != nil {
		return found, nil
	}
	for _, platform := range []string{"linux/amd64", "linux/arm64", runtime.GOOS + "/" + runtime.GOARCH} {
		if _, ok := found[platform]; ok {
			continue
		}
		for _, name := range []string{coreName + "-" + strings.ReplaceAll(platform, "/", "-"), coreName} {
			path := filepath.Join(filepath.Dir(self), name)
			if runsOn(path, platform) != nil {
				continue
			}
			p, err := File{Path: path}.read(coreName)
			if err != nil {
				return nil, err
			}
			found[platform] = p
			break
		}
	}
	return found, nil
}

// machines are the ELF machines by Go's name of the architecture.
var machines = map[string]elf.Machine{
	"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "386": elf.EM_386, "arm": elf.EM_ARM,
	"riscv64": elf.EM_RISCV, "ppc64le": elf.EM_PPC64, "s390x": elf.EM_S390,
}

// runsOn tells why a file is no program for a platform; nil if it is one.
func runsOn(path, platform string) error {
	f, err := elf.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err != nil {
		return fmt.Errorf("%s is no program of Linux: %w", path, err)
	}
	defer f.Close()
	system, arch, _ := strings.Cut(platform, "/")
	if want, ok := machines[arch]; system != "linux" || !ok || f.Machine != want {
		return fmt.Errorf("%s is a program for %s, not for %s", path, f.Machine, platform)
	}
	return nil
}

// platformOf reads what "uname -sm" prints: "Linux x86_64" is "linux/amd64".
func platformOf(uname string) (system, arch string) {
	system, arch, _ = strings.Cut(strings.ToLower(strings.TrimSpace(uname)), " ")
	switch {
	case arch == "x86_64":
		arch = "amd64"
	case arch == "aarch64":
		arch = "arm64"
	case strings.HasPrefix(arch, "armv"):
		arch = "arm"
	case len(arch) == 4 && arch[0] == 'i' && strings.HasSuffix(arch, "86"):
		arch = "386"
	}
	return system, arch
}
