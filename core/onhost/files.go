//go:build linux

package onhost

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// cat copies a regular file to standard output.
func cat(c *call) error {
	if err := c.want("PATH"); err != nil {
		return err
	}
	// Without O_NONBLOCK a named pipe would make this wait for ever.
	f, err := os.OpenFile(c.args[0], os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return refusef("%v", err)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil {
		return err
	} else if !fi.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", c.args[0])
	}
	if _, err := io.Copy(c.stdout, f); err != nil {
		return fmt.Errorf("read %s: %w", c.args[0], err)
	}
	return nil
}

// put replaces a file by what is on standard input, in one go. Folders that are missing on the
// way are made, for this user alone.
func put(c *call) error {
	fl := flag.NewFlagSet("put", flag.ContinueOnError)
	fl.SetOutput(c.stderr)
	mode := fl.String("mode", "0600", "permissions, octal")
	rest, err := mixed(fl, c.args)
	if err != nil {
		return err
	}
	if len(rest) != 1 || !filepath.IsAbs(rest[0]) {
		return usagef("put wants one absolute path")
	}
	m, err := strconv.ParseUint(*mode, 8, 32)
	if err != nil || m > 0o777 {
		return usagef("mode %q is not octal permissions", *mode)
	}
	if err := os.MkdirAll(filepath.Dir(rest[0]), 0o700); err != nil {
		return err
	}
	if err := writeFile(rest[0], fs.FileMode(m), c.stdin); err != nil {
		return fmt.Errorf("write %s: %w", rest[0], err)
	}
	return nil
}

// mixed parses flags that may stand before or after the arguments.
func mixed(fl *flag.FlagSet, args []string) (rest []string, err error) {
	for len(args) > 0 {
		if err := fl.Parse(args); err != nil {
			return nil, &exitError{code: 2}
		}
		args = fl.Args()
		if len(args) > 0 {
			rest, args = append(rest, args[0]), args[1:]
		}
	}
	return rest, nil
}
