package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"

	"golang.org/x/sys/unix"
)

// putFile writes root/key so that a reader sees the old or the new content, and so does a
// machine that is started anew. Symbolic links lead nowhere outside of root.
func putFile(root, key string, body []byte) error {
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	r, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer r.Close()
	dir := path.Dir(key)
	if err := r.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	temp := path.Join(dir, "."+path.Base(key)+".snapfw-"+rand.Text()[:8])
	if err := writeNew(r, temp, body); err != nil {
		return errors.Join(err, ignoreMissing(r.Remove(temp)))
	}
	if err := r.Rename(temp, key); err != nil {
		return errors.Join(err, ignoreMissing(r.Remove(temp)))
	}
	for ; ; dir = path.Dir(dir) {
		if err := syncDir(r, dir); err != nil || dir == "." {
			return err
		}
	}
}

func writeNew(r *os.Root, name string, body []byte) error {
	f, err := r.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(body)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(r *os.Root, dir string) error {
	d, err := r.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func getFile(root, key string) ([]byte, listed, error) {
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil, listed{}, err
	}
	defer r.Close()
	f, err := r.OpenFile(key, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, listed{}, notThere(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, listed{}, err
	}
	if !info.Mode().IsRegular() {
		return nil, listed{}, fs.ErrNotExist
	}
	body, err := io.ReadAll(io.LimitReader(f, maxObject+1))
	if err == nil && len(body) > maxObject {
		err = fmt.Errorf("%d bytes: %d are the most", info.Size(), maxObject)
	}
	return body, listed{Size: info.Size(), ModTime: info.ModTime()}, err
}

// listFiles calls each for every file under root/folder, with paths relative to that.
func listFiles(root, folder string, each func(listed) error) error {
	r, err := os.OpenRoot(root)
	if err != nil {
		return ignoreMissing(err)
	}
	defer r.Close()
	top := path.Join(".", folder)
	files := r.FS()
	if folder != "" {
		if files, err = fs.Sub(files, folder); err != nil {
			return err
		}
		if info, err := r.Stat(top); err != nil || !info.IsDir() {
			return ignoreMissing(err)
		}
	}
	return fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return ignoreMissing(err)
		}
		info, err := d.Info()
		if err != nil {
			return ignoreMissing(err) // deleted just now
		}
		return each(listed{Path: name, Size: info.Size(), ModTime: info.ModTime()})
	})
}

// deleteFiles removes files and the folders that are empty then, root excepted.
func deleteFiles(root string, keys []string) error {
	r, err := os.OpenRoot(root)
	if err != nil {
		return ignoreMissing(err)
	}
	defer r.Close()
	var errs []error
	for _, key := range keys {
		if info, err := r.Lstat(key); err == nil && info.IsDir() {
			continue // a folder is no object
		}
		if err := ignoreMissing(r.Remove(key)); err != nil {
			errs = append(errs, fmt.Errorf("delete: %w", err))
			continue
		}
		for dir := path.Dir(key); dir != "."; dir = path.Dir(dir) {
			if r.Remove(dir) != nil {
				break // not empty
			}
		}
	}
	return errors.Join(errs...)
}

// notThere makes one error of the ways in which a path can lead to nothing.
func notThere(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return fs.ErrNotExist
	}
	return err
}

func ignoreMissing(err error) error {
	if err = notThere(err); err == fs.ErrNotExist {
		return nil
	}
	return err
}

// copyInside copies root/from to root/to in the kernel, sharing blocks where the file system
// can. A hard link would be cheaper, but who opens one copy to write would change both.
func copyInside(r *os.Root, from, to string, size int64) error {
	src, err := r.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	if info, err := src.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() != size {
		return fmt.Errorf("%s is not the file it was", from)
	}
	if err := r.MkdirAll(path.Dir(to), 0o755); err != nil {
		return err
	}
	if err := ignoreMissing(r.Remove(to)); err != nil {
		return err
	}
	dst, err := r.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil {
		return dst.Close()
	}
	n, err := io.Copy(dst, src) // copy_file_range, where the kernel has it
	if err == nil && n != size {
		err = fmt.Errorf("%s: %d bytes instead of %d", from, n, size)
	}
	return errors.Join(err, dst.Close())
}

// syncFS makes everything below a directory durable: its whole file system.
func syncFS(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
