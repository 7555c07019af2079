package vmwaretest

import (
	"bytes"
	"testing"

	"github.com/hikae/hikae/vmware/vmdk"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

func (r *rig) clone(v *VM, name string, spec types.VirtualMachineCloneSpec) (*VM, error) {
	r.t.Helper()
	folder := r.vm(v, "parent").Parent
	res, err := methods.CloneVM_Task(r.ctx, r.c, &types.CloneVM_Task{This: v.Ref(), Folder: *folder, Name: name, Spec: spec})
	require.NoError(r.t, err)
	info, err := r.wait(res.Returnval, nil)
	if err != nil {
		return nil, err
	}
	return r.s.VMByRef(info.Result.(types.ManagedObjectReference)), nil
}

func whole(t *testing.T, d *Disk) []byte {
	t.Helper()
	p, err := d.Read(0, int(d.Size()))
	require.NoError(t, err)
	return p
}

// files is a disk by its files, which may lie in several folders.
func (r *rig) files(d *Disk) []byte {
	r.t.Helper()
	img, err := vmdk.Open(r.ctx, d.Chain()[0], &vmdk.Options{Allow: r.s.datastoreFolders()})
	require.NoError(r.t, err)
	defer img.Close()
	p := make([]byte, img.Size())
	_, err = img.ReadAt(r.ctx, p, 0)
	require.NoError(r.t, err)
	return p
}

// TestClone: a full clone has the content and shares nothing.
func TestClone(t *testing.T) {
	r := newRig(t, &Options{DiskBytes: 2 << 20, DisksPerVM: 2})
	v := r.s.VM("web0")
	for i, d := range v.Disks() {
		require.NoError(t, d.Write(300_000, pattern(200_001, byte(i))))
	}
	want := [][]byte{whole(t, v.Disk(0)), whole(t, v.Disk(1))}
	snap := r.create(v, false)
	require.NoError(t, v.Disk(0).Write(0, pattern(5000, 9)))

	then, err := r.clone(v, "then", types.VirtualMachineCloneSpec{Snapshot: &snap})
	require.NoError(t, err)
	now, err := r.clone(v, "now", types.VirtualMachineCloneSpec{PowerOn: true})
	require.NoError(t, err)
	require.True(t, now.PoweredOn())
	for i := range want {
		require.True(t, bytes.Equal(want[i], whole(t, then.Disk(i))), "disk %d", i)
		require.True(t, bytes.Equal(whole(t, v.Disk(i)), whole(t, now.Disk(i))), "disk %d", i)
		require.True(t, bytes.Equal(want[i], content(t, then.Disk(i).Chain()[0])), "disk %d by its files", i)
		require.NotEqual(t, v.Disk(i).Key(), then.Disk(i).Key())
	}
	require.NoError(t, then.Disk(0).Write(0, pattern(100, 1)))
	require.NoError(t, r.remove(snap, false))
	require.True(t, bytes.Equal(want[1], whole(t, v.Disk(1))))
	_, err = r.clone(v, "now", types.VirtualMachineCloneSpec{})
	require.True(t, fault.Is(err, &types.DuplicateName{}), "%v", err)
	_, err = r.clone(v, "x", types.VirtualMachineCloneSpec{Location: types.VirtualMachineRelocateSpec{DiskMoveType: "moveChildMostDiskBacking"}})
	require.True(t, fault.Is(err, &types.NotSupported{}), "%v", err)
	require.NoError(t, now.PowerOff())
	r.destroy(now)
	r.destroy(then)
	require.NoError(t, methodsLogout(r))
	require.Empty(t, r.s.Leftovers())
}

func (r *rig) destroy(v *VM) {
	r.t.Helper()
	res, err := methods.Destroy_Task(r.ctx, r.c, &types.Destroy_Task{This: v.Ref()})
	require.NoError(r.t, err)
	_, err = r.wait(res.Returnval, nil)
	require.NoError(r.t, err)
	require.Nil(r.t, r.s.VMByRef(v.Ref()))
}

// TestLinkedClone: its disks are deltas over what the snapshot holds, which is not merged while they are there.
func TestLinkedClone(t *testing.T) {
	for _, format := range []DeltaFormat{SESparse, COWD} {
		t.Run(string(format), func(t *testing.T) {
			r := newRig(t, &Options{DiskBytes: 2 << 20, Deltas: format})
			v := r.s.VM("web0")
			require.NoError(t, v.Disk(0).Write(70_000, pattern(300_000, 3)))
			want := whole(t, v.Disk(0))
			_, err := r.clone(v, "bad", types.VirtualMachineCloneSpec{Location: types.VirtualMachineRelocateSpec{DiskMoveType: "createNewChildDiskBacking"}})
			require.True(t, fault.Is(err, &types.InvalidArgument{}), "%v", err)
			snap := r.create(v, false)
			held := v.Disk(0).Chain()[1]
			require.NoError(t, v.Disk(0).Write(0, pattern(5000, 9)))
			spec := types.VirtualMachineCloneSpec{Snapshot: &snap, Location: types.VirtualMachineRelocateSpec{DiskMoveType: "createNewChildDiskBacking"}}
			c, err := r.clone(v, "linked", spec)
			require.NoError(t, err)
			d := c.Disk(0)
			require.Len(t, d.Chain(), 2)
			require.Equal(t, held, d.Chain()[1])
			require.True(t, bytes.Equal(want, whole(t, d)))
			require.True(t, bytes.Equal(want, r.files(d)))
			b := backing(r.vm(c, "config").Config, d.Device())
			require.NotNil(t, b.Parent)
			require.NotEqual(t, v.Disk(0).Key(), d.Key())

			require.NoError(t, d.Write(80_000, pattern(100_000, 5)))
			copy(want[80_000:], pattern(100_000, 5))
			own := r.create(c, false)
			require.NoError(t, d.Write(10, pattern(10, 6)))
			copy(want[10:], pattern(10, 6))
			require.Len(t, d.Chain(), 3)
			require.NoError(t, r.remove(own, false))
			require.True(t, bytes.Equal(want, r.files(d)))

			c = r.again(c)
			require.True(t, bytes.Equal(want, whole(t, c.Disk(0))))
			require.True(t, fault.Is(r.remove(snap, false), &types.FileLocked{}), "a clone stands on it")
			require.True(t, v.NeedsConsolidation())
			r.destroy(c)
			require.NoError(t, v.Consolidate())
			require.Len(t, v.Disk(0).Chain(), 1)
			require.NoError(t, methodsLogout(r))
			require.Empty(t, r.s.Leftovers())
		})
	}
}

// again unregisters a machine and registers it.
func (r *rig) again(v *VM) *VM {
	r.t.Helper()
	vm := r.vm(v, "config", "parent", "resourcePool")
	_, err := methods.UnregisterVM(r.ctx, r.c, &types.UnregisterVM{This: v.Ref()})
	require.NoError(r.t, err)
	require.Nil(r.t, r.s.VMByRef(v.Ref()))
	task, err := object.NewFolder(r.c, *vm.Parent).RegisterVM(r.ctx, vm.Config.Files.VmPathName, vm.Config.Name, false, object.NewResourcePool(r.c, *vm.ResourcePool), nil)
	require.NoError(r.t, err)
	info, err := task.WaitForResult(r.ctx)
	require.NoError(r.t, err)
	out := r.s.VMByRef(info.Result.(types.ManagedObjectReference))
	require.NotNil(r.t, out)
	return out
}

// TestRegister: a machine that was unregistered comes back with its disks, its identity and its snapshots.
func TestRegister(t *testing.T) {
	r := newRig(t, &Options{DiskBytes: 1 << 20, DisksPerVM: 2, PoweredOff: true})
	v := r.s.VM("web0")
	require.NoError(t, v.Disk(1).Write(5, pattern(100_000, 2)))
	held := whole(t, v.Disk(1))
	r.create(v, false)
	require.NoError(t, v.Disk(1).Write(0, pattern(10_000, 7)))
	want, was := whole(t, v.Disk(1)), r.vm(v, "config").Config
	again := r.again(v)
	require.NotEqual(t, v.Ref(), again.Ref())
	is := r.vm(again, "config", "snapshot")
	require.Equal(t, was.Uuid, is.Config.Uuid)
	require.Equal(t, was.InstanceUuid, is.Config.InstanceUuid)
	require.Equal(t, len(was.Hardware.Device), len(is.Config.Hardware.Device))
	require.True(t, bytes.Equal(want, whole(t, again.Disk(1))))
	require.Len(t, again.Snapshots(), 1)
	snap := is.Snapshot.RootSnapshotList[0].Snapshot
	require.Equal(t, again.Snapshots()[0].Ref, snap)
	require.NoError(t, again.PowerOn())
	res, err := methods.RevertToSnapshot_Task(r.ctx, r.c, &types.RevertToSnapshot_Task{This: snap})
	_, err = r.wait(res.Returnval, err)
	require.NoError(t, err)
	require.True(t, bytes.Equal(held, whole(t, again.Disk(1))))
	require.NoError(t, r.remove(snap, false))
	r.destroy(again)

	pool := r.s.reg.Any("ResourcePool").Reference()
	for name, req := range map[string]types.RegisterVM_Task{
		"no path":      {Pool: &pool},
		"no file":      {Pool: &pool, Path: "[LocalDS_0] web0/web0.vmx"},
		"no datastore": {Pool: &pool, Path: "[nowhere] web0/web0.vmx"},
		"out of it":    {Pool: &pool, Path: "[LocalDS_0] ../web0/web0.vmx"},
		"no pool":      {Path: "[LocalDS_0] web0/web0.vmx"},
		"no such host": {Pool: &pool, Path: "[LocalDS_0] web0/web0.vmx", Host: &types.ManagedObjectReference{Type: "HostSystem", Value: "host-0"}},
	} {
		req.This = r.s.folderFor(nil).Self
		res, err := methods.RegisterVM_Task(r.ctx, r.c, &req)
		if err == nil {
			_, err = r.wait(res.Returnval, nil)
		}
		require.Error(t, err, name)
	}
}
