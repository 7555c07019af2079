package vmdk

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"sort"

	"github.com/hikae/hikae/pipe"
)

// layer is one disk of a chain. What its extents do not hold comes from its parent.
type layer struct {
	path   string
	size   int64
	parts  []part
	parent *layer // nil: zeros
}

// part is one extent in its place.
type part struct {
	off, len int64
	grains   *grains    // nil for flat ones and zeros
	flat     pipe.Image // nil for zeros
	at       int64      // of the extent's first byte in flat
	closed   bool       // NOACCESS
}

// next is the run at off, which goes on to end at most, and never over the border of an extent.
func (l *layer) next(ctx context.Context, off, end int64) (run, error) {
	i := sort.Search(len(l.parts), func(i int) bool { return l.parts[i].off+l.parts[i].len > off })
	p := &l.parts[i]
	end = min(end, p.off+p.len)
	switch {
	case p.closed:
		return run{}, fmt.Errorf("%s: extent at %d is marked as %s: %w", l.path, p.off, NoAccess, fs.ErrPermission)
	case p.grains != nil:
		r, err := p.grains.next(ctx, off-p.off, end-p.off)
		r.off += p.off
		return r, err
	case p.flat != nil:
		return run{off: off, len: end - off, what: isData, from: p.flat, host: p.at + off - p.off}, nil
	}
	return run{off: off, len: end - off, what: isZero}, nil
}

// grainOff is where a packed run begins in its grain.
func (l *layer) grainOff(r run) int64 {
	i := sort.Search(len(l.parts), func(i int) bool { return l.parts[i].off+l.parts[i].len > r.off })
	return r.off - l.parts[i].off - r.grain
}

// read fills p with the disk from off on. It goes over the end of the disk with zeros, as a delta that is larger than
// its parent wants it.
func (l *layer) read(ctx context.Context, p []byte, off int64) (done int, err error) {
	have := int(min(max(l.size-off, 0), int64(len(p))))
	clear(p[have:])
	for done < have {
		r, err := l.row(ctx, off+int64(done), off+int64(have))
		if err != nil {
			return done, err
		}
		if err := l.readRun(ctx, p[done:done+int(r.len)], r); err != nil {
			return done, err
		}
		done += int(r.len)
	}
	return len(p), nil
}

// row is the run at off, continued over the borders of tables and extents, which matters for small grains.
func (l *layer) row(ctx context.Context, off, end int64) (run, error) {
	r, err := l.next(ctx, off, end)
	for err == nil && r.what != isPacked && r.end() < end {
		p, nextErr := l.next(ctx, r.end(), end)
		if nextErr != nil || !r.joins(p) {
			break
		}
		r.len += p.len
	}
	return r, err
}

func (l *layer) readRun(ctx context.Context, p []byte, r run) error {
	switch r.what {
	case isZero:
		clear(p)
	case isData:
		if err := readFull(ctx, r.from, p, r.host); err != nil {
			return fmt.Errorf("%s: data at %d: %w", l.path, r.off, err)
		}
	case isPacked:
		plain, err := r.grains.decoded(ctx, r)
		if err != nil {
			return err
		}
		copy(p, plain[l.grainOff(r):])
	case isAbsent:
		if l.parent == nil {
			clear(p)
			return nil
		}
		_, err := l.parent.read(ctx, p, r.off)
		return err
	}
	return nil
}

// extents is [pipe.ExtentImage.Extents], without reading data: by the tables, then by the holes of the files.
func (l *layer) extents(ctx context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		if off < 0 || n < 0 || off > l.size || n > l.size-off {
			yield(pipe.Extent{}, fmt.Errorf("%s: extents at %d: %w", l.path, off, fs.ErrInvalid))
			return
		}
		m := merger{yield: yield}
		if err := l.walk(ctx, off, off+n, &m); err != nil {
			m.fail(err)
			return
		}
		m.flush()
	}
}

// walk gives the extents of a range to m, past the end of the disk as zeros.
func (l *layer) walk(ctx context.Context, off, end int64, m *merger) error {
	for off < min(end, l.size) && !m.stopped {
		if err := ctx.Err(); err != nil {
			return err
		}
		r, err := l.next(ctx, off, min(end, l.size))
		if err != nil {
			return err
		}
		switch {
		case r.what == isZero, r.what == isAbsent && l.parent == nil:
			m.add(pipe.Extent{Off: r.off, Len: r.len, Kind: pipe.Zero})
		case r.what == isAbsent:
			err = l.parent.walk(ctx, r.off, r.end(), m)
		case r.what == isData:
			err = holes(ctx, r, m)
		default:
			m.add(pipe.Extent{Off: r.off, Len: r.len, Kind: pipe.Data})
		}
		if err != nil {
			return err
		}
		off = r.end()
	}
	if off < end {
		m.add(pipe.Extent{Off: off, Len: end - off, Kind: pipe.Zero})
	}
	return nil
}

// holes gives m what the file has of a run of data.
func holes(ctx context.Context, r run, m *merger) error {
	for e, err := range pipe.Extents(ctx, r.from, r.host, r.len) {
		if err != nil {
			return err
		}
		if m.add(pipe.Extent{Off: e.Off - r.host + r.off, Len: e.Len, Kind: e.Kind}); m.stopped {
			return nil
		}
	}
	return nil
}

// readAt is [pipe.Image.ReadAt].
func (l *layer) readAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("%s: read at %d: %w", l.path, off, fs.ErrInvalid)
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	have := p[:min(int64(len(p)), max(l.size-off, 0))]
	n, err := l.read(ctx, have, off)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}
