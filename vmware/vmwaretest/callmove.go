package vmwaretest

import (
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// RelocateVMTask moves a machine to another host, its files to another datastore, or both, while it runs.
func (c *vmCalls) RelocateVMTask(ctx *simulator.Context, req *types.RelocateVM_Task) soap.HasFault {
	body := &methods.RelocateVM_TaskBody{}
	ref, f := c.s.claim(ctx, req.This, req.This, "relocateVm", func(v *VM, j *job) (types.AnyType, types.BaseMethodFault) {
		return nil, v.relocate(j.ctx, &req.Spec)
	})
	if body.Fault_ = f; f == nil {
		body.Res = &types.RelocateVM_TaskResponse{Returnval: ref}
	}
	return body
}

// Relocate moves the machine's files to a datastore of that name.
func (v *VM) Relocate(datastore string) error {
	ds := v.s.datastore(datastore)
	if ds == nil {
		return faultError(&types.InvalidDatastore{Name: datastore})
	}
	return faultError(v.relocate(v.s.context(), &types.VirtualMachineRelocateSpec{Datastore: &ds.Self}))
}

func (v *VM) relocate(ctx *simulator.Context, spec *types.VirtualMachineRelocateSpec) types.BaseMethodFault {
	v.mu.Lock()
	defer v.mu.Unlock()
	vm := v.sim()
	if vm == nil {
		return &types.ManagedObjectNotFound{Obj: v.ref}
	}
	if spec.Datastore != nil {
		ds, ok := v.s.reg.Get(*spec.Datastore).(*simulator.Datastore)
		if !ok {
			return &types.ManagedObjectNotFound{Obj: *spec.Datastore}
		}
		if f := v.moveFiles(ctx, ds); f != nil {
			return f
		}
		if f := v.leaveNAS(ctx, ds); f != nil {
			return f
		}
	}
	if spec.Host != nil {
		if f := v.moveHost(ctx, *spec.Host); f != nil {
			return f
		}
	}
	v.stunned(100e6, 0)
	v.publish(ctx)
	return nil
}

func (v *VM) moveHost(ctx *simulator.Context, to types.ManagedObjectReference) types.BaseMethodFault {
	host, ok := v.s.reg.Get(to).(*simulator.HostSystem)
	if !ok {
		return &types.ManagedObjectNotFound{Obj: to}
	}
	vm := v.sim()
	var from types.ManagedObjectReference
	ctx.WithLock(vm, func() {
		from = *vm.Runtime.Host
		ctx.Update(vm, []types.PropertyChange{{Name: "runtime.host", Val: &to}, {Name: "summary.runtime.host", Val: &to}})
	})
	if old, ok := v.s.reg.Get(from).(*simulator.HostSystem); ok {
		v.s.reg.RemoveReference(ctx, old, &old.Vm, v.ref)
	}
	v.s.reg.AddReference(ctx, host, &host.Vm, v.ref)
	return nil
}

// moveFiles copies all files of the machine, leads everything to them, and removes the old ones.
func (v *VM) moveFiles(ctx *simulator.Context, to *simulator.Datastore) types.BaseMethodFault {
	vm := v.sim()
	var vmx object.DatastorePath
	ctx.WithLock(vm, func() { vmx.FromString(vm.Config.Files.VmPathName) })
	from := v.s.datastore(vmx.Datastore)
	if from == nil || from == to {
		return nil
	}
	folder := path.Dir(vmx.Path)
	var layers []*layer
	for _, d := range v.disks {
		for _, l := range d.files {
			if l.busy() {
				return &types.FileLocked{FileFault: types.FileFault{File: l.name.String()}}
			}
			if l.name.Datastore == from.Name && l.nas == nil {
				layers = append(layers, l)
			}
		}
	}
	old := filepath.Join(from.Summary.Url, filepath.FromSlash(folder))
	if err := copyFolder(filepath.Join(to.Summary.Url, filepath.FromSlash(folder)), old); err != nil {
		return fileFault(vmx.String(), err)
	}
	slices.SortFunc(layers, func(a, b *layer) int { return len(a.chain()) - len(b.chain()) }) // a delta names its parent's new place
	for _, l := range layers {
		if err := v.rehome(l, to); err != nil {
			return fileFault(l.name.String(), err)
		}
	}
	walk(v.roots, func(s *snapshot) { s.rehome(to.Name) })
	vmx.Datastore = to.Name
	v.tellMove(ctx, from, to, vmx)
	if n := v.s.nases.of(from.Name); n != nil {
		if err := n.wipe(folder); err != nil {
			return fileFault(vmx.String(), err)
		}
	}
	if err := os.RemoveAll(old); err != nil {
		return fileFault(vmx.String(), err)
	}
	return nil
}

// rehome leads a disk to its copy.
func (v *VM) rehome(l *layer, to *simulator.Datastore) error {
	v.s.forget(l)
	old := l.store
	l.name.Datastore = to.Name
	l.local = filepath.Join(to.Summary.Url, filepath.FromSlash(l.name.Path))
	v.s.keep(l)
	file, err := os.OpenFile(l.extent(), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	switch s := old.(type) {
	case *flatStore:
		l.store = &flatStore{file: file, size: s.size, written: s.written}
	case *sparseStore:
		l.store = &sparseStore{file: file, size: s.size, form: s.form, slots: s.slots}
	}
	return errors.Join(old.close(), l.describe())
}

func (s *snapshot) rehome(datastore string) {
	var p object.DatastorePath
	if !p.FromString(s.file) {
		return
	}
	p.Datastore = datastore
	if local, err := s.vm.s.local(p); err == nil {
		s.file, s.local = p.String(), local
	}
}

func (v *VM) tellMove(ctx *simulator.Context, from, to *simulator.Datastore, vmx object.DatastorePath) {
	vm, dir := v.sim(), object.DatastorePath{Datastore: vmx.Datastore, Path: path.Dir(vmx.Path)}
	ctx.WithLock(vm, func() {
		files := vm.Config.Files
		files.VmPathName, files.SnapshotDirectory = vmx.String(), dir.String()
		files.SuspendDirectory, files.LogDirectory = dir.String(), dir.String()
		layout := &types.VirtualMachineFileLayoutEx{}
		if vm.LayoutEx != nil {
			layout.File = slices.Clone(vm.LayoutEx.File)
		}
		for i := range layout.File {
			var p object.DatastorePath
			if p.FromString(layout.File[i].Name) && p.Datastore == from.Name {
				p.Datastore = to.Name
				layout.File[i].Name = p.String()
			}
		}
		ctx.Update(vm, []types.PropertyChange{
			{Name: "config.files", Val: files}, {Name: "summary.config.vmPathName", Val: vmx.String()},
			{Name: "datastore", Val: []types.ManagedObjectReference{to.Self}}, {Name: "layoutEx", Val: layout},
		})
	})
	v.s.reg.RemoveReference(ctx, from, &from.Vm, v.ref)
	v.s.reg.AddReference(ctx, to, &to.Vm, v.ref)
}

// copyFolder copies the files of a folder, holes and all that they stand for.
func copyFolder(to, from string) error {
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	list, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range list {
		if !e.Type().IsRegular() {
			continue
		}
		if err := copyFile(filepath.Join(to, e.Name()), filepath.Join(from, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = copySparse(out, in)
	return errors.Join(err, out.Close())
}

// copySparse leaves holes where there are zeros.
func copySparse(out, in *os.File) error {
	buf, off := make([]byte, trackGrain), int64(0)
	for {
		n, err := io.ReadFull(in, buf)
		if slices.ContainsFunc(buf[:n], func(b byte) bool { return b != 0 }) {
			if _, err := out.WriteAt(buf[:n], off); err != nil {
				return err
			}
		}
		off += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return out.Truncate(off)
		}
		if err != nil {
			return err
		}
	}
}
