package kvm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

// placeTarget writes over a disk what differs from it, and nothing else.
type placeTarget struct {
	to      pipe.ExtentTarget
	is      pipe.Image // the same disk, to look at
	written atomic.Int64
	buffers sync.Pool // of placeBuffer bytes
	finish  func(ctx context.Context) error
	abandon func() error
	ended   bool
}

const (
	placeBuffer = 1 << 20
	placeCell   = 4 << 10 // the unit of comparison
)

func newPlaceTarget(to pipe.ExtentTarget, is pipe.Image) *placeTarget {
	t := &placeTarget{to: to, is: is}
	t.buffers.New = func() any { b := make([]byte, placeBuffer); return &b }
	return t
}

func (t *placeTarget) Size() int64 { return t.to.Size() }

// Rewritten is how many bytes differed, and were written.
func (t *placeTarget) Rewritten() int64 { return t.written.Load() }

// WriteAt implements [pipe.Target].
func (t *placeTarget) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n := min(len(p)-done, placeBuffer)
		err := t.differing(ctx, p[done:done+n], off+int64(done), func(from, to int) error {
			t.written.Add(int64(to - from))
			_, err := t.to.WriteAt(ctx, p[done+from:done+to], off+int64(done+from))
			return err
		})
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// differing calls change for each row of cells in which the disk is not want.
func (t *placeTarget) differing(ctx context.Context, want []byte, off int64, change func(from, to int) error) error {
	buf := t.buffers.Get().(*[]byte)
	defer t.buffers.Put(buf)
	is := (*buf)[:len(want)]
	if err := readAll(ctx, t.is, is, off); err != nil {
		return err
	}
	return unlike(len(want), off, func(a, b int) bool { return bytes.Equal(is[a:b], want[a:b]) }, change)
}

// unlike calls change for each row of cells that are not the same. Cells begin at multiples of placeCell of the disk.
func unlike(n int, off int64, same func(a, b int) bool, change func(from, to int) error) error {
	from := -1
	for a := 0; a < n; {
		b := min(n, a+placeCell-int(off+int64(a))&(placeCell-1))
		switch equal := same(a, b); {
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

func readAll(ctx context.Context, img pipe.Image, p []byte, off int64) error {
	n, err := img.ReadAt(ctx, p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read what is there at %d: %w", off, err)
}

// Mark implements [pipe.ExtentTarget]. Where the disk reads as zero already, nothing is done.
func (t *placeTarget) Mark(ctx context.Context, e pipe.Extent) error {
	if e.Kind == pipe.Unchanged || e.Kind == pipe.Data {
		return t.to.Mark(ctx, e)
	}
	for part, err := range pipe.Extents(ctx, t.is, e.Off, e.Len) {
		if err == nil && part.Kind != pipe.Zero {
			err = t.clear(ctx, part.Off, part.Len, e.Kind)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// clear makes zeros of a range where it is something else.
func (t *placeTarget) clear(ctx context.Context, off, n int64, kind pipe.Kind) error {
	buf := t.buffers.Get().(*[]byte)
	defer t.buffers.Put(buf)
	for n > 0 {
		is := (*buf)[:min(n, placeBuffer)]
		if err := readAll(ctx, t.is, is, off); err != nil {
			return err
		}
		err := unlike(len(is), off, func(a, b int) bool { return diskfile.IsZero(is[a:b]) }, func(from, to int) error {
			t.written.Add(int64(to - from))
			return t.to.Mark(ctx, pipe.Extent{Off: off + int64(from), Len: int64(to - from), Kind: kind})
		})
		if err != nil {
			return err
		}
		off, n = off+int64(len(is)), n-int64(len(is))
	}
	return nil
}

// Commit implements [pipe.Target]: on nil the disk is what was written, durably, and nobody has it open.
func (t *placeTarget) Commit(ctx context.Context) error {
	if err := t.to.Commit(ctx); err != nil {
		return err
	}
	t.ended = true
	return t.finish(ctx)
}

// Close implements [pipe.Target]. Without a Commit what was written stays: there is no way back.
func (t *placeTarget) Close() error {
	if t.ended {
		return nil
	}
	t.ended = true
	return t.abandon()
}
