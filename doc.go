// Package hikae is the vocabulary of agentless, image-level backup of virtual machines: what a VM, a snapshot of it and
// its restore are, whatever the hypervisor.
//
// Reach for this package to write a provider for a hypervisor, or to name what one gives you. To back up a VM, start
// at package job; to copy one disk, at package pipe; to keep points, at package repo.
//
// # The one idea
//
// Copy an image to a target. A live snapshot's disk, a file, a restore point's disk are images; a new point's disk, a
// file, a new VM's disk are targets. Backup, restore, replication and verification change only the two nouns.
//
//	  hypervisor                                                              repository
//	┌────────────┐  Snapshot   ┌─────────┐   pipe.Copy, disk by disk   ┌─────────────┐  Commit  ┌───────┐
//	│     VM     ├────────────►│ Image   ├────────────────────────────►│ Target      ├─────────►│ point │
//	└────────────┘             │ Changed │ read → exclude → fingerprint│ PointWriter │          └───┬───┘
//	      ▲                    └────┬────┘ → deduplicate → compress    └─────────────┘              │
//	      │        Prepare, Commit, │      → write                                                  │
//	      │                 Release │                                                               │
//	      │                    ┌────┴────┐                                                          │
//	      │                    │ Journal │ every effect on the host, before it happens              │
//	      │                    └─────────┘                                                          │
//	      │  Draft             ┌─────────┐   pipe.Copy, disk by disk                                │
//	      └────────────────────┤ Target  │◄─────────────────────────────────────────────────────────┘
//	                           └─────────┘  Restorer
//
// # The packages
//
//	hikae            the nouns (this package)
//	pipe             Image, Target, Copy, Compare; images around images: limit, retry, check, cache
//	  pipe/diskfile  raw files, and the table of disk file formats; pipe/qcow2 is one of them
//	  pipe/nbd       network block devices: a client that is an Image, a server that exports any
//	  pipe/pipetest  suites for whoever writes an image, a target or a backend
//	repo             the repository: points that are complete each, packs with parity, one log
//	  repo/store     where its objects lie: a directory, memory; storetest is the suite for another
//	kvm              running QEMU virtual machines: QMP, dirty bitmaps, the guest agent
//	vmware           virtual machines of vSphere: snapshots, changed blocks, transports, restore
//	  vmware/vmdk    VMDK files of every kind, and their chains; vmware/nfc reads and writes disks over the network
//	  vmware/nfsserve  a point's disks as a datastore; vmware/guestops is a way into a guest
//	  vmware/vmwaretest  a vSphere to test backup software against; vmware/selftest tests a real one
//	hyperv           virtual machines of Hyper-V: four procedures, change tracking, groups, restore
//	  hyperv/vhdx    VHDX and VHD files, and their chains; hyperv/hostfs are a host's files, hyperv/cim its classes
//	  hyperv/helper  what asks a host's VSS; hyperv/fsrvp shadow copies of shares; hyperv/dcom another route to classes
//	  hyperv/hypervtest  a host to test backup software against; hyperv/selftest tests a real one
//	guest            inside a virtual machine: consistent applications, frozen file systems, logs
//	proxy            which machine does what
//	job              sessions: Backup and Restore of a whole VM, their results and records
//	  job/diskvm     disk files as a VM, for backup and restore without a hypervisor
//	  job/report     what a session did, as text, JSON or a page; job/selftest is a whole cycle on a VM
//	examples         programs: the command-line tool, quickstart, the smallest useful one
//
// # The nouns
//
//   - [VM] and [Disk]: a machine as its hypervisor describes it. [ChangeID]: a moment that changes are tracked from.
//     [Consistency]: what the state in a snapshot is good for.
//   - [SnapshotProvider] and [Snapshot]: pin one moment of all disks, read, hand over what began with it, let go.
//     [GroupSnapshotter]: VMs that share a volume snapshot. [Quiescer]: stops the guest from writing, for seconds.
//   - [Restorer] and [Draft]: bring a VM back. [GuestChannel]: a hypervisor's way into its guest.
//   - [Journal], [FileJournal], [Effect] and [Sweeper]: what was done on a host outlives the process that did it, and is
//     undone by the next.
//
// # What may still change
//
// SnapshotProvider, GroupSnapshotter, Snapshot, Restorer, Draft and GuestChannel are unstable until two hypervisors use
// them, and say so. The others follow semantic versions.
package hikae
