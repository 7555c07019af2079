package xfs

import (
	"context"

	"github.com/hikae/hikae/pipe"
)

// LogRecord is a record that a replay needs, for tests that damage one: the bytes of the volume where its blocks lie.
type LogRecord struct {
	Cycle  uint32
	Blocks []int64
	Head   int // how many of them are its header
}

// LogRecords lists the records from tail to head.
func LogRecords(ctx context.Context, vol pipe.Image) (list []LogRecord, err error) {
	f := &FS{after: view{vol: vol}, cache: newCache()}
	if f.sb, _, err = readSuper(ctx, f.after, vol.Size()); err != nil {
		return nil, err
	}
	at, _ := f.sb.logAt()
	r := &ring{v: f.after, at: at.Off, blocks: at.Len / logBlock, uuid: f.sb.uuid}
	e, err := r.findEnds(ctx)
	if err != nil {
		return nil, err
	}
	for block := e.tail; block != e.head; {
		h, err := r.readHead(ctx, block)
		if err != nil {
			return nil, err
		}
		l := LogRecord{Cycle: h.cycle, Head: int(h.head)}
		for i := range h.head + h.roundup {
			l.Blocks = append(l.Blocks, r.at+(block+i)%r.blocks*logBlock)
		}
		list = append(list, l)
		block = h.next(r)
	}
	return list, nil
}

// Adopted counts the files whose trees change their owner in the log.
func Adopted(ctx context.Context, vol pipe.Image) (int, error) {
	f, err := Open(ctx, vol)
	if err != nil {
		return 0, err
	}
	return len(f.(*FS).adopted), nil
}

// Reseal puts the right checksums on the structures that hold a sector of a small image, so that damage is not found by
// them. It returns how many it sealed.
func Reseal(img []byte, sector int) (n int) {
	sb, err := parseSuper(img[:512])
	if err != nil {
		sb = &super{blockSize: 4096, sectorSize: 512, inodeSize: 512}
	}
	bySize := map[int64]map[string]int{}
	put := func(size int64, magic string, at int) {
		if bySize[size] == nil {
			bySize[size] = map[string]int{}
		}
		bySize[size][magic] = at
	}
	for magic, at := range map[string]int{superMagic: 224, "XAGF": agfSeal.sum, "XAGI": agiSeal.sum, "XAFL": agflSeal.sum} {
		put(sb.sectorSize, magic, at)
	}
	for magic, at := range map[string]int{"BMA3": longSeal.sum, "XDB3": dirSeal.sum, "XDD3": dirSeal.sum, "XSLM": symlinkSeal.sum} {
		put(sb.blockSize, magic, at)
	}
	for _, s := range []*shape{byBlockTree, byLengthTree, inodeTree, freeInoTree, rmapTree, refTree} {
		put(sb.blockSize, s.magic5, shortSeal.sum)
	}
	put(sb.inodeSize, inodeMagic, inodeSum)
	for size, seals := range bySize {
		at := int64(sector) * 512 &^ (size - 1)
		if at+size > int64(len(img)) {
			continue
		}
		for magic, where := range seals {
			if b := img[at : at+size]; string(b[:len(magic)]) == magic {
				le.PutUint32(b[where:], sum(b, where))
				n++
			}
		}
	}
	return n + resealRecord(img, int64(sector))
}

// resealRecord seals the log's record that a sector may be a part of.
func resealRecord(img []byte, sector int64) int {
	r := &ring{blocks: 1 << 40}
	for at := sector; at >= 0 && at > sector-600; at-- {
		b := img[at*512:][:512]
		if be.Uint32(b) != logMagic {
			continue
		}
		h, err := r.parseHead(b, int64(be.Uint32(b[20:])))
		if err != nil || (at+h.head+h.roundup)*512 > int64(len(img)) || at+h.head+h.roundup <= sector {
			return 0
		}
		whole := img[at*512 : (at+h.head+h.roundup)*512]
		le.PutUint32(b[32:], h.checksum(whole[:h.head*512], whole[h.head*512:], 328))
		return 1
	}
	return 0
}
