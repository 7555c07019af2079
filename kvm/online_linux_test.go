package kvm

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
)

// R005, R011, R014, R182: a real guest writes without a pause while it is backed up, in full and then incrementally,
// while ranges are written, zeroed and discarded; every point is what the guest had at that moment.
func TestOnline(t *testing.T) {
	l := newLab(t)
	l.fx("fill", "/data/a", "0", "6000000", "1")
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
	l.checkPoints(points)
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
