package ext

import (
	"cmp"
	"slices"
	"sort"
)

// logCopy says where in the volume the log keeps the last copy of a block.
type logCopy struct {
	block uint64
	place uint64 // twice the block of the volume, within the log; one more where it is escaped
}

func newLogCopy(block, at uint64, escaped bool) logCopy {
	c := logCopy{block, at << 1}
	if escaped {
		c.place++
	}
	return c
}

// at is where in the volume the copy is, escaped that its first four bytes are the log's magic number in truth.
func (c logCopy) at() uint64    { return c.place >> 1 }
func (c logCopy) escaped() bool { return c.place&1 != 0 }

// overlay is what a replay changes: the blocks whose last copy is in the log, ascending. Nil changes nothing.
type overlay struct{ copies []logCopy }

// newOverlay keeps of several copies of a block the one that was logged last. It takes the slice over.
func newOverlay(copies []logCopy) *overlay {
	slices.SortStableFunc(copies, func(a, b logCopy) int { return cmp.Compare(a.block, b.block) })
	kept := copies[:0]
	for i, c := range copies {
		if i+1 == len(copies) || copies[i+1].block != c.block {
			kept = append(kept, c)
		}
	}
	return &overlay{slices.Clip(kept)}
}

// between are the copies of blocks from first up to end.
func (o *overlay) between(first, end uint64) []logCopy {
	if o == nil {
		return nil
	}
	i := sort.Search(len(o.copies), func(i int) bool { return o.copies[i].block >= first })
	j := i
	for j < len(o.copies) && o.copies[j].block < end {
		j++
	}
	return o.copies[i:j]
}

// has reports whether the log holds a copy of a block.
func (o *overlay) has(block uint64) bool { return len(o.between(block, block+1)) > 0 }
