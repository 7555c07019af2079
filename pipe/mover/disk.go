package mover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/zeebo/blake3"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// disk is one disk of a point that is being written.
type disk struct {
	w      *writer
	ref    wire.Ref
	key    string
	target pipe.Target
	marks  pipe.ExtentTarget // nil where the target takes no marks
	blocks pipe.BlockTarget  // nil where it takes no blocks
	parts  pipe.Assembler    // nil where it does not assemble
	grain  int64             // block size
	gate   gate
}

func (h *handler) startDisk(ctx context.Context, m *wire.StartDisk) (wire.Message, error) {
	w, err := h.writers.get(m.Writer)
	if err != nil {
		return nil, err
	}
	ctx, done, err := w.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if m.Key == "" {
		return nil, fmt.Errorf("a disk without a key: %w", fs.ErrInvalid)
	}
	w.mu.Lock()
	full := len(w.disks) >= wire.MaxDisks
	w.mu.Unlock()
	if full { // more do not fit the description of a point
		return nil, &wire.Fail{Code: wire.CodeBusy, Text: fmt.Sprintf("disk %q: a point has at most %d disks", m.Key, wire.MaxDisks)}
	}
	t, err := w.pw.Disk(ctx, m.Key, m.Size)
	if err != nil {
		return nil, w.because(err)
	}
	d := newDisk(w, m.Key, t)
	if d.ref, err = h.disks.add(d); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	w.mu.Lock()
	w.disks[d] = struct{}{}
	w.mu.Unlock()
	return &wire.DiskStarted{Disk: d.ref, BlockSize: uint32(d.grain), Marks: d.marks != nil}, nil
}

func newDisk(w *writer, key string, t pipe.Target) *disk {
	d := &disk{w: w, key: key, target: t}
	d.marks, _ = t.(pipe.ExtentTarget)
	// A block that fits no message is none for a far caller: it writes bytes instead.
	if b, ok := t.(pipe.BlockTarget); ok && 0 < b.BlockSize() && b.BlockSize() <= wire.MaxContent {
		d.blocks, d.grain = b, int64(b.BlockSize())
		d.parts, _ = t.(pipe.Assembler)
	}
	return d
}

// enter begins a call on an open disk.
func (h *handler) enterDisk(ctx context.Context, ref wire.Ref) (*disk, context.Context, func(), error) {
	d, err := h.disks.get(ref)
	if err != nil {
		return nil, nil, nil, err
	}
	ctx, done, err := d.w.enter(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	if err := d.gate.enter(); err != nil {
		done()
		return nil, nil, nil, err
	}
	return d, ctx, func() { d.gate.leave(); done() }, nil
}

// wrong is an error of a call on a range of the disk.
func (d *disk) wrong(op string, off, n int64, err error) error {
	err = d.w.because(err)
	if f, ok := err.(*wire.Fail); ok {
		return f
	}
	return fmt.Errorf("disk %q: %w", d.key, &pipe.RangeError{Op: op, Off: off, Len: n, Err: err})
}

// inside refuses ranges that the disk does not have.
func (d *disk) inside(off, n int64) error {
	if off < 0 || n < 0 || n > d.target.Size()-off {
		return fmt.Errorf("the disk has %d bytes: %w", d.target.Size(), fs.ErrInvalid)
	}
	return nil
}

func (h *handler) mark(ctx context.Context, m *wire.Mark) error {
	d, ctx, done, err := h.enterDisk(ctx, m.Disk)
	if err != nil {
		return err
	}
	defer done()
	e := m.Extent
	switch {
	case d.marks == nil:
		err = fmt.Errorf("this target takes no marks: %w", errors.ErrUnsupported)
	case e.Kind == pipe.Data || e.Kind > pipe.Unchanged:
		err = fmt.Errorf("%v cannot be marked: %w", e.Kind, fs.ErrInvalid)
	default:
		if err = d.inside(e.Off, e.Len); err == nil {
			err = d.marks.Mark(ctx, e)
		}
	}
	if err != nil {
		return d.wrong("mark "+e.Kind.String(), e.Off, e.Len, err)
	}
	return nil
}

func (h *handler) write(ctx context.Context, m *wire.Write) error {
	d, ctx, done, err := h.enterDisk(ctx, m.Disk)
	if err != nil {
		return err
	}
	defer done()
	if err := d.writeAt(ctx, m); err != nil {
		return d.wrong("write", m.Off, int64(m.Plain), err)
	}
	d.w.progress.bring(len(m.Data))
	h.host.observer.Blocks(h.peer.Name, BlockCount{PlainBytes: int64(m.Plain), WireBytes: int64(len(m.Data))})
	return nil
}

func (d *disk) writeAt(ctx context.Context, m *wire.Write) error {
	if err := d.inside(m.Off, int64(m.Plain)); err != nil {
		return err
	}
	host := d.w.h.host
	if err := host.decoded.Acquire(ctx, int64(m.Plain)); err != nil { // a few bytes may stand for megabytes
		return err
	}
	defer host.decoded.Release(int64(m.Plain))
	if err := host.busy(ctx); err != nil {
		return err
	}
	buf := plainBuffer(int(m.Plain))
	defer plainBuffers.Put(buf)
	plain, err := pipe.Decode(*buf, m.Data, m.Codec, int(m.Plain))
	host.idle()
	if err != nil {
		return err
	}
	if blake3.Sum256(plain) != m.Sum {
		return pipe.ErrBlockMismatch
	}
	_, err = d.target.WriteAt(ctx, plain, m.Off)
	return err
}

// whole reports whether a range is made of whole blocks, so that nothing of it waits for its neighbours.
func (d *disk) whole(off, n int64) bool {
	return d.grain > 0 && off%d.grain == 0 && (n%d.grain == 0 || off+n == d.target.Size())
}

func (h *handler) sealDisk(ctx context.Context, m *wire.SealDisk) error {
	return h.endDisk(ctx, m.Disk, errSealed, func(ctx context.Context, d *disk) error { return d.target.Commit(ctx) })
}

func (h *handler) dropDisk(ctx context.Context, m *wire.DropDisk) error {
	return h.endDisk(ctx, m.Disk, errDropped, func(_ context.Context, d *disk) error { return d.target.Close() })
}

// abandon closes a disk that nobody knows the number of. Where its writer ends, that closes it.
func (d *disk) abandon() {
	if d.w.gate.enter() != nil {
		return
	}
	defer d.w.gate.leave()
	d.gate.end(errDropped)
	_ = d.target.Close()
}

// endDisk ends a disk by what is called alone. After an error it is as good as closed, too.
func (h *handler) endDisk(ctx context.Context, ref wire.Ref, why error, how func(context.Context, *disk) error) error {
	d, err := h.disks.get(ref)
	if err != nil {
		return err
	}
	ctx, done, err := d.w.enter(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := d.gate.enterAlone(ctx, errSealing); err != nil {
		return d.w.because(err)
	}
	err = how(ctx, d)
	d.gate.leave()
	d.gate.end(why)
	_, _ = h.disks.take(ref)
	d.w.progress.sealed(d)
	if err != nil {
		return fmt.Errorf("disk %q: %w", d.key, d.w.because(err))
	}
	return nil
}

// plainBuffers hold decoded blocks.
var plainBuffers = sync.Pool{New: func() any { return new([]byte) }}

// plainBuffer is one of at least n bytes, to be put back.
func plainBuffer(n int) *[]byte {
	b := plainBuffers.Get().(*[]byte)
	if cap(*b) < n {
		*b = make([]byte, n)
	}
	return b
}
