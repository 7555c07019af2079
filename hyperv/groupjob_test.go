package hyperv_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv"
	"github.com/hikae/hikae/hyperv/hypervtest"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/dirstore"
)

func repository(t *testing.T) *repo.Repository {
	t.Helper()
	st, err := dirstore.Init(filepath.Join(t.TempDir(), "repo"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })
	r, err := repo.Init(t.Context(), st, nil, &repo.InitOptions{NoEncryption: true}, &repo.OpenOptions{StateDir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

// stored: a point has the disks as they were at the freeze.
func stored(t *testing.T, r pipe.Backend, res job.Result, g *hypervtest.Guest) {
	t.Helper()
	for n, d := range res.Disks {
		img, err := r.Open(t.Context(), res.Point, d.Key)
		require.NoError(t, err)
		got, want := make([]byte, img.Size()), make([]byte, img.Size())
		_, err = img.ReadAt(t.Context(), got, 0)
		require.NoError(t, err)
		_, _ = g.AtFreeze(n).ReadAt(want, 0)
		require.True(t, string(want) == string(got), "disk %d of the point is not what it was at the freeze", n)
		require.NoError(t, img.Close())
	}
}

// R099, R197: a job's VMs share a volume snapshot, off-host by a production checkpoint of each; the next job's points build on
// changes that the host tracked, each VM's on its own base.
func TestJobOffHost(t *testing.T) {
	l, r := newLab(t, "2022", "windows", "windows"), repository(t)
	l.churn()
	for round := range 2 {
		g, err := job.NewGrouped(t.Context(), offHost(l), l.ids(), nil)
		require.NoError(t, err)
		require.Len(t, g.Groups(), 1)
		for i, id := range l.ids() {
			res, err := job.Backup(t.Context(), g, id, r, nil)
			require.NoError(t, err)
			require.Empty(t, res.Warnings)
			stored(t, r, res, l.guests[i])
			if round > 0 {
				require.Equal(t, job.Changed, res.Disks[0].Method, "%v", res.Fallbacks)
			}
			require.Equal(t, i == 0, l.h.Storage().Counts().Held > 0)
		}
		require.NoError(t, g.Close(t.Context()))
		l.clean()
	}
	require.Equal(t, 2, l.h.Storage().Counts().Snapshots)
}

// The same with a set of the host's VSS, in which one VM fails: the set fails as a whole, and each VM is tried by itself.
func TestJobWriterFails(t *testing.T) {
	l, r := newLab(t, "2012r2", "windows", "windows"), repository(t)
	l.h.Fail(hypervtest.Fault{Event: "freeze", VM: l.guests[1].ID(), Times: -1, Code: 0x800423F2, Reason: "the guest's writers took too long"})
	g, err := job.NewGrouped(t.Context(), l.provider(hyperv.ProviderOptions{}), l.ids(), nil)
	require.NoError(t, err)
	res, err := job.Backup(t.Context(), g, l.ids()[0], r, nil)
	require.NoError(t, err)
	require.Contains(t, strings.Join(res.Warnings, "\n"), "could not be pinned together")
	stored(t, r, res, l.guests[0])
	_, err = job.Backup(t.Context(), g, l.ids()[1], r, nil)
	require.Error(t, err)
	require.NoError(t, g.Close(t.Context()))
	l.clean()
}

// R079: a backup checkpoint whose merge has no end leaves a good backup, a word to a person, and an effect that a later start looks after.
func TestWriterMergeIsPending(t *testing.T) {
	l := newLab(t, "2012r2", "windows")
	dir := filepath.Join(t.TempDir(), "journal")
	j, err := hikae.OpenFileJournal(dir)
	require.NoError(t, err)
	o := hyperv.ProviderOptions{MergeLimit: 200 * time.Millisecond}
	s, err := l.provider(o).Snapshot(t.Context(), l.guests[0].ID(), &hikae.SnapshotOptions{Journal: j})
	require.NoError(t, err)
	l.h.Fail(hypervtest.Fault{Event: "merge", Times: -1, Hang: true})
	require.NoError(t, s.Commit(t.Context()))
	require.NoError(t, s.Release(t.Context()))
	require.Contains(t, strings.Join(warningsOf(s), "\n"), "clean-up is pending")
	require.NotEmpty(t, l.said)
	require.Empty(t, l.h.Shadows(), "the volume snapshot is gone all the same")
	require.NoError(t, j.Close())

	next, err := hikae.OpenFileJournal(dir)
	require.NoError(t, err)
	defer next.Close()
	sweepers := map[string]hikae.Sweeper{"hyperv": l.provider(o)}
	undone, err := next.Sweep(t.Context(), sweepers, nil)
	var pending *hyperv.PendingError
	require.ErrorAs(t, err, &pending)
	require.Zero(t, undone)
	require.NotEmpty(t, pending.Files)
	l.h.Heal()
	require.Eventually(t, func() bool { return l.guests[0].Tip(0) == l.tips[0] }, 10*time.Second, time.Millisecond)
	undone, err = next.Sweep(t.Context(), sweepers, nil)
	require.NoError(t, err)
	require.Equal(t, 1, undone)
	l.clean()
}

// A file that an earlier backup left in the place of R069's keeps the VM out, by name, and nobody else; it is never removed by us.
func TestWriterStaleRecoveryFile(t *testing.T) {
	l := newLab(t, "2012r2", "windows", "windows")
	stale := strings.TrimSuffix(l.tips[0], ".vhdx") + "-AutoRecovery.avhdx"
	f, err := l.h.LocalFiles().Create(t.Context(), stale)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	snaps, err := l.provider(hyperv.ProviderOptions{}).SnapshotGroup(t.Context(), l.ids(), nil)
	var some *hyperv.GroupError
	require.ErrorAs(t, err, &some)
	require.ErrorContains(t, some.VMs[l.ids()[0]], stale)
	require.Len(t, snaps, 1)
	frozen(t, snaps[0], l.guests[1])
	require.NoError(t, snaps[0].Release(t.Context()))
	l.clean()
	img, err := l.h.LocalFiles().Open(context.Background(), stale)
	require.NoError(t, err)
	require.NoError(t, img.Close())
}
