package vmware

import (
	"bytes"
	"io/fs"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
)

// placedBench makes a VM and a point of it, between which something differs here and there.
func placedBench(t *testing.T) (b *bench, vm *machine) {
	t.Helper()
	b = newBench(t, quickModel())
	res, err := b.restore(job.RestoreOptions{Name: "placed", Disks: []string{DisksOf(b.config)[1].Key}})
	require.NoError(t, err)
	vm = b.machine(res.ID)
	b.addPoint(vm.Config, vm.disks)
	b.spoil(vm)
	return b, vm
}

// spoil makes the VM's disk the point's, with two other places.
func (b *bench) spoil(vm *machine) {
	b.Helper()
	disk := b.rack.disk(&Pinned{Disk: vm.disks[0]})
	_, err := disk.WriteAt(b.Context(), b.content[vm.disks[0].Key], 0)
	require.NoError(b, err)
	for _, off := range []int64{5000, 2 << 20} {
		_, err := disk.WriteAt(b.Context(), []byte("what came later"), off)
		require.NoError(b, err)
	}
	b.rack.sent.Store(0)
}

// R104: what differs is written over, and nothing else; what was tracked before is void.
func TestRestoreInPlace(t *testing.T) {
	b, vm := placedBench(t)
	b.client.limits.wants.DisksPerServer = 1 // the disk is opened twice, and has one place
	before := time.Now().Add(-time.Minute)
	on := true
	require.NoError(t, b.client.reconfigure(t.Context(), vm.Self, specTracking(&on)))
	for _, replaces := range []bool{false, true} {
		b.rack.replaces = replaces
		b.spoil(vm)
		res, err := b.restore(job.RestoreOptions{InPlace: vm.Self.Value, Compare: true})
		require.NoError(t, err)
		require.Equal(t, vm.Self.Value, res.ID)
		b.requireDisk(vm.disks[0], vm.disks[0].Key)
		if !replaces {
			require.Equal(t, int64(8<<10), b.rack.sent.Load(), "two cells differed")
			require.Equal(t, int64(8<<10), res.Disks[0].Written)
			require.False(t, b.rack.fresh.Load())
		}
		m := b.machine(res.ID)
		require.NoError(t, unfinished(m.Name, m.Config))
		require.Equal(t, "the web server", m.Config.Annotation)
		require.True(t, isTrue(m.Config.ChangeTrackingEnabled))
		at, err := time.Parse(time.RFC3339Nano, restoredMark(m.Config))
		require.NoError(t, err)
		require.WithinRange(t, at, before, time.Now().Add(time.Minute))
		n, err := b.sweep()
		require.NoError(t, err)
		require.Zero(t, n)
		require.Zero(t, b.rack.opened.Load())
	}
}

// What cannot be written over is refused before anything is touched.
func TestRestoreInPlaceRefused(t *testing.T) {
	b, vm := placedBench(t)
	id := vm.Self.Value
	b.power(id, true)
	_, err := b.restore(job.RestoreOptions{InPlace: id})
	var running *RunningError
	require.ErrorAs(t, err, &running)
	var busy *hikae.BusyError
	require.ErrorAs(t, err, &busy)
	b.power(id, false)
	_, err = b.restore(job.RestoreOptions{InPlace: "vm-999999"})
	require.ErrorIs(t, err, fs.ErrNotExist)

	d, err := b.restorer().InPlace(t.Context(), id, nil)
	require.NoError(t, err)
	_, err = b.restorer().InPlace(t.Context(), id, nil)
	require.ErrorAs(t, err, &busy, "another restore of this program")
	p := d.(job.Placer)
	key, size := vm.disks[0].Key, vm.disks[0].Size
	require.ErrorIs(t, p.Ready(t.Context(), []hikae.Disk{{Key: key, Size: size + 1024}}, nil), fs.ErrInvalid)
	require.ErrorIs(t, p.Ready(t.Context(), []hikae.Disk{{Key: "other", Size: size}}, nil), fs.ErrNotExist)
	_, err = d.OpenDisk(t.Context(), key)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, d.Close())

	task, err := object.NewVirtualMachine(b.client.Vim(), vm.Self).CreateSnapshot(t.Context(), "mine", "", false, false)
	require.NoError(t, err)
	require.NoError(t, task.Wait(t.Context()))
	_, err = b.restore(job.RestoreOptions{InPlace: id})
	var snapshots *SnapshotsError
	require.ErrorAs(t, err, &snapshots)
	require.Equal(t, []string{"mine"}, snapshots.Names)
	require.Empty(t, settingOf(b.machine(id).Config, keyRestored))
	require.Zero(t, b.rack.sent.Load())

	b.opts.UnderSnapshots, b.opts.PowerOff, b.opts.PowerOn = true, true, true
	b.power(id, true)
	res, err := b.restore(job.RestoreOptions{InPlace: id})
	require.NoError(t, err)
	require.Contains(t, res.Notes, "the VM was switched off, as asked")
	b.requireDisk(vm.disks[0], key)
}

// R188: a restore in place that does not come to its end is known to be broken, and the next one makes it whole. An error
// before anything was written leaves no trace.
func TestRestoreInPlaceBroken(t *testing.T) {
	b, vm := placedBench(t)
	id := vm.Self.Value
	b.front.on(func(w http.ResponseWriter, call string, _ int) bool {
		if call != "ReconfigVM_Task" {
			return false
		}
		b.front.on(nil)
		http.Error(w, "no", http.StatusInternalServerError)
		return true
	})
	_, err := b.restore(job.RestoreOptions{InPlace: id})
	require.Error(t, err)
	require.NoError(t, unfinished(vm.Name, b.machine(id).Config))

	b.rack.failAt.Store(b.rack.writes.Load() + 2)
	_, err = b.restore(job.RestoreOptions{InPlace: id})
	require.ErrorIs(t, err, errRack)
	var incomplete *IncompleteError
	require.ErrorAs(t, err, &incomplete)
	m := b.machine(id)
	require.ErrorAs(t, unfinished(m.Name, m.Config), &incomplete)
	require.Contains(t, m.Config.Annotation, "Do not start it")
	_, err = b.sweep()
	require.ErrorAs(t, err, &incomplete)

	_, err = b.restore(job.RestoreOptions{InPlace: id, Compare: true})
	require.NoError(t, err)
	b.requireDisk(vm.disks[0], vm.disks[0].Key)
	m = b.machine(id)
	require.NoError(t, unfinished(m.Name, m.Config))
	n, err := b.sweep()
	require.NoError(t, err)
	require.Equal(t, 1, n, "the effect of the one that was broken off")
}

// A target that is handed rows of cells, some of which differ, changes just those, whatever their edges.
func TestPlaceTargetAtEdges(t *testing.T) {
	const size = 3*placeCell + 100
	for _, unreadable := range []bool{false, true} {
		is := bytes.Repeat([]byte{7}, size)
		mem := pipe.NewMemory(size)
		_, err := mem.WriteAt(t.Context(), is, 0)
		require.NoError(t, err)
		r := newRack()
		var look pipe.Image = pipetest.Bytes(is)
		if unreadable {
			look = pipetest.HookImage(look, pipetest.FailNth(1, true, "readat").Hook)
		}
		whole := false
		to := newPlaceTarget(t.Context(), &rackTarget{Memory: mem, rack: r}, look, func() { whole = true })
		want := bytes.Clone(is)
		want[placeCell-1], want[2*placeCell], want[size-1] = 1, 2, 3
		_, err = to.WriteAt(t.Context(), want[:2*placeCell+50], 0)
		require.NoError(t, err)
		_, err = to.WriteAt(t.Context(), want[2*placeCell+50:], 2*placeCell+50)
		require.NoError(t, err)
		require.NoError(t, to.Mark(t.Context(), pipe.Extent{Off: placeCell, Len: placeCell, Kind: pipe.Swap}))
		copy(want[placeCell:], make([]byte, placeCell))
		require.NoError(t, to.Commit(t.Context()))
		require.True(t, whole)
		require.Equal(t, unreadable, to.blind.Load())
		got := make([]byte, size)
		_, err = mem.ReadAt(t.Context(), got, 0)
		require.NoError(t, err)
		require.Equal(t, want, got)
		if !unreadable {
			require.Equal(t, int64(placeCell+50+100+placeCell), to.Rewritten())
		}
	}
}

func specTracking(on *bool) types.VirtualMachineConfigSpec {
	return types.VirtualMachineConfigSpec{ChangeTrackingEnabled: on}
}
