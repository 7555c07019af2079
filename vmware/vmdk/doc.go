// Package vmdk reads and writes VMware's disk files in pure Go.
//
// Reach for [Open] to read a disk with its extents and the disks that it stands on, for [OpenIn] where the files lie
// elsewhere than in a folder of this machine, for [Create] to write one, for [WriteStream] and [ReadStream] where a disk
// comes or goes in one pass, and for [Format] to have it in a table of formats.
//
// # The format
//
//	descriptor   text: content id, id of the parent's content, one line for each extent, the disk data base
//	extents      flat (the disk's bytes), zero, or sparse in one of three forms:
//
//	hosted       header │ descriptor │ directory, tables, twice │ grains         KDMV    Workstation, exports
//	  stream     header │ descriptor │ marker, compressed grain │ … │ footer     KDMV    streamOptimized
//	COWD         header │ directory │ tables and grains as they come             COWD    ESXi, vmfsSparse
//	SESparse     headers │ journal │ directory │ tables │ … │ grains             cafebabe  ESXi, seSparse
//
// A byte of the disk is found by its extent, a directory entry, a table entry, and then in a grain; or it reads as zero;
// or it is as in the parent. A descriptor may stand in the one extent of its disk.
//
// # Chains
//
// A delta remembers the content id that its parent had. A parent that is missing, or has another id by now, is an error:
// never zeros, and never what it holds now. Each file is opened in the folder of the disk that the user named, or below
// one that [Options] allows; what leads out of it, a device included, is a [ReferenceError].
//
// # Bad files
//
// Files may have been made to deceive. Everything that they say is checked against their length before it is used,
// memory is bounded by [Options.CacheBytes], by 1 MiB for each descriptor and by one grain for each reader, and what
// does not hold together is a [CorruptError]. Where a directory entry leads out of the file and there is a copy of the
// directory, the copy is used. A SESparse extent whose journal was not replayed is refused.
//
// # Where qemu-img 7.2 differs
//
//   - It passes over extents that are RDONLY, NOACCESS or of type ZERO, so that what follows moves to another place. Here
//     a RDONLY or ZERO extent is read as what it is, and reading a NOACCESS one is an error.
//   - Where an extent that is not the last ends within a grain, it reads on in the grain instead of in the next extent.
//   - It takes a flat extent that is too short as if zeros followed. Here that is a [CorruptError].
//   - It does not look at the sector that a compressed grain says it is of.
//   - It does not use the copy of the directory, and takes a hosted disk of no bytes for a descriptor.
//   - It opens a sparse, COWD or SESparse extent without its descriptor; here that is refused, because what the extent
//     does not hold is in a parent that only the descriptor names.
//
// # Why not a library
//
// The stream writer of github.com/vmware/govmomi v0.56.0 writes table entries of 64 bits, does not align grains and
// drops a short last one. github.com/masahiro331/go-vmdk-parser does not read what qemu-img writes as a stream, knows
// no flat extents and no parents.
package vmdk
