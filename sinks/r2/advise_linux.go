package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// readOnce tells the kernel not to push out for this file what the node has in memory. It is advice: where
// it is not known (before Linux 6.3), nothing changes.
func readOnce(f *os.File) { _ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_NOREUSE) }
