package pipetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hikae/hikae/pipe"
)

// ErrFault is wrapped by every error that is made on purpose.
var ErrFault = errors.New("injected fault")

// Fault fails operations. Its method Hook is a [Hook]. Create one by [FailNth].
type Fault struct {
	nth    int64
	sticky bool
	names  []string
	seen   atomic.Int64
	fired  atomic.Bool
}

// FailNth returns a fault that fails the nth operation, counted from one, and all after it where sticky. With names,
// only operations of those names count.
func FailNth(n int64, sticky bool, names ...string) *Fault {
	return &Fault{nth: n, sticky: sticky, names: names}
}

// Hook fails the operation where it is its turn.
func (f *Fault) Hook(_ context.Context, op *Op) error {
	if len(f.names) > 0 && !slices.Contains(f.names, op.Name) {
		return nil
	}
	n := f.seen.Add(1)
	if n != f.nth && (!f.sticky || n < f.nth) {
		return nil
	}
	f.fired.Store(true)
	return fmt.Errorf("%w: operation %d, %s at %d", ErrFault, n, op.Name, op.Off)
}

// Fired reports whether the fault has failed an operation.
func (f *Fault) Fired() bool { return f.fired.Load() }

// Seen is how many operations counted so far.
func (f *Fault) Seen() int64 { return f.seen.Load() }

// Log remembers operations. Its method Hook is a [Hook]. The zero value is ready. It keeps no data, only what was done.
type Log struct {
	mu  sync.Mutex
	ops []Op
}

// Hook remembers the operation.
func (l *Log) Hook(_ context.Context, op *Op) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := *op
	if o.Data != nil {
		o.Data = []byte{} // only that there was some: the bytes are the caller's
	}
	l.ops = append(l.ops, o)
	return nil
}

// Ops are the operations of that name so far, in the order of their offsets.
func (l *Log) Ops(name string) []Op {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []Op
	for _, op := range l.ops {
		if op.Name == name {
			list = append(list, op)
		}
	}
	slices.SortStableFunc(list, func(a, b Op) int { return int(min(1, max(-1, a.Off-b.Off))) })
	return list
}

// Hooks returns a hook that calls several, up to the first error.
func Hooks(hooks ...Hook) Hook {
	return func(ctx context.Context, op *Op) error {
		for _, h := range hooks {
			if err := h(ctx, op); err != nil {
				return err
			}
		}
		return nil
	}
}

// BadSectors returns img with reads that fail where they touch one of the ranges. What comes before the first bad byte
// is returned, as a disk does.
func BadSectors(img pipe.Image, bad ...pipe.Extent) pipe.Image { return &badImage{img, bad} }

type badImage struct {
	pipe.Image
	bad []pipe.Extent
}

func (i *badImage) Unwrap() pipe.Image { return i.Image }

func (i *badImage) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	end := off + int64(len(p))
	var why error
	for _, e := range i.bad {
		if e.Off < end && off < e.End() {
			end, why = max(e.Off, off), fmt.Errorf("%w: medium error in [%d, %d)", ErrFault, e.Off, e.End())
		}
	}
	if why == nil {
		return i.Image.ReadAt(ctx, p, off)
	}
	n, err := i.Image.ReadAt(ctx, p[:end-off], off)
	if err != nil {
		return n, err
	}
	return n, why
}

// ShortReads returns img with reads that touch byte at ending before it, with err: io.EOF, as an image that has shrunk,
// or nil, which no image may answer.
func ShortReads(img pipe.Image, at int64, err error) pipe.Image { return &shortImage{img, at, err} }

type shortImage struct {
	pipe.Image
	at  int64
	err error
}

func (i *shortImage) Unwrap() pipe.Image { return i.Image }

func (i *shortImage) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	n, err := i.Image.ReadAt(ctx, p, off)
	if off <= i.at && i.at < off+int64(n) {
		return int(i.at - off), i.err
	}
	return n, err
}

// Flip returns img with one bit of byte at changed in every nth read of it: 1 is another disk, 2 one that cannot make
// up its mind. It has no extents: zero may have become data.
func Flip(img pipe.Image, at int64, nth int64) pipe.Image {
	return &flippedImage{img: img, at: at, nth: nth}
}

// flippedImage is no wrapper: its content differs.
type flippedImage struct {
	img     pipe.Image
	at, nth int64
	seen    atomic.Int64
}

func (i *flippedImage) Size() int64  { return i.img.Size() }
func (i *flippedImage) Close() error { return i.img.Close() }

func (i *flippedImage) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	n, err := i.img.ReadAt(ctx, p, off)
	if off <= i.at && i.at < off+int64(n) && i.seen.Add(1)%i.nth == 0 {
		p[i.at-off] ^= 1
	}
	return n, err
}

// FlipBlock is a [Hook] that changes one bit of the data of the nth block that is put, counted from one: what a broken
// memory does between fingerprint and write.
func FlipBlock(nth int64) Hook {
	var seen atomic.Int64
	return func(_ context.Context, op *Op) error {
		if op.Name == "putblock" && len(op.Data) > 0 && seen.Add(1) == nth {
			op.Data = slices.Clone(op.Data)
			op.Data[len(op.Data)/2] ^= 1
		}
		return nil
	}
}
