// Package ntfs reads NTFS volumes: which clusters are free, and what their files are.
//
// [Open] answers as [fsys.FileSystem] has it; [OpenWith] takes [Options]. Nothing is written, nothing is mounted, and
// no field of the volume is believed before it was held against the volume's size.
//
// # The volume
//
//	boot sector │ … │ file table ($MFT) │ … │ bitmap ($Bitmap) │ log ($LogFile) │ files … │ backup of the boot sector
//	file record    1 or 4 KiB: header, attributes; the last two bytes of each 512 show a torn write
//	attribute      its value, or a run list: number of clusters, distance from the run before; without one a hole
//	directory      an index of file names: a root in the record, and blocks in a stream of their own
//
// A file whose attributes do not fit into one record has more of them, which an attribute list names; so has the file
// table itself. Read are sectors of 512 bytes to 4 KiB, clusters of 512 bytes to 2 MiB, versions 1.2 to 3.1, sparse
// files, files that NTFS compressed (LZNT1), symbolic links, junctions, and the links of the Linux subsystem and of
// Interix. Names for DOS alone are hidden, and so are the file system's own files and second streams of files, whose
// clusters are in use like all others.
//
// Not read is content that somebody above NTFS packed away: compact.exe /exe (WOF), Data Deduplication, files that are
// in a cloud, EFS. Their names and sizes are shown; reading them is a [*ContentError], and Runs is Packed, except for
// EFS, whose clusters are the file's own. A FIFO or a socket that ntfs-3g made looks like an empty system file, and is
// shown as that.
//
// # What is free
//
// A cluster is free if the bitmap says so before and after the log, and if no file has it: before its first answer
// [fsys.FileSystem.Free] reads the whole file table, as chkdsk would, and one cluster that a file has and the bitmap
// gives away is a [*fsys.CorruptError] and a doubt from then on. The boot sectors and what lies behind the last whole
// cluster are never free.
//
// These make a volume doubtful, so that all of it is kept: the dirty flag, flags or a version that are not known, a
// check under way, the first file records unlike their copy, the boot sector unlike its backup, a file record in use
// with a torn write, shadow copies that outlive a restart, and a log that may hold something. A volume on which Windows
// sleeps, which includes one that was shut down for a fast start, is both Hibernated and doubtful: a page of
// hiberfil.sys that is not zero is enough.
//
// # The log
//
// A volume in use has a log of changes that may not be in their places. It is replayed in memory as Windows would:
// the tables of the last checkpoint are brought up to the end, what may be missing is redone, and transactions that
// did not come to an end are undone. Each operation must fit its target, and each record that it leaves must hold
// together. Versions 1.1 and 2.0 of the log and the tables of 64-bit Windows are known.
//
//   - Where that changes nothing, everything was in its place: the volume counts as clean. So it is after a flush for a
//     snapshot (VSS).
//   - Where it changes something the volume is doubtful by default and shown as it lies there. This replay is written
//     from what is published about the log and tested with logs that were written from the same descriptions; it has
//     never met one that Windows wrote. [Options.TrustLog] lets it count.
//   - Where anything is not understood the volume is doubtful, trusted or not.
//
// # Why not a library
//
// www.velocidex.com/golang/go-ntfs reads files for forensics: it shows what it can of damaged volumes, where this
// package must refuse to answer, and has neither the bitmap's view nor the log's.
package ntfs
