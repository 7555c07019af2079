package nbd

import (
	"context"
	"math/bits"
	"sync"
)

// budget bounds the bytes that one connection holds in memory. Only its session's reader waits for it in turn with its
// workers, so a few waiters are all there are.
type budget struct {
	mu      sync.Mutex
	free    int
	changed chan struct{} // closed and made anew when something is given back
}

func newBudget(bytes int) *budget { return &budget{free: bytes, changed: make(chan struct{})} }

// take waits until n bytes are free.
func (b *budget) take(ctx context.Context, n int) error {
	for {
		b.mu.Lock()
		if b.free >= n {
			b.free -= n
			b.mu.Unlock()
			return nil
		}
		changed := b.changed
		b.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (b *budget) give(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free += n
	close(b.changed)
	b.changed = make(chan struct{})
}

// pools keep buffers by size, from 4 KiB to a portion.
var pools [bufferClasses]sync.Pool

const (
	smallestBuffer = 4 << 10
	bufferClasses  = 9 // 4 KiB << 8 is a portion
)

// buffer returns n bytes of any content, with a capacity of the next power of two.
func buffer(n int) []byte {
	class := max(0, bits.Len(uint(n-1))-bits.Len(uint(smallestBuffer-1)))
	if p, ok := pools[class].Get().(*[]byte); ok {
		return (*p)[:n]
	}
	return make([]byte, n, smallestBuffer<<class)
}

// recycle gives a buffer back.
func recycle(b []byte) {
	class := bits.Len(uint(cap(b)-1)) - bits.Len(uint(smallestBuffer-1))
	b = b[:cap(b)]
	pools[class].Put(&b)
}
