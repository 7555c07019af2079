package vmware

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
	"pgregory.net/rapid"

	"github.com/hikae/hikae"
)

// drawConfig makes a configuration of any controllers, disks, cards and other devices.
func drawConfig(t *rapid.T) *types.VirtualMachineConfigInfo {
	config := &types.VirtualMachineConfigInfo{Name: "was", GuestId: "debian12_64Guest", Version: "vmx-19", Firmware: rapid.SampledFrom([]string{"bios", "efi"}).Draw(t, "firmware")}
	config.Files.VmPathName = "[ds1] was/was.vmx"
	config.Hardware.NumCPU, config.Hardware.MemoryMB = 2, 1024
	disk := 0
	for i := range rapid.IntRange(1, 6).Draw(t, "controllers") {
		var c types.BaseVirtualDevice
		switch rapid.IntRange(0, 4).Draw(t, "kind") {
		case 0:
			c = &types.ParaVirtualSCSIController{}
		case 1:
			c = &types.VirtualLsiLogicSASController{}
		case 2:
			c = &types.VirtualAHCIController{}
		case 3:
			c = &types.VirtualNVMEController{}
		default:
			c = &types.VirtualIDEController{}
		}
		base := c.(types.BaseVirtualController).GetVirtualController()
		base.Key, base.BusNumber = int32(1000+i), int32(i)
		config.Hardware.Device = append(config.Hardware.Device, c)
		for unit := range rapid.IntRange(0, 4).Draw(t, "disks") {
			thin, eager := rapid.Bool().Draw(t, "thin"), rapid.Bool().Draw(t, "eager")
			v := &types.VirtualDisk{CapacityInBytes: int64(disk+1) << 20}
			v.Key, v.ControllerKey, v.UnitNumber = int32(2000+disk), base.Key, &[]int32{int32(unit)}[0]
			v.Backing = &types.VirtualDiskFlatVer2BackingInfo{DiskMode: "persistent", ThinProvisioned: &thin, EagerlyScrub: &eager, Uuid: fmt.Sprintf("6000C29%d", disk),
				VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: fmt.Sprintf("[ds%d] was/was_%d.vmdk", 1+disk%2, disk)}}
			config.Hardware.Device = append(config.Hardware.Device, v)
			disk++
		}
	}
	for range rapid.IntRange(0, 3).Draw(t, "drives") {
		config.Hardware.Device = append(config.Hardware.Device, &types.VirtualCdrom{VirtualDevice: types.VirtualDevice{ControllerKey: 1000, UnitNumber: new(int32),
			Backing: &types.VirtualCdromIsoBackingInfo{VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: "[iso] a.iso"}}}})
	}
	return config
}

// R182: a configuration goes through its document and comes back as a specification in which every disk of the point hangs
// where it hung, is as large, and takes up room as it did; keys are unique, and no device leads to what belongs to the old VM.
func TestRecordRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		config := drawConfig(t)
		text, err := encodeConfig(config)
		require.NoError(t, err)
		was, err := readRecord(map[string][]byte{configXML: text})
		require.NoError(t, err)
		again, err := encodeConfig(was)
		require.NoError(t, err)
		require.True(t, bytes.Equal(text, again))

		var want []hikae.Disk
		disks := DisksOf(was)
		for _, d := range disks {
			want = append(want, d.Disk)
		}
		h := drawnHardware()
		require.NoError(t, h.devices(t.Context(), was, want))
		var devices []types.BaseVirtualDevice
		keys := map[int32]bool{}
		for _, c := range was.Hardware.Device { // those that every VM has
			if _, ok := c.(*types.VirtualIDEController); ok {
				devices = append(devices, c)
			}
		}
		for _, c := range h.changes {
			d := c.GetVirtualDeviceConfigSpec().Device
			base := d.GetVirtualDevice()
			require.False(t, keys[base.Key])
			require.Negative(t, base.Key)
			keys[base.Key] = true
			devices = append(devices, d)
			if f, ok := base.Backing.(types.BaseVirtualDeviceFileBackingInfo); ok {
				require.NotContains(t, f.GetVirtualDeviceFileBackingInfo().FileName, "was")
			}
		}
		anew := disksOf(devices)
		require.Len(t, anew, len(disks))
		for i, d := range anew {
			require.Equal(t, disks[i].Slot, d.Slot)
			require.Equal(t, disks[i].Size, d.Size)
			require.Equal(t, disks[i].Thin, d.Thin)
			require.Equal(t, disks[i].Eager && !disks[i].Thin, d.Eager)
			require.Equal(t, datastoreOf(disks[i].File), datastoreOf(d.File))
			require.Empty(t, d.UUID)
			require.Equal(t, types.VirtualDeviceConfigSpecFileOperationCreate, changeOf(h, d.Virtual).FileOperation)
			require.Equal(t, disks[i].Slot, h.disks[disks[i].Key].slot)
		}
	})
}

func changeOf(h *hardware, v *types.VirtualDisk) *types.VirtualDeviceConfigSpec {
	for _, c := range h.changes {
		if spec := c.GetVirtualDeviceConfigSpec(); spec.Device == types.BaseVirtualDevice(v) {
			return spec
		}
	}
	return nil
}

func drawnHardware() *hardware {
	w := &where{}
	for _, name := range []string{"ds1", "ds2"} {
		w.stores = append(w.stores, storeNamed(name))
	}
	return &hardware{where: w, nets: &networks{}, home: "ds1", keys: map[int32]int32{}, disks: map[string]newDisk{}, need: map[string]int64{}, nextKey: -100}
}

func storeNamed(name string) mo.Datastore {
	return mo.Datastore{Summary: types.DatastoreSummary{Name: name, FreeSpace: 1 << 40}}
}

// A record that was damaged is an error, or another record. It never panics, here or in what is made of it.
func TestRecordDamaged(t *testing.T) {
	number := rand.Uint64()
	t.Logf("seed %d", number)
	r := rand.New(rand.NewPCG(number, 0))
	var text []byte
	rapid.Check(t, func(t *rapid.T) {
		if text == nil || rapid.Bool().Draw(t, "anew") {
			var err error
			text, err = encodeConfig(drawConfig(t))
			require.NoError(t, err)
		}
	})
	names := []string{"VirtualDisk", "ParaVirtualSCSIController", "Description", "OptionValue", "string", "xsd:int", "ManagedObjectReference", "VirtualVmxnet3", "ArrayOfString"}
	for range 400 {
		bad := bytes.Clone(text)
		switch r.IntN(3) {
		case 0:
			bad[r.IntN(len(bad))] ^= byte(1 << r.IntN(8))
		case 1:
			bad = bad[:r.IntN(len(bad))]
		case 2:
			bad = bytes.Replace(bad, []byte(`type="`+names[r.IntN(2)]+`"`), []byte(`type="`+names[r.IntN(len(names))]+`"`), 1+r.IntN(3))
		}
		tryRecord(t, bad)
	}
	deep := []byte(strings.Repeat("<config>", maxDepth+2) + strings.Repeat("</config>", maxDepth+2))
	_, err := readRecord(map[string][]byte{configXML: deep})
	require.ErrorContains(t, err, "nest deeper")
	_, err = readRecord(map[string][]byte{configXML: make([]byte, maxConfig+1)})
	require.Error(t, err)
	none, err := readRecord(nil)
	require.NoError(t, err)
	require.Nil(t, none)
}

func tryRecord(t *testing.T, text []byte) {
	t.Helper()
	was, err := readRecord(map[string][]byte{configXML: text})
	if err != nil {
		return
	}
	specOf(was, true)
	_ = drawnHardware().devices(t.Context(), was, []hikae.Disk{{Key: "6000c290", Size: 1 << 20}})
}

// What belongs to the old VM is left out of its settings, whatever its case; what people and clouds wrote there stays.
func TestSettingsThatAreKept(t *testing.T) {
	var was []types.BaseOptionValue
	for _, key := range []string{"nvram", "UUID.bios", "scsi0:0.ctkEnabled", "ctkEnabled", "migrate.hostLog", "hikae.restored", "fileSearchPath", "guestinfo.vmtools.buildNumber", "vtpm.ekCSR",
		"guestinfo.userdata", "disk.EnableUUID", "ethernet0.pciSlotNumber", "tools.guest.desktop.autolock"} {
		was = append(was, &types.OptionValue{Key: key, Value: "v"})
	}
	was = append(was, nil, &types.OptionValue{Key: "number", Value: 7}, &types.OptionValue{Key: "empty", Value: ""})
	var kept []string
	for _, o := range extraOf(was) {
		kept = append(kept, o.GetOptionValue().Key)
	}
	require.Equal(t, []string{"guestinfo.userdata", "disk.EnableUUID", "ethernet0.pciSlotNumber", "tools.guest.desktop.autolock"}, kept)
}

// A mapping that fits nothing is refused: what was meant would stay where it was.
func TestMappingsThatFitNothing(t *testing.T) {
	n := &networks{asked: map[string]string{"VM Netwrok": "isolated"}, used: []string{"VM Network"}, cards: []string{"VM Network (Network adapter 1)"}}
	require.ErrorContains(t, n.allUsed(), "VM Network (Network adapter 1)")
	n.used = append(n.used, "VM Netwrok")
	require.NoError(t, n.allUsed())
	d := &newVM{restorer: &Restorer{opts: RestorerOptions{DiskDatastores: map[string]string{"sda": "fast1"}}}, vm: hikae.VM{Disks: []hikae.Disk{{Key: "sdb"}}}}
	require.ErrorIs(t, d.knownDisks(), fs.ErrInvalid)
	d.vm.Disks[0].Key = "sda"
	require.NoError(t, d.knownDisks())
}
