package repo_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/memstore"
)

// benchStore is a repository with some 256 MiB that compress to about half.
func benchStore(b *testing.B) *memstore.Store {
	st := memstore.New(nil)
	r := newRepository(b, st, nil)
	mustBackup(b, r, "vm", pipetest.NewPattern(1, 256<<20).Blank(), nil)
	return st
}

// BenchmarkScrub is bar 19: at least 1 GB/s a core, of bytes in the store.
func BenchmarkScrub(b *testing.B) {
	st := benchStore(b)
	p, err := repo.OpenPublic(b.Context(), st, func(string) {})
	require.NoError(b, err)
	b.SetBytes(sizeOf(b, st, ""))
	for b.Loop() {
		rep, err := p.Scrub(b.Context(), &repo.ScrubOptions{Workers: 1})
		require.NoError(b, err)
		require.True(b, rep.OK)
	}
}

// BenchmarkDeepScrub is bar 19: at least 400 MB/s a core, of plain bytes: cells, seals, decoding and ids.
func BenchmarkDeepScrub(b *testing.B) {
	st := benchStore(b)
	r := reopen(b, st)
	b.SetBytes(256 << 20)
	for b.Loop() {
		rep, err := r.Verify(b.Context(), &repo.VerifyOptions{DataPercent: 100})
		require.NoError(b, err)
		require.True(b, rep.OK)
	}
}

// BenchmarkFullBackup is what the parity's cost is held against: at most 10 % of the CPU of a full backup at 3 %. A profile
// of it has the share (cell.encode).
func BenchmarkFullBackup(b *testing.B) {
	img := pipetest.NewPattern(1, 256<<20).Blank()
	b.SetBytes(img.Size())
	for b.Loop() {
		r := newRepository(b, memstore.New(nil), nil)
		mustBackup(b, r, "vm", img, nil)
	}
}
