package layout

import (
	"bytes"
	"context"
	"encoding/binary"

	"github.com/hikae/hikae/pipe"
)

// Signature is a mark by which something on a volume is recognised.
type Signature struct {
	Kind string // "ext", "xfs", "LUKS", "Linux RAID member" …
	// Opaque: the kind is known by name and not looked into.
	Opaque bool
}

// The kinds of signatures that are not opaque.
const (
	Ext            = "ext" // ext2, ext3 and ext4
	XFS            = "xfs"
	NTFS           = "ntfs"
	FAT            = "fat"
	Swap           = "swap" // Linux swap space, also with a hibernation image in it
	PhysicalVolume = "LVM2 physical volume"
)

// headBytes are read from a volume's beginning: the marks that lie deepest there are those of btrfs, ReiserFS and ZFS.
const headBytes = 256 << 10

// tailBytes are read from its end.
const tailBytes = 192 << 10

// Identify finds the signatures that a volume carries. More than one is a contradiction: one of them is left from an
// earlier use, and from outside nobody knows which. It reads less than half a MiB.
func Identify(ctx context.Context, img pipe.Image) ([]Signature, error) {
	size := img.Size()
	head := make([]byte, min(headBytes, size))
	if _, err := readAt(ctx, img, head, 0); err != nil {
		return nil, err
	}
	tail := make([]byte, min(tailBytes, size))
	if _, err := readAt(ctx, img, tail, size-int64(len(tail))); err != nil {
		return nil, err
	}
	var found []Signature
	add := func(kind string, opaque bool) {
		for _, f := range found {
			if f.Kind == kind {
				return
			}
		}
		found = append(found, Signature{kind, opaque})
	}
	for _, m := range marks {
		if at(head, m.off, m.mark) {
			add(m.kind, m.opaque)
		}
	}
	for _, p := range probes {
		if p.probe(head, tail, size) {
			add(p.kind, p.opaque)
		}
	}
	if err := deepMarks(ctx, img, add); err != nil {
		return nil, err
	}
	return found, nil
}

func at(p []byte, off int, mark string) bool {
	return off+len(mark) <= len(p) && string(p[off:off+len(mark)]) == mark
}

// marks are bytes at fixed places.
var marks = []struct {
	kind   string
	opaque bool
	off    int
	mark   string
}{
	{XFS, false, 0, "XFSB"},
	{"LUKS", true, 0, "LUKS\xBA\xBE"},
	{"LUKS", true, 0x4000, "SKUL\xBA\xBE"}, {"LUKS", true, 0x8000, "SKUL\xBA\xBE"}, {"LUKS", true, 0x10000, "SKUL\xBA\xBE"},
	{"LUKS", true, 0x20000, "SKUL\xBA\xBE"},
	{"BitLocker", true, 3, "-FVE-FS-"},
	{"BitLocker", true, 424, "\x3B\xD6\x67\x49\x29\x2E\xD8\x4A\x83\x99\xF6\xA3\x39\xE3\xD0\x01"},
	{"btrfs", true, 0x10040, "_BHRfS_M"},
	{"Linux RAID member", true, 0, "\xFC\x4E\x2B\xA9"}, {"Linux RAID member", true, 4096, "\xFC\x4E\x2B\xA9"},
	{"bcache", true, 4096 + 24, "\xC6\x85\x73\xF6\x4E\x1A\x45\xCA\x82\x65\xF5\x7F\x48\xBA\x6D\x81"},
	{"bcachefs", true, 4096 + 24, "\xC6\x85\x73\xF6\x66\xCE\x90\xA9\xD9\x6A\x60\xCF\x80\x3D\xF7\xEF"},
	{"exFAT", true, 3, "EXFAT   "},
	{"ReFS", true, 3, "ReFS\x00"},
	{"F2FS", true, 1024, "\x10\x20\xF5\xF2"},
	{"HFS+", true, 1024, "H+\x00\x04"}, {"HFS+", true, 1024, "HX\x00\x05"},
	{"APFS", true, 32, "NXSB"},
	{"JFS", true, 0x8000, "JFS1"},
	{"ReiserFS", true, 0x10034, "ReIsEr"},
	{"NILFS2", true, 1024, "\x02\x00\x00\x00\x00\x00\x34\x34"},
	{"squashfs", true, 0, "hsqs"},
	{"EROFS", true, 1024, "\xE2\xE1\xF5\xE0"},
	{"ISO 9660", true, 0x8001, "CD001"},
	{"UDF", true, 0x8001, "BEA01"},
	{"Ceph BlueStore", true, 0, "bluestore block device"},
	{"VDO", true, 0, "dmvdo001"},
	{"Stratis", true, 512, "!Stra0tis\x86\xFF\x02^\x41rh"},
	{"LVM1 physical volume", true, 0, "HM\x01\x00"}, {"LVM1 physical volume", true, 0, "HM\x02\x00"},
	{"UFS", true, 8192 + 1372, "\x54\x19\x01\x00"}, {"UFS", true, 65536 + 1372, "\x19\x01\x54\x19"},
	{"Oracle ASM", true, 32, "ORCLDISK"},
	{"OCFS2", true, 1024, "OCFSV2"}, {"OCFS2", true, 2048, "OCFSV2"}, {"OCFS2", true, 4096, "OCFSV2"},
	{"GFS2", true, 0x10000, "\x01\x16\x19\x70"},
	{"dm-integrity", true, 0, "integrt\x00"}, {"dm-verity", true, 0, "verity\x00\x00"},
}

// probes are marks that need more than a look at one place.
var probes = []struct {
	kind   string
	opaque bool
	probe  func(head, tail []byte, size int64) bool
}{
	{Ext, false, isExt},
	{NTFS, false, isNTFS},
	{FAT, false, isFAT},
	{Swap, false, isSwap},
	{PhysicalVolume, false, isPhysicalVolume},
	{"Linux RAID member", true, isOldRAID},
	{"ZFS", true, isZFS},
	{"Intel RAID member", true, func(_, tail []byte, _ int64) bool { return fromEnd(tail, 1024, "Intel Raid ISM Cfg Sig.") }},
	{"DDF RAID member", true, func(_, tail []byte, _ int64) bool { return fromEnd(tail, 512, "\xDE\x11\xDE\x11") }},
	{"GEOM member", true, func(_, tail []byte, _ int64) bool { return fromEnd(tail, 512, "GEOM::") }},
	{"DRBD", true, isDRBD},
}

func fromEnd(tail []byte, back int, mark string) bool {
	return len(tail) >= back && bytes.HasPrefix(tail[len(tail)-back:], []byte(mark))
}

// deepMarks lie further inside than is read for all.
func deepMarks(ctx context.Context, img pipe.Image, add func(string, bool)) error {
	var p [4]byte
	for _, off := range []int64{1 << 20, 2 << 20} {
		n, err := readAt(ctx, img, p[:], off)
		if err != nil {
			return err
		}
		if n == len(p) && (string(p[:]) == "\x0D\xD0\x01\xC0" || string(p[:]) == "\x5E\xF1\xAB\x2F") {
			add("VMFS", true)
		}
	}
	return nil
}

func isExt(head []byte, _ []byte, _ int64) bool {
	return at(head, 1024+56, "\x53\xEF") && binary.LittleEndian.Uint32(head[1024+24:]) <= 6
}

func isNTFS(head []byte, _ []byte, _ int64) bool {
	return at(head, 3, "NTFS    ") && at(head, 510, "\x55\xAA")
}

// isFAT looks at the parameters that every driver of FAT needs, because there is no other mark.
func isFAT(head []byte, _ []byte, _ int64) bool {
	if !at(head, 510, "\x55\xAA") || at(head, 3, "NTFS    ") || at(head, 3, "EXFAT   ") || at(head, 3, "-FVE-FS-") {
		return false
	}
	le := binary.LittleEndian
	sector, cluster, reserved, fats, media := le.Uint16(head[11:]), head[13], le.Uint16(head[14:]), head[16], head[21]
	return sector >= 512 && sector <= 4096 && sector&(sector-1) == 0 && cluster > 0 && cluster&(cluster-1) == 0 &&
		reserved > 0 && fats >= 1 && fats <= 2 && (media == 0xF0 || media >= 0xF8) &&
		(le.Uint16(head[22:]) > 0 || le.Uint32(head[36:]) > 0) && (le.Uint16(head[19:]) > 0 || le.Uint32(head[32:]) > 0)
}

// swapMarks stand in the last ten bytes of the first page, also those that a sleeping system puts there.
var swapMarks = []string{"SWAPSPACE2", "SWAP-SPACE", "S1SUSPEND", "S2SUSPEND", "ULSUSPEND", "LINHIB0001", "\xED\xC3\x02\xE9\x98\x56\xE5\x0C"}

func isSwap(head []byte, _ []byte, _ int64) bool {
	for page := 4096; page <= 64<<10; page *= 2 {
		for _, m := range swapMarks {
			if at(head, page-10, m) {
				return true
			}
		}
	}
	return false
}

func isPhysicalVolume(head []byte, _ []byte, _ int64) bool {
	for sector := range 4 {
		if at(head, sector*512, "LABELONE") {
			return true
		}
	}
	return false
}

// isOldRAID finds the superblocks of md at the end of a member: of format 0.90 and 1.0.
func isOldRAID(_, tail []byte, size int64) bool {
	const magic = 0xA92B4EFC
	start := size - int64(len(tail))
	old := (size&^(64<<10-1) - 64<<10) - start
	one := (size>>9-16)&^7<<9 - start
	for _, off := range []int64{old, one} {
		if off >= 0 && off+4 <= int64(len(tail)) &&
			(binary.LittleEndian.Uint32(tail[off:]) == magic || binary.BigEndian.Uint32(tail[off:]) == magic) {
			return true
		}
	}
	return false
}

// isZFS looks for any uberblock in the first label.
func isZFS(head []byte, _ []byte, _ int64) bool {
	for off := 128 << 10; off+8 <= len(head); off += 1024 {
		if at(head, off, "\x0C\xB1\xBA\x00\x00\x00\x00\x00") || at(head, off, "\x00\x00\x00\x00\x00\xBA\xB1\x0C") {
			return true
		}
	}
	return false
}

// isDRBD finds metadata that a mirror over the network keeps behind the data.
func isDRBD(_, tail []byte, size int64) bool {
	off := size&^4095 - 4096 - (size - int64(len(tail)))
	if off < 0 || off+64 > int64(len(tail)) {
		return false
	}
	magic := binary.BigEndian.Uint32(tail[off+60:])
	return magic >= 0x83740267 && magic <= 0x8374026D
}
