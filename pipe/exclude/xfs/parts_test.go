package xfs

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// bitmap is what spans mean.
func bitmap(list []span) (b [256]bool) {
	for _, s := range list {
		for i := s.first; uint64(i) < s.end(); i++ {
			b[i] = true
		}
	}
	return b
}

func drawSpans(t *rapid.T, name string) []span {
	return tidySpans(rapid.SliceOfN(rapid.Custom(func(t *rapid.T) span {
		first := rapid.Uint32Range(0, 254).Draw(t, "first")
		return span{first, rapid.Uint32Range(0, min(40, 255-first)).Draw(t, "n")}
	}), 0, 20).Draw(t, name))
}

func TestSpans(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawSpans(t, "a"), drawSpans(t, "b")
		in, out := bitmap(a), bitmap(b)
		both, only := bitmap(intersect(a, b)), bitmap(subtract(a, b))
		for i := range in {
			require.Equal(t, in[i] && out[i], both[i], i)
			require.Equal(t, in[i] && !out[i], only[i], i)
		}
		first := rapid.Uint32Range(0, 200).Draw(t, "first")
		n := rapid.Uint32Range(1, 50).Draw(t, "n")
		hit, ok := overlap(a, first, n)
		require.Equal(t, bytes.Contains(ones(in[first:first+n]), []byte{1}), ok)
		if ok {
			require.True(t, in[hit.first] && hit.n > 0 && hit.first >= first && hit.end() <= uint64(first+n))
		}
	})
}

func ones(list []bool) []byte {
	b := make([]byte, len(list))
	for i, v := range list {
		if v {
			b[i] = 1
		}
	}
	return b
}

// TestOverlay holds it against the volume that it stands for.
func TestOverlay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		disk := bytes.Repeat([]byte{7}, 8<<10)
		want := bytes.Clone(disk)
		o := newOverlay(&budget{left: 1 << 20})
		read := func(p []byte, off int64) error {
			copy(p, disk[off:])
			o.patch(p, off)
			return nil
		}
		for range rapid.IntRange(0, 20).Draw(t, "writes") {
			off := rapid.IntRange(0, 8000).Draw(t, "off")
			p := bytes.Repeat([]byte{byte(rapid.IntRange(0, 3).Draw(t, "byte"))}, rapid.IntRange(1, 1600).Draw(t, "n"))
			p = p[:min(len(p), len(disk)-off)]
			require.NoError(t, o.write(p, int64(off), read))
			copy(want[off:], p)
		}
		off := rapid.IntRange(0, 8000).Draw(t, "from")
		p := make([]byte, rapid.IntRange(1, 8<<10-off).Draw(t, "len"))
		require.NoError(t, read(p, int64(off)))
		require.Equal(t, want[off:off+len(p)], p)
	})
}

func TestOverlayBudget(t *testing.T) {
	o := newOverlay(&budget{left: 10 * (overlaySector + sectorCost)})
	full := bytes.Repeat([]byte{1}, overlaySector)
	base := func(p []byte, off int64) error { return nil }
	for i := range int64(10) {
		require.NoError(t, o.write(full, i*overlaySector, base))
		require.NoError(t, o.write(full, i*overlaySector, base), "a sector is paid for once")
	}
	require.ErrorIs(t, o.write(full, 10*overlaySector, base), errBudget)
}

// TestCoreFields: the table covers the whole core.
func TestCoreFields(t *testing.T) {
	n := 0
	for _, f := range coreFields {
		n += f.n * f.times
	}
	require.Equal(t, inodeCore5, n)
}
