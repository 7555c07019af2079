package kvm

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/dirstore"
)

// TestTwoRepositories protects one VM into two repositories. Each has bitmaps of its own, and keeps its increments
// whatever becomes of a session for the other: where both have one state folder, and where each has its own.
func TestTwoRepositories(t *testing.T) {
	if !long() {
		t.Skip("a guest of its own: needs HIKAE_TEST_TIER=long")
	}
	l := newLab(t)
	l.fx("fill", "/dev/vdb", "0", "4194304", "2")
	other := *l // the same VM
	st, err := dirstore.Init(filepath.Join(l.dir, "other"))
	require.NoError(t, err)
	other.repo, err = repo.Init(t.Context(), st, nil, &repo.InitOptions{NoEncryption: true}, &repo.OpenOptions{StateDir: filepath.Join(l.dir, "state2")})
	require.NoError(t, err)
	defer other.repo.Close()

	l.pointBeside(t, job.Allocated)
	other.pointBeside(t, job.Allocated)
	l.pointBeside(t, job.Changed)
	other.pointBeside(t, job.Changed)
	require.Equal(t, 2, l.bitmapsOf(data), "one for each repository")

	t.Run("one state folder", func(t *testing.T) {
		l.abandon(t)
		require.Equal(t, 2, other.sweepFor(t, l.journalDir()), "what is in the way goes, whoever sweeps: exports and filters")
		require.Equal(t, 3, l.bitmapsOf(data), "but only the first repository knows which of its two bitmaps to keep")
		other.pointBeside(t, job.Changed)
		require.Equal(t, 1, l.sweepFor(t, l.journalDir()))
		require.Equal(t, 2, l.bitmapsOf(data))
		l.pointBeside(t, job.Changed)
		other.pointBeside(t, job.Changed)
	})
	t.Run("two state folders", func(t *testing.T) {
		theirs := filepath.Join(l.dir, "state2", "journal")
		l.abandon(t)
		require.Zero(t, other.sweepFor(t, theirs))
		_, err := other.backupBeside(t, theirs)
		var busy *hikae.BusyError
		require.ErrorAs(t, err, &busy, "what is not known is not touched")
		require.Equal(t, 3, l.sweepFor(t, l.journalDir()))
		other.pointBeside(t, job.Changed)
		l.pointBeside(t, job.Changed)
	})
}

// backupBeside makes a point with a journal in the given folder.
func (l *lab) backupBeside(t *testing.T, journal string) (job.Result, error) {
	j, err := hikae.OpenFileJournal(journal)
	require.NoError(t, err)
	defer j.Close()
	return job.Backup(t.Context(), l.provider(Options{}), "", l.repo, &job.BackupOptions{Journal: j})
}

// pointBeside changes something and makes a point, which must hold what the guest has.
func (l *lab) pointBeside(t *testing.T, want job.Method) {
	t.Helper()
	l.fx("fill", "/dev/vdb", "1048576", "65536", "9")
	sum := l.guestSum()
	res, err := l.backupBeside(t, l.journalDir())
	require.NoError(t, err)
	for _, d := range res.Disks {
		require.Equal(t, want, d.Method, res.Fallbacks)
	}
	require.Equal(t, sum, l.sumOfData(l.restore(res.Point)))
}

// sweepFor is what the next start with this repository does.
func (l *lab) sweepFor(t *testing.T, journal string) int {
	t.Helper()
	keep, err := job.KeepIDs(t.Context(), l.repo)
	require.NoError(t, err)
	j, err := hikae.OpenFileJournal(journal)
	require.NoError(t, err)
	defer j.Close()
	n, err := j.SweepFor(t.Context(), l.repo.ID(), map[string]hikae.Sweeper{"kvm.": l.provider(Options{})}, keep)
	require.NoError(t, err)
	return n
}

// bitmapsOf is how many bitmaps a disk has.
func (l *lab) bitmapsOf(key string) int {
	l.t.Helper()
	mon := l.monitor()
	defer mon.Close()
	inv, err := takeInventory(l.t.Context(), mon)
	require.NoError(l.t, err)
	for _, d := range inv.disks {
		if d.Key == key {
			return len(inv.nodes[d.Node].Bitmaps)
		}
	}
	return -1
}

// abandon makes a point whose session dies as soon as the point is durable.
func (l *lab) abandon(t *testing.T) {
	t.Helper()
	j := l.effects()
	defer j.Close()
	_, err := job.Backup(t.Context(), abandoning{l.provider(Options{})}, "", l.repo, &job.BackupOptions{Journal: j})
	require.NoError(t, err)
}

type abandoning struct{ *Provider }

func (p abandoning) Snapshot(ctx context.Context, id string, opts *hikae.SnapshotOptions) (hikae.Snapshot, error) {
	s, err := p.Provider.Snapshot(ctx, id, opts)
	return abandoned{s}, err
}

type abandoned struct{ hikae.Snapshot }

func (abandoned) Commit(context.Context) error  { return nil }
func (abandoned) Release(context.Context) error { return nil }
