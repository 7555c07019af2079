// Package diskvm makes a virtual machine out of disk image files, for backup and restore without a hypervisor.
//
// Reach for it when the machine is off, or was copied, or when its files are all there is. A [Provider] is a
// hikae.SnapshotProvider with one VM; a [Restorer] writes disks into a folder or a file.
//
// # Which disk is which
//
// A disk's key is its identity across runs, whatever the file's name or format: KEY=FILE gives it, else it is disk0,
// disk1 … by position. See [ParseFiles].
//
// # One moment
//
// Files are not pinned by anything: it is the caller's word that nobody writes to them. The provider checks that word
// as far as it can. A file that QEMU has open for writing is refused ([LiveError]) unless forced, and then the
// consistency is unknown. A file that changes while it is read is an error of Prepare, so that no point is made of it.
//
// # What changed
//
// Files are not tracked. Who knows from elsewhere what changed since the base point passes it as a list of ranges for
// each disk ([ParseRanges]); it is believed. A disk without a list is read and compared.
package diskvm
