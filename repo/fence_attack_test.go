package repo

import (
	"context"
	"io/fs"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store/memstore"
)

// away is a store whose folder of the log is not there when something is created in it, as where a disk was unmounted.
type away struct {
	*memstore.Store
	gone bool
}

func (a *away) Create(ctx context.Context, name string, data []byte) error {
	if a.gone && strings.HasPrefix(name, "log/") {
		return &fs.PathError{Op: "create", Path: name, Err: fs.ErrNotExist}
	}
	return a.Store.Create(ctx, name, data)
}

// Revoke says that a session is ended only where the log says so: a store that is not there is no session that is over.
func TestRevokeOnAStoreThatIsAway(t *testing.T) {
	ctx := t.Context()
	st := &away{Store: memstore.New(nil)}
	a := initInner(t, st)
	b := openInner(t, st, nil)
	w, err := a.Begin(ctx, "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	lease := w.(Leased).Lease()
	_, err = b.signingKey(ctx) // which lets it in
	require.NoError(t, err)
	st.gone = true
	require.ErrorIs(t, b.Revoke(ctx, lease, "its worker lost the task"), fs.ErrNotExist)
	st.gone = false
	require.NoError(t, b.Revoke(ctx, lease, "its worker lost the task"))
	_, err = writePoint(ctx, w, "vm", noiseDisk(1))
	require.ErrorIs(t, err, ErrRevoked)
}
