package vhdx_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/vhdx"
)

// Chains of ours as libvhdi reads them, byte by byte: 5,000 in the release tier, hundreds in the long one. libvhdi finds parents by
// the end of their absolute path. It takes a zero block in a child for its parent's, ignores a log in use, and reads the headers of a
// child in which nothing was written yet in place of its parent's blocks: the chains have none of these. R092.
func TestLibvhdiReadsOurs(t *testing.T) {
	needs(t, "vhdimount", "fusermount")
	count := map[string]uint64{"": 2, "long": 200, "release": 5000}[os.Getenv("HIKAE_TEST_TIER")]
	dir := t.TempDir()
	point := filepath.Join(dir, "mnt")
	require.NoError(t, os.Mkdir(point, 0o700))
	for seed := range max(count, 2) {
		path, want := libvhdiChain(t, filepath.Join(dir, fmt.Sprint(seed)), seed)
		img, err := vhdx.Open(t.Context(), path, nil)
		require.NoError(t, err)
		requireContent(t, img, want)
		require.NoError(t, img.Close())
		requireLibvhdi(t, path, point, want, seed)
		require.NoError(t, os.RemoveAll(filepath.Dir(path)))
		if seed%500 == 499 {
			t.Logf("%d chains so far", seed+1)
		}
	}
	t.Logf("%d chains, no difference", max(count, 2))
}

// libvhdiChain is a chain of one to four files in a folder of its own, with both kinds of sectors, and what it holds.
func libvhdiChain(t *testing.T, dir string, seed uint64) (path string, want []byte) {
	r := rand.New(rand.NewPCG(seed, 21))
	require.NoError(t, os.Mkdir(dir, 0o700))
	sector := []int64{512, 4096}[r.IntN(2)]
	want = make([]byte, (1+r.Int64N(6<<20))&^(sector-1)+sector)
	for depth := range 1 + r.IntN(4) {
		opts := &vhdx.CreateOptions{SectorSize: sector, BlockSize: 1 << (20 + r.IntN(3))}
		if depth > 0 {
			opts.Parent, opts.ParentName = path, `C:\VMs\`+filepath.Base(path)
		} else {
			opts.Type = vhdx.Type(r.IntN(2))
		}
		path = filepath.Join(dir, fmt.Sprintf("%d.vhdx", depth))
		target, err := vhdx.Create(t.Context(), path, int64(len(want)), opts)
		require.NoError(t, err)
		for range 1 + r.IntN(7) {
			off := r.IntN(len(want))
			n := 1 + r.IntN(min(len(want)-off, []int{600, 50_000, 2 << 20}[r.IntN(3)]))
			copy(want[off:off+n], noise(r, n))
			put(t, target, want[off:off+n], int64(off))
		}
		require.NoError(t, target.Commit(t.Context()))
	}
	return path, want
}

func requireLibvhdi(t *testing.T, path, point string, want []byte, seed uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "vhdimount", path, point).CombinedOutput()
	if errors.Is(err, fs.ErrPermission) || err != nil && seed == 0 {
		t.Skipf("vhdimount cannot mount here: %v: %s", err, out)
	}
	require.NoError(t, err, "%s", out)
	defer func() {
		out, err := exec.CommandContext(ctx, "fusermount", "-u", point).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}()
	names, err := filepath.Glob(filepath.Join(point, "vhdi*"))
	require.NoError(t, err)
	require.NotEmpty(t, names)
	got, err := os.ReadFile(filepath.Join(point, fmt.Sprintf("vhdi%d", len(names))))
	require.NoError(t, err)
	require.Equal(t, len(want), len(got))
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("seed %d: libvhdi reads %#x at %d, want %#x", seed, got[i], i, want[i])
		}
	}
}
