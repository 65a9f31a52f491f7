package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// placed is a configuration that rclone can read. Path is what --config takes, with the file,
// if any, as its descriptor 3.
type placed struct {
	path   string
	file   *os.File
	remove func()
}

// place gives rclone its configuration in sealed memory: rclone reads it as /proc/self/fd/3, can't write it, and
// it is gone with the last process that holds it. Where that does not work it is a file beside
// the path `beside`, mode 0600; see onDisk. Without content rclone uses its own configuration.
func place(content []byte, beside string) (placed, error) {
	if len(content) == 0 {
		return placed{remove: func() {}}, nil
	}
	if p, err := inMemory(content); err == nil {
		return p, nil
	}
	return onDisk(content, beside)
}

func inMemory(content []byte) (placed, error) {
	fd, err := unix.MemfdCreate("rclone.conf", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return placed{}, fmt.Errorf("make a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "rclone.conf")
	if _, err := f.Write(content); err != nil {
		f.Close()
		return placed{}, fmt.Errorf("write a file in memory: %w", err)
	}
	const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		f.Close()
		return placed{}, fmt.Errorf("seal a file in memory: %w", err)
	}
	// Without /proc, or where it may not be opened again, the kernel's memory is of no use.
	back, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil || !bytes.Equal(back, content) {
		f.Close()
		return placed{}, errors.Join(errors.New("a file in memory can't be read through /proc"), err)
	}
	return placed{path: "/proc/self/fd/3", file: f, remove: func() { f.Close() }}, nil
}

// onDisk writes the configuration to a new file beside a path, 0600 and locked. It is removed by
// remove, by the next onDisk beside the same path, and at once by the process "reap"
// if this one dies without a word.
func onDisk(content []byte, beside string) (placed, error) {
	if beside == "" {
		beside = filepath.Join(os.TempDir(), "rclone.conf")
	}
	sweep(beside)
	f, err := os.CreateTemp(filepath.Dir(beside), filepath.Base(beside)+".snapfw-*") // 0600 and exclusive
	if err != nil {
		return placed{}, fmt.Errorf("write rclone's configuration: %w; set config_path_on_client to a place that may be written", err)
	}
	undo := func() { os.Remove(f.Name()); f.Close() }
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		undo()
		return placed{}, fmt.Errorf("lock rclone's configuration: %w", err)
	}
	tell, err := startReaper(f.Name())
	if err != nil {
		undo()
		return placed{}, err
	}
	if _, err := f.Write(content); err != nil {
		undo()
		tell.Close()
		return placed{}, fmt.Errorf("write rclone's configuration: %w", err)
	}
	return placed{path: f.Name(), remove: func() { undo(); tell.Close() }}, nil
}

// sweep removes what killed runs left: the files whose lock nobody holds.
func sweep(beside string) {
	left, err := filepath.Glob(globQuote(beside) + ".snapfw-*")
	if err != nil {
		return
	}
	for _, name := range left {
		f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			os.Remove(name)
		}
		f.Close()
	}
}

func globQuote(s string) string {
	var b bytes.Buffer
	for _, c := range []byte(s) {
		if bytes.IndexByte([]byte(`*?[\`), c) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
	return b.String()
}

// startReaper starts this program as "reap FILE" in a session of its own. It waits for the end
// of its standard input, which comes when the returned writer is closed, by us or by the kernel.
func startReaper(file string) (io.Closer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("start the reaper: %w", err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start the reaper: %w", err)
	}
	cmd := exec.Command(self, "reap", file)
	cmd.Env = cleanEnv(os.Getenv)
	cmd.Stdin = read
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	read.Close()
	if err != nil {
		write.Close()
		return nil, fmt.Errorf("start the reaper: %w", err)
	}
	go cmd.Wait()
	return write, nil
}

// reap is the verb behind startReaper.
func reap(file string, stdin io.Reader) int {
	io.Copy(io.Discard, stdin)
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return 1
	}
	return 0
}
