package capture

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Resident remembers which pages of a part of a file were in memory before somebody reads it, so that
// only those are given back that he brought in. A linked file is the node's own: FADV_DONTNEED on all of
// it would throw out what the node has in use. A page that the node reads for itself meanwhile is
// given back too; that costs it one read.
type Resident struct {
	pages  []byte // a byte a page, its lowest bit is set if it was in memory; nil if all were, or if that can't be told
	off, n int64
	all    bool
}

// LookResident looks at n bytes from off on, a multiple of the page size, without reading them. Where it
// can't be told, nothing will be given back. The kernel says that all are resident to somebody who neither
// owns the file nor may write to it.
func LookResident(f *os.File, off, n int64) Resident {
	const most = 1 << 40 // 256 MiB of flags
	if n <= 0 || n > most {
		return Resident{}
	}
	if allCached(f, off, n) {
		return Resident{off: off, n: n, all: true}
	}
	// The mapping is only asked about, never read: a file that shrinks can't hurt.
	m, err := unix.Mmap(int(f.Fd()), off, int(n), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return Resident{}
	}
	defer unix.Munmap(m)
	page := int64(os.Getpagesize())
	pages := make([]byte, (n+page-1)/page)
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(n), uintptr(unsafe.Pointer(&pages[0])))
	if errno != 0 {
		return Resident{}
	}
	return Resident{pages: pages, off: off, n: n}
}

// allCached asks cachestat(2), of Linux 6.5, which takes a tenth of the time of looking at each page.
func allCached(f *os.File, off, n int64) bool {
	page := int64(os.Getpagesize())
	var is unix.Cachestat_t
	err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{Off: uint64(off), Len: uint64(n)}, &is, 0)
	return err == nil && is.Cache == uint64((n+page-1)/page)
}

// Known tells whether it could be told what was in memory.
func (r Resident) Known() bool { return r.all || r.pages != nil }

// Cached tells how many of the n bytes from this byte of the file on were in memory, by whole pages: 0 where that
// could not be told.
func (r Resident) Cached(off, n int64) int64 {
	if n <= 0 || off < r.off || off+n > r.off+r.n || !r.Known() {
		return 0
	}
	if r.all {
		return n
	}
	page := int64(os.Getpagesize())
	first, end := (off-r.off)/page, (off-r.off+n+page-1)/page
	missing := int64(0)
	for _, p := range r.pages[first:end] {
		missing += int64(^p & 1)
	}
	return max(0, n-missing*page)
}

// Absent yields each run of bytes that was not in memory: where it begins in the file, and its length up to the end of
// its last page.
func (r Resident) Absent(yield func(off, n int64) bool) {
	page := int64(os.Getpagesize())
	for i := 0; i < len(r.pages); {
		if r.pages[i]&1 != 0 {
			i++
			continue
		}
		from := i
		for i < len(r.pages) && r.pages[i]&1 == 0 {
			i++
		}
		if !yield(r.off+int64(from)*page, int64(i-from)*page) {
			return
		}
	}
}

// GiveBack frees the pages that were not in memory before. It is advice: if it is not taken, memory is a
// little fuller.
func (r Resident) GiveBack(f *os.File) {
	for off, n := range r.Absent {
		unix.Fadvise(int(f.Fd()), off, n, unix.FADV_DONTNEED)
	}
}
