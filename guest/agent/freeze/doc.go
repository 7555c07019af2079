// Package freeze stops a Linux guest's file systems from changing, and sees to it that they change again.
//
// # Which
//
// Every file system on a block device that is mounted and can be written to, once, however often it is mounted. What
// freezing would not serve or would harm is left out with a reason: network and FUSE file systems, which would wait for
// programs that stand still; overlays, whose layers lie on others; what is in memory; ZFS, which does not freeze and whose
// state on disk is always whole. What is mounted in another mount namespace alone is named, and goes on.
//
// # In which order
//
// Deepest mounts first, and a file system that lies in a file (a loop device) before the one that the file lies on: frozen
// the other way round, its last writes would wait for a thaw that comes after them.
//
// # Who thaws
//
// A freeze belongs to nobody in the kernel: it outlives the process that asked for it, and a guest whose root is frozen
// cannot start the program that would thaw it. So there is a second process, the watchdog. It has every file system's
// descriptor and its memory locked before the first one is frozen. It thaws when the hold is over, when the first process
// is gone, and goes on doing so until it is told that nothing can be frozen any more: a freeze that hangs in the kernel may
// succeed long after it was given up. If the watchdog dies, the first process thaws.
//
//	agent                          watchdog
//	scripts; open, sync
//	start                    →     lock memory
//	                         ←     "armed"; the hold begins
//	applications hold
//	freeze, freeze, …
//	… a snapshot is taken …
//	thaw, thaw, …
//	"release"                →
//	                         ←     "held" or "late"
package freeze
