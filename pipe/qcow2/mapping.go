package qcow2

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/bits"
)

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
