package vmware

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/vmware/vmwaretest"
)

// What follows are the rows of the known pitfalls of changed-block tracking, each with what has to happen.

// Tracking is enabled only without snapshots, and begun by a snapshot that goes at once, so that the first point has its ids.
func TestTrackingIsEnabled(t *testing.T) {
	l := newLab(t, vmwaretest.Options{DisksPerVM: 2})
	require.False(t, l.vm().Tracked())
	l.point(nil)
	require.True(t, l.vm().Tracked())
	require.Len(t, l.newest().Tracking, 2)
	l.changed()
}

func TestTrackingIsNotEnabledOverSnapshots(t *testing.T) {
	l := newLab(t, vmwaretest.Options{})
	user, err := l.vm().CreateSnapshot("mine", "")
	require.NoError(t, err)
	l.point(nil)
	require.Empty(t, l.newest().Tracking)
	l.read("no change id")
	require.False(t, l.vm().Tracked())
	require.NoError(t, l.vm().RemoveSnapshot(user, false))
	l.read("no change id")
	l.changed()
}

func TestTrackingIsLeftAsFound(t *testing.T) {
	l := newLab(t, vmwaretest.Options{})
	l.opts.KeepTracking = true
	l.point(nil)
	require.Empty(t, l.newest().Tracking)
	require.False(t, l.vm().Tracked())
}

// Tracking that somebody enabled begins with the next time that the VM stands still.
func TestTrackingThatSleepsIsWoken(t *testing.T) {
	l := newLab(t, vmwaretest.Options{})
	require.NoError(t, l.client.setTracking(t.Context(), l.vm().Ref(), true))
	require.False(t, l.vm().Tracked())
	l.point(nil)
	l.changed()
}

func TestUUIDChanged(t *testing.T) {
	l := newLab(t, vmwaretest.Options{})
	l.point(nil)
	l.vm().ResetTracking()
	l.read("begun anew")
	l.changed()
}

func TestFaultKeys(t *testing.T) {
	for key, reason := range some(t, 1, map[string]string{
		vmwaretest.NoTrack: "not tracked then", vmwaretest.NoEpoch: "earlier tracking", vmwaretest.CannotGetChanges: "damaged",
	}) {
		l := newLab(t, vmwaretest.Options{DiskBytes: 1 << 20})
		l.point(nil)
		l.vm().Disk(0).FailTracking(key)
		l.read(reason)
		l.vm().Disk(0).FailTracking("")
		l.changed()
	}
}

func TestExtendedDisk(t *testing.T) {
	l := newLab(t, vmwaretest.Options{})
	l.point(nil)
	require.NoError(t, l.vm().Disk(0).Extend(labDisk+1<<20))
	l.read("resized")
	l.changed()
}

// KB 95965: from the extension on, until tracking is reset.
func TestExtendedDiskOnABadRelease(t *testing.T) {
	l := newLab(t, vmwaretest.Options{Build: "22380479", DiskBytes: labDisk})
	l.point(nil)
	require.NoError(t, l.vm().Disk(0).Extend(labDisk+1<<20))
	l.vm().Disk(0).LoseExtension()
	l.read("resized")
	l.read("95965")
	require.NoError(t, l.provider().ResetTracking(t.Context(), l.vm().Ref().Value, nil))
	l.read("begun anew")
	l.changed()
}

// A revert is found, whatever became of the snapshot since.
func TestReverted(t *testing.T) {
	revert := func(l *lab, ref types.ManagedObjectReference) {
		on := l.vm().PoweredOn()
		l.revert(ref)
		if on && !l.vm().PoweredOn() {
			require.NoError(l, l.vm().PowerOn())
		}
	}
	for name, do := range some(t, 1, map[string]func(l *lab){
		"to a snapshot from before the base point, which stays": func(l *lab) {
			revert(l, l.userSnapshot())
		},
		"to one from after it, which stays": func(l *lab) {
			l.scribbleAll(2)
			snap, err := l.vm().CreateSnapshot("later", "")
			require.NoError(l, err)
			l.scribbleAll(2)
			revert(l, snap)
		},
		"to one from after it, which is removed": func(l *lab) {
			l.scribbleAll(2)
			snap, err := l.vm().CreateSnapshot("later", "")
			require.NoError(l, err)
			l.scribbleAll(2)
			revert(l, snap)
			require.NoError(l, l.vm().RemoveSnapshot(snap, false))
		},
		"to one from before, all removed": func(l *lab) {
			snap := l.userSnapshot()
			revert(l, snap)
			require.NoError(l, l.vm().RemoveSnapshot(snap, false))
		},
	}) {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, vmwaretest.Options{DiskBytes: 2 << 20})
			l.point(nil)
			_, err := l.vm().CreateSnapshot("earlier", "")
			require.NoError(t, err)
			l.changed()
			do(l)
			res := l.point(nil)
			require.Equal(t, job.Allocated, res.Disks[0].Method)
			require.NotEmpty(t, res.Fallbacks[0].Reason)
			t.Log(res.Fallbacks[0].Reason)
			l.read("revert") // within an hour of it clocks may differ, and on a snapshot no point is believed
		})
	}
}

// Reverts that leave no task: a single host forgets in minutes, and a vCenter Server never hears of one made at the host. By the
// second one the disk's file has its old name, and other programs' snapshots have counted the change number up.
func TestRevertedWithoutATask(t *testing.T) {
	for _, esx := range []bool{true, false} {
		l := newLab(t, vmwaretest.Options{ESX: esx, DiskBytes: 8 << 20})
		o := &job.BackupOptions{Sample: -1}
		_, _, err := l.try(o)
		require.NoError(t, err)
		user, err := l.vm().CreateSnapshot("mine", "")
		require.NoError(t, err)
		_, _, err = l.try(o)
		require.NoError(t, err)
		l.scribbleAll(6)
		_, _, err = l.try(o) // the base: holds what the revert throws away
		require.NoError(t, err)
		for range 2 {
			require.NoError(t, l.vm().Revert(user))
			require.NoError(t, l.vm().PowerOn())
		}
		for range 4 { // another program's snapshots
			ref, err := l.vm().CreateSnapshot("theirs", "")
			require.NoError(t, err)
			require.NoError(t, l.vm().RemoveSnapshot(ref, false))
		}
		l.scribbleAll(1)
		res, want, err := l.try(o)
		require.NoError(t, err)
		l.holds(res.Point, want)
		require.Equal(t, job.Allocated, res.Disks[0].Method)
		require.Contains(t, res.Fallbacks[0].Reason, "cannot be ruled out")
	}
}

// Who may not ask for tasks does not know that nothing happened: a VM on a snapshot is read, and one without is believed.
func TestHistoryThatMayNotBeRead(t *testing.T) {
	l := newLab(t, vmwaretest.Options{DiskBytes: 1 << 20})
	l.point(nil)
	l.server.Fail(vmwaretest.Fault{Method: "CreateCollectorForTasks", Times: 100, Fault: &types.NoPermission{}})
	l.changed()
	_, err := l.vm().CreateSnapshot("mine", "")
	require.NoError(t, err)
	l.read("is not known")
}

// A tracker that forgets something is found by the sample, and is not used the next time either.
func TestOmittedChangeIsFoundBySample(t *testing.T) {
	l := newLab(t, vmwaretest.Options{DiskBytes: 2 << 20})
	l.point(nil)
	l.vm().Disk(0).OmitChanges(1)
	require.NoError(t, l.vm().Disk(0).Write(1<<20, []byte("nobody noted this")))
	res := l.point(&job.BackupOptions{Sample: 2 << 20}) // all of it: by the usual sample it may be found a run later
	require.Equal(t, job.Allocated, res.Disks[0].Method)
	require.Contains(t, res.Fallbacks[0].Reason, "not told in full")
	l.read("no change id")
	l.changed()
}

// One answer covers a part of a fragmented disk.
func TestAnswersInPages(t *testing.T) {
	l := newLab(t, vmwaretest.Options{PageAreas: 1})
	l.point(nil)
	for off := int64(0); off < labDisk; off += 3 * 64 << 10 {
		require.NoError(t, l.vm().Disk(0).Write(off, []byte{1, 2, 3}))
	}
	l.changed()
}

// Bad arguments are our own mistake, and told as what they are.
func TestInvalidArgumentIsAHardError(t *testing.T) {
	l := newLab(t, vmwaretest.Options{DiskBytes: 1 << 20})
	l.point(nil)
	s, err := l.provider().Snapshot(t.Context(), l.vm().Ref().Value, nil)
	require.NoError(t, err)
	l.server.Fail(vmwaretest.Fault{Method: "QueryChangedDiskAreas", Fault: &types.InvalidArgument{InvalidProperty: "changeId"}})
	key := s.VM().Disks[0].Key
	for _, err := range s.Changed(t.Context(), key, hikae.ChangeID(l.newest().Tracking[key])) {
		require.Error(t, err)
		require.NotErrorIs(t, err, hikae.ErrTrackingLost)
		require.ErrorContains(t, err, "changeId")
	}
	for e, err := range s.Changed(t.Context(), key, "") {
		require.NoError(t, err)
		require.Equal(t, pipe.Extent{Len: 1 << 20, Kind: pipe.Data}, e, "no moment: all of it")
	}
	require.NoError(t, s.Release(t.Context()))
	l.clean()
}

// What the server says was never written may be left unread, where it says the truth.
func TestAllocationIsTrustedWhereItIsTrue(t *testing.T) {
	l := newLab(t, vmwaretest.Options{DiskBytes: 8 << 20})
	l.opts.TrustAllocation = true
	res := l.point(nil)
	require.Less(t, res.Disks[0].Read, int64(4<<20))
	l.changed()
	a := &allocatedImage{Image: l.image(res.Point)}
	var found error
	for n := 0; n < 100 && found == nil; n++ { // it looks at some places, by chance
		found = a.probe(t.Context())
	}
	require.Error(t, found, "a list that says that nothing was written")
}

func TestResetTracking(t *testing.T) {
	l := newLab(t, vmwaretest.Options{DiskBytes: 1 << 20})
	l.point(nil)
	before := l.vm().Disk(0).ChangeID()
	snap, err := l.vm().CreateSnapshot("mine", "")
	require.NoError(t, err)
	require.ErrorIs(t, l.provider().ResetTracking(t.Context(), l.vm().Ref().Value, nil), ErrHasSnapshots)
	require.NoError(t, l.vm().RemoveSnapshot(snap, false))
	require.NoError(t, l.provider().ResetTracking(t.Context(), l.vm().Ref().Value, nil))
	require.True(t, l.vm().Tracked())
	require.NotEqual(t, before[:20], l.vm().Disk(0).ChangeID()[:20])
	l.clean()
	l.read("begun anew")
	l.opts.ResetTrackingOnFull = true
	before = l.vm().Disk(0).ChangeID()
	l.point(&job.BackupOptions{Full: true})
	require.NotEqual(t, before[:20], l.vm().Disk(0).ChangeID()[:20])
	before = l.vm().Disk(0).ChangeID()
	l.changed()
	require.Equal(t, before[:20], l.vm().Disk(0).ChangeID()[:20])
}
