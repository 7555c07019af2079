package pipe

import (
	"context"
	"fmt"

	"github.com/zeebo/blake3"
)

// Null is a target that takes everything and keeps nothing: it measures a source, and the pipe itself. It is a
// [BlockTarget] that never has a block. Create one by [NewNull].
type Null struct {
	size      int64
	blockSize int
}

// NewNull returns a null target for a disk of size bytes. Its block size must be a power of two; zero is 256 KiB.
func NewNull(size int64, blockSize int) *Null {
	if blockSize == 0 {
		blockSize = 256 << 10
	}
	return &Null{size, blockSize}
}

func (n *Null) Size() int64    { return n.size }
func (n *Null) BlockSize() int { return n.blockSize }

func (n *Null) Fingerprint(p []byte) ID { return blake3.Sum256(p) }

func (n *Null) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 || int64(len(p)) > n.size-off {
		return 0, fmt.Errorf("write [%d, %d) of %d bytes", off, off+int64(len(p)), n.size)
	}
	return len(p), ctx.Err()
}

func (n *Null) Mark(ctx context.Context, e Extent) error { return ctx.Err() }

func (n *Null) Missing(ctx context.Context, ids []ID) ([]bool, error) {
	missing := make([]bool, len(ids))
	for i := range missing {
		missing[i] = true
	}
	return missing, ctx.Err()
}

func (n *Null) PutBlock(ctx context.Context, _ int64, _ ID, _ int, _ Codec, data []byte) (PutResult, error) {
	return PutResult{Stored: int64(len(data))}, ctx.Err()
}

func (n *Null) Commit(ctx context.Context) error { return ctx.Err() }
func (n *Null) Close() error                     { return nil }
