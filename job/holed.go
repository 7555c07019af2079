package job

import (
	"cmp"
	"context"
	"iter"
	"slices"

	"github.com/hikae/hikae/pipe"
)

// holed is a point's disk as a salvage leaves it: what could not be read is zero.
type holed struct {
	pipe.Image
	holes []Hole // of this disk, ascending
}

// Flight is what the point's disk says: see pipe.Far.
func (h *holed) Flight() pipe.Flight {
	if far, ok := pipe.As[pipe.Far](h.Image); ok {
		return far.Flight()
	}
	return pipe.Flight{}
}

func (h *holed) Extents(ctx context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		for end := off + n; off < end; {
			n, hole := h.part(off, end)
			if hole {
				if !yield(pipe.Extent{Off: off, Len: n, Kind: pipe.Zero}, nil) {
					return
				}
				off += n
				continue
			}
			for e, err := range pipe.Extents(ctx, h.Image, off, n) {
				if !yield(e, err) || err != nil {
					return
				}
			}
			off += n
		}
	}
}

// part is the longest run at off that lies in one hole or in none.
func (h *holed) part(off, end int64) (n int64, hole bool) {
	i, _ := slices.BinarySearchFunc(h.holes, off, func(x Hole, off int64) int { return cmp.Compare(x.Offset+x.Length, off+1) })
	switch {
	case i == len(h.holes) || h.holes[i].Offset >= end:
		return end - off, false
	case h.holes[i].Offset > off:
		return h.holes[i].Offset - off, false
	}
	return min(h.holes[i].Offset+h.holes[i].Length, end) - off, true
}
