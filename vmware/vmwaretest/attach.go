package vmwaretest

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/vmware/govmomi/vim25/types"
)

// attachment is a disk file that a VM was given although it is none of its own: what a backup proxy does with the disks of others.
// While it hangs there no file of its chain can be merged.
type attachment struct {
	vm    types.ManagedObjectReference
	key   int32  // of the device
	file  string // on the datastore
	uuid  string
	size  int64
	write bool   // what the VM writes stays: the file is locked for all others
	held  *Image // nil: a file that no VM has
	made  *layer // a delta that was made for this attachment alone
}

// attachments are those that are there.
type attachments struct {
	mu  sync.Mutex
	all []attachment
}

func (a *attachments) add(x attachment) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all = append(a.all, x)
}

// take removes the attachment of a device and returns it.
func (a *attachments) take(vm types.ManagedObjectReference, key int32) (attachment, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, x := range a.all {
		if x.vm == vm && x.key == key {
			a.all = slices.Delete(a.all, i, i+1)
			return x, true
		}
	}
	return attachment{}, false
}

func (a *attachments) has(vm types.ManagedObjectReference, key int32) bool {
	return slices.ContainsFunc(a.list(), func(x attachment) bool { return x.vm == vm && x.key == key })
}

// of is who holds a file, other than one VM.
func (a *attachments) of(file string, but types.ManagedObjectReference) []attachment {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []attachment
	for _, x := range a.all {
		if x.file == file && x.vm != but {
			out = append(out, x)
		}
	}
	return out
}

func (a *attachments) list() []attachment {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.all)
}

// leftovers says in words what hangs where it does not belong.
func (a *attachments) leftovers(s *Server) (out []string) {
	for _, x := range a.list() {
		name := x.vm.Value
		if v := s.VMByRef(x.vm); v != nil {
			name = v.Name()
		}
		out = append(out, fmt.Sprintf("disk %s is attached to VM %s", x.file, name))
	}
	return out
}

// Limits of SCSI controllers: unit 7 is the controller's own, and but for paravirtual ones the bus ends at 15.
const (
	scsiOwnUnit  = 7
	scsiUnits    = 16
	pvscsiUnits  = 65
	diskUnitsMax = 15
)

// admitSlot looks at where a disk is to hang.
func admitSlot(devices []types.BaseVirtualDevice, version string, disk *types.VirtualDisk, running bool, index int32) types.BaseMethodFault {
	invalid := &types.InvalidDeviceSpec{InvalidVmConfig: types.InvalidVmConfig{Property: "virtualDeviceSpec.device.unitNumber"}, DeviceIndex: index}
	controller, units := controllerOf(devices, disk)
	switch controller.(type) {
	case nil:
		invalid.Property = "virtualDeviceSpec.device.controllerKey"
		return invalid
	case *types.VirtualIDEController:
		if running {
			return &types.DeviceHotPlugNotSupported{InvalidDeviceSpec: *invalid}
		}
		return nil
	case types.BaseVirtualSCSIController:
	default:
		return nil
	}
	last, most := int32(scsiUnits), diskUnitsMax
	if _, ok := controller.(*types.ParaVirtualSCSIController); ok && hardwareVersion(version) >= 14 {
		last, most = pvscsiUnits, pvscsiUnits-1
	}
	if len(units) >= most {
		return &types.TooManyDevices{InvalidVmConfig: types.InvalidVmConfig{Property: "virtualDeviceSpec.device.controllerKey"}}
	}
	if disk.UnitNumber == nil || *disk.UnitNumber == -1 {
		disk.UnitNumber = freeUnit(units, last)
	}
	if n := *disk.UnitNumber; n == scsiOwnUnit || n < 0 || n >= last || units[n] {
		return invalid
	}
	return nil
}

// freeUnit is the first place on a SCSI controller that no disk has.
func freeUnit(units map[int32]bool, last int32) *int32 {
	n := int32(0)
	for n < last && (units[n] || n == scsiOwnUnit) {
		n++
	}
	return &n
}

// controllerOf finds the controller of a disk, and the units that are taken on it.
func controllerOf(devices []types.BaseVirtualDevice, disk *types.VirtualDisk) (types.BaseVirtualController, map[int32]bool) {
	var controller types.BaseVirtualController
	units := map[int32]bool{}
	for _, d := range devices {
		if c, ok := d.(types.BaseVirtualController); ok && c.GetVirtualController().Key == disk.ControllerKey {
			controller = c
		}
		if v := d.GetVirtualDevice(); v.ControllerKey == disk.ControllerKey && v.UnitNumber != nil {
			units[*v.UnitNumber] = true
		}
	}
	return controller, units
}

func hardwareVersion(version string) int {
	n := 0
	for _, r := range strings.TrimPrefix(version, "vmx-") {
		if r < '0' || r > '9' {
			return 0
		}
		n = n*10 + int(r-'0')
	}
	return n
}

// writes reports whether what a VM writes to a disk of this mode stays in the file that was given.
func writes(mode string) bool {
	switch types.VirtualDiskMode(mode) {
	case types.VirtualDiskModeIndependent_nonpersistent, types.VirtualDiskModeNonpersistent, types.VirtualDiskModeUndoable:
		return false
	}
	return true
}
