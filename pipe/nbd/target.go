package nbd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"

	"github.com/hikae/hikae/pipe"
)

// TargetOptions change how a target works. Nil and zero fields are good defaults.
type TargetOptions struct {
	// Base says that the export holds the base of what is written: ranges marked Unchanged stay as they are. Otherwise
	// Unchanged is refused.
	Base bool
}

// Target writes to an export. It is a pipe.Target that takes marks, which become zeros by WRITE_ZEROES where the server
// has that: holes, where the server can make them.
//
// An export is not a new disk: it has no way back to what it held before. Close without Commit leaves what was written
// there, and ranges that are neither written nor marked keep what they held; pipe.Copy leaves none.
type Target struct {
	c      *Client
	base   bool
	owned  bool // Close closes the client
	closed atomic.Bool
}

// Target returns a target that writes over the client's connections. Its Close leaves them open.
func (c *Client) Target(opts *TargetOptions) (*Target, error) {
	if c.ReadOnly() {
		return nil, fmt.Errorf("%v: the export is read-only: %w", c.addr, fs.ErrPermission)
	}
	return &Target{c: c, base: opts != nil && opts.Base}, nil
}

// DialTarget opens an export for writing. The target's Close ends the connections.
func DialTarget(ctx context.Context, uri string, opts *Options, target *TargetOptions) (*Target, error) {
	c, err := Dial(ctx, uri, opts)
	if err != nil {
		return nil, err
	}
	t, err := c.Target(target)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	t.owned = true
	return t, nil
}

// Size is the length of the export in bytes.
func (t *Target) Size() int64 { return t.c.terms.size }

func (t *Target) ready(ctx context.Context, off, n int64) error {
	switch {
	case t.closed.Load():
		return fmt.Errorf("NBD: the target is closed: %w", fs.ErrClosed)
	case !t.c.inside(off, n):
		return fmt.Errorf("NBD: write of [%d, +%d) of %d bytes: %w", off, n, t.c.terms.size, fs.ErrInvalid)
	}
	return ctx.Err()
}

// WriteAt is as pipe.Target has it.
func (t *Target) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := t.ready(ctx, off, int64(len(p))); err != nil {
		return 0, err
	}
	done := 0
	err := t.c.change(off, int64(len(p)), t.c.longestWrite(), func(off, n int64, whole bool) error {
		part := p[done : done+int(n)]
		done += int(n)
		if whole {
			return t.c.write(ctx, part, off)
		}
		return t.c.amend(ctx, off, n, func(b []byte) { copy(b, part) })
	})
	if err != nil {
		return 0, &pipe.RangeError{Op: "write", Off: off, Len: int64(len(p)), Err: err}
	}
	return len(p), nil
}

// Mark is as pipe.ExtentTarget has it. Unchanged needs [TargetOptions.Base].
func (t *Target) Mark(ctx context.Context, e pipe.Extent) error {
	if err := t.ready(ctx, e.Off, e.Len); err != nil {
		return err
	}
	switch {
	case e.Kind == pipe.Unchanged && t.base:
		return nil
	case e.Kind == pipe.Unchanged:
		return fmt.Errorf("NBD: mark %v without a base: %w", e, errors.ErrUnsupported)
	case e.Kind == pipe.Data || e.Kind > pipe.Unchanged:
		return fmt.Errorf("NBD: mark %v: %w", e, fs.ErrInvalid)
	}
	if err := t.zero(ctx, e.Off, e.Len); err != nil {
		return &pipe.RangeError{Op: "mark " + e.Kind.String(), Off: e.Off, Len: e.Len, Err: err}
	}
	return nil
}

// zero makes a range read as zero.
func (t *Target) zero(ctx context.Context, off, n int64) error {
	c, zeroes := t.c, t.c.terms.has(flagWriteZeroes)
	longest := c.longestWrite()
	if zeroes {
		longest = c.longestEffect()
	}
	var blank []byte
	return c.change(off, n, longest, func(off, n int64, whole bool) error {
		switch {
		case !whole:
			return c.amend(ctx, off, n, func(b []byte) { clear(b) })
		case zeroes:
			return c.effect(ctx, cmdWriteZeroes, off, n)
		case blank == nil:
			blank = make([]byte, longest)
		}
		return c.write(ctx, blank[:n], off)
	})
}

// Trim tells the server that a range is not needed any more; what it then reads as is not known. It does nothing where
// the server cannot.
func (t *Target) Trim(ctx context.Context, off, n int64) error {
	if err := t.ready(ctx, off, n); err != nil || !t.c.terms.has(flagTrim) {
		return err
	}
	return t.c.change(off, n, t.c.longestEffect(), func(off, n int64, whole bool) error {
		if !whole {
			return nil
		}
		return t.c.effect(ctx, cmdTrim, off, n)
	})
}

// Flush makes durable what was written so far. A server without FLUSH is taken to write through.
func (t *Target) Flush(ctx context.Context) error {
	if err := t.ready(ctx, 0, 0); err != nil {
		return err
	}
	return t.c.flush(ctx)
}

// Commit flushes, and ends the target. It fails with an error that wraps [ErrLost] where a connection was lost since
// writes that no flush covers: the server may have lost them with it.
func (t *Target) Commit(ctx context.Context) error {
	if err := t.ready(ctx, 0, 0); err != nil {
		return err
	}
	t.closed.Store(true)
	return t.c.flush(ctx)
}

// Close ends the target. What was written stays.
func (t *Target) Close() error {
	t.closed.Store(true)
	if t.owned {
		return t.c.Close()
	}
	return nil
}

// longestWrite is the most bytes of one write, whole blocks.
func (c *Client) longestWrite() int64 {
	return max(c.terms.min, min(int64(c.opts.RequestBytes)&^(c.terms.min-1), c.terms.max))
}

// longestEffect is the most bytes of one request without data.
func (c *Client) longestEffect() int64 {
	if c.terms.form == formExtended {
		return 1 << 40
	}
	return 1 << 30
}

// change walks a range in requests of whole blocks, and parts of blocks at its ends.
func (c *Client) change(off, n, longest int64, step func(off, n int64, whole bool) error) error {
	unit := c.terms.min
	for end := off + n; off < end; {
		m, whole := min(longest, end-off), true
		switch block := off &^ (unit - 1); {
		case block != off || end-off < unit && end != c.terms.size:
			m, whole = min(end, block+unit)-off, false
		case m >= unit:
			m &^= unit - 1
		}
		if err := step(off, m, whole); err != nil {
			return err
		}
		off += m
	}
	return nil
}

// amend changes a part of a block: read, change, write. Two writes into one block take turns.
func (c *Client) amend(ctx context.Context, off, n int64, change func(b []byte)) error {
	c.edges.Lock()
	defer c.edges.Unlock()
	start := off &^ (c.terms.min - 1)
	block := make([]byte, min(c.terms.min, c.terms.size-start))
	if _, err := c.read(ctx, block, start); err != nil {
		return err
	}
	change(block[off-start : off-start+n])
	return c.write(ctx, block, start)
}

func (c *Client) write(ctx context.Context, p []byte, off int64) error {
	flags := uint16(0)
	if c.terms.form == formExtended {
		flags = cmdFlagPayload
	}
	c.writes.Add(1)
	_, err := c.do(ctx, func() *call {
		return &call{req: request{cmd: cmdWrite, flags: flags, off: uint64(off), n: uint64(len(p))}}
	}, p)
	return err
}

// effect sends a request that changes a range without data.
func (c *Client) effect(ctx context.Context, cmd command, off, n int64) error {
	c.writes.Add(1)
	_, err := c.do(ctx, func() *call { return &call{req: request{cmd: cmd, off: uint64(off), n: uint64(n)}} }, nil)
	return err
}

func (c *Client) flush(ctx context.Context) error {
	covered := c.writes.Load()
	if c.terms.has(flagFlush) {
		if _, err := c.do(ctx, func() *call { return &call{req: request{cmd: cmdFlush}} }, nil); err != nil {
			return fmt.Errorf("%v: flush: %w", c.addr, err)
		}
	}
	if _, err := c.standing(); err != nil {
		return fmt.Errorf("%v: flush: %w", c.addr, err)
	}
	if c.lostTill.Load() > c.flushed.Load() {
		return fmt.Errorf("%v: flush: a connection broke after writes that were not flushed: %w", c.addr, ErrLost)
	}
	c.flushed.Store(covered)
	return nil
}
