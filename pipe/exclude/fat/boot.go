package fat

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// kind is how wide an entry of the table is, in bits.
type kind int

const (
	fat12 kind = 12
	fat16 kind = 16
	fat32 kind = 32
)

// geometry is where everything is, in bytes of the volume.
type geometry struct {
	kind     kind
	sector   int64
	cluster  int64
	tables   []int64 // where each copy begins; those that are in use
	table    int64   // length of one
	root     int64   // of FAT12 and FAT16
	rootLen  int64
	data     int64 // where cluster 2 begins
	clusters uint32
	size     int64 // of all that the file system covers

	rootCluster uint32 // of FAT32
	serial      uint32
	label       string
	dirty       bool // the boot sector says so
}

// Bounds by specification: fewer clusters than these are FAT12 and FAT16.
const (
	below16 = 4085
	below32 = 65525
	most32  = 0x0FFFFFF5
)

func bad(why string, args ...any) error {
	return &fsys.CorruptError{What: "boot sector", Off: 0, Why: fmt.Sprintf(why, args...)}
}

// parseBoot reads the first 512 bytes of a volume of size bytes. What does not look like FAT is fsys.ErrOther.
func parseBoot(p []byte, size int64) (*geometry, error) {
	le := binary.LittleEndian
	if len(p) < 512 || le.Uint16(p[510:]) != 0xAA55 {
		return nil, fsys.ErrOther
	}
	g := &geometry{sector: int64(le.Uint16(p[11:]))}
	perCluster, reserved, copies := int64(p[13]), int64(le.Uint16(p[14:])), int(p[16])
	rootEntries, media := int64(le.Uint16(p[17:])), p[21]
	if g.sector < 512 || g.sector > 4096 || g.sector&(g.sector-1) != 0 || perCluster == 0 || perCluster&(perCluster-1) != 0 ||
		reserved == 0 || copies < 1 || copies > 2 || media != 0xF0 && media < 0xF8 {
		return nil, fsys.ErrOther
	}
	g.cluster = perCluster * g.sector
	total, perTable := int64(le.Uint16(p[19:])), int64(le.Uint16(p[22:]))
	if total == 0 {
		total = int64(le.Uint32(p[32:]))
	}
	wide := perTable == 0 // FAT32 has its length elsewhere
	if wide {
		perTable = int64(le.Uint32(p[36:]))
	}
	if total == 0 || perTable == 0 {
		return nil, fsys.ErrOther
	}
	g.size, g.table = total*g.sector, perTable*g.sector
	g.root = (reserved + int64(copies)*perTable) * g.sector
	g.rootLen = (rootEntries*32 + g.sector - 1) / g.sector * g.sector
	if g.data = g.root + g.rootLen; g.data >= g.size {
		return nil, bad("its tables take more than the volume")
	}
	clusters := (g.size - g.data) / g.cluster
	if clusters < 1 || clusters > most32 {
		return nil, bad("%d clusters", clusters)
	}
	g.clusters = uint32(clusters)
	switch {
	case wide:
		g.kind = fat32 // as drivers do; those with few clusters are made on purpose only
	case clusters < below16:
		g.kind = fat12
	case clusters < below32:
		g.kind = fat16
	default:
		return nil, bad("%d clusters, and no table for so many", clusters)
	}
	if need := (int64(g.clusters) + 2) * int64(g.kind) / 8; need > g.table {
		return nil, bad("the table is too short for %d clusters", clusters)
	}
	if wide && rootEntries != 0 || !wide && rootEntries == 0 {
		return nil, bad("a root folder of %d entries", rootEntries)
	}
	for i := range copies {
		g.tables = append(g.tables, (reserved+int64(i)*perTable)*g.sector)
	}
	return g, g.extended(p)
}

// extended reads what lies at another place in FAT32.
func (g *geometry) extended(p []byte) error {
	le, at := binary.LittleEndian, 36
	if g.kind == fat32 {
		at = 64
		flags := le.Uint16(p[40:])
		if flags&0x80 != 0 { // one table is in use, and the other is stale
			active := int(flags & 0x0F)
			if active >= len(g.tables) {
				return bad("table %d is the one in use", active)
			}
			g.tables = g.tables[active : active+1]
		}
		if version := le.Uint16(p[42:]); version != 0 {
			return bad("version %#x", version)
		}
		if g.rootCluster = le.Uint32(p[44:]); g.rootCluster < 2 || g.rootCluster-2 >= g.clusters {
			return bad("the root folder is at cluster %d", g.rootCluster)
		}
	}
	g.dirty = p[at+1]&3 != 0
	if p[at+2] == 0x28 || p[at+2] == 0x29 {
		g.serial = le.Uint32(p[at+3:])
	}
	if p[at+2] == 0x29 {
		g.label = strings.TrimRight(decodeOEM(p[at+7:at+18]), " ")
	}
	return nil
}

// where is a cluster's place on the volume.
func (g *geometry) where(cluster uint32) int64 { return g.data + int64(cluster-2)*g.cluster }

// valid reports whether a cluster has a place.
func (g *geometry) valid(cluster uint32) bool { return cluster >= 2 && cluster-2 < g.clusters }
