package vmwaretest

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/hikae/hikae/vmware/vmdk"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// changeForeign does a change of a disk that is about a file which is there already: it is attached, or taken away again. Others it
// leaves alone. It runs after the rest of the change, so that a controller that comes with the disk is there.
func (s *Server) changeForeign(v *VM, change *types.VirtualDeviceConfigSpec, disk *types.VirtualDisk) (pass bool, then func() types.BaseMethodFault, f types.BaseMethodFault, ok bool) {
	switch change.Operation {
	case types.VirtualDeviceConfigSpecOperationAdd:
		parent, _ := parentOf(disk)
		if parent == "" && change.FileOperation != "" {
			return false, nil, nil, false
		}
		return false, func() types.BaseMethodFault { return v.attach(change, disk) }, nil, true
	case types.VirtualDeviceConfigSpecOperationRemove:
		if !s.extras.attachments.has(v.ref, disk.Key) {
			return false, nil, nil, false
		}
		destroy := change.FileOperation == types.VirtualDeviceConfigSpecFileOperationDestroy
		return false, func() types.BaseMethodFault { return v.detach(disk.Key, destroy) }, nil, true
	}
	return false, nil, nil, false
}

// attach gives a disk file to the VM.
func (v *VM) attach(change *types.VirtualDeviceConfigSpec, disk *types.VirtualDisk) types.BaseMethodFault {
	vm := v.sim()
	if vm == nil {
		return &types.ManagedObjectNotFound{Obj: v.ref}
	}
	devices := v.hardware()
	a, fault := v.give(vm, devices, disk, change, v.PoweredOn(), 0)
	if fault != nil {
		return fault
	}
	v.s.extras.attachments.add(a)
	v.setHardware(append(slices.Clip(devices), disk))
	return nil
}

// detach takes a disk file away from the VM. The file stays, unless it was made for the VM alone and is to be destroyed: one that
// others stand on is locked.
func (v *VM) detach(key int32, destroy bool) types.BaseMethodFault {
	a, ok := v.s.extras.attachments.take(v.ref, key)
	if !ok {
		return &types.InvalidDeviceSpec{InvalidVmConfig: types.InvalidVmConfig{Property: "virtualDeviceSpec.device.key"}}
	}
	if destroy && a.made == nil {
		v.s.extras.attachments.add(a)
		return &types.FileLocked{FileFault: types.FileFault{File: a.file}}
	}
	v.setHardware(without(v.hardware(), key))
	v.s.release(a, destroy)
	return nil
}

// setHardware gives the VM other devices, and shows them to its guest.
func (v *VM) setHardware(devices []types.BaseVirtualDevice) {
	vm, ctx := v.sim(), v.s.context()
	ctx.WithLock(vm, func() {
		ctx.Update(vm, []types.PropertyChange{{Name: "config.hardware.device", Val: devices}})
	})
	v.s.extras.proxies.changed(v.ref)
}

// parentOf is the file that a new delta is to stand on, and the delta's own, if the spec says one.
func parentOf(disk *types.VirtualDisk) (parent, file string) {
	switch b := disk.Backing.(type) {
	case *types.VirtualDiskFlatVer2BackingInfo:
		if b.Parent != nil {
			parent = b.Parent.FileName
		}
		file = b.FileName
	case *types.VirtualDiskSeSparseBackingInfo:
		if b.Parent != nil {
			parent = b.Parent.FileName
		}
		file = b.FileName
	}
	return parent, file
}

func without(devices []types.BaseVirtualDevice, key int32) (out []types.BaseVirtualDevice) {
	for _, d := range devices {
		if d.GetVirtualDevice().Key != key {
			out = append(out, d)
		}
	}
	return out
}

// give looks at a disk that is to be attached, takes hold of its file, and fills in what the server says of it.
func (v *VM) give(vm *simulator.VirtualMachine, devices []types.BaseVirtualDevice, disk *types.VirtualDisk, c *types.VirtualDeviceConfigSpec, running bool, index int32) (attachment, types.BaseMethodFault) {
	if fault := admitSlot(devices, vm.Config.Version, disk, running, index); fault != nil {
		return attachment{}, fault
	}
	backing, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
	if !ok {
		return attachment{}, &types.InvalidDeviceBacking{InvalidDeviceSpec: types.InvalidDeviceSpec{DeviceIndex: index}}
	}
	parent, file := parentOf(disk)
	if parent == "" {
		parent = file
	}
	if !v.s.reaches(vm, parent) {
		return attachment{}, &types.InvalidDatastorePath{DatastorePath: parent}
	}
	child := c.FileOperation == types.VirtualDeviceConfigSpecFileOperationCreate
	a := attachment{vm: v.ref, file: parent, write: !child && writes(backing.DiskMode)}
	if running && v.s.lockedFor(v.ref, parent, a.write) {
		return attachment{}, &types.FileLocked{FileFault: types.FileFault{File: parent}}
	}
	fault := v.s.hold(&a)
	if fault == nil && child {
		fault = v.s.delta(&a, vm, file)
	}
	if fault == nil && capacityOf(disk) > a.size {
		fault = &types.InvalidDeviceSpec{InvalidVmConfig: types.InvalidVmConfig{Property: "virtualDeviceSpec.device.capacityInKB"}, DeviceIndex: index}
	}
	if fault != nil {
		v.s.release(a, true)
		return attachment{}, fault
	}
	disk.CapacityInBytes, disk.CapacityInKB = a.size, a.size>>10
	disk.Key = freeKey(devices, 2000+disk.ControllerKey%1000*16+*disk.UnitNumber)
	disk.DeviceInfo = &types.Description{Label: "Hard disk", Summary: "disk of another VM"}
	backing.FileName, backing.Uuid = a.file, a.uuid
	if ds := v.s.datastoreOf(a.file); ds != nil {
		backing.Datastore = &ds.Self
	}
	a.key = disk.Key
	return a, nil
}

func freeKey(devices []types.BaseVirtualDevice, key int32) int32 {
	for _, d := range devices {
		if d.GetVirtualDevice().Key == key {
			return freeKey(devices, key+1000)
		}
	}
	return key
}

func (s *Server) datastoreOf(file string) *simulator.Datastore {
	var p object.DatastorePath
	p.FromString(file)
	return s.datastore(p.Datastore)
}

// hold takes hold of an attachment's file, so that nothing that it stands on goes away.
func (s *Server) hold(a *attachment) types.BaseMethodFault {
	img, err := s.OpenDisk(a.file, a.write)
	switch {
	case err == nil:
		a.held, a.size, a.uuid = img, img.Size(), img.disk.uuid
		return nil
	case errors.Is(err, fs.ErrPermission):
		return &types.FileLocked{FileFault: types.FileFault{File: a.file}}
	case !errors.Is(err, fs.ErrNotExist):
		return fileFault(a.file, err)
	}
	local, err := s.LocalFile(a.file)
	if err != nil {
		return &types.InvalidDatastorePath{DatastorePath: a.file}
	}
	disk, err := vmdk.Open(s.extras.ctx, local, &vmdk.Options{Allow: s.datastoreFolders(), Live: true})
	if err != nil {
		return fileFault(a.file, err)
	}
	defer disk.Close()
	a.size, a.uuid = disk.Size(), joined(disk.Info().DDB["uuid"])
	return nil
}

// delta makes a child disk over an attachment's file, in the VM's own folder.
func (s *Server) delta(a *attachment, vm *simulator.VirtualMachine, file string) types.BaseMethodFault {
	if a.held == nil {
		return &types.InvalidDeviceBacking{}
	}
	var name object.DatastorePath
	if file == "" || !name.FromString(file) || name.Path == "" {
		name.FromString(vm.Config.Files.VmPathName)
		base := strings.TrimSuffix(path.Base(a.file), ".vmdk")
		name.Path = path.Join(path.Dir(name.Path), base+"-child-"+randomHex(3)+".vmdk")
	}
	local, err := s.local(name)
	if err != nil {
		return &types.InvalidDatastorePath{DatastorePath: name.String()}
	}
	if exists(local) {
		return &types.FileAlreadyExists{FileFault: types.FileFault{File: name.String()}}
	}
	a.held.vm.mu.Lock()
	defer a.held.vm.mu.Unlock()
	l, err := a.held.layer.child(name, local, s.opts.Deltas)
	if err != nil {
		return fileFault(name.String(), err)
	}
	s.keep(l)
	a.made, a.file = l, name.String()
	return nil
}

// release lets go of an attachment's file. A delta that was made for it goes too, if it is to be destroyed.
func (s *Server) release(a attachment, destroy bool) {
	if a.made != nil {
		a.held.vm.mu.Lock()
		s.forget(a.made)
		if destroy {
			a.made.remove()
		} else {
			a.made.store.close()
		}
		a.held.vm.mu.Unlock()
	}
	if a.held != nil {
		a.held.Close()
	}
}
