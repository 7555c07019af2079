package vmwaretest

import (
	"fmt"
	"strings"

	"github.com/vmware/govmomi/vim25/types"
)

const (
	ctkKey   = "ctkEnabled" // of the machine; of a disk "scsi0:1.ctkEnabled"
	ctkTrue  = "TRUE"
	ctkFalse = "FALSE"
)

// noteTracking takes notice of disks that are taken out of tracking, or put back, by the machine's extra options.
func (v *VM) noteTracking(devices []types.BaseVirtualDevice, options []types.BaseOptionValue) {
	slots := slotsOf(devices)
	for _, o := range options {
		value := o.GetOptionValue()
		slot, ok := strings.CutSuffix(value.Key, "."+ctkKey)
		if !ok {
			continue
		}
		for _, d := range v.disks {
			if slots[d.key] == slot {
				d.untracked = strings.EqualFold(fmt.Sprint(value.Value), ctkFalse)
			}
		}
	}
}

// ctkOptions are the extra options with what is so about tracking.
func (v *VM) ctkOptions(devices []types.BaseVirtualDevice, old []types.BaseOptionValue) []types.BaseOptionValue {
	var out []types.BaseOptionValue
	for _, o := range old {
		if key := o.GetOptionValue().Key; key != ctkKey && !strings.HasSuffix(key, "."+ctkKey) {
			out = append(out, o)
		}
	}
	add := func(key string, yes bool) {
		value := ctkFalse
		if yes {
			value = ctkTrue
		}
		out = append(out, &types.OptionValue{Key: key, Value: value})
	}
	if v.tracking {
		add(ctkKey, true)
	}
	slots := slotsOf(devices)
	for _, d := range v.disks {
		if slot := slots[d.key]; slot != "" && (v.tracking || d.untracked) {
			add(slot+"."+ctkKey, !d.untracked)
		}
	}
	return out
}

// slotsOf are where disks hang, by the keys of their devices, in the words of a .vmx file.
func slotsOf(devices []types.BaseVirtualDevice) map[int32]string {
	controllers := map[int32]string{}
	for _, d := range devices {
		c, ok := d.(types.BaseVirtualController)
		if !ok {
			continue
		}
		kind := "ide"
		switch d.(type) {
		case types.BaseVirtualSCSIController:
			kind = "scsi"
		case types.BaseVirtualSATAController:
			kind = "sata"
		case *types.VirtualNVMEController:
			kind = "nvme"
		}
		controllers[c.GetVirtualController().Key] = fmt.Sprintf("%s%d", kind, c.GetVirtualController().BusNumber)
	}
	out := map[int32]string{}
	for _, d := range devices {
		if disk, ok := d.(*types.VirtualDisk); ok && disk.UnitNumber != nil && controllers[disk.ControllerKey] != "" {
			out[disk.Key] = fmt.Sprintf("%s:%d", controllers[disk.ControllerKey], *disk.UnitNumber)
		}
	}
	return out
}
