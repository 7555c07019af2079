package repo_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/memstore"
)

// What a write-only client wrote is repaired by who opened a slot, under the ids of that client's scope: the point restores,
// nothing of it becomes anybody else's, and the client goes on with its increments.
func TestRepairOfAWriteOnlyClientsPoint(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	st := memstore.New(nil)
	owner := newRepository(t, st, &repo.InitOptions{BlockSize: testBlock})
	client := openWriter(t, st, memstore.New(nil), enrol(t, owner, "vm"))
	g := &golden{st: st, points: map[string]pipe.Image{}}
	first := mustBackup(t, client, "vm", disk(1), nil)
	g.points[first] = disk(1)
	for _, prefix := range []string{"data/", "meta/"} {
		b := read(t, st, named(t, st, prefix)[0])
		b[5000] ^= 1
		st.Set(named(t, st, prefix)[0], b)
	}
	rep := g.mended(t, st, nil)
	require.Len(t, rep.Spent, 2)
	require.NotZero(t, rep.Mended)
	for _, name := range rep.Spent { // what is spent may go
		require.NoError(t, st.Remove(ctx, name))
	}
	g.requireWhole(t, st)

	id, err := backup(ctx, client, "vm", disk(1), &pipe.PointOptions{Base: first})
	require.NoError(t, err)
	g.points[id] = disk(1)
	g.points[mustBackup(t, reopen(t, st), "mine", disk(1), nil)] = disk(1)
	g.requireWhole(t, st)
}

// A write-only client cannot read what it wrote, and goes by what the log says of it: what is bad it stores again, and does
// not go on referring to it.
func TestBadContentOfAWriteOnlyClient(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	st := memstore.New(nil)
	owner := newRepository(t, st, &repo.InitOptions{BlockSize: testBlock})
	client := openWriter(t, st, memstore.New(nil), enrol(t, owner, "vm"))
	first := mustBackup(t, client, "vm", disk(1), nil)
	before := named(t, st, "data/")
	ruin(t, st, before[0], 5*4096, 6)
	rep, err := reopen(t, st).Verify(ctx, &repo.VerifyOptions{DataPercent: 100, Declare: true})
	require.NoError(t, err)
	require.False(t, rep.OK)

	w, err := client.Begin(ctx, "vm", &pipe.PointOptions{Base: first})
	require.NoError(t, err)
	d, err := w.Disk(ctx, "disk0", disk(1).Size())
	require.NoError(t, err)
	err = d.(pipe.ExtentTarget).Mark(ctx, pipe.Extent{Len: d.Size(), Kind: pipe.Unchanged})
	var corrupt *repo.ErrCorrupt
	require.ErrorAs(t, err, &corrupt)
	require.NoError(t, w.Close())

	again := mustBackup(t, client, "vm", disk(1), nil)
	require.True(t, slices.ContainsFunc(named(t, st, "data/"), func(n string) bool { return !slices.Contains(before, n) }))
	fresh := reopen(t, st)
	requireSame(t, fresh, again, disk(1))
	requireSame(t, fresh, first, disk(1))
}
