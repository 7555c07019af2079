// Package layout finds the volumes on the disks of a virtual machine, from outside the guest: partitions, logical
// volumes, and disks that are a volume by themselves. Reach for it before a reader of file systems; a [Volume] is a
// [pipe.Image] and tells where on the disks its bytes lie.
//
//	disk0  │ MBR or GPT │ partition 1 │ partition 2 = physical volume of vg0          │
//	disk1  │ physical volume of vg0                                                   │
//	                                    └── vg0/root: linear ──┘  └─ vg0/data: striped over both
//
// # What is read
//
// MBR with logical partitions, GPT (512 and 4096 byte sectors, checksums, backup header), LVM2 with linear and striped
// volumes over any number of disks. Everything else that lies on a disk or in a partition is recognised by its signature
// ([Identify]) and has a name at best: RAID members, encrypted volumes, other volume managers.
//
// # What is doubtful is whole
//
// [Read] never trusts a field. Where two things claim the same bytes, a checksum is wrong, or a structure is of a kind
// that this package does not follow, the volume says so in [Volume.Whole]: nothing may be concluded about its blocks,
// and all of them have to be stored. What belongs to no volume (tables, gaps, unallocated extents of a volume group) is
// in none, and is therefore stored too.
//
// The sector size of a disk decides what the numbers in an MBR mean, and cannot be seen from its content: a disk that has
// sectors of 4096 bytes and an MBR needs [Disk.SectorSize]. A GPT proves its own.
package layout
