package xfs

import "fmt"

// Which parts of an inode a change carries.
const (
	logDataLocal   = 1 << 1
	logDataExtents = 1 << 2
	logDataTree    = 1 << 3
	logDevice      = 1 << 4
	logAttrLocal   = 1 << 6
	logAttrExtents = 1 << 7
	logAttrTree    = 1 << 8
	logDataOwner   = 1 << 9 // the blocks of its tree change their owner
	logAttrOwner   = 1 << 10

	logData = logDataLocal | logDataExtents | logDataTree
	logAttr = logAttrLocal | logAttrExtents | logAttrTree
)

// inodeChange is the first region of an inode's change. On machines of 32 bits four bytes of padding are left out.
type inodeChange struct {
	fields  uint32
	ino     uint64
	device  uint32
	cluster extentOf
	off     int64 // in the cluster
}

func parseInodeChange(i *item) (c inodeChange, err error) {
	h := i.regions[0]
	pad := 4
	switch len(h) {
	case 56:
	case 52:
		pad = 0
	default:
		return c, logError("an inode's change of %d bytes", len(h))
	}
	c.fields = le.Uint32(h[4:])
	h = h[12+pad:]
	c.ino, c.device = le.Uint64(h), le.Uint32(h[8:])
	c.cluster = extentOf{int64(le.Uint64(h[24:])), int64(int32(le.Uint32(h[32:])))}
	c.off = int64(int32(le.Uint32(h[36:])))
	return c, nil
}

func (p *replayer) inode(t *transaction, i *item) error {
	c, err := parseInodeChange(i)
	if err != nil {
		return err
	}
	if p.cancelled[c.cluster] > 0 {
		return nil
	}
	size := p.f.sb.inodeSize
	if c.off < 0 || c.off%size != 0 || c.off > c.cluster.len*logBlock-size || len(i.regions) < 2 {
		return logError("inode %d at byte %d of %d sectors in %d regions", c.ino, c.off, c.cluster.len, len(i.regions))
	}
	if err := p.touch(c.cluster); err != nil {
		return err
	}
	off := c.cluster.at*logBlock + c.off
	if at, ok := p.f.sb.inodeAt(c.ino); !ok || at != off {
		return logError("inode %d at byte %d", c.ino, off)
	}
	b := make([]byte, size)
	if err := p.read(b, off); err != nil {
		return err
	}
	core := i.regions[1]
	if string(b[:2]) != inodeMagic || len(core) < 96 || le.Uint16(core) != 0x494e {
		return logError("inode %d is none", c.ino)
	}
	if c.fields&(logDataOwner|logAttrOwner) != 0 {
		p.f.adopted[c.ino] = struct{}{}
	}
	if p.inodeIsNewer(t, b, core) {
		return nil
	}
	if err := p.f.putCore(b, core, t.lsn); err != nil {
		return fmt.Errorf("inode %d: %w", c.ino, err)
	}
	if err := p.f.putForks(b, &c, i.regions[2:]); err != nil {
		return err
	}
	if p.f.sb.v5 {
		le.PutUint32(b[inodeSum:], sum(b, inodeSum))
	}
	return p.write(b, off)
}

// inodeIsNewer says whether what lies on the disk is newer than the change.
func (p *replayer) inodeIsNewer(t *transaction, b, core []byte) bool {
	if p.f.sb.v5 {
		lsn := be.Uint64(b[inodeLSN:])
		return lsn != 0 && lsn != nullLSN && lsn > t.lsn
	}
	const wrapped = 0xffff
	logged, has := le.Uint16(core[30:]), be.Uint16(b[30:])
	return logged < has && !(has == wrapped && logged < wrapped/2)
}

// coreFields are the lengths of an inode's fields up to its forks, in order: in the log they are in the machine's byte
// order. Zero: bytes that are the same in both.
var coreFields = []struct{ n, times int }{
	{2, 2}, {1, 4}, {4, 3}, {2, 2}, {8, 1}, {8, 5}, {4, 1}, {4, 1}, {2, 1}, {1, 2}, {4, 1}, {2, 2}, {4, 1}, {4, 1},
	{4, 1}, {8, 3}, {4, 1}, {1, 12}, {8, 2}, {1, 16},
}

// putCore turns the fixed part of an inode from the log's order into the disk's.
func (f *FS) putCore(b, core []byte, lsn uint64) error {
	n := 96
	if f.sb.v5 {
		n = inodeCore5
	}
	if len(core) < n {
		return logError("a core of %d bytes", len(core))
	}
	old := append([]byte(nil), b[:n]...)
	at := 0
	for _, field := range coreFields {
		for range field.times {
			if at >= n {
				break
			}
			for i := range field.n {
				b[at+i] = core[at+field.n-1-i]
			}
			at += field.n
		}
	}
	f.fixCore(b, old, core, lsn)
	return nil
}

// fixCore mends the fields that are more than a number in the machine's byte order.
func (f *FS) fixCore(b, old, core []byte, lsn uint64) {
	copy(b[6:8], old[6:8]) // links of version 1
	flags2 := uint64(0)
	if f.sb.v5 {
		flags2 = le.Uint64(core[120:])
	}
	if flags2&flagBigtime == 0 {
		// Seconds and nanoseconds, each by itself.
		times := []int{32, 40, 48}
		if f.sb.v5 {
			times = append(times, 144)
		}
		for _, at := range times {
			be.PutUint32(b[at:], le.Uint32(core[at:]))
			be.PutUint32(b[at+4:], le.Uint32(core[at+4:]))
		}
	}
	if flags2&flagLargeCounts == 0 {
		clear(b[24:32])
		if !f.sb.v5 {
			copy(b[24:30], core[24:30])
			clear(b[30:32]) // the count of flushes begins anew
		}
	}
	if !f.sb.v5 {
		return
	}
	copy(b[96:100], old[96:100]) // the chain of unlinked inodes is a matter of buffers
	be.PutUint64(b[inodeLSN:], lsn)
	copy(b[160:176], core[160:176])
}

// putForks puts what the change carries of the two forks into the inode.
func (f *FS) putForks(b []byte, c *inodeChange, regions [][]byte) error {
	if c.fields&logDevice != 0 {
		be.PutUint32(b[f.coreLen():], c.device)
	}
	data, attr := f.forkOf(b, false), f.forkOf(b, true)
	for _, fork := range []struct {
		fields, tree uint32
		room         []byte
	}{{c.fields & logData, logDataTree, data}, {c.fields & logAttr, logAttrTree, attr}} {
		if fork.fields == 0 {
			continue
		}
		if len(regions) == 0 {
			return logError("inode %d without what changed in it", c.ino)
		}
		region := regions[0]
		regions = regions[1:]
		if fork.fields == fork.tree {
			if err := f.putTree(fork.room, region); err != nil {
				return fmt.Errorf("inode %d: %w", c.ino, err)
			}
			continue
		}
		if len(region) > len(fork.room) {
			return logError("inode %d with %d bytes in a fork of %d", c.ino, len(region), len(fork.room))
		}
		copy(fork.room, region)
	}
	return nil
}

// putTree writes a tree's top node into a fork. In memory it has a whole block's header, and as much room for keys as
// it needed; in the inode its header is its level and count, and the room for keys is what fits.
func (f *FS) putTree(fork, region []byte) error {
	head := extentTree.headLen(f.sb.v5)
	if len(region) < head || len(fork) < 4 {
		return logError("a tree's top of %d bytes in a fork of %d", len(region), len(fork))
	}
	level, count := be.Uint16(region[4:]), int(be.Uint16(region[6:]))
	has, room := (len(region)-head)/16, (len(fork)-4)/16
	if level == 0 || count == 0 || count > has || count > room {
		return logError("a tree's top of level %d with %d keys", level, count)
	}
	be.PutUint16(fork, level)
	be.PutUint16(fork[2:], uint16(count))
	copy(fork[4:], region[head:head+count*8])
	copy(fork[4+room*8:], region[head+has*8:][:count*8])
	return nil
}

// inodesMade writes fresh inodes: those of a new chunk, all at once. Unlike the log's other numbers these are big-endian.
func (p *replayer) inodesMade(i *item) error {
	h := i.regions[0]
	if len(h) < 28 {
		return logError("new inodes in %d bytes", len(h))
	}
	sb := p.f.sb
	ag, first, count := be.Uint32(h[4:]), be.Uint32(h[8:]), int64(be.Uint32(h[12:]))
	size, blocks, gen := int64(be.Uint32(h[16:])), int64(be.Uint32(h[20:])), h[24:28]
	if ag >= sb.agCount || int64(first)+blocks > int64(sb.agLen(ag)) || size != sb.inodeSize || count == 0 ||
		count > 4*inodesInChunk || count*size != blocks*sb.blockSize {
		return logError("%d new inodes of %d bytes in %d blocks from %d of group %d", count, size, blocks, first, ag)
	}
	off := sb.at(ag, first)
	if p.inodesGone(off, blocks*sb.blockSize) {
		return nil
	}
	for i := range count {
		b := make([]byte, size)
		p.f.freshInode(b, gen, (uint64(ag)<<sb.agBlockLog|uint64(first))<<sb.inodesLog+uint64(i))
		if err := p.write(b, off+i*size); err != nil {
			return err
		}
	}
	for at := int64(0); at < blocks*sb.blockSize; at += maxBuffer {
		n := min(maxBuffer, blocks*sb.blockSize-at)
		if err := p.touch(extentOf{(off + at) / logBlock, n / logBlock}); err != nil {
			return err
		}
	}
	return nil
}

// inodesGone says whether a buffer in the range was freed later. Clusters of one chunk are freed together.
func (p *replayer) inodesGone(off, n int64) bool {
	for e := range p.cancelledIn(off, n) {
		if p.cancelled[e] > 0 {
			return true
		}
	}
	return false
}

// cancelledIn yields the ways in which a chunk's clusters may have been cancelled: from a block to the whole of it.
func (p *replayer) cancelledIn(off, n int64) func(yield func(extentOf) bool) {
	return func(yield func(extentOf) bool) {
		for size := p.f.sb.blockSize; size <= n; size *= 2 {
			for at := off; at < off+n; at += size {
				if !yield(extentOf{at / logBlock, size / logBlock}) {
					return
				}
			}
		}
	}
}

func (f *FS) freshInode(b, gen []byte, ino uint64) {
	copy(b, inodeMagic)
	b[4] = 2
	copy(b[92:96], gen)
	be.PutUint32(b[inodeNextUnlinked:], ^uint32(0))
	if f.sb.v5 {
		b[4] = 3
		be.PutUint64(b[inodeNumber:], ino)
		copy(b[inodeUUID:], f.sb.metaUUID[:])
		le.PutUint32(b[inodeSum:], sum(b, inodeSum))
	}
}
