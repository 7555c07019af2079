// Package exclude finds what of the disks of a virtual machine need not be stored: swap space, files that a user leaves
// out, and free space of file systems. It looks at the disks from outside, at one pinned moment, mounts nothing and
// writes nothing.
//
//	plan, err := exclude.Analyse(ctx, disks, &exclude.Options{Swap: true, Free: true, Files: []string{"**/tmp/**"}})
//	…
//	stats, err := pipe.Copy(ctx, target, plan.Image("disk0", img), nil)
//
// All disks of a machine are looked at together, because a volume may lie on several, and because a system that sleeps on
// one of them wakes up with all.
//
//	disks ──► layout: partitions, logical volumes ──► signature ──► swap ────────────────┐
//	                                                           └──► file system: free,   ├──► extents ──► Plan
//	                                                                swap files, globs ───┘
//
// # What is never left out
//
// Directories, metadata, logs, the first page of swap space, everything outside of volumes (partition tables, boot
// loaders, gaps), and every block that is in use by anything that was not named. A block of the target is dropped only
// when all of it may be (see [pipe.Copy]); one that is partly droppable is stored as it is.
//
// # When in doubt, whole
//
// A volume is stored whole, with the reason in [Plan.Report], where a reader of its file system doubts it, where two
// signatures or two volumes claim it, where it is not known, or where the time was up. If a system sleeps on any volume
// (hibernation, the fast start of Windows), all volumes are stored whole: it wakes up with what it remembers of them. What
// lies in an encrypted volume is not seen, a sleeping system in it neither.
//
// # Bounds
//
// A guest makes its disks as it likes, and may be hostile. Analysing takes at most [Options.Deadline], and memory of about
// 128 MiB for one volume at a time beside the plan, which itself is bounded; what does not fit is stored.
package exclude
