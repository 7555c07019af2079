package vmwaretest

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// snapshot is a state of the machine that is kept.
type snapshot struct {
	vm       *VM
	ref      types.ManagedObjectReference
	id       int32
	name     string
	text     string
	at       time.Time
	quiesced bool
	memory   bool
	power    types.VirtualMachinePowerState
	file     string // its .vmsn
	local    string
	pins     map[int32]*pin // by device key
	parent   *snapshot
	children []*snapshot
}

// pin is what a snapshot holds of one disk. Independent disks have none.
type pin struct {
	layer    *layer
	changeID string
}

// SnapshotInfo is what a test may want to know of a snapshot.
type SnapshotInfo struct {
	Ref               types.ManagedObjectReference
	Parent            types.ManagedObjectReference // zero: it is a root
	Name, Description string
	Quiesced, Memory  bool
	Current           bool
}

// Snapshots are the machine's, parents before their children.
func (v *VM) Snapshots() (out []SnapshotInfo) {
	v.mu.Lock()
	defer v.mu.Unlock()
	walk(v.roots, func(s *snapshot) {
		info := SnapshotInfo{
			Ref: s.ref, Name: s.name, Description: s.text, Quiesced: s.quiesced, Memory: s.memory, Current: s == v.current,
		}
		if s.parent != nil {
			info.Parent = s.parent.ref
		}
		out = append(out, info)
	})
	return out
}

func walk(list []*snapshot, f func(*snapshot)) {
	for _, s := range list {
		f(s)
		walk(s.children, f)
	}
}

func (v *VM) snapshotBy(ref types.ManagedObjectReference) (found *snapshot) {
	walk(v.roots, func(s *snapshot) {
		if s.ref == ref {
			found = s
		}
	})
	return found
}

// CreateSnapshot is the administrator's way to a snapshot, without a task.
func (v *VM) CreateSnapshot(name, description string) (types.ManagedObjectReference, error) {
	ref, f := v.snap(v.s.context(), snapSpec{name: name, text: description})
	return ref, faultError(f)
}

// RemoveSnapshot is the administrator's way to remove one, without a task.
func (v *VM) RemoveSnapshot(ref types.ManagedObjectReference, children bool) error {
	return faultError(v.unsnap(v.s.context(), ref, children, nil))
}

// Revert goes back to a snapshot. What was written since is gone, and the machine is off unless the snapshot has memory.
func (v *VM) Revert(ref types.ManagedObjectReference) error {
	return faultError(v.revert(v.s.context(), ref))
}

// Consolidate merges what is left of snapshots that are gone.
func (v *VM) Consolidate() error { return faultError(v.consolidateAll(v.s.context())) }

type snapSpec struct {
	name, text      string
	memory, quiesce bool
}

// snap creates a snapshot: every disk that it covers gets a delta, and a generation of changes ends.
func (v *VM) snap(ctx *simulator.Context, spec snapSpec) (types.ManagedObjectReference, types.BaseMethodFault) {
	power := v.power()
	quiesced, f := v.quiesce(spec, power)
	if f != nil {
		return types.ManagedObjectReference{}, f
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if f := v.room(); f != nil {
		return types.ManagedObjectReference{}, f
	}
	s := &snapshot{
		vm: v, id: v.nextID, name: spec.name, text: spec.text, at: time.Now().UTC(), quiesced: quiesced, parent: v.current,
		memory: spec.memory && power == types.VirtualMachinePowerStatePoweredOn, power: power, pins: map[int32]*pin{},
	}
	if f := s.data(); f != nil {
		return types.ManagedObjectReference{}, f
	}
	tops, err := v.deltas()
	if err != nil {
		return types.ManagedObjectReference{}, fileFault(s.file, err)
	}
	for d, top := range tops {
		p := &pin{layer: d.top}
		if d.tracker != nil {
			p.changeID = d.tracker.next()
		}
		s.pins[d.key], d.top = p, top
		d.files = append(d.files, top)
	}
	v.nextID++
	v.stunned(20*time.Millisecond, 0)
	if s.parent == nil {
		v.roots = append(v.roots, s)
	} else {
		s.parent.children = append(s.parent.children, s)
	}
	v.current = s
	if err := s.register(ctx); err != nil {
		return types.ManagedObjectReference{}, fileFault(s.file, err)
	}
	v.settleTrackingAt(s)
	v.publish(ctx)
	return s.ref, nil
}

// settleTrackingAt begins tracking that was enabled before the snapshot's stun.
func (v *VM) settleTrackingAt(s *snapshot) {
	only := len(v.roots) == 1 && v.roots[0] == s
	for _, d := range v.disks {
		switch {
		case !v.tracking || d.untracked:
			d.tracker = nil
		case d.tracker == nil && !d.independent():
			d.tracker = newTracker(!only)
		}
	}
}

// deltas makes one for each disk that snapshots cover: all of them, or none.
func (v *VM) deltas() (map[*Disk]*layer, error) {
	out := map[*Disk]*layer{}
	for _, d := range v.disks {
		if d.independent() {
			continue
		}
		name, local, err := d.freeName()
		if err == nil {
			out[d], err = d.top.child(name, local, v.s.opts.Deltas)
		}
		if err != nil {
			delete(out, d)
			for _, l := range out {
				v.s.forget(l)
				err = errors.Join(err, l.remove())
			}
			return nil, err
		}
		v.s.keep(out[d])
	}
	return out, nil
}

// drop removes a file of the disk.
func (v *VM) drop(d *Disk, l *layer) error {
	v.s.forget(l)
	d.files = slices.DeleteFunc(d.files, func(x *layer) bool { return x == l })
	return l.remove()
}

// data makes the snapshot's own file.
func (s *snapshot) data() types.BaseMethodFault {
	var vmx object.DatastorePath
	vm, ctx := s.vm.sim(), s.vm.s.context()
	if vm == nil {
		return &types.ManagedObjectNotFound{Obj: s.vm.ref}
	}
	ctx.WithLock(vm, func() { vmx.FromString(vm.Config.Files.VmPathName) })
	p := object.DatastorePath{Datastore: vmx.Datastore, Path: path.Join(path.Dir(vmx.Path), fmt.Sprintf("%s-Snapshot%d.vmsn", s.vm.name, s.id))}
	local, err := s.vm.s.local(p)
	if err == nil {
		err = os.WriteFile(local, fmt.Appendf(nil, "snapshot %d of %s\n", s.id, s.vm.name), 0o600)
	}
	if err != nil {
		return fileFault(p.String(), err)
	}
	s.file, s.local = p.String(), local
	return nil
}

// register makes the snapshot's managed object, with the configuration of now on the files that it holds.
func (s *snapshot) register(ctx *simulator.Context) error {
	vm := s.vm.sim()
	var config types.VirtualMachineConfigInfo
	var err error
	ctx.WithLock(vm, func() { config, err = cloned(vm.Config) })
	if err != nil {
		return err
	}
	snap := &simulator.VirtualMachineSnapshot{}
	snap.Vm, snap.Config = s.vm.ref, config
	s.ref = s.vm.s.reg.Put(snap).Reference()
	return nil
}

// publish makes the snapshot's managed object say what is so.
func (s *snapshot) publish(ctx *simulator.Context) {
	snap, ok := s.vm.s.reg.Get(s.ref).(*simulator.VirtualMachineSnapshot)
	if !ok {
		return
	}
	ctx.WithLock(snap, func() {
		devices := make([]types.BaseVirtualDevice, len(snap.Config.Hardware.Device))
		for i, dev := range snap.Config.Hardware.Device {
			devices[i] = dev
			if disk, ok := dev.(*types.VirtualDisk); ok {
				if p, d := s.pins[disk.Key], s.vm.diskBy(disk.Key); p != nil && d != nil {
					devices[i] = d.device(disk, p.layer, p.changeID)
				}
			}
		}
		var children []types.ManagedObjectReference
		for _, c := range s.children {
			children = append(children, c.ref)
		}
		ctx.Update(snap, []types.PropertyChange{
			{Name: "config.hardware.device", Val: devices}, {Name: "childSnapshot", Val: children},
		})
	})
}

func trees(list []*snapshot) (out []types.VirtualMachineSnapshotTree) {
	for _, s := range list {
		out = append(out, types.VirtualMachineSnapshotTree{
			Snapshot: s.ref, Vm: s.vm.ref, Name: s.name, Description: s.text, Id: s.id, CreateTime: s.at, State: s.power,
			Quiesced: s.quiesced, ReplaySupported: types.NewBool(false), ChildSnapshotList: trees(s.children),
		})
	}
	return out
}

// unsnap removes a snapshot, or with children a whole branch, and merges what nothing holds any more. Where that cannot be
// done the snapshot is gone nevertheless, and the machine needs consolidation: as on a host.
func (v *VM) unsnap(ctx *simulator.Context, ref types.ManagedObjectReference, children bool, broken types.BaseMethodFault) types.BaseMethodFault {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.snapshotBy(ref)
	if s == nil {
		return &types.ManagedObjectNotFound{Obj: ref}
	}
	v.cut(ctx, s, children)
	f := broken
	if f == nil {
		f = v.compact()
	}
	v.consolidate = v.mergeable()
	v.settleTracking()
	v.publish(ctx)
	return f
}

// cut takes a snapshot out of the tree. Its children hang on its parent then.
func (v *VM) cut(ctx *simulator.Context, s *snapshot, children bool) {
	if children {
		for len(s.children) > 0 {
			v.cut(ctx, s.children[0], true)
		}
	}
	siblings := &v.roots
	if s.parent != nil {
		siblings = &s.parent.children
	}
	var list []*snapshot
	for _, x := range *siblings {
		if x == s {
			list = append(list, s.children...)
			continue
		}
		list = append(list, x)
	}
	*siblings = list
	for _, c := range s.children {
		c.parent = s.parent
	}
	if v.current == s {
		v.current = s.parent
	}
	s.children = nil
	_ = os.Remove(s.local) // a file that is gone already is as good
	v.s.reg.Remove(ctx, s.ref)
}

// revert goes back: the running deltas are thrown away, and each disk gets a new one over what the snapshot holds.
func (v *VM) revert(ctx *simulator.Context, ref types.ManagedObjectReference) types.BaseMethodFault {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.snapshotBy(ref)
	if s == nil {
		return &types.ManagedObjectNotFound{Obj: ref}
	}
	for _, d := range v.disks {
		if f := v.revertDisk(d, s.pins[d.key]); f != nil {
			return f
		}
	}
	v.current = s
	if !s.memory {
		v.setPower(ctx, types.VirtualMachinePowerStatePoweredOff)
	}
	v.stunned(20*time.Millisecond, 0)
	f := v.compact()
	v.consolidate = v.mergeable()
	v.publish(ctx)
	return f
}

func (v *VM) revertDisk(d *Disk, p *pin) types.BaseMethodFault {
	if p == nil {
		return nil
	}
	name, local, err := d.freeName()
	if err != nil {
		return fileFault(d.top.name.String(), err)
	}
	top, err := p.layer.child(name, local, v.s.opts.Deltas)
	if err != nil {
		return fileFault(name.String(), err)
	}
	v.s.keep(top)
	d.top, d.files = top, append(d.files, top)
	if d.tracker == nil {
		return nil
	}
	if _, n, ok := parseChangeID(p.changeID); ok && !v.fragile {
		d.tracker.rewind(n)
	} else {
		d.tracker = newTracker(false)
	}
	return nil
}

func (v *VM) pinned(d *Disk, l *layer) (yes bool) {
	walk(v.roots, func(s *snapshot) {
		if p := s.pins[d.key]; p != nil && p.layer == l {
			yes = true
		}
	})
	return yes
}

func (d *Disk) childrenOf(l *layer) (out []*layer) {
	for _, c := range d.files {
		if c.parent == l {
			out = append(out, c)
		}
	}
	return out
}

// faultError is a fault as an error, and nil for nil.
func faultError(f types.BaseMethodFault) error {
	if f == nil {
		return nil
	}
	return &FaultError{Fault: f}
}

// FaultError is a fault of the server, where no wire is between.
type FaultError struct{ Fault types.BaseMethodFault }

// Error names the fault.
func (e *FaultError) Error() string { return faultName(e.Fault) }
