package pipe

import (
	"context"
	"fmt"
	"io"
	"time"
)

// scan is the second half of the exclude stage for a target without blocks: it finds the zeros in what was read.
func (c *copier) scan(ctx context.Context) error {
	for {
		b, ok, err := receive(ctx, c.filled)
		if !ok {
			return err
		}
		since := time.Now()
		parts := c.split(b)
		c.meters.clock(stageExclude, since)
		b.parts.Store(1)
		c.ready <- item{batch: b, parts: parts}
	}
}

// split divides a batch into Data, Zero and Bad.
func (c *copier) split(b *batch) []Extent {
	parts := make([]Extent, 0, 4)
	pos := b.Off
	for _, bad := range b.bad {
		parts = appendCells(parts, b, pos, bad.Off)
		parts = append(parts, bad)
		pos = bad.End()
	}
	return appendCells(parts, b, pos, b.End())
}

// appendCells appends [off, end) of b as Data and Zero, cut at multiples of zeroCell of the disk: the grain in which
// file systems keep holes.
func appendCells(parts []Extent, b *batch, off, end int64) []Extent {
	for off < end {
		n := min(end-off, zeroCell-off&(zeroCell-1))
		kind := Data
		if isZero(b.buf[off-b.Off : off-b.Off+n]) {
			kind = Zero
		}
		if last := len(parts) - 1; last >= 0 && parts[last].Kind == kind {
			parts[last].Len += n
		} else {
			parts = append(parts, Extent{off, n, kind})
		}
		off += n
	}
	return parts
}

// writeParts writes and marks the parts of an item, and lets its batch go.
func (c *copier) writeParts(ctx context.Context, it item) error {
	for _, e := range it.parts {
		var err error
		if e.Kind == Data {
			err = c.writeAt(ctx, it.batch.buf[e.Off-it.batch.Off:][:e.Len], e.Off)
		} else {
			err = c.mark(ctx, e)
		}
		if err != nil {
			return err
		}
	}
	if c.blocks == nil {
		c.release(it.batch, 1)
		return nil
	}
	for _, e := range it.parts {
		c.release(it.batch, c.blocksIn(e))
	}
	return nil
}

func (c *copier) writeAt(ctx context.Context, p []byte, off int64) error {
	since := time.Now()
	n, err := c.target.WriteAt(ctx, p, off)
	c.meters.clock(stageWrite, since)
	if err == nil && n != len(p) {
		err = fmt.Errorf("%w: %d of %d bytes", io.ErrShortWrite, n, len(p))
	}
	if err != nil {
		return &RangeError{Op: "write", Off: off, Len: int64(len(p)), Err: err}
	}
	c.meters.moved.Add(int64(len(p)))
	c.meters.stored.Add(int64(len(p)))
	c.meters.settle(int64(len(p)))
	return nil
}
