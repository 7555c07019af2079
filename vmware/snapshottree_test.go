package vmware

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
)

func snapshotRef(name string) types.ManagedObjectReference {
	return types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: name}
}

func TestSnapshotsAreFlattened(t *testing.T) {
	mark := newMark()
	current := snapshotRef("s2")
	tree, err := treeOf(&types.VirtualMachineSnapshotInfo{CurrentSnapshot: &current, RootSnapshotList: []types.VirtualMachineSnapshotTree{
		{Snapshot: snapshotRef("s1"), Name: "hikae nightly", Description: "people write\nhikae-mark: " + mark[:25], ChildSnapshotList: []types.VirtualMachineSnapshotTree{
			{Snapshot: snapshotRef("s2"), Name: namePrefix + mark, Description: describe(mark), CreateTime: time.Unix(7, 0)},
		}},
		{Snapshot: snapshotRef("s3"), Name: "theirs", Description: describe(mark)},
	}})
	require.NoError(t, err)
	require.Len(t, tree.nodes, 3)
	require.Len(t, tree.marked(""), 1, "a name alone is none of ours, and neither is a description")
	require.Equal(t, snapshotRef("s2"), tree.marked(mark)[0].ref)
	require.Empty(t, tree.marked(newMark()))
	below := tree.without("s2")
	require.Equal(t, "s1", below.current)
	require.Len(t, below.nodes, 2)
}

func TestSnapshotsWithoutEndAreRefused(t *testing.T) {
	twice := &types.VirtualMachineSnapshotInfo{RootSnapshotList: []types.VirtualMachineSnapshotTree{{Snapshot: snapshotRef("s1")}, {Snapshot: snapshotRef("s1")}}}
	_, err := treeOf(twice)
	require.ErrorContains(t, err, "s1")
	many := &types.VirtualMachineSnapshotInfo{}
	for i := range maxSnapshots + 1 {
		many.RootSnapshotList = append(many.RootSnapshotList, types.VirtualMachineSnapshotTree{Snapshot: snapshotRef(fmt.Sprint(i))})
	}
	_, err = treeOf(many)
	require.Error(t, err)
	var deep []types.VirtualMachineSnapshotTree
	for i := range maxSnapshots {
		deep = []types.VirtualMachineSnapshotTree{{Snapshot: snapshotRef(fmt.Sprint(i)), ChildSnapshotList: deep}}
	}
	tree, err := treeOf(&types.VirtualMachineSnapshotInfo{RootSnapshotList: deep})
	require.NoError(t, err)
	require.Len(t, tree.nodes, maxSnapshots)
}

func TestFaultsAreFound(t *testing.T) {
	why := &types.ApplicationQuiesceFault{}
	outer := &types.SnapshotFault{}
	outer.FaultCause = &types.LocalizedMethodFault{Fault: why}
	task := fmt.Errorf("create: %w", &TaskError{Name: "CreateSnapshot_Task", Fault: outer, Text: "no"})
	require.True(t, isFault[*types.ApplicationQuiesceFault](errors.Join(errors.New("x"), task)), "behind a cause, an error and a join")
	require.False(t, isFault[*types.FilesystemQuiesceFault](task))
	require.True(t, notQuiesced(task))
	require.True(t, notQuiesced(&TaskError{Fault: &types.GenericVmConfigFault{}, Text: "An error occurred while Quiescing the virtual machine"}))
	keyed := &types.FileFault{}
	keyed.FaultMessage = []types.LocalizableMessage{{Key: "vim.hostd.vmsvc.cbt.noEpoch"}}
	require.True(t, saysOf(soap.WrapVimFault(keyed), "cbt.noepoch"))
	require.False(t, isAnswer(errors.New("connection reset")))
	require.False(t, isAnswer(soap.WrapVimFault(&types.NotAuthenticated{})))
	require.True(t, isAnswer(soap.WrapVimFault(keyed)))
	for _, err := range []error{nil, &TaskError{}, &hikae.QuiesceError{}, errors.Join()} {
		require.False(t, isAnswer(err))
	}
}

// Facts §4: each of the server's answers about changes has a meaning of its own.
func TestTrackingFaults(t *testing.T) {
	fault := func(key string) error {
		f := &types.FileFault{}
		f.FaultMessage = []types.LocalizableMessage{{Key: key}}
		return soap.WrapVimFault(f)
	}
	for key, why := range map[string]string{
		"vim.hostd.vmsvc.cbt.noTrack": "not tracked", "vim.hostd.vmsvc.cbt.noEpoch": "earlier tracking", "vim.hostd.vmsvc.cbt.cannotGetChanges": "damaged", "other": "cannot tell",
	} {
		err := trackingError(fault(key), 7)
		require.ErrorIs(t, err, hikae.ErrTrackingLost, key)
		require.ErrorContains(t, err, why)
	}
	bug := trackingError(soap.WrapVimFault(&types.InvalidArgument{InvalidProperty: "deviceKey"}), 7)
	require.NotErrorIs(t, bug, hikae.ErrTrackingLost)
	require.ErrorContains(t, bug, "deviceKey")
	require.ErrorIs(t, trackingError(soap.WrapVimFault(&types.MethodNotFound{}), 0), hikae.ErrTrackingLost)
	require.NotErrorIs(t, trackingError(errors.New("cut"), 0), hikae.ErrTrackingLost)
}

func TestQuiesceWords(t *testing.T) {
	for _, q := range []Quiesce{TryQuiesce, RequireQuiesce, NoQuiesce} {
		back, err := ParseQuiesce(q.String())
		require.NoError(t, err)
		require.Equal(t, q, back)
	}
	_, err := ParseQuiesce("maybe")
	require.Error(t, err)
}

func TestConfigIsReadAsWritten(t *testing.T) {
	yes := true
	in := &types.VirtualMachineConfigInfo{Name: "web <0>", Uuid: "u", ChangeTrackingEnabled: &yes, Modified: time.Unix(1e9, 5).UTC()}
	in.Hardware.Device = []types.BaseVirtualDevice{
		&types.ParaVirtualSCSIController{VirtualSCSIController: types.VirtualSCSIController{SharedBus: types.VirtualSCSISharingNoSharing, VirtualController: types.VirtualController{BusNumber: 1, VirtualDevice: types.VirtualDevice{Key: 1000}}}},
		&types.VirtualDisk{CapacityInBytes: 1 << 30, VirtualDevice: types.VirtualDevice{Key: 2000, ControllerKey: 1000, Backing: &types.VirtualDiskFlatVer2BackingInfo{
			VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: "[a b] w&0/w.vmdk"}, Uuid: "X", ThinProvisioned: &yes, DiskMode: "persistent"}}},
	}
	in.ExtraConfig = []types.BaseOptionValue{&types.OptionValue{Key: "a", Value: "b"}}
	data, err := encodeConfig(in)
	require.NoError(t, err)
	out, err := ParseConfig(data)
	require.NoError(t, err)
	require.Equal(t, in, out)
	require.Equal(t, DisksOf(in), DisksOf(out))
	deep := []byte(strings.Repeat("<config>", maxDepth+2) + strings.Repeat("</config>", maxDepth+2))
	wrong := bytes.Replace(data, []byte(`type="VirtualDisk"`), []byte(`type="Description"`), 1)
	require.NotEqual(t, data, wrong)
	for _, bad := range [][]byte{nil, []byte("<config"), data[:len(data)/2], make([]byte, maxConfig+1), deep, wrong} {
		_, err := ParseConfig(bad)
		require.ErrorIs(t, err, fs.ErrInvalid)
	}
	require.Equal(t, "a_b_.vmx", configName("a/b:", ".vmx"))
	require.Equal(t, "vm.vmx", configName("..", ".vmx"))
}

// R104: what a snapshot does not cover is known before anything is touched.
func TestDisksThatNoSnapshotCovers(t *testing.T) {
	disk := func(b types.BaseVirtualDeviceBackingInfo) *types.VirtualDisk {
		return &types.VirtualDisk{VirtualDevice: types.VirtualDevice{Key: 2000, ControllerKey: 1000, Backing: b}}
	}
	bus := func(s types.VirtualSCSISharing) *types.ParaVirtualSCSIController {
		return &types.ParaVirtualSCSIController{VirtualSCSIController: types.VirtualSCSIController{SharedBus: s, VirtualController: types.VirtualController{VirtualDevice: types.VirtualDevice{Key: 1000}}}}
	}
	for want, c := range map[string]struct {
		v  *types.VirtualDisk
		on *types.ParaVirtualSCSIController
	}{
		"independent (independent_persistent)":    {disk(&types.VirtualDiskFlatVer2BackingInfo{DiskMode: "independent_persistent"}), bus("noSharing")},
		"independent (independent_nonpersistent)": {disk(&types.VirtualDiskSeSparseBackingInfo{DiskMode: "independent_nonpersistent"}), bus("noSharing")},
		"physical mode":     {disk(&types.VirtualDiskRawDiskMappingVer1BackingInfo{CompatibilityMode: "physicalMode"}), bus("noSharing")},
		"multi-writer":      {disk(&types.VirtualDiskFlatVer2BackingInfo{Sharing: "sharingMultiWriter"}), bus("noSharing")},
		"bus is shared":     {disk(&types.VirtualDiskFlatVer2BackingInfo{}), bus("physicalSharing")},
		"persistent memory": {disk(&types.VirtualDiskLocalPMemBackingInfo{}), bus("noSharing")},
		"of a kind":         {disk(&types.VirtualDiskPartitionedRawDiskVer2BackingInfo{}), bus("noSharing")},
	} {
		config := &types.VirtualMachineConfigInfo{Hardware: types.VirtualHardware{Device: []types.BaseVirtualDevice{c.on, c.v}}}
		require.Contains(t, coveredDisks(config)[0].Skip, want)
	}
	for _, b := range []types.BaseVirtualDeviceBackingInfo{&types.VirtualDiskFlatVer2BackingInfo{DiskMode: "persistent"}, &types.VirtualDiskRawDiskMappingVer1BackingInfo{CompatibilityMode: "virtualMode", DiskMode: "persistent"}} {
		config := &types.VirtualMachineConfigInfo{Hardware: types.VirtualHardware{Device: []types.BaseVirtualDevice{bus("noSharing"), disk(b)}}}
		require.Empty(t, coveredDisks(config)[0].Skip)
	}
}

// A raw device in virtual mode has a UUID and is tracked as a file is.
func TestRawDevice(t *testing.T) {
	store := types.ManagedObjectReference{Type: "Datastore", Value: "datastore-7"}
	backing := &types.VirtualDiskRawDiskMappingVer1BackingInfo{Uuid: "6000C29A", ChangeId: "52 de/7", CompatibilityMode: "virtualMode", DiskMode: "persistent"}
	backing.FileName, backing.Datastore = "[fast1] web1/web1_2.vmdk", &store
	disk := &types.VirtualDisk{CapacityInBytes: 1 << 30, VirtualDevice: types.VirtualDevice{Key: 2000, Backing: backing}}
	config := &types.VirtualMachineConfigInfo{Hardware: types.VirtualHardware{Device: []types.BaseVirtualDevice{disk}}}
	d := coveredDisks(config)[0]
	require.Equal(t, "6000c29a", d.Key)
	require.Equal(t, "52 de/7", d.ChangeID)
	require.Equal(t, backing.FileName, d.File)
	require.Equal(t, store, d.Datastore)
	require.Empty(t, d.Skip)
	backing.CompatibilityMode = "physicalMode"
	require.Contains(t, coveredDisks(config)[0].Skip, "physical mode")
}

func TestStrayFiles(t *testing.T) {
	file := func(key int32, name string) types.VirtualMachineFileLayoutExFileInfo {
		return types.VirtualMachineFileLayoutExFileInfo{Key: key, Name: name}
	}
	layout := &types.VirtualMachineFileLayoutEx{
		File: []types.VirtualMachineFileLayoutExFileInfo{file(1, "[ds] w/w.vmdk"), file(2, "[ds] w/w-000001.vmdk"), file(3, "[ds] w/w-000002.vmdk"), file(4, "[ds] w/w-000002-sesparse.vmdk"), file(5, "[ds] w/w-ctk.vmdk"), file(6, "[ds] w/w-000001-ctk.vmdk")},
		Disk: []types.VirtualMachineFileLayoutExDiskLayout{{Chain: []types.VirtualMachineFileLayoutExDiskUnit{{FileKey: []int32{1}}, {FileKey: []int32{2}}}}},
	}
	require.Equal(t, []string{"[ds] w/w-000002.vmdk", "[ds] w/w-000002-sesparse.vmdk"}, strayFiles(layout))
	require.Empty(t, strayFiles(nil))
}
