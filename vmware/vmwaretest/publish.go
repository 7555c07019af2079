package vmwaretest

import (
	"bytes"
	"os"
	"path"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vim25/xml"
)

// publish makes the machine's properties say what is so. The machine's lock is held.
func (v *VM) publish(ctx *simulator.Context) {
	vm := v.sim()
	if vm == nil {
		return
	}
	ctx.WithLock(vm, func() {
		changes := []types.PropertyChange{
			{Name: "config.hardware.device", Val: v.devices(vm.Config.Hardware.Device)},
			{Name: "config.keyId", Val: v.keyID()},
			{Name: "config.changeTrackingEnabled", Val: v.tracking},
			{Name: "config.extraConfig", Val: v.ctkOptions(vm.Config.Hardware.Device, vm.Config.ExtraConfig)},
			{Name: "runtime.consolidationNeeded", Val: v.consolidate},
			{Name: "summary.runtime.consolidationNeeded", Val: v.consolidate},
			{Name: "disabledMethod", Val: v.disabledNames()},
			{Name: "layoutEx", Val: v.layout(vm)},
		}
		ctx.Update(vm, append(changes, v.snapshotChanges()...))
	})
	walk(v.roots, func(s *snapshot) { s.publish(ctx) })
}

// devices are those of a configuration, with the disks as they are now. What is given is not touched: others read it.
func (v *VM) devices(old []types.BaseVirtualDevice) []types.BaseVirtualDevice {
	out := make([]types.BaseVirtualDevice, len(old))
	for i, dev := range old {
		out[i] = dev
		if disk, ok := dev.(*types.VirtualDisk); ok {
			if d := v.diskBy(disk.Key); d != nil {
				out[i] = d.device(disk, d.top, d.liveID())
			}
		}
	}
	return out
}

// keyID is the key of the machine's own files: the first that one of its disks has.
func (v *VM) keyID() types.AnyType {
	for _, d := range v.disks {
		if id := d.keyID(); id != nil {
			return *id
		}
	}
	return nil
}

func (d *Disk) liveID() string {
	if d.tracker == nil {
		return ""
	}
	return d.tracker.id()
}

// device is a disk as a configuration has it, on the files that it stands on there.
func (d *Disk) device(old *types.VirtualDisk, on *layer, changeID string) *types.VirtualDisk {
	disk := *old
	disk.CapacityInBytes, disk.CapacityInKB = on.size, on.size>>10
	disk.Backing = d.backing(on, changeID)
	return &disk
}

func (d *Disk) backing(l *layer, changeID string) types.BaseVirtualDeviceBackingInfo {
	file := types.VirtualDeviceFileBackingInfo{FileName: l.name.String()}
	if ds := d.vm.s.datastore(l.name.Datastore); ds != nil {
		file.Datastore = &ds.Self
	}
	if d.vm.s.opts.SEBacking && l.kind == "seSparse" {
		b := &types.VirtualDiskSeSparseBackingInfo{
			VirtualDeviceFileBackingInfo: file, DiskMode: d.mode, Uuid: d.uuid, ContentId: l.ddb["longContentID"], ChangeId: changeID,
			DeltaDiskFormat: "seSparseFormat", KeyId: d.keyID(),
		}
		b.Parent, _ = d.backing(l.parent, "").(*types.VirtualDiskSeSparseBackingInfo)
		return b
	}
	b := &types.VirtualDiskFlatVer2BackingInfo{
		VirtualDeviceFileBackingInfo: file, DiskMode: d.mode, Uuid: d.uuid, ContentId: l.ddb["longContentID"], ChangeId: changeID,
		ThinProvisioned: types.NewBool(d.thin), EagerlyScrub: types.NewBool(d.eager), WriteThrough: types.NewBool(false),
		Split: types.NewBool(false), DigestEnabled: types.NewBool(false), Sharing: string(types.VirtualDiskSharingSharingNone),
		KeyId: d.keyID(),
	}
	switch l.kind {
	case "seSparse":
		b.DeltaDiskFormat = "seSparseFormat"
	case "vmfsSparse":
		b.DeltaDiskFormat = "redoLogFormat"
	}
	if l.parent != nil {
		b.Parent, _ = d.backing(l.parent, "").(*types.VirtualDiskFlatVer2BackingInfo)
	}
	return b
}

// snapshotChanges is the tree of snapshots.
func (v *VM) snapshotChanges() []types.PropertyChange {
	if len(v.roots) == 0 {
		return []types.PropertyChange{{Name: "snapshot", Val: nil}, {Name: "rootSnapshot", Val: nil}}
	}
	info := &types.VirtualMachineSnapshotInfo{RootSnapshotList: trees(v.roots)}
	if v.current != nil {
		info.CurrentSnapshot = &v.current.ref
	}
	var roots []types.ManagedObjectReference
	for _, r := range v.roots {
		roots = append(roots, r.ref)
	}
	return []types.PropertyChange{{Name: "snapshot", Val: info}, {Name: "rootSnapshot", Val: roots}}
}

// layout is the list of the machine's files: the simulator's, with the disks' files as they are now.
func (v *VM) layout(vm *simulator.VirtualMachine) *types.VirtualMachineFileLayoutEx {
	out := &types.VirtualMachineFileLayoutEx{Timestamp: time.Now()}
	if vm.LayoutEx != nil {
		for _, f := range vm.LayoutEx.File {
			if path.Ext(f.Name) != ".vmdk" && path.Ext(f.Name) != ".vmsn" {
				out.File = append(out.File, f)
			}
		}
	}
	b := layoutBuilder{out: out, next: 1, units: map[*layer]types.VirtualMachineFileLayoutExDiskUnit{}}
	for _, f := range out.File {
		b.next = max(b.next, f.Key+1)
	}
	for _, d := range v.disks {
		out.Disk = append(out.Disk, b.disk(d.key, d.top))
		for _, l := range d.files {
			b.unit(l)
		}
	}
	walk(v.roots, func(s *snapshot) {
		lay := types.VirtualMachineFileLayoutExSnapshotLayout{Key: s.ref, MemoryKey: -1, DataKey: b.file(s.file, "snapshotData", s.local)}
		for _, d := range v.disks {
			if p := s.pins[d.key]; p != nil && p.layer != nil {
				lay.Disk = append(lay.Disk, b.disk(d.key, p.layer))
			}
		}
		out.Snapshot = append(out.Snapshot, lay)
	})
	return out
}

type layoutBuilder struct {
	out   *types.VirtualMachineFileLayoutEx
	next  int32
	units map[*layer]types.VirtualMachineFileLayoutExDiskUnit
}

func (b *layoutBuilder) file(name, kind, local string) int32 {
	var size int64
	if info, err := os.Stat(local); err == nil {
		size = info.Size()
	}
	b.out.File = append(b.out.File, types.VirtualMachineFileLayoutExFileInfo{
		Key: b.next, Name: name, Type: kind, Size: size, UniqueSize: size, Accessible: types.NewBool(true),
	})
	b.next++
	return b.next - 1
}

func (b *layoutBuilder) unit(l *layer) types.VirtualMachineFileLayoutExDiskUnit {
	if u, ok := b.units[l]; ok {
		return u
	}
	data := object.DatastorePath{Datastore: l.name.Datastore, Path: extentName(l.name.Path, l.kind)}
	u := types.VirtualMachineFileLayoutExDiskUnit{FileKey: []int32{
		b.file(l.name.String(), "diskDescriptor", l.local), b.file(data.String(), "diskExtent", l.extent()),
	}}
	b.units[l] = u
	return u
}

func (b *layoutBuilder) disk(key int32, l *layer) types.VirtualMachineFileLayoutExDiskLayout {
	out := types.VirtualMachineFileLayoutExDiskLayout{Key: key}
	chain := l.chain()
	for i := len(chain) - 1; i >= 0; i-- { // the base first
		out.Chain = append(out.Chain, b.unit(chain[i]))
	}
	return out
}

func (v *VM) disabledNames() []string {
	var out []string
	for m := range v.disabled {
		out = append(out, m)
	}
	sortBy(out, func(s string) string { return s })
	return out
}

// cloned is a configuration that shares nothing with the one given.
func cloned(config *types.VirtualMachineConfigInfo) (out types.VirtualMachineConfigInfo, err error) {
	var buf bytes.Buffer
	if err := xml.NewEncoder(&buf).Encode(config); err != nil {
		return out, err
	}
	dec := xml.NewDecoder(&buf)
	dec.TypeFunc = types.TypeFunc()
	return out, dec.Decode(&out)
}
