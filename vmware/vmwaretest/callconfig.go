package vmwaretest

import (
	"errors"
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// ReconfigVMTask changes a machine. Disks and tracking are done here, the rest by the simulator.
func (c *vmCalls) ReconfigVMTask(ctx *simulator.Context, req *types.ReconfigVM_Task) soap.HasFault {
	body := &methods.ReconfigVM_TaskBody{}
	for _, p := range specPrivileges(&req.Spec) {
		if !c.s.may(ctx.Session.UserName, p) {
			body.Fault_ = simulator.Fault("", &types.NoPermission{Object: &req.This, PrivilegeId: p})
			return body
		}
	}
	asked := *ctx // the call's own may end before the task
	ref, f := c.s.claim(ctx, req.This, req.This, "reconfigVm", func(v *VM, j *job) (types.AnyType, types.BaseMethodFault) {
		return nil, v.reconfigure(&asked, j.ctx, req)
	})
	if body.Fault_ = f; f == nil {
		body.Res = &types.ReconfigVM_TaskResponse{Returnval: ref}
	}
	return body
}

func (v *VM) reconfigure(asked, ctx *simulator.Context, req *types.ReconfigVM_Task) types.BaseMethodFault {
	spec := req.Spec
	v.nameControllers(&spec)
	before := map[int32]bool{}
	for _, d := range v.hardware() {
		before[d.GetVirtualDevice().Key] = true
	}
	var rest []types.BaseVirtualDeviceConfigSpec
	var after []func() types.BaseMethodFault
	for _, c := range spec.DeviceChange {
		change := c.GetVirtualDeviceConfigSpec()
		disk, ok := change.Device.(*types.VirtualDisk)
		if !ok {
			rest = append(rest, c)
			continue
		}
		pass, then, f := v.changeDisk(change, disk)
		if f != nil {
			return f
		}
		if pass {
			rest = append(rest, c)
		}
		if then != nil {
			after = append(after, then)
		}
	}
	tracking := spec.ChangeTrackingEnabled
	spec.DeviceChange, spec.ChangeTrackingEnabled = rest, nil
	if f := v.pass(asked, &spec); f != nil {
		return f
	}
	for _, then := range after {
		if f := then(); f != nil {
			v.takeBack(before)
			return f
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if tracking != nil {
		v.tracking = *tracking
	}
	if vm := v.sim(); vm != nil {
		ctx.WithLock(vm, func() { v.noteTracking(vm.Config.Hardware.Device, spec.ExtraConfig) })
	}
	if spec.Name != "" {
		v.name = spec.Name
	}
	v.publish(ctx)
	return nil
}

// pass leads the rest of a change to the simulator, and waits for it.
func (v *VM) pass(asked *simulator.Context, spec *types.VirtualMachineConfigSpec) types.BaseMethodFault {
	vm := v.sim()
	if vm == nil {
		return &types.ManagedObjectNotFound{Obj: v.ref}
	}
	body, ok := vm.ReconfigVMTask(asked, &types.ReconfigVM_Task{This: v.ref, Spec: *spec}).(*methods.ReconfigVM_TaskBody)
	if !ok || body.Res == nil {
		return &types.InvalidRequest{}
	}
	_, err := v.s.settled(body.Res.Returnval)
	v.s.reg.Remove(v.s.context(), body.Res.Returnval) // it is a part of another
	return asFault(err)
}

func asFault(err error) types.BaseMethodFault {
	var f *FaultError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &f):
		return f.Fault
	}
	return &types.SystemError{Reason: err.Error()}
}

// changeDisk does a change of a disk. The simulator does what is left of it where pass is set, and then comes after that.
func (v *VM) changeDisk(change *types.VirtualDeviceConfigSpec, disk *types.VirtualDisk) (pass bool, then func() types.BaseMethodFault, f types.BaseMethodFault) {
	if v.s.changeDisk != nil {
		if pass, then, f, ok := v.s.changeDisk(v, change, disk); ok {
			return pass, then, f
		}
	}
	switch change.Operation {
	case types.VirtualDeviceConfigSpecOperationAdd:
		fresh := change.FileOperation == types.VirtualDeviceConfigSpecFileOperationCreate
		return true, func() types.BaseMethodFault { return v.added(fresh) }, nil
	case types.VirtualDeviceConfigSpecOperationRemove:
		destroy := change.FileOperation == types.VirtualDeviceConfigSpecFileOperationDestroy
		change.FileOperation = "" // its files are ours
		return true, func() types.BaseMethodFault { return v.removed(disk.Key, destroy) }, nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	d := v.diskBy(disk.Key)
	switch size := capacityOf(disk); {
	case d == nil:
		return false, nil, &types.InvalidDeviceSpec{InvalidVmConfig: types.InvalidVmConfig{Property: "virtualDeviceSpec.device.key"}}
	case size != d.top.size:
		return false, nil, d.extend(size)
	}
	return false, nil, nil
}

// added takes over the disks that the simulator has and this machine has not.
func (v *VM) added(fresh bool) types.BaseMethodFault {
	v.mu.Lock()
	defer v.mu.Unlock()
	vm, ctx := v.sim(), v.s.context()
	var devices []types.BaseVirtualDevice
	ctx.WithLock(vm, func() { devices = vm.Config.Hardware.Device })
	for _, dev := range devices {
		disk, ok := dev.(*types.VirtualDisk)
		if !ok || v.diskBy(disk.Key) != nil {
			continue
		}
		if err := v.takeDisk(disk, fresh); err != nil {
			return fileFault(disk.DeviceInfo.GetDescription().Label, err)
		}
	}
	return nil
}

func (v *VM) removed(key int32, destroy bool) types.BaseMethodFault {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i, d := range v.disks {
		if d.key != key {
			continue
		}
		v.disks = append(v.disks[:i:i], v.disks[i+1:]...)
		d.letGo()
		if !destroy {
			return nil
		}
		for _, l := range slices.Clone(d.files) {
			if err := v.drop(d, l); err != nil {
				return fileFault(l.name.String(), err)
			}
		}
	}
	return nil
}
