package ext

import (
	"context"
	"fmt"
	"os"

	"github.com/hikae/hikae/pipe"
)

// Fill gives every group of a file system that mke2fs has just made, with metadata_csum, so many files more, each of one
// block with a free one behind it. They have no names: only the inodes, both bitmaps and the descriptors know them. It
// answers how many files it made.
func Fill(ctx context.Context, path string, perGroup uint32) (files int, err error) {
	w, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer w.Close()
	fi, err := w.Stat()
	if err != nil {
		return 0, err
	}
	opened, err := Open(ctx, pipe.FromReaderAt(w, fi.Size()))
	if err != nil {
		return 0, err
	}
	f := opened.(*FS)
	l := &filler{f: f, w: w, used: make([]byte, f.s.blockSize())}
	for n := range f.s.groups {
		if err := l.group(ctx, n, perGroup); err != nil {
			return files, fmt.Errorf("group %d: %w", n, err)
		}
		files += int(perGroup)
	}
	return files, nil
}

type filler struct {
	f    *FS
	w    *os.File
	used []byte
}

// firstFilled is behind the inodes that mke2fs uses in group 0.
const firstFilled = 16

func (l *filler) group(ctx context.Context, n, count uint32) error {
	s, g := l.f.s, l.f.groups[n]
	b := l.f.usedOf(ctx, n, n+1)
	if b.err != nil {
		return b.err
	}
	p := make([]byte, s.descSize)
	descAt := int64(s.descBlock(n/s.descPerBlock())<<s.blockBits) + int64(n%s.descPerBlock()*s.descSize)
	if _, err := l.w.ReadAt(p, descAt); err != nil {
		return err
	}
	inodesAt := int64(s.parseGroup(p).inodes << s.blockBits)
	if g.flags&groupInodesUninit != 0 {
		clear(l.used)
	} else if _, err := l.w.ReadAt(l.used, inodesAt); err != nil {
		return err
	}
	table := make([]byte, count*s.inodeSize)
	made := uint32(0)
	for k := range count {
		at := s.clusters(n) - 2*count + 2*k
		block := uint64(0)
		if b.used[0].next(at, at+1, false) == at {
			b.used[0].set(at, at+1)
			block, made = s.groupStart(n)+uint64(at), made+1
		}
		i := firstFilled + k
		l.used[i/8] |= 1 << (i % 8)
		l.inode(table[k*s.inodeSize:][:s.inodeSize], n*s.inodesPerGroup+i+1, block)
	}
	for i := s.inodesPerGroup; i < 8<<s.blockBits; i++ {
		l.used[i/8] |= 1 << (i % 8)
	}
	l.descriptor(p, n, g.free-made, s.inodesPerGroup-firstFilled-count, b.used[0])
	for at, data := range map[int64][]byte{
		descAt: p, inodesAt: l.used, int64(g.bitmap << s.blockBits): b.used[0],
		int64(g.table<<s.blockBits) + firstFilled*int64(s.inodeSize): table,
	} {
		if _, err := l.w.WriteAt(data, at); err != nil {
			return err
		}
	}
	return nil
}

// descriptor changes a group's descriptor for what was put into it.
func (l *filler) descriptor(p []byte, n, free, unused uint32, blocks bitmap) {
	s := l.f.s
	put := func(lo, hi int, v uint32) {
		le.PutUint16(p[lo:], uint16(v))
		if s.descSize >= 64 {
			le.PutUint16(p[hi:], uint16(v>>16))
		}
	}
	put(0xc, 0x2c, free)
	put(0x1c, 0x32, unused)
	put(0xe, 0x2e, unused)
	put(0x18, 0x38, crc32c(s.seed, blocks[:s.perGroup>>s.clusterBits/8]))
	put(0x1a, 0x3a, crc32c(s.seed, l.used[:s.inodesPerGroup/8]))
	le.PutUint16(p[0x12:], le.Uint16(p[0x12:])&^(groupInodesUninit|groupBlocksUninit))
	sum := crc32c(crc32cWord(s.seed, n), p[:0x1e])
	le.PutUint16(p[0x1e:], uint16(crc32c(crc32c(sum, []byte{0, 0}), p[0x20:s.descSize])))
}

// inode writes a file of one block, or of none.
func (l *filler) inode(p []byte, n uint32, block uint64) {
	le.PutUint16(p, modeRegular|0o600)
	le.PutUint16(p[0x1a:], 1)
	le.PutUint32(p[0x20:], flagExtents)
	le.PutUint16(p[0x80:], 32)
	area := p[0x28:]
	le.PutUint16(area, extentMagic)
	le.PutUint16(area[4:], 4)
	if block != 0 {
		le.PutUint32(p[0x4:], uint32(l.f.s.blockSize()))
		le.PutUint32(p[0x1c:], uint32(l.f.s.blockSize()>>9))
		le.PutUint16(area[2:], 1)
		le.PutUint16(area[16:], 1)
		le.PutUint16(area[18:], uint16(block>>32))
		le.PutUint32(area[20:], uint32(block))
	}
	i := inode{n: n, raw: p, seed: crc32cWord(crc32cWord(l.f.s.seed, n), 0)}
	_, sum := i.sum()
	le.PutUint16(p[0x7c:], uint16(sum))
	le.PutUint16(p[0x82:], uint16(sum>>16))
}
