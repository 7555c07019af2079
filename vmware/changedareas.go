package vmware

import (
	"cmp"
	"slices"

	"github.com/hikae/hikae/pipe"
)

const (
	changeGrain = 64 << 10 // bytes that changes are aligned to, outward
	maxAreas    = 1 << 17  // that are kept of one disk; more are made coarser, which calls more changed and is always right
)

// areas collects ranges of a disk that come in any order and overlap.
type areas struct {
	size, grain int64
	most        int // ranges that are kept
	list        []pipe.Extent
}

func newAreas(size int64) *areas { return &areas{size: size, grain: changeGrain, most: maxAreas} }

// add takes a range. What lies behind the end of the disk is left out; one that begins before it, or ends before it begins,
// makes the whole list worthless.
func (a *areas) add(start, length int64) error {
	if start < 0 || length < 0 {
		return lost("the server says that %d bytes at %d changed", length, start)
	}
	if start >= a.size || length == 0 {
		return nil
	}
	a.list = append(a.list, a.align(start, start+min(length, a.size-start)))
	if len(a.list) >= 2*a.most {
		a.merge()
	}
	return nil
}

// align widens a range to whole grains.
func (a *areas) align(from, to int64) pipe.Extent {
	from -= from % a.grain
	if rest := to % a.grain; rest != 0 {
		to += min(a.grain-rest, a.size-to)
	}
	return pipe.Extent{Off: from, Len: to - from, Kind: pipe.Data}
}

func (a *areas) merge() {
	slices.SortFunc(a.list, func(x, y pipe.Extent) int { return cmp.Compare(x.Off, y.Off) })
	for {
		out := a.list[:0]
		for _, e := range a.list {
			if n := len(out); n > 0 && e.Off <= out[n-1].End() {
				out[n-1].Len = max(out[n-1].End(), e.End()) - out[n-1].Off
			} else {
				out = append(out, e)
			}
		}
		a.list = out
		if len(out) <= a.most {
			return
		}
		a.grain *= 2
		for i, e := range out {
			out[i] = a.align(e.Off, e.End())
		}
	}
}

func (a *areas) done() []pipe.Extent {
	a.merge()
	return a.list
}

// cover yields a list of ranges and what lies between them, which is of another kind, up to the end of the disk.
func cover(list []pipe.Extent, size int64, between pipe.Kind, yield func(pipe.Extent, error) bool) bool {
	pos := int64(0)
	for _, e := range list {
		if e.Off > pos && !yield(pipe.Extent{Off: pos, Len: e.Off - pos, Kind: between}, nil) {
			return false
		}
		if e.Len > 0 && !yield(e, nil) {
			return false
		}
		pos = e.End()
	}
	return pos >= size || yield(pipe.Extent{Off: pos, Len: size - pos, Kind: between}, nil)
}
