package vmwaretest

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

// TestAttachTogether: a controller comes with the disks that hang on it, by a key below zero; and where one disk cannot be attached,
// none is, and the controller goes too.
func TestAttachTogether(t *testing.T) {
	r := newRig(t, &Options{VMs: 2, DiskBytes: 1 << 20, DisksPerVM: 3})
	v, proxy := r.s.VM("web0"), r.s.VM("web1")
	var files []string
	for _, d := range v.Disks() {
		files = append(files, d.File())
	}
	snap := r.create(v, false)
	spec := func(files ...string) types.VirtualMachineConfigSpec {
		out := types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{&types.VirtualDeviceConfigSpec{
			Operation: types.VirtualDeviceConfigSpecOperationAdd,
			Device: &types.ParaVirtualSCSIController{VirtualSCSIController: types.VirtualSCSIController{
				SharedBus:         types.VirtualSCSISharingNoSharing,
				VirtualController: types.VirtualController{VirtualDevice: types.VirtualDevice{Key: -100}},
			}},
		}}}
		for i, file := range files {
			change := attached(file, int32(i), nonpersistent).DeviceChange[0]
			d := change.GetVirtualDeviceConfigSpec().Device.GetVirtualDevice()
			d.Key, d.ControllerKey = int32(-1-i), -100
			out.DeviceChange = append(out.DeviceChange, change)
		}
		return out
	}
	devices := func() int { return len(r.vm(proxy, "config.hardware.device").Config.Hardware.Device) }
	before := devices()
	missing := strings.Replace(files[1], "web0.vmdk", "none.vmdk", 1)
	missing = strings.Replace(missing, "web0_1.vmdk", "none.vmdk", 1)
	require.Error(t, r.reconfigure(proxy, spec(files[0], files[2], missing)))
	require.Equal(t, before, devices())
	require.NotContains(t, strings.Join(r.s.Leftovers(), "\n"), "attached")

	require.NoError(t, r.reconfigure(proxy, spec(files...)))
	require.Equal(t, before+4, devices())
	controller := r.foreignDisk(proxy, files[0]).ControllerKey
	require.Positive(t, controller)
	keys := map[int32]bool{}
	for i, file := range files {
		disk := r.foreignDisk(proxy, file)
		require.NotNil(t, disk, file)
		require.Equal(t, controller, disk.ControllerKey)
		require.Equal(t, int32(i), *disk.UnitNumber)
		keys[disk.Key] = true
	}
	require.Len(t, keys, 3)
	var away types.VirtualMachineConfigSpec
	for key := range keys {
		away.DeviceChange = append(away.DeviceChange, detached(key, "").DeviceChange...)
	}
	require.NoError(t, r.reconfigure(proxy, away))
	require.Equal(t, before+1, devices())
	require.NoError(t, r.remove(snap, false))
}

// TestPowerOnLocked: a VM whose disk another one writes to cannot be turned on.
func TestPowerOnLocked(t *testing.T) {
	r := newRig(t, &Options{VMs: 2, DiskBytes: 1 << 20})
	v, proxy := r.s.VM("web0"), r.s.VM("web1")
	require.NoError(t, v.PowerOff())
	file := v.Disk(0).File()
	require.NoError(t, r.reconfigure(proxy, attached(file, 1, types.VirtualDiskModePersistent)))
	res, err := methods.PowerOnVM_Task(r.ctx, r.c, &types.PowerOnVM_Task{This: v.Ref()})
	_, err = r.wait(res.Returnval, err)
	require.True(t, fault.Is(err, &types.FileLocked{}), "%v", err)
	require.False(t, v.PoweredOn())
	require.NoError(t, r.reconfigure(proxy, detached(r.foreignDisk(proxy, file).Key, "")))
	require.NoError(t, v.PowerOn())
}

// TestEncrypted: the backing names the key, files show ciphertext, no lease gives the disk out, and the disk service its content.
func TestEncrypted(t *testing.T) {
	r := newRig(t, &Options{DiskBytes: 1 << 20, PoweredOff: true})
	v := r.s.VM("web0")
	want := pattern(1<<20, 4)
	require.NoError(t, v.Disk(0).Write(0, want))
	v.Disk(0).SetEncrypted("key-1")
	config := r.vm(v, "config").Config
	require.Equal(t, "key-1", backing(config, v.Disk(0).Device()).KeyId.KeyId)
	require.Equal(t, "key-1", config.KeyId.KeyId)
	file := v.Disk(0).File()
	res, text, err := r.file(r.web(), "GET", r.address(file), nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Contains(t, string(text), "createType", "a descriptor can be read")
	_, got, err := r.file(r.web(), "GET", r.address(strings.TrimSuffix(file, ".vmdk")+"-flat.vmdk"), nil)
	require.NoError(t, err)
	require.Len(t, got, len(want))
	require.False(t, bytes.Equal(want, got))
	require.False(t, bytes.Contains(got, want[:64]))
	_, err = methods.ExportVm(r.ctx, r.c, &types.ExportVm{This: v.Ref()})
	require.True(t, fault.Is(err, &types.NotSupported{}), "%v", err)
	img, err := r.s.OpenDisk(file, false)
	require.NoError(t, err)
	inside := make([]byte, len(want))
	_, err = img.ReadAt(r.ctx, inside, 0)
	require.NoError(t, err)
	require.NoError(t, img.Close())
	require.True(t, bytes.Equal(want, inside), "its host has the key")
	v.Disk(0).SetEncrypted("")
	require.Nil(t, r.vm(v, "config").Config.KeyId)
	_, got, err = r.file(r.web(), "GET", r.address(strings.TrimSuffix(file, ".vmdk")+"-flat.vmdk"), nil)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
}
