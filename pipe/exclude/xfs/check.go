package xfs

import (
	"context"
	"fmt"
	"math/bits"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// checkGroup compares all that a group says about what is in use with what it calls free.
func (f *FS) checkGroup(ctx context.Context, no uint32) error {
	g, err := f.readGroup(ctx, f.after, no)
	if err != nil {
		return err
	}
	c := &check{f: f, g: g}
	if err := c.readFree(ctx); err != nil {
		return err
	}
	if err := c.readInodes(ctx); err != nil {
		return err
	}
	if err := c.readOwners(ctx); err != nil {
		return err
	}
	return c.metadata()
}

// check is the state of checkGroup.
type check struct {
	f    *FS
	g    *group
	free []span
	meta []span // blocks of trees
}

func (c *check) block(ptr uint64) { c.meta = append(c.meta, span{uint32(ptr), 1}) }

// used fails if any of n blocks from first is called free.
func (c *check) used(what string, first, n uint32) error {
	if n == 0 || uint64(first)+uint64(n) > uint64(c.g.len) {
		return &fsys.CorruptError{What: what, Off: -1, Why: fmt.Sprintf("%d blocks from %d of group %d", n, first, c.g.no)}
	}
	if s, ok := overlap(c.free, first, n); ok {
		return &fsys.CorruptError{What: what, Off: c.f.sb.at(c.g.no, s.first), Why: fmt.Sprintf("%d blocks of it are called free", s.n)}
	}
	return nil
}

// readFree reads both trees of free extents. They must hold the same: the sums of a mix of every extent are equal.
func (c *check) readFree(ctx context.Context) (err error) {
	if c.free, err = c.f.freeSpans(ctx, c.g, c.block); err != nil {
		return err
	}
	var byBlock, byLength uint64
	for _, s := range c.free {
		byBlock += mix(s)
	}
	count, last := 0, span{}
	w := c.f.groupWalk(c.f.after, c.g, byLengthTree, func(b []byte) error {
		s := span{be.Uint32(b), be.Uint32(b[4:])}
		if s.n < last.n || (s.n == last.n && s.first <= last.first && count > 0) {
			return c.f.corruptTree(c.g, byLengthTree, fmt.Sprintf("%d blocks from %d after %d from %d", s.n, s.first, last.n, last.first))
		}
		last = s
		count++
		byLength += mix(s)
		return nil
	})
	w.block = c.block
	if err := w.run(ctx, uint64(c.g.byLength.block), c.g.byLength.levels); err != nil {
		return err
	}
	if count != len(c.free) || byBlock != byLength {
		return c.f.corruptTree(c.g, byLengthTree, fmt.Sprintf("%d extents are not the %d by block", count, len(c.free)))
	}
	return nil
}

// mix spreads an extent over 64 bits, so that sums of different sets differ.
func mix(s span) uint64 {
	x := uint64(s.first)<<32 | uint64(s.n)
	x = (x ^ x>>31) * 0x9e3779b97f4a7c15
	x = (x ^ x>>29) * 0xbf58476d1ce4e5b9
	return x ^ x>>32
}

// readInodes reads the trees of inodes: the blocks of inodes are in use.
func (c *check) readInodes(ctx context.Context) error {
	last, any := uint32(0), false
	var have, free uint64
	w := c.f.groupWalk(c.f.after, c.g, inodeTree, func(b []byte) error {
		r := c.f.parseChunk(b)
		if any && r.first < last+inodesInChunk {
			return c.f.corruptTree(c.g, inodeTree, fmt.Sprintf("inode %d after %d", r.first, last))
		}
		last, any = r.first, true
		there := r.there()
		have, free = have+uint64(bits.OnesCount64(there)), free+uint64(bits.OnesCount64(there&r.free))
		return c.chunkUsed(r)
	})
	w.block = c.block
	if err := w.run(ctx, uint64(c.g.inodes.block), c.g.inodes.levels); err != nil {
		return err
	}
	if err := c.f.checkCount(c.g, have, free); err != nil || !c.f.sb.finobt {
		return err
	}
	w = c.f.groupWalk(c.f.after, c.g, freeInoTree, func([]byte) error { return nil })
	w.block = c.block
	return w.run(ctx, uint64(c.g.freeInodes.block), c.g.freeInodes.levels)
}

// chunkUsed looks at the blocks of one chunk of inodes, a sixteenth at a time where it is sparse.
func (c *check) chunkUsed(r chunk) error {
	if r.holes == 0 {
		return c.used("inodes", r.first>>c.f.sb.inodesLog, max(1, uint32(inodesInChunk)>>c.f.sb.inodesLog))
	}
	for i := range uint32(16) {
		if r.holes>>i&1 == 0 {
			first, n := r.first+i*inodesInChunk/16, uint32(inodesInChunk/16)
			if err := c.used("inodes", first>>c.f.sb.inodesLog, max(1, n>>c.f.sb.inodesLog)); err != nil {
				return err
			}
		}
	}
	return nil
}

// readOwners reads the trees that are there only with some features: who owns a block, and how many share it.
func (c *check) readOwners(ctx context.Context) error {
	if c.f.sb.rmapbt {
		w := c.f.groupWalk(c.f.after, c.g, rmapTree, func(b []byte) error {
			return c.used("an owner's extent", be.Uint32(b), be.Uint32(b[4:]))
		})
		w.block = c.block
		if err := w.run(ctx, uint64(c.g.rmap.block), c.g.rmap.levels); err != nil {
			return err
		}
	}
	if !c.f.sb.reflink {
		return nil
	}
	w := c.f.groupWalk(c.f.after, c.g, refTree, func(b []byte) error {
		return c.used("a shared extent", be.Uint32(b)&^stagedExtent, be.Uint32(b[4:]))
	})
	w.block = c.block
	return w.run(ctx, uint64(c.g.ref.block), c.g.ref.levels)
}

// metadata looks at what lies where it lies without a tree saying so.
func (c *check) metadata() error {
	sb := c.f.sb
	headers := uint32((4*sb.sectorSize + sb.blockSize - 1) >> sb.blockLog)
	if err := c.used("headers", 0, headers); err != nil {
		return err
	}
	if ag, first, ok := sb.split(sb.logStart, uint64(sb.logSize>>sb.blockLog)); ok && ag == c.g.no {
		if err := c.used("log", first, uint32(sb.logSize>>sb.blockLog)); err != nil {
			return err
		}
	}
	for _, block := range c.g.aside {
		if err := c.used("blocks set aside", block, 1); err != nil {
			return err
		}
	}
	for _, s := range c.meta {
		if err := c.used("blocks of trees", s.first, s.n); err != nil {
			return err
		}
	}
	return nil
}

// inodesInChunk is what a record of the tree of inodes is about.
const inodesInChunk = 64

// stagedExtent is the bit in a reference count's address that means: copied for writing, and in no file yet.
const stagedExtent = 1 << 31

// chunk is a record of the tree of inodes.
type chunk struct {
	first uint32 // inode, within the group
	holes uint16 // a bit for each sixteenth that is not there
	free  uint64 // a bit for each inode that is not in use
}

func (f *FS) parseChunk(b []byte) chunk {
	r := chunk{first: be.Uint32(b), free: be.Uint64(b[8:])}
	// Without sparse inodes these bytes are the upper half of the count of free inodes, which is at most 64: zero.
	r.holes = be.Uint16(b[4:])
	return r
}

// there has a bit for each inode that is not in a hole.
func (r chunk) there() uint64 {
	all := ^uint64(0)
	for i := range 16 {
		if r.holes>>i&1 != 0 {
			all &^= 0xf << (4 * i)
		}
	}
	return all
}

// inUse says whether an inode of the group is in use by this record.
func (r chunk) inUse(ino uint32) bool {
	i := ino - r.first
	return i < inodesInChunk && r.free>>i&1 == 0 && r.holes>>(i/4)&1 == 0
}
