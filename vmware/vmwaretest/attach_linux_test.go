package vmwaretest

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

// attached is a change that gives a VM a disk file which is there.
func attached(file string, unit int32, mode types.VirtualDiskMode) types.VirtualMachineConfigSpec {
	return types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{&types.VirtualDeviceConfigSpec{
		Operation: types.VirtualDeviceConfigSpecOperationAdd,
		Device: &types.VirtualDisk{VirtualDevice: types.VirtualDevice{
			Key: -1, ControllerKey: 1000, UnitNumber: &unit,
			Backing: &types.VirtualDiskFlatVer2BackingInfo{
				VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: file}, DiskMode: string(mode),
			},
		}},
	}}}
}

func detached(key int32, op types.VirtualDeviceConfigSpecFileOperation) types.VirtualMachineConfigSpec {
	return types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{&types.VirtualDeviceConfigSpec{
		Operation: types.VirtualDeviceConfigSpecOperationRemove, FileOperation: op,
		Device: &types.VirtualDisk{VirtualDevice: types.VirtualDevice{Key: key}},
	}}}
}

// foreignDisk is the disk of a VM's configuration that has a file.
func (r *rig) foreignDisk(v *VM, file string) *types.VirtualDisk {
	r.t.Helper()
	for _, d := range r.vm(v, "config.hardware.device").Config.Hardware.Device {
		if disk, ok := d.(*types.VirtualDisk); ok && fileOf(disk) == file {
			return disk
		}
	}
	return nil
}

const nonpersistent = types.VirtualDiskModeIndependent_nonpersistent

// TestAttach: a parent file is attached and taken away; while it hangs there the snapshot cannot be merged (R115, R116).
func TestAttach(t *testing.T) {
	r := newRig(t, &Options{VMs: 2, DiskBytes: 1 << 20})
	v, proxy := r.s.VM("web0"), r.s.VM("web1")
	running := v.Disk(0).File()
	require.Error(t, r.reconfigure(proxy, attached(running, 1, nonpersistent)), "what a running VM writes to is locked")

	snap := r.create(v, false)
	require.NoError(t, r.reconfigure(proxy, attached(running, 1, nonpersistent)))
	disk := r.foreignDisk(proxy, running)
	require.NotNil(t, disk)
	require.Equal(t, int64(1<<20), disk.CapacityInBytes)
	require.Equal(t, v.Disk(0).Key(), strings.ToLower(disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo).Uuid))
	require.Contains(t, strings.Join(r.s.Leftovers(), "\n"), "is attached to VM web1")

	require.Error(t, r.remove(snap, false), "the file is open elsewhere")
	require.True(t, v.NeedsConsolidation())
	require.Error(t, r.reconfigure(proxy, detached(disk.Key, types.VirtualDeviceConfigSpecFileOperationDestroy)), "it is another's file")
	require.NoError(t, r.reconfigure(proxy, detached(disk.Key, "")))
	require.Nil(t, r.foreignDisk(proxy, running))
	require.NoError(t, v.Consolidate())
	require.NotContains(t, strings.Join(r.s.Leftovers(), "\n"), "attached")
	local, err := r.s.LocalFile(running)
	require.NoError(t, err)
	require.FileExists(t, local)
}

// TestAttachRefuses: places and files that a host does not take.
func TestAttachRefuses(t *testing.T) {
	r := newRig(t, &Options{VMs: 2, DiskBytes: 1 << 20})
	v, proxy := r.s.VM("web0"), r.s.VM("web1")
	require.NoError(t, v.PowerOff())
	file := v.Disk(0).File()
	for name, spec := range map[string]types.VirtualMachineConfigSpec{
		"the controller's unit": attached(file, 7, nonpersistent),
		"past the bus":          attached(file, 99, nonpersistent),
		"taken":                 attached(file, 0, nonpersistent),
		"no such file":          attached(strings.Replace(file, "web0.vmdk", "web9.vmdk", 1), 1, nonpersistent),
		"no such datastore":     attached("[nowhere] a/a.vmdk", 1, nonpersistent),
		"out of the datastore":  attached("[LocalDS_0] ../../etc/passwd", 1, nonpersistent),
		"no file at all":        attached("", 1, nonpersistent),
	} {
		require.Error(t, r.reconfigure(proxy, spec), name)
	}
	require.NoError(t, r.reconfigure(proxy, attached(file, 1, types.VirtualDiskModePersistent)), "a VM that is off lets go of its disk")
	disk := r.foreignDisk(proxy, file)
	require.Equal(t, 500, r.status(strings.TrimSuffix(file, ".vmdk")+"-flat.vmdk"), "its content is locked")
	res, err := methods.DeleteVirtualDisk_Task(r.ctx, r.c, &types.DeleteVirtualDisk_Task{This: *r.c.ServiceContent.VirtualDiskManager, Name: file, Datacenter: r.datacenter()})
	require.NoError(t, err)
	_, err = r.wait(res.Returnval, nil)
	require.True(t, fault.Is(err, &types.FileLocked{}), "%v", err)
	require.NoError(t, r.reconfigure(proxy, detached(disk.Key, "")))
}

func (r *rig) status(file string) int {
	res, _, err := r.file(r.web(), "GET", r.address(file), nil)
	require.NoError(r.t, err)
	return res.StatusCode
}

// TestProxyView: what the guest of a proxy sees when disks come and go, by UUID and by address, and what it reads and writes.
func TestProxyView(t *testing.T) {
	r := newRig(t, &Options{VMs: 2, DiskBytes: 1 << 20})
	v, proxy := r.s.VM("web0"), r.s.VM("web1")
	view, err := r.s.Proxy("web1")
	if err != nil {
		t.Skipf("no view of the guest on %s: %v", runtime.GOOS, err)
	}
	root := view.Root()
	read := func(name string) string {
		p, err := os.ReadFile(filepath.Join(root, name))
		require.NoError(t, err)
		return strings.TrimSpace(string(p))
	}
	require.Equal(t, r.vm(proxy, "config.uuid").Config.Uuid, read("sys/class/dmi/id/product_uuid"))
	view.SwapUUID(true)
	require.NotEqual(t, r.vm(proxy, "config.uuid").Config.Uuid, read("sys/class/dmi/id/product_uuid"))
	require.Equal(t, "vmw_pvscsi", read("sys/class/scsi_host/host2/proc_name"))
	require.Equal(t, "2048", read("sys/block/sda/size"))

	want := pattern(1<<20, 3)
	require.NoError(t, v.Disk(0).Write(0, want))
	file, uuid := v.Disk(0).File(), strings.ReplaceAll(v.Disk(0).Key(), "-", "")
	snap := r.create(v, false)
	require.NoError(t, v.Disk(0).Write(0, pattern(4096, 4)))
	require.NoError(t, r.reconfigure(proxy, types.VirtualMachineConfigSpec{ExtraConfig: []types.BaseOptionValue{&types.OptionValue{Key: "disk.EnableUUID", Value: "TRUE"}}}))
	view.RequireScan(true)
	require.NoError(t, r.reconfigure(proxy, attached(file, 3, nonpersistent)))
	_, err = os.Stat(filepath.Join(root, "dev/sdb"))
	require.ErrorIs(t, err, fs.ErrNotExist, "not before a scan")
	require.NoError(t, os.WriteFile(filepath.Join(root, "sys/class/scsi_host/host2/scan"), []byte("- - -\n"), 0))
	require.Equal(t, "naa."+uuid, read("sys/block/sdb/device/wwid"))
	link, err := os.Readlink(filepath.Join(root, "sys/class/scsi_disk/2:0:3:0/device/block/sdb"))
	require.NoError(t, err)
	require.Equal(t, "sdb", filepath.Base(link))

	dev, err := os.OpenFile(filepath.Join(root, "dev/disk/by-id/wwn-0x"+uuid), os.O_RDONLY|syscall.O_DIRECT, 0)
	require.NoError(t, err)
	got := make([]byte, 1<<20)
	_, err = dev.ReadAt(got, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got), "the pinned state")
	_, err = os.OpenFile(filepath.Join(root, "dev/sdb"), os.O_RDWR, 0)
	require.ErrorIs(t, err, syscall.EROFS)

	disk := r.foreignDisk(proxy, file)
	require.NoError(t, r.reconfigure(proxy, detached(disk.Key, "")))
	_, err = dev.ReadAt(got[:512], 0)
	require.ErrorIs(t, err, syscall.EIO, "the disk is gone under an open file")
	require.NoError(t, dev.Close())
	_, err = os.Stat(filepath.Join(root, "dev/sdb"))
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, r.remove(snap, false))

	require.NoError(t, v.PowerOff())
	require.NoError(t, r.reconfigure(proxy, attached(file, 3, types.VirtualDiskModeIndependent_persistent)))
	require.NoError(t, os.WriteFile(filepath.Join(root, "sys/class/scsi_host/host2/scan"), []byte("- - -\n"), 0))
	out, err := os.OpenFile(filepath.Join(root, "dev/sdb"), os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = out.WriteAt(pattern(4096, 77), 8192)
	require.NoError(t, err)
	require.NoError(t, out.Close())
	back, err := v.Disk(0).Read(8192, 4096)
	require.NoError(t, err)
	require.True(t, bytes.Equal(pattern(4096, 77), back))
	require.NoError(t, r.reconfigure(proxy, detached(r.foreignDisk(proxy, file).Key, "")))
	require.NoError(t, view.Close())
	require.NoDirExists(t, root)
}

// TestChildDisk: a delta over a pinned file reads as that, and goes with its device when it is to be destroyed.
func TestChildDisk(t *testing.T) {
	r := newRig(t, &Options{VMs: 2, DiskBytes: 1 << 20})
	v, proxy := r.s.VM("web0"), r.s.VM("web1")
	want := pattern(1<<20, 3)
	require.NoError(t, v.Disk(0).Write(0, want))
	parent := v.Disk(0).File()
	snap := r.create(v, false)
	child := strings.Replace(parent, "web0/web0.vmdk", "web1/child.vmdk", 1)
	spec := attached(child, 1, types.VirtualDiskModePersistent)
	c := spec.DeviceChange[0].GetVirtualDeviceConfigSpec()
	c.FileOperation = types.VirtualDeviceConfigSpecFileOperationCreate
	c.Device.GetVirtualDevice().Backing.(*types.VirtualDiskFlatVer2BackingInfo).Parent = &types.VirtualDiskFlatVer2BackingInfo{
		VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: parent},
	}
	require.NoError(t, r.reconfigure(proxy, spec))
	disk := r.foreignDisk(proxy, child)
	require.NotNil(t, disk)
	img, err := r.s.openFile(context.Background(), child)
	require.NoError(t, err)
	got := make([]byte, 1<<20)
	_, err = img.ReadAt(r.ctx, got, 0)
	require.NoError(t, err)
	require.NoError(t, img.Close())
	require.True(t, bytes.Equal(want, got))
	local, err := r.s.LocalFile(child)
	require.NoError(t, err)
	require.NoError(t, r.reconfigure(proxy, detached(disk.Key, types.VirtualDeviceConfigSpecFileOperationDestroy)))
	require.NoFileExists(t, local)
	require.NoError(t, r.remove(snap, false))
}
