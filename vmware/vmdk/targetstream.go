package vmdk

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

// streamTarget is a streamOptimized disk. Grains are compressed and appended as they are written whole; parts of grains
// are collected in memory first. Where they came in the order of the disk, and each once, that is the stream already.
// Otherwise Commit writes another one, in order: readers that take a stream in one pass, ESXi's among them, want it so.
type streamTarget struct {
	base
	opts diskfile.CreateOptions
	desc []byte

	mu      sync.Mutex
	file    *diskfile.Pending
	places  places
	next    int64 // sector at which the file ends
	last    int64 // grain that was appended last
	mixed   bool  // grains are not in order, or some are not used any more
	open    map[int64]*[grainBytes]byte
	openAge []int64 // grains of open, the oldest first
}

const maxOpen = 256 // grains of which parts were written: 16 MiB

func createStream(path string, size int64, d *Descriptor, o *CreateOptions) (pipe.ExtentTarget, error) {
	if size > maxCreate {
		return nil, fmt.Errorf("a stream of a disk of %d bytes: %w", size, fs.ErrInvalid)
	}
	desc, err := d.embed()
	if err != nil {
		return nil, err
	}
	file, err := diskfile.Begin(path, &o.CreateOptions)
	if err != nil {
		return nil, err
	}
	return &streamTarget{
		base: base{path: path, size: size}, opts: o.CreateOptions, desc: desc, file: file, places: newPlaces(), next: overhead,
		last: -1, open: make(map[int64]*[grainBytes]byte),
	}, nil
}

// WriteAt implements [pipe.Target].
func (t *streamTarget) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := t.check(ctx, off, int64(len(p))); err != nil {
		return 0, err
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		n := min(len(p)-done, int(grainBytes-at%grainBytes))
		if err := t.write(p[done:done+n], at); err != nil {
			return done, t.fail("write", at, err)
		}
		done += n
	}
	return done, nil
}

// write takes what lies in one grain.
func (t *streamTarget) write(p []byte, off int64) error {
	whole := off%grainBytes == 0 && (len(p) == grainBytes || off+int64(len(p)) == t.size)
	if !whole {
		return t.patch(off, len(p), func(grain []byte) { copy(grain, p) })
	}
	var packed []byte // nil for zeros
	if !diskfile.IsZero(p) {
		packed = pack(off/grainBytes, p)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget(off / grainBytes)
	return t.put(off/grainBytes, packed)
}

// forget drops the parts of a grain that are in memory.
func (t *streamTarget) forget(grain int64) {
	if _, ok := t.open[grain]; ok {
		delete(t.open, grain)
		t.openAge = slices.DeleteFunc(t.openAge, func(g int64) bool { return g == grain })
	}
}

// put appends a grain, or makes it zero where packed is nil.
func (t *streamTarget) put(grain int64, packed []byte) error {
	had := t.places.get(grain) != 0
	if packed == nil {
		if had {
			t.mixed = true
			t.places.set(grain, 0)
		}
		return nil
	}
	t.mixed = t.mixed || had || grain < t.last
	t.last = max(t.last, grain)
	at, err := take(&t.next, int64(len(packed)/sector))
	if err != nil {
		return err
	}
	if _, err := t.file.WriteAt(packed, int64(at)*sector); err != nil {
		return err
	}
	t.places.set(grain, at)
	return nil
}

// patch changes a part of a grain in memory.
func (t *streamTarget) patch(off int64, n int, change func([]byte)) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	grain := off / grainBytes
	b, ok := t.open[grain]
	if !ok {
		if len(t.open) >= maxOpen {
			if err := t.settle(t.openAge[0]); err != nil {
				return err
			}
		}
		b = new([grainBytes]byte)
		if err := t.load(grain, b[:]); err != nil {
			return err
		}
		t.open[grain], t.openAge = b, append(t.openAge, grain)
	}
	in := int(off % grainBytes)
	change(b[in : in+n])
	return nil
}

// settle appends a grain of which parts were written.
func (t *streamTarget) settle(grain int64) error {
	b := t.open[grain]
	var packed []byte
	if !diskfile.IsZero(b[:]) {
		packed = pack(grain, b[:])
	}
	if err := t.put(grain, packed); err != nil {
		return err
	}
	t.forget(grain)
	return nil
}

// load reads back a grain that was appended before.
func (t *streamTarget) load(grain int64, b []byte) error {
	at := t.places.get(grain)
	if at == 0 {
		return nil
	}
	packed, err := t.packed(at)
	if err != nil {
		return err
	}
	plain, err := inflate(packed[markerLen:], grainBytes, grainBytes)
	copy(b, plain)
	return err
}

// packed reads what pack made from a sector of the file.
func (t *streamTarget) packed(at uint32) ([]byte, error) {
	var head [markerLen]byte
	if _, err := t.file.ReadAt(head[:], int64(at)*sector); err != nil {
		return nil, t.fail("read", int64(at)*sector, err)
	}
	b := make([]byte, packedLen(head[:]))
	if n, err := t.file.ReadAt(b, int64(at)*sector); n < len(b) && err != io.EOF { // zeros at the end of the file are left out
		return nil, t.fail("read", int64(at)*sector, err)
	}
	return b, nil
}

// Mark implements [pipe.ExtentTarget]. Every reason reads as zero.
func (t *streamTarget) Mark(ctx context.Context, e pipe.Extent) error {
	if err := t.checkMark(ctx, e); err != nil {
		return err
	}
	for off := e.Off; off < e.End(); {
		n := min(e.End()-off, grainBytes-off%grainBytes)
		if skip := t.emptyUntil(off); skip > off {
			n = min(e.End(), skip) - off
		} else if err := t.markPart(off, n); err != nil {
			return t.fail("mark", off, err)
		}
		off += n
	}
	return nil
}

// emptyUntil is where the table of off ends, if nothing was written to what it covers; otherwise off, or the end of its
// grain.
func (t *streamTarget) emptyUntil(off int64) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	grain := off / grainBytes
	if len(t.open) == 0 && t.places.tables[grain/perTable] == nil {
		return (off/tableCovers + 1) * tableCovers
	}
	if _, ok := t.open[grain]; !ok && t.places.get(grain) == 0 {
		return (grain + 1) * grainBytes
	}
	return off
}

func (t *streamTarget) markPart(off, n int64) error {
	if off%grainBytes == 0 && (n == grainBytes || off+n == t.size) {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.forget(off / grainBytes)
		return t.put(off/grainBytes, nil)
	}
	return t.patch(off, int(n), func(b []byte) { clear(b) })
}

// Commit implements [pipe.Target], with the errors of [diskfile.Pending.Commit].
func (t *streamTarget) Commit(ctx context.Context) error {
	if t.closed.Swap(true) {
		return t.fail("publish", -1, fs.ErrClosed)
	}
	if err := t.finish(ctx); err != nil {
		return errors.Join(err, t.file.Close())
	}
	return t.file.Commit(ctx)
}

// Close implements [pipe.Target].
func (t *streamTarget) Close() error {
	t.closed.Store(true)
	return t.file.Close()
}

func (t *streamTarget) finish(ctx context.Context) error {
	slices.Sort(t.openAge)
	for len(t.openAge) > 0 {
		if err := t.settle(t.openAge[0]); err != nil {
			return t.fail("write", t.openAge[0]*grainBytes, err)
		}
	}
	if t.mixed {
		return t.rewrite(ctx)
	}
	s := newStreamer(&fileWriter{t.file, t.next * sector}, t.size)
	if _, err := t.file.WriteAt(s.start(t.desc), 0); err != nil {
		return err
	}
	s.next = t.next
	for _, i := range t.used() {
		s.table, s.at = t.places.tables[i], i
		if err := s.endTable(); err != nil {
			return t.fail("write", s.next*sector, err)
		}
	}
	if err := s.finish(); err != nil {
		return t.fail("write", s.next*sector, err)
	}
	return t.file.Truncate(s.next * sector) // the last sector is zeros, which the file leaves out
}

// used are the tables that something was put into, in order.
func (t *streamTarget) used() []int64 {
	var all []int64
	for i := range t.places.tables {
		all = append(all, i)
	}
	slices.Sort(all)
	return all
}

// rewrite makes another file of the same grains in order, which takes the place of the first.
func (t *streamTarget) rewrite(ctx context.Context) error {
	file, err := diskfile.Begin(t.path, &t.opts)
	if err != nil {
		return err
	}
	if err := t.copyInOrder(ctx, file); err != nil {
		return errors.Join(err, file.Close())
	}
	old := t.file
	t.file = file
	return old.Close()
}

func (t *streamTarget) copyInOrder(ctx context.Context, file *diskfile.Pending) error {
	w := bufio.NewWriterSize(&fileWriter{file, 0}, 1<<20)
	s := newStreamer(w, t.size)
	if err := s.begin(t.desc); err != nil {
		return err
	}
	for _, i := range t.used() {
		if err := ctx.Err(); err != nil {
			return err
		}
		for k, at := range t.places.tables[i] {
			if at == 0 {
				continue
			}
			packed, err := t.packed(at)
			if err == nil {
				err = s.packed(i*perTable+int64(k), packed)
			}
			if err != nil {
				return err
			}
		}
	}
	if err := s.finish(); err != nil {
		return t.fail("write", s.next*sector, err)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return file.Truncate(s.next * sector)
}

// fileWriter appends to a file.
type fileWriter struct {
	file *diskfile.Pending
	at   int64
}

func (w *fileWriter) Write(p []byte) (int, error) {
	n, err := w.file.WriteAt(p, w.at)
	w.at += int64(n)
	return n, err
}
