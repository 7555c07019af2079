package vmwaretest

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// folderCalls are the calls on folders.
type folderCalls struct{ overlaid }

// CreateVMTask makes a machine, whose new disks have content from then on.
func (c *folderCalls) CreateVMTask(ctx *simulator.Context, req *types.CreateVM_Task) soap.HasFault {
	body := &methods.CreateVM_TaskBody{}
	folder, ok := c.s.reg.Get(req.This).(*simulator.Folder)
	if !ok {
		body.Fault_ = simulator.Fault("", &types.ManagedObjectNotFound{Obj: req.This})
		return body
	}
	asked := *ctx
	ref := c.s.start(ctx, req.This, "createVm", false, func(j *job) (types.AnyType, types.BaseMethodFault) {
		return c.create(&asked, folder, req)
	})
	body.Res = &types.CreateVM_TaskResponse{Returnval: ref}
	return body
}

func (c *folderCalls) create(asked *simulator.Context, folder *simulator.Folder, req *types.CreateVM_Task) (types.AnyType, types.BaseMethodFault) {
	body, ok := folder.CreateVMTask(asked, req).(*methods.CreateVM_TaskBody)
	if !ok || body.Res == nil {
		return nil, &types.InvalidRequest{}
	}
	info, err := c.s.settled(body.Res.Returnval)
	if err != nil {
		return nil, asFault(err)
	}
	ref, ok := info.Result.(types.ManagedObjectReference)
	if !ok {
		return nil, &types.InvalidRequest{}
	}
	existing := map[int32]bool{}
	for _, change := range req.Config.DeviceChange {
		spec := change.GetVirtualDeviceConfigSpec()
		if disk, ok := spec.Device.(*types.VirtualDisk); ok && spec.FileOperation == "" {
			existing[disk.Key] = true
		}
	}
	v, err := c.s.adopt(ref, existing)
	if err == nil {
		err = v.push()
	}
	if err != nil {
		return nil, asFault(err)
	}
	return ref, nil
}

// DestroyTask removes a machine with its files.
func (c *vmCalls) DestroyTask(ctx *simulator.Context, req *types.Destroy_Task) soap.HasFault {
	body := &methods.Destroy_TaskBody{}
	asked := *ctx
	ref, f := c.s.claim(ctx, req.This, req.This, "destroy", func(v *VM, j *job) (types.AnyType, types.BaseMethodFault) {
		return nil, v.destroy(&asked, req)
	})
	if body.Fault_ = f; f == nil {
		body.Res = &types.Destroy_TaskResponse{Returnval: ref}
	}
	return body
}

func (v *VM) destroy(asked *simulator.Context, req *types.Destroy_Task) types.BaseMethodFault {
	if v.PoweredOn() {
		return &types.InvalidPowerState{
			RequestedState: types.VirtualMachinePowerStatePoweredOff, ExistingState: types.VirtualMachinePowerStatePoweredOn,
		}
	}
	v.mu.Lock()
	for _, d := range v.disks {
		for _, l := range d.files {
			if l.clones > 0 {
				v.mu.Unlock()
				return &types.FileLocked{FileFault: types.FileFault{File: l.name.String()}}
			}
		}
	}
	for len(v.roots) > 0 {
		v.cut(asked, v.roots[0], true)
	}
	for _, d := range v.disks {
		d.letGo()
		for _, l := range d.files {
			v.s.forget(l)
			_ = l.store.close() // the file goes with its folder
			if l.nas != nil {
				_ = l.nas.remove() // a host removes the disks of what it destroys
			}
		}
	}
	vm := v.sim()
	v.disks, v.gone = nil, true
	v.mu.Unlock()
	if n, folder := v.folderOf(); n != nil {
		_ = n.wipe(folder)
	}
	if vm == nil {
		return nil
	}
	body, ok := vm.DestroyTask(asked, req).(*methods.Destroy_TaskBody)
	if !ok || body.Res == nil {
		return &types.InvalidRequest{}
	}
	_, err := v.s.settled(body.Res.Returnval)
	v.s.mu.Lock()
	delete(v.s.vms, v.ref)
	v.s.mu.Unlock()
	return asFault(err)
}
