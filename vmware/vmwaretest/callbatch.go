package vmwaretest

import (
	"slices"

	"github.com/vmware/govmomi/vim25/types"
)

// nameControllers gives the controllers that a change adds by a negative key keys of their own, and leads the disks that come with
// them there. The simulator would give the controller a key too, but would tell nobody else.
func (v *VM) nameControllers(spec *types.VirtualMachineConfigSpec) {
	devices := v.hardware()
	named := map[int32]int32{}
	for _, c := range spec.DeviceChange {
		change := c.GetVirtualDeviceConfigSpec()
		controller, ok := change.Device.(types.BaseVirtualController)
		if !ok || change.Operation != types.VirtualDeviceConfigSpecOperationAdd {
			continue
		}
		on := controller.GetVirtualController()
		if on.Key >= 0 {
			continue
		}
		key := firstKey(change.Device)
		for slices.ContainsFunc(devices, func(d types.BaseVirtualDevice) bool { return d.GetVirtualDevice().Key == key }) {
			key++
		}
		if on.BusNumber <= 0 {
			on.BusNumber = key - firstKey(change.Device)
		}
		named[on.Key], on.Key = key, key
		devices = append(slices.Clip(devices), change.Device)
	}
	for _, c := range spec.DeviceChange {
		device := c.GetVirtualDeviceConfigSpec().Device
		if device == nil {
			continue
		}
		d := device.GetVirtualDevice()
		if key, ok := named[d.ControllerKey]; ok {
			d.ControllerKey = key
		}
	}
}

// firstKey is that of the first controller of a kind, as hosts count them.
func firstKey(d types.BaseVirtualDevice) int32 {
	switch d.(type) {
	case types.BaseVirtualSCSIController:
		return 1000
	case types.BaseVirtualSATAController:
		return 15000
	case *types.VirtualNVMEController:
		return 31000
	case *types.VirtualIDEController:
		return 200
	}
	return 20000
}

// takeBack takes away what a change gave the machine before a part of it failed: a host does all of a change, or nothing.
func (v *VM) takeBack(before map[int32]bool) {
	devices := v.hardware()
	var kept []types.BaseVirtualDevice
	for _, d := range devices {
		key := d.GetVirtualDevice().Key
		if before[key] {
			kept = append(kept, d)
			continue
		}
		if _, ok := d.(*types.VirtualDisk); !ok {
			continue
		}
		if a, ok := v.s.extras.attachments.take(v.ref, key); ok {
			v.s.release(a, true)
			continue
		}
		_ = v.removed(key, true) // what the server tells of is the change's fault
	}
	v.setHardware(kept)
}

// heldElsewhere is the fault of a machine that is turned on while another one has its files: what that one writes, or what this one
// is about to write. The machine's lock is held.
func (v *VM) heldElsewhere() types.BaseMethodFault {
	if v.s.extras == nil { // nobody can have attached any yet
		return nil
	}
	for _, d := range v.disks {
		for _, l := range d.files {
			for _, a := range v.s.extras.attachments.of(l.name.String(), v.ref) {
				if a.write || l == d.top {
					return &types.FileLocked{FileFault: types.FileFault{File: a.file}}
				}
			}
		}
	}
	return nil
}
