package repo

import (
	"io/fs"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/store/memstore"
)

// A repository that stays open while prunes remove most of what it held: its index is made anew and finds what is there; the old one
// serves who still uses it, and then gives back its file and its memory (hazard H11).
func TestIndexThatWasOutlived(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := initInner(t, memstore.New(nil))
	var points []string
	for seed := range uint64(outlivedPacks) {
		id, err := backupInner(ctx, r, seed+1)
		require.NoError(t, err)
		points = append(points, id)
	}
	old, err := r.index(ctx, scope{})
	require.NoError(t, err)
	require.Greater(t, len(old.packs), outlivedPacks)
	var some pipe.ID
	require.NoError(t, old.each(func(id pipe.ID, _ location) { some = id }))

	few := len(points) / 8
	prune := func(gone ...string) *index {
		forget(t, r, gone...)
		_, err := r.Prune(ctx, &PruneOptions{Wait: -1, MaxUnused: -1})
		require.NoError(t, err)
		x, err := r.index(ctx, scope{})
		require.NoError(t, err)
		return x
	}
	require.Same(t, old, prune(points[:few]...))
	require.Positive(t, old.gone)
	fresh := prune(points[few : len(points)-2]...)
	require.NotSame(t, old, fresh)
	require.Less(t, len(fresh.packs), len(old.packs)/2)
	require.Same(t, fresh, prune())
	_, _, err = old.lookup(some)
	require.NoError(t, err, "who has it may use it")
	_, err = backupInner(ctx, r, 99)
	require.NoError(t, err)
	diff, err := pipe.Compare(ctx, imageOf(t, r, points[len(points)-1]), pattern(uint64(len(points))), nil)
	require.NoError(t, err)
	require.Empty(t, diff)

	file := old.records.file.(*os.File)
	old = nil
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		runtime.GC()
		if _, err := file.Stat(); err != nil {
			require.ErrorIs(t, err, fs.ErrClosed)
			break
		}
		require.True(t, time.Now().Before(deadline), "nobody uses the index, and its file is open")
	}
}

// imageOf opens the disk of a point.
func imageOf(t *testing.T, r *Repository, point string) pipe.Image {
	t.Helper()
	img, err := r.Open(t.Context(), point, "disk0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, img.Close()) })
	return img
}
