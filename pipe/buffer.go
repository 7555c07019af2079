package pipe

import (
	"context"
	"sync"
	"sync/atomic"
)

// readBytes is how much one read asks for: large enough for a disk to stream and a wire to fill, small enough to stay
// near the processor.
const readBytes = 1 << 20

// minReadBytes is the least that a read is made smaller to, so that a small BufferBytes still leaves several buffers.
const minReadBytes = 64 << 10

// batch is one read of the image on its way through the stages: a contiguous range in one buffer. Its parts settle one
// by one, and the buffer goes back when the last has.
type batch struct {
	Extent
	buf    []byte
	bad    []Extent // could not be read: zeros in buf
	blocks []block  // for a BlockTarget
	parts  atomic.Int32
}

func (b *batch) bytes() []byte { return b.buf[:b.Len] }

// block is one block of a batch.
type block struct {
	batch *batch
	off   int64
	plain []byte
	id    ID
	kind  Kind // Data, or what to mark it as

	codec   Codec
	data    []byte     // what to put; nil where the target has the block
	out     []byte     // the buffer behind data, to be given back; nil where data is plain itself
	placed  *PutResult // an Assembler has stored it
	pending bool       // others wait for this block to be put
	next    *block     // waits for the same content
}

// layout is how BufferBytes are divided.
type layout struct {
	batchBytes int // length of one read
	batches    int // how many reads are in flight
	outs       int // how many encoded blocks are in flight, each of blockSize
}

// divide lays out budget bytes for blocks of blockSize (zero: a target without blocks).
func divide(budget int64, blockSize, outs int) layout {
	smallest := max(blockSize, minReadBytes)
	l := layout{batchBytes: max(blockSize, readBytes)}
	for l.batchBytes > smallest && budget/int64(l.batchBytes) < 16 {
		l.batchBytes /= 2
	}
	if blockSize > 0 {
		l.outs = int(max(1, min(int64(outs), budget/4/int64(blockSize))))
	}
	left := budget - int64(l.outs)*int64(blockSize)
	l.batches = int(min(max(1, left/int64(l.batchBytes)), 4096))
	return l
}

// pool hands out a fixed number of things. They are made when first needed, and the one given back last is handed out
// first: so a copy touches no more memory than it needs, and what it touches is still in the processor's caches.
type pool[T any] struct {
	tokens chan struct{}
	make   func() T
	mu     sync.Mutex
	free   []T
}

func newPool[T any](n int, make_ func() T) *pool[T] {
	return &pool[T]{tokens: make(chan struct{}, n), make: make_}
}

// get waits for one.
func (p *pool[T]) get(ctx context.Context) (T, error) {
	if err := send(ctx, p.tokens, struct{}{}); err != nil {
		var zero T
		return zero, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.free) - 1
	if n < 0 {
		return p.make(), nil
	}
	v := p.free[n]
	p.free = p.free[:n]
	return v, nil
}

// put gives one back.
func (p *pool[T]) put(v T) {
	p.mu.Lock()
	p.free = append(p.free, v)
	p.mu.Unlock()
	<-p.tokens
}
