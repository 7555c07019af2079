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

// Disks that are added while the VM runs are in the next point, whole, and what changes in them in the one after that:
// a SCSI disk, a disk in a thread of its own. They are large ones: the increment of a quiet VM of 64 GiB takes seconds.
func TestHotAdded(t *testing.T) {
	if !long() {
		t.Skip("needs HIKAE_TEST_TIER=long")
	}
	l := newLab(t)
	l.point(map[string]expected{})
	for name, devices := range map[string][]map[string]any{
		"scsi": {
			{"driver": "virtio-scsi-pci", "id": "scsi", "bus": kvmtest.HotPorts[0]},
			{"driver": "scsi-hd", "id": "large0", "drive": "large", "bus": "scsi.0"},
		},
		"iothread": {{"driver": "virtio-blk-pci", "id": "large0", "drive": "large", "bus": kvmtest.HotPorts[1], "iothread": "io"}},
	} {
		t.Run(name, func(t *testing.T) {
			defer func(outer *testing.T) { l.t = outer }(l.t)
			l.t = t
			l.plug(devices)
			res, err := l.backup(Options{}, job.BackupOptions{})
			require.NoError(t, err)
			require.Len(t, res.Disks, 3)
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
		})
	}
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
