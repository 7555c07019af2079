package repo

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
)

func backupBytes(t *testing.T, r *Repository, vm string, content []byte) (string, pipe.Stats) {
	t.Helper()
	ctx := t.Context()
	w, err := r.Begin(ctx, vm, nil)
	require.NoError(t, err)
	defer w.Close()
	d, err := w.Disk(ctx, "disk0", int64(len(content)))
	require.NoError(t, err)
	stats, err := pipe.Copy(ctx, d, pipe.FromReaderAt(bytes.NewReader(content), int64(len(content))), nil)
	require.NoError(t, err)
	require.NoError(t, d.Commit(ctx))
	id, err := w.Commit(ctx, nil)
	require.NoError(t, err)
	return id, stats
}

func restoreBytes(r *Repository, point string) ([]byte, error) {
	ctx := context.Background()
	img, err := r.Open(ctx, point, "disk0")
	if err != nil {
		return nil, err
	}
	defer img.Close()
	out := make([]byte, img.Size())
	if _, err := img.ReadAt(ctx, out, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return out, nil
}

func openTest(t *testing.T, st store.Store) *Repository {
	t.Helper()
	r, err := Open(t.Context(), st, KeyFile([32]byte{1}), nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

// The content of one disk, shifted by a few cells on another, is found again by a process that knows only what the
// repository tells it; it restores, it verifies, and when what it leans on is lost, exactly it is named.
func TestShiftedContentIsAssembled(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	first, err := Init(ctx, st, KeyFile([32]byte{1}), &InitOptions{BlockSize: 256 << 10}, nil)
	require.NoError(t, err)
	content := make([]byte, 12<<20)
	_, _ = rand.Read(content)
	one, _ := backupBytes(t, first, "one", content)
	require.NoError(t, first.Close())

	shifted := append(make([]byte, 0, len(content)), content[5<<20:]...)
	fresh := make([]byte, 12<<10)
	_, _ = rand.Read(fresh)
	shifted = append(append(shifted, fresh...), content[:5<<20]...)
	second := openTest(t, st)
	two, stats := backupBytes(t, second, "two", shifted)
	require.Less(t, stats.Stored, int64(len(content))/5, "most of it is there already")
	require.Greater(t, stats.Deduplicated, int64(len(content))*4/5)

	r := openTest(t, st)
	for id, want := range map[string][]byte{one: content, two: shifted} {
		got, err := restoreBytes(r, id)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got))
	}
	for _, percent := range []float64{0, 30, 100} {
		rep, err := r.Verify(ctx, &VerifyOptions{DataPercent: percent})
		require.NoError(t, err)
		require.True(t, rep.OK, "%+v", rep)
		require.Zero(t, rep.Reclaimable)
	}

	// Lose a pack of the first disk: both points have lost what it held, and no more than that.
	sizes, err := r.packs(ctx)
	require.NoError(t, err)
	for p := range sizes {
		if p.Kind == kindData && p.Lease == 2 {
			require.NoError(t, st.Remove(ctx, p.name()))
			break
		}
	}
	damaged := openTest(t, st)
	rep, err := damaged.Verify(ctx, nil)
	require.NoError(t, err)
	require.False(t, rep.OK)
	lost := map[string]int64{}
	for _, a := range rep.Affected {
		lost[a.Point] += a.Length
		img, err := damaged.Open(ctx, a.Point, a.Disk)
		require.NoError(t, err)
		_, err = img.ReadAt(ctx, make([]byte, 4096), a.Offset)
		var corrupt *ErrCorrupt
		require.ErrorAs(t, err, &corrupt)
		require.NoError(t, img.Close())
	}
	require.NotZero(t, lost[one])
	require.NotZero(t, lost[two])
}

func FuzzRecipe(f *testing.F) {
	r := recipe{
		pieces:  []piece{{length: 100}, {length: 50, copied: true, from: pipe.ID{1}, offset: 7}, {length: 10}},
		literal: make([]byte, 110), plain: 110,
	}
	f.Add(r.encode(), 160)
	f.Add([]byte{1, 0, 1, 0xFF, 0xFF, 0xFF, 0xFF}, 1<<18)
	f.Fuzz(func(t *testing.T, b []byte, plain int) {
		if plain < 0 || plain > maxBlockSize {
			return
		}
		if r, err := decodeRecipe(b, plain); err == nil {
			require.Equal(t, b, r.encode())
			total := 0
			for _, p := range r.pieces {
				total += p.length
			}
			require.Equal(t, plain, total)
		}
	})
}

func FuzzAnchors(f *testing.F) {
	f.Add(encodeAnchors([]anchor{{hash: 1, block: pipe.ID{1}, cell: 3}, {hash: 9, block: pipe.ID{1}}, {hash: 2, block: pipe.ID{2}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if list, err := decodeAnchors(b); err == nil && len(list) > 0 {
			again, err := decodeAnchors(encodeAnchors(list))
			require.NoError(t, err)
			require.Equal(t, list, again)
		}
	})
}

// A recipe that names a recipe, a block that is not there, or bytes outside of one is refused by the reader.
func TestHostileRecipes(t *testing.T) {
	ctx := t.Context()
	r, err := Init(ctx, memstore.New(nil), KeyFile([32]byte{1}), &InitOptions{BlockSize: 64 << 10}, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	content := make([]byte, 64<<10)
	_, _ = rand.Read(content)
	backupBytes(t, r, "vm", content)
	x, err := r.index(ctx, scope{})
	require.NoError(t, err)
	id := r.keys.id(1, content)
	dst := make([]byte, 64<<10)
	make1 := func(p piece) []byte { return (&recipe{pieces: []piece{p}}).encode() }
	require.NoError(t, r.assemble(ctx, x, make1(piece{length: 64 << 10, copied: true, from: id}), dst))
	require.Equal(t, content, dst)
	for name, p := range map[string]piece{
		"unknown block": {length: 64 << 10, copied: true, from: pipe.ID{9}},
		"outside":       {length: 64 << 10, copied: true, from: id, offset: 1},
		"far outside":   {length: 64 << 10, copied: true, from: id, offset: 1 << 31},
		"too short":     {length: 1, copied: true, from: id},
		"no literal":    {length: 64 << 10},
	} {
		require.Error(t, r.assemble(ctx, x, make1(p), dst), name)
	}
}
