package qcow2

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math/bits"

	"github.com/hikae/hikae/pipe"
)

// layer is one image of a chain. It is itself an image: what it does not hold comes from its backing.
type layer struct {
	path    string
	id      int // in the cache
	h       *header
	size    int64      // of the disk, or of the snapshot that is read
	file    pipe.Image // the qcow2 file
	data    pipe.Image // where plain clusters are: file, or the external data file
	extern  bool
	backing pipe.Image // nil: zeros
	l1      []byte     // as in the file, 8 bytes an entry
	l1Off   int64
	cache   *cache
}

// what says where the content of a range comes from.
type what uint8

const (
	fromBacking what = iota
	isZero
	isData       // at host
	isCompressed // one cluster, by its descriptor in host
)

// run is a range of the disk whose content comes from one place.
type run struct {
	off, len int64
	what     what
	host     int64
}

func (r run) end() int64 { return r.off + r.len }

func (l *layer) corrupt(off int64, format string, args ...any) error {
	return &CorruptError{Path: l.path, Offset: off, Reason: fmt.Sprintf(format, args...)}
}

// loadL1 reads the part of an L1 table that the disk needs.
func (l *layer) loadL1(ctx context.Context, off uint64, entries uint32, budget *int64) error {
	covers := l.h.clusterBits + l.h.l2Bits() // bits of the range that one entry maps; at most 39
	need := (l.size + 1<<covers - 1) >> covers
	if l.size > 1<<62 || need > int64(entries) || need > maxL1Bytes/8 {
		return l.corrupt(36, "an L1 table of %d entries cannot map a disk of %d bytes", entries, l.size)
	}
	if need > 0 {
		if off%uint64(l.h.clusterSize()) != 0 || off == 0 || off > uint64(l.file.Size()) || need*8 > l.file.Size()-int64(off) {
			return l.corrupt(40, "the L1 table, %d entries at %d, leaves the file or its clusters", need, off)
		}
	}
	if *budget -= need * 8; *budget < 0 {
		return &UnsupportedError{Path: l.path, Feature: fmt.Sprintf("a chain whose L1 tables take more than %d bytes", maxChainTables)}
	}
	l.l1, l.l1Off = make([]byte, need*8), int64(off)
	if err := readFull(ctx, l.file, l.l1, int64(off)); err != nil {
		return fmt.Errorf("%s: L1 table: %w", l.path, err)
	}
	return l.checkL1()
}

// maxTracked bounds the clusters of a file of which is remembered whether a table stands there: 16 MiB, for files of up
// to 8 TiB with clusters of 64 KiB.
const maxTracked = 128 << 20

// checkL1 looks at every entry once, so that the work of reading all tables is bounded by the file's length: two
// entries that share a table are refused. In files of more than maxTracked clusters a few may, where they do not
// outnumber the clusters.
func (l *layer) checkL1() error {
	clusters := (l.file.Size() + l.h.clusterSize() - 1) >> l.h.clusterBits
	var used []uint64 // one bit for each cluster
	if clusters <= maxTracked {
		used = make([]uint64, clusters/64+1)
	}
	count := int64(0)
	for i := range len(l.l1) / 8 {
		off := l.l1At(i)
		if off == 0 {
			continue
		}
		if err := l.checkTable(i, off); err != nil {
			return err
		}
		c := off >> l.h.clusterBits
		if count++; count > clusters || used != nil && used[c/64]>>(c%64)&1 != 0 {
			return l.corrupt(l.l1Off+int64(i)*8, "the L2 table at %d is shared with another L1 entry", off)
		}
		if used != nil {
			used[c/64] |= 1 << (c % 64)
		}
	}
	return nil
}

// checkTable looks at the place of an L2 table.
func (l *layer) checkTable(i int, off uint64) error {
	at := l.l1Off + int64(i)*8
	cs, size := uint64(l.h.clusterSize()), uint64(l.file.Size())
	l1, l1End := uint64(l.l1Off), uint64(l.l1Off)+uint64(len(l.l1))
	switch {
	case off%cs != 0:
		return l.corrupt(at, "the L2 table at %d does not begin at a cluster", off)
	case off < cs, off < l1End && off+cs > l1:
		return l.corrupt(at, "the L2 table at %d overlaps the header or the L1 table", off)
	case off > size || cs > size-off:
		return l.corrupt(at, "the L2 table at %d leaves the file of %d bytes", off, size)
	}
	return nil
}

// l1At is the offset of an L2 table, 0 for none.
func (l *layer) l1At(i int) uint64 { return binary.BigEndian.Uint64(l.l1[i*8:]) & offsetMask }

// l2 is the L2 table of an L1 entry, nil for none.
func (l *layer) l2(ctx context.Context, i int) ([]byte, error) {
	off := l.l1At(i)
	if off == 0 {
		return nil, nil
	}
	key := cacheKey{layer: l.id, n: uint64(i)}
	if t, ok := l.cache.get(key); ok {
		return t, nil
	}
	t := make([]byte, l.h.clusterSize())
	if err := readFull(ctx, l.file, t, int64(off)); err != nil {
		return nil, fmt.Errorf("%s: L2 table at %d: %w", l.path, off, err)
	}
	l.cache.put(key, t)
	return t, nil
}

// next is the run at off, as long as it can be told from one L2 table, but not past end.
func (l *layer) next(ctx context.Context, off, end int64) (run, error) {
	covers := l.h.clusterBits + l.h.l2Bits()
	i := int(off >> covers)
	table, err := l.l2(ctx, i)
	if err != nil {
		return run{}, err
	}
	if table == nil {
		for i++; int64(i)<<covers < end && l.l1At(i) == 0; i++ {
		}
		return run{off: off, len: min(int64(i)<<covers, end) - off, what: fromBacking}, nil
	}
	return l.inTable(table, off, min(int64(i+1)<<covers, end))
}

// inTable is the run at off, as far as the neighbours in the table continue it.
func (l *layer) inTable(table []byte, off, end int64) (run, error) {
	r, err := l.piece(table, off)
	if err != nil {
		return run{}, err
	}
	for r.what != isCompressed && r.end() < end {
		p, err := l.piece(table, r.end())
		if err != nil || !r.continues(p) {
			break // an error shows when the next run begins with it
		}
		r.len += p.len
	}
	r.len = min(r.len, end-off)
	return r, nil
}

// continues reports whether p, which follows r, comes from where r ends.
func (r run) continues(p run) bool {
	return p.what == r.what && (r.what != isData || p.host == r.host+r.len)
}

// piece is the part at off of one cluster, or of a row of subclusters of one kind.
func (l *layer) piece(table []byte, off int64) (run, error) {
	h := l.h
	i := int(off >> h.clusterBits & (1<<h.l2Bits() - 1))
	at := i << h.entryBits()
	entry := binary.BigEndian.Uint64(table[at:])
	in := off & (h.clusterSize() - 1)
	r := run{off: off, len: h.clusterSize() - in}
	if entry&entryCompressed != 0 {
		r.what, r.host = isCompressed, int64(entry&^(entryCompressed|entryCopied))
		if l.extern {
			return run{}, l.badEntry(off, "compressed data in an external data file")
		}
		return r, nil
	}
	host := int64(entry & offsetMask)
	if host&(h.clusterSize()-1) != 0 {
		return run{}, l.badEntry(off, fmt.Sprintf("data at %d does not begin at a cluster", host))
	}
	// In an external data file the first cluster is at 0 as well; the copied flag tells it from "none".
	has := host != 0 || l.extern && entry&entryCopied != 0
	if h.extended() {
		return l.subclusters(r, has, host, binary.BigEndian.Uint64(table[at+8:]))
	}
	switch {
	case entry&entryZero != 0 && h.version < 3:
		return run{}, l.badEntry(off, "a zero cluster in a version 2 image")
	case entry&entryZero != 0:
		r.what = isZero
	case has:
		return l.dataAt(r, host)
	}
	return r, nil
}

const (
	entryCopied     = 1 << 63
	entryCompressed = 1 << 62
	entryZero       = 1
)

// subclusters cuts r at the end of the row of subclusters that are like the one at r.off. In the bitmap the low half
// says which are allocated, the high half which read as zero.
func (l *layer) subclusters(r run, has bool, host int64, bitmap uint64) (run, error) {
	alloc, zero := uint32(bitmap), uint32(bitmap>>32)
	if alloc&zero != 0 || alloc != 0 && !has {
		return run{}, l.badEntry(r.off, "subclusters that contradict each other")
	}
	subBits := l.h.clusterBits - 5
	in := r.off & (l.h.clusterSize() - 1)
	first := uint(in >> subBits)
	var like uint32 // the subclusters that continue the first
	switch {
	case alloc>>first&1 != 0:
		r.what, like = isData, alloc
	case zero>>first&1 != 0:
		r.what, like = isZero, zero
	default:
		r.what, like = fromBacking, ^(alloc | zero)
	}
	row := bits.TrailingZeros32(^(like >> first)) // 32 where all that remain are alike
	r.len = min(int64(first)+int64(row), 32)<<subBits - in
	if r.what == isData {
		return l.dataAt(r, host)
	}
	return r, nil
}

// dataAt places r, which is part of the cluster at host. The last cluster of a file may be cut off: what is not there
// reads as zero, as QEMU has it. A cluster of which nothing is there is a truncated file.
func (l *layer) dataAt(r run, host int64) (run, error) {
	if host >= l.data.Size() {
		return run{}, l.badEntry(r.off, fmt.Sprintf("data at %d is outside of the file of %d bytes", host, l.data.Size()))
	}
	if !l.extern && host < l.h.clusterSize() {
		return run{}, l.badEntry(r.off, "data that overlaps the header")
	}
	r.what, r.host = isData, host+r.off&(l.h.clusterSize()-1)
	return r, nil
}

// badEntry is an error at the L2 entry for a byte of the disk.
func (l *layer) badEntry(off int64, reason string) error {
	h := l.h
	i := off >> h.clusterBits & (1<<h.l2Bits() - 1)
	table := l.l1At(int(off >> (h.clusterBits + h.l2Bits())))
	return l.corrupt(int64(table)+i<<h.entryBits(), "the L2 entry for disk offset %d has %s", off, reason)
}

func (l *layer) Size() int64 { return l.size }

// ReadAt implements [pipe.Image]. Clusters that are neighbours in the file are read at once.
func (l *layer) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("%s: read at %d: %w", l.path, off, fs.ErrInvalid)
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	end := off + min(int64(len(p)), max(l.size-off, 0))
	done := 0
	for at := off; at < end; {
		r, err := l.row(ctx, at, end)
		if err != nil {
			return done, err
		}
		if err := l.read(ctx, p[done:done+int(r.len)], r); err != nil {
			return done, err
		}
		done += int(r.len)
		at = r.end()
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// row is the run at off, continued over the borders of L2 tables, which matters for small clusters.
func (l *layer) row(ctx context.Context, off, end int64) (run, error) {
	r, err := l.next(ctx, off, end)
	for err == nil && r.what != isCompressed && r.end() < end {
		p, nextErr := l.next(ctx, r.end(), end)
		if nextErr != nil || !r.continues(p) {
			break
		}
		r.len += p.len
	}
	return r, err
}

// read fills p with the content of r, of which it has the length.
func (l *layer) read(ctx context.Context, p []byte, r run) error {
	switch r.what {
	case isZero:
		clear(p)
		return nil
	case isData:
		return readPadded(ctx, l.data, p, r.host)
	case isCompressed:
		return l.readCompressed(ctx, p, r)
	}
	if l.backing == nil {
		clear(p)
		return nil
	}
	return readPadded(ctx, l.backing, p, r.off)
}

// readPadded reads what an image has of a range, and zeros past its end.
func readPadded(ctx context.Context, img pipe.Image, p []byte, off int64) error {
	have := int(min(max(img.Size()-off, 0), int64(len(p))))
	clear(p[have:])
	if have == 0 {
		return nil
	}
	return readFull(ctx, img, p[:have], off)
}

// readCompressed fills p from a compressed cluster. A cluster that is wanted in part is kept, because the next read
// likely wants the rest.
func (l *layer) readCompressed(ctx context.Context, p []byte, r run) error {
	cs := l.h.clusterSize()
	if int64(len(p)) == cs {
		return l.decode(ctx, p, r)
	}
	key := cacheKey{layer: l.id, decoded: true, n: uint64(r.host)}
	plain, ok := l.cache.get(key)
	if !ok {
		plain = make([]byte, cs)
		if err := l.decode(ctx, plain, r); err != nil {
			return err
		}
		l.cache.put(key, plain)
	}
	copy(p, plain[r.off&(cs-1):])
	return nil
}

// descriptor takes the L2 entry of a compressed cluster apart: a byte offset in the low bits and, above, the number of
// sectors after the first that it touches. The length is up to the end of the last.
func descriptor(entry uint64, clusterBits uint32) (off, n int64) {
	offBits := 70 - clusterBits
	v := int64(entry &^ (entryCompressed | entryCopied))
	off = v & (1<<offBits - 1)
	return off, (v>>offBits+1)*512 - off&511
}

// decode reads a compressed cluster.
func (l *layer) decode(ctx context.Context, plain []byte, r run) error {
	off, n := descriptor(uint64(r.host), l.h.clusterBits)
	if off >= l.file.Size() || off < l.h.clusterSize() {
		return l.badEntry(r.off, fmt.Sprintf("compressed data at %d, outside of the file's data", off))
	}
	buf := make([]byte, min(n, l.file.Size()-off))
	if err := readFull(ctx, l.file, buf, off); err != nil {
		return fmt.Errorf("%s: compressed cluster at %d: %w", l.path, off, err)
	}
	if err := l.h.compression.decode(plain, buf); err != nil {
		return l.corrupt(off, "the compressed cluster for disk offset %d does not decode: %v", r.off, err)
	}
	return nil
}

// Extents implements [pipe.ExtentImage] without reading data: by the tables, then by the holes of the files.
func (l *layer) Extents(ctx context.Context, off, n int64) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		if off < 0 || n < 0 || off > l.size || n > l.size-off {
			yield(pipe.Extent{}, fmt.Errorf("%s: extents at %d: %w", l.path, off, fs.ErrInvalid))
			return
		}
		m := merger{yield: yield}
		if err := l.walk(ctx, off, off+n, &m); err != nil {
			m.fail(err)
			return
		}
		m.flush()
	}
}

// walk gives the extents of a range to m.
func (l *layer) walk(ctx context.Context, off, end int64, m *merger) error {
	for off < end && !m.stopped {
		if err := ctx.Err(); err != nil {
			return err
		}
		r, err := l.next(ctx, off, end)
		if err != nil {
			return err
		}
		switch {
		case r.what == isZero, r.what == fromBacking && l.backing == nil:
			m.add(pipe.Extent{Off: r.off, Len: r.len, Kind: pipe.Zero})
		case r.what == fromBacking:
			err = extentsOf(ctx, l.backing, r.off, r, m)
		case r.what == isData:
			err = extentsOf(ctx, l.data, r.host, r, m)
		default:
			m.add(pipe.Extent{Off: r.off, Len: r.len, Kind: pipe.Data})
		}
		if err != nil {
			return err
		}
		off = r.end()
	}
	return nil
}

// extentsOf gives m the extents that img has at byte at, as those of r. Past the end of img they are zero.
func extentsOf(ctx context.Context, img pipe.Image, at int64, r run, m *merger) error {
	have := min(max(img.Size()-at, 0), r.len)
	if have == 0 {
		m.add(pipe.Extent{Off: r.off, Len: r.len, Kind: pipe.Zero})
		return nil
	}
	if below, ok := img.(*layer); ok {
		if err := below.walk(ctx, at, at+have, m); err != nil {
			return err
		}
	} else {
		for e, err := range pipe.Extents(ctx, img, at, have) {
			if err != nil {
				return err
			}
			if m.add(pipe.Extent{Off: e.Off - at + r.off, Len: e.Len, Kind: e.Kind}); m.stopped {
				return nil
			}
		}
	}
	if have < r.len {
		m.add(pipe.Extent{Off: r.off + have, Len: r.len - have, Kind: pipe.Zero})
	}
	return nil
}

// Close does nothing: the files belong to the Image.
func (l *layer) Close() error { return nil }

// merger joins neighbouring extents of one kind.
type merger struct {
	yield   func(pipe.Extent, error) bool
	last    pipe.Extent
	stopped bool
}

func (m *merger) add(e pipe.Extent) {
	switch {
	case m.stopped || e.Len == 0:
	case m.last.Len > 0 && m.last.Kind == e.Kind:
		m.last.Len += e.Len
	default:
		m.flush()
		m.last = e
	}
}

func (m *merger) flush() {
	if m.last.Len > 0 && !m.stopped {
		m.stopped = !m.yield(m.last, nil)
	}
	m.last = pipe.Extent{}
}

func (m *merger) fail(err error) {
	if m.flush(); !m.stopped {
		m.stopped = true
		m.yield(pipe.Extent{}, err)
	}
}
