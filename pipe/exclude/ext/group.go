package ext

import (
	"context"
	"fmt"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// Flags of a group, of which the last is ours.
const (
	groupInodesUninit = 0x1 // no inode of it was ever used
	groupBlocksUninit = 0x2 // it has no bitmap: all is free but what must be in use
	groupWasUninit    = 0x8000
)

// group is what we keep of a group descriptor.
type group struct {
	bitmap uint64 // the block of the bitmap of its blocks
	table  uint64 // the first block of its inodes
	sum    uint32 // of the bitmap
	free   uint32 // clusters
	unused uint32 // inodes at the end of the table that were never used
	flags  uint16
}

// placed is a group with what is only needed once, to find out which blocks must be in use.
type placed struct {
	group
	inodes uint64 // the block of the bitmap of its inodes
}

// parseGroup reads a descriptor.
func (s *super) parseGroup(p []byte) placed {
	g := placed{group{
		bitmap: uint64(le.Uint32(p)), table: uint64(le.Uint32(p[0x8:])), sum: uint32(le.Uint16(p[0x18:])),
		free: uint32(le.Uint16(p[0xc:])), unused: uint32(le.Uint16(p[0x1c:])), flags: le.Uint16(p[0x12:]) & 0x7,
	}, uint64(le.Uint32(p[0x4:]))}
	if s.descSize >= 64 {
		g.bitmap |= uint64(le.Uint32(p[0x20:])) << 32
		g.inodes |= uint64(le.Uint32(p[0x24:])) << 32
		g.table |= uint64(le.Uint32(p[0x28:])) << 32
		g.free |= uint32(le.Uint16(p[0x2c:])) << 16
		g.unused |= uint32(le.Uint16(p[0x32:])) << 16
		g.sum |= uint32(le.Uint16(p[0x38:])) << 16
	}
	if !s.groupSums() { // the flags and the count mean something only where a checksum protects them
		g.flags, g.unused = 0, 0
	}
	return g
}

// checkGroup says what is wrong with a descriptor's checksum.
func (s *super) checkGroup(p []byte, n uint32) string {
	if !s.groupSums() {
		return ""
	}
	stored, want := le.Uint16(p[0x1e:]), uint16(0)
	if s.metaSums() {
		sum := crc32c(crc32cWord(s.seed, n), p[:0x1e])
		want = uint16(crc32c(crc32c(sum, []byte{0, 0}), p[0x20:s.descSize]))
	} else {
		sum := crc16(crc16(^uint16(0), s.uuid[:]), []byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)})
		want = crc16(sum, p[:0x1e])
		if s.incompat&incompat64bit != 0 {
			want = crc16(want, p[0x20:s.descSize])
		}
	}
	if stored != want {
		return fmt.Sprintf("checksum %#x, not %#x", stored, want)
	}
	return ""
}

// tableBlocks is how long a group's table of inodes is.
func (s *super) tableBlocks() uint64 {
	return (uint64(s.inodesPerGroup)*uint64(s.inodeSize) + 1<<s.blockBits - 1) >> s.blockBits
}

// checkPlaces says which of a group's parts lies outside the file system.
func (s *super) checkPlaces(g placed) string {
	inside := func(b, n uint64) bool { return b > s.first && b < s.blocks && n <= s.blocks-b }
	switch {
	case !inside(g.bitmap, 1):
		return fmt.Sprintf("its bitmap is block %d", g.bitmap)
	case !inside(g.inodes, 1):
		return fmt.Sprintf("its bitmap of inodes is block %d", g.inodes)
	case !inside(g.table, s.tableBlocks()):
		return fmt.Sprintf("its inodes are at block %d", g.table)
	case g.unused > s.inodesPerGroup:
		return fmt.Sprintf("%d unused inodes of %d", g.unused, s.inodesPerGroup)
	}
	return ""
}

// corruptGroup is an error about a group's descriptor.
func (s *super) corruptGroup(n uint32, why string) error {
	at := s.descBlock(n / s.descPerBlock())
	off := int64(at<<s.blockBits) + int64(n%s.descPerBlock())*int64(s.descSize)
	return &fsys.CorruptError{What: fmt.Sprintf("group descriptor %d", n), Off: off, Why: why}
}

// group answers for one group: from the table, or where there is none yet from the volume.
func (v *view) group(ctx context.Context, n uint32) (group, error) {
	if n >= v.s.groups {
		return group{}, &fsys.CorruptError{What: fmt.Sprintf("group %d", n), Off: -1, Why: fmt.Sprintf("there are %d", v.s.groups)}
	}
	if v.groups != nil {
		return v.groups[n], nil
	}
	block, err := v.d.block(ctx, v.s.descBlock(n/v.s.descPerBlock()))
	if err != nil {
		return group{}, err
	}
	g, err := v.s.descriptor(block[n%v.s.descPerBlock()*v.s.descSize:], n)
	return g.group, err
}

// descriptor reads and checks one descriptor.
func (s *super) descriptor(p []byte, n uint32) (placed, error) {
	g := s.parseGroup(p)
	why := s.checkGroup(p, n)
	if why == "" {
		why = s.checkPlaces(g)
	}
	if why != "" {
		return g, s.corruptGroup(n, why)
	}
	return g, nil
}

// table is all groups, and the blocks that are in use because of them.
type table struct {
	groups []group
	meta   blockSet
	// wrong is the first thing that is not as it must be.
	wrong error
}

// loadTable reads all descriptors, in large pieces.
func (v *view) loadTable(ctx context.Context) (*table, error) {
	t := &table{groups: make([]group, 0, v.s.groups)}
	var places [3]blockSet // each kind by itself joins with its neighbours
	perBatch := uint32(max(1, 1<<20>>v.s.blockBits))
	befores := make([]byte, min(int(perBatch), int(v.s.descBlocks))<<v.s.blockBits)
	afters := make([]byte, len(befores))
	for n := uint32(0); n < v.s.descBlocks; {
		at, count := v.s.descBlock(n), uint32(1)
		for count < perBatch && n+count < v.s.descBlocks && v.s.descBlock(n+count) == at+uint64(count) {
			count++
		}
		if !v.d.holds(at, uint64(count)) {
			return nil, &fsys.CorruptError{What: fmt.Sprintf("group descriptors at block %d", at), Off: -1, Why: "they are outside the file system"}
		}
		before, after := befores[:int(count)<<v.s.blockBits], afters[:int(count)<<v.s.blockBits]
		if err := v.d.raw(ctx, before, int64(at<<v.s.blockBits)); err != nil {
			return nil, err
		}
		copy(after, before)
		if err := v.d.patch(ctx, after, int64(at<<v.s.blockBits)); err != nil {
			return nil, err
		}
		t.add(v.s, &places, before, after)
		n += count
	}
	t.meta = joined(t.meta, places[0], places[1], places[2])
	return t, nil
}

// add takes in a batch of descriptors, as they are on the volume and after replay.
func (t *table) add(s *super, places *[3]blockSet, before, after []byte) {
	for ; len(after) > 0 && len(t.groups) < int(s.groups); before, after = before[s.descSize:], after[s.descSize:] {
		n := uint32(len(t.groups))
		if t.wrong != nil { // nothing will be called free, and the files are read as far as that goes
			t.groups = append(t.groups, s.parseGroup(after).group)
			continue
		}
		var g placed
		if g, t.wrong = s.descriptor(after, n); t.wrong == nil {
			t.wrong = s.compareBefore(&g, before, n)
		}
		if base := s.baseBlocks(n); base > 0 {
			t.meta.add(s.groupStart(n), min(base, s.groupEnd(n)-s.groupStart(n)))
		}
		places[0].add(g.bitmap, 1)
		places[1].add(g.inodes, 1)
		places[2].add(g.table, s.tableBlocks())
		t.groups = append(t.groups, g.group)
	}
}

// compareBefore notes whether a group had no bitmap before the replay either. A descriptor that the driver was just writing is
// damaged on the volume and whole in the log; its bitmap then counts as it stands there, which can only keep more.
func (s *super) compareBefore(g *placed, before []byte, n uint32) error {
	if s.checkGroup(before, n) != "" {
		return nil
	}
	old := s.parseGroup(before)
	if old.flags&groupBlocksUninit != 0 {
		g.flags |= groupWasUninit
	}
	if old.bitmap != g.bitmap || old.inodes != g.inodes || old.table != g.table {
		return s.corruptGroup(n, "the log moves its bitmaps or inodes")
	}
	return nil
}
