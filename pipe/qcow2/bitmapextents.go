package qcow2

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math/bits"

	"github.com/hikae/hikae/pipe"
)

// ErrBitmapInUse is wrapped where a bitmap was not saved properly, so that nobody knows what it lacks: the QEMU that
// tracked with it was killed, or is still running.
var ErrBitmapInUse = errors.New("the bitmap was not saved")

// BitmapExtents yields what a dirty bitmap of the image says of the whole disk, ascending and gap-free: Data where a bit
// is set, Unchanged elsewhere, in units of the bitmap's granularity but for the disk's end. Neighbours differ in kind.
//
// An error voids everything already yielded: fs.ErrNotExist for a bitmap that is not there, [ErrBitmapInUse], or also
// for an image opened at a snapshot, which bitmaps tell nothing of; *UnsupportedError, *CorruptError.
func (img *Image) BitmapExtents(ctx context.Context, name string) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		m := merger{yield: yield}
		if err := img.top.walkBitmap(ctx, name, &m); err != nil {
			m.fail(err)
			return
		}
		m.flush()
	}
}

func (l *layer) walkBitmap(ctx context.Context, name string, m *merger) error {
	if l.ofSnapshot {
		return fmt.Errorf("%s: bitmap %q at a snapshot: %w", l.path, name, fs.ErrNotExist)
	}
	e, err := l.findBitmap(ctx, name)
	if err != nil {
		return err
	}
	if e.InUse {
		return fmt.Errorf("%s: bitmap %q: %w", l.path, name, ErrBitmapInUse)
	}
	if err := l.checkBitmap(e); err != nil {
		return err
	}
	w := bitmapWalk{l: l, e: e, m: m, covers: l.h.clusterSize() * 8 * e.Granularity}
	return w.run(ctx)
}

// checkBitmap refuses what is not understood, and what cannot be: a table that is not as long as the disk needs it.
func (l *layer) checkBitmap(e bitmapEntry) error {
	unsupported := func(format string, args ...any) error {
		return &UnsupportedError{Path: l.path, Feature: fmt.Sprintf("bitmap %q: %s", e.Name, fmt.Sprintf(format, args...))}
	}
	switch {
	case e.kind != bitmapDirtyTracking:
		return unsupported("type %d", e.kind)
	case e.flags&^bitmapKnown != 0:
		return unsupported("flags %#x", e.flags)
	case e.extra > 0 && e.flags&bitmapCompatible == 0:
		return unsupported("%d bytes of extra data", e.extra)
	case e.Granularity < 1<<minGranularityBits:
		return unsupported("granularity %d", e.Granularity)
	}
	cs, size := l.h.clusterSize(), uint64(l.file.Size())
	need := above(above(above(l.size, e.Granularity), 8), cs)
	switch {
	case need > maxBitmapBytes/cs:
		return unsupported("more than %d bytes", maxBitmapBytes)
	case int64(e.tableLen) != need:
		return l.corrupt(e.at+8, "bitmap %q has %d clusters, a disk of %d bytes needs %d", e.Name, e.tableLen, l.size, need)
	case need > 0 && (e.tableOff%uint64(cs) != 0 || e.tableOff < uint64(cs) || e.tableOff > size || uint64(need)*8 > size-e.tableOff):
		return l.corrupt(e.at, "the table of bitmap %q, %d entries at %d, leaves the file or its clusters", e.Name, need, e.tableOff)
	}
	return nil
}

// above is a divided by b, rounded up, without overflow.
func above(a, b int64) int64 {
	if a%b != 0 {
		return a/b + 1
	}
	return a / b
}

// bitmapWalk goes through one bitmap.
type bitmapWalk struct {
	l      *layer
	e      bitmapEntry
	m      *merger
	covers int64 // bytes of the disk that one cluster of bits stands for; it may be more than there can be
	buf    []byte
}

func (w *bitmapWalk) run(ctx context.Context) error {
	table := make([]byte, int(w.e.tableLen)*8) // at most 8 MiB, with the smallest clusters
	if err := readFull(ctx, w.l.file, table, int64(w.e.tableOff)); err != nil {
		return fmt.Errorf("%s: table of bitmap %q: %w", w.l.path, w.e.Name, err)
	}
	at := int64(0)
	for i := 0; i < len(table) && !w.m.stopped; i += 8 {
		n := min(w.covers, w.l.size-at)
		if err := w.cluster(ctx, int64(w.e.tableOff)+int64(i), binary.BigEndian.Uint64(table[i:]), pipe.Extent{Off: at, Len: n}); err != nil {
			return err
		}
		at += n
	}
	return nil
}

// cluster is one entry of the table: bits in a cluster, or none of them, or all.
func (w *bitmapWalk) cluster(ctx context.Context, at int64, entry uint64, e pipe.Extent) error {
	const allOnes = 1
	off := entry & offsetMask
	switch {
	case entry&^(offsetMask|allOnes) != 0, entry&allOnes != 0 && off != 0:
		return w.l.corrupt(at, "an entry %#x of bitmap %q", entry, w.e.Name)
	case off != 0:
		return w.read(ctx, at, off, e)
	}
	if e.Kind = pipe.Unchanged; entry&allOnes != 0 {
		e.Kind = pipe.Data
	}
	w.m.add(e)
	return nil
}

func (w *bitmapWalk) read(ctx context.Context, at int64, off uint64, e pipe.Extent) error {
	cs, size := uint64(w.l.h.clusterSize()), uint64(w.l.file.Size())
	if off%cs != 0 || off < cs || off > size || cs > size-off {
		return w.l.corrupt(at, "bits of bitmap %q at %d leave the file or its clusters", w.e.Name, off)
	}
	if w.buf == nil {
		w.buf = make([]byte, cs)
	}
	if err := readFull(ctx, w.l.file, w.buf, int64(off)); err != nil {
		return fmt.Errorf("%s: bitmap %q at %d: %w", w.l.path, w.e.Name, off, err)
	}
	w.bits(w.buf, e)
	return nil
}

// bits are those of a range, the lowest of each byte first. Rows of equal ones are found by whole words.
func (w *bitmapWalk) bits(b []byte, e pipe.Extent) {
	g := w.e.Granularity
	count := above(e.Len, g)
	for i := int64(0); i < count && !w.m.stopped; {
		n, set := row(b, i, count)
		end := min((i+n)*g, e.Len)
		kind := pipe.Unchanged
		if set {
			kind = pipe.Data
		}
		w.m.add(pipe.Extent{Off: e.Off + i*g, Len: end - i*g, Kind: kind})
		i += n
	}
}

// row is how many bits from the i-th on are like it, of count in b, up to the next multiple of 64.
func row(b []byte, i, count int64) (n int64, set bool) {
	word := binary.LittleEndian.Uint64(b[i/64*8:]) >> (i % 64)
	set = word&1 != 0
	if set {
		word = ^word
	}
	return min(int64(bits.TrailingZeros64(word)), 64-i%64, count-i), set
}
