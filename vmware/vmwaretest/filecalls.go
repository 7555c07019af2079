package vmwaretest

import (
	"io/fs"
	"os"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// fileCalls are the calls on files of datastores.
type fileCalls struct{ overlaid }

// DeleteDatastoreFileTask deletes one file, or a folder with all that is in it, unless somebody uses it.
func (c *fileCalls) DeleteDatastoreFileTask(ctx *simulator.Context, req *types.DeleteDatastoreFile_Task) soap.HasFault {
	task := c.s.start(ctx, req.This, "deleteDatastoreFile", false, func(*job) (types.AnyType, types.BaseMethodFault) {
		local, fault := c.s.within(req.Name)
		if fault != nil {
			return nil, fault
		}
		if !exists(local) {
			return nil, &types.FileNotFound{FileFault: types.FileFault{File: req.Name}}
		}
		if c.s.inUseBelow(req.Name) {
			return nil, &types.FileLocked{FileFault: types.FileFault{File: req.Name}}
		}
		if err := os.RemoveAll(local); err != nil {
			return nil, fileFault(req.Name, err)
		}
		return nil, nil
	})
	return &methods.DeleteDatastoreFile_TaskBody{Res: &types.DeleteDatastoreFile_TaskResponse{Returnval: task}}
}

// MakeDirectory makes a folder. A path that leads out of the datastore is refused.
func (c *fileCalls) MakeDirectory(_ *simulator.Context, req *types.MakeDirectory) soap.HasFault {
	body := new(methods.MakeDirectoryBody)
	local, fault := c.s.within(req.Name)
	if fault == nil {
		mkdir := os.Mkdir
		if req.CreateParentDirectories != nil && *req.CreateParentDirectories {
			mkdir = mkdirAll
		}
		if err := mkdir(local, 0o700); err != nil {
			fault = fileFault(req.Name, err)
		}
	}
	if fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	body.Res = new(types.MakeDirectoryResponse)
	return body
}

// mkdirAll makes a folder and those above it, but not one that is there.
func mkdirAll(local string, mode fs.FileMode) error {
	if exists(local) {
		return fs.ErrExist
	}
	return os.MkdirAll(local, mode)
}
