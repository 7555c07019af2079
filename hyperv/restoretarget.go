package hyperv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/hikae/hikae/hyperv/vhdx"
	"github.com/hikae/hikae/pipe"
)

// freshDisk is a disk of a new VM.
type freshDisk struct {
	*vhdx.Target
	whole func()
}

// Commit implements [pipe.Target].
func (t *freshDisk) Commit(ctx context.Context) error {
	if err := t.Target.Commit(ctx); err != nil {
		return err
	}
	t.whole()
	return nil
}

const (
	placeBuffer = 1 << 20
	placeCell   = 4 << 10 // bytes: the unit of comparison
)

// placeTarget writes over a disk what differs from it. It keeps the file open after its own end: as long as it is open nobody can start
// the VM.
type placeTarget struct {
	disk  *vhdx.Disk
	ready func(context.Context) error // asked before the end
	whole func()

	touched   atomic.Bool  // something was written
	blind     atomic.Bool  // some of it could not be looked at
	rewritten atomic.Int64 // bytes
	buffers   sync.Pool    // of placeBuffer bytes
	ended     bool
}

var _ pipe.ExtentTarget = (*placeTarget)(nil)

func newPlaceTarget(d *vhdx.Disk, ready func(context.Context) error, whole func()) *placeTarget {
	t := &placeTarget{disk: d, ready: ready, whole: whole}
	t.buffers.New = func() any { b := make([]byte, placeBuffer); return &b }
	return t
}

// Size implements [pipe.Target].
func (t *placeTarget) Size() int64 { return t.disk.Size() }

// Rewritten is how many bytes differed, or could not be compared, and were written.
func (t *placeTarget) Rewritten() int64 { return t.rewritten.Load() }

// WriteAt implements [pipe.Target].
func (t *placeTarget) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	for done := 0; done < len(p); {
		part := p[done:min(len(p), done+placeBuffer)]
		at := off + int64(done)
		err := t.unlike(ctx, at, len(part), func(is []byte, a, b int) bool { return bytes.Equal(is, part[a:b]) }, func(a, b int) error {
			t.touched.Store(true)
			n, err := t.disk.WriteAt(ctx, part[a:b], at+int64(a))
			t.rewritten.Add(int64(n))
			return err
		})
		if err != nil {
			return done, err
		}
		done += len(part)
	}
	return len(p), nil
}

// Mark implements [pipe.ExtentTarget]. What the point holds no data for reads as zero afterwards.
func (t *placeTarget) Mark(ctx context.Context, e pipe.Extent) error {
	switch e.Kind {
	case pipe.Unchanged:
		return t.disk.Mark(ctx, e)
	case pipe.Data:
		return fmt.Errorf("mark %v: %w", e, errors.ErrUnsupported)
	}
	for off := e.Off; off < e.End(); {
		n := int(min(placeBuffer, e.End()-off))
		err := t.unlike(ctx, off, n, func(is []byte, _, _ int) bool { return isZero(is) }, func(a, b int) error {
			t.touched.Store(true)
			t.rewritten.Add(int64(b - a))
			return t.disk.Mark(ctx, pipe.Extent{Off: off + int64(a), Len: int64(b - a), Kind: e.Kind})
		})
		if err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}

// unlike calls change for each row of cells that are not the same. Cells begin at multiples of placeCell of the disk.
func (t *placeTarget) unlike(ctx context.Context, off int64, n int, same func(is []byte, a, b int) bool, change func(a, b int) error) error {
	buf := t.buffers.Get().(*[]byte)
	defer t.buffers.Put(buf)
	is := (*buf)[:n]
	if got, err := t.disk.ReadAt(ctx, is, off); got < n {
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

// Commit implements [pipe.Target]: on nil what was written is durable. The file stays open until seal.
func (t *placeTarget) Commit(ctx context.Context) error {
	if t.ended {
		return fmt.Errorf("the disk was ended already: %w", errors.ErrUnsupported)
	}
	t.ended = true
	if err := t.ready(ctx); err != nil {
		return errors.Join(err, t.disk.Close())
	}
	if err := t.disk.Flush(ctx); err != nil {
		return errors.Join(err, t.disk.Close())
	}
	t.whole()
	return nil
}

// seal closes the file in good order.
func (t *placeTarget) seal(ctx context.Context) error { return t.disk.Commit(ctx) }

// Close implements [pipe.Target]. Without a Commit what was written stays: there is no way back.
func (t *placeTarget) Close() error {
	if t.ended {
		return nil
	}
	t.ended = true
	return t.disk.Close()
}

// drop closes the file, whatever became of the disk.
func (t *placeTarget) drop() error {
	t.ended = true
	return t.disk.Close()
}

// openDisk is a disk that was committed and is still open for writing.
type openDisk struct{ disk *vhdx.Disk }

func (o openDisk) Size() int64  { return o.disk.Size() }
func (o openDisk) Close() error { return nil }
func (o openDisk) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	return o.disk.ReadAt(ctx, p, off)
}
