package pipe

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"sync"
)

// maxChanged bounds how many ranges of a changed list are kept. A longer list is made coarser: it calls more changed
// than did change, which is always right.
const maxChanged = 1 << 18

// Changed returns an image that knows what differs from the base of the target: what changed calls Unchanged stays
// Unchanged, what it calls Data is refined by img's own extents. So a range that was changed to zeros is Zero, and is
// stored as zero; leaving it out would restore what the base has there.
//
// changed covers the whole disk, ascending and gap-free, with Data and Unchanged; it is read when extents are asked for
// first, and whole before the first answer, because an error in it, or an end before the disk's size, voids all of it.
func Changed(img Image, changed func(ctx context.Context) iter.Seq2[Extent, error]) ExtentImage {
	return &changedImage{Image: img, source: changed}
}

type changedImage struct {
	Image
	source func(context.Context) iter.Seq2[Extent, error]

	mu     sync.Mutex
	loaded bool
	list   []Extent // Data only, in order; the rest is Unchanged
}

func (c *changedImage) Unwrap() Image { return c.Image }

// load reads the list once. A failed load is tried again by the next call.
func (c *changedImage) load(ctx context.Context) ([]Extent, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.loaded {
		return c.list, nil
	}
	var list coarseList
	for e, err := range checkExtents(ctx, c.source(ctx), 0, c.Size()) {
		if err == nil && e.Kind != Data && e.Kind != Unchanged {
			err = fmt.Errorf("%w: %v in a list of changes", ErrExtents, e)
		}
		if err != nil {
			return nil, fmt.Errorf("changed ranges: %w", err)
		}
		if e.Kind == Data {
			list.add(e)
		}
	}
	c.list, c.loaded = list.extents, true
	return c.list, nil
}

// coarseList keeps ranges in order and joins those that lie close where there are too many.
type coarseList struct {
	extents []Extent
	gap     int64 // ranges with less than this between them are joined
}

func (l *coarseList) add(e Extent) {
	if n := len(l.extents); n > 0 && e.Off-l.extents[n-1].End() <= l.gap {
		l.extents[n-1].Len = e.End() - l.extents[n-1].Off
		return
	}
	l.extents = append(l.extents, e)
	for len(l.extents) > maxChanged {
		l.gap = max(2*l.gap, 64<<10)
		all := l.extents
		l.extents = l.extents[:0]
		for _, e := range all {
			if n := len(l.extents); n > 0 && e.Off-l.extents[n-1].End() <= l.gap {
				l.extents[n-1].Len = e.End() - l.extents[n-1].Off
			} else {
				l.extents = append(l.extents, e)
			}
		}
	}
}

func (c *changedImage) Extents(ctx context.Context, off, n int64) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		if off < 0 || n < 0 || n > c.Size()-off {
			yield(Extent{}, &RangeError{Op: "extents", Off: off, Len: n, Err: fs.ErrInvalid})
			return
		}
		list, err := c.load(ctx)
		if err != nil {
			yield(Extent{}, err)
			return
		}
		end := off + n
		for e := range within(list, off, end) {
			if e.Off > off && !yield(Extent{off, e.Off - off, Unchanged}, nil) {
				return
			}
			for x, err := range Extents(ctx, c.Image, e.Off, e.Len) {
				if x.Kind == Unchanged { // against another base: it says nothing about ours
					x.Kind = Data
				}
				if !yield(x, err) || err != nil {
					return
				}
			}
			off = e.End()
		}
		if off < end {
			yield(Extent{off, end - off, Unchanged}, nil)
		}
	}
}

// within yields what of an ordered list lies in [off, end), clipped.
func within(list []Extent, off, end int64) iter.Seq[Extent] {
	first, _ := slices.BinarySearchFunc(list, off, func(e Extent, off int64) int { return cmp.Compare(e.End(), off+1) })
	return func(yield func(Extent) bool) {
		for _, e := range list[first:] {
			from, to := max(e.Off, off), min(e.End(), end)
			if from >= to || !yield(Extent{from, to - from, e.Kind}) {
				return
			}
		}
	}
}
