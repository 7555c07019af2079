package xfs

import (
	"context"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
)

// The trees of free extents say what is free, and only where there is a tree of owners does another witness speak in the
// group itself. The witness that every volume has are its files: what any of them has is not free, whatever a tree says.
// xfs_repair builds the free space from them and so would give back nothing that is theirs.
const (
	// windowSpans ends a window of groups whose free extents are in memory at once; the last group may go beyond it by
	// maxSpans. Together they are 48 MiB at most. A volume with more is gone through once for each window.
	windowSpans = 2 << 20
	// claimWorkers read the inodes of as many groups at once, each with a buffer of batchBytes: where the volume is far
	// away, one after the other would take longer than all else.
	claimWorkers = 4
	batchBytes   = 1 << 20
	// batchGap is how much that is no inode is read rather than left out between two chunks.
	batchGap = 64 << 10
)

// checkOnce holds files against free extents until that has come to an end. What contradicts itself is a doubt from then
// on.
func (f *FS) checkOnce(ctx context.Context) error {
	f.mu.Lock()
	done := f.checked
	f.mu.Unlock()
	if done {
		return nil
	}
	err := f.checkClaims(ctx)
	if err != nil && !isCorrupt(err) {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.checked = err == nil; err != nil {
		f.doubt = err.Error()
	}
	return err
}

// checkClaims reads every inode, and all trees of extents, once for each window.
func (f *FS) checkClaims(ctx context.Context) error {
	for next := uint32(0); next < f.sb.agCount; {
		w, err := f.freeWindow(ctx, next)
		if err != nil {
			return err
		}
		if err := f.checkWindow(ctx, w); err != nil {
			return err
		}
		next += uint32(len(w.free))
	}
	return nil
}

// window is what the trees call free in some groups that follow one another.
type window struct {
	first uint32
	free  [][]span
}

// freeWindow reads the free extents of as many groups as may be in memory at once. They are those after the log's replay,
// also where Free will yield fewer: a contradiction is one there too.
func (f *FS) freeWindow(ctx context.Context, first uint32) (*window, error) {
	w := &window{first: first}
	for no, n := first, 0; no < f.sb.agCount && n < f.window; no++ {
		g, err := f.readGroup(ctx, f.after, no)
		if err != nil {
			return nil, err
		}
		list, err := f.freeSpans(ctx, g, nil)
		if err != nil {
			return nil, err
		}
		w.free, n = append(w.free, append(make([]span, 0, len(list)), list...)), n+len(list)
	}
	return w, nil
}

// overlap finds a block that is free.
func (w *window) overlap(ag, first, n uint32) (uint32, bool) {
	if ag < w.first || ag-w.first >= uint32(len(w.free)) {
		return 0, false
	}
	s, ok := overlap(w.free[ag-w.first], first, n)
	return s.first, ok
}

// checkWindow reads all inodes, of several groups at once. The first error ends it.
func (f *FS) checkWindow(ctx context.Context, w *window) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		next    atomic.Uint32
		trees   atomic.Int64
		workers sync.WaitGroup
		once    sync.Once
		first   error
	)
	trees.Store(int64(f.sb.blocks))
	for range min(claimWorkers, f.sb.agCount) {
		workers.Go(func() {
			c := &claims{f: f, window: w, trees: &trees}
			if err := c.groups(ctx, &next); err != nil {
				once.Do(func() { first = err })
				cancel()
			}
		})
	}
	workers.Wait()
	return first
}

// claims goes through the inodes of a group, in batches of chunks that lie near each other.
type claims struct {
	f      *FS
	window *window
	trees  *atomic.Int64 // how many blocks of trees of extents there may still be
	no     uint32        // the group

	batch    []chunk
	from, to int64 // where the batch lies
	buf      []byte
	in       inode // the one that is looked at
}

// groups goes through one group after the other, until none is left. What guards a caller against a fault of this package
// does not reach other goroutines than its own, so a panic is an error here.
func (c *claims) groups(ctx context.Context, next *atomic.Uint32) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("inodes of group %d: %v", c.no, p)
		}
	}()
	for {
		if c.no = next.Add(1) - 1; c.no >= c.f.sb.agCount {
			return nil
		}
		if err := c.group(ctx); err != nil {
			return err
		}
	}
}

func (c *claims) group(ctx context.Context) error {
	g, err := c.f.inodeRoot(ctx, c.no)
	if err != nil {
		return err
	}
	w := c.f.groupWalk(c.f.after, g, inodeTree, func(b []byte) error { return c.chunk(ctx, c.f.parseChunk(b)) })
	if err := w.run(ctx, uint64(g.inodes.block), g.inodes.levels); err != nil {
		return err
	}
	return c.flush(ctx)
}

// at is the byte of inode i of a chunk.
func (c *claims) at(r chunk, i int) int64 {
	return c.f.sb.at(c.no, 0) + (int64(r.first)+int64(i))*c.f.sb.inodeSize
}

// chunk takes the next chunk, without the holes at its ends: they may be beyond the end of the group.
func (c *claims) chunk(ctx context.Context, r chunk) error {
	there := ^r.holes
	if there == 0 {
		return nil
	}
	from, to := c.at(r, bits.TrailingZeros16(there)*4), c.at(r, bits.Len16(there)*4)
	if len(c.batch) > 0 && (from < c.to || from-c.to > batchGap || to-c.from > batchBytes) {
		if err := c.flush(ctx); err != nil {
			return err
		}
	}
	if len(c.batch) == 0 {
		c.from = from
	}
	c.batch, c.to = append(c.batch, r), to
	return nil
}

// flush reads the batch and looks at all inodes in it.
func (c *claims) flush(ctx context.Context) error {
	if len(c.batch) == 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.buf == nil {
		c.buf = make([]byte, batchBytes)
	}
	p := c.buf[:c.to-c.from]
	if _, err := c.f.after.read(ctx, p, c.from); err != nil {
		return err
	}
	for _, r := range c.batch {
		for i := range inodesInChunk {
			if r.holes>>(i/4)&1 != 0 {
				continue
			}
			at := c.at(r, i)
			c.in = inode{off: at, raw: p[at-c.from:][:c.f.sb.inodeSize],
				no: uint64(c.no)<<(c.f.sb.agBlockLog+c.f.sb.inodesLog) + uint64(r.first) + uint64(i)}
			if err := c.inode(ctx, &c.in, r.free>>i&1 == 0); err != nil {
				return err
			}
		}
	}
	c.batch = c.batch[:0]
	return nil
}

// inode looks at one. Those that the tree of inodes calls free must call themselves free too.
func (c *claims) inode(ctx context.Context, in *inode, used bool) error {
	if !used {
		if mode := be.Uint16(in.raw[2:]); mode != 0 && string(in.raw[:2]) == inodeMagic {
			return in.corrupt("the tree of inodes says it is free, and it has the mode %#o", mode)
		}
		return nil
	}
	if err := c.f.parseInode(in); err != nil {
		return err
	}
	for _, k := range []fork{c.f.dataFork(in), c.f.attrFork(in)} {
		if err := c.fork(ctx, in, k); err != nil {
			return err
		}
	}
	return nil
}

// fork looks at all blocks that a fork has: its extents, and those in which its tree lies.
func (c *claims) fork(ctx context.Context, in *inode, k fork) error {
	after, count := uint64(0), uint64(0)
	rec := func(b []byte) error {
		m, err := c.f.unpack(in, b, after)
		if err != nil {
			return err
		}
		after = m.end()
		count++
		return c.used(in, k.what, m.ag, m.first, uint32(m.n))
	}
	switch k.format {
	case forkNone, forkDevice, forkLocal:
		return nil
	case forkExtents:
		return in.eachExtent(k, rec)
	case forkTree:
	default:
		return in.corrupt("%s in format %d", k.what, k.format)
	}
	w, top, err := c.f.forkWalk(in, k, rec)
	if err != nil {
		return err
	}
	var bad error
	w.block = func(ptr uint64) {
		ag, first, _ := c.f.sb.split(ptr, 1)
		if c.trees.Add(-1) < 0 && bad == nil {
			bad = in.corrupt("its tree of extents: there are more blocks of such trees than of the volume")
		} else if bad == nil {
			bad = c.used(in, k.what, ag, first, 1)
		}
	}
	if err := w.runBelow(ctx, top); err != nil {
		return err
	}
	if bad == nil && count != k.extents {
		bad = in.corrupt("%s in %d extents, its tree has %d", k.what, k.extents, count)
	}
	return bad
}

// used fails if any of n blocks from first is called free.
func (c *claims) used(in *inode, what string, ag, first, n uint32) error {
	if free, ok := c.window.overlap(ag, first, n); ok {
		return in.corrupt("%s in block %d of group %d (byte %d), which is called free", what, free, ag, c.f.sb.at(ag, free))
	}
	return nil
}

// checkCount compares how many inodes there are with what the header of the group says.
func (f *FS) checkCount(g *group, have, free uint64) error {
	if have != uint64(g.inodeCount) || free != uint64(g.inodeFree) {
		return f.corruptGroup(g, "AGI", 2, fmt.Sprintf("%d inodes, %d free, its tree has %d and %d", g.inodeCount, g.inodeFree, have, free))
	}
	return nil
}
