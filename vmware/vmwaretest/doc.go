// Package vmwaretest is a vSphere to test backup software against: a server with virtual machines whose disks have content.
//
// Reach for it to run a whole cycle — snapshot, changed blocks, copy, removal, consolidation — without a host. [Start] makes a
// server on a loopback address; [Server.VM] and [VM.Disk] are the guests' side of it, by which a test writes to disks, turns
// machines on and off, and breaks things; everything else goes over the wire, as to a real one.
//
//	your code ── SOAP, HTTPS, network disk service ──┐
//	                                                 ▼
//	 dispatch     privileges, licence, disabled methods, faults
//	 calls        what this package does better than the simulator below it
//	 VM, Disk     chains of real disk files, snapshots, change tracking
//	 simulator    govmomi's: inventory, properties, sessions, events
//
// # What is real
//
// A disk is a descriptor with a flat file. A snapshot leaves that as it is and gives the disk a delta, a SESparse file or one
// of the older form (COWD), with content ids that fit; vmware/vmdk and qemu-img open every chain. Removing a snapshot writes
// deltas into what they stand on; reverting throws the running delta away. Change tracking begins with a stun, knows
// generations ("UUID/N"), answers in pages and in units of 64 KiB, and fails as real ones were seen to fail.
//
// # How it differs from a real host
//
// It was made from documents and reports, without a host beside it. Known differences:
//
//   - Nothing is ever slow by itself. Stuns are computed by a model and recorded, not suffered; tasks take no time unless
//     [Fault.Delay] says so.
//   - A write of the guest is durable at once. What a quiesced snapshot has more than another is what [VM.OnQuiesce] writes.
//   - The first snapshot after tracking was enabled has no change id, as tracking begins with its stun. Some hosts are said to
//     give one.
//   - After a revert the tracker counts on from the generation of the snapshot, so that ids taken later seem to be known and
//     give too little: the worst of what was reported. [VM.RevertBreaksTracking] makes it refuse instead.
//   - Files of a datastore are ordinary files, not locked against other programs on this machine. Disks opened by
//     [Server.OpenDisk] do block a merge, which then leaves a disk that needs consolidation.
//   - Memory snapshots are noted, without a memory file. A disk that [Disk.SetEncrypted] made one lies in the clear on this machine;
//     it is what a datastore's files show by HTTP that is ciphertext.
//   - vMotion and relocation take place at once. A machine that was unregistered here comes back as it was; one that is registered
//     from files of others has no disks, as .vmx files are not read.
//   - VMware Tools run wherever a machine is on; they do nothing but what [VM.SetQuiescing] and [VM.OnQuiesce] say.
//   - Tracking that is enabled over snapshots begins and then tells nothing: the silent loss that was reported of real ones.
//   - Clones are copied, or stand on a snapshot's files, which then are not merged while a clone is there.
//   - A fault that a task shall meet works for calls that are done here; for those of the simulator below, use one of the call.
package vmwaretest
