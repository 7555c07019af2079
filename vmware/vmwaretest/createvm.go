package vmwaretest

import (
	"path"
	"slices"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// newVMCalls look at machines that are to be made, before others make them.
type newVMCalls struct {
	overlaid
	next *folderCalls
}

// CreateVMTask makes a VM, unless the simulator would not survive it.
func (c *newVMCalls) CreateVMTask(ctx *simulator.Context, req *types.CreateVM_Task) soap.HasFault {
	if fault := c.s.checkNewVM(req); fault != nil {
		return &methods.CreateVM_TaskBody{Fault_: simulator.Fault("", fault)}
	}
	return c.next.CreateVMTask(ctx, req)
}

// createVM makes a VM without a task.
func (s *Server) createVM(folder *simulator.Folder, req *types.CreateVM_Task) (*VM, types.BaseMethodFault) {
	if fault := s.checkNewVM(req); fault != nil {
		return nil, fault
	}
	made, fault := (&folderCalls{s.over("Folder", "core")}).create(s.context(), folder, req)
	if fault != nil {
		return nil, fault
	}
	ref, _ := made.(types.ManagedObjectReference)
	v := s.VMByRef(ref)
	if v == nil {
		return nil, &types.InvalidVmConfig{}
	}
	return v, nil
}

// discard destroys a VM that was made for nothing.
func (s *Server) discard(v *VM) {
	if v.PoweredOn() {
		v.PowerOff()
	}
	v.destroy(s.context(), &types.Destroy_Task{This: v.ref})
}

// checkNewVM refuses a name that another one in the folder has, and what names a datastore that the VM's host does not have: the
// simulator takes that for granted, and ends the process.
func (s *Server) checkNewVM(req *types.CreateVM_Task) types.BaseMethodFault {
	if req.Config.Name == "" || len(req.Config.Name) > 80 {
		return &types.InvalidName{Name: req.Config.Name}
	}
	if req.Config.Files == nil || req.Config.Files.VmPathName == "" {
		return &types.InvalidVmConfig{Property: "configSpec.files.vmPathName"}
	}
	if folder, ok := s.reg.Get(req.This).(*simulator.Folder); ok {
		var children []types.ManagedObjectReference
		s.context().WithLock(folder, func() { children = slices.Clone(folder.ChildEntity) })
		if other := s.reg.FindByName(req.Config.Name, children); other != nil {
			return &types.DuplicateName{Name: req.Config.Name, Object: other.Reference()}
		}
	}
	files := []string{req.Config.Files.VmPathName}
	for _, change := range req.Config.DeviceChange {
		if change == nil || change.GetVirtualDeviceConfigSpec().Device == nil {
			return &types.InvalidVmConfig{Property: "configSpec.deviceChange"}
		}
		if d, ok := change.GetVirtualDeviceConfigSpec().Device.(*types.VirtualDisk); ok && fileOf(d) != "" {
			files = append(files, fileOf(d))
		}
	}
	for _, file := range files {
		var p object.DatastorePath
		if !p.FromString(file) {
			return &types.InvalidDatastorePath{DatastorePath: file}
		}
		if strings.Contains(p.Path, "..") || path.IsAbs(p.Path) {
			return &types.InvalidDatastorePath{DatastorePath: file}
		}
		if !s.hostHas(req, p.Datastore) {
			return &types.InvalidDatastore{Name: p.Datastore}
		}
	}
	return nil
}

// hostHas reports whether the host that is asked for, or any host where none is, has a datastore.
func (s *Server) hostHas(req *types.CreateVM_Task, datastore string) bool {
	for _, e := range s.reg.All("HostSystem") {
		host, ok := e.(*simulator.HostSystem)
		if !ok || req.Host != nil && host.Self != *req.Host {
			continue
		}
		if s.reg.FindByName(datastore, host.Datastore) != nil {
			return true
		}
	}
	return false
}
