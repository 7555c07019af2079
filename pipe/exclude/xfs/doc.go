// Package xfs reads XFS from outside the guest: what of a volume is free, and what its files are. It mounts nothing and
// writes nothing.
//
// # What it reads
//
// Version 5 (with checksums) with and without finobt, rmapbt, reflink, inobtcount, bigtime, sparse inodes, nrext64 and
// file types in directories, and version 4. Block sizes 512 bytes to 64 KiB, sectors 512 bytes to 32 KiB, directory blocks
// of several file system blocks. Its source is the published "XFS Algorithms & Data Structures" and the kernel's
// documentation. A volume with a realtime section, with its log on another device, or with a feature that is not known
// here can be doubtful in one thing only, but is in all: Info.Doubt says so and nothing is called free.
//
// # How a volume is laid out
//
//	| AG 0                                             | AG 1 ...
//	| superblock | AGF | AGI | AGFL | trees, inodes, data ... | log (in the middle AG) |
//
// Each allocation group (AG) keeps its own books. The AGF leads to two B+trees of free extents, by block number and by
// length, which must say the same; the AGI leads to the inodes; the AGFL lists blocks that are set aside for the trees to
// grow into, which are not free. The log is a ring of records, each stamped with the cycle of the ring in which it was
// written.
//
// # The log
//
// Changes go to the log first and to their places later, so a volume that was in use when its disk was pinned is only
// right together with its log. [Open] finds the log's head and tail as the kernel does, drops what was torn, and replays
// the rest into an overlay in memory. A frozen file system has such a log too: the freeze leaves one small record, so
// that the next mount looks after files that were unlinked while open.
//
//	both views of one group         what is called free
//	as it lies on the disk    ──┐
//	                            ├── free in both, not touched by the log, not named by an unfinished free
//	as it is after the replay ──┘
//
// The view before the replay is a crash image: a tree may be written in part. There only what can be read counts as free;
// missing parts cost gain. The view after it must be right in every detail that is known here, or the volume is doubtful.
//
// # Files against free space
//
// Before anything is called free, every inode in the trees of inodes is read, with all of its extents and the blocks of
// the trees that these lie in, content and attributes: none of it may be called free. So a volume that was made to hide a
// file's blocks, or was damaged where no checksum tells, is doubtful, also without a tree of owners (rmapbt). Inodes that
// their tree calls free must have no mode, and how many there are must be what the AGI says. What is not looked for are
// whole chunks of inodes that are missing from their tree and from the AGI's count.
//
// A version 4 log is replayed for what the files are; what is free then is doubtful, for that replay could not be held
// against a kernel that still has version 4. An unfinished change of a file's map is not carried out: such a file says so
// instead of showing a state that the guest would never see.
package xfs
