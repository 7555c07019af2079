package job

import (
	"context"
	"fmt"
	"io/fs"
	"iter"

	"github.com/hikae/hikae/pipe"
)

// increment is a disk of which it is known what changed since the base, and what need not be stored. Neither alone is
// enough. What the base left out is not there to be taken over, so it must be read where it is not left out any more,
// although nobody wrote to it; what is left out from now on must not be taken over from the base:
//
//	           now: data              now: left out, or zero
//	changed    read                   marked
//	unchanged  the base has it: the   marked, unless the base has
//	           base's; it left it     the same for the same reason
//	           out: read
//
// The target keeps whole blocks, so blocks are what is decided about: one that may be left out only in part counts as
// data, and one that was left out was left out whole.
type increment struct {
	pipe.Image            // what is there now; its extents say what need not be stored
	changes    pipe.Image // the same disk: Data where it changed, else Unchanged
	base       pipe.Image // the same disk in the base point
	block      int64      // bytes; 1 where the target has no blocks
}

func (x *increment) Unwrap() pipe.Image { return x.Image }

// Extents yields whole blocks, clipped to what was asked for.
func (x *increment) Extents(ctx context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		size := x.Size()
		if off < 0 || n < 0 || n > size-off {
			yield(pipe.Extent{}, &pipe.RangeError{Op: "extents", Off: off, Len: n, Err: fs.ErrInvalid})
			return
		}
		end := off + n
		pos, to := off&^(x.block-1), min((end+x.block-1)&^(x.block-1), size)
		now, changes, base := walk(ctx, x.Image, pos, to), walk(ctx, x.changes, pos, to), walk(ctx, x.base, pos, to)
		defer now.stop()
		defer changes.stop()
		defer base.stop()
		out := joined{from: off, end: end, yield: yield}
		var b verdict
		for pos < to {
			if err := now.at(pos); err != nil {
				yield(pipe.Extent{}, err)
				return
			}
			if err := changes.at(pos); err != nil {
				yield(pipe.Extent{}, err)
				return
			}
			if err := base.at(pos); err != nil {
				yield(pipe.Extent{}, &baseExtentsError{err})
				return
			}
			start := pos &^ (x.block - 1)
			last := min(start+x.block, size) // of this block
			next := min(now.End(), changes.End(), base.End())
			b.add(now.Kind, changes.Kind, base.Kind)
			switch {
			case pos == start && next >= last: // this block, and those behind it that are the same
				if next != size {
					next &^= x.block - 1
				}
			case next < last:
				pos = next
				continue
			default:
				next = last
			}
			if !out.add(pipe.Extent{Off: start, Len: next - start, Kind: b.kind()}) {
				return
			}
			pos, b = next, verdict{}
		}
		out.flush()
	}
}

// baseExtentsError says that the base cannot tell what it holds.
type baseExtentsError struct{ err error }

func (e *baseExtentsError) Error() string { return fmt.Sprintf("extents of the base: %v", e.err) }
func (e *baseExtentsError) Unwrap() error { return e.err }

// verdict is about one block, from its parts.
type verdict struct {
	some    bool
	now     pipe.Kind // of all parts together
	changed bool      // in any part
	lost    bool      // the base does not have what was there, in any part
	base    pipe.Kind
	mixed   bool // the base's parts are of several kinds
}

func (v *verdict) add(now, change, base pipe.Kind) {
	if now == pipe.Unchanged { // against another base: it says nothing about ours
		now = pipe.Data
	}
	switch {
	case !v.some:
		v.now, v.base = now, base
	default:
		v.now = together(v.now, now)
		v.mixed = v.mixed || base != v.base
	}
	v.some = true
	v.changed = v.changed || change != pipe.Unchanged
	v.lost = v.lost || base.Dropped()
}

// together is the kind of a block with parts of two kinds: as pipe.Copy has it.
func together(a, b pipe.Kind) pipe.Kind {
	switch {
	case a == b || a == pipe.Data:
		return a
	case b == pipe.Data:
		return b
	case b == pipe.Bad || a == pipe.Zero:
		return b
	}
	return a
}

func (v *verdict) kind() pipe.Kind {
	switch same := !v.mixed && v.base == v.now; {
	case v.now == pipe.Data && !v.changed && !v.lost:
		return pipe.Unchanged
	case v.now != pipe.Data && v.now != pipe.Bad && !v.changed && same:
		return pipe.Unchanged
	}
	return v.now
}

// walker follows the extents of an image.
type walker struct {
	pipe.Extent
	next func() (pipe.Extent, error, bool)
	stop func()
	end  int64
}

func walk(ctx context.Context, img pipe.Image, from, to int64) *walker {
	w := &walker{Extent: pipe.Extent{Off: from}, end: to}
	w.next, w.stop = iter.Pull2(pipe.Extents(ctx, img, from, to-from))
	return w
}

// at makes the extent at pos the current one. What an image says is not trusted.
func (w *walker) at(pos int64) error {
	if pos < w.End() {
		return nil
	}
	e, err, ok := w.next()
	if err == nil && (!ok || e.Off != pos || e.Len <= 0 || e.Len > w.end-pos || e.Kind > pipe.Unchanged) {
		err = &pipe.RangeError{Op: "extents", Off: pos, Len: w.end - pos, Err: pipe.ErrExtents}
	}
	w.Extent = e
	return err
}

// joined yields extents clipped to [from, end), neighbours of one kind as one.
type joined struct {
	from, end int64
	run       pipe.Extent
	yield     func(pipe.Extent, error) bool
}

func (j *joined) add(e pipe.Extent) bool {
	off, end := max(e.Off, j.from), min(e.End(), j.end)
	if off >= end {
		return true
	}
	if j.run.Len > 0 && j.run.Kind == e.Kind {
		j.run.Len += end - off
		return true
	}
	last := j.run
	j.run = pipe.Extent{Off: off, Len: end - off, Kind: e.Kind}
	return last.Len == 0 || j.yield(last, nil)
}

func (j *joined) flush() {
	if j.run.Len > 0 {
		j.yield(j.run, nil)
	}
}
