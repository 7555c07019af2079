package memstore_test

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStore(t *testing.T) {
	storetest.TestStore(t, func(testing.TB) store.Store { return memstore.New(nil) })
}

func TestProbeTellsWhatItWasTold(t *testing.T) {
	found, err := memstore.New(nil).Probe(t.Context())
	require.NoError(t, err)
	assert.True(t, found.Shared())

	found, err = memstore.New(&memstore.Options{Less: store.Abilities{ExclusiveCreate: true}}).Probe(t.Context())
	require.NoError(t, err)
	assert.Equal(t, store.Abilities{DurableNames: true, FreshReads: true}, found)
	assert.False(t, found.Shared())
}

func TestCrashLosesWhatIsNotSettled(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(&memstore.Options{Less: store.Abilities{DurableNames: true}})
	require.NoError(t, st.Create(ctx, "pack/1", []byte("a")))
	require.NoError(t, st.Create(ctx, "log/1", []byte("b")))
	require.NoError(t, st.Settle(ctx, "log/"))
	left, err := storetest.Collect(st.Crash().List(ctx, ""))
	require.NoError(t, err)
	assert.Equal(t, map[string]int64{"log/1": 1}, left)

	sound := memstore.New(nil)
	require.NoError(t, sound.Create(ctx, "pack/1", []byte("a")))
	left, err = storetest.Collect(sound.Crash().List(ctx, ""))
	require.NoError(t, err)
	assert.Equal(t, map[string]int64{"pack/1": 1}, left)
}

func TestCloneIsIndependent(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	require.NoError(t, st.Create(ctx, "a/1", []byte("old")))
	c := st.Clone()
	require.NoError(t, st.Remove(ctx, "a/1"))
	require.NoError(t, c.Create(ctx, "a/2", nil))
	require.NoError(t, st.Create(ctx, "a", nil), "the folder of the clone is not ours")
	got, err := store.ReadAll(ctx, c, "a/1", 10)
	require.NoError(t, err)
	assert.Equal(t, "old", string(got))
}

func TestFull(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(&memstore.Options{Capacity: 10})
	require.NoError(t, st.Create(ctx, "a", make([]byte, 8)))
	err := st.Create(ctx, "b", make([]byte, 3))
	require.ErrorIs(t, err, memstore.ErrFull)
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, st.Remove(ctx, "a"))
	require.NoError(t, st.Create(ctx, "b", make([]byte, 10)))
	st.Set("b", nil)
	free, err := st.Free(ctx)
	require.NoError(t, err)
	assert.EqualValues(t, 10, free)
}
