package repo

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/object"
	"github.com/hikae/hikae/repo/store/dirstore"
)

// manyBlocks makes a repository whose index knows that many blocks: one real point, and index objects for packs that
// are empty files. Everything that reads no such block works as on a real one of that size.
func manyBlocks(tb testing.TB, blocks int) (dir string, secret Secret, point string) {
	tb.Helper()
	ctx := context.Background()
	dir, secret = tb.TempDir(), KeyFile([32]byte{1})
	st, err := dirstore.Init(dir)
	require.NoError(tb, err)
	r, err := Init(ctx, st, secret, nil, nil)
	require.NoError(tb, err)
	defer func() { require.NoError(tb, r.Close()) }()
	content := make([]byte, 3<<20)
	_, _ = rand.Read(content)
	w, err := r.Begin(ctx, "vm", nil)
	require.NoError(tb, err)
	disk, err := w.Disk(ctx, "disk0", int64(len(content)))
	require.NoError(tb, err)
	_, err = disk.WriteAt(ctx, content, 0)
	require.NoError(tb, err)
	require.NoError(tb, disk.Commit(ctx))
	point, err = w.Commit(ctx, nil)
	require.NoError(tb, err)

	const perPack, leaseNumber = 160, 99
	folder := filepath.Join(dir, "data", "0000000000000063")
	require.NoError(tb, os.MkdirAll(folder, 0o700))
	s := &session{r: r, lease: &lease{n: leaseNumber}, ctx: ctx}
	var tables []packTable
	for done := 0; done < blocks; done += perPack {
		t := packTable{ref: packRef{objectRef{Lease: leaseNumber}, kindData}, stream: 16 << 20, entries: make([]object.Entry, perPack)}
		_, _ = rand.Read(t.ref.ID[:])
		for i := range t.entries {
			e := &t.entries[i]
			_, _ = rand.Read(e.ID[:])
			e.Ordinal, e.Offset, e.Stored, e.Plain = uint32(i), uint32(i)*100_000, 100_000, 256<<10
			e.Type, e.Codec = object.TypeBlock, uint8(pipe.Zstd)
		}
		require.NoError(tb, os.WriteFile(filepath.Join(dir, filepath.FromSlash(t.ref.name())), nil, 0o600))
		if tables = append(tables, t); len(tables)*perPack >= indexChunk {
			require.NoError(tb, s.writeIndex(tables))
			tables = nil
		}
	}
	require.NoError(tb, s.writeIndex(tables))
	return dir, secret, point
}

// BenchmarkMillionBlocks: what a person waits for on a repository with 10⁶ blocks (256 GB of distinct data).
func BenchmarkMillionBlocks(b *testing.B) {
	ctx := context.Background()
	dir, secret, point := manyBlocks(b, 1_000_000)
	open := func() *Repository {
		st, err := dirstore.Open(dir)
		require.NoError(b, err)
		r, err := Open(ctx, st, secret, &OpenOptions{CacheDir: b.TempDir()})
		require.NoError(b, err)
		return r
	}
	b.Run("points", func(b *testing.B) {
		for b.Loop() {
			r := open()
			for _, err := range r.Points(ctx, "") {
				require.NoError(b, err)
			}
			require.NoError(b, r.Close())
		}
	})
	b.Run("stats", func(b *testing.B) {
		for b.Loop() {
			r := open()
			s, err := r.Stats(ctx)
			require.NoError(b, err)
			require.GreaterOrEqual(b, s.Blocks, int64(1_000_000))
			require.NoError(b, r.Close())
		}
	})
	b.Run("restore-start", func(b *testing.B) {
		p := make([]byte, 4096)
		for b.Loop() {
			r := open()
			img, err := r.Open(ctx, point, "disk0")
			require.NoError(b, err)
			_, err = img.ReadAt(ctx, p, 1<<20)
			require.NoError(b, err)
			require.NoError(b, img.Close())
			require.NoError(b, r.Close())
		}
	})
}

// The index of n blocks takes at most 24 bytes of memory a block.
func TestIndexMemory(t *testing.T) {
	x, err := newIndex(t.TempDir())
	require.NoError(t, err)
	defer x.close()
	for _, n := range []int{1000, 46_000, 92_000} {
		for i := x.len(); i < n; i++ {
			var id pipe.ID
			binary.LittleEndian.PutUint64(id[:], uint64(i)*0x9E3779B97F4A7C15)
			binary.LittleEndian.PutUint64(id[8:], uint64(i))
			require.NoError(t, x.add(id, location{}))
		}
		perBlock := float64(8*len(x.slots)) / float64(n)
		t.Logf("%d blocks: %.1f bytes each", n, perBlock)
		require.LessOrEqual(t, perBlock, 24.0)
	}
}
