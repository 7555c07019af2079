// Package kvmtest boots a real Linux guest under a real QEMU, for tests.
//
// Reach for it to test what talks to QEMU or to a guest agent. The guests are made from Debian packages: the cloud
// kernel, the stock qemu-guest-agent, and as everything else one Go program of this package, which is their init and
// does what tests ask for ([Guest.Fx]).
//
// # Three guests
//
// [Fixture] is the small one: all of it is in memory but one ext4 file system, on which it writes numbered records. It
// takes any disks.
//
// [Server] is what is worth a backup: an ext4 root on a disk with a swap area, XFS on a second one, SQLite and PostgreSQL
// of Debian. It writes four ledgers, two files and two databases, on both file systems. A record is acknowledged when it
// is durable, and holds the sum of the one before it, so that no record can be missing without all that follow being
// wrong. Beside them a meter for each file system asks for the right to write every few milliseconds, which a frozen one
// denies. So the server can say of a freeze, by its own clock, how long it was, and which records a snapshot that was
// taken in it must hold ("moment"): all that were acknowledged before, none that was begun after; mostly that leaves one
// number or two. Booted quietly from a restored disk it says which records there are ("check").
//
// [LVM] is a system as an installer lays it out: GPT, /boot, and in a volume group the root, data on XFS, and swap space;
// beside it a swap file. It is a server without databases. Its disk is made in a guest, so that no device mapper is
// needed here.
//
// # What it needs
//
// Linux on amd64 with qemu-system-x86_64, apt-get, dpkg-deb, mke2fs and a Go toolchain; the server also mkfs.xfs, mkswap,
// tar and qemu-img, and [LVM] the last two. None needs root, a mount or a loop device. Where something is missing, [Build],
// [BuildServer] and [BuildLVM] return an [UnavailableError] that names it, for a test to skip with. What was built is kept
// in $HIKAE_FIXTURE_DIR/hikae-fixture, or in the user's cache folder: 90 MB, for the server 140 MB and for LVM 120 MB more.
// The first build downloads 27 MB, and 100 MB and 20 MB; each takes half a minute, most of it for the first boot.
//
// # Emulation
//
// The guest runs on TCG, always. That /dev/kvm is there does not say that a guest kernel runs on it: nested in some
// cloud machines it hangs. Emulated it answers after 4 to 6 seconds on an idle machine.
package kvmtest
