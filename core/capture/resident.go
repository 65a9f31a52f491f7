package capture

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// resident remembers which pages of a file were in memory before we read it, so that only
// those are given back that we brought in. A linked table is the node's own file:
// FADV_DONTNEED on all of it would throw out what the node has in use. A page that the node
// reads for itself meanwhile is given back too; that costs it one read.
type resident struct {
	pages []byte // a byte a page, its lowest bit is set if it was in memory
	size  int64
}

// residency looks at a file of this size without reading it. Where it can't be told,
// or is not wanted, nothing will be given back.
func residency(f *os.File, size int64, wanted bool) resident {
	const most = 1 << 40 // 256 MiB of flags
	if !wanted || size <= 0 || size > most {
		return resident{}
	}
	// The mapping is only asked about, never read: a file that shrinks can't hurt.
	m, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return resident{}
	}
	defer unix.Munmap(m)
	page := int64(os.Getpagesize())
	pages := make([]byte, (size+page-1)/page)
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(size), uintptr(unsafe.Pointer(&pages[0])))
	if errno != 0 {
		return resident{}
	}
	return resident{pages: pages, size: size}
}

// evict gives back the pages that were not in memory before.
func (r resident) evict(f *os.File) {
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
		// Advice: if it is not taken, memory is a little fuller.
		unix.Fadvise(int(f.Fd()), int64(from)*page, int64(i-from)*page, unix.FADV_DONTNEED)
	}
}
