package exclude

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
)

// The tracks give back what was put into them, from any place; where the block size is known they keep every whole block
// that may go.
func TestTracksAgainstAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const units = 4000
		block := rapid.SampledFrom([]int64{0, 512, 4096, 32 << 10}).Draw(t, "block")
		size := int64(units * unit)
		model := make([]pipe.Kind, units)
		var tracks []*track
		for at := int64(0); at < units; {
			end := min(at+rapid.Int64Range(1, 2500).Draw(t, "place"), units)
			w := &trackWriter{track: track{off: at * unit, end: end * unit, last: at * unit}, block: block, diskSize: size}
			for at < end {
				at += rapid.Int64Range(0, 40).Draw(t, "gap")
				n := min(rapid.Int64Range(1, 90).Draw(t, "n"), end-at)
				if n <= 0 {
					break
				}
				kind := rapid.SampledFrom([]pipe.Kind{pipe.Free, pipe.Swap, pipe.Excluded}).Draw(t, "kind")
				w.add(at*unit, n*unit, kind)
				for i := range n {
					model[at+i] = kind
				}
				at += n
			}
			w.flush()
			at = end
			if w.count > 0 {
				tracks = append(tracks, &w.track)
			}
		}
		p := &Plan{disks: map[string][]*track{"d": tracks}}
		got := make([]pipe.Kind, units)
		for e := range p.Extents("d", 0, size) {
			for i := e.Off / unit; i < e.End()/unit; i++ {
				require.Zero(t, got[i], "twice")
				got[i] = e.Kind
			}
		}
		for i := range got {
			if got[i] != 0 {
				require.Equal(t, model[i], got[i], "unit %d", i)
			}
		}
		per := max(block/unit, 1)
		for at := int64(0); at < units && block <= 4096; at += per { // within one place at least
			whole := true
			for i := at; i < min(at+per, units); i++ {
				whole = whole && model[i] != 0
			}
			one := false
			for _, tr := range tracks {
				one = one || tr.off <= at*unit && min((at+per)*unit, size) <= tr.end
			}
			if whole && one {
				require.NotZero(t, got[at], "block at unit %d may go", at)
			}
		}
		off := rapid.Int64Range(0, units-1).Draw(t, "from") * unit
		n := rapid.Int64Range(0, size-off).Draw(t, "length") &^ (unit - 1)
		some := make([]pipe.Kind, units)
		for e := range p.Extents("d", off, n) {
			require.True(t, e.Off >= off && e.End() <= off+n && e.Len > 0)
			for i := e.Off / unit; i < e.End()/unit; i++ {
				some[i] = e.Kind
			}
		}
		for i := off / unit; i < (off+n)/unit; i++ {
			require.Equal(t, got[i], some[i])
		}
		requireImage(t, p, got, size, off, n)
	})
}

// requireImage: a range that the disk itself calls zero stays so, and reading is as it was.
func requireImage(t require.TestingT, p *Plan, got []pipe.Kind, size, off, n int64) {
	inner := pipetest.NewPattern(1, size, pipe.Extent{Off: size / 3, Len: size / 7, Kind: pipe.Zero})
	img := p.Image("d", inner)
	pos := off
	for e, err := range pipe.Extents(context.Background(), img, off, n) {
		require.NoError(t, err)
		require.Equal(t, pos, e.Off)
		pos = e.End()
		for at := e.Off; at < e.End(); at += unit {
			want := got[at/unit]
			if at >= size/3 && at < size/3+size/7 || want == 0 && e.Kind == pipe.Zero {
				want = pipe.Zero
			} else if want == 0 {
				want = pipe.Data
			}
			if at/unit != size/3/unit && at/unit != (size/3+size/7)/unit { // units that are partly zero
				require.Equal(t, want, e.Kind, "at %d", at)
			}
		}
	}
	require.Equal(t, off+n, pos)
	a, b := make([]byte, 4096), make([]byte, 4096)
	at := min(off, size-4096)
	_, err := inner.ReadAt(context.Background(), a, at)
	require.NoError(t, err)
	_, err = img.ReadAt(context.Background(), b, at)
	require.NoError(t, err)
	require.Equal(t, a, b)
}

// A busy file system of 2 TiB: ten million free ranges take little memory, and less where blocks are known.
func TestPlanStaysSmall(t *testing.T) {
	for _, block := range []int64{0, 256 << 10} {
		w := &trackWriter{track: track{end: 2 << 40}, block: block, diskSize: 2 << 40}
		r := rand.New(rand.NewPCG(1, 1))
		at, n := int64(0), 0
		for ; n < 10_000_000/16; n++ { // a sixteenth; the cost is by range
			at += 4096 * (1 + r.Int64N(25))
			length := 4096 * (1 + r.Int64N(25))
			w.add(at, length, pipe.Free)
			at += length
		}
		w.flush()
		t.Logf("blocks of %d: %d bytes for %d ranges", block, w.bytes(), n)
		require.LessOrEqual(t, w.bytes()*16, 96<<20)
		if block > 0 {
			require.Zero(t, w.bytes())
		}
	}
}
