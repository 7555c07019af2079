package ntfs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/fsys"
)

var le = binary.LittleEndian

const (
	bootBytes  = 8 << 10 // $Boot: sector 0 and the loader behind it, whatever the size of a cluster
	oem        = "NTFS    "
	minSector  = 256
	maxSector  = 4096
	maxCluster = 2 << 20
	maxRecord  = 64 << 10 // of a file record and of an index block; Windows writes 1 and 4 KiB
)

// geometry is what the boot sector says: the sizes that everything else is measured in, in bytes unless named otherwise.
type geometry struct {
	sector   int64
	cluster  int64
	sectors  int64 // of the volume, without the last one, which holds the backup of the boot sector
	clusters int64 // whole ones
	record   int64 // of a file record
	mft      int64 // cluster of the first file record
	mirror   int64 // cluster of its copy
	serial   uint64
}

// parseBoot reads a boot sector; p has 512 bytes.
func parseBoot(p []byte) (geometry, error) {
	var g geometry
	if string(p[3:11]) != oem {
		return g, fsys.ErrOther
	}
	if p[0x1FE] != 0x55 || p[0x1FF] != 0xAA {
		return g, errors.New("no end mark")
	}
	g.sector = int64(le.Uint16(p[0x0B:]))
	if !powerOfTwo(g.sector, minSector, maxSector) {
		return g, fmt.Errorf("sectors of %d bytes", g.sector)
	}
	g.cluster = g.sector * unsignedShift(p[0x0D])
	if !powerOfTwo(g.cluster, g.sector, maxCluster) {
		return g, fmt.Errorf("clusters of %d bytes", g.cluster)
	}
	g.sectors = int64(le.Uint64(p[0x28:]))
	if g.sectors <= 0 || g.sectors > (1<<62)/g.sector {
		return g, fmt.Errorf("a volume of %d sectors", g.sectors)
	}
	g.clusters = g.sectors / (g.cluster / g.sector)
	g.record = clustersOrShift(p[0x40], g.cluster)
	if !powerOfTwo(g.record, 512, maxRecord) {
		return g, fmt.Errorf("file records of %d bytes", g.record)
	}
	g.mft, g.mirror = int64(le.Uint64(p[0x30:])), int64(le.Uint64(p[0x38:]))
	if g.mft <= 0 || g.mft >= g.clusters || g.mirror < 0 || g.mirror >= g.clusters {
		return g, fmt.Errorf("file table at cluster %d, its copy at %d of %d", g.mft, g.mirror, g.clusters)
	}
	g.serial = le.Uint64(p[0x48:])
	return g, nil
}

// unsignedShift is a number of sectors: as it is up to 128, as the exponent 256-b above, which made room for 2 MiB.
func unsignedShift(b byte) int64 {
	if b <= 0x80 {
		return int64(b)
	}
	if s := 256 - int(b); s < 32 {
		return 1 << s
	}
	return 0
}

// clustersOrShift is a size that is a number of clusters where positive, and 2^-b bytes where negative.
func clustersOrShift(b byte, cluster int64) int64 {
	if s := int8(b); s >= 0 {
		return int64(s) * cluster
	} else if s > -32 {
		return 1 << -s
	}
	return 0
}

func powerOfTwo(n, least, most int64) bool {
	return n >= least && n <= most && bits.OnesCount64(uint64(n)) == 1
}

// openBoot finds the geometry. Doubt says what does not fit together although the volume can be read.
//
// Only sector 0 decides that this is NTFS: the backup at the end outlives a volume that was made anew as something else.
func openBoot(ctx context.Context, vol pipe.Image) (g geometry, doubt string, err error) {
	var first [512]byte
	if _, err := vol.ReadAt(ctx, first[:], 0); err != nil {
		if errors.Is(err, io.EOF) {
			return g, "", fsys.ErrOther
		}
		return g, "", err
	}
	g, err = parseBoot(first[:])
	if errors.Is(err, fsys.ErrOther) {
		return g, "", err
	}
	bad := err
	backup, found, err := findBackup(ctx, vol, g)
	switch {
	case err != nil:
		return g, "", err
	case bad != nil && !found:
		return g, "", &fsys.CorruptError{What: "boot sector", Off: 0, Why: bad.Error()}
	case bad != nil:
		g, doubt = backup, fmt.Sprintf("the boot sector is damaged (%v), its backup was used", bad)
	case found && backup != g:
		doubt = "the boot sector and its backup differ"
	}
	if g.sectors*g.sector > vol.Size() {
		doubt = fmt.Sprintf("the file system has %d bytes, the volume %d", g.sectors*g.sector, vol.Size())
		g.clusters = min(g.clusters, vol.Size()/g.cluster)
		if g.mft >= g.clusters || g.mirror >= g.clusters {
			return g, "", &fsys.CorruptError{What: "boot sector", Off: 0, Why: doubt}
		}
	}
	return g, doubt, nil
}

// findBackup looks for a usable copy of the boot sector behind the last sector, and in the volume's last one.
func findBackup(ctx context.Context, vol pipe.Image, g geometry) (geometry, bool, error) {
	ends := []int64{vol.Size() - 512, vol.Size() - maxSector}
	if g.sector > 0 && g.sectors > 0 {
		ends = append([]int64{g.sectors * g.sector}, ends...)
	}
	for _, off := range ends {
		var p [512]byte
		if off < 512 || off > vol.Size()-512 {
			continue
		}
		if _, err := vol.ReadAt(ctx, p[:], off); err != nil {
			return geometry{}, false, err
		}
		if !bytes.HasSuffix(p[:], []byte{0x55, 0xAA}) {
			continue
		}
		if b, err := parseBoot(p[:]); err == nil {
			return b, true, nil
		}
	}
	return geometry{}, false, nil
}
