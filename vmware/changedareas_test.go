package vmware

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
)

func TestAreasCoverWhatWasAdded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(1, 1<<24).Draw(t, "size")
		a := newAreas(size)
		changed := map[int64]bool{}
		for range rapid.IntRange(0, 40).Draw(t, "count") {
			start := rapid.Int64Range(0, size+changeGrain).Draw(t, "start")
			n := rapid.Int64Range(0, 1<<19).Draw(t, "length")
			require.NoError(t, a.add(start, n))
			for off := start / changeGrain * changeGrain; n > 0 && start < size && off < min(start+n, size); off += changeGrain {
				changed[off] = true
			}
		}
		pos := int64(0)
		require.True(t, cover(a.done(), size, pipe.Unchanged, func(e pipe.Extent, err error) bool {
			require.NoError(t, err)
			require.Equal(t, pos, e.Off)
			require.Positive(t, e.Len)
			for off := e.Off; off < e.End(); off += changeGrain {
				require.Equal(t, e.Kind == pipe.Data, changed[off], off)
			}
			pos = e.End()
			require.True(t, pos%changeGrain == 0 || pos == size)
			return true
		}))
		require.Equal(t, size, pos)
	})
}

func TestAreasAreBounded(t *testing.T) {
	const size = 1 << 45
	a := newAreas(size)
	require.Equal(t, maxAreas, a.most)
	if !allSteps() {
		a.most = maxAreas >> 6
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	var offs []int64
	for range 3 * a.most {
		off := rnd.Int64N(size)
		offs = append(offs, off)
		require.NoError(t, a.add(off, 1))
		require.Less(t, len(a.list), 2*a.most)
	}
	list := a.done()
	require.LessOrEqual(t, len(list), a.most)
	for _, off := range offs[:1000] {
		found := false
		for _, e := range list {
			if found = e.Off <= off && off < e.End(); found {
				break
			}
		}
		require.True(t, found, off)
	}
}

func TestAreasRefuseNonsense(t *testing.T) {
	a := newAreas(1 << 20)
	require.ErrorIs(t, a.add(-1, 5), hikae.ErrTrackingLost)
	require.ErrorIs(t, a.add(5, -1), hikae.ErrTrackingLost)
	require.NoError(t, a.add(math.MaxInt64, math.MaxInt64))
	require.NoError(t, a.add(5, math.MaxInt64))
	require.Equal(t, []pipe.Extent{{Off: 0, Len: 1 << 20, Kind: pipe.Data}}, a.done())
}
