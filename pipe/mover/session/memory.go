package session

import (
	"math/bits"
	"sync"
)

// memory is what one large payload was read into. It goes back for others to use when nobody refers to it any more.
type memory struct {
	buf   []byte
	class int
}

// A class holds a power of two and some more: a block of 256 KiB with its fields shall not take 512 KiB.
const (
	smallest = 17 // 128 KiB
	slack    = 4 << 10
)

var memories [8]sync.Pool

// borrow returns memory for n bytes.
func borrow(n int) *memory {
	class := max(0, bits.Len(uint(max(1, n-slack)-1))-smallest)
	if class >= len(memories) {
		return &memory{buf: make([]byte, n), class: -1}
	}
	if m, ok := memories[class].Get().(*memory); ok {
		return m
	}
	return &memory{buf: make([]byte, 1<<(smallest+class)+slack), class: class}
}

// free gives the memory to the next who borrows. A nil memory is none.
func (m *memory) free() {
	if m != nil && m.class >= 0 {
		memories[m.class].Put(m)
	}
}
