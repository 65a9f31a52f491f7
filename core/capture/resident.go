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
	pages []byte // a byte a page, its lowest bit is set if it was in memory; nil if that can't be told
	off   int64
}

// LookResident looks at n bytes from off on, a multiple of the page size, without reading them. Where it
// can't be told, nothing will be given back. The kernel says that all are resident to somebody who neither
// owns the file nor may write to it.
func LookResident(f *os.File, off, n int64) Resident {
	const most = 1 << 40 // 256 MiB of flags
	if n <= 0 || n > most {
		return Resident{}
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
	return Resident{pages, off}
}

// Known tells whether it could be told what was in memory.
func (r Resident) Known() bool { return r.pages != nil }

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
