package kvm

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/kvm/qmp"
	"github.com/hikae/hikae/pipe"
)

// old makes the QEMU of this machine be talked to as the oldest that is supported: by backup jobs, and in its words.
func old(opts Options) Options {
	var v qmp.Version
	v.QEMU.Major, v.QEMU.Minor = 4, 2
	opts.pretend = &v
	return opts
}

// TestOlder is the story of TestOnline for a QEMU before 7.1: points are what the guest had, increments are incremental,
// and a guest never stops because of what is kept for us, whatever it writes.
func TestOlder(t *testing.T) {
	if !long() {
		t.Skip("its short form is in TestDomain: needs HIKAE_TEST_TIER=long")
	}
	l := newLab(t)
	l.fx("fill", "/dev/vdb", "0", "8388608", "2")
	points := map[string]expected{}
	full := l.olderPoint(points, Options{})
	require.Equal(t, job.Allocated, full.Disks[0].Method)
	l.fx("zero", "/dev/vdb", "1048576", "1048576")
	l.fx("discard", "/dev/vdb", "3145728", "1048576")
	l.fx("fill", "/dev/vdb", "6291456", "131072", "3")
	inc := l.olderPoint(points, Options{})
	for _, d := range inc.Disks {
		require.Equal(t, job.Changed, d.Method, inc.Fallbacks)
		require.Less(t, d.Read, int64(8*mib), d.Key)
	}
	require.GreaterOrEqual(t, inc.Disks[1].Skipped["zero"], int64(2*mib))
	require.Equal(t, job.Changed, l.point(points).Disks[1].Method, "after an update of QEMU, as it were")
	t.Run("a full fleecing image", func(t *testing.T) { l.olderFull(t, points, Options{FleeceBytes: 2 * mib}) })
	l.checkPoints(points)
	t.Run("a full file system", func(t *testing.T) { l.olderFull(t, points, l.smallScratch(t)) })
	t.Run("the session is killed, and has a guard", func(t *testing.T) { l.olderOrphan(t) })
}

func (l *lab) olderPoint(points map[string]expected, opts Options) job.Result {
	l.t.Helper()
	var want expected
	_, want.synced, _ = l.journal()
	want.sum = l.guestSum()
	res, err := l.backup(old(opts), job.BackupOptions{})
	require.NoError(l.t, err)
	require.Equal(l.t, "filesystem", res.Consistency)
	require.Len(l.t, res.Warnings, 1)
	require.Contains(l.t, res.Warnings[0], "if this process died", "there is no guard")
	written, _, _ := l.journal()
	want.notWritten = written + 1
	points[res.Point] = want
	return res
}

// olderFull lets the guest overwrite more than can be kept. The backup breaks, and no write of the guest fails or waits.
func (l *lab) olderFull(t *testing.T, points map[string]expected, opts Options) {
	defer func(outer *testing.T) { l.t = outer }(l.t)
	l.t = t
	l.fx("reset")
	overwrite := func(_ context.Context, d hikae.Disk, img pipe.Image) (pipe.Image, error) {
		if d.Key == data {
			for i := range 8 {
				l.fx("fill", "/dev/vdb", strconv.Itoa(i*mib), strconv.Itoa(mib), "6")
			}
		}
		return img, nil
	}
	p := New([]Machine{l.machine}, optional(old(opts), l.scratch))
	j := l.effects()
	_, err := job.Backup(t.Context(), p, "", l.repo, &job.BackupOptions{Wrap: overwrite, Journal: j})
	require.NoError(t, j.Close())
	require.ErrorIs(t, err, ErrBroken)
	t.Log(err)
	l.clean()
	require.Zero(t, l.failedWrites(), "writes of the guest that failed")
	_, _, pause := l.journal()
	require.Less(t, pause, 3*time.Second)
	require.Equal(t, job.Changed, l.olderPoint(points, Options{}).Disks[1].Method)
}

func optional(opts Options, scratch string) *Options {
	if opts.Scratch == "" {
		opts.Scratch = scratch
	}
	return &opts
}

// failedWrites is how many writes of the guest QEMU could not do, on all disks.
func (l *lab) failedWrites() (n int) {
	l.t.Helper()
	mon, err := qmp.Dial(l.t.Context(), l.guest.QMP())
	require.NoError(l.t, err)
	defer mon.Close()
	var all []struct {
		Stats struct {
			Failed int `json:"failed_wr_operations"`
		} `json:"stats"`
	}
	require.NoError(l.t, mon.Execute(l.t.Context(), "query-blockstats", nil, &all))
	require.NotEmpty(l.t, all)
	for _, s := range all {
		n += s.Stats.Failed
	}
	return n
}

// smallScratch is a file system of its own that is smaller than what the guest is going to write.
func (l *lab) smallScratch(t *testing.T) Options {
	t.Helper()
	dir := filepath.Join(l.dir, "small")
	require.NoError(t, os.MkdirAll(dir, 0o700))
	if err := syscall.Mount("hikae", dir, "tmpfs", 0, "size=5m"); err != nil {
		t.Skip("a small file system cannot be mounted here: ", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, 0) })
	return Options{Scratch: dir}
}

// olderOrphan: when the session's process is gone, its guard ends the jobs before they fill the disk, without any sweep.
func (l *lab) olderOrphan(t *testing.T) {
	defer func(outer *testing.T) { l.t = outer }(l.t)
	l.t = t
	charged := make(chan string, 1)
	guard := func(_ context.Context, charge string) (Watch, error) {
		charged <- charge
		return Watch{Release: func() error { return nil }}, nil
	}
	j := l.effects()
	snap, err := l.provider(old(Options{Guard: guard})).Snapshot(t.Context(), l.machine.QMP, &hikae.SnapshotOptions{Journal: j})
	require.NoError(t, err)
	s := snap.(*snapshot)
	s.watch.cancel() // as a kill would end it: nothing is undone
	<-s.watch.ended
	require.NoError(t, s.mon.Close())
	require.NoError(t, j.Close())

	var out bytes.Buffer
	require.NoError(t, RunGuard(within(t, 30*time.Second), <-charged, bytes.NewReader(nil), &out))
	require.Equal(t, "!", out.String())
	mon, err := qmp.Dial(t.Context(), l.guest.QMP())
	require.NoError(t, err)
	nodes, err := takeNodes(t.Context(), mon)
	require.NoError(t, err)
	require.False(t, s.lives(nodes))
	require.NoError(t, mon.Close())
	require.NotZero(t, l.sweep())
	l.clean()
}
