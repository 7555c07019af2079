// Package hyperv backs up and restores virtual machines of Microsoft Hyper-V: of one host, or of a cluster. It runs on any system,
// without PowerShell, and puts nothing on hosts of 2016 and later.
//
// Reach for it to have a [hikae.SnapshotProvider], [hikae.GroupSnapshotter] and [hikae.Restorer]. [ConnectSite] logs on; package job does
// the rest. A disk file alone is read by hyperv/vhdx, files of a host by hyperv/hostfs, its classes by hyperv/cim; none needs the others.
//
//	hikae job ── Provider ── Plan: which procedure, and why
//	                │
//	                ├── production     2016 and later: a checkpoint, change tracking, reference points
//	                ├── writer2012r2   2012 R2, and what misses a condition of production ┐
//	                ├── writer2012     2008 R2 and 2012                                   ├ the host's VSS, by a Requester (hyperv/helper)
//	                └── requester      where it is asked for: no checkpoint of ours      ┘
//	                │
//	              Site (one host, or a cluster's nodes: VMs move) ── cim ── classes
//	                └── Store: files by the host's own names ── hostfs ── SMB
//
// # What to know first
//
// A VM is its GUID: names need not be unique, and may be changed. A disk's key is its VirtualDiskId, which stays when the
// file is renamed, moved, extended or given a checkpoint's child. Where a host does not tell it (before 2016, or a file of
// the format VHD) the key is where the disk is attached: ide0-1, scsi0-4.
//
// Only checkpoints, sets and reference points that bear our mark, or that the journal and committed points name, are ever removed.
// Files of checkpoints are merged by the host, and by nobody else. A merge that takes long leaves a backup that is good and a clean-up that
// is pending ([PendingError]).
//
// # Not yet verified on Windows
//
// It met only our own fake (package hypervtest), made from Microsoft's documentation, and Samba. Words that are not in that
// documentation, and are from general knowledge: the ResourceSubType of drives and controllers, forms of InstanceID, and
// VirtualDiskId in Msvm_VirtualHardDiskSettingData. docs/hyperv.md lists what is to be looked at first on a real host.
package hyperv
