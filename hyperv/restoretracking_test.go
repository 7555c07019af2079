package hyperv

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/hypervtest"
	"github.com/hikae/hikae/job"
)

// A restore in place is known without the VM's notes: whoever replaces them right after it gets a full point and no increment that lacks
// what was brought back, in the same repository, and in another one whose last point is older.
func TestRestoreIsKnownWithoutNotes(t *testing.T) {
	t.Parallel()
	d := newDepot(t, hypervtest.Options{})
	elsewhere := &depot{d.lab, newRepo(t)}
	g := d.vm("web1", nil)
	elsewhere.keep(g)
	_, first := d.keep(g)
	require.NoError(t, g.Write(0, 5<<20, []byte("written later")))
	elsewhere.keep(g)
	d.keep(g)

	r := d.restorer(&RestorerOptions{PowerOff: true})
	_, err := job.Restore(t.Context(), d.repo, first, r, &job.RestoreOptions{InPlace: g.ID()})
	require.NoError(t, err)
	d.notes(g, "the web server")
	require.NoError(t, g.PowerOn())
	for _, at := range []*depot{d, elsewhere} {
		require.NoError(t, g.Write(0, 6<<20, []byte("after the restore")))
		res, point := at.keep(g)
		for _, disk := range res.Disks {
			require.NotEqual(t, job.Changed, disk.Method)
		}
		at.holds(g, point)
	}
	for _, at := range []*depot{d, elsewhere} {
		require.NoError(t, g.Write(1, 0, []byte("and later")))
		res, point := at.keep(g)
		require.Equal(t, job.Changed, res.Disks[0].Method, "%v", res.Fallbacks)
		at.holds(g, point)
	}
	require.True(t, d.fake.Settled(10*time.Second))
	require.Len(t, d.fake.ReferencePoints(g.ID()), 2, "each repository's last point rests on one")
}

// Before the first byte is written nothing is left by which a host could tell changes from before: each proof by itself. What is another
// product's stays, and is told of.
func TestRestoreVoidsTracking(t *testing.T) {
	t.Parallel()
	l := newLab(t, hypervtest.Options{})
	g, p := l.vm("web1", nil), l.provider(nil)
	other, _, err := l.backup(p, g, nil, newNote())
	require.NoError(t, err)
	last, _, err := l.backup(p, g, nil, newNote())
	require.NoError(t, err)
	require.Len(t, l.fake.ReferencePoints(g.ID()), 2)
	require.NoError(t, g.PowerOff())
	m, err := l.machine(g)
	require.NoError(t, err)

	r, err := NewRestorer(l.site, nil)
	require.NoError(t, err)
	draft, err := r.InPlace(t.Context(), g.ID(), nil)
	require.NoError(t, err)
	disks := m.VM(HostInfo{}).Disks
	for _, id := range last.ids {
		draft.(job.Voider).Void([]hikae.ChangeID{id})
	}
	require.NoError(t, draft.(job.Placer).Ready(t.Context(), disks, nil))
	require.Equal(t, refs(other), l.fake.ReferencePoints(g.ID()))
	require.Contains(t, strings.Join(draft.(job.Noter).Notes(), "\n"), "1 reference point")
	names, err := l.fake.LocalFiles().List(t.Context(), `C:\VMs\web1`)
	require.NoError(t, err)
	for _, name := range names {
		require.False(t, strings.HasSuffix(name, ".rct") || strings.HasSuffix(name, ".mrt"), name)
	}
	require.NoError(t, draft.Close())
	m, err = l.machine(g)
	require.NoError(t, err)
	require.NotEmpty(t, restoredWord(m.Notes), "the word is never taken back")
	require.NoError(t, unfinishedError(m.Name, m.Notes))
	require.NoError(t, g.PowerOn())
	next, _, err := l.backup(p, g, other, newNote())
	require.NoError(t, err)
	require.Len(t, next.lost, 2)
	for _, err := range next.lost {
		require.EqualError(t, err, "restored in place since the last backup: read in full")
		require.ErrorIs(t, err, hikae.ErrTrackingLost)
	}
	l.same(g, next)
}
