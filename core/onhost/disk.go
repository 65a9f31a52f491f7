//go:build linux

package onhost

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// writeFile replaces a file in one go: a reader sees the old bytes or the new ones, and after
// a power cut too.
func writeFile(path string, mode fs.FileMode, r io.Reader) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err := io.Copy(f, r); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// touch makes an empty file, which a full disk still has room for.
func touch(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), syncDir(filepath.Dir(path)))
}

func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return writeFile(path, 0o600, strings.NewReader(string(b)+"\n"))
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// move renames within a folder and tells whether this call did it; it is false when
// somebody else moved the file before.
func move(dir, from, to string) (bool, error) {
	err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, syncDir(dir)
}

// lockFile opens a file and locks it until it is closed; with wait false it returns
// unix.EWOULDBLOCK when somebody else has it.
func lockFile(path string, wait bool) (*os.File, error) {
	how := unix.LOCK_EX
	if !wait {
		how |= unix.LOCK_NB
	}
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(f.Fd()), how)
		if err == nil && sameFile(f, path) {
			return f, nil
		}
		f.Close()
		if err != nil && err != unix.EINTR {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
	}
}

// sameFile tells whether an open file still has this name: whoever had the lock before may have
// removed it.
func sameFile(f *os.File, path string) bool {
	a, err1 := f.Stat()
	b, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(a, b)
}

// checkName refuses what must not become a file name: a segment of an ID, a key, a lock.
func checkName(what, s string) error {
	ok := s != "" && len(s) <= 128 && s[0] != '.' && s[0] != '-'
	for _, r := range s {
		ok = ok && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-')
	}
	if !ok {
		return fmt.Errorf("%s %q: 1 to 128 of A-Z a-z 0-9 . _ -, and not . or - in front", what, s)
	}
	return nil
}

// poll waits a little longer each time, from 2 ms to 200 ms.
type poll struct{ d time.Duration }

func (p *poll) next() time.Duration {
	p.d = min(max(p.d*5/4, p.d+2*time.Millisecond), 200*time.Millisecond)
	return p.d
}

func (p *poll) sleep() { time.Sleep(p.next()) }

func (p *poll) reset() { p.d = 0 }
