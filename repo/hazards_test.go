package repo_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/memstore"
)

// Increments in which nothing changed, disks of no size, of one byte, and of a byte more or less than a block: each is a point like
// any other (hazard H17).
func TestNothingChangedAndOddSizes(t *testing.T) {
	ctx := t.Context()
	r := newRepository(t, memstore.New(nil), &repo.InitOptions{BlockSize: testBlock})
	for _, size := range []int64{0, 1, testBlock - 1, testBlock, testBlock + 1} {
		img := pipetest.Bytes(bytes.Repeat([]byte{7}, int(size)))
		base := mustBackup(t, r, fmt.Sprint("vm", size), img, nil)
		for range 2 {
			w, err := r.Begin(ctx, fmt.Sprint("vm", size), &pipe.PointOptions{Base: base})
			require.NoError(t, err)
			d, err := w.Disk(ctx, "disk0", size)
			require.NoError(t, err)
			if size > 0 {
				require.NoError(t, d.(pipe.ExtentTarget).Mark(ctx, pipe.Extent{Len: size, Kind: pipe.Unchanged}))
			}
			require.NoError(t, d.Commit(ctx))
			base, err = w.Commit(ctx, nil)
			require.NoError(t, err)
			requireSame(t, r, base, img)
		}
	}
	rep, err := r.Verify(ctx, &repo.VerifyOptions{DataPercent: 100})
	require.NoError(t, err)
	require.True(t, rep.OK, "%+v", rep.Damaged)
}

// A base goes, and what was built on it stays whole: a point needs no other point (hazards H15, H16).
func TestBaseGoesAndIncrementsStay(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := newRepository(t, st, &repo.InitOptions{BlockSize: testBlock})
	full := mustBackup(t, r, "vm", disk(1), nil)
	changed := pipe.Extent{Off: testBlock, Len: testBlock}
	last := full
	want := changedDisk(t, 1, 2, changed)
	for range 3 {
		last = increment(t, r, "vm", last, want, changed)
	}
	for _, id := range pointsOf(t, r) {
		if id != last {
			require.NoError(t, r.Forget(ctx, []string{id}, "too old"))
			_, err := r.Prune(ctx, &repo.PruneOptions{Wait: -1})
			require.NoError(t, err)
			requireSame(t, reopen(t, st), last, want)
		}
	}
	require.Equal(t, []string{last}, pointsOf(t, r))
}
