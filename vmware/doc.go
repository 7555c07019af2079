// Package vmware backs up and restores virtual machines of VMware vSphere: vCenter Server and single ESXi hosts.
//
// Reach for it to have a [hikae.SnapshotProvider] and a [hikae.Restorer] for vSphere. [Connect] logs in; package job does the
// rest. A disk file alone is read by vmware/vmdk, a disk over the network by vmware/nfc; neither needs the others.
//
//	hikae job ── Provider ── snapshot ── ledger of changes ─┐
//	                │                                        │
//	             Client (one session)              Transport: how a disk is read
//	                │                              hotadd  nbdssl  nbd  nfs  vddk  https  export
//	            vCenter, ESXi
package vmware
