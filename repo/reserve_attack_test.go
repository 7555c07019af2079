package repo

import (
	"context"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
)

// filled has no room for records, until the reserve is given back.
type filled struct {
	*memstore.Store
	full     bool
	released int
}

var _ store.Reserver = (*filled)(nil)

func (f *filled) Create(ctx context.Context, name string, data []byte) error {
	if f.full && strings.HasPrefix(name, "log/") {
		return syscall.ENOSPC
	}
	return f.Store.Create(ctx, name, data)
}

func (f *filled) Reserve(_ context.Context, bytes int64) (int64, error) { return bytes, nil }

func (f *filled) Release(context.Context) (int64, error) {
	f.released++
	f.full = false
	return minReserve, nil
}

// A backup that fills the disk does not take for its unfinished points what was put aside for a prune, nor the caches: run after run
// it would use up both, and then nothing can be pruned.
func TestUnfinishedPointTakesNoReserve(t *testing.T) {
	ctx := t.Context()
	st := &filled{Store: memstore.New(nil)}
	r := initInner(t, st)
	mustPoint(t, r, "vm", noiseDisk(1, 2))
	caches := func() (n int) {
		for _, err := range st.List(ctx, "index/") {
			require.NoError(t, err)
			n++
		}
		return n
	}
	require.NotZero(t, caches())
	w, err := r.Begin(ctx, "vm", nil)
	require.NoError(t, err)
	defer w.Close()
	d, err := w.Disk(ctx, "disk0", 4*minBlockSize)
	require.NoError(t, err)
	_, err = d.WriteAt(ctx, chance(1, minBlockSize), 0)
	require.NoError(t, err)
	before := caches()
	st.full = true
	_, err = w.(pipe.Checkpointer).Checkpoint(ctx, pipe.CheckpointOptions{
		Disks:    []pipe.CheckpointDisk{{Key: "disk0", Size: 4 * minBlockSize, Pending: wholeOf(4 * minBlockSize)}},
		Tracking: early("early 1"),
	})
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.Zero(t, st.released)
	require.GreaterOrEqual(t, caches(), before)
	rep, err := r.Prune(ctx, &PruneOptions{Wait: -1})
	require.NoError(t, err)
	require.NotNil(t, rep)
}
