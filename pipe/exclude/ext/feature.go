package ext

import (
	"fmt"
	"strings"
)

// Features that a driver may ignore.
const (
	compatJournal     = 0x4
	compatLazyBG      = 0x40
	compatSparse2     = 0x200
	compatFastCommit  = 0x400
	compatOrphanFile  = 0x1000
	compatResizeInode = 0x10
)

// Features without which nothing can be read.
const (
	incompatCompression = 0x1
	incompatFiletype    = 0x2
	incompatRecover     = 0x4
	incompatJournalDev  = 0x8
	incompatMetaBG      = 0x10
	incompatExtents     = 0x40
	incompat64bit       = 0x80
	incompatMMP         = 0x100
	incompatFlexBG      = 0x200
	incompatEAInode     = 0x400
	incompatCsumSeed    = 0x2000
	incompatLargeDir    = 0x4000
	incompatInlineData  = 0x8000
	incompatEncrypt     = 0x10000
	incompatCasefold    = 0x20000

	incompatKnown = incompatFiletype | incompatRecover | incompatMetaBG | incompatExtents | incompat64bit | incompatMMP |
		incompatFlexBG | incompatEAInode | incompatCsumSeed | incompatLargeDir | incompatInlineData | incompatEncrypt |
		incompatCasefold
)

// Features without which nothing may be written, and so the bitmaps not relied on.
const (
	roSparseSuper = 0x1
	roLargeFile   = 0x2
	roBtreeDir    = 0x4
	roHugeFile    = 0x8
	roGdtCsum     = 0x10
	roDirNlink    = 0x20
	roExtraIsize  = 0x40
	roQuota       = 0x100
	roBigalloc    = 0x200
	roMetaCsum    = 0x400
	roReadonly    = 0x1000
	roProject     = 0x2000
	roVerity      = 0x8000
	roOrphans     = 0x10000

	roKnown = roSparseSuper | roLargeFile | roBtreeDir | roHugeFile | roGdtCsum | roDirNlink | roExtraIsize | roQuota |
		roBigalloc | roMetaCsum | roReadonly | roProject | roVerity | roOrphans
)

// Flags of inodes.
const (
	flagEncrypted = 0x800
	flagIndexed   = 0x1000
	flagExtents   = 0x80000
	flagEAInode   = 0x200000
	flagInline    = 0x10000000
)

// bitNames writes a set of unknown features for people: the names are nobody's to know, so the numbers.
func bitNames(bits uint32) string {
	var out []string
	for i := range 32 {
		if bits&(1<<i) != 0 {
			out = append(out, fmt.Sprintf("%#x", uint32(1)<<i))
		}
	}
	return strings.Join(out, ", ")
}

// kind is the name that people give to a set of features.
func (s *super) kind() string {
	const (
		ext3Incompat = incompatFiletype | incompatRecover | incompatMetaBG
		ext3Ro       = roSparseSuper | roLargeFile | roBtreeDir
	)
	switch {
	case s.incompat&^ext3Incompat != 0 || s.ro&^ext3Ro != 0:
		return "ext4"
	case s.compat&compatJournal != 0:
		return "ext3"
	}
	return "ext2"
}
