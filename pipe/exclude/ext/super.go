package ext

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

const (
	superOff  = 1024
	superSize = 1024
	magic     = 0xef53
	maxGroups = 1 << 20 // 128 TiB of 4 KiB blocks; the table of groups then takes 32 MiB
)

var le = binary.LittleEndian

// super is what the superblock says, in units of its own: blocks, clusters, inodes.
type super struct {
	compat, incompat, ro uint32

	inodes         uint32
	blocks         uint64
	first          uint64 // the block with which group 0 begins
	blockBits      uint   // a block is 1<<blockBits bytes
	clusterBits    uint   // a cluster is 1<<clusterBits blocks
	perGroup       uint32 // blocks
	inodesPerGroup uint32
	inodeSize      uint32
	firstInode     uint32
	descSize       uint32
	reserved       uint32 // blocks behind the descriptors, for more of them
	firstMeta      uint32 // the first block of descriptors that lies in its own groups
	backups        [2]uint32

	groups     uint32
	descBlocks uint32 // blocks of descriptors

	state      uint16
	uuid       [16]byte
	label      string
	journal    uint32
	journalDev uint32
	mmp        uint64
	sumType    byte
	seed       uint32 // of all checksums of metadata_csum
	sum, want  uint32 // its own checksum as stored and as computed

	quotas  [3]uint32
	orphans uint32 // the inode that lists deleted files that are open

	lastOrphan uint32 // the first of the list of such files that has no inode of its own
}

// parseSuper reads a superblock. What is not one is fsys.ErrOther, one that contradicts itself or the volume's size a
// *fsys.CorruptError, one with an unknown format an error that wraps errors.ErrUnsupported.
func parseSuper(p []byte, size int64) (*super, error) {
	if len(p) < superSize || le.Uint16(p[0x38:]) != magic {
		return nil, fsys.ErrOther
	}
	s := &super{
		inodes: le.Uint32(p), blocks: uint64(le.Uint32(p[0x4:])), first: uint64(le.Uint32(p[0x14:])),
		perGroup: le.Uint32(p[0x20:]), inodesPerGroup: le.Uint32(p[0x28:]), state: le.Uint16(p[0x3a:]),
		inodeSize: 128, firstInode: 11, descSize: 32,
	}
	if le.Uint32(p[0x4c:]) > 0 { // the first revision had nothing beyond this
		s.dynamic(p)
	}
	switch {
	case s.incompat&incompatJournalDev != 0:
		return nil, fsys.ErrOther // a log without its file system
	case s.incompat&^incompatKnown != 0:
		return nil, fmt.Errorf("%s: incompatible features %s: %w", s.kind(), bitNames(s.incompat&^incompatKnown), errors.ErrUnsupported)
	}
	if why := s.geometry(p, size); why != "" {
		return nil, &fsys.CorruptError{What: "superblock", Off: superOff, Why: why}
	}
	return s, nil
}

// dynamic reads what came with the second revision.
func (s *super) dynamic(p []byte) {
	s.compat, s.incompat, s.ro = le.Uint32(p[0x5c:]), le.Uint32(p[0x60:]), le.Uint32(p[0x64:])
	s.firstInode, s.inodeSize = le.Uint32(p[0x54:]), uint32(le.Uint16(p[0x58:]))
	copy(s.uuid[:], p[0x68:])
	label, _, _ := bytes.Cut(p[0x78:0x88], []byte{0})
	s.label = strings.ToValidUTF8(string(label), "\ufffd")
	s.reserved = uint32(le.Uint16(p[0xce:]))
	s.journal, s.journalDev = le.Uint32(p[0xe0:]), le.Uint32(p[0xe4:])
	if s.incompat&incompat64bit != 0 {
		s.blocks |= uint64(le.Uint32(p[0x150:])) << 32
		s.descSize = uint32(le.Uint16(p[0xfe:]))
	}
	if s.incompat&incompatMetaBG != 0 {
		s.firstMeta = le.Uint32(p[0x104:])
	}
	if s.incompat&incompatMMP != 0 {
		s.mmp = le.Uint64(p[0x168:])
	}
	s.sumType = p[0x175]
	s.lastOrphan = le.Uint32(p[0xe8:])
	s.quotas = [3]uint32{le.Uint32(p[0x240:]), le.Uint32(p[0x244:]), le.Uint32(p[0x26c:])}
	s.backups = [2]uint32{le.Uint32(p[0x24c:]), le.Uint32(p[0x250:])}
	if s.compat&compatOrphanFile != 0 {
		s.orphans = le.Uint32(p[0x280:])
	}
	if s.seed = crc32c(^uint32(0), s.uuid[:]); s.incompat&incompatCsumSeed != 0 {
		s.seed = le.Uint32(p[0x270:])
	}
	s.sum, s.want = le.Uint32(p[0x3fc:]), crc32c(^uint32(0), p[:0x3fc])
}

// geometry checks the sizes against each other and derives the number of groups; it says what is wrong.
func (s *super) geometry(p []byte, size int64) string {
	blockLog, clusterLog := le.Uint32(p[0x18:]), le.Uint32(p[0x1c:])
	clusters := le.Uint32(p[0x24:])
	switch {
	case blockLog > 6:
		return fmt.Sprintf("blocks of 2^%d KiB", blockLog)
	case s.ro&roBigalloc != 0 && (clusterLog < blockLog || clusterLog-blockLog > 20):
		return fmt.Sprintf("clusters of 2^%d KiB", clusterLog)
	}
	s.blockBits = uint(blockLog) + 10
	if s.ro&roBigalloc != 0 {
		s.clusterBits = uint(clusterLog - blockLog)
	} else {
		clusters = s.perGroup
	}
	bs := uint32(1) << s.blockBits
	switch {
	case s.perGroup == 0 || clusters > bs*8 || uint64(clusters)<<s.clusterBits != uint64(s.perGroup) || clusters%8 != 0:
		return fmt.Sprintf("%d blocks and %d clusters a group", s.perGroup, clusters)
	case s.inodeSize < 128 || s.inodeSize > bs || s.inodeSize&(s.inodeSize-1) != 0:
		return fmt.Sprintf("inodes of %d bytes", s.inodeSize)
	case s.inodesPerGroup < bs/s.inodeSize || s.inodesPerGroup > bs*8 || s.inodesPerGroup%8 != 0:
		return fmt.Sprintf("%d inodes a group", s.inodesPerGroup)
	case s.descSize < 32 || s.descSize > bs || s.descSize&(s.descSize-1) != 0 || s.incompat&incompat64bit != 0 && s.descSize < 64:
		return fmt.Sprintf("group descriptors of %d bytes", s.descSize)
	case s.first > 1 || s.first == 1 && bs != 1024:
		return fmt.Sprintf("the first block is %d", s.first)
	case s.blocks <= s.first || s.blocks > uint64(size)>>s.blockBits:
		return fmt.Sprintf("%d blocks of %d in a volume of %d bytes", s.blocks, bs, size)
	}
	return s.count()
}

// count derives how many groups there are.
func (s *super) count() string {
	groups := (s.blocks - s.first + uint64(s.perGroup) - 1) / uint64(s.perGroup)
	switch {
	case groups > maxGroups:
		return fmt.Sprintf("%d groups, more than %d", groups, maxGroups)
	case groups*uint64(s.inodesPerGroup) != uint64(s.inodes):
		return fmt.Sprintf("%d inodes in %d groups of %d", s.inodes, groups, s.inodesPerGroup)
	}
	s.groups = uint32(groups)
	perBlock := s.descPerBlock()
	s.descBlocks = (s.groups + perBlock - 1) / perBlock
	if s.firstMeta > s.descBlocks {
		return fmt.Sprintf("the first meta group is %d of %d", s.firstMeta, s.descBlocks)
	}
	return ""
}

func (s *super) blockSize() int64     { return 1 << s.blockBits }
func (s *super) descPerBlock() uint32 { return uint32(1) << s.blockBits / s.descSize }

func (s *super) metaSums() bool  { return s.ro&roMetaCsum != 0 }
func (s *super) groupSums() bool { return s.ro&(roMetaCsum|roGdtCsum) != 0 }

// sameGeometry: a log that resizes is nothing that we follow.
func (s *super) sameGeometry(o *super) bool {
	return s.blocks == o.blocks && s.first == o.first && s.blockBits == o.blockBits && s.clusterBits == o.clusterBits &&
		s.perGroup == o.perGroup && s.inodesPerGroup == o.inodesPerGroup && s.inodeSize == o.inodeSize &&
		s.descSize == o.descSize && s.reserved == o.reserved && s.firstMeta == o.firstMeta && s.backups == o.backups &&
		s.uuid == o.uuid && s.seed == o.seed && s.metaSums() == o.metaSums() && s.groupSums() == o.groupSums()
}

// doubt says why the bitmaps of such a file system must not be relied on.
func (s *super) doubt() string {
	const valid, failed = 1, 2
	switch {
	case s.ro&^roKnown != 0:
		return "read-only compatible features " + bitNames(s.ro&^roKnown) + " are not known"
	case s.compat&compatLazyBG != 0:
		return "the feature lazy_bg is not known"
	case s.metaSums() && s.sumType != 1:
		return fmt.Sprintf("checksums of type %d are not known", s.sumType)
	case s.metaSums() && s.sum != s.want:
		return fmt.Sprintf("the superblock's checksum is %#x, not %#x", s.sum, s.want)
	case s.state&failed != 0:
		return "its driver has found errors in it"
	case s.state&valid == 0:
		return "it was not cleanly unmounted"
	}
	return ""
}

// id is the UUID as it is commonly written.
func (s *super) id() string {
	h := hex.EncodeToString(s.uuid[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// groupStart is the first block of a group, groupEnd the one after its last.
func (s *super) groupStart(g uint32) uint64 { return s.first + uint64(g)*uint64(s.perGroup) }
func (s *super) groupEnd(g uint32) uint64 {
	return min(s.groupStart(g)+uint64(s.perGroup), s.blocks)
}

// groupOf is the group of a block, which is none before the first.
func (s *super) groupOf(b uint64) uint32 { return uint32((b - s.first) / uint64(s.perGroup)) }

// clusters are how many bits of a group's bitmap mean something.
func (s *super) clusters(g uint32) uint32 {
	n := s.groupEnd(g) - s.groupStart(g)
	return uint32((n + 1<<s.clusterBits - 1) >> s.clusterBits)
}

// hasSuper reports whether a group begins with a copy of the superblock.
func (s *super) hasSuper(g uint32) bool {
	switch {
	case g == 0:
		return true
	case s.compat&compatSparse2 != 0:
		return g == s.backups[0] || g == s.backups[1]
	case g == 1 || s.ro&roSparseSuper == 0:
		return true
	case g%2 == 0:
		return false
	}
	return isPower(g, 3) || isPower(g, 5) || isPower(g, 7)
}

func isPower(n, base uint32) bool {
	p := uint64(base)
	for p < uint64(n) {
		p *= uint64(base)
	}
	return p == uint64(n)
}

// metaGroup reports whether a group's descriptors lie in the groups that they describe.
func (s *super) metaGroup(g uint32) bool {
	return s.incompat&incompatMetaBG != 0 && g/s.descPerBlock() >= s.firstMeta
}

// baseBlocks are how many blocks at a group's start hold superblock, descriptors, and room for more of them.
func (s *super) baseBlocks(g uint32) uint64 {
	n := uint64(0)
	if s.hasSuper(g) {
		n = 1
	}
	if s.metaGroup(g) {
		if at := g % s.descPerBlock(); at == 0 || at == 1 || at == s.descPerBlock()-1 {
			n++
		}
		return n
	}
	if n > 0 {
		if n += uint64(s.descBlocks); s.incompat&incompatMetaBG != 0 {
			n += uint64(s.firstMeta) - uint64(s.descBlocks)
		}
		n += uint64(s.reserved)
	}
	return n
}

// descBlock is where the nth block of descriptors lies.
func (s *super) descBlock(n uint32) uint64 {
	if s.incompat&incompatMetaBG == 0 || n < s.firstMeta {
		return superOff>>s.blockBits + 1 + uint64(n)
	}
	g := n * s.descPerBlock()
	at := s.groupStart(g)
	if s.hasSuper(g) {
		at++
	}
	if n == 0 && s.blockBits == 10 && s.first == 0 {
		at++ // with clusters of 1 KiB blocks the superblock is block 1 of group 0
	}
	return at
}
