package vmwaretest

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// poolCalls are the calls on resource pools.
type poolCalls struct{ overlaid }

// ImportVApp makes a VM with its disks empty, and a lease that takes their content.
func (c *poolCalls) ImportVApp(ctx *simulator.Context, req *types.ImportVApp) soap.HasFault {
	body := new(methods.ImportVAppBody)
	spec, ok := req.Spec.(*types.VirtualMachineImportSpec)
	if !ok {
		body.Fault_ = simulator.Fault("", &types.InvalidArgument{InvalidProperty: "spec"})
		return body
	}
	folder := c.s.folderFor(req.Folder)
	if folder == nil {
		body.Fault_ = simulator.Fault("", &types.InvalidArgument{InvalidProperty: "folder"})
		return body
	}
	l, fault := c.s.newLease(ctx, types.ManagedObjectReference{}, true)
	if fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	create := &types.CreateVM_Task{This: folder.Self, Config: spec.ConfigSpec, Pool: req.This, Host: req.Host}
	c.s.later(func() { l.make(folder, create) })
	body.Res = &types.ImportVAppResponse{Returnval: l.Self}
	return body
}

// folderFor is the folder of that reference, or the datacenter's own for VMs.
func (s *Server) folderFor(ref *types.ManagedObjectReference) *simulator.Folder {
	if ref != nil {
		folder, _ := s.reg.Get(*ref).(*simulator.Folder)
		return folder
	}
	for _, e := range s.reg.All("Datacenter") {
		if dc, ok := e.(*simulator.Datacenter); ok {
			if folder, ok := s.reg.Get(dc.VmFolder).(*simulator.Folder); ok {
				return folder
			}
		}
	}
	return nil
}

// make creates the VM of an import.
func (l *lease) make(folder *simulator.Folder, create *types.CreateVM_Task) {
	v, fault := l.s.createVM(folder, create)
	if fault != nil {
		l.fail(l.s.context(), fault, "the VM cannot be made: "+faultName(fault))
		return
	}
	disks := leaseDisks(v.ref.Value, v.Name(), v.hardware())
	l.on(v.ref, disks)
	l.mu.Lock()
	l.undo = func() { l.s.discard(v) }
	gone := l.over
	l.mu.Unlock()
	if gone {
		l.s.discard(v)
		return
	}
	l.ready(l.s.context())
}

// hardware are the devices that a VM has now.
func (v *VM) hardware() (devices []types.BaseVirtualDevice) {
	if vm := v.sim(); vm != nil {
		v.s.context().WithLock(vm, func() { devices = vm.Config.Hardware.Device })
	}
	return devices
}
