package repo_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/memstore"
)

// A disk tells what was written over, and how much of that looks like chance now: what fills free space, and what stays, is not in it.
func TestOverwritten(t *testing.T) {
	ctx := t.Context()
	r, err := repo.Init(ctx, memstore.New(nil), testKey, &repo.InitOptions{BlockSize: testBlock}, openOptions(t))
	require.NoError(t, err)
	defer r.Close()
	const blocks = 600 // more than a page
	chance := func(seed uint64) []byte {
		b := make([]byte, testBlock)
		rnd := rand.New(rand.NewPCG(seed, 1))
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		return b
	}
	text := func(n int) []byte { return bytes.Repeat([]byte{byte(n), byte(n >> 8), 'a', 'b'}, testBlock/4) }
	disk := make([]byte, blocks*testBlock)
	put := func(block int, b []byte) { copy(disk[block*testBlock:], b) }
	for i := range blocks / 2 {
		put(i, text(i+1))
	}
	base := mustBackup(t, r, "vm", pipetest.Bytes(bytes.Clone(disk)), nil)

	put(0, chance(1)) // in place
	put(299, chance(2))
	put(5, text(1000))   // in place, and it compresses
	put(400, chance(3))  // where nothing was
	put(410, text(2000)) // so too
	put(7, make([]byte, testBlock))
	for _, whole := range []bool{false, true} {
		w, err := r.Begin(ctx, "vm", &pipe.PointOptions{Base: base})
		require.NoError(t, err)
		target, err := w.Disk(ctx, "disk0", int64(len(disk)))
		require.NoError(t, err)
		var img pipe.Image = pipetest.Bytes(disk)
		if !whole { // what did not change is not looked at
			img = pipetest.WithExtents(img, changed(len(disk), 0, 5, 7, 299, 400, 410)...)
		}
		_, err = pipe.Copy(ctx, target, img, nil)
		require.NoError(t, err)
		require.NoError(t, target.Commit(ctx))
		over, random := target.(pipe.Overwriter).Overwritten()
		require.Equal(t, int64(3*testBlock), over, "whole: %v", whole)
		require.Equal(t, int64(2*testBlock), random, "whole: %v", whole)
		require.NoError(t, w.Close())
	}
}

// changed has some blocks as data and the rest as unchanged.
func changed(size int, blocks ...int) (out []pipe.Extent) {
	at := 0
	for _, b := range blocks {
		if b*testBlock > at {
			out = append(out, pipe.Extent{Off: int64(at), Len: int64(b*testBlock - at), Kind: pipe.Unchanged})
		}
		out = append(out, pipe.Extent{Off: int64(b * testBlock), Len: testBlock, Kind: pipe.Data})
		at = (b + 1) * testBlock
	}
	return append(out, pipe.Extent{Off: int64(at), Len: int64(size - at), Kind: pipe.Unchanged})
}
