package repo

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
)

func openWriteOnly(t testing.TB, st, cache store.Store, key WriterKey) *Repository {
	t.Helper()
	r, err := OpenWriter(t.Context(), st, cache, key, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

// A write-only client cannot look whether a pack is there. What was swept it stores again, whether it reads of that in the log,
// has done so long ago, or the records are gone by now; what was written anew elsewhere it still builds on.
func TestWriteOnlyClientAfterAPrune(t *testing.T) {
	ctx := t.Context()
	for name, later := range map[string]func(t *testing.T, r *Repository, cache *memstore.Store, open func() *Repository){
		"reads it in the log": func(*testing.T, *Repository, *memstore.Store, func() *Repository) {},
		"has read it, and the records are gone": func(t *testing.T, r *Repository, _ *memstore.Store, open func() *Repository) {
			_, err := open().index(ctx, open().keys.scope)
			require.NoError(t, err)
			condense(t, r)
		},
		"the records are gone": func(t *testing.T, r *Repository, _ *memstore.Store, _ func() *Repository) { condense(t, r) },
	} {
		t.Run(name, func(t *testing.T) {
			st, cache := memstore.New(nil), memstore.New(nil)
			r := smallPacks(t, st)
			r.log.every = 16
			key, err := r.EnrolWriter(ctx, []string{"vm"})
			require.NoError(t, err)
			open := func() *Repository { return openShort(t, st, cache, key) }
			img, other := noiseDisk(seq(1, 20)...), noiseDisk(append(seq(1, 9), seq(60, 70)...)...)
			w := open()
			first, err := keepPoint(ctx, w, "vm", img, "")
			require.NoError(t, err)
			second, err := keepPoint(ctx, w, "vm", other, "")
			require.NoError(t, err)
			forget(t, r, first)
			rep := mustPrune(t, r, &PruneOptions{Wait: -1, MaxUnused: 0.001})
			require.Positive(t, rep.Freed)
			require.Empty(t, rep.Stopped)
			require.Positive(t, rep.Repacked)
			later(t, r, cache, open)
			third, err := keepPoint(ctx, open(), "vm", img, "")
			require.NoError(t, err)
			check := openShortFull(t, st)
			requireDisk(t, check, second, other)
			requireDisk(t, check, third, img)
			requireSound(t, check)
		})
	}
}

// openShort opens a write-only client of a repository whose checkpoints lie 16 records apart.
func openShort(t testing.TB, st, cache store.Store, key WriterKey) *Repository {
	t.Helper()
	r := openWriteOnly(t, st, cache, key)
	shorten(t, r)
	return r
}

func openShortFull(t testing.TB, st store.Store) *Repository {
	t.Helper()
	r := openInner(t, st, nil)
	shorten(t, r)
	return r
}

func shorten(t testing.TB, r *Repository) {
	t.Helper()
	l := newLedger(r.vital, r.header.ID, r.header.Root, r.headerHash, r.sealClear)
	l.every = 16
	require.NoError(t, l.refresh(context.Background()))
	r.log = l
	if r.writer != nil { // as OpenWriter does
		require.NoError(t, r.writer.catchUp(context.Background()))
	}
}

// condense makes the log so long that its first records go.
func condense(t testing.TB, r *Repository) {
	t.Helper()
	for range 40 {
		l, err := r.newLease(t.Context(), accessRead, nil)
		require.NoError(t, err)
		require.NoError(t, l.end(t.Context()))
	}
	require.NoError(t, r.Condense(t.Context()))
	var from uint64
	c := openShortFull(t, r.st)
	c.log.view(func(l *ledger) { from = l.from })
	require.NotZero(t, from)
}

// The records are gone that would say whether what the cache knows is still there: no point is offered that could not be built on.
func TestWriteOnlyClientOffersNoBaseItCannotUse(t *testing.T) {
	ctx := t.Context()
	st, cache := memstore.New(nil), memstore.New(nil)
	r := smallPacks(t, st)
	r.log.every = 16
	key, err := r.EnrolWriter(ctx, []string{"vm"})
	require.NoError(t, err)
	open := func() *Repository { return openShort(t, st, cache, key) }
	img := noiseDisk(seq(1, 20)...)
	base := mustPoint(t, open(), "vm", img)
	require.Equal(t, []string{base}, idsOf(t, open()))
	condense(t, r)
	require.Empty(t, idsOf(t, open()))
	id := mustPoint(t, open(), "vm", img)
	require.Equal(t, []string{id}, idsOf(t, open()))
	requireDisk(t, openShortFull(t, st), id, img)
	requireDisk(t, openShortFull(t, st), base, img)
}

// The store is put back to an older state, and in the log that goes on there what the client's cache knows is swept; the cache was held
// against the other log, and further than this one begins. It does not count: no point refers to what is gone.
func TestWriteOnlyClientWhoseStoreWasPutBack(t *testing.T) {
	ctx := t.Context()
	st, cache := memstore.New(nil), memstore.New(nil)
	r := smallPacks(t, st)
	r.log.every = 16
	key, err := r.EnrolWriter(ctx, []string{"vm"})
	require.NoError(t, err)
	img := noiseDisk(seq(1, 20)...)
	first := mustPoint(t, openShort(t, st, cache, key), "vm", img)
	old := st.Clone()
	for range 90 {
		l, err := r.newLease(ctx, accessRead, nil)
		require.NoError(t, err)
		require.NoError(t, l.end(ctx))
	}
	w := openShort(t, st, cache, key)
	_, err = w.index(ctx, w.keys.scope)
	require.NoError(t, err)
	back := openShortFull(t, old)
	forget(t, back, first)
	mustPrune(t, back, nil)
	require.Zero(t, countOf(t, old, "data/"))
	condense(t, back)
	id := mustPoint(t, openShort(t, old, cache, key), "vm", img)
	requireDisk(t, openShortFull(t, old), id, img)
}
