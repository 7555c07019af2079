package vmware

import (
	"fmt"
	"strings"

	"github.com/hikae/hikae"
	"github.com/vmware/govmomi/vim25/types"
)

// Disk is a virtual disk as a configuration has it: that of a VM, or that of a snapshot.
type Disk struct {
	hikae.Disk // Key is the disk's UUID, which stays when it moves to another slot, file or datastore

	Device    int32                        // key of the device: 2000 …
	Label     string                       // "Hard disk 1"
	Slot      string                       // "scsi0:1", "sata0:0", "nvme0:0", "ide1:0"
	File      string                       // "[datastore1] web1/web1.vmdk"; in a snapshot's configuration the file that the snapshot pinned
	Datastore types.ManagedObjectReference // of File
	UUID      string                       // as in its descriptor; empty where it has none
	ChangeID  string                       // "UUID/N"; empty: its changes are not tracked
	Thin      bool
	Eager     bool // thick, and zeroed when it was made
	Encrypted bool
	Virtual   *types.VirtualDisk // as the server describes it
}

// DisksOf are the disks of a configuration, in the order of their slots. Those that a snapshot does not cover have a Skip.
func DisksOf(config *types.VirtualMachineConfigInfo) []Disk { return disksOf(config.Hardware.Device) }

func disksOf(devices []types.BaseVirtualDevice) []Disk {
	controllers := map[int32]types.BaseVirtualController{}
	for _, d := range devices {
		if c, ok := d.(types.BaseVirtualController); ok {
			controllers[c.GetVirtualController().Key] = c
		}
	}
	var out []Disk
	for _, d := range devices {
		if v, ok := d.(*types.VirtualDisk); ok {
			out = append(out, diskOf(v, controllers[v.ControllerKey]))
		}
	}
	return out
}

func diskOf(v *types.VirtualDisk, on types.BaseVirtualController) Disk {
	d := Disk{Device: v.Key, Virtual: v, Disk: hikae.Disk{Size: v.CapacityInBytes}}
	if d.Size == 0 {
		d.Size = v.CapacityInKB << 10
	}
	if v.DeviceInfo != nil {
		d.Label = v.DeviceInfo.GetDescription().Label
	}
	d.Slot = slotOf(v, on)
	switch b := v.Backing.(type) {
	case *types.VirtualDiskFlatVer2BackingInfo:
		d.File, d.UUID, d.ChangeID = b.FileName, b.Uuid, b.ChangeId
		d.Thin, d.Eager = isTrue(b.ThinProvisioned), isTrue(b.EagerlyScrub)
		d.Encrypted = b.KeyId != nil
		d.Datastore = deref(b.Datastore)
	case *types.VirtualDiskSeSparseBackingInfo:
		d.File, d.UUID, d.ChangeID, d.Thin = b.FileName, b.Uuid, b.ChangeId, true
		d.Encrypted = b.KeyId != nil
		d.Datastore = deref(b.Datastore)
	case *types.VirtualDiskSparseVer2BackingInfo:
		d.File, d.UUID, d.ChangeID, d.Thin = b.FileName, b.Uuid, b.ChangeId, true
		d.Encrypted = b.KeyId != nil
		d.Datastore = deref(b.Datastore)
	case *types.VirtualDiskRawDiskMappingVer1BackingInfo: // of a device; in virtual mode its changes are tracked as a file's
		d.File, d.UUID, d.ChangeID = b.FileName, b.Uuid, b.ChangeId
		d.Datastore = deref(b.Datastore)
	}
	d.Key = strings.ToLower(d.UUID)
	if d.Key == "" {
		d.Key = d.Slot
	}
	return d
}

// slotOf is where a disk hangs, in the words of a .vmx file.
func slotOf(v *types.VirtualDisk, on types.BaseVirtualController) string {
	kind, bus, unit := "disk", int32(0), v.Key
	if on != nil {
		bus = on.GetVirtualController().BusNumber
	}
	if v.UnitNumber != nil {
		unit = *v.UnitNumber
	}
	switch on.(type) {
	case types.BaseVirtualSCSIController:
		kind = "scsi"
	case types.BaseVirtualSATAController:
		kind = "sata"
	case *types.VirtualNVMEController:
		kind = "nvme"
	case *types.VirtualIDEController:
		kind = "ide"
	}
	return fmt.Sprintf("%s%d:%d", kind, bus, unit)
}

func isTrue(b *bool) bool { return b != nil && *b }

func deref(r *types.ManagedObjectReference) types.ManagedObjectReference {
	if r == nil {
		return types.ManagedObjectReference{}
	}
	return *r
}
