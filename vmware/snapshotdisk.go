package vmware

import (
	"fmt"

	"github.com/vmware/govmomi/vim25/types"
)

// coveredDisks are the disks of a configuration. Those that a snapshot does not cover say why in Skip.
func coveredDisks(config *types.VirtualMachineConfigInfo) []Disk {
	disks := DisksOf(config)
	for i := range disks {
		if d := &disks[i]; d.Skip == "" {
			d.Skip = uncovered(config, d.Virtual)
		}
	}
	return disks
}

// uncovered says why a snapshot does not cover a disk; empty where it does. A physical mapping and an independent disk go on
// being written to, and a bus that is shared has other writers.
func uncovered(config *types.VirtualMachineConfigInfo, v *types.VirtualDisk) string {
	for _, d := range config.Hardware.Device {
		scsi, ok := d.(types.BaseVirtualSCSIController)
		if !ok {
			continue
		}
		c := scsi.GetVirtualSCSIController()
		if c.Key == v.ControllerKey && c.SharedBus != "" && c.SharedBus != types.VirtualSCSISharingNoSharing {
			return fmt.Sprintf("its controller's bus is shared with other VMs (%s): no snapshot can be taken of it", c.SharedBus)
		}
	}
	switch b := v.Backing.(type) {
	case *types.VirtualDiskFlatVer2BackingInfo:
		if b.Sharing == string(types.VirtualDiskSharingSharingMultiWriter) {
			return "several VMs write to it (multi-writer): no snapshot can be taken of it"
		}
		return independent(b.DiskMode)
	case *types.VirtualDiskSeSparseBackingInfo:
		return independent(b.DiskMode)
	case *types.VirtualDiskSparseVer2BackingInfo:
		return independent(b.DiskMode)
	case *types.VirtualDiskRawDiskMappingVer1BackingInfo:
		if b.CompatibilityMode == string(types.VirtualDiskCompatibilityModePhysicalMode) {
			return "it is a raw device in physical mode: no snapshot covers it"
		}
		return independent(b.DiskMode)
	case *types.VirtualDiskLocalPMemBackingInfo:
		return "it is persistent memory: no snapshot covers it"
	}
	return fmt.Sprintf("it is of a kind that no snapshot is known to cover (%T)", v.Backing)
}

func independent(mode string) string {
	switch types.VirtualDiskMode(mode) {
	case types.VirtualDiskModeIndependent_persistent, types.VirtualDiskModeIndependent_nonpersistent:
		return "it is independent (" + mode + "): no snapshot covers it"
	}
	return ""
}

// firstClass are the disks that are objects of their own, as those of Kubernetes volumes. Their tracking belongs to who
// attaches them: a VM that has it enabled for its own sake breaks that (VMware KB 88193).
func firstClass(disks []Disk) (out []string) {
	for _, d := range disks {
		if d.Virtual.VDiskId != nil && d.Virtual.VDiskId.Id != "" {
			out = append(out, d.Key)
		}
	}
	return out
}
