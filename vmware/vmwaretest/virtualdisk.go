package vmwaretest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/vmware/vmdk"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// diskCalls are the calls on disk files: they have content.
type diskCalls struct{ overlaid }

// CreateVirtualDiskTask implements the API's method.
func (c *diskCalls) CreateVirtualDiskTask(ctx *simulator.Context, req *types.CreateVirtualDisk_Task) soap.HasFault {
	task := c.s.start(ctx, req.This, "createVirtualDisk", false, func(*job) (types.AnyType, types.BaseMethodFault) {
		spec, ok := req.Spec.(types.BaseFileBackedVirtualDiskSpec)
		if !ok {
			return nil, &types.InvalidArgument{InvalidProperty: "spec"}
		}
		local, fault := c.s.within(req.Name)
		if fault != nil {
			return nil, fault
		}
		if exists(local) {
			return nil, &types.FileAlreadyExists{FileFault: types.FileFault{File: req.Name}}
		}
		file := spec.GetFileBackedVirtualDiskSpec()
		if err := c.s.makeFlat(req.Name, file.CapacityKb<<10, file.DiskType == string(types.VirtualDiskTypeThin)); err != nil {
			return nil, fileFault(req.Name, err)
		}
		return req.Name, nil
	})
	return &methods.CreateVirtualDisk_TaskBody{Res: &types.CreateVirtualDisk_TaskResponse{Returnval: task}}
}

// ExtendVirtualDiskTask implements the API's method.
func (c *diskCalls) ExtendVirtualDiskTask(ctx *simulator.Context, req *types.ExtendVirtualDisk_Task) soap.HasFault {
	task := c.s.start(ctx, req.This, "extendVirtualDisk", false, func(*job) (types.AnyType, types.BaseMethodFault) {
		local, fault := c.s.idle(req.Name)
		if fault != nil {
			return nil, fault
		}
		if err := extendFlat(local, req.NewCapacityKb<<10); err != nil {
			return nil, fileFault(req.Name, err)
		}
		return req.Name, nil
	})
	return &methods.ExtendVirtualDisk_TaskBody{Res: &types.ExtendVirtualDisk_TaskResponse{Returnval: task}}
}

// DeleteVirtualDiskTask implements the API's method. A disk that somebody uses stays.
func (c *diskCalls) DeleteVirtualDiskTask(ctx *simulator.Context, req *types.DeleteVirtualDisk_Task) soap.HasFault {
	task := c.s.start(ctx, req.This, "deleteVirtualDisk", false, func(*job) (types.AnyType, types.BaseMethodFault) {
		local, fault := c.s.idle(req.Name)
		if fault != nil {
			return nil, fault
		}
		if err := deleteDisk(local); err != nil {
			return nil, fileFault(req.Name, err)
		}
		return nil, nil
	})
	return &methods.DeleteVirtualDisk_TaskBody{Res: &types.DeleteVirtualDisk_TaskResponse{Returnval: task}}
}

// CopyVirtualDiskTask implements the API's method: the copy stands on nothing, whatever the source stands on.
func (c *diskCalls) CopyVirtualDiskTask(ctx *simulator.Context, req *types.CopyVirtualDisk_Task) soap.HasFault {
	task := c.s.start(ctx, req.This, "copyVirtualDisk", false, func(*job) (types.AnyType, types.BaseMethodFault) {
		to, fault := c.s.within(req.DestName)
		if fault != nil {
			return nil, fault
		}
		if exists(to) {
			if req.Force == nil || !*req.Force {
				return nil, &types.FileAlreadyExists{FileFault: types.FileFault{File: req.DestName}}
			}
			if _, fault = c.s.idle(req.DestName); fault != nil {
				return nil, fault
			}
		}
		if err := c.s.copyDisk(c.s.extras.ctx, req.SourceName, req.DestName, req.DestSpec); err != nil {
			return nil, fileFault(req.SourceName, err)
		}
		return nil, nil
	})
	return &methods.CopyVirtualDisk_TaskBody{Res: &types.CopyVirtualDisk_TaskResponse{Returnval: task}}
}

// MoveVirtualDiskTask implements the API's method. The descriptor names its new extents.
func (c *diskCalls) MoveVirtualDiskTask(ctx *simulator.Context, req *types.MoveVirtualDisk_Task) soap.HasFault {
	task := c.s.start(ctx, req.This, "moveVirtualDisk", false, func(*job) (types.AnyType, types.BaseMethodFault) {
		from, fault := c.s.idle(req.SourceName)
		if fault != nil {
			return nil, fault
		}
		to, fault := c.s.within(req.DestName)
		if fault != nil {
			return nil, fault
		}
		if exists(to) {
			return nil, &types.FileAlreadyExists{FileFault: types.FileFault{File: req.DestName}}
		}
		if err := c.s.copyDisk(c.s.extras.ctx, req.SourceName, req.DestName, nil); err != nil {
			return nil, fileFault(req.SourceName, err)
		}
		if err := deleteDisk(from); err != nil {
			return nil, fileFault(req.SourceName, err)
		}
		return nil, nil
	})
	return &methods.MoveVirtualDisk_TaskBody{Res: &types.MoveVirtualDisk_TaskResponse{Returnval: task}}
}

// QueryVirtualDiskUuid implements the API's method: the descriptor says it.
func (c *diskCalls) QueryVirtualDiskUuid(_ *simulator.Context, req *types.QueryVirtualDiskUuid) soap.HasFault {
	body := new(methods.QueryVirtualDiskUuidBody)
	local, fault := c.s.within(req.Name)
	if fault == nil {
		d, err := readDescriptor(local)
		if err == nil {
			body.Res = &types.QueryVirtualDiskUuidResponse{Returnval: d.DDB["uuid"]}
			return body
		}
		fault = fileFault(req.Name, err)
	}
	body.Fault_ = simulator.Fault("", fault)
	return body
}

// within is where a datastore path lies here.
func (s *Server) within(file string) (string, types.BaseMethodFault) {
	local, err := s.LocalFile(file)
	if err != nil {
		return "", &types.InvalidDatastorePath{DatastorePath: file}
	}
	return local, nil
}

// idle is where the file of a disk lies that nobody uses.
func (s *Server) idle(file string) (string, types.BaseMethodFault) {
	local, fault := s.within(file)
	if fault != nil {
		return "", fault
	}
	if s.inUse(file) {
		return "", &types.FileLocked{FileFault: types.FileFault{File: file}}
	}
	return local, nil
}

// makeFlat makes a disk that nobody has yet.
func (s *Server) makeFlat(file string, size int64, thin bool) error {
	var name object.DatastorePath
	if !name.FromString(file) || size <= 0 || size > maxDiskBytes || size%sector != 0 {
		return fs.ErrInvalid
	}
	local, err := s.local(name)
	if err != nil {
		return err
	}
	l, err := newBase(name, local, size, newUUID(), thin)
	if err != nil {
		return err
	}
	return l.store.close()
}

func readDescriptor(local string) (*vmdk.Descriptor, error) {
	info, err := os.Stat(local)
	if err != nil {
		return nil, err
	}
	if info.Size() > 1<<20 {
		return nil, fmt.Errorf("%s: %w", filepath.Base(local), fs.ErrInvalid)
	}
	text, err := os.ReadFile(local)
	if err != nil {
		return nil, err
	}
	return vmdk.ParseDescriptor(filepath.Base(local), text)
}

// extendFlat makes a flat disk longer, never shorter.
func extendFlat(local string, size int64) error {
	d, err := readDescriptor(local)
	if err != nil {
		return err
	}
	if len(d.Extents) != 1 || d.Extents[0].Type != "VMFS" || size < d.Extents[0].Sectors*512 || size%512 != 0 {
		return fs.ErrInvalid
	}
	if err := os.Truncate(filepath.Join(filepath.Dir(local), filepath.Base(d.Extents[0].File)), size); err != nil {
		return err
	}
	d.Extents[0].Sectors = size / 512
	return os.WriteFile(local, d.Append(nil), 0o600)
}

// deleteDisk deletes a disk's descriptor, extents and tracking file. One that was deleted halfway before is no error.
func deleteDisk(local string) error {
	d, err := readDescriptor(local)
	if err != nil {
		return err
	}
	var errs []error
	names := []string{strings.TrimSuffix(filepath.Base(local), ".vmdk") + "-ctk.vmdk"}
	for _, e := range d.Extents {
		names = append(names, filepath.Base(e.File))
	}
	for _, name := range append(names, filepath.Base(local)) {
		if err := os.Remove(filepath.Join(filepath.Dir(local), name)); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// copyDisk copies what a disk shows into a new flat one.
func (s *Server) copyDisk(ctx context.Context, from, to string, spec types.BaseVirtualDiskSpec) error {
	img, err := s.openFile(ctx, from)
	if err != nil {
		return err
	}
	defer img.Close()
	thin := spec == nil || spec.GetVirtualDiskSpec().DiskType == string(types.VirtualDiskTypeThin)
	if err := s.makeFlat(to, img.Size(), thin); err != nil {
		return err
	}
	fd, err := s.writeFile(to)
	if err != nil {
		return err
	}
	return errors.Join(copyInto(ctx, fd, img), fd.Close())
}

// copyInto writes an image's data into a file of zeros.
func copyInto(ctx context.Context, fd *os.File, img pipe.Image) error {
	buf := make([]byte, sliceBytes)
	for e, err := range pipe.Extents(ctx, img, 0, img.Size()) {
		if err != nil {
			return err
		}
		if e.Kind != pipe.Data {
			continue
		}
		for off := e.Off; off < e.Off+e.Len; off += int64(len(buf)) {
			p := buf[:min(int64(len(buf)), e.Off+e.Len-off)]
			if n, err := img.ReadAt(ctx, p, off); n < len(p) {
				return errors.Join(err, fmt.Errorf("%d of %d bytes at %d", n, len(p), off))
			}
			if _, err := fd.WriteAt(p, off); err != nil {
				return err
			}
		}
	}
	return nil
}
