package repo_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo"
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
