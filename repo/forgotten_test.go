package repo

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store/memstore"
)

// A point that is forgotten and pruned between the look at the log and the reading of its manifest is forgotten, and not damage.
func TestForgottenBetweenTheLookAndTheManifest(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := initInner(t, st)
	gone, stays := emptyPoint(t, r, "vm"), emptyPoint(t, r, "vm")
	list, err := r.committed(ctx)
	require.NoError(t, err)
	other := openInner(t, st, nil)
	require.NoError(t, other.Forget(ctx, []string{gone}, ""))
	rep, err := other.Prune(ctx, &PruneOptions{Wait: -1})
	require.NoError(t, err)
	require.Positive(t, rep.Deleted)
	_, err = r.readManifest(ctx, list[0])
	require.ErrorIs(t, err, ErrForgotten)
	require.Equal(t, []string{stays}, listed(t, r))
}
