package repo

import (
	"io/fs"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
)

// A session keeps beating for ever on a store that only one may write to: everybody else is kept out, until a person ends it. What it says
// then counts for nothing.
func TestEndSession(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ctx := t.Context()
		st := memstore.New(&memstore.Options{Less: store.Abilities{ExclusiveCreate: true}})
		r := initInner(t, st)
		before := mustPoint(t, r, "vm", noiseDisk(1, 2))
		living, err := r.Begin(ctx, "vm", nil)
		require.NoError(t, err)
		n := living.(*pointWriter).s.lease.n
		other := openInner(t, st, nil)
		_, err = other.Begin(ctx, "vm", nil)
		require.ErrorIs(t, err, ErrReadOnly)
		require.ErrorContains(t, err, "is in use")
		require.ErrorIs(t, r.EndSession(ctx, n, ""), fs.ErrInvalid, "its own process just closes it")
		require.ErrorIs(t, other.EndSession(ctx, n+7, ""), fs.ErrNotExist)
		require.NoError(t, other.EndSession(ctx, n, "it hangs"))
		require.ErrorIs(t, other.EndSession(ctx, n, ""), fs.ErrNotExist)
		_, err = living.Commit(ctx, nil)
		require.ErrorIs(t, err, ErrRevoked)
		_ = living.Close()
		next := mustPoint(t, other, "vm", noiseDisk(3, 4))
		requireDisk(t, other, before, noiseDisk(1, 2))
		requireDisk(t, other, next, noiseDisk(3, 4))
	})
}
