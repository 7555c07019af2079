package repo_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/retention"
	"github.com/hikae/hikae/repo/store/memstore"
)

// A forgotten point is gone for every client, the others stay; of several that are named all go or none.
func TestForget(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := newRepository(t, st, nil)
	var ids []string
	for i := range uint64(3) {
		ids = append(ids, mustBackup(t, r, "vm", disk(i), nil))
	}
	require.ErrorContains(t, r.Forget(ctx, []string{ids[0], "00000000000000000000000000000000"}, ""), "not exist")
	require.Equal(t, ids, pointsOf(t, r))
	require.NoError(t, r.Forget(ctx, []string{ids[1]}, "too old"))
	for _, c := range []*repo.Repository{r, reopen(t, st)} {
		require.Equal(t, []string{ids[0], ids[2]}, pointsOf(t, c))
		requireSame(t, c, ids[0], disk(0))
		requireSame(t, c, ids[2], disk(2))
	}
}

// What is held goes by no policy and not by name, until the hold is taken away.
func TestHold(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := newRepository(t, st, nil)
	a, b := mustBackup(t, r, "vm", disk(1), nil), mustBackup(t, r, "vm", disk(2), nil)
	require.NoError(t, r.Hold(ctx, []string{a}, "court order 7"))
	var held *repo.HeldError
	require.ErrorAs(t, reopen(t, st).Forget(ctx, []string{a, b}, ""), &held)
	require.Equal(t, "court order 7", held.Note)
	policy, err := retention.Parse("last=1")
	require.NoError(t, err)
	plan, err := r.Retain(ctx, policy, nil)
	require.NoError(t, err)
	for _, d := range plan.Decisions {
		require.True(t, d.Keep)
	}
	p, err := r.Resolve(ctx, a)
	require.NoError(t, err)
	require.Equal(t, "court order 7", p.Held)
	require.NoError(t, r.Unhold(ctx, []string{a}, ""))
	require.NoError(t, r.Forget(ctx, []string{a}, ""))
	require.Equal(t, []string{b}, pointsOf(t, r))
}

// A policy decides by the log's order and the points' times, and a dry run takes nothing away. A policy that keeps nothing
// takes nothing away either.
func TestRetain(t *testing.T) {
	ctx := t.Context()
	r := newRepository(t, memstore.New(nil), nil)
	start := time.Date(2026, 3, 1, 22, 0, 0, 0, time.UTC)
	var ids []string
	for day := range 5 {
		ids = append(ids, mustBackup(t, r, "vm", disk(uint64(day)), &pipe.PointOptions{Time: start.AddDate(0, 0, day)}))
	}
	other := mustBackup(t, r, "other", disk(9), &pipe.PointOptions{Time: start})
	policy, err := retention.Parse("daily=2")
	require.NoError(t, err)
	plan, err := r.Retain(ctx, policy, &repo.RetainOptions{DryRun: true})
	require.NoError(t, err)
	require.Len(t, plan.Decisions, 6)
	require.Len(t, pointsOf(t, r), 6)
	_, err = r.Retain(ctx, retention.Policy{}, nil)
	var bad *retention.PolicyError
	require.ErrorAs(t, err, &bad)
	require.Len(t, pointsOf(t, r), 6)
	_, err = r.Retain(ctx, policy, &repo.RetainOptions{VMs: []string{"vm"}})
	require.NoError(t, err)
	require.Equal(t, []string{ids[3], ids[4], other}, pointsOf(t, r))
}
