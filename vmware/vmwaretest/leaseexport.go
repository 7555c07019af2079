package vmwaretest

import (
	"context"
	"fmt"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// machineCalls are the calls on virtual machines that are done here.
type machineCalls struct{ overlaid }

// ExportVm makes a lease that gives out the disks of a VM that is off.
func (c *machineCalls) ExportVm(ctx *simulator.Context, req *types.ExportVm) soap.HasFault {
	body := new(methods.ExportVmBody)
	v := c.s.VMByRef(req.This)
	if v == nil {
		body.Fault_ = simulator.Fault("", &types.ManagedObjectNotFound{Obj: req.This})
		return body
	}
	if state := v.power(); state != types.VirtualMachinePowerStatePoweredOff {
		body.Fault_ = simulator.Fault("", &types.InvalidPowerState{RequestedState: types.VirtualMachinePowerStatePoweredOff, ExistingState: state})
		return body
	}
	lease, fault := c.s.export(ctx, v, v.hardware())
	if fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	body.Res = &types.ExportVmResponse{Returnval: lease}
	return body
}

// pinnedCalls are the calls on snapshots that are done here.
type pinnedCalls struct{ overlaid }

// ExportSnapshot makes a lease that gives out the disks as a snapshot holds them.
func (c *pinnedCalls) ExportSnapshot(ctx *simulator.Context, req *types.ExportSnapshot) soap.HasFault {
	body := new(methods.ExportSnapshotBody)
	v := c.s.VMByRef(c.s.owner(req.This))
	snapshot, ok := c.s.reg.Get(req.This).(*simulator.VirtualMachineSnapshot)
	if v == nil || !ok {
		body.Fault_ = simulator.Fault("", &types.ManagedObjectNotFound{Obj: req.This})
		return body
	}
	var devices []types.BaseVirtualDevice
	c.s.context().WithLock(snapshot, func() { devices = snapshot.Config.Hardware.Device })
	lease, fault := c.s.export(ctx, v, devices)
	if fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	body.Res = &types.ExportSnapshotResponse{Returnval: lease}
	return body
}

// export makes a lease on the disks of a configuration.
func (s *Server) export(ctx *simulator.Context, v *VM, devices []types.BaseVirtualDevice) (types.ManagedObjectReference, types.BaseMethodFault) {
	if v.encrypted() {
		return types.ManagedObjectReference{}, &types.NotSupported{} // hosts do not export what they would have to decrypt
	}
	l, fault := s.newLease(ctx, v.ref, false)
	if fault != nil {
		return types.ManagedObjectReference{}, fault
	}
	l.on(v.ref, leaseDisks(v.ref.Value, v.Name(), devices))
	s.later(l.begin)
	return l.Self, nil
}

func (v *VM) encrypted() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.keyID() != nil
}

// begin looks whether the disks can be read, as a real host does while the lease is initializing.
func (l *lease) begin() {
	ctx, cancel := context.WithTimeout(l.s.extras.ctx, time.Minute)
	defer cancel()
	for _, d := range l.holds() {
		img, err := l.s.openFile(ctx, d.file)
		if err == nil {
			d.size = img.Size()
			err = img.Close()
		}
		if err != nil {
			l.fail(l.s.context(), &types.FileFault{File: d.file}, err.Error())
			return
		}
	}
	l.ready(l.s.context())
}

// leaseDisks are the disks of a configuration as a lease calls them: by controller and unit.
func leaseDisks(id, name string, devices []types.BaseVirtualDevice) []*leaseDisk {
	controllers := map[int32]types.BaseVirtualDevice{}
	for _, d := range devices {
		controllers[d.GetVirtualDevice().Key] = d
	}
	var out []*leaseDisk
	for _, d := range devices {
		disk, ok := d.(*types.VirtualDisk)
		if !ok {
			continue
		}
		kind, adapter := controllerKind(controllers[disk.ControllerKey])
		bus, unit := int32(0), int32(0)
		if c, ok := controllers[disk.ControllerKey].(types.BaseVirtualController); ok {
			bus = c.GetVirtualController().BusNumber
		}
		if disk.UnitNumber != nil {
			unit = *disk.UnitNumber
		}
		slot := fmt.Sprintf("%s%d:%d", kind, bus, unit)
		out = append(out, &leaseDisk{
			name: fmt.Sprintf("disk-%d.vmdk", len(out)), key: "/" + id + "/" + slot, importKey: "/" + name + "/" + slot,
			file: fileOf(disk), adapter: adapter, size: disk.CapacityInBytes,
		})
	}
	return out
}

// controllerKind is what a lease's key calls a controller, and what a descriptor does.
func controllerKind(d types.BaseVirtualDevice) (kind, adapter string) {
	switch d.(type) {
	case *types.ParaVirtualSCSIController:
		return "ParaVirtualSCSIController", "lsilogic"
	case *types.VirtualBusLogicController:
		return "VirtualBusLogicController", "buslogic"
	case *types.VirtualLsiLogicSASController:
		return "VirtualLsiLogicSASController", "lsilogic"
	case types.BaseVirtualSCSIController:
		return "VirtualLsiLogicController", "lsilogic"
	case *types.VirtualNVMEController:
		return "VirtualNVMEController", "lsilogic"
	case types.BaseVirtualSATAController:
		return "VirtualAHCIController", "ide"
	}
	return "VirtualIDEController", "ide"
}

// fileOf is the file that a disk's backing names.
func fileOf(d *types.VirtualDisk) string {
	if b, ok := d.Backing.(types.BaseVirtualDeviceFileBackingInfo); ok {
		return b.GetVirtualDeviceFileBackingInfo().FileName
	}
	return ""
}
