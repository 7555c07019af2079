package repo_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
)

func TestIdentify(t *testing.T) {
	st := memstore.New(nil)
	_, err := repo.Identify(t.Context(), st)
	require.ErrorIs(t, err, repo.ErrNotRepository)
	r, err := repo.Init(t.Context(), st, repo.KeyFile([32]byte{1}), nil, nil)
	require.NoError(t, err)
	defer r.Close()
	id, err := repo.Identify(t.Context(), st)
	require.NoError(t, err)
	require.Equal(t, r.ID(), id)
}

// A place that holds another repository's header makes the id a question that only the secret answers (R181: what a
// gateway serves is named by its id).
func TestIdentifyRefusesTwoHeaders(t *testing.T) {
	for _, place := range []string{"header", "copy1/header", "copy2/header"} {
		t.Run(place, func(t *testing.T) {
			var ids []string
			var stores []store.Store
			for n := range byte(2) {
				st := memstore.New(nil)
				r, err := repo.Init(t.Context(), st, repo.KeyFile([32]byte{n}), nil, nil)
				require.NoError(t, err)
				ids, stores = append(ids, r.ID()), append(stores, st)
				require.NoError(t, r.Close())
			}
			require.NoError(t, stores[0].Remove(t.Context(), place))
			id, err := repo.Identify(t.Context(), stores[0])
			require.NoError(t, err, "a place that is missing says nothing")
			require.Equal(t, ids[0], id)

			other, err := store.ReadAll(t.Context(), stores[1], place, 1<<20)
			require.NoError(t, err)
			require.NoError(t, stores[0].Create(t.Context(), place, other))
			_, err = repo.Identify(t.Context(), stores[0])
			var corrupt *repo.ErrCorrupt
			require.ErrorAs(t, err, &corrupt)
			require.ErrorContains(t, err, ids[0])
			require.ErrorContains(t, err, ids[1])

			r, err := repo.Open(t.Context(), stores[0], repo.KeyFile([32]byte{0}), nil)
			require.NoError(t, err)
			require.Equal(t, ids[0], r.ID(), "the secret says which one is meant")
			require.NoError(t, r.Close())
		})
	}
}
