package pipe

import (
	"context"
	"fmt"
	"iter"
)

// checkedExtents yields the extents of the whole image and never trusts them: what it yields is gap-free, ascending,
// ends at the image's size and has known kinds; anything else is [ErrExtents].
func checkedExtents(ctx context.Context, img Image) iter.Seq2[Extent, error] {
	return checkExtents(ctx, Extents(ctx, img, 0, img.Size()), 0, img.Size())
}

// checkExtents checks a sequence that must cover [off, end).
func checkExtents(ctx context.Context, seq iter.Seq2[Extent, error], off, end int64) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		pos := off
		for e, err := range seq {
			if err == nil {
				err = ctx.Err()
			}
			if err == nil {
				err = follows(e, pos, end)
			}
			if err != nil {
				yield(Extent{}, &RangeError{Op: "extents", Off: pos, Len: end - pos, Err: err})
				return
			}
			if !yield(e, nil) {
				return
			}
			pos = e.End()
		}
		if pos != end {
			yield(Extent{}, &RangeError{Op: "extents", Off: pos, Len: end - pos,
				Err: fmt.Errorf("%w: they end at %d of %d", ErrExtents, pos, end)})
		}
	}
}

func follows(e Extent, pos, end int64) error {
	switch {
	case e.Off != pos:
		return fmt.Errorf("%w: %v after byte %d", ErrExtents, e, pos)
	case e.Len <= 0 || e.Len > end-pos:
		return fmt.Errorf("%w: length %d at %d of %d", ErrExtents, e.Len, pos, end)
	case e.Kind > Unchanged:
		return fmt.Errorf("%w: %v", ErrExtents, e)
	}
	return nil
}

// alignExtents turns a checked sequence into runs of whole blocks, the last of which may be short. Its cost is that of
// the extents, never of the blocks in them. A block is Data as soon as any byte of it is, or where Unchanged meets
// anything else; see [blockKind].
func alignExtents(seq iter.Seq2[Extent, error], blockSize, size int64) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		var run Extent // not yet yielded, so that neighbours of one kind become one
		add := func(off, n int64, kind Kind) bool {
			if run.Len > 0 && run.Kind == kind {
				run.Len += n
				return true
			}
			last := run
			run = Extent{Off: off, Len: n, Kind: kind}
			return last.Len == 0 || yield(last, nil)
		}
		var block blockKind
		for e, err := range seq {
			if err != nil {
				yield(Extent{}, err)
				return
			}
			for e.Len > 0 {
				start := e.Off &^ (blockSize - 1)
				end := min(start+blockSize, size)
				n := min(e.End(), end) - e.Off
				if e.Off == start && e.End() >= end { // whole blocks of one kind, however many
					n = e.Len
					if e.End() != size {
						n = e.End()&^(blockSize-1) - start
					}
					if !add(e.Off, n, e.Kind) {
						return
					}
				} else if block.add(e.Kind); e.Off+n == end {
					if !add(start, end-start, block.kind) {
						return
					}
					block = blockKind{}
				}
				e.Off, e.Len = e.Off+n, e.Len-n
			}
		}
		if run.Len > 0 {
			yield(run, nil)
		}
	}
}

// blockKind is the kind of a block with parts of several kinds. What must be read or cannot be left to the base is
// Data. Of kinds that read as zero, a reason wins over plain Zero, and the first reason over later ones; Bad wins over
// all, because a point must never hide that it is degraded.
type blockKind struct {
	kind Kind
	some bool
}

func (b *blockKind) add(k Kind) {
	switch {
	case !b.some:
		b.kind, b.some = k, true
	case k == b.kind || b.kind == Data:
	case k == Data || k == Unchanged || b.kind == Unchanged:
		b.kind = Data
	case k == Bad || b.kind == Zero:
		b.kind = k
	}
}
