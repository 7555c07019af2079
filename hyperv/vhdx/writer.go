package vhdx

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

// writer writes into a VHDX file. What it does to data and what it does to tables are kept apart: data goes straight to
// its place, in blocks that no durable table names yet or in sectors that hold data already; tables change in the cache,
// and go to the file through the log, after the data that they name is durable.
//
//	may run at the same time | why that is safe
//	writes to other ranges   | a block's place is given under mu; a sector that is written in part is read and written under mu
//	Flush and writes         | bits of a bitmap are set after their data is written, under mu
//	reads and writes         | pages change under the cache's lock; who reads what is being written gets old or new sectors
type writer struct {
	path  string
	size  int64 // of the disk as the user asked; the file's may be longer by less than a sector
	store *storeImage
	layer *layer
	table *blockTable
	base  baseKind

	mu       sync.Mutex
	h        header
	fresh    bool // the file's identities are new already
	dirty    int
	logAt    int64 // where the next entry goes
	sequence uint64
	failed   error // after a failed sync nobody knows what is durable
	closed   atomic.Bool
}

// baseKind says what Mark does with Unchanged.
type baseKind uint8

const (
	noBase baseKind = iota
	ofParent
	inPlace
)

// maxEntry is how many pages go into one entry of the log. Three of the longest fit into the smallest log, so that the
// next one, wherever it has to go, never lies on the last.
const maxEntry = 80

// check refuses ranges outside of the disk.
func (w *writer) check(ctx context.Context, op string, off, n int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if w.closed.Load() {
		return w.fail(op, off, fs.ErrClosed)
	}
	if off < 0 || n < 0 || off > w.size || n > w.size-off {
		return w.fail(op, off, fmt.Errorf("%w: %d bytes leave the disk of %d", fs.ErrInvalid, n, w.size))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed
}

func (w *writer) fail(op string, off int64, err error) error {
	return &diskfile.Error{Op: op, Path: w.path, Off: off, Err: err}
}

// Size is the length of the disk in bytes.
func (w *writer) Size() int64 { return w.size }

// WriteAt implements [pipe.Target].
func (w *writer) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := w.check(ctx, "write", off, int64(len(p))); err != nil {
		return 0, err
	}
	if err := w.touch(ctx); err != nil {
		return 0, err
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		n := int(min(int64(len(p)-done), w.table.blockSize-at%w.table.blockSize))
		if err := w.part(ctx, p[done:done+n], at, int64(n)); err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// touch gives the file new identities before its content changes for the first time: children that were made on it find
// out by them.
func (w *writer) touch(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fresh {
		return nil
	}
	w.h.fileWrite, w.h.dataWrite = NewGUID(), NewGUID()
	if err := w.writeHeader(ctx); err != nil {
		return err
	}
	w.fresh = true
	return nil
}

// part writes n bytes that lie in one block; p is nil for zeros. A differencing file knows whole sectors only: the rest
// of one that is written in part comes from below.
func (w *writer) part(ctx context.Context, p []byte, off, n int64) error {
	if !w.table.hasParent {
		return w.sectors(ctx, p, off, n)
	}
	s := w.table.sector
	first := min(-off&(s-1), n) // up to the next sector
	last := (off + n) & (s - 1)
	if first == n {
		last = 0
	}
	for _, c := range []struct{ from, to int64 }{{0, first}, {first, n - last}, {n - last, n}} {
		if c.from == c.to {
			continue
		}
		var q []byte
		if p != nil {
			q = p[c.from:c.to]
		}
		write := w.edge
		if c.from == first && c.to == n-last {
			write = w.sectors
		}
		if err := write(ctx, q, off+c.from, c.to-c.from); err != nil {
			return err
		}
	}
	return nil
}

// edge writes a part of a sector.
func (w *writer) edge(ctx context.Context, p []byte, off, n int64) error {
	s := w.table.sector
	b := make([]byte, s)
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.layer.ReadAt(ctx, b, off/s*s); err != nil {
		return err
	}
	if in := b[off%s:][:n]; p == nil {
		clear(in)
	} else {
		copy(in, p)
	}
	return w.place(ctx, b, off/s*s, s, func(write func() error) error { return write() })
}

// sectors writes whole sectors of one block, or any range of one where there is no parent.
func (w *writer) sectors(ctx context.Context, p []byte, off, n int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.place(ctx, p, off, n, func(write func() error) error {
		w.mu.Unlock()
		defer w.mu.Lock()
		return write()
	})
}

// place finds where a range of one block goes, writes it, and then says so in the tables. It is called under mu; data is
// written by way of outside, which may let go of it meanwhile.
func (w *writer) place(ctx context.Context, p []byte, off, n int64, outside func(func() error) error) error {
	t := w.table
	block, in := off/t.blockSize, off%t.blockSize
	v, err := t.get(ctx, t.entry(block))
	if err != nil {
		return err
	}
	zero := diskfile.IsZero(p) // so are no bytes
	whole := in == 0 && (n == t.blockSize || off+n == w.layer.size)
	put := func(host int64) error {
		return outside(func() error {
			if zero {
				return w.named("zero", host+in, w.store.Zero(ctx, host+in, n))
			}
			_, err := w.store.WriteAt(ctx, p, host+in)
			return w.named("write", host+in, err)
		})
	}
	below := t.hasParent && v&stateMask == notPresent
	switch {
	case v&stateMask == fullyPresent:
		host, err := t.place(t.entry(block), v, t.blockSize)
		if err != nil {
			return err
		}
		return put(host)
	case v&stateMask == partly && t.hasParent:
		return w.putPartly(ctx, block, v, in, n, whole, put)
	case v&stateMask > unmapped:
		return t.corrupt(t.bat.off+t.entry(block)*8, "block state %d", v&stateMask)
	case zero && !below:
		return nil
	case zero && whole:
		return w.set(ctx, t.entry(block), zeroBlock)
	}
	host, err := w.alloc(ctx, t.blockSize)
	if err != nil {
		return err
	}
	full := uint64(host) | fullyPresent
	switch {
	case !below: // it reads as zero before and after, whenever the table becomes durable
		if err := w.set(ctx, t.entry(block), full); err != nil {
			return err
		}
		return put(host)
	case whole:
		if err := put(host); err != nil {
			return err
		}
		return w.set(ctx, t.entry(block), full)
	}
	if err := w.bits(ctx, block, 0, t.blockSize, false); err != nil {
		return err
	}
	v = uint64(host) | partly
	if err := w.set(ctx, t.entry(block), v); err != nil {
		return err
	}
	return w.putPartly(ctx, block, v, in, n, false, put)
}

// putPartly writes into a block of which a bitmap says what is there.
func (w *writer) putPartly(ctx context.Context, block int64, v uint64, in, n int64, whole bool, put func(int64) error) error {
	host, err := w.table.place(w.table.entry(block), v, w.table.blockSize)
	if err != nil {
		return err
	}
	if err := put(host); err != nil {
		return err
	}
	if whole {
		return w.set(ctx, w.table.entry(block), uint64(host)|fullyPresent)
	}
	return w.bits(ctx, block, in, n, true)
}

// named names place and file of an error of the storage.
func (w *writer) named(op string, off int64, err error) error {
	var known *diskfile.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	return w.fail(op, off, err)
}

// alloc gives n bytes, which are zero, at the end of the file. Both are multiples of 1 MiB.
func (w *writer) alloc(ctx context.Context, n int64) (int64, error) {
	at := (w.store.Size() + mib - 1) / mib * mib
	if at+n > maxFileSize {
		return 0, w.fail("resize", at, fs.ErrInvalid)
	}
	return at, w.named("resize", at, w.store.grow(ctx, at+n))
}

// set changes an entry of the table of blocks.
func (w *writer) set(ctx context.Context, entry int64, v uint64) error {
	return w.change(ctx, w.table.bat.off+entry*8, le.AppendUint64(nil, v))
}

// change changes bytes within one page. Once enough pages wait, they are written.
func (w *writer) change(ctx context.Context, at int64, b []byte) error {
	t := w.table
	err := t.cache.view(ctx, t.id, w.store, at&^(pageLen-1), func(p *page) {
		w.dirty += p.set(at%pageLen, b)
	})
	if err != nil || w.dirty < maxEntry {
		return err
	}
	return w.flush(ctx)
}

// bits sets or clears the bits of a range of a block, making the bitmap where there is none.
func (w *writer) bits(ctx context.Context, block, in, n int64, set bool) error {
	t := w.table
	entry := t.bitmapEntry(block)
	v, err := t.get(ctx, entry)
	if err != nil {
		return err
	}
	if v&stateMask != bitmapThere {
		at, err := w.alloc(ctx, mib)
		if err == nil {
			err = w.set(ctx, entry, uint64(at)|bitmapThere)
		}
		if err != nil {
			return err
		}
	}
	at, err := t.bitmapAt(ctx, block)
	if err != nil {
		return err
	}
	for first, last := in/t.sector, (in+n)/t.sector; first < last; {
		pageOff := (at + first/8) &^ (pageLen - 1)
		end := min(last, (pageOff+pageLen-at)*8)
		if err := w.bitsInPage(ctx, pageOff, at, first, end, set); err != nil {
			return err
		}
		first = end
	}
	return nil
}

// bitsInPage changes bits [first, end) of the bitmap at byte at, all of which lie in one page.
func (w *writer) bitsInPage(ctx context.Context, pageOff, at, first, end int64, set bool) error {
	from := at + first/8 - pageOff
	b := make([]byte, (end-1)/8-first/8+1)
	same := true
	err := w.table.cache.view(ctx, w.table.id, w.store, pageOff, func(p *page) {
		copy(b, p.b[from:])
		for i := first; i < end; i++ {
			bit := byte(1) << (i % 8)
			if was := b[i/8-first/8]&bit != 0; was != set {
				b[i/8-first/8] ^= bit
				same = false
			}
		}
	})
	if err != nil || same {
		return err
	}
	return w.change(ctx, pageOff+from, b)
}

// Mark implements [pipe.ExtentTarget]. Every reason reads as zero. Unchanged is what the parent has, in a new
// differencing disk; it leaves alone what is there, in a file that existed; and is diskfile.ErrNoBase in any other.
func (w *writer) Mark(ctx context.Context, e pipe.Extent) error {
	if err := w.check(ctx, "mark", e.Off, e.Len); err != nil {
		return err
	}
	switch {
	case e.Kind == pipe.Unchanged && w.base == noBase:
		return w.fail("mark", e.Off, diskfile.ErrNoBase)
	case e.Kind == pipe.Unchanged && w.base == inPlace:
		return nil
	case e.Kind == pipe.Unchanged:
		return w.restore(ctx, e)
	case e.Kind != pipe.Zero && !e.Kind.Dropped():
		return w.fail("mark", e.Off, fmt.Errorf("%w: %v cannot be marked", fs.ErrInvalid, e.Kind))
	}
	if err := w.touch(ctx); err != nil {
		return err
	}
	for off := e.Off; off < e.End(); {
		if err := ctx.Err(); err != nil {
			return err
		}
		r, err := w.layer.row(ctx, off, e.End())
		if err != nil {
			return err
		}
		if r.what != isZero && (r.what != isParent || w.layer.parent != nil) {
			if err := w.zero(ctx, r.off, r.end()); err != nil {
				return err
			}
		}
		off = r.end()
	}
	return nil
}

// zero makes a range zero, block by block, so that whole blocks need no space.
func (w *writer) zero(ctx context.Context, off, end int64) error {
	for off < end {
		n := min(end-off, w.table.blockSize-off%w.table.blockSize)
		if err := w.part(ctx, nil, off, n); err != nil {
			return err
		}
		off += n
	}
	return nil
}

// restore puts back what the parent has where something else was written.
func (w *writer) restore(ctx context.Context, e pipe.Extent) error {
	buf := make([]byte, min(e.Len, mib))
	for off := e.Off; off < e.End(); {
		r, err := w.layer.row(ctx, off, e.End())
		if err != nil {
			return err
		}
		if r.what == isParent {
			off = r.end()
			continue
		}
		p := buf[:min(r.len, int64(len(buf)))]
		if err := w.layer.read(ctx, p, run{what: isParent, off: off, len: int64(len(p))}); err != nil {
			return err
		}
		if _, err := w.WriteAt(ctx, p, off); err != nil {
			return err
		}
		off += int64(len(p))
	}
	return nil
}
