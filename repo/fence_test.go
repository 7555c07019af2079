package repo

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/store/memstore"
)

// A session that lives and shows signs of life is ended by another process all the same: it has no say in it.
func TestRevokedByAnother(t *testing.T) {
	st := memstore.New(nil)
	a, err := Init(t.Context(), st, nil, &InitOptions{NoEncryption: true}, &OpenOptions{StateDir: t.TempDir()})
	require.NoError(t, err)
	defer a.Close()
	b, err := Open(t.Context(), st, nil, &OpenOptions{StateDir: t.TempDir()})
	require.NoError(t, err)
	defer b.Close()
	begin := func() (pipe.PointWriter, uint64) {
		w, err := a.Begin(t.Context(), "web1", nil)
		require.NoError(t, err)
		d, err := w.Disk(t.Context(), "d0", 4096)
		require.NoError(t, err)
		_, err = d.WriteAt(t.Context(), make([]byte, 4096), 0)
		require.NoError(t, err)
		require.NoError(t, d.Commit(t.Context()))
		return w, w.(Leased).Lease()
	}
	late, lease := begin()
	require.NoError(t, b.Revoke(t.Context(), lease, "its worker lost the task"))
	require.NoError(t, b.Revoke(t.Context(), lease, "again"))
	require.NoError(t, b.Revoke(t.Context(), 1<<40, "never was"))
	_, err = late.Commit(t.Context(), nil)
	require.ErrorIs(t, err, ErrRevoked)
	_ = late.Close() // it may say that it was revoked

	early, lease := begin()
	id, err := early.Commit(t.Context(), nil)
	require.NoError(t, err)
	require.NoError(t, early.Close())
	require.NoError(t, b.Revoke(t.Context(), lease, "too late"))
	var ids []string
	for p, err := range b.Points(t.Context(), "web1") {
		require.NoError(t, err)
		ids = append(ids, p.ID)
	}
	require.Equal(t, []string{id}, ids, "what was committed before stands")
}
