// Package job runs sessions: it takes one virtual machine from its hypervisor to a place where restore points live, and
// back, and says afterwards what happened.
//
// Reach for it when a whole machine is meant, with several disks, a configuration and a snapshot that must be taken
// and given back. To copy one disk, [pipe.Copy] is enough.
//
// # A backup
//
//	plan      which VM, which disks, which base point
//	snapshot  the provider pins one moment of all disks
//	exclude   where asked: what need not be stored is found on all disks together
//	copy      disk by disk, down a ladder: what changed, else what holds data, else everything
//	commit    Prepare hands over the change ids; the point becomes durable, all at once; the old base goes
//	release   always, also after a failure, a panic or a cancelled context, with a deadline of its own
//	report    a [Result], kept by [Sessions]
//
// Anything that fails before the commit leaves no point and the old base whole, so that the next increment is right.
// What fails after it is a warning: the point is there.
//
// A session that dies while it copies leaves an unfinished point, if the copy was long: the next one goes on from it, and reads
// what was not durable and what has changed since. See [BackupOptions].CheckpointEvery.
//
// Each step down the ladder stands in [Result.Fallbacks] with its reason. All rungs give the same point; they differ in
// what has to be read.
//
// # A restore
//
// [Restore] writes the disks of a point through a [hikae.Restorer]: a folder of disk files, or a hypervisor. Nothing is
// visible under its final name before every disk is whole.
//
// # Reports
//
// Package job/report turns a [Record] into text, JSON or a page of HTML.
package job
