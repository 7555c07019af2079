package hypervtest

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A guest that cannot be quiesced fails a checkpoint of level 1, with nothing left; level 2 does not ask it.
func TestQuiesceFails(t *testing.T) {
	for name, v := range map[string]VM{"fault": {}, "no services": {NoIntegration: true}, "linux": {GuestOS: "linux"}} {
		t.Run(name, func(t *testing.T) {
			h, g := core(t, Options{}, v)
			if !v.NoIntegration {
				h.Fail(Fault{Event: "freeze", VM: g.ID(), Code: 0x800423F2, Reason: "the writers did not answer in time (0x800423F2)"})
			}
			_, err := h.recovery(t, g, 1)
			require.ErrorContains(t, err, "production checkpoints cannot be created")
			require.Empty(t, h.asked(t, "SELECT * FROM Msvm_VirtualSystemSettingData WHERE VirtualSystemType = '"+typeRecovery+"'"))
			left, err := filepath.Glob(filepath.Join(h.Dir(), "C", "VMs", "web1", "*.avhdx"))
			require.NoError(t, err)
			require.Empty(t, left)
			require.Equal(t, `C:\VMs\web1\disk_1.vhdx`, g.Tip(0))
			_, err = h.recovery(t, g, 2)
			require.NoError(t, err)
			if v.GuestOS == "linux" {
				require.Equal(t, "R091", h.Events()[1].Row) // and R142: by a freeze of its file systems
				h.ClearEvents()
				_, err = h.recovery(t, g, 1)
				require.NoError(t, err)
				require.Contains(t, h.Events()[1].Detail, "fsfreeze")
			}
		})
	}
}

// The thaw fails: the checkpoint is taken back, and what the guest wrote is there.
func TestThawFails(t *testing.T) {
	h, g := core(t, Options{}, VM{})
	require.NoError(t, g.Write(0, 0, []byte("kept")))
	h.Fail(Fault{Event: "thaw", Reason: "no answer"})
	_, err := h.recovery(t, g, 1)
	require.ErrorContains(t, err, "no answer")
	require.Equal(t, `C:\VMs\web1\disk_1.vhdx`, g.Tip(0))
	got, err := g.Read(0, 0, 4)
	require.NoError(t, err)
	require.Equal(t, "kept", string(got))
	require.NoError(t, g.Write(0, 4, []byte(" on")))
}

// Jobs fail, warn, are gone, hang until healed, and fail after what they did; a checkpoint comes late; a method is refused.
func TestFaultsOfJobs(t *testing.T) {
	h, g := core(t, Options{}, VM{})
	take := func() (*Object, error) { return h.recovery(t, g, 2) }
	h.Fail(Fault{Call: "CreateSnapshot", Code: 32775})
	_, err := take()
	require.ErrorContains(t, err, "32775")
	h.Fail(Fault{Job: "CreateSnapshot", Reason: "no room"})
	_, err = take()
	require.ErrorContains(t, err, "no room")
	require.Empty(t, g.Checkpoints())
	h.Fail(Fault{Job: "CreateSnapshot", Reason: "too late", Done: true})
	_, err = take()
	require.ErrorContains(t, err, "too late")
	require.Len(t, g.Checkpoints(), 1, "it was made all the same")
	h.Fail(Fault{Job: "CreateSnapshot", Warn: true, Reason: "with a warning"})
	set, err := take()
	require.NoError(t, err)
	called := make(chan struct{})
	h.Fail(Fault{Job: "DestroySnapshot", Hang: true, Skip: 1, Times: -1})
	h.Fail(Fault{Event: "merge", Do: func() { close(called) }})
	_, err = h.do(t, snapshots, "DestroySnapshot", nil, map[string]*Object{"AffectedSnapshot": set})
	require.NoError(t, err)
	other := h.asked(t, "SELECT * FROM Msvm_VirtualSystemSettingData WHERE VirtualSystemType = '"+typeRecovery+"'")
	require.Len(t, other, 1)
	h.Lock()
	code, out := destroySnapshot(&Call{Host: h, Method: "DestroySnapshot", Refs: map[string]*Object{"AffectedSnapshot": other[0]}})
	h.Unlock()
	require.Equal(t, uint32(4096), code)
	require.False(t, h.Settled(50*time.Millisecond), "it hangs")
	h.Lock()
	require.Equal(t, uint16(4), given(out, "Job").(*Object).Values["JobState"])
	require.Equal(t, uint16(statusDeleting), g.status())
	h.Unlock()
	h.Heal()
	require.True(t, h.Settled(10*time.Second))
	<-called
	require.Empty(t, g.Checkpoints())
	require.Equal(t, `C:\VMs\web1\disk_1.vhdx`, g.Tip(0))

	h.Fail(Fault{Event: "late", Delay: 60 * time.Millisecond})
	_, err = take()
	require.ErrorContains(t, err, "not listed")
	require.Contains(t, g.Tip(0), ".avhdx", "its files are there")
	require.Eventually(t, func() bool {
		return len(h.asked(t, "SELECT * FROM Msvm_VirtualSystemSettingData WHERE VirtualSystemType = '"+typeRecovery+"'")) == 1
	}, 5*time.Second, 5*time.Millisecond)
}

// A merge that fails leaves the child, and the VM as it was; the next removal tries again. While one goes on it shows in the status.
func TestMergeFails(t *testing.T) {
	h, g := core(t, Options{MergeTime: 30 * time.Millisecond}, VM{Disks: []Disk{{Size: 4 << 20, BlockSize: 1 << 20}}})
	stop := g.Churn(3)
	defer stop()
	set, err := h.recovery(t, g, 1)
	require.NoError(t, err)
	tip := g.Tip(0)
	h.Fail(Fault{Event: "merge", Reason: "access is denied"})
	_, err = h.do(t, snapshots, "DestroySnapshot", nil, map[string]*Object{"AffectedSnapshot": set})
	require.NoError(t, err)
	h.Lock()
	require.Equal(t, []uint16{11, statusMerging}, g.object.Values["OperationalStatus"])
	h.Unlock()
	require.Equal(t, tip, g.Tip(0), "the tip moves at the end")
	require.True(t, h.Settled(10*time.Second))
	h.Lock()
	require.Equal(t, []uint16{2}, g.object.Values["OperationalStatus"])
	h.Unlock()
	require.Equal(t, tip, g.Tip(0))
	set, err = h.recovery(t, g, 1)
	require.NoError(t, err)
	require.Equal(t, []string{tip}, h.files(set), "what is left is a chain of three")
	require.True(t, bytes.Equal(all(t, g.AtFreeze(0), g.Size(0)), h.hold(t, tip)))
	_, err = h.do(t, snapshots, "DestroySnapshot", nil, map[string]*Object{"AffectedSnapshot": set})
	require.NoError(t, err)
	require.True(t, h.Settled(10*time.Second))
	require.Equal(t, `C:\VMs\web1\disk_1.vhdx`, g.Tip(0), "%v", h.Events())
	stop()
	require.True(t, bytes.Equal(all(t, g.Now(0), g.Size(0)), h.hold(t, h.flushed(t, g))))
}

// flushed is a disk's tip with all that was written in the file.
func (h *Host) flushed(t *testing.T, g *Guest) string {
	t.Helper()
	require.NoError(t, g.Flush(0))
	return g.Tip(0)
}

// Change tracking gets coarser, never wrong: 32 KiB, 256 KiB after an orderly end, 2 MiB after a power cut. An id that was let go of is unknown.
func TestGrains(t *testing.T) {
	h, g := core(t, Options{Changes: 1}, VM{Disks: []Disk{{Size: 16 << 20, BlockSize: 1 << 20}}})
	convert := func() *Object {
		set, err := h.recovery(t, g, 1)
		require.NoError(t, err)
		out, err := h.do(t, snapshots, "ConvertToReferencePoint", nil, map[string]*Object{"AffectedSnapshot": set})
		require.NoError(t, err)
		return h.madeBy(given(out, "job").(*Object))
	}
	point := convert()
	id := point.Values["ResilientChangeTrackingIdentifiers"].([]string)[0]
	require.NoError(t, g.Write(0, 5<<20, []byte("one")))
	require.NoError(t, g.Write(0, 9<<20, []byte("two")))
	list := func(path string) (total uint64, calls int) {
		for off := uint64(0); off < 16<<20; calls++ {
			out, err := h.do(t, images, "GetVirtualDiskChanges", map[string][]string{"Path": {path}, "LimitId": {id}, "ByteOffset": {textOf(off)}, "ByteLength": {textOf(16<<20 - off)}}, nil)
			require.NoError(t, err)
			off += given(out, "ProcessedByteLength").(uint64)
			for _, n := range given(out, "ChangedByteLengths").([]uint64) {
				total += n
			}
		}
		return total, calls
	}
	require.True(t, h.Settled(10*time.Second))
	total, calls := list(g.Tip(0))
	require.Equal(t, uint64(2*grainMemory), total)
	require.Equal(t, 2, calls, "an answer is bounded")
	require.NoError(t, g.PowerOff())
	require.NoError(t, g.PowerOn())
	total, _ = list(g.Tip(0))
	require.Equal(t, uint64(2*grainFile), total)
	require.NoError(t, g.PowerCut())
	total, _ = list(g.Tip(0))
	require.Equal(t, uint64(2*grainCrash), total)
	require.NoError(t, g.PowerOn())

	ask := func(path, id string) error {
		_, err := h.do(t, images, "GetVirtualDiskChanges", map[string][]string{"Path": {path}, "LimitId": {id}, "ByteOffset": {"0"}, "ByteLength": {"16777216"}}, nil)
		return err
	}
	require.ErrorContains(t, ask(g.Tip(0), "rctX:none"), "0xC03A0030")
	h.Fail(Fault{Event: "changes", Code: 0xC03A0030, Reason: "0xC03A0030"})
	require.ErrorContains(t, ask(g.Tip(0), id), "0xC03A0030")
	rct := `C:\VMs\web1\disk_1.vhdx.rct`
	b, err := h.read(rct)
	require.NoError(t, err)
	require.NoError(t, h.remove(rct))
	require.ErrorContains(t, ask(g.Tip(0), id), "0xC03A0030", "its file is not there")
	require.NoError(t, h.write(rct, b))
	require.NoError(t, ask(g.Tip(0), id))
	_, err = h.do(t, references, "DestroyReferencePoint", nil, map[string]*Object{"AffectedReferencePoint": point})
	require.NoError(t, err)
	require.ErrorContains(t, ask(g.Tip(0), id), "0xC03A0030")
	_, err = h.do(t, references, "DestroyReferencePoint", nil, map[string]*Object{"AffectedReferencePoint": point})
	require.Error(t, err)
}

// Each generation has its own classes, methods and versions.
func TestGenerations(t *testing.T) {
	for _, gen := range generations {
		h, g := core(t, Options{Generation: gen.name}, VM{Disks: []Disk{{Size: 2 << 20, BlockSize: 1 << 20}}})
		has := func(class, method string) bool {
			h.Lock()
			defer h.Unlock()
			c := h.classes[key(V2, class)]
			return c != nil && c.Methods[method] != nil
		}
		late := gen.order >= 3
		require.Equal(t, late, has("Msvm_VirtualSystemSnapshotService", "ConvertToReferencePoint"), gen.name)
		require.Equal(t, late, has("Msvm_ImageManagementService", "GetVirtualDiskChanges"), gen.name)
		require.Equal(t, late, h.classes[key(V2, "Msvm_SecuritySettingData")] != nil, gen.name)
		require.Equal(t, gen.config, g.version())
		require.Equal(t, gen.order == 0, h.gen.hidden(V2))
		require.Equal(t, gen.order > 1, h.gen.hidden("root/virtualization"))
		require.Equal(t, late, h.exists(`C:\VMs\web1\Virtual Machines\`+strings.ToUpper(g.ID())+".vmcx"), gen.name)
		require.Equal(t, !late, h.exists(`C:\VMs\web1\Virtual Machines\`+strings.ToUpper(g.ID())+".xml"), gen.name)
		if gen.order == 0 {
			require.True(t, strings.HasSuffix(g.Tip(0), ".vhd"))
			continue
		}
		_, err := h.recovery(t, g, 2) // with a GuestBackupType, which came after 2016
		if gen.name == "2016" {
			require.ErrorContains(t, err, "32773")
			plain := `<INSTANCE CLASSNAME="Msvm_VirtualSystemSnapshotSettingData"><PROPERTY NAME="ConsistencyLevel" TYPE="uint8"><VALUE>1</VALUE></PROPERTY></INSTANCE>`
			_, err = h.do(t, snapshots, "CreateSnapshot", map[string][]string{"SnapshotType": {"32768"}, "SnapshotSettings": {plain}}, map[string]*Object{"AffectedSystem": g.object})
		}
		require.Equal(t, late, err == nil, "%s: %v", gen.name, err)
	}
	_, err := Start(&Options{Generation: "2031"})
	require.Error(t, err)
}

// A VM of an older configuration gets checkpoints and no change tracking, and a disk that is passed through is in none.
func TestWithoutTracking(t *testing.T) {
	h, g := core(t, Options{}, VM{Version: "5.0", Disks: []Disk{{Size: 2 << 20, BlockSize: 1 << 20}, {Path: `\\.\PHYSICALDRIVE1`, Physical: true}}})
	_, err := h.recovery(t, g, 2)
	require.ErrorContains(t, err, "physical disk")
	ignore := strings.Replace(level(2), "</INSTANCE>", `<PROPERTY NAME="IgnoreNonSnapshottableDisks" TYPE="boolean"><VALUE>TRUE</VALUE></PROPERTY></INSTANCE>`, 1)
	_, err = h.do(t, snapshots, "CreateSnapshot", map[string][]string{"SnapshotType": {"32768"}, "SnapshotSettings": {ignore}}, map[string]*Object{"AffectedSystem": g.object})
	require.NoError(t, err)
	set := h.asked(t, "SELECT * FROM Msvm_VirtualSystemSettingData WHERE VirtualSystemType = '"+typeRecovery+"'")[0]
	require.Len(t, h.files(set), 1)
	for _, o := range h.partsOf(set) {
		sub, _ := o.text("ResourceSubType")
		require.NotEqual(t, subPhysical, sub, "it vanishes")
	}
	_, err = h.do(t, snapshots, "ConvertToReferencePoint", nil, map[string]*Object{"AffectedSnapshot": set})
	require.ErrorContains(t, err, "reference point cannot be made")
	require.Len(t, g.Checkpoints(), 1)
}

// A disk that is extended or replaced has no ids any more; replaced, it is another.
func TestResize(t *testing.T) {
	h, g := core(t, Options{}, VM{Disks: []Disk{{Size: 2 << 20, BlockSize: 1 << 20}}})
	require.NoError(t, g.Write(0, 1000, []byte("stays")))
	before, err := h.diskID(g.Tip(0))
	require.NoError(t, err)
	require.NoError(t, g.Extend(0, 5<<20))
	require.NoError(t, g.Write(0, 4<<20, []byte("new room")))
	got, err := g.Read(0, 1000, 5)
	require.NoError(t, err)
	require.Equal(t, "stays", string(got))
	same, err := h.diskID(g.Tip(0))
	require.NoError(t, err)
	require.Equal(t, before, same)
	require.Error(t, g.Extend(0, 1<<20))
	require.NoError(t, g.Replace(0, Disk{Size: 3 << 20, BlockSize: 1 << 20}))
	other, err := h.diskID(g.Tip(0))
	require.NoError(t, err)
	require.NotEqual(t, before, other)
	require.NoError(t, g.Write(0, 0, []byte("x")))
	_, err = g.Checkpoint("mine")
	require.NoError(t, err)
	require.Error(t, g.Replace(0, Disk{Size: 3 << 20}))
	require.Error(t, g.Extend(0, 9<<20))
}
