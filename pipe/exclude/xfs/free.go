package xfs

import (
	"context"
	"fmt"
	"iter"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// maxSpans bounds the free extents of one group: 32 MiB for each of the two views. A group has more only where hardly
// anything in it could be left out as whole blocks of an image.
const maxSpans = 4 << 20

// Free is as [fsys.FileSystem] has it. Before the first answer it reads all inodes and holds what every file has against
// the trees of free extents, as xfs_repair would: a block that they give away although a file has it makes the volume
// doubtful, and ends the sequence with a [*fsys.CorruptError]. After that it holds one group's extents at a time.
func (f *FS) Free(ctx context.Context) iter.Seq2[fsys.Range, error] {
	return func(yield func(fsys.Range, error) bool) {
		if f.Info().Doubt != "" {
			return
		}
		if err := f.checkOnce(ctx); err != nil {
			yield(fsys.Range{}, err)
			return
		}
		var last fsys.Range
		for no := range f.sb.agCount {
			list, err := f.freeIn(ctx, no)
			if err != nil {
				yield(fsys.Range{}, err)
				return
			}
			for _, s := range list {
				r := fsys.Range{Off: f.sb.at(no, s.first), Len: int64(s.n) << f.sb.blockLog}
				if last.Len > 0 && last.End() == r.Off {
					last.Len += r.Len
					continue
				}
				if last.Len > 0 && !yield(last, nil) {
					return
				}
				last = r
			}
		}
		if last.Len > 0 {
			yield(last, nil)
		}
	}
}

// freeIn is what of a group may be called free.
func (f *FS) freeIn(ctx context.Context, no uint32) ([]span, error) {
	g, err := f.readGroup(ctx, f.after, no)
	if err != nil {
		return nil, err
	}
	list, err := f.freeSpans(ctx, g, nil)
	if err != nil || !f.replayed() {
		return list, err
	}
	before, err := f.freeBefore(ctx, no)
	if err != nil {
		return nil, err
	}
	return subtract(intersect(list, before), f.busy[no]), nil
}

// freeSpans reads the tree of free extents by block. It must be right in all that can be told from it and the AGF.
func (f *FS) freeSpans(ctx context.Context, g *group, block func(ptr uint64)) (list []span, err error) {
	var total, longest, end uint64
	w := f.groupWalk(f.after, g, byBlockTree, func(b []byte) error {
		s := span{be.Uint32(b), be.Uint32(b[4:])}
		// Neighbouring extents are always one, so end == first is wrong too, except at the very start.
		if s.n == 0 || s.end() > uint64(g.len) || (uint64(s.first) <= end && len(list) > 0) {
			return f.corruptTree(g, byBlockTree, fmt.Sprintf("%d blocks from %d after %d", s.n, s.first, end))
		}
		if len(list) == maxSpans {
			return f.corruptTree(g, byBlockTree, fmt.Sprintf("more than %d extents", maxSpans))
		}
		end, total, longest = s.end(), total+uint64(s.n), max(longest, uint64(s.n))
		list = append(list, s)
		return nil
	})
	w.block = block
	if err := w.run(ctx, uint64(g.byBlock.block), g.byBlock.levels); err != nil {
		return nil, err
	}
	// Where the log fills a group to its end, mkfs leaves a count of blocks there that no tree has. An empty tree calls
	// nothing free, so it needs no second witness.
	if len(list) > 0 && total != uint64(g.free) || longest != uint64(g.longest) {
		return nil, f.corruptGroup(g, "AGF", 1, fmt.Sprintf(
			"%d free blocks and %d in one run, the tree has %d and %d", g.free, g.longest, total, longest))
	}
	return list, nil
}

// freeBefore is what was free on the disk, as far as that can be read.
func (f *FS) freeBefore(ctx context.Context, no uint32) (list []span, err error) {
	g := &group{no: no, len: f.sb.agLen(no)}
	before := view{vol: f.after.vol}
	if err := f.readAGF(ctx, before, g); isCorrupt(err) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	w := f.groupWalk(before, g, byBlockTree, func(b []byte) error {
		if s := (span{be.Uint32(b), be.Uint32(b[4:])}); s.end() <= uint64(g.len) && len(list) < maxSpans {
			list = append(list, s)
		}
		return nil
	})
	w.lenient = true
	if err := w.run(ctx, uint64(g.byBlock.block), g.byBlock.levels); err != nil && !isCorrupt(err) {
		return nil, err
	}
	return tidySpans(list), nil
}

func (f *FS) corruptTree(g *group, s *shape, why string) error {
	return &fsys.CorruptError{What: fmt.Sprintf("%s of group %d", s.name, g.no), Off: -1, Why: why}
}
