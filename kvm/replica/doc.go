// Package replica keeps replicas of VMs that start at once: each point is a set of qcow2 images that QEMU opens as they are.
//
// A [Site] is a folder, and a pipe.Backend: a session backs a VM up into it as it would into a repository, with everything
// that a backup has, or copies a repository's points to it. What is special is the end: [Site.Failover] starts the VM from a
// point without copying anything.
//
// # What is in the folder
//
//	hikae-replica.json         who the site is
//	VM/lock, VM/readers        held by who changes something, and by who reads
//	VM/POINT/point.json        the record: without it the folder is no point
//	VM/POINT/DISK.qcow2        what the point has of its own; its backing file is ../POINT/DISK.qcow2 of the point before
//	VM/POINT/DISK.map          what of the disk that is, and the sums of it
//	VM/POINT/blob0 …           the VM's configuration, and whatever else a session keeps
//	VM/state.json, VM/run/     while it is failed over: what runs, and the images that it writes to
//
// A point appears with its record, after everything else is durable. Its files are read-only from then on: only a merge
// writes to one, and the point whose file that is was taken from the list before.
//
// # A replica's life
//
//	         Begin … Commit, Keep
//	             ┌──────┐
//	             ▼      │
//	┌───────────────────┴─┐  Failover   ┌────────────┐
//	│        Ready        │────────────►│ FailedOver │ the VM writes to images over the point
//	└─────────────────────┘◄────────────└────────────┘
//	             ▲            Undo: what it wrote is gone
//	             └────────── Seal: what it wrote is the newest point
//
// While it is failed over it takes no points, and [Site.Resume] starts the VM again where its host was started anew. The
// state is durable before anything runs, and outlives every process.
//
// # What may run beside what
//
//	               read   write   Keep    Failover   Undo, Seal   Remove
//	read           yes    yes     busy    yes        yes          busy
//	write          yes    busy    busy    busy       busy         busy
//	a merge        waits  busy    busy    busy       busy         busy
//	failed over    yes    refused refused refused    when it is off  refused
//
// Busy is a *hikae.BusyError that names the owner, refused a [*StateError]. Locks die with their process: what one that was
// killed left is taken up by the next that comes, and by [Open].
//
// # What is stored is known by sums
//
// Each cluster of 64 KiB has a sum in the map beside its file, and what reads a point through a site compares it: rot is a
// [*DamagedError], and never handed on, to a session that builds on the point above all. QEMU knows no sums, so a failover
// looks at the files' structure, and with FailoverOptions.Deep at all that is stored. Sums find accidents. They are no
// protection against who may write to the folder.
//
// # Limits
//
// A disk has at most 64 TiB, a point 256 disks, and at most some 60 points stand on each other: [Site.Keep] merges the oldest.
// Writing a disk takes 16 bytes of memory for each 64 KiB that is written, a merge 8 for each 64 KiB of the disk. There is no
// encryption and no compression. Sites are kept on systems with flock(2) only.
package replica
