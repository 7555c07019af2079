package ntfs

import (
	"context"
	"fmt"
	"math/bits"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// bitBlock is how much of a bitmap is read at once, in bytes.
const bitBlock = 64 << 10

// bitReader reads single bits of a bitmap. It is for one goroutine.
type bitReader struct {
	s    *stream
	page []byte
	from int64 // the byte at which the page begins
}

// bit is false behind the end of the bitmap.
func (b *bitReader) bit(ctx context.Context, k int64) (bool, error) {
	at := k / 8
	if b.page == nil || at < b.from || at >= b.from+int64(len(b.page)) {
		b.from = at / bitBlock * bitBlock
		n := max(0, min(bitBlock, b.s.size-b.from))
		b.page = make([]byte, n)
		if at >= b.from+n {
			return false, nil
		}
		if _, err := b.s.readAt(ctx, b.page, b.from); err != nil {
			return false, err
		}
	}
	return b.page[at-b.from]>>(k%8)&1 == 1, nil
}

// clusterMap is $Bitmap: one bit for each cluster, set where it is in use.
type clusterMap struct {
	s        *stream
	clusters int64
	pages    lru[int64, []byte]
}

// openMap finds the bitmap and checks that it covers the volume.
func (w *view) openMap(ctx context.Context) (*clusterMap, error) {
	f, err := w.file(ctx, numberBitmap)
	if err != nil {
		return nil, err
	}
	s, err := w.solidStream(f, typeData, "")
	if err != nil {
		return nil, err
	}
	need := (w.clusters + 7) / 8
	if s.flags != 0 || s.init < need {
		return nil, corrupt("bitmap", w.where(numberBitmap), fmt.Errorf("%d bytes valid, flags %#x, for %d clusters", s.init, s.flags, w.clusters))
	}
	m := &clusterMap{s: s, clusters: w.clusters}
	m.pages.most = 32 << 20
	return m, nil
}

// read fills p from a byte of the bitmap.
func (m *clusterMap) read(ctx context.Context, p []byte, off int64) error {
	_, err := m.s.readAt(ctx, p, off)
	return err
}

// page is one block of the bitmap.
func (m *clusterMap) page(ctx context.Context, k int64) ([]byte, error) {
	if p, ok := m.pages.get(k); ok {
		return p, nil
	}
	p := make([]byte, min(bitBlock, (m.clusters+7)/8-k*bitBlock))
	if err := m.read(ctx, p, k*bitBlock); err != nil {
		return nil, err
	}
	m.pages.put(k, p, len(p))
	return p, nil
}

// firstFree is the first cluster of [from, from+n) that the bitmap calls free, -1 where none is.
func (m *clusterMap) firstFree(ctx context.Context, from, n int64) (int64, error) {
	const perPage = bitBlock * 8
	for end := from + n; from < end; {
		p, err := m.page(ctx, from/perPage)
		if err != nil {
			return 0, err
		}
		base := from / perPage * perPage
		stop := min(end, base+perPage)
		if k := nextBit(p, from-base, stop-base, false); k < stop-base {
			return base + k, nil
		}
		from = stop
	}
	return -1, nil
}

// nextBit is the first bit of [from, end) that has the value, or end.
func nextBit(p []byte, from, end int64, value bool) int64 {
	flip := uint64(0)
	if !value {
		flip = ^flip
	}
	for from < end {
		if from%64 == 0 && (from+64)/8 <= int64(len(p)) {
			word := le.Uint64(p[from/8:]) ^ flip
			if word == 0 {
				from += 64
				continue
			}
			return min(end, from+int64(bits.TrailingZeros64(word)))
		}
		if (p[from/8]>>(from%8)&1 == 1) == value {
			return from
		}
		from++
	}
	return end
}

// freeRuns calls yield for the runs of clear bits in p, as clusters from base on, joined across calls by the caller.
func freeRuns(p []byte, base, clusters, size int64, yield func(fsys.Range) bool) bool {
	end := min(int64(len(p))*8, clusters-base)
	for k := int64(0); k < end; {
		from := nextBit(p, k, end, false)
		if from >= end {
			break
		}
		k = nextBit(p, from, end, true)
		if !yield(fsys.Range{Off: (base + from) * size, Len: (k - from) * size}) {
			return false
		}
	}
	return true
}
