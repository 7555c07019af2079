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

// allocation is what the host said last of what holds anything, and whether it says so at all.
type allocation struct {
	mu     sync.Mutex
	asked  bool
	start  int64 // of the window, bytes
	count  int   // chunks of it
	bits   []byte
	refuse *HostError
}

// Untold is why the extents of the disk are all Data: the host refused to tell. Nil where it did not.
func (d *Disk) Untold() *HostError {
	d.told.mu.Lock()
	defer d.told.mu.Unlock()
	return d.told.refuse
}

// Extents is as pipe.ExtentImage has it: what the host says is not allocated is Zero. It is asked about 1 GiB at a time, as
// the sequence gets there. All is Data where the host refuses ([Disk.Untold] has the reason), on a disk that is open for
// writing, since hosts do not count what was written since, and after the last whole 64 KiB of a disk.
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
	known := d.size - d.size%chunk
	if d.write || off >= known {
		return pipe.Extent{Off: off, Len: end - off, Kind: pipe.Data}, nil
	}
	t := &d.told
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.ask(ctx, d, off, known); err != nil {
		return pipe.Extent{}, err
	}
	if t.refuse != nil {
		return pipe.Extent{Off: off, Len: end - off, Kind: pipe.Data}, nil
	}
	i := int((off - t.start) / chunk)
	kind, to := t.kind(i), i+1
	for to < t.count && t.kind(to) == kind {
		to++
	}
	return pipe.Extent{Off: off, Len: min(end, t.start+int64(to)*chunk) - off, Kind: kind}, nil
}

// ask has the window around off told, unless it is the one that was told last.
func (t *allocation) ask(ctx context.Context, d *Disk, off, known int64) error {
	if t.refuse != nil || t.asked && off >= t.start && off < t.start+int64(t.count)*chunk {
		return nil
	}
	start := off - off%(mostChunks*chunk)
	count := int(min(mostChunks, (known-start)/chunk))
	var c *call
	err := d.c.request(ctx, func(handle uint64) *call {
		c = newAllocated(handle, chunk, start, count)
		return c
	})
	if err != nil && errors.As(err, &t.refuse) {
		return nil
	}
	if err != nil {
		return err
	}
	t.asked, t.start, t.count, t.bits = true, start, count, c.buf
	return nil
}

// kind is the ith chunk's: the lowest bit of a byte is the first.
func (t *allocation) kind(i int) pipe.Kind {
	if t.bits[i/8]>>(i%8)&1 == 1 {
		return pipe.Data
	}
	return pipe.Zero
}
