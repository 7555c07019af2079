package vmwaretest

import (
	"path"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// maxRetired bounds how many machines are kept after they were unregistered. Files of more are registered as if they were unknown.
const maxRetired = 256

// retired is a machine that was unregistered, by the file that it is registered by again.
type retired struct {
	vm     *VM
	config types.VirtualMachineConfigInfo
}

// UnregisterVM forgets a machine and leaves its files.
func (c *vmCalls) UnregisterVM(ctx *simulator.Context, req *types.UnregisterVM) soap.HasFault {
	vm, ok := c.s.reg.Get(req.This).(*simulator.VirtualMachine)
	if !ok {
		return &methods.UnregisterVMBody{Fault_: simulator.Fault("", &types.ManagedObjectNotFound{Obj: req.This})}
	}
	v := c.s.VMByRef(req.This)
	if v != nil {
		if err := v.push(); err != nil { // the last that its host writes
			return &methods.UnregisterVMBody{Fault_: simulator.Fault("", fileFault(v.Folder(), err))}
		}
	}
	var res soap.HasFault
	var config types.VirtualMachineConfigInfo
	var err error
	ctx.WithLock(vm, func() {
		config, err = cloned(vm.Config)
		res = vm.UnregisterVM(ctx, req)
	})
	if res.Fault() != nil {
		return res
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	delete(c.s.vms, req.This)
	if v != nil && err == nil && len(c.s.retired) < maxRetired {
		c.s.retired[config.Files.VmPathName] = retired{vm: v, config: config}
	}
	return res
}

// RegisterVMTask makes a machine of files that are there. One that was unregistered here is what it was: its hardware, its disks,
// its snapshots. The files of others are not looked into, and give a machine without disks.
func (c *folderCalls) RegisterVMTask(ctx *simulator.Context, req *types.RegisterVM_Task) soap.HasFault {
	body := &methods.RegisterVM_TaskBody{}
	folder, ok := c.s.reg.Get(req.This).(*simulator.Folder)
	if !ok {
		body.Fault_ = simulator.Fault("", &types.ManagedObjectNotFound{Obj: req.This})
		return body
	}
	if fault := c.s.checkRegister(req); fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	asked := *ctx
	ref := c.s.start(ctx, req.This, "registerVm", false, func(*job) (types.AnyType, types.BaseMethodFault) {
		return c.s.register(&asked, folder, req)
	})
	body.Res = &types.RegisterVM_TaskResponse{Returnval: ref}
	return body
}

// checkRegister refuses what the simulator would not survive.
func (s *Server) checkRegister(req *types.RegisterVM_Task) types.BaseMethodFault {
	if req.Host != nil {
		if _, ok := s.reg.Get(*req.Host).(*simulator.HostSystem); !ok {
			return &types.InvalidArgument{InvalidProperty: "host"}
		}
	}
	if req.Pool != nil {
		if _, ok := s.reg.Get(*req.Pool).(*simulator.ResourcePool); !ok {
			return &types.InvalidArgument{InvalidProperty: "pool"}
		}
	}
	var p object.DatastorePath
	if !p.FromString(req.Path) || path.Ext(p.Path) != ".vmx" && path.Ext(p.Path) != ".vmtx" {
		return &types.InvalidDatastorePath{DatastorePath: req.Path}
	}
	create := &types.CreateVM_Task{This: req.This, Host: req.Host}
	create.Config.Files = &types.VirtualMachineFileInfo{VmPathName: req.Path}
	if create.Config.Name = req.Name; req.Name == "" {
		create.Config.Name = strings.TrimSuffix(path.Base(p.Path), path.Ext(p.Path))
	}
	return s.checkNewVM(create)
}

func (s *Server) register(asked *simulator.Context, folder *simulator.Folder, req *types.RegisterVM_Task) (types.AnyType, types.BaseMethodFault) {
	body, ok := folder.RegisterVMTask(asked, req).(*methods.RegisterVM_TaskBody)
	if !ok || body.Res == nil {
		return nil, &types.InvalidRequest{}
	}
	info, err := s.settled(body.Res.Returnval)
	s.reg.Remove(s.context(), body.Res.Returnval) // it is a part of another
	if err != nil {
		return nil, asFault(err)
	}
	ref, ok := info.Result.(types.ManagedObjectReference)
	if !ok {
		return nil, &types.InvalidRequest{}
	}
	s.mu.Lock()
	old, known := s.retired[req.Path]
	delete(s.retired, req.Path)
	s.mu.Unlock()
	if known && old.vm.whole() {
		return ref, s.revive(ref, old)
	}
	if _, err := s.adopt(ref, nil); err != nil {
		return nil, asFault(err)
	}
	return ref, nil
}

// whole reports whether the files of an unregistered machine are all there still.
func (v *VM) whole() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, d := range v.disks {
		for _, l := range d.files {
			if v.s.layerOf(l.name.String()) != l || !exists(l.local) {
				return false
			}
		}
	}
	return true
}

// revive makes a machine that was just registered the one that it was before.
func (s *Server) revive(ref types.ManagedObjectReference, old retired) types.BaseMethodFault {
	vm, ok := s.reg.Get(ref).(*simulator.VirtualMachine)
	if !ok {
		return &types.ManagedObjectNotFound{Obj: ref}
	}
	ctx := s.context()
	was := old.vm
	was.mu.Lock()
	defer was.mu.Unlock()
	v := &VM{
		s: s, ref: ref, disabled: map[string]string{}, nextID: was.nextID, tracking: was.tracking, fragile: was.fragile,
		consolidate: was.consolidate,
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	ctx.WithLock(vm, func() {
		v.name = vm.Config.Name
		ctx.Update(vm, []types.PropertyChange{
			{Name: "config.hardware", Val: old.config.Hardware}, {Name: "config.uuid", Val: old.config.Uuid},
			{Name: "config.instanceUuid", Val: old.config.InstanceUuid}, {Name: "config.guestId", Val: old.config.GuestId},
			{Name: "config.version", Val: old.config.Version}, {Name: "config.extraConfig", Val: old.config.ExtraConfig},
			{Name: "summary.config.uuid", Val: old.config.Uuid}, {Name: "summary.config.instanceUuid", Val: old.config.InstanceUuid},
			{Name: "summary.config.guestId", Val: old.config.GuestId},
		})
	})
	for _, d := range was.disks {
		again := *d
		again.vm = v
		v.disks = append(v.disks, &again)
	}
	if err := v.takeTree(ctx, nil, was.roots, was.current); err != nil {
		return fileFault(old.config.Files.VmPathName, err)
	}
	s.mu.Lock()
	s.vms[ref] = v
	s.mu.Unlock()
	v.publish(ctx)
	return nil
}

// takeTree takes over the snapshots that a machine had under another reference.
func (v *VM) takeTree(ctx *simulator.Context, parent *snapshot, list []*snapshot, current *snapshot) error {
	for _, s := range list {
		again := *s
		again.vm, again.parent, again.children = v, parent, nil
		if err := again.register(ctx); err != nil {
			return err
		}
		if parent == nil {
			v.roots = append(v.roots, &again)
		} else {
			parent.children = append(parent.children, &again)
		}
		if s == current {
			v.current = &again
		}
		if err := v.takeTree(ctx, &again, s.children, current); err != nil {
			return err
		}
	}
	return nil
}
