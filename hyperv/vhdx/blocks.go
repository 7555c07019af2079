package vhdx

import (
	"context"
	"fmt"
	"math/bits"

	"github.com/hikae/hikae/pipe"
)

// States of a block in the table of blocks.
const (
	stateMask    = 7
	notPresent   = 0 // in the parent, or zero
	undefined    = 1
	zeroBlock    = 2
	unmapped     = 3
	fullyPresent = 6
	partly       = 7 // in a differencing file: a bitmap says which sectors
	bitmapThere  = 6 // of a bitmap's entry
)

// blockTable is the table of blocks of a VHDX file.
type blockTable struct {
	*meta
	path  string
	file  pipe.Image
	id    int // in the cache
	cache *cache
	bat   region
	taken []region // where no block can be
}

func (t *blockTable) corrupt(off int64, format string, args ...any) error {
	return &CorruptError{Path: t.path, Offset: off, Reason: fmt.Sprintf(format, args...)}
}

// get reads an entry of the table.
func (t *blockTable) get(ctx context.Context, entry int64) (v uint64, err error) {
	at := t.bat.off + entry*8
	err = t.cache.view(ctx, t.id, t.file, at&^(pageLen-1), func(p *page) { v = le.Uint64(p.b[at%pageLen:]) })
	return v, err
}

// place takes an entry apart and checks that n bytes of data can be where it says.
func (t *blockTable) place(entry int64, v uint64, n int64) (int64, error) {
	r := region{int64(v>>20) << 20, n}
	at := t.bat.off + entry*8
	if v>>20 > 1<<30 || r.end() > t.file.Size() {
		return 0, t.corrupt(at, "a block of %d bytes at %d MiB, in a file of %d bytes", n, v>>20, t.file.Size())
	}
	for _, o := range t.taken {
		if r.overlaps(o) {
			return 0, t.corrupt(at, "a block at %d lies on the file's own tables at %d", r.off, o.off)
		}
	}
	return r.off, nil
}

// next implements table.
func (t *blockTable) next(ctx context.Context, off, end int64) (run, error) {
	block := off / t.blockSize
	in := off % t.blockSize
	r := run{off: off, len: min(end, (block+1)*t.blockSize) - off}
	v, err := t.get(ctx, t.entry(block))
	if err != nil {
		return r, err
	}
	switch v & stateMask {
	case notPresent:
		if t.hasParent {
			r.what = isParent
		}
	case undefined, zeroBlock, unmapped:
	case fullyPresent:
		r.what = isData
		r.host, err = t.place(t.entry(block), v, t.blockSize)
		r.host += in
	case partly:
		if !t.hasParent {
			return r, t.corrupt(t.bat.off+t.entry(block)*8, "a block that is partly there, in a disk without parent")
		}
		return t.sectors(ctx, r, v)
	default:
		return r, t.corrupt(t.bat.off+t.entry(block)*8, "block state %d", v&stateMask)
	}
	return r, err
}

// bitmapAt is the place in the file of the bitmap that covers a block, and of the block's first bit in it.
func (t *blockTable) bitmapAt(ctx context.Context, block int64) (int64, error) {
	entry := t.bitmapEntry(block)
	v, err := t.get(ctx, entry)
	if err != nil {
		return 0, err
	}
	if v&stateMask != bitmapThere {
		return 0, t.corrupt(t.bat.off+entry*8, "block %d is partly there and its bitmap is not", block)
	}
	at, err := t.place(entry, v, mib)
	return at + block%t.chunkRatio()*(t.blockSize/t.sector/8), err
}

// sectors is the run at the start of r, by the bitmap.
func (t *blockTable) sectors(ctx context.Context, r run, v uint64) (run, error) {
	block := r.off / t.blockSize
	host, err := t.place(t.entry(block), v, t.blockSize)
	if err != nil {
		return r, err
	}
	at, err := t.bitmapAt(ctx, block)
	if err != nil {
		return r, err
	}
	first, last := r.off%t.blockSize/t.sector, (r.off%t.blockSize+r.len-1)/t.sector
	byteAt := at + first/8
	pageOff := byteAt &^ (pageLen - 1)
	last = min(last, (pageOff+pageLen-at)*8-1) // the next page is the next run's
	here, count := false, int64(0)
	err = t.cache.view(ctx, t.id, t.file, pageOff, func(p *page) {
		here, count = same(p.b[byteAt-pageOff:], first%8, last-first+1)
	})
	r.len = min(r.len, (first+count)*t.sector-r.off%t.blockSize)
	if r.what = isParent; here {
		r.what, r.host, r.sure = isData, host+r.off%t.blockSize, true
	}
	return r, err
}

// same is the bit at from, and how many of the n bits there are as it is. Bits count from the lowest.
func same(b []byte, from, n int64) (set bool, count int64) {
	set = b[from/8]>>(from%8)&1 == 1
	flip := byte(0)
	if set {
		flip = 0xff
	}
	for count < n {
		i := from + count
		if i%64 == 0 && n-count >= 64 && i/8+8 <= int64(len(b)) {
			w := le.Uint64(b[i/8:])
			if set {
				w = ^w
			}
			z := int64(bits.TrailingZeros64(w))
			count += z
			if z < 64 {
				return set, count
			}
			continue
		}
		if (b[i/8]^flip)>>(i%8)&1 != 0 {
			return set, count
		}
		count++
	}
	return set, count
}
