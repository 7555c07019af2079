package xfs_test

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/fsys"
	"github.com/hikae/hikae/pipe/exclude/xfs"
)

// failing fails one read.
type failing struct {
	pipe.Image
	left atomic.Int64
}

var errDisk = errors.New("the disk failed")

func (f *failing) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if f.left.Add(-1) == 0 {
		return 0, errDisk
	}
	return f.Image.ReadAt(ctx, p, off)
}

// TestReadErrors fails the first read, then the second, and so on: what could not be read is an error, never a doubt about
// the volume and never a shorter answer.
func TestReadErrors(t *testing.T) {
	img := load(t, "busy")
	for n := int64(1); ; n++ {
		vol := &failing{Image: volume(img)}
		vol.left.Store(n)
		f, err := xfs.Open(t.Context(), vol)
		if err == nil {
			_, err = seen(t.Context(), f)
		}
		if vol.left.Load() > 0 {
			require.NoError(t, err)
			require.Greater(t, n, int64(100))
			return
		}
		require.ErrorIs(t, err, errDisk, n)
		if n > 60 {
			n += n / 3 // the same places again and again
		}
	}
}

// TestCancelled: a context that ends is the error, at every step.
func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	img := load(t, "busy")
	f, err := xfs.Open(ctx, volume(img))
	require.NoError(t, err)
	cancel()
	_, err = xfs.Open(ctx, volume(img))
	require.ErrorIs(t, err, context.Canceled)
	for _, err := range f.Free(ctx) {
		require.ErrorIs(t, err, context.Canceled)
	}
}

// TestConcurrent uses one file system from several sides at once.
func TestConcurrent(t *testing.T) {
	f, err := xfs.Open(t.Context(), volume(load(t, "busy1k")))
	require.NoError(t, err)
	want, err := seen(t.Context(), f)
	require.NoError(t, err)
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			got, err := seen(t.Context(), f)
			assert.NoError(t, err)
			assert.Equal(t, want, got)
		})
	}
	wait.Wait()
}

// TestNotInUse asks for nodes that are none.
func TestNotInUse(t *testing.T) {
	f, err := xfs.Open(t.Context(), volume(load(t, "clean")))
	require.NoError(t, err)
	for _, n := range []fsys.Node{0, 1, f.Root() - 1, f.Root() + 63, 1 << 20, 1 << 40, ^fsys.Node(0)} {
		_, err := f.Stat(t.Context(), n)
		require.ErrorIs(t, err, fs.ErrNotExist, n)
	}
	_, err = f.ReadAt(t.Context(), f.Root(), make([]byte, 1), 0)
	require.ErrorIs(t, err, fs.ErrInvalid)
	_, err = f.Readlink(t.Context(), f.Root())
	require.ErrorIs(t, err, fs.ErrInvalid)
	pieces := find(t, f, "pieces")
	for _, err := range f.ReadDir(t.Context(), pieces) {
		require.ErrorIs(t, err, fs.ErrInvalid)
	}
	_, err = f.ReadAt(t.Context(), pieces, make([]byte, 1), -1)
	require.ErrorIs(t, err, fs.ErrInvalid)
}

// TestStopping ends every sequence after its first element.
func TestStopping(t *testing.T) {
	f, err := xfs.Open(t.Context(), volume(load(t, "busy")))
	require.NoError(t, err)
	for range f.Free(t.Context()) {
		break
	}
	for range f.ReadDir(t.Context(), f.Root()) {
		break
	}
	for range f.Runs(t.Context(), find(t, f, "pieces")) {
		break
	}
}
