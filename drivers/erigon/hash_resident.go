package main

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A node may be using the files that we read, and their pages are its working set. So pages
// that were in memory before stay there, and those that we brought in are given back: a release
// that reads terabytes leaves the page cache as it found it. A page that the node reads for
// itself meanwhile is given back too; that costs it one read.

// residentPages tells which pages of a part of a file are in memory: a byte a page, its lowest bit set.
// off is a multiple of the page size. Where it can't be told, it returns nil, and nothing is given
// back. The kernel says that all are resident to somebody who neither owns the file nor may write to it.
func residentPages(f *os.File, off, n int64) []byte {
	// The mapping is only asked about, never read: a file that shrinks can't hurt.
	m, err := unix.Mmap(int(f.Fd()), off, int(n), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil
	}
	defer unix.Munmap(m)
	page := int64(os.Getpagesize())
	pages := make([]byte, (n+page-1)/page)
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(n), uintptr(unsafe.Pointer(&pages[0])))
	if errno != 0 {
		return nil
	}
	return pages
}

// absentRuns calls do for each run of pages that were not in memory.
func absentRuns(pages []byte, do func(first, n int64)) {
	for i := 0; i < len(pages); {
		if pages[i]&1 != 0 {
			i++
			continue
		}
		from := i
		for i < len(pages) && pages[i]&1 == 0 {
			i++
		}
		do(int64(from), int64(i-from))
	}
}

// giveBack frees the pages that were not in memory when residentPages looked. It is advice: if it
// is not taken, memory is a little fuller.
func giveBack(f *os.File, off int64, pages []byte) {
	page := int64(os.Getpagesize())
	absentRuns(pages, func(first, n int64) {
		unix.Fadvise(int(f.Fd()), off+first*page, n*page, unix.FADV_DONTNEED)
	})
}
