// Package hyperv is Hyper-V as a hypervisor of Hikae: one host, reached over WS-Management from any system, without
// PowerShell and without anything installed there.
//
//	h, err := hyperv.Connect(ctx, "hv1.example.org", cim.Login{User: `CORP\backup`, Password: "…"}, nil)
//	defer h.Close()
//	for vm, err := range h.VMs(ctx) { … }
//
// So far it reads: the host, its VMs, their disks with file, controller and slot. Checkpoints come with what reads disks.
//
// # What to know first
//
// A VM is its GUID: names need not be unique, and may be changed. A disk's key is its VirtualDiskId, which stays when the
// file is renamed, moved, extended or given a checkpoint's child. Where a host does not tell it (before 2016, or a file of
// the format VHD) the key is where the disk is attached: ide0-1, scsi0-4.
//
// # Not yet verified on Windows
//
// It met only our own fake (package hypervtest), made from Microsoft's documentation. Words that are not in it, and are from
// general knowledge: the ResourceSubType of drives and controllers, and VirtualDiskId in Msvm_VirtualHardDiskSettingData.
package hyperv
