package vmwaretest

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/vmware/vmdk"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/nfc"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

// decoded is the disk in a stream, as its content.
func decoded(t *testing.T, r io.Reader) []byte {
	t.Helper()
	s, err := vmdk.ReadStream(t.Context(), r)
	require.NoError(t, err)
	out := make([]byte, s.Size())
	for g, err := range s.Grains(t.Context()) {
		require.NoError(t, err)
		copy(out[g.Off:], g.Data)
	}
	return out
}

func (r *rig) exportSnapshot(snap types.ManagedObjectReference) (*nfc.Lease, *nfc.LeaseInfo) {
	r.t.Helper()
	res, err := methods.ExportSnapshot(r.ctx, r.c, &types.ExportSnapshot{This: snap})
	require.NoError(r.t, err)
	lease := nfc.NewLease(r.c, res.Returnval)
	info, err := lease.Wait(r.ctx, nil)
	require.NoError(r.t, err)
	return lease, info
}

// TestExportSnapshot: the stream holds what the snapshot pinned, the manifest fits it, and the lease ends as it should.
func TestExportSnapshot(t *testing.T) {
	r := newRig(t, &Options{DiskBytes: 1<<20 + 512, DisksPerVM: 2})
	v := r.s.VM("web0")
	var want [][]byte
	for i := range 2 {
		p := append(pattern(300_000, byte(i)), make([]byte, 1<<20+512-300_000)...)
		require.NoError(t, v.Disk(i).Write(0, p))
		want = append(want, p)
	}
	snap := r.create(v, false)
	require.NoError(t, v.Disk(0).Write(0, pattern(4096, 9)))
	lease, info := r.exportSnapshot(snap)
	require.Len(t, info.Items, 2)
	require.Contains(t, strings.Join(r.s.Leftovers(), "\n"), "lease ")
	_, err := methods.ExportSnapshot(r.ctx, r.c, &types.ExportSnapshot{This: snap})
	require.True(t, fault.Is(err, &types.TaskInProgress{}), "one lease at a time: %v", err)
	sums := map[string]string{}
	for i, item := range info.Items {
		require.Equal(t, fmt.Sprintf("disk-%d.vmdk", i), item.Path)
		res, got, err := r.file(r.stranger(), "GET", item.URL.String(), nil) // the address is the key
		require.NoError(t, err)
		require.Equal(t, 200, res.StatusCode)
		require.True(t, bytes.Equal(want[i], decoded(t, bytes.NewReader(got))), "disk %d", i)
		sum := sha1.Sum(got)
		sums[item.DeviceId] = hex.EncodeToString(sum[:])
	}
	manifest, err := lease.GetManifest(r.ctx)
	require.NoError(t, err)
	require.Len(t, manifest, 2)
	for _, m := range manifest {
		require.Equal(t, sums[m.Key], m.Sha1)
		require.Equal(t, int64(1<<20+512), m.Capacity)
	}
	require.NoError(t, lease.Complete(r.ctx))
	require.Error(t, lease.Progress(r.ctx, 50), "it is over")
	res, _, err := r.file(r.stranger(), "GET", info.Items[0].URL.String(), nil)
	require.NoError(t, err)
	require.Equal(t, 404, res.StatusCode)
	require.NoError(t, r.remove(snap, false))
	require.NotContains(t, strings.Join(r.s.Leftovers(), "\n"), "lease ")
}

// TestExportVM: only what is off; on a host alone the client puts in the host's name.
func TestExportVM(t *testing.T) {
	r := newRig(t, &Options{ESX: true, DiskBytes: 1 << 20})
	v := r.s.VM("web0")
	want := pattern(1<<20, 7)
	require.NoError(t, v.Disk(0).Write(0, want))
	_, err := methods.ExportVm(r.ctx, r.c, &types.ExportVm{This: v.Ref()})
	require.True(t, fault.Is(err, &types.InvalidPowerState{}), "%v", err)
	require.NoError(t, v.PowerOff())
	res, err := methods.ExportVm(r.ctx, r.c, &types.ExportVm{This: v.Ref()})
	require.NoError(t, err)
	lease := nfc.NewLease(r.c, res.Returnval)
	info, err := lease.Wait(r.ctx, nil)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(info.DeviceUrl[0].Url, "https://*/nfc/"), info.DeviceUrl[0].Url)
	_, got, err := r.file(r.stranger(), "GET", info.Items[0].URL.String(), nil)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, decoded(t, bytes.NewReader(got))))
	require.NoError(t, lease.Abort(r.ctx, nil))
}

// TestLeaseDies: without progress, and with it the transfers; one that is told of goes on.
func TestLeaseDies(t *testing.T) {
	r := newRig(t, &Options{DiskBytes: 1 << 20})
	v := r.s.VM("web0")
	r.s.SetLeaseTimeout(150 * time.Millisecond)
	snap := r.create(v, false)
	lease, info := r.exportSnapshot(snap)
	for range 4 {
		time.Sleep(70 * time.Millisecond)
		require.NoError(t, lease.Progress(r.ctx, 10))
	}
	require.Eventually(t, func() bool {
		res, _, err := r.file(r.stranger(), "GET", info.Items[0].URL.String(), nil)
		return err == nil && res.StatusCode == 404
	}, 5*time.Second, 20*time.Millisecond)
	err := lease.Progress(r.ctx, 10)
	require.True(t, fault.Is(err, &types.Timedout{}), "%v", err)

	r.s.SetLeaseTimeout(0)
	lease, info = r.exportSnapshot(snap)
	r.s.Fail(Fault{Method: "GET /nfc/", Cut: true, Bytes: 65_600})
	_, got, err := r.file(r.stranger(), "GET", info.Items[0].URL.String(), nil)
	require.Error(t, err, "the stream was cut")
	require.LessOrEqual(t, len(got), 65_600)
	manifest, err := lease.GetManifest(r.ctx)
	require.NoError(t, err)
	require.Empty(t, manifest, "it did not pass whole")
	require.NoError(t, lease.Complete(r.ctx))
	require.NoError(t, r.remove(snap, false))
}

// importSpec is a VM with one disk.
func importSpec(name string, size int64) *types.VirtualMachineImportSpec {
	unit := int32(0)
	return &types.VirtualMachineImportSpec{ConfigSpec: types.VirtualMachineConfigSpec{
		Name: name, GuestId: "otherLinux64Guest", NumCPUs: 1, MemoryMB: 128, Files: &types.VirtualMachineFileInfo{VmPathName: "[LocalDS_0]"},
		DeviceChange: []types.BaseVirtualDeviceConfigSpec{
			&types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: &types.ParaVirtualSCSIController{
				VirtualSCSIController: types.VirtualSCSIController{VirtualController: types.VirtualController{
					VirtualDevice: types.VirtualDevice{Key: 1000},
				}, SharedBus: types.VirtualSCSISharingNoSharing},
			}},
			&types.VirtualDeviceConfigSpec{
				Operation: types.VirtualDeviceConfigSpecOperationAdd, FileOperation: types.VirtualDeviceConfigSpecFileOperationCreate,
				Device: &types.VirtualDisk{CapacityInKB: size >> 10, VirtualDevice: types.VirtualDevice{
					Key: 2000, ControllerKey: 1000, UnitNumber: &unit,
					Backing: &types.VirtualDiskFlatVer2BackingInfo{
						VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: "[LocalDS_0]"},
						DiskMode:                     "persistent", ThinProvisioned: types.NewBool(true),
					},
				}},
			},
		},
	}}
}

func (r *rig) importVM(spec *types.VirtualMachineImportSpec) (*nfc.Lease, *nfc.LeaseInfo, error) {
	r.t.Helper()
	pool := r.vm(r.s.VM("web0"), "resourcePool").ResourcePool
	lease, err := object.NewResourcePool(r.c, *pool).ImportVApp(r.ctx, spec, nil, nil)
	require.NoError(r.t, err)
	info, err := lease.Wait(r.ctx, nil)
	return lease, info, err
}

func streamOf(t *testing.T, content []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	_, err := vmdk.WriteStream(context.Background(), &out, pipe.FromReaderAt(bytes.NewReader(content), int64(len(content))), nil)
	require.NoError(t, err)
	return out.Bytes()
}

// TestImport: the new VM's disk holds what was uploaded; what did not come whole is no VM; an import that is aborted leaves none.
func TestImport(t *testing.T) {
	r := newRig(t, &Options{DiskBytes: 1 << 20})
	want := append(make([]byte, 200_000), pattern(1<<20-200_000, 8)...)
	lease, info, err := r.importVM(importSpec("new0", 1<<20))
	require.NoError(t, err)
	res, _, err := r.file(r.stranger(), "POST", info.Items[0].URL.String(), bytes.NewReader(streamOf(t, want)), "Content-Type", "application/x-vnd.vmware-streamVmdk")
	require.NoError(t, err)
	require.Equal(t, http.StatusCreated, res.StatusCode)
	require.NoError(t, lease.Complete(r.ctx))
	v := r.s.VM("new0")
	require.NotNil(t, v)
	got, err := v.Disk(0).Read(0, 1<<20)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))

	for name, body := range map[string][]byte{
		"short": streamOf(t, want)[:50_000], "no disk": []byte("hello"), "long": streamOf(t, make([]byte, 2<<20)),
	} {
		lease, info, err := r.importVM(importSpec("bad", 1<<20))
		require.NoError(t, err, name)
		res, _, err := r.file(r.stranger(), "PUT", info.Items[0].URL.String(), bytes.NewReader(body))
		require.NoError(t, err, name)
		require.Equal(t, 500, res.StatusCode, name)
		require.Error(t, lease.Complete(r.ctx), name)
		require.Nil(t, r.s.VM("bad"), name)
	}
	lease, _, err = r.importVM(importSpec("gone", 1<<20))
	require.NoError(t, err)
	require.NotNil(t, r.s.VM("gone"))
	require.NoError(t, lease.Abort(r.ctx, nil))
	require.Nil(t, r.s.VM("gone"))

	spec := importSpec("lost", 1<<20)
	spec.ConfigSpec.Files.VmPathName = "[nowhere]"
	_, _, err = r.importVM(spec)
	require.Error(t, err, "a datastore that is not there does not end the process")
}
