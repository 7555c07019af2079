package qcow2

import (
	"context"
	"encoding/binary"
	"fmt"
)

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
