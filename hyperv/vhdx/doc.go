// Package vhdx reads and writes the disk files of Hyper-V, VHDX and the older VHD, in pure Go on any system.
//
// Reach for [Open] to read a disk with the chain of parents below it, for [Create] or [CreateVHD] to make a new file
// that appears whole or not at all, for [OpenDisk] to write into a VHDX file that exists, and for [Format] and
// [VHDFormat] to have them in a table of formats. The same for files that lie elsewhere, on a Hyper-V host, a share or in a
// shadow copy, by their Windows paths: [OpenIn], [CreateOn] and [OpenDiskIn], over [Files] and [File]. [Inspect] and [InspectIn]
// tell what one file says of itself.
//
// # VHDX
//
//	0          identifier │ header │ header │ regions │ regions      1 MiB, never moved
//	1 MiB      log                  4 KiB sectors in a ring, each entry with its own checksum
//	…          metadata             block size, disk size, sector size, parent locator
//	…          block allocation     8 bytes a block: a state, and where in the file, in MiB
//	…          blocks, each 1 to 256 MiB, and in a differencing file bitmaps that say which sectors it holds itself
//
// Of the two headers the one with a good checksum and the higher sequence number counts. Where it names a log, what the
// log holds replaces what the file holds; that is done in memory, and a file that is read is never written to. The
// layout and the words are those of [MS-VHDX].
//
// # VHD
//
// A footer of 512 bytes at the end, and a copy of it in front of a dynamic or differencing file. Numbers are big-endian.
//
// # Parents
//
// A differencing file names its parent by several paths, most of them of a machine that is not this one. They are all
// looked for below one folder, [Options.Folder], and never outside of it; those of a disk elsewhere where its paths say, as far
// as its [Files] let them be reached. What decides is not the name but the identity
// that the child was made on. A parent that is not there, or has been written to since, is a [ParentError]: what it
// should have given is never read as zeros.
//
// # Crashes
//
// Changes to the allocation tables go through the file's log: the log first, then the header that names it, then the
// tables. A file whose writer died at any write opens with everything that Flush had made durable.
//
// # Bad files
//
// A file may have been made to deceive. What it says is checked against the file before it is used, tables are read
// page by page into a cache that [Options.CacheBytes] bounds, a log is taken up to 8 MiB, and what does not hold
// together is a [CorruptError].
//
// [MS-VHDX]: https://learn.microsoft.com/openspecs/windows_protocols/ms-vhdx
package vhdx
