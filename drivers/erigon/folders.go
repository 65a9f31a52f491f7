package main

import (
	"os"
	"path"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// folders looks at files of a tree from the descriptors of their folders, which are opened once: that takes a third of what looking
// by whole paths does. The folders may be symbolic links, as large ones often are; the files may not.
type folders struct {
	root string
	mu   sync.Mutex
	open map[string]*os.File
}

func openFolders(root string) *folders { return &folders{root: root, open: map[string]*os.File{}} }

func (f *folders) close() {
	for _, dir := range f.open {
		dir.Close()
	}
}

// in returns the open folder of a file, and the file's name in it. name is relative, with forward slashes.
func (f *folders) in(name string) (dir *os.File, file string, err error) {
	up, file := path.Split(name)
	f.mu.Lock()
	defer f.mu.Unlock()
	dir, ok := f.open[up]
	if !ok {
		if dir, err = openFolder(filepath.Join(f.root, up)); err != nil {
			return nil, file, err
		}
		f.open[up] = dir
	}
	return dir, file, nil
}

// ident tells what a file is, whatever its type.
func (f *folders) ident(name string) (fileIdent, error) {
	dir, file, err := f.in(name)
	if err != nil {
		return fileIdent{}, err
	}
	st, err := statAt(dir, file)
	if err != nil {
		return fileIdent{}, &os.PathError{Op: "look at", Path: filepath.Join(f.root, name), Err: err}
	}
	return identOfStat(&st), nil
}

// openFolder opens a folder and nothing else: opening a fifo would hang.
func openFolder(dir string) (*os.File, error) {
	return os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
}

// statAt looks at a name in an open folder. It follows no link.
func statAt(dir *os.File, file string) (st unix.Stat_t, err error) {
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Fstatat(int(dir.Fd()), file, &st, unix.AT_SYMLINK_NOFOLLOW)
	}
	return st, err
}

// linkAt makes to in one open folder the same file as from in another. One that is there is replaced.
func linkAt(from *os.File, name string, to *os.File) error {
	for {
		switch err := unix.Linkat(int(from.Fd()), name, int(to.Fd()), name, 0); err {
		case unix.EINTR:
		case unix.EEXIST:
			if err := unix.Unlinkat(int(to.Fd()), name, 0); err != nil && err != unix.ENOENT {
				return err
			}
		default:
			return err
		}
	}
}
