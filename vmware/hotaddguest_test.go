//go:build linux

package vmware

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	hotTestUUID  = "6000c298-d2b6-3d3a-7f01-0123456789ab"
	hotOtherUUID = "6000c291-0000-0000-0000-0123456789ab"
)

// sysTree is what a guest shows, as files: the layout of sysfs as the kernel's documentation has it.
type sysTree struct {
	*testing.T
	hotGuest
}

func newSysTree(t *testing.T) *sysTree { return &sysTree{t, hotGuest{root: t.TempDir()}} }

func (s *sysTree) write(text string, name ...string) {
	s.Helper()
	require.NoError(s, os.MkdirAll(filepath.Dir(s.path(name...)), 0o755))
	require.NoError(s, os.WriteFile(s.path(name...), []byte(text), 0o644))
}

// disk shows a disk at an address "H:C:T:L". An empty UUID: it does not tell.
func (s *sysTree) disk(address, name, uuid, driver string, size int64) {
	s.Helper()
	require.NoError(s, os.MkdirAll(s.path("sys/class/scsi_disk", address, "device/block", name), 0o755))
	if uuid != "" {
		s.write("naa."+plainUUID(uuid)+"\n", "sys/class/scsi_disk", address, "device/wwid")
	}
	s.write(fmt.Sprintf("%d\n", size/512), "sys/block", name, "size")
	var h, c, t, l int
	_, err := fmt.Sscanf(address, "%d:%d:%d:%d", &h, &c, &t, &l)
	require.NoError(s, err)
	s.write(driver+"\n", "sys/class/scsi_host", fmt.Sprintf("host%d", h), "proc_name")
	s.write("", "sys/class/scsi_host", fmt.Sprintf("host%d", h), "scan")
}

func hotWanted() wantedDisk {
	return wantedDisk{slot: hotSlot{bus: 1, unit: 3, driver: driverPVSCSI}, uuid: plainUUID(hotTestUUID), size: 1 << 20}
}

// A disk is taken only where its address and its UUID and its size say the same, and nothing else could be meant.
func TestHotAddFindsTheRightDisk(t *testing.T) {
	for name, c := range map[string]struct {
		show func(s *sysTree)
		want wantedDisk
		name string // empty: refused
		why  string
	}{
		"found":         {show: func(s *sysTree) { s.disk("3:0:3:0", "sdc", hotTestUUID, driverPVSCSI, 1<<20) }, name: "sdc"},
		"nothing":       {show: func(s *sysTree) { s.disk("3:0:4:0", "sdc", hotOtherUUID, driverPVSCSI, 1<<20) }, why: "nothing is there"},
		"another UUID":  {show: func(s *sysTree) { s.disk("3:0:3:0", "sdc", hotOtherUUID, driverPVSCSI, 1<<20) }, why: "which is disk"},
		"no UUID":       {show: func(s *sysTree) { s.disk("3:0:3:0", "sdc", "", driverPVSCSI, 1<<20) }, why: `which is disk ""`},
		"another place": {show: func(s *sysTree) { s.disk("3:0:4:0", "sdc", hotTestUUID, driverPVSCSI, 1<<20) }, why: "another place"},
		"another kind":  {show: func(s *sysTree) { s.disk("3:0:3:0", "sdc", hotTestUUID, "ahci", 1<<20) }, why: "another place"},
		"another size":  {show: func(s *sysTree) { s.disk("3:0:3:0", "sdc", hotTestUUID, driverPVSCSI, 2<<20) }, why: "4096 sectors"},
		"size unknown": {show: func(s *sysTree) {
			s.disk("3:0:3:0", "sdc", hotTestUUID, driverPVSCSI, 1<<20)
			s.write("many", "sys/block/sdc/size")
		}, why: "many"},
		"another unit":   {show: func(s *sysTree) { s.disk("3:0:3:1", "sdc", hotTestUUID, driverPVSCSI, 1<<20) }, why: "another place"},
		"no such device": {show: func(s *sysTree) { s.disk("3:0:3:0", "..", hotTestUUID, driverPVSCSI, 1<<20) }, why: "nothing is there"},
		"two alike": {show: func(s *sysTree) {
			s.disk("3:0:3:0", "sdc", hotTestUUID, driverPVSCSI, 1<<20)
			s.disk("4:0:3:0", "sdd", hotTestUUID, driverPVSCSI, 1<<20)
		}, why: "2 disks of this machine"},
		"two alike, told apart by their controllers": {show: func(s *sysTree) {
			s.disk("3:0:3:0", "sdc", hotTestUUID, driverPVSCSI, 1<<20)
			s.disk("4:0:3:0", "sdd", hotTestUUID, driverPVSCSI, 1<<20)
			s.disk("4:0:0:0", "sda", hotOtherUUID, driverPVSCSI, 1<<20)
		}, want: wantedDisk{anchors: []hotAnchor{{uuid: plainUUID(hotOtherUUID), bus: 1, unit: 0}}}, name: "sdd"},
		"on the controller of another bus": {show: func(s *sysTree) {
			s.disk("3:0:3:0", "sdc", hotTestUUID, driverPVSCSI, 1<<20)
			s.disk("3:0:0:0", "sda", hotOtherUUID, driverPVSCSI, 1<<20)
		}, want: wantedDisk{anchors: []hotAnchor{{uuid: plainUUID(hotOtherUUID), bus: 0, unit: 0}}}, why: "another place"},
		"by its product data": {show: func(s *sysTree) {
			s.disk("3:0:3:0", "sdc", "", driverPVSCSI, 1<<20)
			s.write(string(productData(t)), "sys/class/scsi_disk/3:0:3:0/device/vpd_pg83")
		}, name: "sdc"},
		"no list": {show: func(*sysTree) {}, why: "cannot be listed"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSysTree(t)
			c.show(s)
			want := hotWanted()
			want.anchors = c.want.anchors
			got, why, err := s.seek(want)
			require.Equal(t, c.name, got)
			if c.name == "" {
				require.Contains(t, why+fmt.Sprint(err), c.why)
			}
		})
	}
}

// An input error of a device that works is the disk's own, and no other transport is asked. Of one that is going away, or is
// another disk by now, it is not.
func TestHotAddInputError(t *testing.T) {
	mem, err := os.Open("/proc/self/mem") // where nothing is mapped it says EIO, as a device does for a bad block
	if err != nil {
		t.Skip("no /proc/self/mem: nothing else says EIO here")
	}
	s := newSysTree(t)
	img := &hotImage{name: "sdc", size: 1 << 20, f: mem, stands: func() bool { return s.works("sdc", hotWanted()) }}
	defer func() { require.NoError(t, img.Close()) }()
	read := func() error {
		n, err := img.ReadAt(t.Context(), make([]byte, 512), 0)
		require.Zero(t, n)
		require.ErrorIs(t, err, syscall.EIO)
		require.ErrorContains(t, err, "512 bytes at 0")
		return err
	}
	require.NotErrorIs(t, read(), ErrContent, "it is gone")
	s.disk("3:0:3:0", "sdc", hotTestUUID, driverPVSCSI, 1<<20)
	require.NotErrorIs(t, read(), ErrContent, "nobody says that it works")
	s.write("running\n", "sys/block/sdc/device/state")
	require.ErrorIs(t, read(), ErrContent)
	for _, state := range []string{"offline", "transport-offline", "blocked", "deleted"} {
		s.write(state+"\n", "sys/block/sdc/device/state")
		require.NotErrorIs(t, read(), ErrContent, state)
	}
	s.write("running\n", "sys/block/sdc/device/state")
	s.disk("3:0:3:0", "sdc", hotOtherUUID, driverPVSCSI, 1<<20)
	require.NotErrorIs(t, read(), ErrContent, "it is another disk")
}

// A disk that comes late is waited for, controllers are asked to look, and the wait has an end that tells what was seen.
func TestHotAddWaitsForTheDisk(t *testing.T) {
	s := newSysTree(t)
	s.disk("3:0:0:0", "sda", hotOtherUUID, driverPVSCSI, 1<<20)
	s.disk("0:0:0:0", "sdb", "", "ata_piix", 1<<20)
	go func() {
		time.Sleep(2 * lookEvery)
		s.disk("3:0:3:0", "sdc", hotTestUUID, driverPVSCSI, 1<<20)
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	name, err := s.find(ctx, hotWanted())
	require.NoError(t, err)
	require.Equal(t, "sdc", name)
	want := hotWanted()
	want.slot.unit = 5
	ctx, cancel = context.WithTimeout(t.Context(), scanAfter+4*lookEvery)
	defer cancel()
	_, err = s.find(ctx, want)
	var unfit *UnfitError
	require.ErrorAs(t, err, &unfit)
	require.Contains(t, unfit.Reason, "sdc (3:0:3:0), which is another place")
	asked, err := s.text("sys/class/scsi_host/host3/scan")
	require.NoError(t, err)
	require.Equal(t, "0 5 0", asked)
	asked, err = s.text("sys/class/scsi_host/host0/scan")
	require.NoError(t, err)
	require.Empty(t, asked, "controllers of other kinds are left alone")
}

// productData is page 83h of a disk that tells its vendor's name for it, its port, and who it is.
func productData(t *testing.T) []byte {
	id, err := hex.DecodeString(plainUUID(hotTestUUID))
	require.NoError(t, err)
	body := []byte{2, 1, 0, 4, 'd', 'i', 's', 'k', 1, 0x14, 0, 4, 0, 0, 0, 1, 1, 3, 0, 16}
	body = append(body, id...)
	return append([]byte{0, 0x83, 0, byte(len(body))}, body...)
}

// Whatever a device answers, it is a name of 32 digits or none, and no panic.
func FuzzProductData(f *testing.F) {
	f.Add([]byte{0, 0x83, 0, 20, 1, 3, 0, 16, 0x60, 0, 0xc2, 0x98, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12})
	f.Add([]byte{0, 0x83, 0xff, 0xff, 1, 3, 0, 0xff})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, page []byte) {
		if id := naaOf(page); id != "" && len(id) != 32 {
			t.Fatalf("%q", id)
		}
	})
}

// The UUID of the machine is tried in both byte orders; what is none is refused with a hint.
func TestHotAddMachineUUID(t *testing.T) {
	s := newSysTree(t)
	_, err := s.uuids()
	require.ErrorContains(t, err, "cannot be read")
	require.False(t, s.isVMware())
	s.write("VMware, Inc.\n", "sys/class/dmi/id/sys_vendor")
	require.True(t, s.isVMware())
	for _, bad := range []string{"", "Not Settable", "00112233-4455-6677-8899"} {
		s.write(bad, "sys/class/dmi/id/product_uuid")
		_, err = s.uuids()
		require.ErrorContains(t, err, "no UUID")
	}
	s.write("00112233-4455-6677-8899-AABBCCDDEEFF\n", "sys/class/dmi/id/product_uuid")
	got, err := s.uuids()
	require.NoError(t, err)
	require.Equal(t, []string{"00112233-4455-6677-8899-aabbccddeeff", "33221100-5544-7766-8899-aabbccddeeff"}, got)
}

// R109: the VM that this program runs in is found by the UUID that its firmware shows, in either order of bytes, or by the one
// that the server gave it; two VMs of one UUID are not told apart, and the one that is named must be this machine.
func TestHotAddFindsItsVM(t *testing.T) {
	s := newShop(t, simulator.VPX())
	tree := newSysTree(t)
	tree.write("VMware, Inc.\n", "sys/class/dmi/id/sys_vendor")
	seek := func(uuid, named string) (*machine, error) {
		tree.write(uuid, "sys/class/dmi/id/product_uuid")
		return newHotAdd(&HotAddOptions{Root: tree.root, Proxy: named}).findProxy(t.Context(), s.client)
	}
	vm, err := s.client.machine(t.Context(), s.vm.Self)
	require.NoError(t, err)
	other := &sysTree{t, hotGuest{root: t.TempDir()}}
	other.write(vm.Config.Uuid, "sys/class/dmi/id/product_uuid")
	orders, err := other.uuids()
	require.NoError(t, err)
	for _, uuid := range append(orders, vm.Config.InstanceUuid) {
		found, err := seek(uuid, "")
		require.NoError(t, err)
		require.Equal(t, s.vm.Self, found.Self)
		found, err = seek(uuid, vm.Name)
		require.NoError(t, err)
		require.Equal(t, s.vm.Self, found.Self)
	}
	_, err = seek("00112233-4455-6677-8899-aabbccddeeff", "")
	require.ErrorContains(t, err, "no VM of this server")
	_, err = seek("00112233-4455-6677-8899-aabbccddeeff", vm.Name)
	require.ErrorContains(t, err, "it is another one")
	for _, e := range s.model.Map().All("VirtualMachine") {
		e.(*simulator.VirtualMachine).Config.Uuid = vm.Config.Uuid
	}
	_, err = seek(vm.Config.Uuid, "")
	require.ErrorContains(t, err, "VMs of this server have the UUID")
	found, err := seek(vm.Config.Uuid, s.vm.Self.Value)
	require.NoError(t, err)
	require.Equal(t, s.vm.Self, found.Self)
}

// Places are those of controllers whose units Linux shows as targets, paravirtual ones first; the controller's own unit and
// shared buses are left out.
func TestHotAddSlots(t *testing.T) {
	controller := func(key, bus int32, sharing types.VirtualSCSISharing) types.VirtualSCSIController {
		return types.VirtualSCSIController{SharedBus: sharing,
			VirtualController: types.VirtualController{BusNumber: bus, VirtualDevice: types.VirtualDevice{Key: key}}}
	}
	unit := int32(0)
	devices := []types.BaseVirtualDevice{
		&types.VirtualLsiLogicController{VirtualSCSIController: controller(1000, 0, types.VirtualSCSISharingNoSharing)},
		&types.VirtualLsiLogicSASController{VirtualSCSIController: controller(1001, 1, types.VirtualSCSISharingNoSharing)},
		&types.ParaVirtualSCSIController{VirtualSCSIController: controller(1002, 2, types.VirtualSCSISharingNoSharing)},
		&types.ParaVirtualSCSIController{VirtualSCSIController: controller(1003, 3, types.VirtualSCSISharingPhysicalSharing)},
		&types.VirtualDisk{VirtualDevice: types.VirtualDevice{Key: 2032, ControllerKey: 1002, UnitNumber: &unit}},
	}
	slots := hotSlots(devices)
	require.Len(t, slots, 14+15)
	require.Equal(t, "scsi2:1", slots[0].String())
	require.Equal(t, driverPVSCSI, slots[0].driver)
	require.Equal(t, "scsi0:0", slots[14].String())
	for _, s := range slots {
		require.NotEqual(t, int32(ownUnit), s.unit)
	}
}
