package repo

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store/memstore"
)

// The newest records are lost in all three places, and points that they committed are whole: a machine that has seen the records goes on with
// those points, and a prune does not remove them (laws 1, 3).
func TestLostEndThatThisMachineHasSeen(t *testing.T) {
	ctx := t.Context()
	for lost := uint64(1); lost <= 6; lost++ {
		st, seen := memstore.New(nil), t.TempDir()
		require.NoError(t, initInner(t, st).Close())
		a := openInner(t, st, onState(seen))
		first := mustPoint(t, a, "vm", noiseDisk(1, 2))
		second := mustPoint(t, a, "vm", noiseDisk(3, 4))
		require.Len(t, idsOf(t, a), 2) // and remembers the end of the log
		head, _ := a.log.head()
		require.NoError(t, a.Close())
		for n := head - lost + 1; n <= head; n++ {
			loseRecord(t, st, n)
		}
		r := openInner(t, st, onState(seen))
		require.ErrorAs(t, r.Writable(), new(*ErrRollback))
		there := len(idsOf(t, r))
		dry, _ := r.MendLog(ctx, &MendLogOptions{DryRun: true})
		rep, err := r.MendLog(ctx, &MendLogOptions{Why: "test"})
		if there < 2 {
			require.NoError(t, err)
		}
		require.Equal(t, len(dry.Gaps), len(rep.Gaps))
		if there == 2 { // only ends were lost: nothing is there without a record
			require.Empty(t, rep.Gaps)
			require.ErrorAs(t, r.Writable(), new(*ErrRollback))
			require.NoError(t, r.Adopt(ctx, ""))
		} else {
			require.Len(t, rep.Gaps, 1, "%d", lost)
			require.NoError(t, r.Writable())
		}
		require.Len(t, idsOf(t, r), 2, "%d records lost", lost)
		endAll(t, r)
		mustPrune(t, r, &PruneOptions{Wait: -1})
		for _, c := range []*Repository{r, openInner(t, st, onState(seen)), openInner(t, st, onState(t.TempDir()))} {
			require.NoError(t, c.Writable())
			requireDisk(t, c, first, noiseDisk(1, 2))
			requireDisk(t, c, second, noiseDisk(3, 4))
			mustPoint(t, c, "vm", noiseDisk(5))
			requireSound(t, c)
		}
	}
}

// An older state that was put back has no points without records: the log is left as it is, until a person adopts it.
func TestOlderStateIsNoLostEnd(t *testing.T) {
	ctx := t.Context()
	st, seen := memstore.New(nil), t.TempDir()
	require.NoError(t, initInner(t, st).Close())
	a := openInner(t, st, onState(seen))
	first := mustPoint(t, a, "vm", noiseDisk(1, 2))
	old := st.Clone()
	mustPoint(t, a, "vm", noiseDisk(3, 4))
	require.NoError(t, a.Close())
	r := openInner(t, old, onState(seen))
	before := namesUnder(t, old, "")
	rep, err := r.MendLog(ctx, nil)
	require.ErrorAs(t, err, new(*ErrRollback))
	require.Empty(t, rep.Gaps)
	require.Equal(t, before, namesUnder(t, old, ""))
	require.ErrorAs(t, r.Writable(), new(*ErrRollback))
	require.NoError(t, r.Adopt(ctx, ""))
	requireDisk(t, r, first, noiseDisk(1, 2))
}
