package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"sync"
	"sync/atomic"

	"github.com/hikae/hikae/pipe"
)

// Overlay is an image that can be written to without its base changing: what is written goes into a scratch file, block
// by block, and everything else is read from the base. It is a [Disk] and a pipe.ExtentImage.
//
// The scratch file is sparse and outlives the program: opened again over the same base, it holds what was flushed. A
// block that is written in part for the first time is filled up from the base. The file belongs to one Overlay at a
// time; on systems without flock nobody checks that.
type Overlay struct {
	base   pipe.Image
	file   *os.File
	layout layout

	words   []atomic.Uint32 // states of blocks, 2 bits each
	dirty   []atomic.Bool   // pages of the map that differ from the file's
	changes [64]sync.Mutex  // one for every 64th block: a block changes its state once at a time

	flushing sync.Mutex
	closed   atomic.Bool
}

// state is where a block's content is.
type state uint32

const (
	inBase state = 0
	isData state = 1 // in the scratch file
	isVoid state = 2 // zero
)

const statesPerWord = 16

// OverlayOptions change how an overlay works. Nil and zero fields are good defaults.
type OverlayOptions struct {
	// Identity names the base, so that a scratch file is not laid over another disk by mistake: 1 to 1024 bytes. Empty:
	// the size alone is compared.
	Identity string
}

// OpenOverlay lays the scratch file at path over base. The file is made where it does not exist; one that belongs to
// another base is refused with an error that wraps [ErrOtherBase]. The overlay does not close the base.
func OpenOverlay(path string, base pipe.Image, opts *OverlayOptions) (*Overlay, error) {
	identity := ""
	if opts != nil {
		identity = opts.Identity
	}
	o, err := openOverlay(path, base, identity)
	if err != nil {
		return nil, fmt.Errorf("overlay %s: %w", path, err)
	}
	return o, nil
}

func openOverlay(path string, base pipe.Image, identity string) (*Overlay, error) {
	want, err := newLayout(base.Size(), identity)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	o := &Overlay{base: base, file: f, layout: want}
	if err = lockFile(f); err == nil {
		err = o.load()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return o, nil
}

// load reads the states of a file that is there, or makes the file.
func (o *Overlay) load() error {
	fi, err := o.file.Stat()
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return fmt.Errorf("not a regular file: %w", fs.ErrInvalid)
	}
	o.words = make([]atomic.Uint32, o.layout.mapBytes/4)
	o.dirty = make([]atomic.Bool, o.layout.mapBytes/mapPage)
	if fi.Size() == 0 {
		return o.layout.create(o.file)
	}
	if err := o.layout.match(o.file, fi.Size()); err != nil {
		return err
	}
	return o.layout.readMap(o.file, func(i int, word uint32) { o.words[i].Store(word) })
}

// Size is the length of the disk in bytes.
func (o *Overlay) Size() int64 { return o.base.Size() }

func (o *Overlay) state(block int64) state {
	return state(o.words[block/statesPerWord].Load()>>(block%statesPerWord*2)) & 3
}

// set changes a block's state. Its lock is held, and what the state says is already written.
func (o *Overlay) set(block int64, s state) {
	shift := block % statesPerWord * 2
	word := &o.words[block/statesPerWord]
	for {
		old := word.Load()
		if word.CompareAndSwap(old, old&^(3<<shift)|uint32(s)<<shift) {
			break
		}
	}
	o.dirty[block/statesPerWord*4/mapPage].Store(true)
}

// run is the state at off, and how far it goes, up to end. A state of 3, which only damage makes, counts as the base's.
func (o *Overlay) run(off, end int64) (state, int64) {
	block := off / o.layout.block
	s := o.state(block)
	for block++; block*o.layout.block < end && o.state(block) == s; block++ {
	}
	return s, min(end, block*o.layout.block) - off
}

func (o *Overlay) ready(ctx context.Context, what string, off, n int64) error {
	switch {
	case o.closed.Load():
		return fmt.Errorf("overlay: %w", fs.ErrClosed)
	case off < 0 || n < 0 || n > o.Size()-off:
		return fmt.Errorf("overlay: %s [%d, +%d) of %d bytes: %w", what, off, n, o.Size(), fs.ErrInvalid)
	}
	return ctx.Err()
}

// ReadAt is as pipe.Image has it. It takes no lock: the base never changes, and what a block has in the file is complete
// before its state says so.
func (o *Overlay) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	n := max(0, min(int64(len(p)), o.Size()-off))
	if err := o.ready(ctx, "read", off, n); err != nil && (off < 0 || n > 0 || ctx.Err() != nil) {
		return 0, err
	}
	for done := int64(0); done < n; {
		s, m := o.run(off+done, off+n)
		part := p[done : done+m]
		got, err := m, error(nil)
		switch s {
		case isData:
			got, err = count(o.file.ReadAt(part, o.layout.at(off+done)))
		case isVoid:
			clear(part)
		default:
			got, err = count(o.base.ReadAt(ctx, part, off+done))
		}
		if done += got; got < m {
			return int(done), &pipe.RangeError{Op: "read", Off: off + done, Len: n - done, Err: noEOF(err)}
		}
	}
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

func count(n int, err error) (int64, error) { return int64(n), err }

// Extents is as pipe.ExtentImage has it.
func (o *Overlay) Extents(ctx context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		if err := o.ready(ctx, "extents of", off, n); err != nil {
			yield(pipe.Extent{}, err)
			return
		}
		for end := off + n; off < end; {
			s, m := o.run(off, end)
			part := func(yield func(pipe.Extent, error) bool) {
				yield(pipe.Extent{Off: off, Len: m, Kind: pipe.Data}, nil)
			}
			switch s {
			case isVoid:
				part = func(yield func(pipe.Extent, error) bool) {
					yield(pipe.Extent{Off: off, Len: m, Kind: pipe.Zero}, nil)
				}
			case isData:
			default:
				part = pipe.Extents(ctx, o.base, off, m)
			}
			for e, err := range part {
				if !yield(e, err) || err != nil {
					return
				}
			}
			off += m
		}
	}
}

// WriteAt is as [Disk] has it.
func (o *Overlay) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := o.ready(ctx, "write", off, int64(len(p))); err != nil {
		return 0, err
	}
	for done := 0; done < len(p); {
		at := off + int64(done)
		n := int(min(int64(len(p)-done), o.layout.block-at%o.layout.block))
		if err := o.writeBlock(ctx, p[done:done+n], at); err != nil {
			return done, &pipe.RangeError{Op: "write", Off: at, Len: int64(n), Err: err}
		}
		done += n
	}
	return len(p), nil
}

// writeBlock writes into one block.
func (o *Overlay) writeBlock(ctx context.Context, p []byte, off int64) error {
	block := off / o.layout.block
	if o.state(block) == isData {
		_, err := o.file.WriteAt(p, o.layout.at(off))
		return err
	}
	lock := &o.changes[block%int64(len(o.changes))]
	lock.Lock()
	defer lock.Unlock()
	whole, start := p, block*o.layout.block
	size := min(o.layout.block, o.Size()-start)
	if s := o.state(block); s == isData { // another one was here first
		whole, start = p, off
	} else if int64(len(p)) < size {
		whole = make([]byte, size)
		if s != isVoid {
			if n, err := o.base.ReadAt(ctx, whole, start); int64(n) < size {
				return fmt.Errorf("fill the block from the base: %w", noEOF(err))
			}
		}
		copy(whole[off-start:], p)
	}
	if _, err := o.file.WriteAt(whole, o.layout.at(start)); err != nil {
		return err
	}
	o.set(block, isData)
	return nil
}

// Zero is as [Disk] has it. Whole blocks take no room in the file after it, where the system can make holes.
func (o *Overlay) Zero(ctx context.Context, off, n int64) error {
	if err := o.ready(ctx, "zero", off, n); err != nil {
		return err
	}
	var blank []byte
	for end := off + n; off < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		block := off / o.layout.block
		start := block * o.layout.block
		size := min(o.layout.block, o.Size()-start)
		m := min(end, start+size) - off
		err := error(nil)
		switch {
		case m == size:
			err = o.voidBlock(block, size)
		case o.isZero(ctx, block, off, m):
		default:
			if blank == nil {
				blank = make([]byte, o.layout.block)
			}
			err = o.writeBlock(ctx, blank[:m], off)
		}
		if err != nil {
			return &pipe.RangeError{Op: "zero", Off: off, Len: m, Err: err}
		}
		off += m
	}
	return nil
}

// isZero reports whether a part of a block is known to be zero, so that nothing need be written for it.
func (o *Overlay) isZero(ctx context.Context, block, off, n int64) bool {
	switch o.state(block) {
	case isVoid:
		return true
	case isData:
		return false
	}
	for e, err := range pipe.Extents(ctx, o.base, off, n) {
		if err != nil || e.Kind != pipe.Zero {
			return false
		}
	}
	return true
}

func (o *Overlay) voidBlock(block, size int64) error {
	lock := &o.changes[block%int64(len(o.changes))]
	lock.Lock()
	defer lock.Unlock()
	before := o.state(block)
	o.set(block, isVoid)
	if before != isData {
		return nil
	}
	return punch(o.file, o.layout.at(block*o.layout.block), size)
}

// Flush is as [Disk] has it: content first, then the map that tells of it. A crash in between leaves blocks as they were
// at the flush before, or later, but never one whose content is not there.
func (o *Overlay) Flush(ctx context.Context) error {
	if err := o.ready(ctx, "flush", 0, 0); err != nil {
		return err
	}
	o.flushing.Lock()
	defer o.flushing.Unlock()
	return o.flush()
}

func (o *Overlay) flush() error {
	pages := map[int][]byte{} // as they are before the content is synced: they tell of nothing later
	for i := range o.dirty {
		if o.dirty[i].Swap(false) {
			pages[i] = o.page(i)
		}
	}
	err := o.file.Sync()
	for i, page := range pages {
		if err == nil {
			_, err = o.file.WriteAt(page, headerBytes+int64(i)*mapPage)
		}
	}
	if err == nil && len(pages) > 0 {
		err = o.file.Sync()
	}
	if err != nil {
		for i := range pages {
			o.dirty[i].Store(true)
		}
		return fmt.Errorf("overlay %s: flush: %w", o.file.Name(), err)
	}
	return nil
}

// Close flushes and releases the file.
func (o *Overlay) Close() error {
	if o.closed.Swap(true) {
		return nil
	}
	o.flushing.Lock()
	defer o.flushing.Unlock()
	return errors.Join(o.flush(), o.file.Close())
}
