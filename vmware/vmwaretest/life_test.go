package vmwaretest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vapi/rest"
	"github.com/vmware/govmomi/vapi/tags"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

func TestDisksComeAndGo(t *testing.T) {
	r := newRig(t, small(Options{}))
	v := r.s.VM("web0")
	change := func(op types.VirtualDeviceConfigSpecOperation, file types.VirtualDeviceConfigSpecFileOperation, disk *types.VirtualDisk) error {
		return r.reconfigure(v, types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{
			&types.VirtualDeviceConfigSpec{Operation: op, FileOperation: file, Device: disk},
		}})
	}
	const add, edit, remove = types.VirtualDeviceConfigSpecOperationAdd, types.VirtualDeviceConfigSpecOperationEdit, types.VirtualDeviceConfigSpecOperationRemove
	unit := int32(5)
	require.NoError(t, change(add, types.VirtualDeviceConfigSpecFileOperationCreate, &types.VirtualDisk{
		CapacityInKB: 2 << 10, VirtualDevice: types.VirtualDevice{Key: -1, ControllerKey: 1000, UnitNumber: &unit,
			Backing: &types.VirtualDiskFlatVer2BackingInfo{
				DiskMode: "persistent", VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: v.Folder() + "/more.vmdk"},
			}},
	}))
	d := v.Disk(1)
	require.NotNil(t, d)
	assert.EqualValues(t, 2<<20, d.Size())
	require.NoError(t, d.Write(1<<20, []byte("new")))
	device := func() *types.VirtualDisk {
		return object.VirtualDeviceList(r.vm(v, "config").Config.Hardware.Device).FindByKey(d.Device()).(*types.VirtualDisk)
	}
	disk := device()
	assert.Equal(t, d.Key(), disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo).Uuid)

	disk.CapacityInKB, disk.CapacityInBytes = 3<<10, 3<<20
	ref := r.create(v, false)
	hasFault[*types.InvalidDeviceSpec](t, change(edit, "", disk))
	require.NoError(t, r.remove(ref, false))
	require.NoError(t, change(edit, "", disk))
	assert.EqualValues(t, 3<<20, d.Size())
	assert.EqualValues(t, 3<<20, device().CapacityInBytes)
	assert.Len(t, content(t, d.Chain()[0]), 3<<20)

	file := d.Chain()[0]
	require.NoError(t, change(remove, types.VirtualDeviceConfigSpecFileOperationDestroy, device()))
	assert.Len(t, v.Disks(), 1)
	assert.NoFileExists(t, file)
	require.NoError(t, methodsLogout(r))
	assert.Empty(t, r.s.Leftovers())
}

func TestDestroy(t *testing.T) {
	r := newRig(t, small(Options{VMs: 2}))
	v := r.s.VM("web1")
	r.create(v, false)
	folder, err := r.s.LocalFile(v.Folder() + "/x")
	require.NoError(t, err)
	destroy := func() error {
		res, err := methods.Destroy_Task(r.ctx, r.c, &types.Destroy_Task{This: v.Ref()})
		require.NoError(t, err)
		_, err = r.wait(res.Returnval, nil)
		return err
	}
	hasFault[*types.InvalidPowerState](t, destroy())
	require.NoError(t, v.PowerOff())
	require.NoError(t, destroy())
	assert.Nil(t, r.s.VM("web1"))
	list, err := os.ReadDir(filepath.Dir(folder))
	if err == nil {
		assert.Empty(t, list)
	}
	require.NoError(t, methodsLogout(r))
	assert.Empty(t, r.s.Leftovers())
}

// TestIndependent: a snapshot does not cover an independent disk.
func TestIndependent(t *testing.T) {
	r := newRig(t, small(Options{DisksPerVM: 2}))
	v := r.s.VM("web0")
	require.NoError(t, v.Disk(1).SetIndependent())
	r.track(v)
	ref := r.create(v, false)
	assert.Len(t, v.Disk(0).Chain(), 2)
	assert.Len(t, v.Disk(1).Chain(), 1)
	snap := r.snapshot(ref)
	b := backing(&snap.Config, v.Disk(1).Device())
	assert.Equal(t, "independent_persistent", b.DiskMode)
	assert.Empty(t, b.ChangeId)
	require.NoError(t, v.Disk(1).Write(0, []byte("stays")))
	require.NoError(t, v.Revert(ref))
	got, err := v.Disk(1).Read(0, 5)
	require.NoError(t, err)
	assert.Equal(t, "stays", string(got))
}

// TestUntrackedDisk: tracking can be taken from one disk alone.
func TestUntrackedDisk(t *testing.T) {
	r := newRig(t, small(Options{DisksPerVM: 2}))
	v := r.s.VM("web0")
	require.NoError(t, r.reconfigure(v, types.VirtualMachineConfigSpec{
		ChangeTrackingEnabled: types.NewBool(true),
		ExtraConfig:           []types.BaseOptionValue{&types.OptionValue{Key: "scsi0:1.ctkEnabled", Value: "FALSE"}},
	}))
	require.NoError(t, r.remove(r.create(v, false), false))
	assert.NotEmpty(t, v.Disk(0).ChangeID())
	assert.Empty(t, v.Disk(1).ChangeID())
	values := map[string]any{}
	for _, o := range r.vm(v, "config").Config.ExtraConfig {
		values[o.GetOptionValue().Key] = o.GetOptionValue().Value
	}
	assert.Equal(t, "TRUE", values["scsi0:0.ctkEnabled"])
	assert.Equal(t, "FALSE", values["scsi0:1.ctkEnabled"])
}

func TestExtendLosesTracking(t *testing.T) {
	r := newRig(t, small(Options{}))
	v := r.s.VM("web0")
	d := v.Disk(0)
	r.track(v)
	d.LoseExtension()
	require.NoError(t, d.Extend(2<<20))
	ref := r.create(v, false)
	snap := r.snapshot(ref)
	id := backing(&snap.Config, d.Device()).ChangeId
	require.NoError(t, d.Write(1<<20-trackGrain, make([]byte, 2*trackGrain)))
	require.NoError(t, r.remove(ref, false))
	ref = r.create(v, false)
	res, err := methods.QueryChangedDiskAreas(r.ctx, r.c, &types.QueryChangedDiskAreas{
		This: v.Ref(), Snapshot: &ref, DeviceKey: d.Device(), ChangeId: id,
	})
	require.NoError(t, err)
	assert.Equal(t, []types.DiskChangeExtent{{Start: 1<<20 - trackGrain, Length: trackGrain}}, res.Returnval.ChangedArea)
}

// TestPoweredOff: a machine that is off is asked about its state of now, and may be written to from outside.
func TestPoweredOff(t *testing.T) {
	r := newRig(t, small(Options{PoweredOff: true}))
	v := r.s.VM("web0")
	d := v.Disk(0)
	r.track(v)
	img, err := d.Open("", true)
	require.NoError(t, err)
	_, err = img.WriteAt(r.ctx, []byte("restored"), 0)
	require.NoError(t, err)
	require.NoError(t, img.Close())
	res, err := methods.QueryChangedDiskAreas(r.ctx, r.c, &types.QueryChangedDiskAreas{
		This: v.Ref(), DeviceKey: d.Device(), ChangeId: d.ChangeID(),
	})
	require.NoError(t, err)
	assert.Len(t, res.Returnval.ChangedArea, 1)
	require.NoError(t, v.PowerOn())
	_, err = d.Open("", true)
	require.ErrorIs(t, err, os.ErrPermission)
	_, err = d.Open("[LocalDS_0] none.vmdk", false)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestTags(t *testing.T) {
	r := newRig(t, small(Options{VMs: 2}))
	require.NoError(t, r.s.VM("web1").Tag("backup", "daily"))
	require.NoError(t, r.s.VM("web0").Tag("backup", "weekly"))
	rc := rest.NewClient(r.c)
	require.Error(t, rc.Login(r.ctx, userInfo(r.s.User(), "wrong")))
	require.NoError(t, rc.Login(r.ctx, userInfo(r.s.User(), r.s.Password())))
	list, err := tags.NewManager(rc).ListAttachedObjects(r.ctx, "daily")
	require.NoError(t, err)
	require.Len(t, list, 1)
	assert.Equal(t, r.s.VM("web1").Ref(), list[0].Reference())
	require.NoError(t, rc.Logout(r.ctx))
}

func TestGuestOperationsAreRefused(t *testing.T) {
	r := newRig(t, small(Options{}))
	var m mo.GuestOperationsManager
	require.NoError(t, r.retrieve(*r.c.ServiceContent.GuestOperationsManager, &m))
	require.NotNil(t, m.AuthManager)
	_, err := methods.StartProgramInGuest(r.ctx, r.c, &types.StartProgramInGuest{
		This: *m.ProcessManager, Vm: r.s.VM("web0").Ref(), Auth: &types.NamePasswordAuthentication{}, Spec: &types.GuestProgramSpec{},
	})
	hasFault[*types.GuestOperationsUnavailable](t, err)
}
