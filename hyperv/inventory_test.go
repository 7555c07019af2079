package hyperv

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/cim"
	"github.com/hikae/hikae/hyperv/hypervtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func fake(t *testing.T, o hypervtest.Options) *hypervtest.Host {
	t.Helper()
	f, err := hypervtest.Start(&o)
	require.NoError(t, err)
	t.Cleanup(f.Close)
	return f
}

func connect(t *testing.T, f *hypervtest.Host) *Host {
	t.Helper()
	h, err := Connect(t.Context(), f.Addr(), cim.Login{User: "eva", Password: "pw"}, &Options{CIM: &cim.Options{Plain: true}})
	require.NoError(t, err)
	t.Cleanup(func() { h.Close() })
	return h
}

const diskID = "0C5D9A1E-7A77-4C5E-9C0B-6B8D1C5A0001"

// What a host has is read as it is: R037, R085 (versions), and what a plan needs of disks.
func TestInventory(t *testing.T) {
	f := fake(t, hypervtest.Options{})
	web := f.AddVM(hypervtest.VM{Name: "web1", Disks: []hypervtest.Disk{
		{Path: `C:\vm\web 1\system_5A0E.avhdx`, Size: 40 << 30, ID: diskID},
		{Path: `\\files\share\data.vhdx`, Size: 1<<40 + 512, Slot: 63, ID: "0c5d9a1e-7a77-4c5e-9c0b-6b8d1c5a0002"},
		{Path: `C:\iso\setup.iso`, Slot: 1, DVD: true},
		{Path: `\\HV1\root\virtualization\v2:Msvm_DiskDrive.DeviceID="x\"y"`, Bus: 1, Physical: true},
		{Path: `D:\gone.vhdx`, Bus: 1, Slot: 2},
	}})
	old := f.AddVM(hypervtest.VM{Name: "web1", Generation: 1, Version: "5.0", State: 3, Disks: []hypervtest.Disk{
		{Path: `C:\old\a.vhd`, Size: 1 << 30, IDE: true}, {Path: `C:\old\b.vhd`, Size: 2 << 30, IDE: true, Bus: 1, Slot: 1},
	}})
	h := connect(t, f)
	require.Equal(t, HostInfo{Name: "HV1", OS: "Microsoft Windows Server 2022 Datacenter", Version: "10.0.20348", Build: 20348}, h.Info())
	require.Equal(t, "2016+", h.Info().Generation())

	m, err := h.Machine(t.Context(), strings.ToUpper(web))
	require.NoError(t, err)
	problem := m.Disks[3].Problem
	require.Contains(t, problem, "cannot find the file")
	m.Disks[3].Problem = ""
	for i := range m.Disks {
		require.Contains(t, m.Disks[i].instance, strings.ToUpper(m.ID))
		m.Disks[i].instance = ""
	}
	require.Equal(t, &Machine{ID: strings.ToLower(web), Name: "web1", State: Running, StateSince: time.Date(2025, 5, 6, 7, 8, 10, 0, time.UTC), Status: []uint16{2}, Generation: 2, ConfigVersion: "9.0", Disks: []Disk{
		{Key: strings.ToLower(diskID), Path: `C:\vm\web 1\system_5A0E.avhdx`, Controller: "scsi", Format: FormatVHDX, SectorSize: 512, Size: 40 << 30},
		{Key: "0c5d9a1e-7a77-4c5e-9c0b-6b8d1c5a0002", Path: `\\files\share\data.vhdx`, Controller: "scsi", Slot: 63, Format: FormatVHDX, SectorSize: 512, Size: 1<<40 + 512},
		{Key: "scsi1-0", Path: `\\HV1\root\virtualization\v2:Msvm_DiskDrive.DeviceID="x\"y"`, Controller: "scsi", Bus: 1, Physical: true},
		{Key: "scsi1-2", Path: `D:\gone.vhdx`, Controller: "scsi", Bus: 1, Slot: 2, Format: FormatVHDX},
	}}, m)

	var all []hikae.VM
	for vm, err := range h.VMs(t.Context()) {
		require.NoError(t, err)
		all = append(all, vm)
	}
	require.Len(t, all, 2, "the host itself is no VM")
	require.Equal(t, int64(40<<30), all[0].Disks[0].Size)
	require.Empty(t, all[0].Disks[0].Skip)
	require.Contains(t, all[0].Disks[2].Skip, "passed through")
	require.Contains(t, all[0].Disks[3].Skip, "cannot read its file")
	require.Equal(t, strings.ToLower(old), all[1].ID)
	require.Equal(t, []hikae.Disk{{Key: "ide0-0", Size: 1 << 30}, {Key: "ide1-1", Size: 2 << 30}}, all[1].Disks)
	require.Equal(t, map[string]string{"hypervisor": "Hyper-V", "host": "HV1", "hostOS": "Microsoft Windows Server 2022 Datacenter", "hostVersion": "10.0.20348",
		"state": "off", "generation": "1", "configurationVersion": "5.0", "disk.ide0-0": `ide0-0 C:\old\a.vhd`, "disk.ide1-1": `ide1-1 C:\old\b.vhd`,
		"datastore.ide0-0": "C: of HV1", "datastore.ide1-1": "C: of HV1"}, all[1].Facts)
	require.False(t, f.Clear())
}

// Two disks with one id are copies: both are named by where they are.
func TestCopiedDisk(t *testing.T) {
	f := fake(t, hypervtest.Options{})
	id := f.AddVM(hypervtest.VM{Name: "x", Disks: []hypervtest.Disk{{Path: `C:\a.vhdx`, Size: 1 << 20, ID: diskID}, {Path: `C:\b.vhdx`, Size: 1 << 20, ID: diskID, Slot: 1}}})
	m, err := connect(t, f).Machine(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, "scsi0-0", m.Disks[0].Key)
	require.Equal(t, "scsi0-1", m.Disks[1].Key)
}

// VMs are chosen by GUID alone, and nothing of a name gets into a query.
func TestChosenByGUID(t *testing.T) {
	f := fake(t, hypervtest.Options{})
	f.AddVM(hypervtest.VM{Name: "web1"})
	h := connect(t, f)
	for _, id := range []string{"web1", "", "x' OR Name <> '", "HV1"} {
		_, err := h.Machine(t.Context(), id)
		require.ErrorIs(t, err, cim.ErrArgument, id)
	}
	_, err := h.Machine(t.Context(), "00000000-0000-4000-8000-0000000000FF")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// A VM that goes between two questions is left out; a host without Hyper-V is told as that.
func TestGone(t *testing.T) {
	var f *hypervtest.Host
	var gone string
	f = fake(t, hypervtest.Options{Before: func(c hypervtest.Seen) *hypervtest.Failure {
		if gone != "" && strings.Contains(c.Query, gone) {
			return &hypervtest.Failure{Subcode: "DestinationUnreachable", HRESULT: 0x80041002, Reason: "Not found"}
		}
		return nil
	}})
	gone = f.AddVM(hypervtest.VM{Name: "gone"})
	f.AddVM(hypervtest.VM{Name: "stays"})
	var names []string
	for vm, err := range connect(t, f).VMs(t.Context()) {
		// The fault is also what its GUID is answered with, as if it were gone.
		require.NoError(t, err)
		names = append(names, vm.Name)
	}
	require.Equal(t, []string{"stays"}, names)

	bare := fake(t, hypervtest.Options{Before: func(c hypervtest.Seen) *hypervtest.Failure {
		if strings.Contains(c.Query, "Msvm_") {
			return &hypervtest.Failure{Subcode: "DestinationUnreachable", HRESULT: 0x8004100E, Reason: "Invalid namespace"}
		}
		return nil
	}})
	_, err := Connect(t.Context(), bare.Addr(), cim.Login{User: "eva", Password: "pw"}, &Options{CIM: &cim.Options{Plain: true}})
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "namespace")
}

// Whichever call fails, the error says so and no half of an inventory is taken for the whole.
func TestEveryCallFails(t *testing.T) {
	for at := 1; ; at++ {
		n := 0
		f := fake(t, hypervtest.Options{Before: func(c hypervtest.Seen) *hypervtest.Failure {
			if n++; n == at {
				return &hypervtest.Failure{Subcode: "AccessDenied", Code: 5, Reason: "Access is denied."}
			}
			return nil
		}})
		f.AddVM(hypervtest.VM{Name: "a", Disks: []hypervtest.Disk{{Path: `C:\a.vhdx`, Size: 1 << 20}}})
		count, err := read(t, f)
		if err == nil {
			require.Equal(t, 1, count)
			require.Greater(t, at, 6)
			return
		}
		require.ErrorIs(t, err, fs.ErrPermission, "call %d", at)
		require.Less(t, at, 30)
		f.Close()
	}
}

func read(t *testing.T, f *hypervtest.Host) (n int, err error) {
	h, err := Connect(t.Context(), f.Addr(), cim.Login{User: "eva", Password: "pw"}, &Options{CIM: &cim.Options{Plain: true}, Limit: time.Minute})
	if err != nil {
		return 0, err
	}
	defer h.Close()
	for _, err := range h.VMs(t.Context()) {
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

func TestOverTLS(t *testing.T) {
	f := fake(t, hypervtest.Options{TLS: true})
	f.AddVM(hypervtest.VM{Name: "a"})
	sum := sha256.Sum256(f.Certificate())
	for _, thumb := range []string{hex.EncodeToString(sum[:]), "00"} {
		h, err := Connect(t.Context(), f.Addr(), cim.Login{User: "eva", Password: "pw"}, &Options{CIM: &cim.Options{Thumbprints: []string{thumb}}})
		if thumb == "00" {
			var reach *cim.ReachError
			require.ErrorAs(t, err, &reach)
			require.Equal(t, "certificate", reach.Step)
			continue
		}
		require.NoError(t, err)
		_, err = h.Machine(t.Context(), "00000000-0000-4000-8000-0000000000FF")
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.NoError(t, h.Close())
	}
}

func TestGenerations(t *testing.T) {
	for build, want := range map[int]string{7601: "before 2012", 9200: "2012", 9599: "2012", 9600: "2012 R2", 14392: "2012 R2", 14393: "2016+", 26100: "2016+"} {
		require.Equal(t, want, HostInfo{Build: build}.Generation())
	}
}

// A VM that was off and on again within a moment is known by the time of its last change of state; a time that cannot be read is none.
func TestStateSince(t *testing.T) {
	f := fake(t, hypervtest.Options{})
	id := f.AddVM(hypervtest.VM{Name: "web1"})
	h := connect(t, f)
	var times []time.Time
	for range 3 {
		m, err := h.Machine(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, Running, m.State)
		times = append(times, m.StateSince)
		require.NoError(t, f.VM(id).PowerOff())
		require.NoError(t, f.VM(id).PowerOn())
	}
	require.True(t, times[0].Before(times[1]) && times[1].Before(times[2]), "%v", times)
	require.Zero(t, stateSince(&cim.Instance{Properties: []cim.Property{{Name: "TimeOfLastStateChange", Value: "00000000000000.000000+000"}}}))
}
