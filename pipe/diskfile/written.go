package diskfile

import "sync"

const (
	granule    = 64 << 10       // what one bit stands for
	chunkBits  = 4096           // bits in one piece of the map
	chunkWords = chunkBits / 64 // words in it
	chunkBytes = chunkBits * granule
)

// written remembers where a new file may hold something else than zeros, so that zeros can be left out elsewhere
// without asking the file system. For 8 TiB that were all written it takes 16 MiB.
type written struct {
	mu     sync.Mutex
	chunks map[int64]*[chunkWords]uint64
}

// add remembers [off, off+n).
func (w *written) add(off, n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.chunks == nil {
		w.chunks = make(map[int64]*[chunkWords]uint64)
	}
	for g := off / granule; g*granule < off+n; g++ {
		c := w.chunks[g/chunkBits]
		if c == nil {
			c = new([chunkWords]uint64)
			w.chunks[g/chunkBits] = c
		}
		c[g%chunkBits/64] |= 1 << (g % 64)
	}
}

// next finds the first part of [off, end) that may have been written. ok is false where there is none.
func (w *written) next(off, end int64) (from, to int64, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for off < end && !w.has(off) {
		off = w.skip(off)
	}
	if off >= end {
		return 0, 0, false
	}
	to = off
	for to < end && w.has(to) {
		to = (to/granule + 1) * granule
	}
	return off, min(to, end), true
}

func (w *written) has(off int64) bool {
	g := off / granule
	c := w.chunks[g/chunkBits]
	return c != nil && c[g%chunkBits/64]&(1<<(g%64)) != 0
}

// skip goes past a granule that was not written, and past its whole chunk where nothing there was.
func (w *written) skip(off int64) int64 {
	if w.chunks[off/chunkBytes] == nil {
		return (off/chunkBytes + 1) * chunkBytes
	}
	return (off/granule + 1) * granule
}
