package capture

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// WalkFunc is told what lies below a directory: a name relative to it, with forward slashes, and what lstat says, which
// is good until it returns. With err nothing is known of the name ("" is the directory itself), or, where st is there, it is a
// folder that could not be opened. Its error ends the walk; fs.SkipDir leaves a folder out.
type WalkFunc func(name string, st *unix.Stat_t, err error) error

// Walk tells do of everything below a directory, in the order of names, a folder before what it holds. It follows no link but
// dir itself. Each name is looked at from its folder's descriptor, which takes half of what its whole path would.
func Walk(dir string, do WalkFunc) error {
	fd, err := openFolder(unix.AT_FDCWD, dir, 0)
	if err != nil {
		return do("", nil, err)
	}
	w := walker{do: do}
	return w.folder(fd, dir, "")
}

func openFolder(at int, name string, flags int) (fd int, err error) {
	err = retry(func() error {
		fd, err = unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|flags, 0)
		return err
	})
	return fd, err
}

type walker struct{ do WalkFunc }

// folder walks over what an open folder holds, and closes it. Names in it get the prefix.
func (w *walker) folder(fd int, path, prefix string) error {
	d := os.NewFile(uintptr(fd), path)
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return w.do(strings.TrimSuffix(prefix, "/"), nil, err) // it may have been removed meanwhile
	}
	slices.Sort(names)
	looks := Lstats(d, names)
	for i, base := range names {
		if err := w.told(fd, base, prefix+base, &looks[i]); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) told(fd int, base, name string, l *Lstat) error {
	if l.Err != nil {
		return w.do(name, nil, l.Err)
	}
	isDir := l.Mode&unix.S_IFMT == unix.S_IFDIR
	err := w.do(name, &l.Stat_t, nil)
	if !isDir || err != nil {
		if isDir && errors.Is(err, fs.SkipDir) {
			err = nil
		}
		return err
	}
	sub, err := openFolder(fd, base, unix.O_NOFOLLOW)
	if err != nil {
		return w.do(name, &l.Stat_t, err)
	}
	return w.folder(sub, name, name+"/")
}

// Lstat is what is known of a name.
type Lstat struct {
	unix.Stat_t
	Err error
}

// lookShare are names that one of several goroutines looks at in less than a millisecond.
const lookShare = 256

// Lstats looks at names in an open folder, on all processors. It follows no link.
func Lstats(dir *os.File, names []string) []Lstat {
	looks := make([]Lstat, len(names))
	fd := int(dir.Fd())
	parallel(context.Background(), workers(0), (len(names)+lookShare-1)/lookShare, func(_ context.Context, share int) error {
		for i := share * lookShare; i < min(len(names), (share+1)*lookShare); i++ {
			looks[i].Err = retry(func() error { return unix.Fstatat(fd, names[i], &looks[i].Stat_t, unix.AT_SYMLINK_NOFOLLOW) })
		}
		return nil
	})
	return looks
}
