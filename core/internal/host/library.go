package host

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"regexp"
	"strings"
	"sync"
	"time"
)

// library remembers the sums of files on this machine, so that a plugin's binary is read once and
// not once a node.
type library struct {
	mu    sync.Mutex
	known map[fileState]program

	once  sync.Once
	cores map[string]program
	err   error
}

type fileState struct {
	file     File
	name     string
	size     int64
	modified time.Time
}

// program reads a file, or remembers that it did.
func (l *library) program(name string, f File) (program, error) {
	st, err := os.Stat(f.Path)
	if err != nil {
		return program{}, fmt.Errorf("read program %s: %w", name, err)
	}
	key := fileState{f, name, st.Size(), st.ModTime()}
	l.mu.Lock()
	defer l.mu.Unlock()
	if p, ok := l.known[key]; ok {
		return p, nil
	}
	p, err := f.read(name)
	if err != nil {
		return program{}, err
	}
	if l.known == nil {
		l.known = map[fileState]program{}
	}
	l.known[key] = p
	return p, nil
}

// corePrograms are the snapfw-host binaries by platform, looked for once.
func (l *library) corePrograms(configured Binary) (map[string]program, error) {
	l.once.Do(func() { l.cores, l.err = corePrograms(configured) })
	return l.cores, l.err
}

var (
	programName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$`)
	userName    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@\\-]{0,63}\$?$`)
)

// resolve replaces "@self", "@core" and "@program:NAME" by paths on the machine, and places
// what is missing there.
func (m *Machine) resolve(ctx context.Context, g *ground, self Binary, argv []string) ([]string, error) {
	if len(argv) == 0 || argv[0] == "" {
		return nil, fmt.Errorf("%s: a command has no words", m)
	}
	var words []string
	for i, w := range argv {
		path := w
		var err error
		switch {
		case w == "@core":
			path = g.core
		case w == "@self":
			path, err = m.placeSelf(ctx, g, self)
		case strings.HasPrefix(w, "@program:"):
			path, err = m.placeProgram(ctx, g, strings.TrimPrefix(w, "@program:"))
		}
		if err != nil {
			return nil, err
		}
		words = append(words, path)
		if i == 0 && w == "@core" {
			words = append(words, "-root", g.root)
		}
	}
	return words, nil
}

func (m *Machine) placeSelf(ctx context.Context, g *ground, self Binary) (string, error) {
	if !programName.MatchString(self.Name) {
		return "", fmt.Errorf("%s: \"@self\" means nothing here: the command is of no plugin", m)
	}
	f, ok := self.Files[g.platform()]
	if !ok {
		return "", &Error{Kind: ErrNoBinary, Machine: m.String(), Msg: fmt.Sprintf(
			"it is %s, and there is no %s for that: build the plugin for it (GOOS=%s GOARCH=%s CGO_ENABLED=0) and name the file under host: in its manifest",
			g.platform(), self.Name, g.system, g.arch)}
	}
	p, err := m.files.program(self.Name, f)
	if err != nil {
		return "", err
	}
	return m.place(ctx, g, p)
}

// placeProgram finds the host's own program, else places this machine's there.
func (m *Machine) placeProgram(ctx context.Context, g *ground, name string) (string, error) {
	if !programName.MatchString(name) {
		return "", fmt.Errorf("%s: %q is no name of a program", m, name)
	}
	if p, ok := m.remembered("@" + name); ok {
		return p, nil
	}
	found, err := m.at.find(ctx, name)
	if err != nil {
		return "", err
	}
	if found == "" {
		p, err := m.ours(g, name)
		if err != nil {
			return "", err
		}
		if found, err = m.place(ctx, g, p); err != nil {
			return "", err
		}
	}
	m.remember("@"+name, found)
	return found, nil
}

// ours is this machine's program of that name, if it can run there.
func (m *Machine) ours(g *ground, name string) (program, error) {
	path := m.options.Programs[name]
	if path == "" {
		path, _ = exec.LookPath(name)
	}
	if path == "" {
		return program{}, &Error{Kind: ErrNoBinary, Machine: m.String(), Msg: fmt.Sprintf(
			"%s is installed neither there nor on this machine: install it on one of the two", name)}
	}
	if err := runsOn(path, g.platform()); err != nil {
		return program{}, &Error{Kind: ErrNoBinary, Machine: m.String(), Err: err, Msg: fmt.Sprintf(
			"%s is not installed there, and this machine's can't be placed (%v): install it there", name, err)}
	}
	return m.files.program(name, File{Path: path})
}

// place makes sure that a program lies in the root's bin, and returns where.
func (m *Machine) place(ctx context.Context, g *ground, p program) (string, error) {
	dst := path.Join(g.root, "bin", p.placedName())
	if _, ok := m.remembered(dst); ok {
		return dst, nil
	}
	there, err := m.at.has(ctx, dst, p.size)
	if err == nil && !there {
		m.options.Log.Debug("placing a program", "machine", m.String(), "path", dst, "bytes", p.size)
		err = m.at.put(ctx, p, dst)
	}
	if err != nil {
		return "", fmt.Errorf("%s: place %s: %w", m, p.name, err)
	}
	m.remember(dst, dst)
	return dst, nil
}
