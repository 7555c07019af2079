package pipetest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"testing"

	"github.com/hikae/hikae/pipe"
	"github.com/stretchr/testify/require"
)

// OpenTarget makes a new target of size bytes that holds zeros. After its Commit, read returns what it then holds; the
// suite closes that image.
type OpenTarget func(t testing.TB, size int64) (target pipe.Target, read func() pipe.Image)

// TestTarget holds a target to the contract of pipe.Target, and of pipe.ExtentTarget and pipe.BlockTarget where it has
// those abilities.
func TestTarget(t *testing.T, open OpenTarget) {
	for _, size := range targetSizes {
		t.Run(fmt.Sprintf("copy of %d bytes", size), func(t *testing.T) { testCopyTo(t, open, size) })
	}
	t.Run("writes in any order", func(t *testing.T) { testWrites(t, open) })
	t.Run("marks", func(t *testing.T) { testMarks(t, open) })
	t.Run("refusals", func(t *testing.T) { testRefusals(t, open) })
	t.Run("abandon", func(t *testing.T) { testAbandon(t, open) })
}

// targetSizes cluster at the edges of sectors, cells and blocks.
var targetSizes = []int64{0, 1, 511, 512, 513, 4096, 65535, 65536, 65537, 256<<10 + 1, 1<<20 - 1, 3<<20 + 512}

// testCopyTo copies a pattern with holes and reasons into the target.
func testCopyTo(t *testing.T, open OpenTarget, size int64) {
	for seed := range uint64(3) {
		target, read := open(t, size)
		require.Equal(t, size, target.Size())
		src := NewPattern(seed, size, RandomLayout(seed, size, pipe.Data, pipe.Zero, pipe.Data, pipe.Free, pipe.Swap)...)
		stats, err := pipe.Copy(t.Context(), target, src, nil)
		require.NoError(t, err)
		require.NoError(t, target.Commit(t.Context()))
		require.NoError(t, target.Close())
		require.Equal(t, size, stats.Size)
		got := read()
		requireCopied(t, target, got, src)
		require.NoError(t, got.Close())
	}
}

// requireCopied compares a copy with its source. A target with blocks may hold the content of dropped ranges that share
// a block with data; elsewhere they are zero.
func requireCopied(t testing.TB, target pipe.Target, got pipe.Image, src *Pattern) {
	t.Helper()
	if _, ok := target.(pipe.BlockTarget); !ok {
		TestImage(t, got, src.Blank())
		return
	}
	diff, err := pipe.Compare(t.Context(), got, src, &pipe.CompareOptions{IgnoreDropped: true, Limit: 10})
	require.NoError(t, err)
	require.Empty(t, diff)
	TestImage(t, got, got)
}

// testWrites writes pieces of odd lengths from back to front, then some of them again.
func testWrites(t *testing.T, open OpenTarget) {
	const size = 700_001
	target, read := open(t, size)
	defer target.Close()
	want := make([]byte, size)
	r := rand.New(rand.NewPCG(1, 2))
	write := func(off, n int64) {
		p := want[off : off+n]
		for i := range p {
			p[i] = byte(r.Uint32())
		}
		m, err := target.WriteAt(t.Context(), p, off)
		if _, blocks := target.(pipe.BlockTarget); blocks && errors.Is(err, errors.ErrUnsupported) {
			t.Skip("the target takes blocks and no single writes")
		}
		require.NoError(t, err)
		require.Equal(t, len(p), m)
	}
	for end := int64(size); end > 0; {
		n := min(end, 1+r.Int64N(100_000))
		write(end-n, n)
		end -= n
	}
	for range 20 {
		off := r.Int64N(size)
		write(off, min(size-off, r.Int64N(9000)))
	}
	require.NoError(t, target.Commit(t.Context()))
	got := read()
	defer got.Close()
	TestImage(t, got, Bytes(want))
}

// testMarks: marking replaces what the target held in the range before.
func testMarks(t *testing.T, open OpenTarget) {
	const size = 1<<20 + 100
	target, read := open(t, size)
	defer target.Close()
	marker, ok := target.(pipe.ExtentTarget)
	if !ok {
		t.Skip("the target takes no marks")
	}
	want := make([]byte, size)
	for i := range want {
		want[i] = byte(i%251 + 1)
	}
	_, err := target.WriteAt(t.Context(), want, 0)
	if _, blocks := target.(pipe.BlockTarget); blocks && errors.Is(err, errors.ErrUnsupported) {
		t.Skip("the target takes blocks and no single writes")
	}
	require.NoError(t, err)
	marks := []pipe.Extent{
		{Off: 0, Len: 1, Kind: pipe.Zero}, {Off: 4095, Len: 2, Kind: pipe.Free}, {Off: 60_000, Len: 300_000, Kind: pipe.Swap},
		{Off: 512 << 10, Len: 256 << 10, Kind: pipe.Excluded}, {Off: size - 50, Len: 50, Kind: pipe.Bad},
	}
	if b, ok := target.(pipe.BlockTarget); ok {
		bs := int64(b.BlockSize())
		marks = []pipe.Extent{{Off: 0, Len: min(bs, size), Kind: pipe.Free}, {Off: size &^ (bs - 1), Len: size & (bs - 1), Kind: pipe.Bad}}
	}
	for _, e := range marks {
		require.NoError(t, marker.Mark(t.Context(), e), "%v", e)
		clear(want[e.Off:e.End()])
	}
	require.NoError(t, target.Commit(t.Context()))
	got := read()
	defer got.Close()
	TestImage(t, got, Bytes(want))
}

// testRefusals: what lies outside the disk, what cannot be marked, and what comes too late.
func testRefusals(t *testing.T, open OpenTarget) {
	const size = 128 << 10
	target, _ := open(t, size)
	defer target.Close()
	ctx := t.Context()
	for _, off := range []int64{-1, size, size - 3, size + 1, 1<<63 - 2} {
		_, err := target.WriteAt(ctx, make([]byte, 4), off)
		require.Error(t, err, "write at %d", off)
	}
	if marker, ok := target.(pipe.ExtentTarget); ok {
		for _, e := range []pipe.Extent{
			{Off: 0, Len: 64 << 10, Kind: pipe.Data}, {Off: 0, Len: 64 << 10, Kind: 77}, {Off: -1, Len: 2, Kind: pipe.Zero},
			{Off: 0, Len: -1, Kind: pipe.Zero}, {Off: size, Len: 1, Kind: pipe.Zero}, {Off: 0, Len: 1 << 62, Kind: pipe.Zero},
			{Off: 0, Len: size, Kind: pipe.Unchanged}, // there is no base
		} {
			require.Error(t, marker.Mark(ctx, e), "mark %v", e)
		}
		require.NoError(t, marker.Mark(ctx, pipe.Extent{Len: size, Kind: pipe.Zero}), "a refusal changes nothing")
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	require.Error(t, target.Commit(cancelled), "commit with a cancelled context")
}

// testAbandon: Close without Commit is no error, may come twice, and ends the target.
func testAbandon(t *testing.T, open OpenTarget) {
	const size = 64 << 10
	target, _ := open(t, size)
	require.NoError(t, target.Close())
	_ = target.Close()
	_, err := target.WriteAt(t.Context(), make([]byte, size), 0)
	if err != nil && !errors.Is(err, fs.ErrClosed) {
		t.Logf("a write after Close fails with %v; fs.ErrClosed would say more", err)
	}
	require.Error(t, err, "a write after Close")
}
