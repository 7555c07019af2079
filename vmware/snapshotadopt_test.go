package vmware

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/vmware/vmwaretest"
)

// R106: what the server says of the snapshot decides, not what was asked for: Tools may end in between, without a fault.
func TestQuiescedBySayOfTheServer(t *testing.T) {
	for _, policy := range []Quiesce{TryQuiesce, RequireQuiesce} {
		l := newLab(t, vmwaretest.Options{DiskBytes: 1 << 20})
		l.opts.Quiesce = policy
		l.vm().SetQuiescing(vmwaretest.QuiesceNoTools)
		l.tools(l.vm(), types.VirtualMachineToolsRunningStatusGuestToolsRunning)
		res, _, err := l.try(nil)
		l.clean()
		if policy == RequireQuiesce {
			var failed *hikae.QuiesceError
			require.ErrorAs(t, err, &failed)
			require.Equal(t, "snapshot", failed.Stage)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, hikae.Crash.String(), res.Consistency)
		require.Contains(t, res.Warnings[0], "was not quiesced")
	}
}

// noting is a journal that keeps nothing, and does something when an effect is written down.
type noting func(hikae.Effect) error

func (n noting) Intend(_ context.Context, e hikae.Effect) (func(context.Context) error, error) {
	return func(context.Context) error { return nil }, n(e)
}

// Transports are told how the VM stands after the snapshot: one that was started meanwhile has its disks open.
func TestStartedWhileItIsPinned(t *testing.T) {
	l := newLab(t, vmwaretest.Options{PoweredOff: true, DiskBytes: 1 << 20})
	l.opts.KeepTracking = true
	p := l.provider()
	var got *Pinned
	inner := p.openDisk
	p.openDisk = func(ctx context.Context, pinned *Pinned) (pipe.Image, Choice, error) {
		got = pinned
		return inner(ctx, pinned)
	}
	s, err := p.Snapshot(t.Context(), l.vm().Ref().Value, &hikae.SnapshotOptions{Journal: noting(func(e hikae.Effect) error {
		if e.Kind == kindSnapshot { // it is asked for next
			return l.vm().PowerOn()
		}
		return nil
	})})
	require.NoError(t, err)
	_, err = s.OpenDisk(t.Context(), l.vm().Disk(0).Key())
	require.NoError(t, err)
	require.True(t, got.PoweredOn)
	require.Equal(t, hikae.Crash, s.Consistency())
	require.NoError(t, s.Release(t.Context()))
	l.clean()
}

// A VM that may be moved is read where its files are the same ones at another place; one that may not is not.
func TestMovedWhileItIsRead(t *testing.T) {
	for _, allowed := range []bool{true, false} {
		l := newLab(t, vmwaretest.Options{Datastores: 2, DiskBytes: 1 << 20})
		l.opts.AllowRelocation = allowed
		snap, err := l.provider().Snapshot(t.Context(), l.vm().Ref().Value, nil)
		require.NoError(t, err)
		s := snap.(*snapshot)
		require.Equal(t, allowed, s.movable())
		d := s.disks[l.vm().Disk(0).Key()]
		d.File = "[elsewhere] moved/" + fileOf(d.File)
		s.disks[d.Key] = d
		_, err = s.Prepare(t.Context())
		require.Equal(t, allowed, err == nil, "%v", err)
		d.File = "[elsewhere] moved/another.vmdk"
		s.disks[d.Key] = d
		_, err = s.Prepare(t.Context())
		require.ErrorContains(t, err, "another.vmdk")
		require.NoError(t, s.Release(t.Context()))
		l.clean()
	}
}

// A call to create whose answer is lost may arrive after everybody has looked: its effect is left to a sweep.
func TestCreateWithoutAnAnswerIsLeftToTheSweep(t *testing.T) {
	l := newLab(t, vmwaretest.Options{DiskBytes: 1 << 20})
	l.opts.KeepTracking = true
	j, err := hikae.OpenFileJournal(l.journal)
	require.NoError(t, err)
	l.server.Fail(vmwaretest.Fault{Method: "CreateSnapshot_Task", Times: creations, Cut: true})
	_, err = l.provider().Snapshot(t.Context(), l.vm().Ref().Value, &hikae.SnapshotOptions{Journal: j})
	require.Error(t, err)
	var effect hikae.Effect
	require.NoError(t, j.Close())
	left, err := hikae.OpenFileJournal(l.journal)
	require.NoError(t, err)
	for e, err := range left.Pending(t.Context()) {
		require.NoError(t, err)
		effect = e
	}
	require.NoError(t, left.Close())
	require.Equal(t, kindSnapshot, effect.Kind)
	_, err = l.vm().CreateSnapshot(namePrefix+effect.Session, describe(effect.Facts["mark"])) // it arrives
	require.NoError(t, err)
	require.Equal(t, 1, l.sweep())
	l.clean()

	l.server.Fail(vmwaretest.Fault{Method: "CreateSnapshot_Task", Cut: true, Lost: true})
	l.point(nil) // the one call that there was has arrived: the mark tells
}

// The program's folder is lost: what its dead session left is removed where that was asked for, when it is old enough.
func TestMarkOfALostJournal(t *testing.T) {
	l := newLab(t, vmwaretest.Options{DiskBytes: 1 << 20})
	s, err := l.provider().Snapshot(t.Context(), l.vm().Ref().Value, nil)
	require.NoError(t, err)
	require.Zero(t, l.sweep(), "no journal knows of it")
	var busy *hikae.BusyError
	_, _, err = l.try(nil)
	require.ErrorAs(t, err, &busy)
	require.Contains(t, busy.Owner, "made on machine "+machineName()+" at 20")
	require.Contains(t, busy.Owner, "remove the snapshot by hand")
	l.opts.AdoptStale = time.Nanosecond
	_, _, err = l.try(nil)
	require.ErrorAs(t, err, &busy, "a session of this process is at work with it")
	s.(*snapshot).ended()
	l.opts.AdoptStale = time.Hour
	_, _, err = l.try(nil)
	require.ErrorAs(t, err, &busy, "it is not as old")
	l.opts.AdoptStale = time.Nanosecond
	res := l.point(nil)
	require.Contains(t, res.Warnings[0], "by a session that did not remove it, was removed")
}

// Somebody removes another snapshot of the VM while ours is read: files are merged, and the name that was pinned becomes another
// file's. No point is made of what was read by name.
func TestPinnedFileBecomesAnotherFile(t *testing.T) {
	for _, transport := range []string{HTTPS, NBDSSL, "insider"} {
		l := newLab(t, vmwaretest.Options{DiskBytes: 1 << 20})
		user, err := l.vm().CreateSnapshot("mine", "")
		require.NoError(t, err)
		l.scribbleAll(2)
		key := l.vm().Disk(0).Key()
		snap, err := l.provider().Snapshot(t.Context(), l.vm().Ref().Value, nil)
		require.NoError(t, err)
		want := l.contents(l.vm())[key]
		require.NoError(t, l.vm().RemoveSnapshot(user, false))
		for _, name := range []string{"another", "and another"} {
			_, err = l.vm().CreateSnapshot(name, "")
			require.NoError(t, err)
			l.scribbleAll(5)
		}
		open := func() (pipe.Image, error) { return snap.OpenDisk(t.Context(), key) }
		if transport != "insider" {
			open = func() (pipe.Image, error) { return snap.(*snapshot).OpenDiskBy(t.Context(), key, transport) }
		}
		img, err := open()
		got := make([]byte, len(want))
		if err == nil {
			_, err = img.ReadAt(t.Context(), got, 0)
		}
		if err == nil || errors.Is(err, io.EOF) {
			_, err = snap.Prepare(t.Context())
		}
		require.True(t, err != nil || bytes.Equal(want, got), "wrong bytes, and nothing says so")
		require.NoError(t, snap.Release(t.Context()))
	}
}

// A snapshot that is released again does not let go of a VM that is another session's by now.
func TestReleaseTwiceFreesNobodyElse(t *testing.T) {
	l := newLab(t, vmwaretest.Options{DiskBytes: 1 << 20})
	p, id := l.provider(), l.vm().Ref().Value
	first, err := p.Snapshot(t.Context(), id, nil)
	require.NoError(t, err)
	require.NoError(t, first.Release(t.Context()))
	second, err := p.Snapshot(t.Context(), id, nil)
	require.NoError(t, err)
	require.NoError(t, first.Release(t.Context()))
	require.True(t, p.taken[id])
	require.NoError(t, second.Release(t.Context()))
	l.clean()
}

// A raw device in virtual mode that is tracked needs no snapshot to begin that.
func TestTrackedRawDeviceDoesNotSleep(t *testing.T) {
	yes := true
	m := &machine{}
	m.Config = &types.VirtualMachineConfigInfo{ChangeTrackingEnabled: &yes}
	m.Config.Hardware.Device = []types.BaseVirtualDevice{&types.VirtualDisk{
		VirtualDevice: types.VirtualDevice{Key: 2000, Backing: &types.VirtualDiskRawDiskMappingVer1BackingInfo{
			CompatibilityMode: "virtualMode", Uuid: "6000C290-0000", ChangeId: "52 de/3"}},
		CapacityInBytes: 1 << 20,
	}}
	m.disks = coveredDisks(m.Config)
	require.Empty(t, m.disks[0].Skip)
	require.False(t, m.trackingSleeps())
}
