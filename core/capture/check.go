package capture

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// CheckOptions say what is going to be captured.
type CheckOptions struct {
	From   string
	To     string
	Never  []string // patterns of path.Match, against base names: files that must not leave the node
	Method Method   // "" is Auto
}

// Checked is what Check found.
type Checked struct {
	Method Method `json:"method"` // what Take will use
	Files  int    `json:"files"`  // in the database's directory now; the live list will name some of them
	Bytes  int64  `json:"bytes"`
	Need   int64  `json:"need"` // bytes that the copy will take up, room for logs included
	Free   int64  `json:"free"`
}

// Room beside the files: logs are copied whatever the method, and links take up directory.
const (
	spare     = 64 << 20
	spareFile = 1 << 10
)

// Check finds out whether Take will succeed, while the node still serves: it makes one trial
// clone or link (a bind mount shows only then), removes leftovers, and looks at every file's
// owner, at the room that is left, and for files that must not be there. What stands in the
// way is a RefusedError that says what to do.
func Check(ctx context.Context, o CheckOptions) (Checked, error) {
	for _, pattern := range o.Never {
		if _, err := path.Match(pattern, ""); err != nil {
			return Checked{}, fmt.Errorf("pattern %q: %w", pattern, err)
		}
	}
	from, err := checkFrom(o.From, o.To)
	if err != nil {
		return Checked{}, err
	}
	s, err := survey(from, o.Never)
	if err != nil {
		return Checked{}, err
	}
	p, err := openPlace(o.To)
	if errors.Is(err, fs.ErrPermission) {
		return Checked{}, refusef("%v: let the owner of %s make it (mkdir -p %s; chown it to him)", err, from, o.To)
	}
	if err != nil {
		return Checked{}, err
	}
	defer p.close()
	if err := p.clean(); err != nil {
		return Checked{}, err
	}
	if err := ctx.Err(); err != nil {
		return Checked{}, err
	}
	return p.check(from, s, o.Method)
}

func (p *place) check(from string, s surveyed, want Method) (Checked, error) {
	method, err := p.trial(from, s, want)
	if err != nil {
		return Checked{}, err
	}
	if err := s.owned(from, method); err != nil {
		return Checked{}, err
	}
	c := Checked{Method: method, Files: len(s.files), Bytes: s.bytes, Need: spare + int64(len(s.files))*spareFile}
	if method == Copy {
		missing := p.missing(s)
		c.Need += missing + missing/20 // the node goes on writing until it is stopped
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(p.fd.Fd()), &st); err != nil {
		return Checked{}, fmt.Errorf("look at free space: %w", err)
	}
	c.Free = int64(st.Bavail) * st.Bsize
	if c.Free < c.Need {
		return Checked{}, refusef("%s has %d MiB free and a copy by %s needs %d MiB: make room", p.dir, c.Free>>20, method, c.Need>>20)
	}
	if st.Files > 0 && method != Link && st.Ffree < uint64(len(s.files)) {
		return Checked{}, refusef("%s has %d inodes free and a copy by %s needs %d: make room", p.dir, st.Ffree, method, len(s.files))
	}
	return c, nil
}

// trial tries the methods on a file of the database, from the directory of the copy.
func (p *place) trial(from string, s surveyed, want Method) (Method, error) {
	if want == "" {
		want = Auto
	}
	src, err := openTree(from, false)
	if err != nil {
		return "", err
	}
	defer src.close()
	dst, err := openTree(p.dir, false)
	if err != nil {
		return "", err
	}
	defer dst.close()
	for _, f := range s.files {
		m, err := pick(src, dst, f.name, want)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the node removed it meanwhile: the next one
		}
		return m, err
	}
	return "", refusef("%s holds no files: is it the database's directory?", from)
}

// missing is how many bytes a real copy would have to read.
func (p *place) missing(s surveyed) int64 {
	before := p.earlier()
	defer func() {
		for _, e := range before {
			e.tree.close()
		}
	}()
	var n int64
	for _, f := range s.files {
		if rec, _ := held(before, f); rec == nil {
			n += f.id.Size
		}
	}
	return n
}

// found is a regular file of the database.
type found struct {
	name string
	id   Ident
	ours bool // the caller's own, and he may read it: then he may link it, too
}

// surveyed is what lies in a database's directory.
type surveyed struct {
	files []found
	bytes int64
}

// survey walks over a database in use: what vanishes meanwhile is passed over. A file or
// folder that matches one of the patterns is refused.
func survey(from string, never []string) (surveyed, error) {
	var s surveyed
	err := Walk(from, func(name string, st *unix.Stat_t, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			// Every file system's own folder, if the database has a disk for itself.
			if name == "lost+found" {
				return nil
			}
			return refusef("%s: %v: what lies there can't be checked", path.Join(from, name), err)
		}
		for _, pattern := range never {
			if ok, _ := path.Match(pattern, path.Base(name)); ok {
				return refusef("%s must not leave this machine (it matches %q): move it out of the database's directory", path.Join(from, name), pattern)
			}
		}
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			ours := int(st.Uid) == os.Geteuid() && st.Mode&unix.S_IRUSR != 0
			s.files = append(s.files, found{name: name, id: IdentOf(st), ours: ours})
			s.bytes += st.Size
		}
		return nil
	})
	return s, err
}

// owned refuses a database with a file that the caller may not capture. A link of it would be
// forbidden when the node is down already, and nobody could read it to upload it.
func (s surveyed) owned(from string, method Method) error {
	if os.Geteuid() == 0 {
		return nil
	}
	src, err := openTree(from, false)
	if err != nil {
		return err
	}
	defer src.close()
	for _, f := range s.files {
		if f.ours {
			continue
		}
		st, err := src.stat(f.name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errIrregular) || errors.Is(err, unix.ENOTDIR) {
			continue // the node changed it meanwhile
		}
		if err != nil {
			return fmt.Errorf("look at the owner of %s: %w", f.name, err)
		}
		dir, file, err := src.at(f.name)
		if err != nil {
			return err
		}
		if !mayRead(dir, file) || method == Link && !mayLink(dir, file, &st) {
			return refuseOwner(f.name, &st)
		}
	}
	return nil
}
