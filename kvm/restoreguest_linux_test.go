package kvm

import (
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/job"
)

// R005, R014, R182: the life of a real guest. It is backed up while it runs, while it is off, and while it runs again,
// and each time only what changed is read; it is restored in place to each of these points, boots, and finds what it had;
// and after that its backup still reads only what changed. A new machine made of a point boots by its script.
func TestRestoredGuest(t *testing.T) {
	if !long() {
		t.Skip("boots a guest five times: needs HIKAE_TEST_TIER=long")
	}
	l := newLab(t)
	l.machine.Disks = []DiskImage{{Key: system, Path: filepath.Join(l.dir, "system.qcow2")}, {Key: data, Path: filepath.Join(l.dir, "data.qcow2")}}
	points := map[string]expected{}
	l.fx("fill", "/dev/vdb", "0", "4194304", "1")
	online := l.point(points)

	l.fx("fill", "/dev/vdb", "2097152", "1048576", "2")
	var off expected
	_, off.synced, _ = l.journal()
	off.sum = l.guestSum()
	l.powerOff()
	res := l.offPoint()
	require.Equal(t, "offline", res.Consistency)
	off.notWritten = 1 << 30
	points[res.Point] = off

	disks := l.machine.Disks
	l.boot()
	l.machine.Disks = disks
	l.fx("zero", "/dev/vdb", "0", "1048576")
	l.fx("discard", "/dev/vdb", "3145728", "524288")
	again := l.point(points)
	for _, d := range again.Disks {
		require.Equal(t, job.Changed, d.Method, again.Fallbacks)
	}
	l.checkPoints(points)

	for _, point := range []string{online.Point, res.Point, again.Point} {
		l.powerOff()
		begun := time.Now()
		placed := l.placePoint(point)
		t.Logf("in place after %v: %d and %d bytes differed", time.Since(begun).Round(time.Millisecond), placed.Disks[0].Written, placed.Disks[1].Written)
		l.boot()
		l.machine.Disks = disks
		require.Equal(t, points[point].sum, l.guestSum(), "what the guest had at point %s", point)
		written, _, _ := l.journal()
		require.GreaterOrEqual(t, written, points[point].synced)
		require.NotContains(t, l.guest.Console(), "fx:")
		l.fx("fill", "/dev/vdb", "524288", "65536", "7")
		next := l.point(points)
		for _, d := range next.Disks {
			require.Equal(t, job.Changed, d.Method, next.Fallbacks)
		}
		l.checkPoints(map[string]expected{next.Point: points[next.Point]})
	}
	l.newMachine(points)
}

// powerOff lets the guest shut down.
func (l *lab) powerOff() {
	l.t.Helper()
	guest := OpenGuest(l.guest.Agent())
	guest.agent.Do(l.t.Context(), "guest-shutdown", map[string]any{"mode": "powerdown"}, nil) // it gives no answer
	guest.Close()
	require.NoError(l.t, l.guest.Wait(within(l.t, time.Minute)))
}

// offPoint makes a point while the machine is off.
func (l *lab) offPoint() job.Result {
	l.t.Helper()
	var err error
	l.machine.Config, err = job.PointConfig(l.t.Context(), l.repo, *l.newest())
	require.NoError(l.t, err)
	j := l.effects()
	defer j.Close()
	res, err := job.Backup(l.t.Context(), l.provider(Options{}), "", l.repo, &job.BackupOptions{Journal: j})
	require.NoError(l.t, err)
	require.Empty(l.t, res.Warnings)
	for _, d := range res.Disks {
		require.Equal(l.t, job.Changed, d.Method, res.Fallbacks)
	}
	return res
}

// placePoint restores a point in place.
func (l *lab) placePoint(point string) job.RestoreResult {
	l.t.Helper()
	info, err := job.FindPoint(l.t.Context(), l.repo, point)
	require.NoError(l.t, err)
	j := l.effects()
	defer j.Close()
	res, err := job.Restore(l.t.Context(), l.repo, info, NewRestorer(&RestorerOptions{Machines: []Machine{l.machine}, Scratch: l.scratch}),
		&job.RestoreOptions{InPlace: l.machine.QMP, Journal: j, Compare: true})
	require.NoError(l.t, err)
	return res
}

// newMachine makes a machine of the newest point and starts it by its script, in the place of the one that is off.
func (l *lab) newMachine(points map[string]expected) {
	l.t.Helper()
	info := l.newest()
	folder := filepath.Join(l.dir, "new")
	j := l.effects()
	defer j.Close()
	res, err := job.Restore(l.t.Context(), l.repo, *info, NewRestorer(&RestorerOptions{Folder: folder}), &job.RestoreOptions{Journal: j})
	require.NoError(l.t, err)
	require.Empty(l.t, res.Notes)
	l.powerOff()
	cmd := exec.Command("sh", filepath.Join(folder, startScript))
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(l.t, cmd.Start())
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	require.Eventually(l.t, func() bool {
		guest := OpenGuest(l.guest.Agent())
		defer guest.Close()
		_, err := guest.agent.Frozen(within(l.t, 2*time.Second))
		return err == nil
	}, time.Minute, 200*time.Millisecond, "%v", &out)
	require.Equal(l.t, points[info.ID].sum, l.guestSum())
	require.NotContains(l.t, l.guest.Console(), "fx:")
}
