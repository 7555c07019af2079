package hypervtest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// askV1 sends a vector of the client's to the older namespace.
func askV1(t *testing.T, h *Host, name string, replace ...string) (string, *Failure) {
	t.Helper()
	return ask(t, h, name, append(replace, "root/virtualization/v2", V1)...)
}

func hostV1(t *testing.T, more ...Disk) (*Host, *Guest) {
	t.Helper()
	h, err := Start(&Options{Generation: "2008r2", JobTime: time.Millisecond})
	require.NoError(t, err)
	t.Cleanup(h.Close)
	h.AddVM(VM{ID: vm, Name: "a", Disks: append([]Disk{{Size: 4 << 20, IDE: true}}, more...)})
	return h, h.VM(vm)
}

// 2008 R2 has its own namespace alone, 2012 both, later hosts the newer one.
func TestV1Namespaces(t *testing.T) {
	for gen, want := range map[string][2]bool{"2008r2": {true, false}, "2012": {true, true}, "2012r2": {false, true}, "2022": {false, true}} {
		h, err := Start(&Options{Generation: gen})
		require.NoError(t, err)
		h.AddVM(VM{ID: vm, Name: "a"})
		_, old := askV1(t, h, "get.xml")
		_, newer := ask(t, h, "get.xml")
		require.Equal(t, want, [2]bool{old == nil, newer == nil}, gen)
		h.Close()
	}
}

// What 2008 R2 tells of a VM, in its own words.
func TestV1Words(t *testing.T) {
	h, g := hostV1(t, Disk{Path: `\\.\PHYSICALDRIVE3`, Physical: true})
	query := func(q string) (list []*Object) {
		t.Helper()
		h.Lock()
		defer h.Unlock()
		h.mirrorV1(V1)
		list, _, err := h.query(V1, q)
		require.NoError(t, err)
		return list
	}
	text := func(o *Object, name string) string { v, _ := o.text(name); return v }
	require.Len(t, query("SELECT * FROM Msvm_ComputerSystem"), 2)
	sets := query("ASSOCIATORS OF {Msvm_ComputerSystem.CreationClassName='Msvm_ComputerSystem',Name='" + vm + "'} WHERE ResultClass = Msvm_VirtualSystemSettingData")
	require.Len(t, sets, 1)
	require.Equal(t, "3", text(sets[0], "SettingType"))
	require.Equal(t, vm, text(sets[0], "SystemName"))
	require.NotContains(t, sets[0].Names, "VirtualSystemType")
	parts := query("ASSOCIATORS OF {Msvm_VirtualSystemSettingData.InstanceID='" + strings.ReplaceAll(text(sets[0], "InstanceID"), `\`, `\\`) + "'} WHERE ResultClass = Msvm_ResourceAllocationSettingData")
	var words []string
	for _, p := range parts {
		words = append(words, fmt.Sprintf("%s %s %s%s", text(p, "ResourceSubType"), text(p, "ResourceType"), text(p, "Connection"), text(p, "HostResource")))
		require.NotContains(t, text(p, "Parent"), `\v2:`)
	}
	require.Equal(t, []string{"Microsoft Emulated IDE Controller 5 ", "Microsoft Synthetic Disk Drive 22 ", "Microsoft Virtual Hard Disk 21 [" + g.Tip(0) + "]",
		"Microsoft Synthetic SCSI Controller 6 ", `Microsoft Physical Disk Drive 22 [\\.\PHYSICALDRIVE3]`}, words)
	require.True(t, strings.HasSuffix(strings.ToLower(g.Tip(0)), ".vhd"), "2008 R2 knows no VHDX")

	call := &Call{Host: h, Method: "GetVirtualHardDiskInfo", In: map[string][]string{"Path": {g.Tip(0)}}}
	h.Lock()
	code, out := diskInfoV1(call)
	require.Zero(t, code)
	info := out[1].(Embedded)
	require.Equal(t, "4194304", text(info.Object, "MaxInternalSize"))
	require.Equal(t, "3", text(info.Object, "Type"))
	call.In["Path"] = []string{`C:\VMs\none.vhd`}
	code, _ = diskInfoV1(call)
	require.EqualValues(t, 32779, code)
	h.Unlock()
}

// A snapshot of 2008 R2 is a user's: its files are merged when the VM is off.
func TestV1Snapshot(t *testing.T) {
	h, g := hostV1(t)
	refs := func() (system, snapshot *Object) {
		h.mirrorV1(V1)
		system = h.find(V1, "Msvm_ComputerSystem", map[string]string{"Name": vm})
		snapshot = h.find(V1, "Msvm_VirtualSystemSettingData", map[string]string{"SettingType": "5"})
		return system, snapshot
	}
	h.Lock()
	system, none := refs()
	require.Nil(t, none)
	code, out := createSnapshotV1(&Call{Host: h, Method: "CreateVirtualSystemSnapshot", Refs: map[string]*Object{"SourceSystem": system}})
	require.EqualValues(t, 4096, code)
	job := out[3].(*Object)
	require.Equal(t, V1, job.Namespace)
	h.Unlock()
	require.Eventually(t, func() bool {
		h.Lock()
		defer h.Unlock()
		state, _ := job.text("JobState")
		return state == "7"
	}, 5*time.Second, time.Millisecond)
	require.Contains(t, g.Tip(0), ".avhd")
	require.NoError(t, g.Write(0, 0, fill(4096, 'n')))

	h.Lock()
	_, snapshot := refs()
	require.NotNil(t, snapshot)
	code, _ = removeSnapshotV1(&Call{Host: h, Method: "RemoveVirtualSystemSnapshot", Refs: map[string]*Object{"SnapshotSettingData": snapshot}})
	require.EqualValues(t, 4096, code)
	h.Unlock()
	require.Eventually(t, func() bool {
		h.Lock()
		defer h.Unlock()
		_, left := refs()
		return left == nil && g.status() == 0
	}, 5*time.Second, time.Millisecond)
	require.Contains(t, g.Tip(0), ".avhd", "a running VM keeps it until it is off")
}
