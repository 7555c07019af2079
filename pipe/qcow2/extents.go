package qcow2

import (
	"context"
	"fmt"
	"io/fs"
	"iter"

	"github.com/hikae/hikae/pipe"
)

// Extents implements [pipe.ExtentImage] without reading data: by the tables, then by the holes of the files.
func (l *layer) Extents(ctx context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
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

// walk gives the extents of a range to m.
func (l *layer) walk(ctx context.Context, off, end int64, m *merger) error {
	for off < end && !m.stopped {
		if err := ctx.Err(); err != nil {
			return err
		}
		r, err := l.next(ctx, off, end)
		if err != nil {
			return err
		}
		switch {
		case r.what == isZero, r.what == fromBacking && l.backing == nil:
			m.add(pipe.Extent{Off: r.off, Len: r.len, Kind: pipe.Zero})
		case r.what == fromBacking:
			err = extentsOf(ctx, l.backing, r.off, r, m)
		case r.what == isData:
			err = extentsOf(ctx, l.data, r.host, r, m)
		default:
			m.add(pipe.Extent{Off: r.off, Len: r.len, Kind: pipe.Data})
		}
		if err != nil {
			return err
		}
		off = r.end()
	}
	return nil
}

// extentsOf gives m the extents that img has at byte at, as those of r. Past the end of img they are zero.
func extentsOf(ctx context.Context, img pipe.Image, at int64, r run, m *merger) error {
	have := min(max(img.Size()-at, 0), r.len)
	if have == 0 {
		m.add(pipe.Extent{Off: r.off, Len: r.len, Kind: pipe.Zero})
		return nil
	}
	if below, ok := img.(*layer); ok {
		if err := below.walk(ctx, at, at+have, m); err != nil {
			return err
		}
	} else {
		for e, err := range pipe.Extents(ctx, img, at, have) {
			if err != nil {
				return err
			}
			if m.add(pipe.Extent{Off: e.Off - at + r.off, Len: e.Len, Kind: e.Kind}); m.stopped {
				return nil
			}
		}
	}
	if have < r.len {
		m.add(pipe.Extent{Off: r.off + have, Len: r.len - have, Kind: pipe.Zero})
	}
	return nil
}

// merger joins neighbouring extents of one kind.
type merger struct {
	yield   func(pipe.Extent, error) bool
	last    pipe.Extent
	stopped bool
}

func (m *merger) add(e pipe.Extent) {
	switch {
	case m.stopped || e.Len == 0:
	case m.last.Len > 0 && m.last.Kind == e.Kind:
		m.last.Len += e.Len
	default:
		m.flush()
		m.last = e
	}
}

func (m *merger) flush() {
	if m.last.Len > 0 && !m.stopped {
		m.stopped = !m.yield(m.last, nil)
	}
	m.last = pipe.Extent{}
}

func (m *merger) fail(err error) {
	if m.flush(); !m.stopped {
		m.stopped = true
		m.yield(pipe.Extent{}, err)
	}
}
