package repo

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strings"
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

// peakMemory watches what the process takes until the function that it returns is called: the most bytes of the heap, the most that
// were alive on it after a collection, and the most that the process had in memory (0 where the system does not say).
func peakMemory() func() (heap, live, resident uint64) {
	debug.FreeOSMemory() // what was before is nobody's
	_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)
	samples := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}, {Name: "/gc/heap/live:bytes"}}
	var heap, live uint64
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			metrics.Read(samples)
			heap = max(heap, samples[0].Value.Uint64()+samples[1].Value.Uint64())
			live = max(live, samples[2].Value.Uint64())
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	}()
	return func() (uint64, uint64, uint64) {
		close(stop)
		<-done
		status, _ := os.ReadFile("/proc/self/status")
		_, most, _ := strings.Cut(string(status), "VmHWM:")
		var kib uint64
		_, _ = fmt.Sscan(most, &kib)
		return heap, live, kib << 10
	}
}

// A prune of many blocks of which 30 % are dead, spread over all packs, so that all of them are written anew, in a process that has the
// repository's index loaded for other work: its time, and that its memory is a few dozen bytes a block (hazard H11).
func TestPruneOfManyBlocks(t *testing.T) {
	blocks := 20_000
	switch tierOf() {
	case "long":
		blocks = 1_000_000
	case "release":
		blocks = 10_000_000
	}
	defer debug.SetGCPercent(debug.SetGCPercent(25)) // as the tool does
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
	_, err = fresh.index(ctx, scope{})
	require.NoError(t, err)
	peak := peakMemory()
	began := time.Now()
	rep, err := fresh.Prune(ctx, &PruneOptions{Wait: -1})
	took := time.Since(began)
	heap, live, resident := peak()
	require.NoError(t, err)
	require.Positive(t, rep.Repacked)
	t.Logf("%d blocks, 30 %% dead: %v; heap at most %d MiB, of that alive %d MiB; in memory %d MiB; %+v",
		blocks, took.Round(time.Millisecond), heap>>20, live>>20, resident>>20, rep)
	require.Positive(t, heap)
	require.Less(t, heap, uint64(512<<20))
	if !raceEnabled {
		require.Less(t, resident, uint64(512<<20)) // with the index, which is not on the heap
	}
	dry, err := fresh.Prune(ctx, &PruneOptions{DryRun: true})
	require.NoError(t, err)
	require.LessOrEqual(t, float64(dry.Unused), 0.05*float64(dry.KeptBytes))
}
