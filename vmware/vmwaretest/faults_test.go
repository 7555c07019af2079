package vmwaretest

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/task"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

func small(o Options) *Options {
	o.DiskBytes = 1 << 20
	return &o
}

// hasFault reports whether an error, of a call or of a task, is a fault of that type.
func hasFault[T types.BaseMethodFault](t *testing.T, err error) T {
	t.Helper()
	var out T
	require.Error(t, err)
	if _, ok := fault.As(err, &out); ok {
		return out
	}
	if te, ok := err.(task.Error); ok {
		if f, ok := te.Fault().(T); ok {
			return f
		}
	}
	t.Fatalf("%v (%T) is no %T", err, err, out)
	return out
}

// TestOpenFilesBlockMerge: a snapshot whose files are read while it is removed leaves a disk that needs consolidation (R116).
func TestOpenFilesBlockMerge(t *testing.T) {
	r := newRig(t, small(Options{}))
	v := r.s.VM("web0")
	d := v.Disk(0)
	ref := r.create(v, false)
	require.NoError(t, d.Write(5, []byte("delta")))
	snap := r.snapshot(ref)
	img, err := r.s.OpenDisk(backing(&snap.Config, d.Device()).FileName, false)
	require.NoError(t, err)

	hasFault[*types.FileLocked](t, r.remove(ref, false))
	assert.Empty(t, v.Snapshots())
	assert.True(t, r.vm(v, "runtime").Runtime.ConsolidationNeeded)
	assert.Contains(t, strings.Join(r.s.Leftovers(), "\n"), "consolidation")
	consolidate := func() error {
		res, err := methods.ConsolidateVMDisks_Task(r.ctx, r.c, &types.ConsolidateVMDisks_Task{This: v.Ref()})
		require.NoError(t, err)
		_, err = r.wait(res.Returnval, nil)
		return err
	}
	hasFault[*types.FileLocked](t, consolidate())
	require.NoError(t, img.Close())
	require.NoError(t, consolidate())
	assert.False(t, r.vm(v, "runtime").Runtime.ConsolidationNeeded)
	assert.Len(t, d.Chain(), 1)
	got, err := d.Read(5, 5)
	require.NoError(t, err)
	assert.Equal(t, "delta", string(got))
}

func TestRemovalHalfway(t *testing.T) {
	r := newRig(t, small(Options{}))
	v := r.s.VM("web0")
	ref := r.create(v, false)
	r.s.Fail(Fault{Method: "RemoveSnapshot_Task", Object: ref.Value, InTask: true, Halfway: true, Fault: &types.GenericVmConfigFault{}})
	hasFault[*types.GenericVmConfigFault](t, r.remove(ref, false))
	assert.Empty(t, v.Snapshots())
	assert.True(t, v.NeedsConsolidation())
	require.NoError(t, v.Consolidate())
	assert.False(t, v.NeedsConsolidation())
}

// TestRootWithChildren removes the current root while children remain, which crashes the simulator below.
func TestRootWithChildren(t *testing.T) {
	r := newRig(t, small(Options{}))
	v := r.s.VM("web0")
	root := r.create(v, false)
	child := r.create(v, false)
	res, err := methods.RevertToSnapshot_Task(r.ctx, r.c, &types.RevertToSnapshot_Task{This: root})
	require.NoError(t, err)
	_, err = r.wait(res.Returnval, nil)
	require.NoError(t, err)
	assert.False(t, v.PoweredOn(), "without memory a machine that is reverted is off")
	require.NoError(t, r.remove(root, false))
	info := r.vm(v, "snapshot").Snapshot
	require.NotNil(t, info)
	assert.Equal(t, child, info.RootSnapshotList[0].Snapshot)
	assert.Nil(t, info.CurrentSnapshot)
	require.NoError(t, r.remove(child, false))
	assert.Nil(t, r.vm(v, "snapshot").Snapshot)
}

func TestQuiesce(t *testing.T) {
	r := newRig(t, small(Options{}))
	v := r.s.VM("web0")
	d := v.Disk(0)
	v.OnQuiesce(func() { assert.NoError(t, d.Write(0, []byte("flushed"))) })
	for _, quiesce := range []bool{false, true} {
		ref := r.create(v, quiesce)
		snap := r.snapshot(ref)
		file, err := r.s.LocalFile(backing(&snap.Config, d.Device()).FileName)
		require.NoError(t, err)
		assert.Equal(t, quiesce, strings.HasPrefix(string(content(t, file)), "flushed"))
		assert.Equal(t, quiesce, r.vm(v, "snapshot").Snapshot.RootSnapshotList[0].Quiesced)
		require.NoError(t, r.remove(ref, false))
	}
	assert.Greater(t, r.s.Stunned(v.Ref()), 500*time.Millisecond)
	try := func() error {
		res, err := methods.CreateSnapshotEx_Task(r.ctx, r.c, &types.CreateSnapshotEx_Task{
			This: v.Ref(), Name: "s", QuiesceSpec: &types.VirtualMachineGuestQuiesceSpec{},
		})
		require.NoError(t, err)
		_, err = r.wait(res.Returnval, nil)
		return err
	}
	v.SetQuiescing(QuiesceFails)
	hasFault[*types.ApplicationQuiesceFault](t, try())
	v.SetQuiescing(QuiesceRefused)
	hasFault[*types.ToolsUnavailable](t, try())
	v.SetQuiescing(QuiesceTimeout)
	hasFault[*types.FilesystemQuiesceFault](t, try())
	assert.Empty(t, v.Snapshots())
}

func TestTrackerFaults(t *testing.T) {
	r := newRig(t, small(Options{DisksPerVM: 2}))
	v := r.s.VM("web0")
	d := v.Disk(0)
	ask := func(ref types.ManagedObjectReference, id string, key int32, off int64) (*types.DiskChangeInfo, error) {
		res, err := methods.QueryChangedDiskAreas(r.ctx, r.c, &types.QueryChangedDiskAreas{
			This: v.Ref(), Snapshot: &ref, DeviceKey: key, ChangeId: id, StartOffset: off,
		})
		if err != nil {
			return nil, err
		}
		return &res.Returnval, nil
	}
	key := func(err error) string { return hasFault[*types.FileFault](t, err).FaultMessage[0].Key }

	ref := r.create(v, false)
	_, err := ask(ref, "*", d.Device(), 0)
	assert.Equal(t, NoTrack, key(err))
	require.NoError(t, r.remove(ref, false))

	require.NoError(t, r.reconfigure(v, types.VirtualMachineConfigSpec{ChangeTrackingEnabled: types.NewBool(true)}))
	assert.False(t, v.Tracked(), "it begins with a stun")
	ref = r.create(v, false)
	snap := r.snapshot(ref)
	assert.Empty(t, backing(&snap.Config, d.Device()).ChangeId)
	require.NoError(t, r.remove(ref, false))

	first := r.create(v, false)
	snap = r.snapshot(first)
	id := backing(&snap.Config, d.Device()).ChangeId
	require.NoError(t, d.Write(trackGrain, []byte("x")))
	require.NoError(t, r.remove(first, false))
	second := r.create(v, false)
	for _, wrong := range []struct {
		id, property string
		key          int32
		off          int64
	}{{"nonsense", "changeId", d.Device(), 0}, {id, "deviceKey", 1, 0}, {id, "startOffset", d.Device(), 1 << 20}, {id, "startOffset", d.Device(), -1}} {
		_, err = ask(second, wrong.id, wrong.key, wrong.off)
		assert.Equal(t, wrong.property, hasFault[*types.InvalidArgument](t, err).InvalidProperty)
	}
	info, err := ask(second, id, d.Device(), 0)
	require.NoError(t, err)
	assert.Equal(t, []types.DiskChangeExtent{{Start: trackGrain, Length: trackGrain}}, info.ChangedArea)
	info, err = ask(second, "*", d.Device(), 0)
	require.NoError(t, err)
	assert.Equal(t, []types.DiskChangeExtent{{Start: trackGrain, Length: trackGrain}}, info.ChangedArea)
	for _, k := range []string{NoTrack, NoEpoch, CannotGetChanges} {
		d.FailTracking(k)
		_, err = ask(second, id, d.Device(), 0)
		assert.Equal(t, k, key(err))
	}
	d.FailTracking("")
	v.ResetTracking()
	_, err = ask(second, id, d.Device(), 0)
	assert.Equal(t, NoEpoch, key(err))
	require.NoError(t, r.remove(second, false))

	// An omitted area is not told, and nothing else is wrong.
	third := r.create(v, false)
	snap = r.snapshot(third)
	id = backing(&snap.Config, d.Device()).ChangeId
	d.OmitChanges(1)
	require.NoError(t, d.Write(0, []byte("x")))
	require.NoError(t, d.Write(2*trackGrain, []byte("x")))
	require.NoError(t, r.remove(third, false))
	fourth := r.create(v, false)
	info, err = ask(fourth, id, d.Device(), 0)
	require.NoError(t, err)
	assert.Equal(t, []types.DiskChangeExtent{{Start: 2 * trackGrain, Length: trackGrain}}, info.ChangedArea)
}

// TestRevertedTracking: after a revert the tracker knows ids that it should not, and gives too little; or it refuses.
func TestRevertedTracking(t *testing.T) {
	for _, breaks := range []bool{false, true} {
		r := newRig(t, small(Options{}))
		v := r.s.VM("web0")
		v.RevertBreaksTracking(breaks)
		d := v.Disk(0)
		r.track(v)
		keep := r.create(v, false)
		require.NoError(t, d.Write(0, []byte("x")))
		backup := r.create(v, false)
		snap := r.snapshot(backup)
		id := backing(&snap.Config, d.Device()).ChangeId
		require.NoError(t, v.Revert(keep))
		next := r.create(v, false)
		res, err := methods.QueryChangedDiskAreas(r.ctx, r.c, &types.QueryChangedDiskAreas{
			This: v.Ref(), Snapshot: &next, DeviceKey: d.Device(), ChangeId: id,
		})
		if breaks {
			hasFault[*types.FileFault](t, err)
			continue
		}
		require.NoError(t, err)
		assert.Empty(t, res.Returnval.ChangedArea, "although the disk differs from what that id stood for")
	}
}

func TestPrivileges(t *testing.T) {
	r := newRig(t, small(Options{}))
	r.s.AddUser("limited", "secret", []string{"VirtualMachine.State.CreateSnapshot"})
	_, err := dial(r.ctx, r.s, "limited", "wrong")
	hasFault[*types.InvalidLogin](t, err)
	c := r.login("limited", "secret")
	v := r.s.VM("web0")
	key, err := session.NewManager(c).UserSession(r.ctx)
	require.NoError(t, err)
	res, err := methods.HasPrivilegeOnEntities(r.ctx, c, &types.HasPrivilegeOnEntities{
		This: *c.ServiceContent.AuthorizationManager, Entity: []types.ManagedObjectReference{v.Ref()}, SessionId: key.Key,
		PrivId: []string{"VirtualMachine.State.CreateSnapshot", "VirtualMachine.State.RemoveSnapshot", "System.View"},
	})
	require.NoError(t, err)
	var granted []bool
	for _, p := range res.Returnval[0].PrivAvailability {
		granted = append(granted, p.IsGranted)
	}
	assert.Equal(t, []bool{true, false, true}, granted)
	ref := r.create(v, false)
	_, err = methods.RemoveSnapshot_Task(r.ctx, c, &types.RemoveSnapshot_Task{This: ref})
	assert.Equal(t, "VirtualMachine.State.RemoveSnapshot", hasFault[*types.NoPermission](t, err).PrivilegeId)
	_, err = methods.ReconfigVM_Task(r.ctx, c, &types.ReconfigVM_Task{
		This: v.Ref(), Spec: types.VirtualMachineConfigSpec{ChangeTrackingEnabled: types.NewBool(true)},
	})
	assert.Equal(t, "VirtualMachine.Config.ChangeTracking", hasFault[*types.NoPermission](t, err).PrivilegeId)
	r.s.Restrict(true)
	_, err = methods.RemoveSnapshot_Task(r.ctx, r.c, &types.RemoveSnapshot_Task{This: ref})
	hasFault[*types.RestrictedVersion](t, err)
}

// TestTaskOutlivesSession: a session that ends takes no task with it.
func TestTaskOutlivesSession(t *testing.T) {
	r := newRig(t, small(Options{}))
	v := r.s.VM("web0")
	r.s.Fail(Fault{Method: "CreateSnapshot_Task", InTask: true, Delay: 100 * time.Millisecond})
	res, err := methods.CreateSnapshot_Task(r.ctx, r.c, &types.CreateSnapshot_Task{This: v.Ref(), Name: "s"})
	require.NoError(t, err)
	_, err = methods.CreateSnapshot_Task(r.ctx, r.c, &types.CreateSnapshot_Task{This: v.Ref(), Name: "another"})
	hasFault[*types.TaskInProgress](t, err)
	r.s.ExpireSessions()
	assert.Empty(t, r.s.Sessions())
	_, err = methods.CreateSnapshot_Task(r.ctx, r.c, &types.CreateSnapshot_Task{This: v.Ref(), Name: "s"})
	hasFault[*types.NotAuthenticated](t, err)
	r.c = r.login(r.s.User(), r.s.Password())
	_, err = r.wait(res.Returnval, nil)
	require.NoError(t, err)
	assert.Len(t, v.Snapshots(), 1)
}

func TestWireFaults(t *testing.T) {
	r := newRig(t, small(Options{}))
	v := r.s.VM("web0")
	create := func() error {
		_, err := methods.CreateSnapshot_Task(r.ctx, r.c, &types.CreateSnapshot_Task{This: v.Ref(), Name: "s"})
		return err
	}
	done := func(snapshots int) func() bool { // and the VM takes the next call
		return func() bool {
			v.mu.Lock()
			idle := v.busy == ""
			v.mu.Unlock()
			return idle && len(v.Snapshots()) == snapshots
		}
	}
	r.s.Fail(Fault{Method: "CreateSnapshot_Task", Status: http.StatusServiceUnavailable, Times: 2, Skip: 1})
	require.NoError(t, create())
	require.Eventually(t, done(1), 5*time.Second, time.Millisecond)
	for range 2 {
		require.ErrorContains(t, create(), "503")
	}
	r.s.Fail(Fault{Method: "CreateSnapshot_Task", Cut: true})
	require.ErrorIs(t, create(), io.EOF)
	assert.Len(t, v.Snapshots(), 1)
	r.s.Fail(Fault{Method: "CreateSnapshot_Task", Cut: true, Lost: true})
	require.ErrorIs(t, create(), io.EOF)
	require.Eventually(t, done(2), 5*time.Second, time.Millisecond, "it was done, and the answer lost")
	r.s.Fail(Fault{Method: "CreateSnapshot_Task", InTask: true, After: true, Fault: &types.SystemError{}})
	res, err := methods.CreateSnapshot_Task(r.ctx, r.c, &types.CreateSnapshot_Task{This: v.Ref(), Name: "s"})
	require.NoError(t, err)
	_, err = r.wait(res.Returnval, nil)
	hasFault[*types.SystemError](t, err)
	assert.Len(t, v.Snapshots(), 3)
	r.s.Fail(Fault{Times: -1, Fault: &types.HostCommunication{}})
	hasFault[*types.HostCommunication](t, create())
	r.s.Heal()
}

// TestDisabledMethods: whoever disabled a method is the one who enables it.
func TestDisabledMethods(t *testing.T) {
	r := newRig(t, small(Options{Datastores: 2, Hosts: 2}))
	v := r.s.VM("web0")
	m := object.NewAuthorizationManager(r.c)
	relocate := func() error {
		ds := r.s.datastore("LocalDS_1")
		res, err := methods.RelocateVM_Task(r.ctx, r.c, &types.RelocateVM_Task{
			This: v.Ref(), Spec: types.VirtualMachineRelocateSpec{Datastore: &ds.Self},
		})
		if err != nil {
			return err
		}
		_, err = r.wait(res.Returnval, nil)
		return err
	}
	require.NoError(t, m.DisableMethods(r.ctx, []types.ManagedObjectReference{v.Ref()},
		[]object.DisabledMethodRequest{{Method: "RelocateVM_Task", Reason: "backup"}}, "us"))
	assert.True(t, slices.Contains(r.vm(v, "disabledMethod").DisabledMethod, "RelocateVM_Task"))
	hasFault[*types.MethodDisabled](t, relocate())
	require.NoError(t, m.EnableMethods(r.ctx, []types.ManagedObjectReference{v.Ref()}, []string{"RelocateVM_Task"}, "others"))
	hasFault[*types.MethodDisabled](t, relocate())
	require.NoError(t, m.EnableMethods(r.ctx, []types.ManagedObjectReference{v.Ref()}, []string{"RelocateVM_Task"}, "us"))

	d := v.Disk(0)
	require.NoError(t, d.Write(9, []byte("moved")))
	ref := r.create(v, false)
	require.NoError(t, d.Write(99, []byte("too")))
	want, err := d.Read(0, int(d.Size()))
	require.NoError(t, err)
	require.NoError(t, relocate())
	assert.True(t, strings.HasPrefix(d.File(), "[LocalDS_1] "), d.File())
	assert.Equal(t, want, content(t, d.Chain()[0]))
	snap := r.snapshot(ref)
	assert.True(t, strings.HasPrefix(backing(&snap.Config, d.Device()).FileName, "[LocalDS_1] "))
	require.NoError(t, r.remove(ref, false))
	require.NoError(t, methodsLogout(r))
	assert.Empty(t, r.s.Leftovers())
}

func TestFigures(t *testing.T) {
	r := newRig(t, small(Options{}))
	v := r.s.VM("web0")
	r.s.SetFreeSpace("LocalDS_0", 1000)
	res, err := methods.CreateSnapshot_Task(r.ctx, r.c, &types.CreateSnapshot_Task{This: v.Ref(), Name: "s"})
	require.NoError(t, err)
	_, err = r.wait(res.Returnval, nil)
	hasFault[*types.NoDiskSpace](t, err)
	r.s.SetReadLatency("LocalDS_0", 33)
	perf, err := methods.QueryPerf(r.ctx, r.c, &types.QueryPerf{This: *r.c.ServiceContent.PerfManager, QuerySpec: []types.PerfQuerySpec{{
		Entity: *r.vm(v, "runtime").Runtime.Host, MaxSample: 1, IntervalId: 20,
		MetricId: []types.PerfMetricId{{CounterId: r.s.latencyCounter(), Instance: "*"}},
	}}})
	require.NoError(t, err)
	series := perf.Returnval[0].(*types.PerfEntityMetric).Value[0].(*types.PerfMetricIntSeries)
	assert.Equal(t, []int64{33}, series.Value)
}

func TestCloseEndsTasks(t *testing.T) {
	s, err := Start(small(Options{}))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := dial(ctx, s, s.User(), s.Password())
	require.NoError(t, err)
	defer c.Client.CloseIdleConnections()
	s.Fail(Fault{Method: "CreateSnapshot_Task", InTask: true, Delay: time.Hour})
	_, err = methods.CreateSnapshot_Task(ctx, c, &types.CreateSnapshot_Task{This: s.VM("web0").Ref(), Name: "s"})
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
}
