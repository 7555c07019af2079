package hyperv

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/hypervtest"
	"github.com/hikae/hikae/job"
)

// What a restore, and the backups after it, say to a person: where the VM is, which disks it has not, and why a disk is read in full where
// nothing is wrong.
func TestRestoreTells(t *testing.T) {
	t.Parallel()
	d := newDepot(t, hypervtest.Options{})
	g := d.vm("web1", nil)
	_, point := d.keep(g)
	r := d.restorer(&RestorerOptions{PowerOff: true, NewIDs: true})
	res, err := job.Restore(t.Context(), d.repo, point, r, &job.RestoreOptions{Name: "again", Disks: []string{point.Disks[1].Key}})
	require.NoError(t, err)
	require.Equal(t, job.Where{Name: "again", Host: "HV1", Folder: `C:\VMs\again`}, res.Where)
	require.False(t, res.InPlace)
	notes := strings.Join(res.Notes, "\n")
	require.Contains(t, notes, "disk "+point.Disks[0].Key+" (scsi0-0, ")
	require.Contains(t, notes, "the new VM does not have it")
	require.NotContains(t, notes, point.Disks[1].Key+" (scsi")

	res, err = job.Restore(t.Context(), d.repo, point, r, &job.RestoreOptions{InPlace: g.ID()})
	require.NoError(t, err)
	require.Equal(t, "web1 on HV1, in C:\\VMs\\web1", res.Where.String())
	require.True(t, res.InPlace)
	require.NotContains(t, strings.Join(res.Notes, "\n"), hikae.ErrTrackingLost.Error())
	next, _ := d.keep(g)
	require.Len(t, next.Fallbacks, 2)
	for _, f := range next.Fallbacks {
		require.Equal(t, "restored in place since the last backup: read in full", f.Reason)
	}
}

// R102: after a point that was made without a checkpoint there is nothing that changes are counted from, and nothing was lost.
func TestNoCheckpointTells(t *testing.T) {
	t.Parallel()
	l := newLab(t, hypervtest.Options{})
	g := l.vm("web1", nil)
	s, err := l.provider(nil).Snapshot(t.Context(), g.ID(), nil)
	require.NoError(t, err)
	asked := 0
	for e, err := range s.Changed(t.Context(), s.VM().Disks[0].Key, "") {
		require.ErrorIs(t, err, hikae.ErrTrackingLost, "%v", e)
		require.EqualError(t, err, "the last backup was made without a checkpoint that changes are counted from: read in full")
		asked++
	}
	require.Equal(t, 1, asked)
	require.NoError(t, s.Release(t.Context()))
}
