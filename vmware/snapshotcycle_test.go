package vmware

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/vmware/vmwaretest"
)

// R104, R105, R107, R114 to R117, R182: snapshot without memory, disks and configuration read, detached, removed, whole again.
func TestCycle(t *testing.T) {
	for name, opts := range some(t, 1, map[string]vmwaretest.Options{
		"vCenter": {DisksPerVM: 2}, "single host": {ESX: true}, "old deltas": {Deltas: vmwaretest.COWD, Thick: true}, "SESparse backing": {SEBacking: true},
	}) {
		t.Run(name, func(t *testing.T) {
			opts.DiskBytes = 4 << 20
			l := newLab(t, opts)
			before, err := l.client.machine(t.Context(), l.vm().Ref())
			require.NoError(t, err)
			full := l.point(nil)
			require.Empty(t, full.Warnings)
			require.Equal(t, hikae.Filesystem.String(), full.Consistency)
			require.Equal(t, "insider", full.Disks[0].Transport)
			for range 2 {
				res := l.changed()
				require.Empty(t, res.Warnings)
				require.Less(t, res.Disks[0].Read, opts.DiskBytes/2)
			}
			after, err := l.client.machine(t.Context(), l.vm().Ref())
			require.NoError(t, err)
			require.Equal(t, before.disks[0].File, after.disks[0].File)
			require.Empty(t, l.vm().Snapshots())
			points := l.blobs(full.Point)
			require.Contains(t, points, configXML)
			config, err := ParseConfig(points[configXML])
			require.NoError(t, err)
			require.Equal(t, before.Config.InstanceUuid, config.InstanceUuid)
			require.Equal(t, before.disks[0].File, DisksOf(config)[0].File, "what was pinned, not what runs")
		})
	}
}

// R118, R198: several VMs at once, each with all its steps.
func TestManyAtOnce(t *testing.T) {
	l := newLab(t, vmwaretest.Options{VMs: 4, DisksPerVM: 2, DiskBytes: 2 << 20})
	p := l.provider()
	for range 2 {
		var group sync.WaitGroup
		points := make([]job.Result, 4)
		wants := make([]map[string][]byte, 4)
		errs := make([]error, 4)
		for i, vm := range l.server.VMs() {
			group.Go(func() { points[i], wants[i], errs[i] = l.tryBy(t.Context(), p, vm, nil) })
		}
		group.Wait()
		for i := range points {
			require.NoError(t, errs[i])
			l.holds(points[i].Point, wants[i])
		}
		l.clean()
	}
}

func TestPoweredOffIsOffline(t *testing.T) {
	l := newLab(t, vmwaretest.Options{PoweredOff: true})
	res := l.point(nil)
	require.Equal(t, hikae.Offline.String(), res.Consistency)
	require.Equal(t, hikae.Offline.String(), l.changed().Consistency)
}

// Snapshots of users stay, whatever we do. A VM that stood on one at its base point is read: see revertedSince.
func TestUserSnapshotsAreUntouched(t *testing.T) {
	l := newLab(t, vmwaretest.Options{})
	l.point(nil)
	first, err := l.vm().CreateSnapshot("before the update", "mine")
	require.NoError(t, err)
	l.changed()
	l.scribbleAll(2)
	_, err = l.vm().CreateSnapshot("hikae nightly", "not theirs, in spite of its name")
	require.NoError(t, err)
	l.read("cannot be ruled out")
	l.read("cannot be ruled out")
	snaps := l.vm().Snapshots()
	require.Len(t, snaps, 2)
	require.Equal(t, first, snaps[0].Ref)
}

// R106: VMware Tools quiesce, by policy, and what was reached is what is said.
func TestQuiesce(t *testing.T) {
	for name, c := range some(t, 3, map[string]struct {
		how    vmwaretest.Quiescing
		policy Quiesce
		want   hikae.Consistency // reached
		stage  string            // of the QuiesceError where there is no point
	}{
		"well":                  {want: hikae.Filesystem},
		"required, well":        {policy: RequireQuiesce, want: hikae.Filesystem},
		"off":                   {policy: NoQuiesce, want: hikae.Crash},
		"application refuses":   {how: vmwaretest.QuiesceFails, want: hikae.Crash},
		"required, refused":     {how: vmwaretest.QuiesceFails, policy: RequireQuiesce, stage: "snapshot"},
		"no answer":             {how: vmwaretest.QuiesceTimeout, want: hikae.Crash},
		"required, no answer":   {how: vmwaretest.QuiesceTimeout, policy: RequireQuiesce, stage: "snapshot"},
		"required, unavailable": {how: vmwaretest.QuiesceRefused, policy: RequireQuiesce, stage: "snapshot"},
		"no tools":              {how: vmwaretest.QuiesceNoTools, want: hikae.Crash},
		"required, no tools":    {how: vmwaretest.QuiesceNoTools, policy: RequireQuiesce, stage: "find"},
	}) {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, vmwaretest.Options{DiskBytes: 1 << 20})
			l.opts.Quiesce = c.policy
			l.vm().SetQuiescing(c.how)
			if c.how == vmwaretest.QuiesceNoTools {
				l.tools(l.vm(), types.VirtualMachineToolsRunningStatusGuestToolsNotRunning)
			}
			res, want, err := l.try(nil)
			l.clean()
			if c.stage != "" {
				var failed *hikae.QuiesceError
				require.ErrorAs(t, err, &failed)
				require.Equal(t, c.stage, failed.Stage)
				return
			}
			require.NoError(t, err)
			l.holds(res.Point, want)
			require.Equal(t, c.want.String(), res.Consistency)
			require.Equal(t, c.how != vmwaretest.QuiesceOK, len(res.Warnings) > 0, res.Warnings)
		})
	}
}

// stiller is a guest's component that freezes, as the caller brings it.
type stiller struct {
	sync.Mutex
	frozen, thawed int
	freeze, thaw   error
}

func (q *stiller) Freeze(context.Context) error {
	q.Lock()
	defer q.Unlock()
	q.frozen++
	return q.freeze
}

func (q *stiller) Thaw(context.Context) error {
	q.Lock()
	defer q.Unlock()
	q.thawed++
	return q.thaw
}

// R187: with a component in the guest VMware's own quiescing is off.
func TestQuiescerOfTheCaller(t *testing.T) {
	for name, c := range some(t, 3, map[string]struct {
		q      *stiller
		policy Quiesce
		slow   bool
		want   hikae.Consistency
		err    string
	}{
		"well":                     {q: &stiller{}, want: hikae.Filesystem},
		"cannot freeze":            {q: &stiller{freeze: errors.New("no")}, want: hikae.Crash},
		"cannot freeze, required":  {q: &stiller{freeze: errors.New("no")}, policy: RequireQuiesce, err: "freeze"},
		"thawed early":             {q: &stiller{thaw: hikae.ErrThawedEarly}, want: hikae.Crash},
		"thawed early, required":   {q: &stiller{thaw: hikae.ErrThawedEarly}, policy: RequireQuiesce, err: "thaw"},
		"cannot thaw":              {q: &stiller{thaw: errors.New("stuck")}, err: "stuck"},
		"the host is slow":         {q: &stiller{}, slow: true, want: hikae.Crash},
		"the host is slow, but no": {q: &stiller{}, slow: true, policy: RequireQuiesce, err: "longer than"},
	}) {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, vmwaretest.Options{DiskBytes: 1 << 20})
			l.opts.Quiesce, l.opts.KeepTracking = c.policy, true
			l.vm().SetQuiescing(vmwaretest.QuiesceFails) // nobody asks Tools
			if c.slow {
				l.server.Fail(vmwaretest.Fault{Method: "CreateSnapshot_Task", InTask: true, Delay: 300 * time.Millisecond})
			}
			deadline := time.Minute
			if c.slow {
				deadline = 50 * time.Millisecond
			}
			res, want, err := l.try(&job.BackupOptions{Quiescer: c.q, FreezeDeadline: deadline})
			l.clean()
			require.Equal(t, 1, c.q.frozen)
			require.Equal(t, 1, c.q.thawed)
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				var failed *hikae.QuiesceError
				require.ErrorAs(t, err, &failed)
				return
			}
			require.NoError(t, err)
			l.holds(res.Point, want)
			require.Equal(t, c.want.String(), res.Consistency)
		})
	}
}

// One snapshot at a time: of this program, of another one, and of a session that died.
func TestBusy(t *testing.T) {
	l := newLab(t, vmwaretest.Options{DiskBytes: 1 << 20})
	p, id := l.provider(), l.vm().Ref().Value
	s, err := p.Snapshot(t.Context(), id, nil)
	require.NoError(t, err)
	var busy *hikae.BusyError
	_, err = p.Snapshot(t.Context(), id, nil)
	require.ErrorAs(t, err, &busy)
	require.Contains(t, busy.Owner, "this program")
	_, err = l.provider().Snapshot(t.Context(), id, nil)
	require.ErrorAs(t, err, &busy)
	require.Contains(t, busy.Owner, "running, or was killed")
	require.NoError(t, s.Release(t.Context()))
	require.NoError(t, s.Release(t.Context()), "again is no error")
	s, err = p.Snapshot(t.Context(), id, nil)
	require.NoError(t, err)
	require.NoError(t, s.Release(t.Context()))
	l.clean()
}

// R115, R116: what is open is closed before the snapshot is removed, in this order.
func TestReleaseClosesImagesFirst(t *testing.T) {
	l := newLab(t, vmwaretest.Options{DisksPerVM: 2, DiskBytes: 1 << 20})
	s, err := l.provider().Snapshot(t.Context(), l.vm().Ref().Value, nil)
	require.NoError(t, err)
	for _, d := range s.VM().Disks {
		_, err := s.OpenDisk(t.Context(), d.Key)
		require.NoError(t, err)
	}
	require.NoError(t, s.Release(t.Context()))
	require.False(t, l.vm().NeedsConsolidation())
	l.clean()
}

// A snapshot that somebody removes while it is read makes no point: what was read is of no one moment.
func TestSnapshotRemovedWhileItIsRead(t *testing.T) {
	l := newLab(t, vmwaretest.Options{DiskBytes: 1 << 20})
	s, err := l.provider().Snapshot(t.Context(), l.vm().Ref().Value, nil)
	require.NoError(t, err)
	require.NoError(t, l.vm().RemoveSnapshot(l.vm().Snapshots()[0].Ref, false))
	_, err = s.Prepare(t.Context())
	require.ErrorContains(t, err, "was removed while it was read")
	require.NoError(t, s.Release(t.Context()))
	l.clean()
}

// R117: a disk that somebody holds open when the snapshot goes needs consolidation; a later sweep does it.
func TestConsolidationIsTriedAgain(t *testing.T) {
	l := newLab(t, vmwaretest.Options{DiskBytes: 1 << 20})
	j, err := hikae.OpenFileJournal(l.journal)
	require.NoError(t, err)
	s, err := l.provider().Snapshot(t.Context(), l.vm().Ref().Value, &hikae.SnapshotOptions{Journal: j})
	require.NoError(t, err)
	other, err := l.server.OpenDisk(s.(*snapshot).disks[s.VM().Disks[0].Key].File, false)
	require.NoError(t, err)
	var need *ConsolidationError
	require.ErrorAs(t, s.Release(t.Context()), &need)
	require.Empty(t, l.vm().Snapshots())
	require.True(t, l.vm().NeedsConsolidation())
	require.NoError(t, other.Close())
	require.NoError(t, j.Close())
	require.Equal(t, 1, l.sweep())
	require.False(t, l.vm().NeedsConsolidation())
	l.clean()
	l.point(nil)
}

// The stages that remove the snapshots of users are taken only when somebody asked for them.
func TestSnapshotsAreHuntedOnlyWhenAsked(t *testing.T) {
	for _, hunt := range []bool{false, true} {
		l := newLab(t, vmwaretest.Options{DiskBytes: 1 << 20})
		l.opts.HuntSnapshots = hunt
		_, err := l.vm().CreateSnapshot("mine", "")
		require.NoError(t, err)
		l.server.Fail(vmwaretest.Fault{Method: "ConsolidateVMDisks_Task", Fault: &types.FileLocked{}})
		s, err := l.provider().Snapshot(t.Context(), l.vm().Ref().Value, nil)
		require.NoError(t, err)
		other, err := l.server.OpenDisk(s.(*snapshot).disks[s.VM().Disks[0].Key].File, false)
		require.NoError(t, err)
		release := make(chan error, 1)
		go func() { release <- s.Release(t.Context()) }()
		require.Eventually(t, l.vm().NeedsConsolidation, 10*time.Second, time.Millisecond)
		require.NoError(t, other.Close())
		err = <-release
		if hunt {
			require.NoError(t, err)
			require.Empty(t, l.vm().Snapshots())
		} else {
			require.Error(t, err)
			require.Len(t, l.vm().Snapshots(), 1)
		}
	}
}

func TestIndependentDiskIsLeftOut(t *testing.T) {
	l := newLab(t, vmwaretest.Options{DisksPerVM: 2, DiskBytes: 1 << 20})
	require.NoError(t, l.vm().Disk(1).SetIndependent())
	res, want, err := l.try(nil)
	require.NoError(t, err)
	require.Len(t, res.Disks, 1)
	delete(want, l.vm().Disk(1).Key())
	l.holds(res.Point, want)
	require.Contains(t, res.Warnings[0], "independent")
	l.clean()
	require.NoError(t, l.vm().Disk(0).SetIndependent())
	_, _, err = l.try(nil)
	require.ErrorContains(t, err, "no disk that can be backed up")
	l.clean()
}

// A session that ends while a VM is backed up is begun again, and while a long removal goes on, too.
func TestSessionEndsMeanwhile(t *testing.T) {
	l := newLab(t, vmwaretest.Options{DiskBytes: 1 << 20})
	l.point(nil)
	s, err := l.provider().Snapshot(t.Context(), l.vm().Ref().Value, nil)
	require.NoError(t, err)
	l.server.ExpireSessions()
	ids, err := s.Prepare(t.Context())
	require.NoError(t, err)
	require.Len(t, ids, 1)
	l.server.Fail(vmwaretest.Fault{Method: "RemoveSnapshot_Task", InTask: true, Delay: 400 * time.Millisecond})
	released := make(chan error, 1)
	go func() { released <- s.Release(t.Context()) }()
	time.Sleep(150 * time.Millisecond)
	l.server.ExpireSessions()
	require.NoError(t, <-released)
	l.clean()
	l.changed()
}
