package pipe_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestCompareFindsWhatDiffers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(1, 3<<20).Draw(t, "size")
		seed := rapid.Uint64().Draw(t, "seed")
		a := pipetest.NewPattern(seed, int64(size), pipetest.RandomLayout(seed, int64(size), pipe.Data, pipe.Zero)...)
		content := make([]byte, size)
		_, err := a.ReadAt(context.Background(), content, 0)
		require.NoError(t, err)
		diff, err := pipe.Compare(context.Background(), a, pipetest.Bytes(content), nil)
		require.NoError(t, err)
		require.Empty(t, diff)

		var want []pipe.Extent
		for at := rapid.IntRange(0, size-1).Draw(t, "first"); at < size; at += rapid.IntRange(1, 1<<20).Draw(t, "step") {
			content[at] ^= 0x80
			if n := len(want); n > 0 && int64(at)-want[n-1].End() < 512 {
				want[n-1].Len = int64(at) + 1 - want[n-1].Off
			} else {
				want = append(want, pipe.Extent{Off: int64(at), Len: 1, Kind: pipe.Data})
			}
		}
		limit := rapid.IntRange(1, 20).Draw(t, "limit")
		diff, err = pipe.Compare(context.Background(), pipetest.Bytes(content), a,
			&pipe.CompareOptions{Limit: limit, Workers: rapid.IntRange(0, 3).Draw(t, "workers")})
		require.NoError(t, err)
		require.Equal(t, want[:min(limit, len(want))], diff)
	})
}

func TestCompareDoesNotReadWhatIsZeroInBoth(t *testing.T) {
	const size = 8 << 40
	a := pipetest.NewPattern(1, size, pipe.Extent{Len: size, Kind: pipe.Zero}, pipe.Extent{Off: 1 << 40, Len: 1 << 20, Kind: pipe.Data})
	b := pipetest.NewPattern(1, size, pipe.Extent{Len: size, Kind: pipe.Zero}, pipe.Extent{Off: 1 << 40, Len: 1 << 20, Kind: pipe.Data})
	ma, mb := pipe.Meter(a), pipe.Meter(b)
	diff, err := pipe.Compare(t.Context(), ma, mb, nil)
	require.NoError(t, err)
	require.Empty(t, diff)
	require.Equal(t, int64(1<<20), ma.Counts().Bytes)
	require.Equal(t, int64(1<<20), mb.Counts().Bytes)
}

func TestCompareOfOtherSizes(t *testing.T) {
	a, b := pipetest.NewPattern(1, 5000), pipetest.NewPattern(1, 7000)
	for _, pair := range [][2]pipe.Image{{a, b}, {b, a}} {
		diff, err := pipe.Compare(t.Context(), pair[0], pair[1], nil)
		require.NoError(t, err)
		require.Equal(t, []pipe.Extent{{Off: 5000, Len: 2000, Kind: pipe.Data}}, diff)
	}
}

func TestCompareIgnoresDropped(t *testing.T) {
	src := pipetest.NewPattern(1, 1<<20, pipe.Extent{Off: 100_000, Len: 50_000, Kind: pipe.Swap})
	diff, err := pipe.Compare(t.Context(), src, src.Blank(), nil)
	require.NoError(t, err)
	require.Len(t, diff, 1)
	diff, err = pipe.Compare(t.Context(), src, src.Blank(), &pipe.CompareOptions{IgnoreDropped: true})
	require.NoError(t, err)
	require.Empty(t, diff)
}

func TestCompareFails(t *testing.T) {
	a := pipetest.NewPattern(1, 5<<20)
	for n := int64(1); ; n++ {
		fault := pipetest.FailNth(n, false)
		_, err := pipe.Compare(t.Context(), pipetest.HookImage(a, fault.Hook), a, nil)
		if !fault.Fired() {
			require.NoError(t, err)
			break
		}
		require.ErrorIs(t, err, pipetest.ErrFault)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := pipe.Compare(ctx, a, a, nil)
	require.ErrorIs(t, err, context.Canceled)
	_, err = pipe.Compare(t.Context(), a, a, &pipe.CompareOptions{Limit: -1})
	require.Error(t, err)
	diff, err := pipe.Compare(t.Context(), pipetest.Bytes(nil), pipetest.Bytes(nil), nil)
	require.NoError(t, err)
	require.Empty(t, diff)
	_, err = pipe.Compare(t.Context(), pipetest.ShortReads(a, 10, nil), pipetest.Bytes(bytes.Repeat([]byte{1}, 5<<20)), nil)
	require.Error(t, err)
}
