package vmwaretest

import (
	"fmt"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// CloneVMTask makes a machine with the content of another one, or of one of its snapshots: copied, or, where new child disks are
// asked for, as deltas over what the snapshot holds.
func (c *machineCalls) CloneVMTask(ctx *simulator.Context, req *types.CloneVM_Task) soap.HasFault {
	body := &methods.CloneVM_TaskBody{}
	ref, f := c.s.claim(ctx, req.This, req.This, "cloneVm", func(v *VM, _ *job) (types.AnyType, types.BaseMethodFault) {
		made, f := v.clone(req)
		if f != nil {
			return nil, f
		}
		return made.ref, nil
	})
	if body.Fault_ = f; f == nil {
		body.Res = &types.CloneVM_TaskResponse{Returnval: ref}
	}
	return body
}

// origin is a disk of the machine that is cloned.
type origin struct {
	layer *layer
	size  int64
}

func (v *VM) clone(req *types.CloneVM_Task) (*VM, types.BaseMethodFault) {
	linked := false
	switch types.VirtualMachineRelocateDiskMoveOptions(req.Spec.Location.DiskMoveType) {
	case "", types.VirtualMachineRelocateDiskMoveOptionsMoveAllDiskBackingsAndDisallowSharing,
		types.VirtualMachineRelocateDiskMoveOptionsMoveAllDiskBackingsAndAllowSharing:
	case types.VirtualMachineRelocateDiskMoveOptionsCreateNewChildDiskBacking:
		linked = true
	default:
		return nil, &types.NotSupported{}
	}
	if linked && req.Spec.Snapshot == nil {
		return nil, &types.InvalidArgument{InvalidProperty: "spec.snapshot"}
	}
	config, from, f := v.origins(req.Spec.Snapshot)
	if f != nil {
		return nil, f
	}
	create, folder, f := v.cloneSpec(req, config)
	if f != nil {
		return nil, f
	}
	made, f := v.s.createVM(folder, create)
	if f != nil {
		return nil, f
	}
	if f := v.fill(made, from, linked); f != nil {
		v.s.discard(made)
		return nil, f
	}
	if f := made.finish(req); f != nil {
		v.s.discard(made)
		return nil, f
	}
	return made, nil
}

// origins are the configuration that a clone gets, and what its disks hold, by device key.
func (v *VM) origins(ref *types.ManagedObjectReference) (config types.VirtualMachineConfigInfo, from map[int32]origin, f types.BaseMethodFault) {
	v.mu.Lock()
	defer v.mu.Unlock()
	vm, ctx := v.sim(), v.s.context()
	if vm == nil {
		return config, nil, &types.ManagedObjectNotFound{Obj: v.ref}
	}
	var err error
	ctx.WithLock(vm, func() { config, err = cloned(vm.Config) })
	from = map[int32]origin{}
	for _, d := range v.disks {
		from[d.key] = origin{layer: d.top, size: d.top.size}
	}
	if ref == nil || err != nil {
		return config, from, asFault(err)
	}
	s := v.snapshotBy(*ref)
	snap, ok := v.s.reg.Get(*ref).(*simulator.VirtualMachineSnapshot)
	if s == nil || !ok {
		return config, nil, &types.ManagedObjectNotFound{Obj: *ref}
	}
	ctx.WithLock(snap, func() { config, err = cloned(&snap.Config) })
	clear(from)
	for key, p := range s.pins {
		from[key] = origin{layer: p.layer, size: p.layer.size}
	}
	return config, from, asFault(err)
}

// cloneSpec is the clone with disks that are empty.
func (v *VM) cloneSpec(req *types.CloneVM_Task, config types.VirtualMachineConfigInfo) (*types.CreateVM_Task, *simulator.Folder, types.BaseMethodFault) {
	vm, at := v.sim(), req.Spec.Location
	folder, ok := v.s.reg.Get(req.Folder).(*simulator.Folder)
	if !ok || vm == nil {
		return nil, nil, &types.InvalidArgument{InvalidProperty: "folder"}
	}
	var vmx object.DatastorePath
	vmx.FromString(config.Files.VmPathName)
	pool, host, store := at.Pool, at.Host, vmx.Datastore
	v.s.context().WithLock(vm, func() {
		if pool == nil {
			pool = vm.ResourcePool
		}
		if host == nil {
			host = vm.Runtime.Host
		}
	})
	if at.Datastore != nil {
		ds, ok := v.s.reg.Get(*at.Datastore).(*simulator.Datastore)
		if !ok {
			return nil, nil, &types.InvalidArgument{InvalidProperty: "spec.location.datastore"}
		}
		store = ds.Name
	}
	if pool == nil || v.s.reg.Get(*pool) == nil || host == nil {
		return nil, nil, &types.InvalidArgument{InvalidProperty: "spec.location.pool"}
	}
	spec := types.VirtualMachineConfigSpec{
		Name: req.Name, Version: config.Version, GuestId: config.GuestId, NumCPUs: config.Hardware.NumCPU,
		MemoryMB: int64(config.Hardware.MemoryMB), NumCoresPerSocket: config.Hardware.NumCoresPerSocket,
		Files: &types.VirtualMachineFileInfo{VmPathName: fmt.Sprintf("[%s]", store)},
	}
	for _, device := range config.Hardware.Device {
		change := &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: device}
		switch d := device.(type) {
		case *types.VirtualDisk:
			backing := &types.VirtualDiskFlatVer2BackingInfo{DiskMode: string(types.VirtualDiskModePersistent), ThinProvisioned: types.NewBool(true)}
			backing.FileName = fmt.Sprintf("[%s]", store)
			d.Backing, change.FileOperation = backing, types.VirtualDeviceConfigSpecFileOperationCreate
		case types.BaseVirtualSCSIController, types.BaseVirtualSATAController, *types.VirtualNVMEController:
		case types.BaseVirtualEthernetCard:
			d.GetVirtualEthernetCard().MacAddress = "" // its own
		default:
			continue // every machine has these
		}
		spec.DeviceChange = append(spec.DeviceChange, change)
	}
	return &types.CreateVM_Task{This: folder.Self, Config: spec, Pool: *pool, Host: host}, folder, nil
}

// fill gives a clone its content.
func (v *VM) fill(made *VM, from map[int32]origin, linked bool) types.BaseMethodFault {
	v.mu.Lock()
	defer v.mu.Unlock()
	made.mu.Lock()
	defer made.mu.Unlock() // nobody else has it yet
	for _, d := range made.disks {
		o, ok := from[d.key]
		var err error
		switch {
		case !ok:
			return &types.NotSupported{} // an independent disk, which a snapshot does not hold
		case linked:
			err = d.standOn(v, o.layer)
		default:
			err = d.copyFrom(o.layer)
		}
		if err != nil {
			return fileFault(o.layer.name.String(), err)
		}
	}
	made.publish(v.s.context())
	return nil
}

// copyFrom writes what another disk holds.
func (d *Disk) copyFrom(l *layer) error {
	buf := make([]byte, 1<<20)
	for off := int64(0); off < l.size; {
		n, held := l.allocated(off, min(off+int64(len(buf)), l.size))
		if held {
			if err := l.read(buf[:n], off); err != nil {
				return err
			}
			if err := d.top.write(buf[:n], off); err != nil {
				return err
			}
		}
		off += n
	}
	return nil
}

// standOn makes the disk, which is new, a delta over a file of another machine. That file, and all that it stands on, is not merged
// or moved while the disk is there.
func (d *Disk) standOn(v *VM, l *layer) error {
	empty := d.top
	v.s.forget(empty)
	if err := empty.remove(); err != nil {
		return err
	}
	d.files, d.uuid = nil, newUUID()
	child, err := l.child(empty.name, empty.local, v.s.opts.Deltas)
	if err != nil {
		d.top = nil
		return err
	}
	child.linked, child.ddb["uuid"] = true, spaced(d.uuid)
	d.top, d.files = child, []*layer{child}
	v.s.keep(child)
	for _, p := range l.chain() {
		p.clones++
	}
	d.from, d.on = v, l
	return child.describe()
}

// letGo ends what standOn began. The lock of the disk's machine is held; that of the other one comes after it.
func (d *Disk) letGo() {
	if d.from == nil {
		return
	}
	d.from.mu.Lock()
	defer d.from.mu.Unlock()
	for _, p := range d.on.chain() {
		p.clones--
	}
	d.from, d.on = nil, nil
}

// finish does what a clone is to be beyond its content.
func (v *VM) finish(req *types.CloneVM_Task) types.BaseMethodFault {
	if spec := req.Spec.Config; spec != nil {
		own := *spec
		own.Name, own.Files = "", nil
		if f := v.reconfigure(v.s.context(), v.s.context(), &types.ReconfigVM_Task{This: v.ref, Spec: own}); f != nil {
			return f
		}
	}
	vm := v.sim()
	switch {
	case vm == nil:
		return &types.ManagedObjectNotFound{Obj: v.ref}
	case req.Spec.Template:
		ctx := v.s.context()
		ctx.WithLock(vm, func() { vm.MarkAsTemplate(&types.MarkAsTemplate{This: v.ref}) })
	case req.Spec.PowerOn:
		return v.turn(types.VirtualMachinePowerStatePoweredOn)
	}
	return nil
}
