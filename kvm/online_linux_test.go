package kvm

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/kvm/kvmtest"
	"github.com/hikae/hikae/kvm/qga"
	"github.com/hikae/hikae/kvm/qmp"
	"github.com/hikae/hikae/pipe"
)

// R005, R011, R014, R182: a real guest writes without a pause while it is backed up, in full and then incrementally,
// while ranges are written, zeroed and discarded; every point is what the guest had at that moment.
func TestOnline(t *testing.T) {
	l := newLab(t)
	l.fx("fill", "/data/a", "0", "3000000", "1")
	l.fx("fill", "/dev/vdb", "0", "8388608", "2")
	l.fx("reset")

	points := map[string]expected{}
	full := l.point(points)
	require.Equal(t, job.Allocated, full.Disks[0].Method)
	require.Empty(t, full.Fallbacks)
	_, _, pause := l.journal()
	t.Logf("guest's longest pause in a full backup of %.1f s: %v", full.Seconds, pause)

	l.fx("zero", "/dev/vdb", "1048576", "1048576")
	l.fx("discard", "/dev/vdb", "3145728", "1048576")
	l.fx("fill", "/dev/vdb", "6291456", "131072", "3")
	l.fx("rm", "/data/a")
	l.fx("trim", "/data")
	inc := l.point(points)
	for _, d := range inc.Disks {
		require.Equal(t, job.Changed, d.Method, inc.Fallbacks)
		require.Less(t, d.Read, int64(8*mib), d.Key)
	}
	require.Equal(t, data, inc.Disks[1].Key)
	require.LessOrEqual(t, inc.Disks[1].Read, int64(mib), "zeros are not read")
	require.GreaterOrEqual(t, inc.Disks[1].Skipped["zero"], int64(2*mib), "zeroed ranges are stored as zero")

	t.Run("limits know where its disks lie", func(t *testing.T) {
		for vm, err := range New([]Machine{l.machine}, nil).VMs(t.Context()) {
			require.NoError(t, err)
			for _, key := range []string{system, data} {
				require.Equal(t, mountOf(l.dir), vm.Facts["datastore."+key])
			}
		}
	})
	t.Run("a failed backup leaves the base whole", func(t *testing.T) {
		l.fx("fill", "/dev/vdb", "1048576", "262144", "4")
		_, err := l.backup(Options{}, job.BackupOptions{Wrap: failing})
		require.ErrorIs(t, err, errWrap)
		l.fx("fill", "/dev/vdb", "5242880", "262144", "5")
		require.Equal(t, job.Changed, l.point(points).Disks[1].Method)
	})
	t.Run("a full fleecing image breaks the snapshot and not the guest", func(t *testing.T) {
		overwrite := func(_ context.Context, d hikae.Disk, img pipe.Image) (pipe.Image, error) {
			if d.Key == data {
				l.fx("fill", "/dev/vdb", "0", "8388608", "6")
			}
			return img, nil
		}
		_, err := l.backup(Options{FleeceBytes: 2 * mib}, job.BackupOptions{Wrap: overwrite})
		require.ErrorIs(t, err, ErrBroken)
		require.Equal(t, job.Changed, l.point(points).Disks[1].Method)
	})
	t.Run("answers are lost while the guest is frozen", func(t *testing.T) { l.lostAnswers() })
	t.Run("no agent answers", func(t *testing.T) {
		machine := l.machine
		defer func() { l.machine = machine }()
		l.machine.Agent = filepath.Join(l.dir, "nobody")
		res, err := l.backup(Options{}, job.BackupOptions{Ask: hikae.Filesystem})
		require.NoError(t, err)
		require.Equal(t, "crash", res.Consistency)
		require.Len(t, res.Warnings, 2)
		require.Contains(t, res.Warnings[1], "could not be frozen")
	})
	t.Run("somebody else is at work", func(t *testing.T) { l.others() })
	t.Run("into the guest", func(t *testing.T) { l.guestChannel() })
	t.Run("the session is killed", func(t *testing.T) { l.killed(t, points, decisive) })
	t.Run("the guard of a killed session", func(t *testing.T) { l.guard(points) })
	t.Run("the hypervisor is killed", func(t *testing.T) { l.hypervisorKilled(points) })
	l.checkPoints(points)
	if long() {
		l.bootRestored(points)
	}
}

// bootRestored starts the newest point as a machine of its own. Its writer checks the whole journal before it goes on.
func (l *lab) bootRestored(points map[string]expected) {
	l.guest.Kill()
	point := l.newest().ID
	dir := l.restore(point)
	vm := filepath.Join(l.dir, "again")
	require.NoError(l.t, os.Mkdir(vm, 0o700))
	var err error
	l.guest, err = l.fixture.Start(l.t.Context(), vm, []kvmtest.GuestDisk{
		{Path: filepath.Join(dir, system+".raw"), Format: "raw", ID: "vd0"}, {Path: filepath.Join(dir, data+".raw"), Format: "raw", ID: "vd1"},
	})
	require.NoError(l.t, err)
	l.t.Cleanup(l.guest.Kill)
	require.Equal(l.t, points[point].sum, l.guestSum())
	written, _, _ := l.journal()
	require.Greater(l.t, written, points[point].synced)
	require.NotContains(l.t, l.guest.Console(), "fx:")
}

// others: what is not ours makes a session step back, and is not touched.
func (l *lab) others() {
	var busy *hikae.BusyError
	snap, err := l.provider(Options{}).Snapshot(l.t.Context(), l.machine.QMP, nil)
	require.NoError(l.t, err)
	_, err = l.provider(Options{}).Snapshot(l.t.Context(), l.machine.QMP, nil)
	require.ErrorAs(l.t, err, &busy)
	require.NoError(l.t, snap.Release(l.t.Context()))
	require.NoError(l.t, snap.Release(l.t.Context()))
	l.clean()

	mon, err := qmp.Dial(l.t.Context(), l.guest.QMP())
	require.NoError(l.t, err)
	_, err = l.provider(Options{DialTimeout: 200 * time.Millisecond}).Snapshot(l.t.Context(), l.machine.QMP, nil)
	require.ErrorAs(l.t, err, &busy)
	require.NoError(l.t, mon.Execute(l.t.Context(), "block-dirty-bitmap-add", map[string]any{"node": "disk1", "name": "theirs"}, nil))
	require.NoError(l.t, mon.Execute(l.t.Context(), "nbd-server-start", map[string]any{
		"addr": map[string]any{"type": "unix", "data": map[string]any{"path": filepath.Join(l.dir, "theirs")}}}, nil))
	require.NoError(l.t, mon.Close())

	_, err = l.provider(Options{}).Snapshot(l.t.Context(), l.machine.QMP, nil)
	require.ErrorAs(l.t, err, &busy)
	require.Contains(l.t, busy.What, "NBD server")

	mon, err = qmp.Dial(l.t.Context(), l.guest.QMP())
	require.NoError(l.t, err)
	require.NoError(l.t, mon.Execute(l.t.Context(), "nbd-server-stop", nil, nil), "it was theirs")
	require.NoError(l.t, mon.Execute(l.t.Context(), "block-dirty-bitmap-remove", map[string]any{"node": "disk1", "name": "theirs"}, nil))
	require.NoError(l.t, mon.Close())
	l.clean()
}

// guestChannel runs programs and moves files with the stock agent, within bounds.
func (l *lab) guestChannel() {
	g := OpenGuest(l.guest.Agent())
	defer g.Close()
	ctx := l.t.Context()
	r, err := g.Run(ctx, "/bin/fx", []string{"print", "3000000"}, nil)
	require.NoError(l.t, err)
	require.True(l.t, r.Truncated)
	require.Len(l.t, r.Stdout, maxStream)
	r, err = g.Run(ctx, "/bin/fx", []string{"nonsense"}, nil)
	require.NoError(l.t, err)
	require.Equal(l.t, 1, r.ExitCode)
	require.Contains(l.t, string(r.Stderr), "nonsense")
	_, err = g.Run(ctx, "/bin/none", nil, nil)
	require.True(l.t, qga.Refused(err), err)

	want := bytes.Repeat([]byte("0123456789"), 60_000)
	require.NoError(l.t, g.Upload(ctx, "/tmp/x", want, 0))
	got, err := g.Download(ctx, "/tmp/x", int64(len(want)))
	require.NoError(l.t, err)
	require.Equal(l.t, want, got)
	_, err = g.Download(ctx, "/tmp/x", int64(len(want))-1)
	require.ErrorIs(l.t, err, qga.ErrTooLong)
	_, err = g.Download(ctx, "/dev/zero", mib)
	require.ErrorIs(l.t, err, qga.ErrTooLong)
	_, err = g.Download(ctx, "/none", mib)
	require.True(l.t, qga.Refused(err), err)
}

// expected is what a point must hold.
type expected struct {
	sum                string // of the data disk
	synced, notWritten int    // the system disk's journal is at least, and less than, so long
}

// point makes a point and notes what it must hold.
func (l *lab) point(points map[string]expected) job.Result {
	l.t.Helper()
	var want expected
	_, want.synced, _ = l.journal()
	want.sum = l.guestSum()
	begun := time.Now()
	res, err := l.backup(Options{}, job.BackupOptions{})
	require.NoError(l.t, err)
	require.Empty(l.t, res.Warnings)
	require.Equal(l.t, "filesystem", res.Consistency)
	require.Len(l.t, res.Disks, 2)
	l.t.Logf("point after %v, phases %v", time.Since(begun).Round(time.Millisecond), res.Phases)
	written, _, _ := l.journal()
	want.notWritten = written + 1
	points[res.Point] = want
	return res
}

func (l *lab) checkPoints(points map[string]expected) {
	l.t.Helper()
	for point, want := range points {
		dir := l.restore(point)
		require.Equal(l.t, want.sum, l.sumOfData(dir), "data disk of point %s", point)
		n := l.checkSystem(dir)
		require.GreaterOrEqual(l.t, n, want.synced)
		require.LessOrEqual(l.t, n, want.notWritten)
		require.FileExists(l.t, dir+"/config/qmp/query-block.json")
		require.FileExists(l.t, dir+"/config/command-line")
	}
}
