package capture

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/user"
	"strconv"

	"golang.org/x/sys/unix"
)

// ParseMethod reads a method's name; "" is Auto.
func ParseMethod(s string) (Method, error) {
	switch m := Method(s); m {
	case "":
		return Auto, nil
	case Auto, Clone, Link, Copy:
		return m, nil
	}
	return "", fmt.Errorf("method %q is none of auto, clone, link, copy", s)
}

// pick tries on one file which method works between the two directories.
func pick(src, dst *tree, name string, want Method) (Method, error) {
	trial := fmt.Sprintf("%strial-%016x", tempPrefix, rand.Uint64())
	if want == Copy {
		return Copy, nil
	}
	if want == Auto || want == Clone {
		_, err := cloneFile(src, name, dst, trial)
		dst.remove(trial)
		if err == nil {
			return Clone, nil
		}
		if !impossible(err) {
			return "", fmt.Errorf("trial clone of %s: %w", name, err)
		}
		if want == Clone {
			return "", refusef("%s can't be cloned here (%v): use another --method", name, err)
		}
	}
	_, err := linkFile(src, name, dst, trial)
	dst.remove(trial)
	switch {
	case err == nil:
		return Link, nil
	case err == unix.EPERM:
		if err := src.refuseForeign(name); err != nil {
			return "", err
		}
	case !impossible(err):
		return "", fmt.Errorf("trial link of %s: %w", name, err)
	}
	if want == Link {
		return "", refusef("%s can't be linked here (%v): use another --method", name, err)
	}
	return Copy, nil
}

// impossible tells whether an error of a link or clone means that the file system can't do it.
func impossible(err error) bool {
	switch err {
	case unix.EXDEV, unix.EPERM, unix.EMLINK, unix.EOPNOTSUPP, unix.ENOSYS, unix.ENOTTY, unix.EINVAL:
		return true
	}
	return false
}

// linkFile makes dst/to the same file as src/from, and changes nothing else about it.
func linkFile(src *tree, from string, dst *tree, to string) (unix.Stat_t, error) {
	var st unix.Stat_t
	sfd, sname, err := src.at(from)
	if err != nil {
		return st, err
	}
	dfd, dname, err := dst.at(to)
	if err != nil {
		return st, err
	}
	if err := retry(func() error { return unix.Linkat(sfd, sname, dfd, dname, 0) }); err != nil {
		return st, err
	}
	// What is there now is what was captured, whatever was there before the link.
	if err := unix.Fstatat(dfd, dname, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return st, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Unlinkat(dfd, dname, 0)
		return st, errIrregular
	}
	return st, nil
}

// cloneFile makes dst/to a file of its own that shares src/from's blocks.
func cloneFile(src *tree, from string, dst *tree, to string) (Record, error) {
	sfd, st, err := src.open(from)
	if err != nil {
		return Record{}, err
	}
	defer unix.Close(sfd)
	dfd, err := dst.create(to, st.Mode&0o777)
	if err != nil {
		return Record{}, err
	}
	defer unix.Close(dfd)
	if err := retry(func() error { return unix.IoctlFileClone(dfd, sfd) }); err != nil {
		dst.remove(to)
		return Record{}, err
	}
	var own unix.Stat_t
	if err := unix.Fstat(dfd, &own); err != nil {
		return Record{}, err
	}
	id := IdentOf(&own)
	return Record{Name: from, How: cloned, Src: IdentOf(&st), Own: &id}, nil
}

// mayLink tells what fs.protected_hardlinks will say of a file. The kernel's rule: it is the
// caller's own, or he may read and write it and it gains nobody privileges.
func mayLink(dir int, name string, st *unix.Stat_t) bool {
	if os.Geteuid() == 0 || int(st.Uid) == os.Geteuid() {
		return true
	}
	on, err := os.ReadFile("/proc/sys/fs/protected_hardlinks")
	if err == nil && string(bytes.TrimSpace(on)) == "0" {
		return true
	}
	return st.Mode&unix.S_ISUID == 0 && unix.Faccessat(dir, name, unix.R_OK|unix.W_OK, unix.AT_EACCESS) == nil
}

// mayRead tells whether the caller may read a file.
func mayRead(dir int, name string) bool {
	return unix.Faccessat(dir, name, unix.R_OK, unix.AT_EACCESS) == nil
}

// refuseForeign is why a link of this file was forbidden, if its owner is.
func (t *tree) refuseForeign(name string) error {
	dir, file, err := t.at(name)
	if err != nil {
		return err
	}
	st, err := t.stat(name)
	if err == nil && !mayLink(dir, file, &st) {
		return refuseOwner(name, &st)
	}
	return err
}

func refuseOwner(name string, st *unix.Stat_t) error {
	owner, me := userName(int(st.Uid)), userName(os.Geteuid())
	return refusef("%s belongs to %s, and %s may not capture it: capture as %s (log in as %s, or name it as the owner of the data)",
		name, owner, me, owner, owner)
}

func userName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return "uid " + strconv.Itoa(uid)
}
