//go:build unix

package repo

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// allocSlots makes empty slots. What is large is mapped: see slotTable.
func allocSlots(n int) ([]uint64, error) {
	if n < mappedSlots {
		return make([]uint64, n), nil
	}
	b, err := unix.Mmap(-1, 0, 8*n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("memory for %d slots of the index: %w", n, err)
	}
	return unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(b))), n), nil
}

// freeSlots gives back what allocSlots made. Nobody may look at it any more.
func freeSlots(s []uint64) {
	if len(s) < mappedSlots {
		return
	}
	_ = unix.Munmap(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), 8*len(s))) // fails for what was never mapped alone
}
