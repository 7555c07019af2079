package exclude

import "time"

// Report tells what was found on the disks of a machine and what need not be stored of it.
type Report struct {
	Volumes []Volume
	// Notes are what a person may want to know: a glob that fits nothing, a damaged backup of a partition table.
	Notes []string
	Took  time.Duration
}

// Volume is one volume as it was found. Sizes are bytes.
type Volume struct {
	Name  string // "disk0:1", "vg0/root": see package layout
	Kind  string // "ext4", "swap", "LUKS" …; empty where nothing is known
	Label string // of what is on it, else that of the partition
	UUID  string
	Size  int64
	Parts []Part // where it lies; of a volume in very many parts the first ones

	Free     int64 // need not be stored: free space
	Swap     int64 // need not be stored: swap partitions and files, without their first pages
	Excluded int64 // need not be stored: files that a glob fits
	Files    int64 // how many files that is
	Replayed int64 // how much of the file system's log was put into its place to know this

	// Whole says in words why all of the volume is stored; empty: its free space, swap and files could be judged.
	Whole string
	// Caution: it is stored whole although it is of a kind that could be looked into.
	Caution bool
}

// Part is where a part of a volume lies on a disk, in bytes.
type Part struct {
	Disk   string
	Offset int64
	Length int64
}

// maxParts bounds how many parts of a volume are reported.
const maxParts = 64
