package vmwaretest

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

// TestVirtualDisks: disk files are made, copied with what they stand on, extended, moved and deleted.
func TestVirtualDisks(t *testing.T) {
	r := newRig(t, &Options{DiskBytes: 1 << 20})
	m, files, dc := object.NewVirtualDiskManager(r.c), object.NewFileManager(r.c), object.NewDatacenter(r.c, *r.datacenter())
	done := func(task *object.Task, err error) error {
		require.NoError(t, err)
		return task.Wait(r.ctx)
	}
	require.NoError(t, files.MakeDirectory(r.ctx, "[LocalDS_0] spare", dc, false))
	require.Error(t, files.MakeDirectory(r.ctx, "[LocalDS_0] spare", dc, false))
	require.Error(t, files.MakeDirectory(r.ctx, "[LocalDS_0] ../spare", dc, true))
	const one, two, three = "[LocalDS_0] spare/one.vmdk", "[LocalDS_0] spare/two.vmdk", "[LocalDS_0] spare/three.vmdk"
	spec := &types.FileBackedVirtualDiskSpec{VirtualDiskSpec: types.VirtualDiskSpec{DiskType: "thin", AdapterType: "lsiLogic"}, CapacityKb: 1024}
	require.NoError(t, done(m.CreateVirtualDisk(r.ctx, one, dc, spec)))
	require.Error(t, done(m.CreateVirtualDisk(r.ctx, one, dc, spec)))
	require.Error(t, done(m.CreateVirtualDisk(r.ctx, "[LocalDS_0] ../x.vmdk", dc, spec)))
	uuid, err := m.QueryVirtualDiskUuid(r.ctx, one, dc)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(uuid, "60 00 c2 9"), uuid)
	require.NoError(t, done(m.ExtendVirtualDisk(r.ctx, one, dc, 2048, nil)))
	require.Error(t, done(m.ExtendVirtualDisk(r.ctx, one, dc, 1024, nil)), "never shorter")
	img, err := r.s.openFile(r.ctx, one)
	require.NoError(t, err)
	require.Equal(t, int64(2<<20), img.Size())
	require.NoError(t, img.Close())

	v := r.s.VM("web0")
	want := pattern(1<<20, 5)
	require.NoError(t, v.Disk(0).Write(0, want))
	base := v.Disk(0).File()
	snap := r.create(v, false)
	require.NoError(t, done(m.CopyVirtualDisk(r.ctx, base, dc, two, dc, nil, false)))
	require.NoError(t, done(m.MoveVirtualDisk(r.ctx, two, dc, three, dc, false)))
	img, err = r.s.openFile(r.ctx, three)
	require.NoError(t, err)
	got := make([]byte, 1<<20)
	_, err = img.ReadAt(r.ctx, got, 0)
	require.NoError(t, err)
	require.NoError(t, img.Close())
	require.True(t, bytes.Equal(want, got))
	require.Error(t, done(m.DeleteVirtualDisk(r.ctx, base, dc)), "a running VM stands on it")
	require.Error(t, done(files.DeleteDatastoreFile(r.ctx, "[LocalDS_0] web0", dc)))
	require.NoError(t, done(m.DeleteVirtualDisk(r.ctx, three, dc)))
	require.NoError(t, done(m.DeleteVirtualDisk(r.ctx, one, dc)))
	require.Error(t, done(m.DeleteVirtualDisk(r.ctx, one, dc)))
	require.NoError(t, done(files.DeleteDatastoreFile(r.ctx, "[LocalDS_0] spare", dc)))
	require.NoError(t, r.remove(snap, false))
	require.NotContains(t, strings.Join(r.s.Leftovers(), "\n"), "stray")
}

// TestCreateVM: a VM that names what is not there is refused, and the process lives.
func TestCreateVM(t *testing.T) {
	r := newRig(t, &Options{DiskBytes: 1 << 20})
	pool := *r.vm(r.s.VM("web0"), "resourcePool").ResourcePool
	folder := *r.vm(r.s.VM("web0"), "parent").Parent
	config := importSpec("made", 1<<20).ConfigSpec
	res, err := methods.CreateVM_Task(r.ctx, r.c, &types.CreateVM_Task{This: folder, Pool: pool, Config: config})
	require.NoError(t, err)
	_, err = r.wait(res.Returnval, nil)
	require.NoError(t, err)
	require.NoError(t, r.s.VM("made").Disk(0).Write(0, pattern(512, 1)))
	for _, file := range []string{"[nowhere]", "nonsense", "[LocalDS_0] ../../x"} {
		config.Name, config.Files = "bad", &types.VirtualMachineFileInfo{VmPathName: file}
		_, err = methods.CreateVM_Task(r.ctx, r.c, &types.CreateVM_Task{This: folder, Pool: pool, Config: config})
		require.Error(t, err, file)
	}
	destroy, err := methods.Destroy_Task(r.ctx, r.c, &types.Destroy_Task{This: r.s.VM("made").Ref()})
	require.NoError(t, err)
	_, err = r.wait(destroy.Returnval, nil)
	require.NoError(t, err)
	require.NotContains(t, strings.Join(r.s.Leftovers(), "\n"), "stray")
}

func (r *rig) datacenter() *types.ManagedObjectReference {
	for _, e := range r.s.reg.All("Datacenter") {
		ref := e.Reference()
		return &ref
	}
	return nil
}
