package pipe

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// alignExtents is held against the same rule said block by block.
func TestAlignExtentsIsTheRuleForEachBlock(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(0, 400).Draw(t, "size")
		bs := int64(1) << rapid.IntRange(0, 6).Draw(t, "bits")
		var list []Extent
		kinds := make([]Kind, size)
		for off := int64(0); off < size; {
			n := min(size-off, rapid.Int64Range(1, 100).Draw(t, "length"))
			e := Extent{off, n, Kind(rapid.IntRange(0, int(Unchanged)).Draw(t, "kind"))}
			for i := range n {
				kinds[off+i] = e.Kind
			}
			list = append(list, e)
			off += n
		}
		seq := func(yield func(Extent, error) bool) {
			for _, e := range list {
				if !yield(e, nil) {
					return
				}
			}
		}
		pos, last := int64(0), Unchanged+1
		for e, err := range alignExtents(checkExtents(context.Background(), seq, 0, size), bs, size) {
			require.NoError(t, err)
			require.Equal(t, pos, e.Off)
			require.NotEqual(t, last, e.Kind, "neighbours of one kind are one")
			for at := e.Off; at < e.End(); at += bs {
				require.Zero(t, at%bs)
				require.Equal(t, naiveKind(kinds[at:min(size, at+bs)]), e.Kind, "block at %d", at)
			}
			pos, last = e.End(), e.Kind
		}
		require.Equal(t, size, pos)
	})
}

func naiveKind(kinds []Kind) Kind {
	count := map[Kind]int{}
	first := Zero
	for _, k := range kinds {
		if count[k]++; first == Zero {
			first = k
		}
	}
	switch {
	case len(count) == 1:
		return kinds[0]
	case count[Data] > 0 || count[Unchanged] > 0:
		return Data
	case count[Bad] > 0:
		return Bad
	}
	return first
}

// Whatever is asked for, the parts of the budget fit into it; only two blocks, or one small read, are always allowed.
func TestDivideKeepsToTheBudget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		budget := rapid.Int64Range(0, 1<<30).Draw(t, "budget")
		bs := 0
		if bits := rapid.IntRange(8, 22).Draw(t, "bits"); bits > 8 {
			bs = 1 << bits
		}
		l := divide(budget, bs, rapid.IntRange(1, 100).Draw(t, "outs"))
		require.Positive(t, l.batches)
		require.True(t, bs == 0 || l.batchBytes%bs == 0 && l.outs > 0)
		used := int64(l.batches)*int64(l.batchBytes) + int64(l.outs)*int64(bs)
		require.LessOrEqual(t, used, max(budget, int64(max(bs, minReadBytes))+max(int64(bs), budget/4)))
	})
}
