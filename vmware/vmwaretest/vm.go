package vmwaretest

import (
	"fmt"
	"sync"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// VM is a virtual machine as its guest, its administrator and its hardware see it.
type VM struct {
	s   *Server
	ref types.ManagedObjectReference

	mu          sync.Mutex
	name        string
	disks       []*Disk
	roots       []*snapshot
	current     *snapshot
	nextID      int32
	tracking    bool // as configured; what is so is each disk's tracker
	fragile     bool // reverting breaks the tracker aloud
	consolidate bool // files are left of a snapshot that is gone
	stun        time.Duration
	busy        string // the operation under way
	quiescing   Quiescing
	onQuiesce   func()
	disabled    map[string]string // method to who disabled it
	gone        bool
}

// adopt takes a machine of the simulator's over: its disks get content. Done already, it is the same machine.
//
// Disks whose device keys are in existing have files already; all others are new.
func (s *Server) adopt(ref types.ManagedObjectReference, existing map[int32]bool) (*VM, error) {
	vm, ok := s.reg.Get(ref).(*simulator.VirtualMachine)
	if !ok {
		return nil, fmt.Errorf("%s is no VM", ref.Value)
	}
	if v := s.VMByRef(ref); v != nil {
		return v, nil
	}
	v := &VM{s: s, ref: ref, disabled: map[string]string{}, nextID: 1}
	v.mu.Lock()
	defer v.mu.Unlock()
	var devices []types.BaseVirtualDevice
	ctx := s.context()
	ctx.WithLock(vm, func() {
		v.name = vm.Config.Name
		v.tracking = vm.Config.ChangeTrackingEnabled != nil && *vm.Config.ChangeTrackingEnabled
		devices = vm.Config.Hardware.Device
	})
	for _, d := range devices {
		if disk, ok := d.(*types.VirtualDisk); ok {
			if err := v.takeDisk(disk, !existing[disk.Key]); err != nil {
				return nil, err
			}
		}
	}
	s.mu.Lock()
	s.vms[ref] = v
	s.mu.Unlock()
	v.publish(ctx)
	return v, nil
}

// takeDisk makes a disk of the configuration one with content: a new one, or what is there.
func (v *VM) takeDisk(disk *types.VirtualDisk, fresh bool) error {
	b, ok := disk.Backing.(types.BaseVirtualDeviceFileBackingInfo)
	if !ok {
		return nil
	}
	var name object.DatastorePath
	if !name.FromString(b.GetVirtualDeviceFileBackingInfo().FileName) {
		return fmt.Errorf("%q is no datastore path", b.GetVirtualDeviceFileBackingInfo().FileName)
	}
	local, err := v.s.local(name)
	if err != nil {
		return err
	}
	d := &Disk{vm: v, key: disk.Key, mode: string(types.VirtualDiskModePersistent)}
	if flat, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo); ok {
		d.uuid, d.thin = flat.Uuid, flat.ThinProvisioned != nil && *flat.ThinProvisioned
		d.eager = flat.EagerlyScrub != nil && *flat.EagerlyScrub
		if flat.DiskMode != "" {
			d.mode = flat.DiskMode
		}
	}
	switch l := v.s.layerOf(name.String()); {
	case l != nil && !fresh:
		d.top = l
	case fresh:
		d.uuid = newUUID()
		d.top, err = newBase(name, local, capacityOf(disk), d.uuid, d.thin)
	default:
		d.top, err = v.s.openExisting(name, local)
	}
	if err != nil {
		return err
	}
	own := d.top.own()
	if id := joined(own[len(own)-1].ddb["uuid"]); id != "" {
		d.uuid = id
	}
	for _, l := range own {
		v.s.keep(l)
		d.files = append(d.files, l)
	}
	v.disks = append(v.disks, d)
	return nil
}

func capacityOf(d *types.VirtualDisk) int64 {
	if d.CapacityInBytes > 0 {
		return d.CapacityInBytes
	}
	return d.CapacityInKB << 10
}

// Ref is the machine's reference.
func (v *VM) Ref() types.ManagedObjectReference { return v.ref }

// Name is the machine's name.
func (v *VM) Name() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.name
}

// Disks are the machine's own, in the order in which they came.
func (v *VM) Disks() []*Disk {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]*Disk(nil), v.disks...)
}

// Disk is the disk of that number, from 0, or nil.
func (v *VM) Disk(i int) *Disk {
	d := v.Disks()
	if i < 0 || i >= len(d) {
		return nil
	}
	return d[i]
}

// DiskByKey is the disk of that device key, or nil.
func (v *VM) DiskByKey(key int32) *Disk {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.diskBy(key)
}

func (v *VM) diskBy(key int32) *Disk {
	for _, d := range v.disks {
		if d.key == key {
			return d
		}
	}
	return nil
}

// sim is the simulator's machine, or nil when it is gone.
func (v *VM) sim() *simulator.VirtualMachine {
	vm, _ := v.s.reg.Get(v.ref).(*simulator.VirtualMachine)
	return vm
}

// PoweredOn reports whether the machine runs.
func (v *VM) PoweredOn() bool { return v.power() == types.VirtualMachinePowerStatePoweredOn }

func (v *VM) power() (state types.VirtualMachinePowerState) {
	vm, ctx := v.sim(), v.s.context()
	if vm == nil {
		return types.VirtualMachinePowerStatePoweredOff
	}
	ctx.WithLock(vm, func() { state = vm.Runtime.PowerState })
	return state
}

// PowerOn starts the machine, and is a stun: tracking that was enabled begins.
func (v *VM) PowerOn() error { return faultError(v.turn(types.VirtualMachinePowerStatePoweredOn)) }

// PowerOff pulls the plug.
func (v *VM) PowerOff() error { return faultError(v.turn(types.VirtualMachinePowerStatePoweredOff)) }

func (v *VM) turn(to types.VirtualMachinePowerState) types.BaseMethodFault {
	v.mu.Lock()
	defer v.mu.Unlock()
	ctx, vm := v.s.context(), v.sim()
	if vm == nil {
		return &types.ManagedObjectNotFound{Obj: v.ref}
	}
	var was types.VirtualMachinePowerState
	ctx.WithLock(vm, func() { was = vm.Runtime.PowerState })
	if was == to {
		return &types.InvalidPowerState{RequestedState: to, ExistingState: was}
	}
	if to == types.VirtualMachinePowerStatePoweredOn {
		if f := v.reach(); f != nil {
			return f
		}
		if f := v.heldElsewhere(); f != nil {
			return f
		}
		v.settleTracking()
	}
	v.setPower(ctx, to)
	v.publish(ctx)
	return nil
}

func (v *VM) setPower(ctx *simulator.Context, to types.VirtualMachinePowerState) {
	vm := v.sim()
	ctx.WithLock(vm, func() {
		ctx.Update(vm, []types.PropertyChange{
			{Name: "runtime.powerState", Val: to}, {Name: "summary.runtime.powerState", Val: to},
		})
	})
	v.tellTools(ctx, to)
}

// NeedsConsolidation reports whether files are left of snapshots that are gone.
func (v *VM) NeedsConsolidation() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.consolidate
}

// Tracked reports whether change tracking is at work on every disk that a snapshot covers.
func (v *VM) Tracked() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, d := range v.disks {
		if !d.independent() && d.tracker == nil {
			return false
		}
	}
	return true
}

// ResetTracking gives every disk that is tracked a new tracking, as hosts do after they lost theirs.
func (v *VM) ResetTracking() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, d := range v.disks {
		if d.tracker != nil {
			d.tracker = newTracker(false)
		}
	}
	v.publish(v.s.context())
}

// RevertBreaksTracking makes a revert give the disks a new tracking, instead of one that silently knows too little.
func (v *VM) RevertBreaksTracking(yes bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fragile = yes
}

// settleTracking makes what is configured true, as a stun does.
func (v *VM) settleTracking() {
	for _, d := range v.disks {
		switch {
		case !v.tracking || d.untracked:
			d.tracker = nil
		case d.tracker == nil && !d.independent():
			d.tracker = newTracker(len(v.roots) > 0)
		}
	}
}

// begin takes the machine for one operation, as a host does no two of them at once.
func (v *VM) begin(what string) types.BaseMethodFault {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.gone:
		return &types.ManagedObjectNotFound{Obj: v.ref}
	case v.busy != "":
		return &types.TaskInProgress{}
	}
	v.busy = what
	return nil
}

func (v *VM) end() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.busy = ""
}
