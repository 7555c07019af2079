package ext_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/ext"
)

// treacherous is an image that panics from a read on.
type treacherous struct {
	pipe.Image
	left atomic.Int64 // reads until then
}

func (x *treacherous) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if x.left.Add(-1) < 0 {
		panic("index out of range")
	}
	return x.Image.ReadAt(ctx, p, off)
}

// Bitmaps and inodes are read by goroutines of their own, in which a panic is nobody's to recover: it would end the
// program and all its sessions, and not one volume's analysis. The read that fails is the first, then the second, and so
// on until there is none.
func TestPanicWhileReadingAhead(t *testing.T) {
	for left := int64(0); ; left++ {
		x := &treacherous{Image: inMemory(golden(t, "plain"))}
		x.left.Store(1000)
		f, err := ext.Open(t.Context(), x)
		require.NoError(t, err)
		x.left.Store(left)
		err = nil
		for _, e := range f.Free(t.Context()) {
			err = e
		}
		if err == nil {
			require.Positive(t, left)
			return
		}
		require.ErrorContains(t, err, "index out of range")
		require.Less(t, left, int64(1000))
	}
}
