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
	sure bool // a bitmap says that it was written: the file need not be asked for holes
}

func (r run) end() int64 { return r.off + r.len }

// joins reports whether o goes on where r ends, in the same way.
func (r run) joins(o run) bool {
	return r.what == o.what && r.sure == o.sure && r.end() == o.off && (r.what != isData || r.host+r.len == o.host)
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
	return (&rows{layer: l, end: end}).at(ctx, off)
}

// rows are the runs of a layer up to an end, in order. What was looked at to see that it does not join is the next one.
type rows struct {
	*layer
	end  int64
	next run // of length zero: none
}

func (w *rows) at(ctx context.Context, off int64) (r run, err error) {
	if r = w.next; r.len == 0 || r.off != off {
		r, err = w.layer.next(ctx, off, w.end)
	}
	w.next = run{}
	for range maxRow {
		if err != nil || r.end() >= w.end {
			break
		}
		o, nextErr := w.layer.next(ctx, r.end(), w.end)
		if nextErr != nil {
			break // what is wrong behind this run is said when it is asked for
		}
		if !r.joins(o) {
			w.next = o
			break
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
	w := rows{layer: l, end: off + int64(n)}
	for done < n {
		r, err := w.at(ctx, off+int64(done))
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

// walk asks a chain for its extents. known is what each file last said of itself, beyond what it was asked for.
type walk struct {
	yield func(pipe.Extent, error) bool
	known map[*layer]pipe.Extent
}

func (w *walk) fail(err error) bool {
	w.yield(pipe.Extent{}, err)
	return false
}

// extents yields the ranges of [off, end) as they are in a layer and below it; neighbours may be of the same kind.
func (w *walk) extents(ctx context.Context, l *layer, off, end int64) bool {
	runs := rows{layer: l, end: end}
	for off < end {
		if err := ctx.Err(); err != nil {
			return w.fail(err)
		}
		r, err := runs.at(ctx, off)
		if err != nil {
			return w.fail(err)
		}
		if !w.run(ctx, l, r) {
			return false
		}
		off = r.end()
	}
	return true
}

func (w *walk) run(ctx context.Context, l *layer, r run) bool {
	switch {
	case r.what == isParent && l.parent != nil:
		have := min(max(l.parent.size-r.off, 0), r.len)
		if have > 0 && !w.extents(ctx, l.parent, r.off, r.off+have) {
			return false
		}
		return have == r.len || w.yield(pipe.Extent{Off: r.off + have, Len: r.len - have, Kind: pipe.Zero}, nil)
	case r.what == isData:
		return w.data(ctx, l, r)
	}
	return w.yield(pipe.Extent{Off: r.off, Len: r.len, Kind: pipe.Zero}, nil)
}

// ahead is how far a file is asked what it holds: pieces of a disk lie scattered in it, and what it says of one mostly holds for
// many.
const ahead = 256 * mib

// data finds holes of the file in a run: a fixed disk is mostly that.
func (w *walk) data(ctx context.Context, l *layer, r run) bool {
	for off := r.off; off < r.end(); {
		at := r.host + off - r.off
		k := w.known[l]
		if r.sure {
			k = pipe.Extent{Off: at, Len: r.end() - off, Kind: pipe.Data}
		}
		if at < k.Off || at >= k.End() {
			var err error
			if k, err = holds(ctx, l.file, at, r.end()-off); err != nil {
				return w.fail(err)
			}
			w.known[l] = k
		}
		n := min(k.End()-at, r.end()-off)
		if !w.yield(pipe.Extent{Off: off, Len: n, Kind: k.Kind}, nil) {
			return false
		}
		off += n
	}
	return true
}

// holds is what a file has from a place on: at least the first of n bytes, and as much more as it says at once.
func holds(ctx context.Context, file pipe.Image, at, n int64) (pipe.Extent, error) {
	most := max(n, min(ahead, file.Size()-at))
	for e, err := range pipe.Extents(ctx, file, at, most) {
		if err != nil || e.Len > 0 {
			return e, err
		}
	}
	return pipe.Extent{Off: at, Len: n, Kind: pipe.Data}, nil
}

// merged joins neighbours of one kind.
func (l *layer) merged(ctx context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		if off < 0 || n < 0 || off > l.size || n > l.size-off {
			yield(pipe.Extent{}, fmt.Errorf("%s: extents at %d: %w", l.path, off, fs.ErrInvalid))
			return
		}
		var held pipe.Extent
		w := &walk{known: map[*layer]pipe.Extent{}, yield: func(e pipe.Extent, err error) bool {
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
		}}
		if w.extents(ctx, l, off, off+n) && held.Len > 0 {
			yield(held, nil)
		}
	}
}
