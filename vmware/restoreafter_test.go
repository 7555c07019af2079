package vmware

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/vmware/vmwaretest"
)

// R188: a VM that a restore has not made whole is not backed up, and no change id from before a restore in place is believed
// after it: trackers do not see all of such writes.
func TestBackupAfterARestoreInPlace(t *testing.T) {
	l := newLab(t, vmwaretest.Options{})
	l.point(nil)
	l.changed()
	point, vm := l.newest().ID, l.vm()
	require.NoError(t, vm.PowerOff())
	l.scribbleAll(2)

	r, err := NewRestorer(l.client, &RestorerOptions{Transports: &TransportOptions{Order: []string{NBDSSL}}})
	require.NoError(t, err)
	d, err := r.InPlace(t.Context(), vm.Ref().Value, nil)
	require.NoError(t, err)
	disk := vm.Disk(0)
	require.NoError(t, d.(job.Placer).Ready(t.Context(), []hikae.Disk{{Key: disk.Key(), Size: disk.Size()}}, nil))
	to, err := d.OpenDisk(t.Context(), disk.Key())
	require.NoError(t, err)
	_, err = to.WriteAt(t.Context(), []byte("half of it"), 0)
	require.NoError(t, err)
	var incomplete *IncompleteError
	require.ErrorAs(t, d.Close(), &incomplete)

	_, _, err = l.try(nil)
	require.ErrorAs(t, err, &incomplete)
	require.Empty(t, vm.Snapshots())
	before, err := l.client.Preflight(t.Context(), vm.Ref(), nil)
	require.NoError(t, err)
	require.False(t, before.OK())
	require.ErrorContains(t, before.Err(), "did not end")

	_, err = l.restoreBy(NBDSSL, point, job.RestoreOptions{InPlace: vm.Ref().Value, Compare: true})
	require.NoError(t, err)
	l.read("written over by a restore")
	l.changed()
}
