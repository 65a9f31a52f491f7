package capture

import (
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// maxFolders bounds the descriptors that a hostile list could make us hold.
const maxFolders = 400

// tree reaches the files below a directory by descriptors of their folders: names are resolved once
// a folder, and no symbolic link below the root is followed.
type tree struct {
	mu   sync.Mutex
	dirs map[string]int // by folder, "" is the root
	make bool           // missing folders are made
}

func openTree(root string, make bool) (*tree, error) {
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", root, err)
	}
	return &tree{dirs: map[string]int{"": fd}, make: make}, nil
}

func (t *tree) close() {
	for _, fd := range t.dirs {
		unix.Close(fd)
	}
}

// at returns the descriptor of a file's folder and the file's name in it.
func (t *tree) at(name string) (int, string, error) {
	dir, file := "", name
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		dir, file = name[:i], name[i+1:]
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	fd, err := t.folder(dir)
	return fd, file, err
}

func (t *tree) folder(dir string) (int, error) {
	if fd, ok := t.dirs[dir]; ok {
		return fd, nil
	}
	if len(t.dirs) > maxFolders {
		return 0, fmt.Errorf("more than %d folders", maxFolders)
	}
	parent, last := "", dir
	if i := strings.LastIndexByte(dir, '/'); i >= 0 {
		parent, last = dir[:i], dir[i+1:]
	}
	up, err := t.folder(parent)
	if err != nil {
		return 0, err
	}
	if t.make {
		if err := unix.Mkdirat(up, last, 0o755); err != nil && err != unix.EEXIST {
			return 0, err
		}
	}
	fd, err := unix.Openat(up, last, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	t.dirs[dir] = fd
	return fd, nil
}

// stat returns a regular file's identity.
func (t *tree) stat(name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	fd, file, err := t.at(name)
	if err != nil {
		return st, err
	}
	if err := retry(func() error { return unix.Fstatat(fd, file, &st, unix.AT_SYMLINK_NOFOLLOW) }); err != nil {
		return st, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return st, errIrregular
	}
	return st, nil
}

// open opens a regular file for reading.
func (t *tree) open(name string) (int, unix.Stat_t, error) {
	var st unix.Stat_t
	dir, file, err := t.at(name)
	if err != nil {
		return -1, st, err
	}
	// O_NONBLOCK: a fifo of that name must not hang us. It changes nothing for a regular file.
	fd := -1
	err = retry(func() (err error) {
		fd, err = unix.Openat(dir, file, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		return err
	})
	if err == unix.ELOOP || err == unix.ENXIO {
		return -1, st, errIrregular
	}
	if err != nil {
		return -1, st, err
	}
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, st, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return -1, st, errIrregular
	}
	return fd, st, nil
}

// create makes a new file for writing.
func (t *tree) create(name string, mode uint32) (int, error) {
	dir, file, err := t.at(name)
	if err != nil {
		return -1, err
	}
	fd := -1
	err = retry(func() (err error) {
		fd, err = unix.Openat(dir, file, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
		return err
	})
	return fd, err
}

func (t *tree) remove(name string) error {
	dir, file, err := t.at(name)
	if err != nil {
		return err
	}
	if err := unix.Unlinkat(dir, file, 0); err != nil && err != unix.ENOENT {
		return err
	}
	return nil
}

var errIrregular = fmt.Errorf("it is not a regular file")

// retry repeats a system call that a signal interrupted; the Go runtime sends some.
func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}
