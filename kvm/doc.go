// Package kvm backs up the virtual machines of QEMU/KVM while they run: by QEMU's own monitor, dirty bitmaps and NBD
// server, and by the guest agent where the guest has one. Nothing is installed in the guest or on the host.
//
// Reach for it where a QEMU process can be talked to: its monitor (QMP) at a unix socket, and for consistent file
// systems the guest agent's socket; or where libvirt owns it ([Host], [Domain]). [Provider] is a
// [hikae.SnapshotProvider] and a [hikae.Sweeper], [Guest] a [hikae.GuestChannel], [Restorer] a
// [hikae.Restorer]. A machine that is off is read from its images, where [Machine].Disks names them.
//
// # A snapshot
//
//	guest ──► device ──► filter ──────────────► disk        before: device ──► disk
//	                       │ old data, before
//	                       ▼ it is overwritten
//	                     fleecing image
//	                       ▲
//	reader ◄── NBD ◄── access node: fleecing image where it has data, else the disk
//
// The moment is when the filters come between devices and disks: first a new bitmap is added to every disk, then the
// guest agent freezes file systems, the filters are inserted, and the guest is thawed. With several disks QEMU is
// stopped for the milliseconds of the insertion, so that it is one moment for all of them. Then the base's bitmap is
// copied, and the copy is what says what changed.
//
// So the base's bitmap records without a pause until Commit removes it. Whatever happens to us or to the repository
// before, the base is whole; the new bitmap and the copy hold a little more than they must, which is always right.
//
// A guest agent never thaws by itself. So thawing is repeated until the guest confirms it; and where there is a [Guard],
// it freezes and thaws in a process of its own, so that the guest is thawed also where ours dies in between, or stands
// still: then after 8 s, and the snapshot does not call itself consistent.
//
// # A full fleecing image
//
// It is bounded ([Options].FleeceBytes). When it is full the guest goes on and the snapshot breaks: reads fail from then
// on, and the backup with them. That is why this is a filter with on-cbw-error=break-snapshot rather than a backup job,
// which until QEMU 10.1 stops the guest instead.
//
// QEMU before 7.1 has no such filter. There it is backup jobs, and a watch of ours that ends them while there is room. It
// holds the monitor for as long as disks are read; and the [Guard] stands by for as long, to do it where we die. QEMU must
// be 4.2 at least.
//
// # By way of libvirt
//
// libvirt hands commands to the monitor, one at a time and without events. So several disks do not change over in one
// message while QEMU stands still, but by one command:
//
//	device ──► gate ──► disk        before
//	device ──► gate ──► filter ──► disk        blockdev-reopen turns all gates at once, with all of them drained
//
// Files are made in the folder that libvirt gave the domain's QEMU, and nothing else there is touched.
//
// # Migration
//
// A VM that moves takes its disks along, so a snapshot ends with the move ([ErrMigrated]), and none is begun while one is
// under way ([ErrMigrating]). Bitmaps of qcow2 images move along where both sides open the same file.
//
// # What can be running beside it
//
//	another session on the same VM     refused: it sees our nodes, or the NBD server taken ([hikae.BusyError])
//	another client of the monitor      waits, or makes us wait: the monitor is held for seconds at either end, not
//	                                   while disks are read
//	bitmaps, jobs, exports of others   untouched: ours have a prefix and the session's random name
//
// # Whoever reads must read
//
// QEMU waits for the answers that a reader of an export does not take whenever it drains that disk: to stop the machine, to
// reset its device, to end its NBD server. A program that was stopped in the middle of reading (SIGSTOP, a frozen cgroup)
// so holds up QEMU's main loop, every monitor and in the end the guest, until it goes on or ends (measured with QEMU 7.2).
// A session that finds such a reader on its way out drains nothing and says who it is ([hikae.BusyError]); one that comes
// to a QEMU that stands still already is told so within [Options].DialTimeout ([ErrSilent]).
//
// # Threads
//
// QEMU before 9.0 aborts, and the guest with it, when an NBD client leaves an export of a disk that has an iothread of its
// own or of its controller (seen with 7.2.22). Such disks are skipped there, with a warning.
//
// # Disks
//
// A disk's key is the serial number that its device shows to the guest, else the device's id, else the name of its
// block node; of these the first that is set, plain and no other disk's. A serial is chosen by people and stays when a
// disk moves to another slot or controller; a device id is chosen by people or by management; a node name often is
// chosen by QEMU itself, and such names are not taken.
//
// Bitmaps of qcow2 disks survive the end of QEMU, others do not: then the next backup reads the whole disk, and the one
// after it is incremental again.
package kvm
