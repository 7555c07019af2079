package vmwaretest

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// vmCalls are the calls on virtual machines.
type vmCalls struct{ overlaid }

// claim takes a machine for a task, before the call answers.
func (s *Server) claim(ctx *simulator.Context, vm, on types.ManagedObjectReference, name string, do func(*VM, *job) (types.AnyType, types.BaseMethodFault)) (types.ManagedObjectReference, *soap.Fault) {
	v := s.VMByRef(vm)
	if v == nil {
		return types.ManagedObjectReference{}, simulator.Fault("", &types.ManagedObjectNotFound{Obj: vm})
	}
	if f := v.begin(name); f != nil {
		return types.ManagedObjectReference{}, simulator.Fault("another operation is under way", f)
	}
	return s.startHolding(ctx, on, name, false, v.end, func(j *job) (types.AnyType, types.BaseMethodFault) { return do(v, j) }), nil
}

// CreateSnapshotTask creates a snapshot.
func (c *vmCalls) CreateSnapshotTask(ctx *simulator.Context, req *types.CreateSnapshot_Task) soap.HasFault {
	body := &methods.CreateSnapshot_TaskBody{}
	ref, f := c.snapshot(ctx, req.This, snapSpec{name: req.Name, text: req.Description, memory: req.Memory, quiesce: req.Quiesce})
	if body.Fault_ = f; f == nil {
		body.Res = &types.CreateSnapshot_TaskResponse{Returnval: ref}
	}
	return body
}

// CreateSnapshotExTask creates a snapshot, with words for the guest.
func (c *vmCalls) CreateSnapshotExTask(ctx *simulator.Context, req *types.CreateSnapshotEx_Task) soap.HasFault {
	body := &methods.CreateSnapshotEx_TaskBody{}
	spec := snapSpec{name: req.Name, text: req.Description, memory: req.Memory, quiesce: req.QuiesceSpec != nil}
	ref, f := c.snapshot(ctx, req.This, spec)
	if body.Fault_ = f; f == nil {
		body.Res = &types.CreateSnapshotEx_TaskResponse{Returnval: ref}
	}
	return body
}

func (c *vmCalls) snapshot(ctx *simulator.Context, vm types.ManagedObjectReference, spec snapSpec) (types.ManagedObjectReference, *soap.Fault) {
	if spec.name == "" || len(spec.name) > 4096 || len(spec.text) > 1<<20 {
		return types.ManagedObjectReference{}, simulator.Fault("", &types.InvalidName{Name: spec.name})
	}
	return c.s.claim(ctx, vm, vm, "createSnapshot", func(v *VM, j *job) (types.AnyType, types.BaseMethodFault) {
		ref, f := v.snap(j.ctx, spec)
		if f != nil {
			return nil, f
		}
		return ref, nil
	})
}

// RemoveAllSnapshotsTask removes every snapshot.
func (c *vmCalls) RemoveAllSnapshotsTask(ctx *simulator.Context, req *types.RemoveAllSnapshots_Task) soap.HasFault {
	body := &methods.RemoveAllSnapshots_TaskBody{}
	ref, f := c.s.claim(ctx, req.This, req.This, "removeAllSnapshots", func(v *VM, j *job) (types.AnyType, types.BaseMethodFault) {
		return nil, v.unsnapAll(j.ctx, j.broken())
	})
	if body.Fault_ = f; f == nil {
		body.Res = &types.RemoveAllSnapshots_TaskResponse{Returnval: ref}
	}
	return body
}

// RevertToCurrentSnapshotTask goes back to where the machine stands in the tree.
func (c *vmCalls) RevertToCurrentSnapshotTask(ctx *simulator.Context, req *types.RevertToCurrentSnapshot_Task) soap.HasFault {
	body := &methods.RevertToCurrentSnapshot_TaskBody{}
	ref, f := c.s.claim(ctx, req.This, req.This, "revertToCurrentSnapshot", func(v *VM, j *job) (types.AnyType, types.BaseMethodFault) {
		v.mu.Lock()
		current := v.current
		v.mu.Unlock()
		if current == nil {
			return nil, &types.NotFound{}
		}
		return nil, v.revert(j.ctx, current.ref)
	})
	if body.Fault_ = f; f == nil {
		body.Res = &types.RevertToCurrentSnapshot_TaskResponse{Returnval: ref}
	}
	return body
}

// ConsolidateVMDisksTask merges what is left of snapshots that are gone.
func (c *vmCalls) ConsolidateVMDisksTask(ctx *simulator.Context, req *types.ConsolidateVMDisks_Task) soap.HasFault {
	body := &methods.ConsolidateVMDisks_TaskBody{}
	ref, f := c.s.claim(ctx, req.This, req.This, "consolidateVMDisks", func(v *VM, j *job) (types.AnyType, types.BaseMethodFault) {
		return nil, v.consolidateAll(j.ctx)
	})
	if body.Fault_ = f; f == nil {
		body.Res = &types.ConsolidateVMDisks_TaskResponse{Returnval: ref}
	}
	return body
}

// PowerOnVMTask starts a machine.
func (c *vmCalls) PowerOnVMTask(ctx *simulator.Context, req *types.PowerOnVM_Task) soap.HasFault {
	body := &methods.PowerOnVM_TaskBody{}
	ref, f := c.power(ctx, req.This, "powerOn", types.VirtualMachinePowerStatePoweredOn)
	if body.Fault_ = f; f == nil {
		body.Res = &types.PowerOnVM_TaskResponse{Returnval: ref}
	}
	return body
}

// PowerOffVMTask pulls the plug.
func (c *vmCalls) PowerOffVMTask(ctx *simulator.Context, req *types.PowerOffVM_Task) soap.HasFault {
	body := &methods.PowerOffVM_TaskBody{}
	ref, f := c.power(ctx, req.This, "powerOff", types.VirtualMachinePowerStatePoweredOff)
	if body.Fault_ = f; f == nil {
		body.Res = &types.PowerOffVM_TaskResponse{Returnval: ref}
	}
	return body
}

func (c *vmCalls) power(ctx *simulator.Context, vm types.ManagedObjectReference, name string, to types.VirtualMachinePowerState) (types.ManagedObjectReference, *soap.Fault) {
	return c.s.claim(ctx, vm, vm, name, func(v *VM, j *job) (types.AnyType, types.BaseMethodFault) { return nil, v.turn(to) })
}

// snapshotCalls are the calls on snapshots.
type snapshotCalls struct{ overlaid }

// owner is the machine that a snapshot is of, or an empty reference.
func (s *Server) owner(snapshot types.ManagedObjectReference) (vm types.ManagedObjectReference) {
	if snap, ok := s.reg.Get(snapshot).(*simulator.VirtualMachineSnapshot); ok {
		vm = snap.Vm
	}
	return vm
}

// RemoveSnapshotTask removes a snapshot.
func (c *snapshotCalls) RemoveSnapshotTask(ctx *simulator.Context, req *types.RemoveSnapshot_Task) soap.HasFault {
	body := &methods.RemoveSnapshot_TaskBody{}
	vm := c.s.owner(req.This)
	if vm.Value == "" {
		body.Fault_ = simulator.Fault("", &types.ManagedObjectNotFound{Obj: req.This})
		return body
	}
	ref, f := c.s.claim(ctx, vm, vm, "removeSnapshot", func(v *VM, j *job) (types.AnyType, types.BaseMethodFault) {
		return nil, v.unsnap(j.ctx, req.This, req.RemoveChildren, j.broken())
	})
	if body.Fault_ = f; f == nil {
		body.Res = &types.RemoveSnapshot_TaskResponse{Returnval: ref}
	}
	return body
}

// RevertToSnapshotTask goes back to a snapshot.
func (c *snapshotCalls) RevertToSnapshotTask(ctx *simulator.Context, req *types.RevertToSnapshot_Task) soap.HasFault {
	body := &methods.RevertToSnapshot_TaskBody{}
	vm := c.s.owner(req.This)
	if vm.Value == "" {
		body.Fault_ = simulator.Fault("", &types.ManagedObjectNotFound{Obj: req.This})
		return body
	}
	ref, f := c.s.claim(ctx, vm, vm, "revertToSnapshot", func(v *VM, j *job) (types.AnyType, types.BaseMethodFault) {
		return nil, v.revert(j.ctx, req.This)
	})
	if body.Fault_ = f; f == nil {
		body.Res = &types.RevertToSnapshot_TaskResponse{Returnval: ref}
	}
	return body
}

// RenameSnapshot renames a snapshot, or gives it another description.
func (c *snapshotCalls) RenameSnapshot(ctx *simulator.Context, req *types.RenameSnapshot) soap.HasFault {
	body := &methods.RenameSnapshotBody{}
	v := c.s.VMByRef(c.s.owner(req.This))
	if v == nil {
		body.Fault_ = simulator.Fault("", &types.ManagedObjectNotFound{Obj: req.This})
		return body
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if s := v.snapshotBy(req.This); s != nil {
		if req.Name != "" {
			s.name = req.Name
		}
		if req.Description != "" {
			s.text = req.Description
		}
		v.publish(c.s.context())
	}
	body.Res = &types.RenameSnapshotResponse{}
	return body
}
