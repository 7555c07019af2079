package vhdx

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"

	"github.com/hikae/hikae/pipe"
)

// what a range of a disk is in one file of a chain.
type what uint8

const (
	isZero what = iota
	isData      // in this file, at run.host
	isParent
)

// run is a range of a disk that is one thing.
type run struct {
	what what
	off  int64
	len  int64
	host int64
}

func (r run) end() int64 { return r.off + r.len }

// joins reports whether o goes on where r ends, in the same way.
func (r run) joins(o run) bool {
	return r.what == o.what && r.end() == o.off && (r.what != isData || r.host+r.len == o.host)
}

// table knows where a file has what. next is the run at off, clipped to end; off < end.
type table interface {
	next(ctx context.Context, off, end int64) (run, error)
}

// layer is one file of a chain. It is itself an image: what it does not hold is its parent's.
type layer struct {
	table
	path   string
	size   int64
	sector int64
	file   pipe.Image // as it is with its log applied
	parent *layer     // nil: zeros
}

// maxRow bounds how far neighbours are joined to one run, so that a caller who stops early does not pay for all.
const maxRow = 1 << 16

// row is the run at off with all that joins it.
func (l *layer) row(ctx context.Context, off, end int64) (run, error) {
	r, err := l.next(ctx, off, end)
	for range maxRow {
		if err != nil || r.end() >= end {
			break
		}
		o, nextErr := l.next(ctx, r.end(), end)
		if nextErr != nil || !r.joins(o) {
			break // what is wrong behind this run is said when it is asked for
		}
		r.len += o.len
	}
	return r, err
}

// ReadAt has the contract of [pipe.Image].
func (l *layer) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("%s: read at %d: %w", l.path, off, fs.ErrInvalid)
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	n := int(min(int64(len(p)), max(l.size-off, 0)))
	done := 0
	for done < n {
		r, err := l.row(ctx, off+int64(done), off+int64(n))
		if err == nil {
			err = l.read(ctx, p[done:done+int(r.len)], r)
		}
		if err != nil {
			return done, err
		}
		done += int(r.len)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// read fills p with the content of r, of which it has the length.
func (l *layer) read(ctx context.Context, p []byte, r run) error {
	switch {
	case r.what == isData:
		if err := readFull(ctx, l.file, p, r.host); err != nil {
			return fmt.Errorf("%s: %w", l.path, err)
		}
		return nil
	case r.what == isParent && l.parent != nil:
		have := int(min(max(l.parent.size-r.off, 0), int64(len(p)))) // a child may be larger
		clear(p[have:])
		if have == 0 {
			return nil
		}
		_, err := l.parent.ReadAt(ctx, p[:have], r.off)
		return err
	}
	clear(p)
	return nil
}

// extents yields the ranges of [off, end) as they are in this file and below it; neighbours may be of the same kind.
func (l *layer) extents(ctx context.Context, off, end int64, yield func(pipe.Extent, error) bool) bool {
	for off < end {
		if err := ctx.Err(); err != nil {
			yield(pipe.Extent{}, err)
			return false
		}
		r, err := l.row(ctx, off, end)
		if err != nil {
			yield(pipe.Extent{}, err)
			return false
		}
		if !l.runExtents(ctx, r, yield) {
			return false
		}
		off = r.end()
	}
	return true
}

func (l *layer) runExtents(ctx context.Context, r run, yield func(pipe.Extent, error) bool) bool {
	switch {
	case r.what == isParent && l.parent != nil:
		have := min(max(l.parent.size-r.off, 0), r.len)
		if have > 0 && !l.parent.extents(ctx, r.off, r.off+have, yield) {
			return false
		}
		return have == r.len || yield(pipe.Extent{Off: r.off + have, Len: r.len - have, Kind: pipe.Zero}, nil)
	case r.what == isData:
		return l.dataExtents(ctx, r, yield)
	}
	return yield(pipe.Extent{Off: r.off, Len: r.len, Kind: pipe.Zero}, nil)
}

// dataExtents finds holes of the file in a run: a fixed disk is mostly that.
func (l *layer) dataExtents(ctx context.Context, r run, yield func(pipe.Extent, error) bool) bool {
	for e, err := range pipe.Extents(ctx, l.file, r.host, r.len) {
		if err != nil {
			yield(pipe.Extent{}, err)
			return false
		}
		e.Off += r.off - r.host
		if !yield(e, nil) {
			return false
		}
	}
	return true
}

// merged joins neighbours of one kind.
func (l *layer) merged(ctx context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		if off < 0 || n < 0 || off > l.size || n > l.size-off {
			yield(pipe.Extent{}, fmt.Errorf("%s: extents at %d: %w", l.path, off, fs.ErrInvalid))
			return
		}
		var held pipe.Extent
		going := l.extents(ctx, off, off+n, func(e pipe.Extent, err error) bool {
			if err == nil && held.Len > 0 && e.Kind == held.Kind {
				held.Len += e.Len
				return true
			}
			if held.Len > 0 && !yield(held, nil) {
				return false
			}
			if held = e; err != nil {
				held.Len = 0
				return yield(e, err)
			}
			return true
		})
		if going && held.Len > 0 {
			yield(held, nil)
		}
	}
}
