package main

import (
	"hash"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// sumMapped sums a piece that is in memory where it lies, which saves the copy that reading makes: a sixth of the
// time. It returns false, and leaves the sum as new, if it can't: the file was cut short meanwhile or the disk
// failed, and who reads the piece then is told which. Pieces that are not in memory are better read, since the
// kernel reads further ahead for that; a few missing pages do not matter.
func sumMapped(sum hash.Hash, f *os.File, at, n int64) (ok bool) {
	b, err := unix.Mmap(int(f.Fd()), at, int(n), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return false
	}
	defer unix.Munmap(b)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if fault := recover(); fault != nil {
			if _, is := fault.(interface{ Addr() uintptr }); !is {
				panic(fault)
			}
			sum.Reset()
			ok = false
		}
	}()
	sum.Write(b)
	return true
}
