package xfs

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/bits"
	"strings"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

var be = binary.BigEndian

// Bits of the superblock's feature words.
const (
	versionLogV2 = 0x0400
	versionMore  = 0x8000 // features2 is valid

	features2FType = 0x200
)

const (
	roFinobt = 1 << iota
	roRmapbt
	roReflink
	roInobtCount
)

const (
	incompatFType = 1 << iota
	incompatSparse
	incompatMetaUUID
	incompatBigtime
	incompatNeedsRepair
	incompatNRExt64
	incompatExchange
	incompatParent
)

const (
	knownRO       = roFinobt | roRmapbt | roReflink | roInobtCount
	knownIncompat = incompatFType | incompatSparse | incompatMetaUUID | incompatBigtime | incompatNRExt64 |
		incompatExchange | incompatParent
	knownLogIncompat = 1 // attribute intents
)

// super is what the reader needs of the superblock.
type super struct {
	v5         bool
	blockSize  int64
	sectorSize int64
	inodeSize  int64
	dirSize    int64 // bytes of one directory block
	blockLog   uint8
	agBlockLog uint8
	inodesLog  uint8 // inodes in a block, as a power of two

	blocks   uint64
	agBlocks uint32
	agCount  uint32
	logStart uint64 // a block number with its group in the upper bits; 0: on another device
	logSize  int64  // bytes
	logV2    bool

	root      uint64
	special   []uint64 // inodes that hold metadata: quotas, the realtime section's books
	uuid      [16]byte
	metaUUID  [16]byte // what stands in every block
	label     string
	fileTypes bool
	finobt    bool
	rmapbt    bool
	reflink   bool
	bigtime   bool
}

const superMagic = "XFSB"

// readSuper reads the superblock. The reason says why what it describes must be doubted although it can be read.
func readSuper(ctx context.Context, v view, image int64) (sb *super, reason string, err error) {
	if image < 512 {
		return nil, "", fsys.ErrOther
	}
	head := make([]byte, 512)
	if _, err := v.read(ctx, head, 0); err != nil {
		return nil, "", err
	}
	if string(head[:4]) != superMagic {
		return nil, "", fsys.ErrOther
	}
	sector := int64(be.Uint16(head[102:]))
	if sector < 512 || sector > 32<<10 || sector&(sector-1) != 0 || sector > image {
		return nil, "", superError("sectors of %d bytes", sector)
	}
	b := make([]byte, sector)
	patched, err := v.read(ctx, b, 0)
	if err != nil {
		return nil, "", err
	}
	if sb, err = parseSuper(b); err != nil {
		return nil, "", err
	}
	return sb, sb.doubts(b, patched, image), nil
}

func superError(format string, args ...any) error {
	return &fsys.CorruptError{What: "superblock", Off: 0, Why: fmt.Sprintf(format, args...)}
}

// parseSuper takes a superblock apart and refuses one whose geometry cannot be.
func parseSuper(b []byte) (*super, error) {
	version := be.Uint16(b[100:])
	sb := &super{
		v5:         version&0xf == 5,
		blockSize:  int64(be.Uint32(b[4:])),
		sectorSize: int64(be.Uint16(b[102:])),
		inodeSize:  int64(be.Uint16(b[104:])),
		blockLog:   b[120],
		inodesLog:  b[123],
		agBlockLog: b[124],
		blocks:     be.Uint64(b[8:]),
		agBlocks:   be.Uint32(b[84:]),
		agCount:    be.Uint32(b[88:]),
		logStart:   be.Uint64(b[48:]),
		logV2:      version&versionLogV2 != 0,
		root:       be.Uint64(b[56:]),
		label:      strings.TrimRight(string(b[108:120]), "\x00"),
	}
	copy(sb.uuid[:], b[32:])
	sb.metaUUID = sb.uuid
	for _, at := range []int{64, 72, 160, 168} {
		sb.special = append(sb.special, be.Uint64(b[at:]))
	}
	if v := version & 0xf; v != 4 && v != 5 {
		return nil, superError("version %d", v)
	}
	if sb.v5 {
		sb.parseFeatures(b)
	} else {
		sb.fileTypes = version&versionMore != 0 && be.Uint32(b[200:])&features2FType != 0
	}
	if err := sb.checkSizes(b); err != nil {
		return nil, err
	}
	sb.dirSize = sb.blockSize << b[192]
	sb.logSize = int64(be.Uint32(b[96:])) * sb.blockSize
	return sb, sb.checkGroups()
}

func (sb *super) parseFeatures(b []byte) {
	ro, incompat := be.Uint32(b[212:]), be.Uint32(b[216:])
	sb.logV2 = true
	sb.finobt, sb.rmapbt, sb.reflink = ro&roFinobt != 0, ro&roRmapbt != 0, ro&roReflink != 0
	sb.fileTypes, sb.bigtime = incompat&incompatFType != 0, incompat&incompatBigtime != 0
	sb.special = append(sb.special, be.Uint64(b[232:]))
	if incompat&incompatMetaUUID != 0 {
		copy(sb.metaUUID[:], b[248:])
	}
}

func (sb *super) checkSizes(b []byte) error {
	smallest := int64(512)
	if sb.v5 {
		smallest = 1024
	}
	switch {
	case sb.blockSize < smallest || sb.blockSize > 64<<10 || sb.blockSize != 1<<sb.blockLog:
		return superError("blocks of %d bytes", sb.blockSize)
	case sb.sectorSize != 1<<b[121] || sb.sectorSize > sb.blockSize:
		return superError("sectors of %d bytes in blocks of %d", sb.sectorSize, sb.blockSize)
	case sb.inodeSize < 256 || sb.inodeSize > 2048 || sb.inodeSize != 1<<b[122] || sb.inodeSize > sb.blockSize,
		sb.v5 && sb.inodeSize < 512, sb.inodeSize<<sb.inodesLog != sb.blockSize:
		return superError("inodes of %d bytes", sb.inodeSize)
	case int(b[192])+int(sb.blockLog) > 16:
		return superError("directory blocks of 2^%d blocks", b[192])
	}
	return nil
}

func (sb *super) checkGroups() error {
	switch {
	case sb.agBlocks < 64 || int(sb.agBlockLog) != bits.Len32(sb.agBlocks-1):
		return superError("groups of %d blocks", sb.agBlocks)
	case sb.agCount == 0 || sb.blocks > uint64(sb.agCount)*uint64(sb.agBlocks) ||
		sb.blocks <= uint64(sb.agCount-1)*uint64(sb.agBlocks):
		return superError("%d blocks in %d groups of %d", sb.blocks, sb.agCount, sb.agBlocks)
	case sb.blocks > 1<<62>>sb.blockLog:
		return superError("%d blocks", sb.blocks)
	}
	return nil
}

// smallestGroup is the least that mkfs makes of a group when there are several. It bounds how many groups a volume can
// claim to have.
const smallestGroup = 16 << 20

// doubts is why a superblock that can be read is not to be relied on; empty if it is.
func (sb *super) doubts(b []byte, patched bool, image int64) string {
	switch {
	case sb.v5 && !patched && !sumOK(b, 224):
		return "the superblock's checksum is wrong"
	case b[126] != 0:
		return "mkfs or a copy was still under way"
	case sb.size() > image:
		return fmt.Sprintf("the file system has %d bytes, the volume %d", sb.size(), image)
	case sb.agCount > 1 && int64(sb.agBlocks)*sb.blockSize < smallestGroup:
		return fmt.Sprintf("groups of %d bytes", int64(sb.agBlocks)*sb.blockSize)
	case be.Uint64(b[16:]) != 0 || be.Uint64(b[24:]) != 0:
		return "it has a realtime section"
	case sb.logStart == 0:
		return "its log is on another device"
	}
	if sb.v5 {
		return featureDoubts(b)
	}
	return ""
}

func featureDoubts(b []byte) string {
	incompat := be.Uint32(b[216:])
	switch {
	case incompat&incompatNeedsRepair != 0:
		return "it is marked as in need of repair"
	case incompat&^uint32(knownIncompat) != 0:
		return fmt.Sprintf("unknown incompatible features %#x", incompat&^uint32(knownIncompat))
	case be.Uint32(b[208:]) != 0:
		return fmt.Sprintf("unknown features %#x", be.Uint32(b[208:]))
	case be.Uint32(b[212:])&^uint32(knownRO) != 0:
		return fmt.Sprintf("unknown features for writing %#x", be.Uint32(b[212:])&^uint32(knownRO))
	case be.Uint32(b[220:])&^uint32(knownLogIncompat) != 0:
		return fmt.Sprintf("unknown log features %#x", be.Uint32(b[220:])&^uint32(knownLogIncompat))
	}
	return ""
}

// size is how many bytes of the volume belong to the file system.
func (sb *super) size() int64 { return int64(sb.blocks) << sb.blockLog }

// agLen is how many blocks group ag has.
func (sb *super) agLen(ag uint32) uint32 {
	if ag == sb.agCount-1 {
		return uint32(sb.blocks - uint64(ag)*uint64(sb.agBlocks))
	}
	return sb.agBlocks
}

// at is the byte at which a block of a group lies.
func (sb *super) at(ag, block uint32) int64 {
	return int64(uint64(ag)*uint64(sb.agBlocks)+uint64(block)) << sb.blockLog
}

// split takes a block number with its group in the upper bits apart; n blocks from it must lie in that group.
func (sb *super) split(block, n uint64) (ag, first uint32, ok bool) {
	group := block >> sb.agBlockLog
	in := block & (1<<sb.agBlockLog - 1)
	if group >= uint64(sb.agCount) || n == 0 || n > uint64(sb.agBlocks) || in+n > uint64(sb.agLen(uint32(group))) {
		return 0, 0, false
	}
	return uint32(group), uint32(in), true
}

// inodeAt is the byte at which an inode lies.
func (sb *super) inodeAt(ino uint64) (int64, bool) {
	ag, block, ok := sb.split(ino>>sb.inodesLog, 1)
	if !ok {
		return 0, false
	}
	return sb.at(ag, block) + int64(ino&(1<<sb.inodesLog-1))*sb.inodeSize, true
}

// logAt is where the log lies; ok says whether it is inside one group of the file system.
func (sb *super) logAt() (r fsys.Range, ok bool) {
	ag, first, ok := sb.split(sb.logStart, uint64(sb.logSize>>sb.blockLog))
	return fsys.Range{Off: sb.at(ag, first), Len: sb.logSize}, ok
}

// sameShape says whether two superblocks describe the same volume; a replayed log may have made it longer.
func (sb *super) sameShape(o *super) bool {
	return sb.v5 == o.v5 && sb.blockSize == o.blockSize && sb.sectorSize == o.sectorSize && sb.inodeSize == o.inodeSize &&
		sb.dirSize == o.dirSize && sb.agBlocks == o.agBlocks && sb.logStart == o.logStart && sb.logSize == o.logSize &&
		sb.metaUUID == o.metaUUID && sb.root == o.root && o.blocks >= sb.blocks && o.agCount >= sb.agCount
}
