// Package ext reads ext2, ext3 and ext4 from the outside: what of a volume is free, and what its files are. Nothing is
// mounted and nothing is written.
//
// # When to reach for it
//
// [Open] takes a volume (a partition, a logical volume, an image of one) and answers [fsys.ErrOther] where it holds
// something else. What it returns is a [fsys.FileSystem].
//
// # What it knows
//
// Blocks of 1 to 64 KiB, both kinds of block maps (extents of any depth and the classic indirect blocks), linear and hashed
// directories (a hashed one is read block by block, its index looks like empty entries), data inside inodes, clusters
// (bigalloc), groups without bitmaps (uninit_bg), flexible and meta groups, all checksums of metadata_csum. A feature that
// changes the format and that it does not know is an error that wraps errors.ErrUnsupported; one that only concerns
// writers, and so the bitmaps, is a doubt. Names in encrypted directories are shown in base64 of the bytes that are stored,
// and the content of encrypted files cannot be read; their blocks are told from free ones all the same.
//
// # The log
//
//	sb.start ──► descriptor │ block │ block │ revoke │ commit   descriptor │ block │ …   (nothing of this number)
//	             └──────────── transaction n ──────────────┘    └── n+1 ──┘  not committed: as if it were not there
//
// A file system that is mounted has its last transactions in the log only. Open replays it as the kernel would, but in
// memory: it keeps for each block that the log has written last where in the log that copy lies (16 bytes a block), and
// reads those blocks from there. A log with fast commits that are pending is not replayed, and an external log is not
// found: both are doubts.
//
// Without a log (ext2) nothing tells in which order a crash or a live snapshot left things, so a volume that was not
// cleanly unmounted is a doubt.
//
// # What is believed
//
// The bitmaps are, where the checksums of superblock, group descriptor and bitmap are right, the number of free clusters in the
// descriptor agrees, and everything that must be in use whatever the bitmaps say (superblocks, descriptors and the room
// for more, bitmaps, inode tables, the log) is in use there. And no file may have a block that they call free: before its
// first answer [FS.Free] reads all inodes in use with their maps, those that have a name and those that a list of deleted but
// open files names, and the bitmaps of inodes must agree with them. What is free is in memory for that, a bit for a cluster
// and 64 MiB at most; a volume that has more is checked part by part. Otherwise there is a [fsys.CorruptError] with the
// place, and from then on a doubt.
//
// # Source
//
// The layout is that of the Linux kernel's own documentation, Documentation/filesystems/ext4 ("ext4 Data Structures and
// Algorithms"); where it is silent the behaviour of mke2fs, e2fsck and the kernel's driver on the tests' images decides.
package ext
