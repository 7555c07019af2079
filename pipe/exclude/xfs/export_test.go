package xfs

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math/bits"
	"slices"
	"sync/atomic"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/fsys"
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

// SmallWindows makes a file system hold the free extents of one group at a time against its files.
func SmallWindows(f fsys.FileSystem) { f.(*FS).window = 1 }

// CallFree makes the trees of free extents call the block at byte off free, and another in its group in use: all counts
// and checksums are right, and only the one whose block it is could tell.
func CallFree(ctx context.Context, img []byte, off int64) error {
	o, err := Open(ctx, pipe.FromReaderAt(bytes.NewReader(img), int64(len(img))))
	if err != nil {
		return err
	}
	f := o.(*FS)
	no, block := uint32((off>>f.sb.blockLog)/int64(f.sb.agBlocks)), uint32((off>>f.sb.blockLog)%int64(f.sb.agBlocks))
	g, err := f.readGroup(ctx, f.after, no)
	if err != nil {
		return err
	}
	list, err := f.freeSpans(ctx, g, nil)
	if err != nil {
		return err
	}
	if _, ok := overlap(list, block, 1); ok || g.byBlock.levels != 1 || g.byLength.levels != 1 {
		return fmt.Errorf("block %d of group %d: free already, or a tree of several levels", block, no)
	}
	for i := len(list) - 1; ; i-- {
		if list[i].n > 1 {
			list[i].n--
			break
		}
	}
	list = tidySpans(append(list, span{block, 1}))
	f.putLeaf(img, g, g.byBlock, list)
	slices.SortFunc(list, func(a, b span) int { return cmp.Or(cmp.Compare(a.n, b.n), cmp.Compare(a.first, b.first)) })
	f.putLeaf(img, g, g.byLength, list)
	agf := int(f.sb.at(no, 0) + f.sb.sectorSize)
	be.PutUint32(img[agf+56:], list[len(list)-1].n)
	Reseal(img, agf/512)
	return nil
}

// putLeaf writes the only block of a tree of free extents.
func (f *FS) putLeaf(img []byte, g *group, r root, list []span) {
	at := int(f.sb.at(g.no, r.block))
	be.PutUint16(img[at+6:], uint16(len(list)))
	for i, s := range list {
		b := img[at+byBlockTree.headLen(f.sb.v5)+i*8:]
		be.PutUint32(b, s.first)
		be.PutUint32(b[4:], s.n)
	}
	Reseal(img, at/512)
}

// WakeInode gives the first inode that its tree calls free a mode. It returns its number.
func WakeInode(ctx context.Context, img []byte) (ino uint64, err error) {
	o, err := Open(ctx, pipe.FromReaderAt(bytes.NewReader(img), int64(len(img))))
	if err != nil {
		return 0, err
	}
	f := o.(*FS)
	g, err := f.inodeRoot(ctx, 0)
	if err != nil {
		return 0, err
	}
	err = f.groupWalk(f.after, g, inodeTree, func(b []byte) error {
		r := f.parseChunk(b)
		if i := bits.TrailingZeros64(r.free & r.there()); i < inodesInChunk && ino == 0 {
			ino = uint64(r.first) + uint64(i)
		}
		return nil
	}).run(ctx, uint64(g.inodes.block), g.inodes.levels)
	if at, ok := f.sb.inodeAt(ino); ok && ino > 0 {
		be.PutUint16(img[at+2:], 0o100644)
		Reseal(img, int(at/512))
	}
	return ino, err
}

// CheckTrees goes through the inodes of the first group, of whose trees of extents there may be so many blocks.
func CheckTrees(ctx context.Context, fs fsys.FileSystem, blocks int64) error {
	f := fs.(*FS)
	w, err := f.freeWindow(ctx, 0)
	if err != nil {
		return err
	}
	c := &claims{f: f, window: w, trees: &atomic.Int64{}}
	c.trees.Store(blocks)
	return c.group(ctx)
}
