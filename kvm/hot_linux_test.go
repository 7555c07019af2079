package kvm

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/kvm/kvmtest"
	"github.com/hikae/hikae/kvm/qmp"
)

// A disk that is added while the VM runs is in the next point, whole, and what changes in it in the one after that. It
// is a large one, on another kind of controller: the increment of a quiet VM of 64 GiB takes seconds.
func TestHotAdded(t *testing.T) {
	if !long() {
		t.Skip("needs HIKAE_TEST_TIER=long")
	}
	l := newLab(t)
	l.point(map[string]expected{})
	l.plug([]map[string]any{
		{"driver": "virtio-scsi-pci", "id": "scsi", "bus": kvmtest.HotPorts[0]},
		{"driver": "scsi-hd", "id": "large0", "drive": "large", "bus": "scsi.0"},
	})
	res, err := l.backup(Options{}, job.BackupOptions{})
	require.NoError(t, err)
	require.Len(t, res.Disks, 3)
	require.Equal(t, "large0", res.Disks[2].Key)
	require.Len(t, res.Fallbacks, 1)
	require.Contains(t, res.Fallbacks[0].Reason, "the disk is new")
	t.Logf("with 64 GiB, all data: %.2f s, phases %v", res.Seconds, res.Phases)

	res, err = l.backup(Options{}, job.BackupOptions{})
	require.NoError(t, err)
	require.Empty(t, res.Fallbacks)
	t.Logf("with 64 GiB, quiet: %.2f s, phases %v", res.Seconds, res.Phases)
	require.Less(t, res.Seconds, 10.0)

	l.unplug()
	res, err = l.backup(Options{}, job.BackupOptions{})
	require.NoError(t, err)
	require.Len(t, res.Disks, 2)
	t.Run("a disk with a thread of its own", l.threaded)
}

// threaded: QEMU 7.2 aborts when a reader leaves the export of a disk that has an iothread, and takes the guest along.
// Such a disk is not touched, and said so.
func (l *lab) threaded(t *testing.T) {
	defer func(outer *testing.T) { l.t = outer }(l.t)
	l.t = t
	l.plug([]map[string]any{{"driver": "virtio-blk-pci", "id": "large0", "drive": "large", "bus": kvmtest.HotPorts[1], "iothread": "io"}})
	res, err := l.backup(Options{}, job.BackupOptions{})
	require.NoError(t, err)
	mon, err := qmp.Dial(t.Context(), l.guest.QMP())
	require.NoError(t, err)
	defer mon.Close()
	if mon.Version().AtLeast(9, 0) {
		require.Len(t, res.Disks, 3)
		return
	}
	require.Len(t, res.Disks, 2)
	require.Len(t, res.Warnings, 1)
	require.Contains(t, res.Warnings[0], "iothread")
}

func (l *lab) plug(devices []map[string]any) {
	l.t.Helper()
	path := filepath.Join(l.t.TempDir(), "large.qcow2")
	l.command("qemu-img", "create", "-q", "-f", "qcow2", path, "64G")
	mon, err := qmp.Dial(l.t.Context(), l.guest.QMP())
	require.NoError(l.t, err)
	defer mon.Close()
	require.NoError(l.t, mon.Execute(l.t.Context(), "blockdev-add", map[string]any{
		"driver": "qcow2", "node-name": "large", "file": map[string]any{"driver": "file", "filename": path}}, nil))
	if devices[0]["iothread"] != nil {
		require.NoError(l.t, mon.Execute(l.t.Context(), "object-add", map[string]any{"qom-type": "iothread", "id": "io"}, nil))
	}
	for _, d := range devices {
		require.NoError(l.t, mon.Execute(l.t.Context(), "device_add", d, nil))
	}
}

// unplug takes the large disk out again.
func (l *lab) unplug() {
	l.t.Helper()
	mon, err := qmp.Dial(l.t.Context(), l.guest.QMP())
	require.NoError(l.t, err)
	defer mon.Close()
	require.NoError(l.t, mon.Execute(l.t.Context(), "device_del", map[string]any{"id": "large0"}, nil))
	require.NoError(l.t, mon.Until(l.t.Context(), func(ctx context.Context) (bool, error) {
		inv, err := takeInventory(ctx, mon)
		return err == nil && len(inv.disks) == 2, err
	}, "DEVICE_DELETED"))
	require.NoError(l.t, mon.Execute(l.t.Context(), "blockdev-del", map[string]any{"node-name": "large"}, nil))
}
