package repo

import (
	"encoding/binary"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/object"
	"github.com/hikae/hikae/repo/store/dirstore"
)

// smallBlocks commits a point of n small pieces of content, besides those that skip names: a tree as a disk of so many blocks has it.
func smallBlocks(t testing.TB, r *Repository, n int, skip func(i int) bool) string {
	t.Helper()
	ctx := t.Context()
	w, err := r.Begin(ctx, "vm", nil)
	require.NoError(t, err)
	pw := w.(*pointWriter)
	d, err := w.Disk(ctx, "disk0", int64(n)*int64(r.header.BlockSize))
	require.NoError(t, err)
	target := d.(*diskTarget)
	content := make([]byte, 64)
	for i := range n {
		e := entry{kind: pipe.Zero}
		if !skip(i) {
			binary.LittleEndian.PutUint64(content, uint64(i)+1)
			id := r.keys.id(object.TypeBlock, content)
			_, err := pw.s.put(ctx, object.TypeBlock, id, len(content), pipe.Plain, content)
			require.NoError(t, err)
			e = entry{kind: pipe.Data, id: id}
		}
		require.NoError(t, target.tree.setBlock(ctx, int64(i), e))
	}
	require.NoError(t, d.Commit(ctx))
	id, err := w.Commit(ctx, nil)
	require.NoError(t, err)
	return id
}

// A prune of many blocks of which 30 % are dead, spread over all packs, so that all of them are written anew: its time, and that its
// memory is a few dozen bytes a block (hazard H11).
func TestPruneOfManyBlocks(t *testing.T) {
	blocks := 20_000
	switch tierOf() {
	case "long":
		blocks = 1_000_000
	case "release":
		blocks = 10_000_000
	}
	ctx := t.Context()
	st, err := dirstore.Init(t.TempDir())
	require.NoError(t, err)
	r, err := Init(ctx, st, innerKey, &InitOptions{BlockSize: minBlockSize}, nil)
	require.NoError(t, err)
	all := smallBlocks(t, r, blocks, func(int) bool { return false })
	smallBlocks(t, r, blocks, func(i int) bool { return i%10 < 3 })
	forget(t, r, all)
	require.NoError(t, r.Close())
	fresh := openInner(t, st, nil)
	debug.FreeOSMemory() // what making it has left is not the prune's
	peak := make(chan uint64, 1)
	stop := make(chan struct{})
	go func() {
		most := uint64(0)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapInuse)
			select {
			case <-stop:
				peak <- most
				return
			case <-tick.C:
			}
		}
	}()
	began := time.Now()
	rep, err := fresh.Prune(ctx, &PruneOptions{Wait: -1})
	took := time.Since(began)
	close(stop)
	heap := <-peak
	require.NoError(t, err)
	require.Positive(t, rep.Repacked)
	t.Logf("%d blocks, 30 %% dead: %v, heap at most %d MiB, %+v", blocks, took.Round(time.Millisecond), heap>>20, rep)
	require.Less(t, heap, uint64(512<<20))
	dry, err := fresh.Prune(ctx, &PruneOptions{DryRun: true})
	require.NoError(t, err)
	require.LessOrEqual(t, float64(dry.Unused), 0.05*float64(dry.KeptBytes))
}
