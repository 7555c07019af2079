package vmware

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/hikae/hikae/pipe"
)

// keepsBase reports whether a target writes into what the disk holds, so that what is not written stays. Others replace it.
func keepsBase(ctx context.Context, t pipe.Target) bool {
	marks, ok := t.(pipe.ExtentTarget)
	return ok && marks.Mark(ctx, pipe.Extent{Kind: pipe.Unchanged}) == nil
}

// freshTarget writes a disk that was just made. It reads as zero everywhere, so that zeros need not be sent, which would also
// fill up a thin disk.
func freshTarget(to pipe.Target, whole func()) pipe.Target {
	t := &freshDisk{Target: to, whole: whole}
	t.marks, _ = to.(pipe.ExtentTarget)
	t.based = keepsBase(context.Background(), to)
	return t
}

type freshDisk struct {
	pipe.Target
	marks pipe.ExtentTarget // nil: it takes none
	based bool
	whole func()
	ended bool
}

// Mark implements [pipe.ExtentTarget].
func (t *freshDisk) Mark(ctx context.Context, e pipe.Extent) error {
	switch {
	case e.Kind == pipe.Data || e.Kind == pipe.Unchanged:
		return fmt.Errorf("mark %v of a new disk: %w", e, errors.ErrUnsupported)
	case t.based:
		e.Kind = pipe.Unchanged
	case t.marks == nil:
		return nil
	}
	return t.marks.Mark(ctx, e)
}

// Flight implements [pipe.Far].
func (t *freshDisk) Flight() pipe.Flight { return flightOf(t.Target) }

func flightOf(t pipe.Target) pipe.Flight {
	if far, ok := t.(pipe.Far); ok {
		return far.Flight()
	}
	return pipe.Flight{}
}

// Commit implements [pipe.Target].
func (t *freshDisk) Commit(ctx context.Context) error {
	if t.ended {
		return fmt.Errorf("the disk was ended already: %w", errors.ErrUnsupported)
	}
	t.ended = true
	if err := t.Target.Commit(ctx); err != nil {
		return err
	}
	t.whole()
	return nil
}

// Close implements [pipe.Target].
func (t *freshDisk) Close() error {
	if t.ended {
		return nil
	}
	t.ended = true
	return t.Target.Close()
}

const (
	placeBuffer = 1 << 20
	placeCell   = 4 << 10 // bytes: the unit of comparison
)

// placeTarget writes over a disk what differs from it. What cannot be read of the disk is written. A target that replaces the
// disk as a whole is given everything.
type placeTarget struct {
	to    pipe.Target
	marks pipe.ExtentTarget // nil: it takes none
	based bool
	is    pipe.Image // the same disk, to look at; nil: it is not looked at
	whole func()
	ready func(context.Context) error // asked before the end; nil: it is not

	touched   atomic.Bool  // something was handed to the target
	rewritten atomic.Int64 // bytes
	blind     atomic.Bool  // some of it could not be looked at
	buffers   sync.Pool    // of placeBuffer bytes
	ended     bool
}

func newPlaceTarget(ctx context.Context, to pipe.Target, is pipe.Image, whole func()) *placeTarget {
	t := &placeTarget{to: to, is: is, whole: whole, based: keepsBase(ctx, to)}
	t.marks, _ = to.(pipe.ExtentTarget)
	t.buffers.New = func() any { b := make([]byte, placeBuffer); return &b }
	return t
}

// Size implements [pipe.Target].
func (t *placeTarget) Size() int64 { return t.to.Size() }

// Rewritten is how many bytes differed, or could not be compared, and were written.
func (t *placeTarget) Rewritten() int64 { return t.rewritten.Load() }

// Flight implements [pipe.Far].
func (t *placeTarget) Flight() pipe.Flight { return flightOf(t.to) }

// WriteAt implements [pipe.Target].
func (t *placeTarget) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	for done := 0; done < len(p); {
		part := p[done:min(len(p), done+placeBuffer)]
		at := off + int64(done)
		err := t.unlike(ctx, at, len(part), func(is []byte, a, b int) bool { return bytes.Equal(is, part[a:b]) },
			func(a, b int) error { return t.write(ctx, part[a:b], at+int64(a)) })
		if err != nil {
			return done, err
		}
		done += len(part)
	}
	return len(p), nil
}

func (t *placeTarget) write(ctx context.Context, p []byte, off int64) error {
	t.touched.Store(true)
	n, err := t.to.WriteAt(ctx, p, off)
	t.rewritten.Add(int64(n))
	return err
}

// unlike calls change for each row of cells that are not the same. Cells begin at multiples of placeCell of the disk.
func (t *placeTarget) unlike(ctx context.Context, off int64, n int, same func(is []byte, a, b int) bool, change func(a, b int) error) error {
	if t.is == nil || !t.based {
		return change(0, n)
	}
	buf := t.buffers.Get().(*[]byte)
	defer t.buffers.Put(buf)
	is := (*buf)[:n]
	if got, err := t.is.ReadAt(ctx, is, off); got < n {
		if ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		t.blind.Store(true)
		return change(0, n)
	}
	from := -1
	for a := 0; a < n; {
		b := min(n, a+placeCell-int(off+int64(a))&(placeCell-1))
		switch equal := same(is[a:b], a, b); {
		case !equal && from < 0:
			from = a
		case equal && from >= 0:
			if err := change(from, a); err != nil {
				return err
			}
			from = -1
		}
		a = b
	}
	if from < 0 {
		return nil
	}
	return change(from, n)
}

// Mark implements [pipe.ExtentTarget]. What the point holds no data for reads as zero afterwards.
func (t *placeTarget) Mark(ctx context.Context, e pipe.Extent) error {
	switch {
	case e.Kind == pipe.Unchanged && t.based:
		return t.marks.Mark(ctx, e)
	case e.Kind == pipe.Unchanged || e.Kind == pipe.Data:
		return fmt.Errorf("mark %v: %w", e, errors.ErrUnsupported)
	case t.is == nil || !t.based:
		return t.clear(ctx, e)
	}
	for part, err := range pipe.Extents(ctx, t.is, e.Off, e.Len) {
		if err != nil {
			if ctx.Err() != nil {
				return err
			}
			t.blind.Store(true) // what it told before holds, and to clear that again does no harm
			return t.clear(ctx, e)
		}
		if part.Kind == pipe.Zero {
			continue
		}
		if err := t.clearUnlike(ctx, pipe.Extent{Off: part.Off, Len: part.Len, Kind: e.Kind}); err != nil {
			return err
		}
	}
	return nil
}

// clearUnlike makes zeros where the disk holds something else.
func (t *placeTarget) clearUnlike(ctx context.Context, e pipe.Extent) error {
	for off := e.Off; off < e.End(); {
		n := int(min(placeBuffer, e.End()-off))
		err := t.unlike(ctx, off, n, func(is []byte, _, _ int) bool { return isZero(is) }, func(a, b int) error {
			return t.clear(ctx, pipe.Extent{Off: off + int64(a), Len: int64(b - a), Kind: e.Kind})
		})
		if err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}

func (t *placeTarget) clear(ctx context.Context, e pipe.Extent) error {
	t.touched.Store(true)
	if t.marks != nil {
		t.rewritten.Add(e.Len)
		return t.marks.Mark(ctx, e)
	}
	zeros := make([]byte, min(placeBuffer, e.Len))
	for off := e.Off; off < e.End(); off += int64(len(zeros)) {
		if err := t.write(ctx, zeros[:min(int64(len(zeros)), e.End()-off)], off); err != nil {
			return err
		}
	}
	return nil
}

var noBytes [placeCell]byte

func isZero(p []byte) bool {
	for len(p) > placeCell {
		if !bytes.Equal(p[:placeCell], noBytes[:]) {
			return false
		}
		p = p[placeCell:]
	}
	return bytes.Equal(p, noBytes[:len(p)])
}

// Commit implements [pipe.Target]: on nil the disk is what was written, and nothing of ours has it open.
func (t *placeTarget) Commit(ctx context.Context) error {
	if t.ended {
		return fmt.Errorf("the disk was ended already: %w", errors.ErrUnsupported)
	}
	t.ended = true
	if t.ready != nil {
		if err := t.ready(ctx); err != nil {
			return errors.Join(err, t.look(), t.to.Close())
		}
	}
	if !t.based { // it replaces the disk now
		t.touched.Store(true)
	}
	if err := errors.Join(t.look(), t.to.Commit(ctx)); err != nil {
		return err
	}
	t.whole()
	return nil
}

// look ends looking at the disk.
func (t *placeTarget) look() error {
	if t.is == nil {
		return nil
	}
	err := t.is.Close()
	t.is = nil
	return err
}

// Close implements [pipe.Target]. Without a Commit what was written stays: there is no way back.
func (t *placeTarget) Close() error {
	if t.ended {
		return nil
	}
	t.ended = true
	return errors.Join(t.look(), t.to.Close())
}

var _ io.Closer = (*placeTarget)(nil)
