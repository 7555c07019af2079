// Package fatdisk makes small disk images that a real machine could mount: a partition table, one FAT16 volume, and
// files in folders. Examples and tests back them up, because a disk with a file system on it shows what a pattern of
// bytes does not: metadata in many places, files that grow, deleted files whose content stays.
//
// # Shape
//
//	0            1 MiB                                              end
//	| MBR |  gap | boot | FAT | FAT | root folder | clusters …       |
//
// Written from Microsoft's FAT specification (version 1.03). What checks it are fsck.fat and mtools.
//
// # What it is not
//
// Names are of the short kind (eight characters, a dot, three), compared without regard to case. One [Disk] belongs to
// one goroutine. Nothing is synced: a sample that is lost is made again.
package fatdisk

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// Sizes that a disk may have, in bytes. Below, there are too few clusters for FAT16; above, clusters would become
// larger than every system reads.
const (
	MinSize = 8 << 20
	MaxSize = 1 << 30
)

// ErrFull says that the volume, or its root folder, has no room left.
var ErrFull = errors.New("the volume is full")

// Options change how a disk is made. Nil and zero fields are good defaults.
type Options struct {
	// Label of the volume, at most eleven characters. Empty: HIKAE.
	Label string
	// Serial is the volume's number. It makes two disks differ that are otherwise the same.
	Serial uint32
	// Time stands in all folder entries, so that a disk can be made again bit for bit. Zero: 2024-01-01.
	Time time.Time
}

// Range is a part of the disk, in bytes.
type Range struct{ Off, Len int64 }

// Disk is an open disk image.
type Disk struct {
	f       *os.File
	vol     volume
	table   []uint16 // the FAT, one entry for each cluster
	stale   map[int]bool
	stamp   time.Time
	next    uint16 // where the search for a free cluster starts
	written []Range
}

// Create makes a raw disk image of size bytes with an empty volume. The file must not exist; it is sparse where the
// system can do that.
func Create(path string, size int64, opts *Options) (*Disk, error) {
	if opts == nil {
		opts = &Options{}
	}
	vol, err := plan(size)
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	d := &Disk{f: f, vol: vol, stamp: opts.Time, table: make([]uint16, vol.clusters+2)}
	if err := d.format(size, opts); err != nil {
		f.Close()
		os.Remove(path)
		return nil, fmt.Errorf("make %s: %w", path, err)
	}
	return d, nil
}

func (d *Disk) format(size int64, opts *Options) error {
	if err := d.f.Truncate(size); err != nil {
		return err
	}
	label, err := label(opts.Label)
	if err != nil {
		return err
	}
	if err := d.write(d.vol.partitionTable(), 0); err != nil {
		return err
	}
	if err := d.write(d.vol.bootSector(label, opts.Serial), d.vol.start); err != nil {
		return err
	}
	if err := d.write(entry{name: label, attr: attrLabel}.encode(d.stamp), d.vol.rootOff()); err != nil {
		return err
	}
	d.next = firstCluster
	d.set(0, 0xFF00|mediaFixed)
	d.set(1, endOfChain)
	return d.flush()
}

// Open opens a disk image that Create made. Anything else is refused.
func Open(path string) (*Disk, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	d := &Disk{f: f, next: firstCluster}
	if err := d.load(); err != nil {
		f.Close()
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return d, nil
}

// SetTime sets the time that stands in folder entries from now on.
func (d *Disk) SetTime(t time.Time) { d.stamp = t }

// Close closes the file. Everything was written before.
func (d *Disk) Close() error { return d.f.Close() }

// Written is what was written to the disk since it was opened: ascending, neighbours joined. It is what changed-block
// tracking would report.
func (d *Disk) Written() []Range {
	slices.SortFunc(d.written, func(a, b Range) int { return int(min(max(a.Off-b.Off, -1), 1)) })
	var out []Range
	for _, r := range d.written {
		if n := len(out); n > 0 && r.Off <= out[n-1].Off+out[n-1].Len {
			out[n-1].Len = max(out[n-1].Len, r.Off+r.Len-out[n-1].Off)
			continue
		}
		out = append(out, r)
	}
	d.written = slices.Clone(out)
	return out
}

func (d *Disk) write(p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	d.written = append(d.written, Range{off, int64(len(p))})
	_, err := d.f.WriteAt(p, off)
	return err
}
