package repo

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
)

// farStore is at the other end of a line: every question takes a round trip.
type farStore struct {
	store.Store
	trip  time.Duration
	calls atomic.Int64
}

func (f *farStore) Stat(ctx context.Context, name string) (store.Info, error) {
	f.calls.Add(1)
	time.Sleep(f.trip)
	return f.Store.Stat(ctx, name)
}

func (f *farStore) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	f.calls.Add(1)
	time.Sleep(f.trip)
	return f.Store.ReadAt(ctx, name, p, off)
}

func (f *farStore) Unwrap() store.Store { return f.Store }

// A log of hundreds of records is read over a slow line in seconds, and its end is found by asking; a first place that
// is lost does not stop it.
func TestLogIsReadAhead(t *testing.T) {
	const sessions, trip = 200, 100 * time.Millisecond
	st := memstore.New(nil)
	r := initInner(t, st)
	for range sessions {
		w, err := r.Begin(t.Context(), "vm", nil)
		require.NoError(t, err)
		require.NoError(t, w.Close())
	}
	records, _ := r.log.head()
	require.GreaterOrEqual(t, records, uint64(2*sessions))
	st.Set(logName(100), nil)
	bubble.Test(t, func(t *testing.T) {
		far := &farStore{Store: st.Clone(), trip: trip}
		start := time.Now()
		late, err := OpenPublic(t.Context(), far, nil)
		require.NoError(t, err)
		require.Equal(t, records, late.Head())
		one := time.Duration(records) * 2 * trip
		require.Less(t, time.Since(start), one/8, "one after the other takes %v", one)
		require.Less(t, far.calls.Load(), int64(records)*5/2, "little is asked in vain")

		calls := far.calls.Load()
		require.NoError(t, late.Refresh(t.Context()))
		require.LessOrEqual(t, far.calls.Load()-calls, int64(6), "the end is asked for in its three places, and in three the checkpoint that would cover it, and nothing ahead of it")
	})
}
