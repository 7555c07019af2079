package nfc

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"sync"

	"github.com/hikae/hikae/pipe"
)

const (
	// chunk is the unit in which a host is asked what is allocated: 64 KiB is the smallest that VMware documents.
	chunk = 64 << 10
	// mostChunks is one question's worth: 1 GiB of disk, 2 KiB of answer.
	mostChunks = 16384
)

// allocation is what the host said last of what holds anything, and whether it says so at all, and truly.
type allocation struct {
	turn   chan struct{} // holds a token while the host is asked: it may be silent for long, and who waits may leave
	probed windowSet     // belongs to who has the turn

	mu     sync.Mutex
	window window
	empty  bool  // something was called Zero already
	refuse error // a *HostError or a *MistoldError: from then on all is Data
}

// window is one answer.
type window struct {
	start int64 // bytes
	count int   // chunks; zero: nothing was asked yet
	bits  []byte
}

func (w *window) end() int64           { return w.start + int64(w.count)*chunk }
func (w *window) holds(off int64) bool { return off >= w.start && off < w.end() }

// kind is the ith chunk's: the lowest bit of a byte is the first.
func (w *window) kind(i int) pipe.Kind {
	if w.bits[i/8]>>(i%8)&1 == 1 {
		return pipe.Data
	}
	return pipe.Zero
}

// extentAt is the extent that begins at off, no longer than to end and to the window's.
func (w *window) extentAt(off, end int64) pipe.Extent {
	i := int((off - w.start) / chunk)
	kind, to := w.kind(i), i+1
	for to < w.count && w.kind(to) == kind {
		to++
	}
	return pipe.Extent{Off: off, Len: min(end, w.start+int64(to)*chunk) - off, Kind: kind}
}

// Untold is why the extents of the disk are all Data: a [*HostError] where the host refuses to tell what is allocated, a
// [*MistoldError] where it told it wrongly. Nil where it told it, as far as is known.
func (d *Disk) Untold() error {
	d.told.mu.Lock()
	defer d.told.mu.Unlock()
	return d.told.refuse
}

// Extents is as pipe.ExtentImage has it: what the host says is not allocated is Zero. It is asked about 1 GiB at a time, as
// the sequence gets there, and some of what it calls empty is read, because nothing else ever would be: a host that is
// wrong about it would make a copy of zeros. All is Data where the host refuses or is wrong ([Disk.Untold] has the reason), on
// a disk that is open for writing, since hosts do not count what was written since, and after the last whole 64 KiB of a
// disk. A host that is found to be wrong after something was called Zero is a [*MistoldError].
func (d *Disk) Extents(ctx context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		if off < 0 || n < 0 || n > d.size-off {
			yield(pipe.Extent{}, &pipe.RangeError{Op: "extents", Off: off, Len: n, Err: fs.ErrInvalid})
			return
		}
		for end := off + n; off < end; {
			e, err := d.extentAt(ctx, off, end)
			if err != nil {
				yield(pipe.Extent{}, d.fault(ctx, "extents", nil, off, err))
				return
			}
			if !yield(e, nil) {
				return
			}
			off = e.End()
		}
	}
}

// extentAt is the extent that begins at off, no longer than to end and to what is asked at once.
func (d *Disk) extentAt(ctx context.Context, off, end int64) (pipe.Extent, error) {
	if err := ctx.Err(); err != nil {
		return pipe.Extent{}, err
	}
	if d.write || off >= d.tellable() {
		return pipe.Extent{Off: off, Len: end - off, Kind: pipe.Data}, nil
	}
	t := &d.told
	if e, known := t.extentAt(off, end); known {
		return e, nil
	}
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return pipe.Extent{}, ctx.Err()
	}
	if e, known := t.extentAt(off, end); known { // somebody asked meanwhile
		return e, nil
	}
	if err := d.ask(ctx, off); err != nil {
		return pipe.Extent{}, err
	}
	e, _ := t.extentAt(off, end)
	return e, nil
}

// tellable is where the last whole chunk ends.
func (d *Disk) tellable() int64 { return d.size - d.size%chunk }

// extentAt reports false where the host must be asked first.
func (t *allocation) extentAt(off, end int64) (pipe.Extent, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.refuse != nil:
		return pipe.Extent{Off: off, Len: end - off, Kind: pipe.Data}, true
	case !t.window.holds(off):
		return pipe.Extent{}, false
	}
	e := t.window.extentAt(off, end)
	t.empty = t.empty || e.Kind == pipe.Zero
	return e, true
}

// ask has the window around off told, and makes sure of it. The caller has the turn.
func (d *Disk) ask(ctx context.Context, off int64) error {
	t := &d.told
	start := off - off%(mostChunks*chunk)
	count := int(min(mostChunks, (d.tellable()-start)/chunk))
	var c *call
	err := d.c.request(ctx, func(handle uint64) *call {
		c = newAllocated(handle, chunk, start, count)
		return c
	})
	var refused *HostError
	if err != nil && !errors.As(err, &refused) {
		return err
	}
	if refused != nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.refuse = refused
		return nil
	}
	w := window{start, count, c.buf}
	wrong, err := d.probe(ctx, &w)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if wrong != nil {
		t.refuse = wrong
		if t.empty { // nobody can take that back
			return wrong
		}
		return nil
	}
	t.window = w
	return nil
}
