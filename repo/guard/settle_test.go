package guard_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/guard"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/storetest"
)

// RELIABILITY 1.3: packs that a dead session left visible and not durable are durable before a full peer, who cannot
// settle them from afar, has them listed; a listing that could not see to that is an error.
func TestListedPacksAreDurable(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(&memstore.Options{Less: store.Abilities{DurableNames: true}}) // each name is lost until it is settled
	faulty := storetest.NewFaulty(st)
	g, err := guard.New(faulty, nil)
	require.NoError(t, err)
	s := &site{t: t, st: st, g: g}
	r, err := repo.Init(ctx, g.For("owner", true), secret, &repo.InitOptions{BlockSize: block}, s.options())
	require.NoError(t, err)
	defer r.Close()
	w, err := r.Begin(ctx, "db", nil)
	require.NoError(t, err)
	d, err := w.Disk(ctx, "disk0", disk(1).Size())
	require.NoError(t, err)
	_, err = pipe.Copy(ctx, d, disk(1), nil)
	require.NoError(t, err)
	require.NoError(t, d.Commit(ctx))
	// The packs come into the store, and the session dies before its commit.
	faulty.Add(storetest.Fault{Op: storetest.Create, Prefix: "manifest/"}, storetest.Fault{Op: storetest.Create, Prefix: "log/", Sticky: true})
	_, err = w.Commit(ctx, nil)
	require.Error(t, err)
	_ = w.Close()
	faulty.Heal()
	packs := 0
	for name := range s.all() {
		if strings.HasPrefix(name, "data/") {
			packs++
		}
	}
	require.NotZero(t, packs)
	lost, err := storetest.Collect(st.Crash().List(ctx, "data/"))
	require.NoError(t, err)
	require.Empty(t, lost, "a power cut would take them")

	faulty.Add(storetest.Fault{Op: storetest.Settle, Prefix: "data/"})
	_, err = storetest.Collect(g.For("owner", true).List(ctx, "data/"))
	require.ErrorIs(t, err, storetest.ErrInjected)
	found, err := storetest.Collect(g.For("owner", true).List(ctx, "data/"))
	require.NoError(t, err)
	require.Len(t, found, packs)
	kept, err := storetest.Collect(st.Crash().List(ctx, "data/"))
	require.NoError(t, err)
	require.Equal(t, found, kept)
}
