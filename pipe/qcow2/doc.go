// Package qcow2 reads and writes QEMU's disk image format, versions 2 and 3, in pure Go.
//
// Reach for [Open] to read an image with its chain of backing files, for [Create] to write one, and for [Format] to
// have both in a table of formats.
//
// # The format
//
//	header │ extensions │ backing file name          first cluster
//	L1 table     one entry for each L2 table         8 bytes an entry
//	L2 table     one entry for each cluster          8 bytes an entry; 16 with subclusters
//	clusters     data, or several compressed ones    512 bytes to 2 MiB
//	counts       how often each cluster is used      not needed for reading
//
// A byte of the disk is found by its L1 entry, its L2 entry, and then in a cluster of the file; or it reads as zero; or
// it is as in the backing file. The specification is docs/interop/qcow2.txt of QEMU.
//
// What is read: backing chains, compressed clusters (zlib, zstd), subclusters (extended L2 entries), external data
// files, zero clusters, internal snapshots, and the names of dirty bitmaps. Encrypted images are refused, and so is
// every incompatible feature that is not known here, by its name.
//
// # Files that an image names
//
// A backing or data file is opened only if it lies in the folder of the image that the user named, or below one that
// [Options] allows. Symbolic links are resolved first. Names with a protocol (json:, nbd: …) are never followed. A
// format that is stated is believed; one that is not is probed, and what was found by probing leads nowhere else,
// because a guest can write into a raw disk what looks like an image.
//
// # Bad images
//
// An image may have been made to deceive. Everything that it says is checked against the file before it is used, memory
// is bounded by [Options.CacheBytes] and 48 MiB of L1 tables for a chain, and what does not hold together is a
// [CorruptError].
//
// # Why not a library
//
// github.com/lima-vm/go-qcow2reader v0.7.0 reads much of this. It opens whatever path an image names, reads tables of
// the size that a header claims, decides errors in chains late, and has neither external data files nor snapshots;
// extended L2 entries are experimental there.
package qcow2
