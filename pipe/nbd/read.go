package nbd

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"

	"github.com/hikae/hikae/pipe"
)

// piece is a part of a read: a request of its own. Where the server's blocks do not fit the range, its buffer is longer
// than what is wanted of it.
type piece struct {
	begun
	off  int64  // of buf
	buf  []byte // whole blocks
	skip int64  // bytes at the start of buf that nobody wants
	want []byte // where the rest goes; nil: buf is that place
}

// ReadAt is as pipe.Image has it. A read longer than one request is several, in flight at once.
func (c *Client) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("NBD: read at %d: %w", off, fs.ErrInvalid)
	}
	n := max(0, min(int64(len(p)), c.terms.size-off))
	done, err := c.read(ctx, p[:n], off)
	if err != nil {
		return done, &pipe.RangeError{Op: "read", Off: off + int64(done), Len: n - int64(done), Err: err}
	}
	if n < int64(len(p)) {
		return done, io.EOF
	}
	return done, nil
}

func (c *Client) read(ctx context.Context, p []byte, off int64) (int, error) {
	if len(p) == 0 {
		return 0, ctx.Err()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pieces := c.split(p, off)
	sent := 0
	for ; sent < len(pieces); sent++ {
		x := &pieces[sent]
		begun, err := c.begin(ctx, x.fresh(), nil)
		if err != nil {
			break // it is asked for again in its turn, when those before it are there
		}
		x.begun = begun
	}
	done := 0
	for i := range pieces {
		n, err := c.collect(ctx, &pieces[i])
		done += n
		if err == nil {
			continue
		}
		cancel()
		for _, rest := range pieces[min(i+1, sent):sent] {
			rest.link.wait(ctx, rest.call) // the buffer must be ours again
		}
		return done, err
	}
	return done, nil
}

// collect waits for a piece. One that was not sent, or was lost where that may help, is asked for once more.
func (c *Client) collect(ctx context.Context, x *piece) (int, error) {
	err := error(nil)
	if x.call != nil {
		err = x.link.wait(ctx, x.call)
	}
	if x.call == nil || err != nil && c.worthAgain(ctx, err, 0) {
		x.call, err = c.do(ctx, x.fresh, nil)
	}
	switch {
	case err == nil:
		return x.deliver(len(x.buf)), nil
	case x.call == nil:
		return 0, err
	}
	return x.deliver(x.call.valid()), err
}

func (x *piece) fresh() *call {
	return &call{req: request{cmd: cmdRead, off: uint64(x.off), n: uint64(len(x.buf))}, buf: x.buf}
}

// deliver takes the first n bytes of the blocks, and reports how many wanted ones are among them.
func (x *piece) deliver(n int) int {
	if x.want == nil {
		return n
	}
	return copy(x.want, x.buf[x.skip:max(x.skip, int64(n))])
}

// split cuts a range into requests. Blocks that reach over its ends are requests of their own.
func (c *Client) split(p []byte, off int64) []piece {
	unit := c.terms.min
	longest := max(unit, min(int64(c.opts.RequestBytes)&^(unit-1), c.terms.max))
	var out []piece
	for len(p) > 0 {
		start := off &^ (unit - 1)
		n := min(longest, int64(len(p))&^(unit-1))
		if start == off && (n > 0 || off+int64(len(p)) == c.terms.size) {
			if n == 0 {
				n = int64(len(p)) // the server lets no client see this end, or does not mean its unit
			}
			out = append(out, piece{off: off, buf: p[:n]})
		} else {
			block := make([]byte, min(unit, c.terms.size-start))
			n = min(int64(len(p)), start+int64(len(block))-off)
			out = append(out, piece{off: start, buf: block, skip: off - start, want: p[:n]})
		}
		p, off = p[n:], off+n
	}
	return out
}

const baseAllocation = "base:allocation"

// Extents is as pipe.ExtentImage has it, by base:allocation: what the server calls zero is Zero, a hole that it does not
// call zero is Data. Without that context everything is Data.
func (c *Client) Extents(ctx context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		if _, ok := c.terms.contexts[baseAllocation]; !ok && c.inside(off, n) {
			if n > 0 {
				yield(pipe.Extent{Off: off, Len: n, Kind: pipe.Data}, nil)
			}
			return
		}
		for s, err := range c.BlockStatus(ctx, baseAllocation, off, n) {
			e := pipe.Extent{Off: s.Off, Len: s.Len, Kind: pipe.Data}
			if s.Flags&stateZero != 0 {
				e.Kind = pipe.Zero
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

func (c *Client) inside(off, n int64) bool { return off >= 0 && n >= 0 && n <= c.terms.size-off }

// Status is what a metadata context says about a range: bytes, and flags that the context defines. For base:allocation
// bit 0 is a hole and bit 1 reads as zero; for qemu:dirty-bitmap:NAME bit 0 is dirty.
type Status struct {
	Off, Len int64
	Flags    uint64
}

// BlockStatus yields what a metadata context says about [off, off+n): ascending, gap-free, clipped to that range.
// Neighbours may have the same flags. After an error the sequence ends. The context must be one of [Client.Contexts],
// or the error wraps [ErrNoContext].
func (c *Client) BlockStatus(ctx context.Context, context string, off, n int64) iter.Seq2[Status, error] {
	return func(yield func(Status, error) bool) {
		_, ok := c.terms.contexts[context]
		if !c.inside(off, n) {
			yield(Status{}, fmt.Errorf("NBD: status of [%d, +%d) of %d bytes: %w", off, n, c.terms.size, fs.ErrInvalid))
			return
		}
		if !ok {
			yield(Status{}, fmt.Errorf("NBD: %q: %w", context, ErrNoContext))
			return
		}
		for end := off + n; off < end; {
			list, err := c.statuses(ctx, context, off, end)
			if err != nil {
				yield(Status{}, &pipe.RangeError{Op: "status", Off: off, Len: end - off, Err: err})
				return
			}
			for _, s := range list {
				if off = s.Off + s.Len; !yield(s, nil) {
					return
				}
			}
		}
	}
}

// maxStatus is the longest range of one request without extended headers.
const maxStatus = 1<<32 - maxBlock

// statuses asks once, for as much of [off, end) as fits, and returns at least one range.
func (c *Client) statuses(ctx context.Context, context string, off, end int64) ([]Status, error) {
	unit := c.terms.min
	start := off &^ (unit - 1)
	n := min((end-start+unit-1)&^(unit-1), c.terms.size-start)
	if c.terms.form != formExtended {
		n = min(n, maxStatus)
	}
	k, err := c.do(ctx, func() *call {
		return &call{req: request{cmd: cmdBlockStatus, off: uint64(start), n: uint64(n)}}
	}, nil)
	if err != nil {
		return nil, err
	}
	var out []Status
	for _, s := range k.statuses[k.terms.contexts[context]] { // ids differ between connections
		from, to := max(s.Off, off), min(s.Off+s.Len, end)
		if from < to {
			out = append(out, Status{Off: from, Len: to - from, Flags: s.Flags})
		}
	}
	if len(out) == 0 { // a peer may answer for less than the block that off lies in
		return nil, broken("a block status at %d says nothing about %d", start, off)
	}
	return out, nil
}
