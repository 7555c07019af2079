package repo

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/store/memstore"
)

// What a writer that was given up has settled is found by whoever tries again, in another process too; what came behind it is
// not, and the writer can go on.
func TestSettle(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := initInner(t, st)
	w, err := r.Begin(ctx, "vm", nil)
	require.NoError(t, err)
	d := startDisk(t, w, 6)
	content, ids := noiseBlocks(3, 6, d)
	put := func(i int) {
		_, err := d.PutBlock(ctx, int64(i)*int64(d.BlockSize()), ids[i], len(content[i]), pipe.Plain, content[i])
		require.NoError(t, err)
	}
	for i := range 2 {
		put(i)
	}
	require.NoError(t, w.(pipe.Settler).Settle(ctx))
	require.Equal(t, w.(pipe.Durable).Stamp(), w.(pipe.Durable).Durable())
	for i := 2; i < 4; i++ {
		put(i)
	}
	require.NoError(t, w.Close())
	require.Error(t, w.(pipe.Settler).Settle(ctx))

	again := openInner(t, st, nil)
	w, err = again.Begin(ctx, "vm", nil)
	require.NoError(t, err)
	missing, err := startDisk(t, w, 6).Missing(ctx, ids)
	require.NoError(t, err)
	require.Equal(t, []bool{false, false, true, true, true, true}, missing)
	require.NoError(t, w.Close())
}
