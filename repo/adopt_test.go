package repo_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/memstore"
)

// A repository was copied, and both copies went on: whoever has seen the one is refused by the other until a person adopts it; then that
// machine goes on there, the log says so, and the first one is refused from then on.
func TestAdoptFork(t *testing.T) {
	ctx := t.Context()
	here := memstore.New(nil)
	r := newRepository(t, here, nil)
	first := mustBackup(t, r, "vm", disk(1), nil)
	copied := here.Clone()
	state := &repo.OpenOptions{StateDir: t.TempDir()}
	a, err := repo.Open(ctx, here, testKey, state)
	require.NoError(t, err)
	mustBackup(t, a, "vm", disk(2), nil)
	require.NoError(t, a.Adopt(ctx, ""), "there is nothing to adopt")
	require.NoError(t, a.Close())
	other := mustBackup(t, reopen(t, copied), "vm", disk(3), nil)

	b, err := repo.Open(ctx, copied, testKey, state)
	require.NoError(t, err)
	_, err = b.Begin(ctx, "vm", nil)
	var fork *repo.ErrRollback
	require.ErrorAs(t, err, &fork)
	require.True(t, fork.Fork)
	require.NoError(t, b.Adopt(ctx, "the disk in the office burned"))
	last := mustBackup(t, b, "vm", disk(4), nil)
	require.NoError(t, b.Close())
	for range 2 { // also when it is opened anew
		b, err = repo.Open(ctx, copied, testKey, state)
		require.NoError(t, err)
		require.Equal(t, []string{first, other, last}, pointsOf(t, b))
		require.NoError(t, b.Close())
	}
	var said string
	for e, err := range reopen(t, copied).Audit(ctx) {
		require.NoError(t, err)
		if e.Kind == "adopt" {
			said = e.Note
		}
	}
	require.Contains(t, said, "the disk in the office burned")
	back, err := repo.Open(ctx, here, testKey, state)
	require.NoError(t, err)
	defer back.Close()
	_, err = back.Begin(ctx, "vm", nil)
	require.ErrorAs(t, err, &fork)
}

// An older state of the whole store was put back: reading goes on, writing waits for a person.
func TestAdoptRollback(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	state := &repo.OpenOptions{StateDir: t.TempDir()}
	r, err := repo.Init(ctx, st, testKey, &repo.InitOptions{BlockSize: testBlock}, state)
	require.NoError(t, err)
	first := mustBackup(t, r, "vm", disk(1), nil)
	old := st.Clone()
	mustBackup(t, r, "vm", disk(2), nil)
	require.NoError(t, r.Close())
	b, err := repo.Open(ctx, old, testKey, state)
	require.NoError(t, err)
	defer b.Close()
	requireSame(t, b, first, disk(1))
	var rollback *repo.ErrRollback
	require.ErrorAs(t, b.Forget(ctx, []string{first}, ""), &rollback)
	require.NoError(t, b.Adopt(ctx, ""))
	next := mustBackup(t, b, "vm", disk(3), nil)
	require.Equal(t, []string{first, next}, pointsOf(t, b))
}
