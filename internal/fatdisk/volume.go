package fatdisk

import (
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	sector      = 512
	partition   = 1 << 20 // where the partition starts: aligned for every disk
	reserved    = 1       // sectors before the first FAT
	copies      = 2       // of the FAT
	rootEntries = 512
	mediaFixed  = 0xF8
	typeFAT16   = 0x0E // FAT16, addressed by sector number

	// FAT16 is what has this many clusters; the specification advises to stay away from the borders.
	minClusters = 4085 + 16
	maxClusters = 65525 - 16
)

// volume is where things are. Offsets are bytes from the start of the disk.
type volume struct {
	start      int64 // of the partition
	sectors    uint32
	perCluster uint8 // sectors
	fatSectors uint16
	clusters   int
}

// plan chooses the smallest cluster with which a disk of size bytes is FAT16.
func plan(size int64) (volume, error) {
	if size < MinSize || size > MaxSize {
		return volume{}, fmt.Errorf("size %d is outside %d to %d", size, MinSize, MaxSize)
	}
	// The partition ends on a MiB, so that its length is whole tracks, as mtools wants it.
	v := volume{start: partition, sectors: uint32((size - partition) >> 20 << 20 / sector)}
	for v.perCluster = 1; v.perCluster <= 64; v.perCluster *= 2 {
		v.fatSectors = fatSectors(v.sectors, v.perCluster)
		v.clusters = v.countClusters()
		if v.clusters <= maxClusters {
			break
		}
	}
	if v.clusters < minClusters || v.clusters > maxClusters {
		return volume{}, fmt.Errorf("size %d gives %d clusters: not FAT16", size, v.clusters)
	}
	return v, nil
}

// fatSectors is the specification's computation; it may give a few sectors more than are needed.
func fatSectors(sectors uint32, perCluster uint8) uint16 {
	data := sectors - reserved - rootEntries*entrySize/sector
	perFAT := uint32(256)*uint32(perCluster) + copies
	return uint16((data + perFAT - 1) / perFAT)
}

func (v volume) countClusters() int {
	overhead := reserved + copies*uint32(v.fatSectors) + rootEntries*entrySize/sector
	return int((v.sectors - overhead) / uint32(v.perCluster))
}

func (v volume) fatOff(copy int) int64 {
	return v.start + (reserved+int64(copy)*int64(v.fatSectors))*sector
}
func (v volume) rootOff() int64     { return v.fatOff(copies) }
func (v volume) clusterSize() int64 { return int64(v.perCluster) * sector }
func (v volume) clusterOff(c uint16) int64 {
	return v.rootOff() + rootEntries*entrySize + int64(c-firstCluster)*v.clusterSize()
}

// partitionTable is the master boot record: one partition, no boot code.
func (v volume) partitionTable() []byte {
	p := make([]byte, sector)
	binary.LittleEndian.PutUint32(p[440:], 0x48494B41) // the disk's signature
	e := p[446:]
	e[1], e[2], e[3] = 0xFE, 0xFF, 0xFF // heads and cylinders are given up: see the sector numbers
	e[4] = typeFAT16
	e[5], e[6], e[7] = 0xFE, 0xFF, 0xFF
	binary.LittleEndian.PutUint32(e[8:], uint32(v.start/sector))
	binary.LittleEndian.PutUint32(e[12:], v.sectors)
	p[510], p[511] = 0x55, 0xAA
	return p
}

func (v volume) bootSector(label [11]byte, serial uint32) []byte {
	p := make([]byte, sector)
	le := binary.LittleEndian
	copy(p, []byte{0xEB, 0x3C, 0x90}) // jump over the table
	copy(p[3:], "HIKAE   ")
	le.PutUint16(p[11:], sector)
	p[13] = v.perCluster
	le.PutUint16(p[14:], reserved)
	p[16] = copies
	le.PutUint16(p[17:], rootEntries)
	if v.sectors < 1<<16 {
		le.PutUint16(p[19:], uint16(v.sectors))
	} else {
		le.PutUint32(p[32:], v.sectors)
	}
	p[21] = mediaFixed
	le.PutUint16(p[22:], v.fatSectors)
	le.PutUint16(p[24:], 32) // sectors in a track
	le.PutUint16(p[26:], 64) // heads
	le.PutUint32(p[28:], uint32(v.start/sector))
	p[36] = 0x80 // first fixed disk
	p[38] = 0x29 // serial, label and type follow
	le.PutUint32(p[39:], serial)
	copy(p[43:], label[:])
	copy(p[54:], "FAT16   ")
	copy(p[62:], []byte{0xCD, 0x18, 0xF4, 0xEB, 0xFD}) // not bootable: ask the firmware for the next device, else halt
	p[510], p[511] = 0x55, 0xAA
	return p
}

var errForeign = errors.New("not a disk of this package's making")

// load reads the partition table, the boot sector and the FAT.
func (d *Disk) load() error {
	info, err := d.f.Stat()
	if err != nil {
		return err
	}
	if d.vol, err = plan(info.Size()); err != nil {
		return err
	}
	mbr, boot := make([]byte, sector), make([]byte, sector)
	if _, err := d.f.ReadAt(mbr, 0); err != nil {
		return err
	}
	if _, err := d.f.ReadAt(boot, d.vol.start); err != nil {
		return err
	}
	le := binary.LittleEndian
	if string(mbr[446:510]) != string(d.vol.partitionTable()[446:510]) || string(boot[3:11]) != "HIKAE   " ||
		boot[13] != d.vol.perCluster || le.Uint16(boot[22:]) != d.vol.fatSectors {
		return errForeign
	}
	fat := make([]byte, int(d.vol.fatSectors)*sector)
	if _, err := d.f.ReadAt(fat, d.vol.fatOff(0)); err != nil {
		return err
	}
	d.table = make([]uint16, d.vol.clusters+2)
	for i := range d.table {
		d.table[i] = le.Uint16(fat[2*i:])
	}
	return nil
}
