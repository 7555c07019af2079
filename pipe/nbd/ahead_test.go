package nbd_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/nbd"
)

// slow is an image that counts its reads and can be told to fail or to wait.
type slow struct {
	pipe.Image
	reads atomic.Int64
	bytes atomic.Int64
	fail  atomic.Bool
	wait  chan struct{} // nil: it does not wait
}

var errSlow = errors.New("the test wants it to fail")

func (s *slow) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	s.reads.Add(1)
	s.bytes.Add(int64(len(p)))
	if s.wait != nil {
		select {
		case <-s.wait:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	if s.fail.Load() {
		return 0, errSlow
	}
	return s.Image.ReadAt(ctx, p, off)
}

func newSlow(size int64) *slow { return &slow{Image: pipe.FromReaderAt(random{}, size)} }

// Whatever is asked for by however many, the content is right, and little is kept.
func TestAheadContent(t *testing.T) {
	const unit = 4096
	for _, size := range []int64{0, 1, unit - 1, unit, unit + 1, 100*unit + 77} {
		img := nbd.Ahead(newSlow(size), &nbd.AheadOptions{ChunkBytes: unit, Bytes: 5 * unit})
		var group sync.WaitGroup
		for g := range 4 {
			group.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(size), uint64(g)))
				at := int64(0)
				for range 300 {
					if rnd.IntN(3) == 0 {
						at = rnd.Int64N(size + 2)
					}
					got, want := make([]byte, rnd.IntN(5*unit)), make([]byte, 5*unit)
					n, err := img.ReadAt(t.Context(), got, at)
					wantN := max(0, min(int64(len(got)), size-at))
					if int64(n) != wantN || (n < len(got)) != (err == io.EOF) || n == len(got) && err != nil {
						t.Errorf("%d bytes at %d of %d: %d, %v", len(got), at, size, n, err)
						return
					}
					random{}.ReadAt(want[:n], at)
					if string(got[:n]) != string(want[:n]) {
						t.Errorf("content at %d", at)
						return
					}
					at += int64(n)
				}
			})
		}
		group.Wait()
		require.NoError(t, img.Close())
	}
}

// A reader that goes straight on finds what it needs; one that hops about, or asks for whole chunks, is not read ahead of.
func TestAheadReads(t *testing.T) {
	const unit = 1 << 16
	src := newSlow(64 * unit)
	img := nbd.Ahead(src, &nbd.AheadOptions{ChunkBytes: unit, Chunks: 2})
	p := make([]byte, 4096)
	for off := range int64(unit / 4096) {
		_, err := img.ReadAt(t.Context(), p, off*4096)
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return src.bytes.Load() == 3*unit }, time.Second, time.Millisecond, "the chunk and two ahead")
	_, err := img.ReadAt(t.Context(), p, 40*unit+5)
	require.NoError(t, err)
	require.EqualValues(t, 4, src.reads.Load())
	whole := make([]byte, 2*unit)
	_, err = img.ReadAt(t.Context(), whole, 20*unit)
	require.NoError(t, err)
	_, err = img.ReadAt(t.Context(), whole, 20*unit)
	require.NoError(t, err)
	require.EqualValues(t, 6, src.reads.Load(), "whole chunks are not kept")
	require.NoError(t, img.Close())
}

// An error is given to who asked, and is not kept; who gives up takes nobody along.
func TestAheadErrors(t *testing.T) {
	src := newSlow(1 << 20)
	img := nbd.Ahead(src, nil)
	src.fail.Store(true)
	p := make([]byte, 100)
	_, err := img.ReadAt(t.Context(), p, 5)
	require.ErrorIs(t, err, errSlow)
	src.fail.Store(false)
	_, err = img.ReadAt(t.Context(), p, 5)
	require.NoError(t, err)
	_, err = img.ReadAt(t.Context(), p, -1)
	require.Error(t, err)

	src.wait = make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := img.ReadAt(ctx, make([]byte, 10), 600_000)
		first <- err
	}()
	require.Eventually(t, func() bool { return src.reads.Load() == 3 }, time.Second, time.Millisecond)
	second := make(chan error, 1)
	go func() {
		_, err := img.ReadAt(t.Context(), make([]byte, 10), 600_010)
		second <- err
	}()
	time.Sleep(10 * time.Millisecond) // it waits for the first one's read
	cancel()
	require.ErrorIs(t, <-first, context.Canceled)
	close(src.wait)
	require.NoError(t, <-second)
	require.NoError(t, img.Close())
}
