package qcow2_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/pipe/qcow2"
)

// TestCreateRandom writes images by random writes and marks, in any order and over each other, and reads them back
// with our reader and with QEMU.
func TestCreateRandom(t *testing.T) {
	first, count := uint64(1), 20
	if longTier() {
		first, count = rand.Uint64N(1<<40), 1500
	}
	for i := range count {
		seed := first + uint64(i)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			createRandom(t, rand.New(rand.NewPCG(seed, 1)))
		})
	}
}

func createRandom(t *testing.T, rng *rand.Rand) {
	path := filepath.Join(t.TempDir(), "new.qcow2")
	opts := &qcow2.CreateOptions{
		ClusterSize: 512 << rng.IntN(13), Compress: rng.IntN(2) == 0, Compression: qcow2.Compression(rng.IntN(2)),
		TableBytes: 1, // as few tables in memory as possible
	}
	size := 512*rng.Int64N(2<<rng.IntN(14)) + rng.Int64N(2)*rng.Int64N(512)
	story := fmt.Sprintf("size %d options %+v", size, opts)
	target, err := qcow2.Create(path, size, opts)
	require.NoError(t, err, story)
	defer target.Close()

	want := make([]byte, size)
	for range rng.IntN(60) {
		if size > 0 {
			story += "\n" + randomOp(t, rng, target, want, opts.ClusterSize)
		}
	}
	require.NoError(t, target.Commit(t.Context()), story)
	checkImage(t, path, append(want, make([]byte, -size&511)...), story)
}

// randomOp changes the target and, in the same way, what is expected of it.
func randomOp(t *testing.T, rng *rand.Rand, target *qcow2.Target, want []byte, cluster int64) string {
	size := int64(len(want))
	align := []int64{1, 512, cluster}[rng.IntN(3)]
	off := rng.Int64N(size) / align * align
	n := min(align*(1+rng.Int64N(1<<rng.IntN(12))), size-off, 3<<20)
	switch rng.IntN(5) {
	case 0:
		kind := []pipe.Kind{pipe.Zero, pipe.Free, pipe.Swap, pipe.Excluded, pipe.Bad}[rng.IntN(5)]
		require.NoError(t, target.Mark(t.Context(), pipe.Extent{Off: off, Len: n, Kind: kind}))
		clear(want[off : off+n])
		return fmt.Sprintf("mark %d %d", off, n)
	case 1:
		clear(want[off : off+n])
	case 2:
		for i := range n {
			want[off+i] = byte(rng.Uint32())
		}
	case 3: // data with zeros between
		for i := range n {
			want[off+i] = byte((off+i)>>13&1) * byte(i)
		}
	case 4:
		copy(want[off:off+n], bytes.Repeat([]byte("compressible "), int(n/13+1)))
	}
	done, err := target.WriteAt(t.Context(), want[off:off+n], off)
	require.NoError(t, err)
	require.Equal(t, int(n), done)
	return fmt.Sprintf("write %d %d", off, n)
}

// checkImage holds an image of ours against what it should contain, by our reader and by QEMU where it is installed.
func checkImage(t *testing.T, path string, want []byte, story string) {
	t.Helper()
	img, err := qcow2.Open(t.Context(), path, nil)
	require.NoError(t, err, story)
	require.Equal(t, -1, firstDifference(want, readAll(t, img, 777_777)), story)
	ours := extents(t, img, 0, img.Size())
	require.NoError(t, img.Close())
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Log("qemu-img is not installed: only our own reader looked")
		return
	}
	out := run(t, "qemu-img", "check", "-f", "qcow2", path)
	require.Contains(t, out, "No errors were found on the image", story)
	require.Equal(t, -1, firstDifference(want, qemuContent(t, path, "qcow2")), story)
	agree(t, qemuExtents(t, path, "qcow2"), ours, want, story)
}

// TestTarget is the suite for all targets, for each kind of image that we write.
func TestTarget(t *testing.T) {
	for name, opts := range map[string]*qcow2.CreateOptions{
		"default": nil, "small clusters": {ClusterSize: 512, TableBytes: 1},
		"zstd": {Compress: true, Compression: qcow2.Zstd},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pipetest.TestTarget(t, func(t testing.TB, size int64) (pipe.Target, func() pipe.Image) {
				path := filepath.Join(t.TempDir(), "disk.qcow2")
				target, err := qcow2.Create(path, size, opts)
				require.NoError(t, err)
				return target, func() pipe.Image {
					img, err := qcow2.Open(t.Context(), path, nil)
					require.NoError(t, err)
					t.Cleanup(func() { require.NoError(t, img.Close()) })
					exact, err := pipe.Section(img, 0, size) // the image has whole sectors
					require.NoError(t, err)
					return exact
				}
			})
		})
	}
}

// TestCreateConcurrent writes the two halves of every cluster from different goroutines.
func TestCreateConcurrent(t *testing.T) {
	for _, compress := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "new.qcow2")
		want := make([]byte, 16<<20+512)
		rand.NewChaCha8([32]byte{1}).Read(want[:8<<20])
		target, err := qcow2.Create(path, int64(len(want)), &qcow2.CreateOptions{Compress: compress, TableBytes: 1})
		require.NoError(t, err)
		defer target.Close()
		var wg sync.WaitGroup
		for part := range 8 {
			wg.Go(func() {
				const step = 96 << 10 // one and a half clusters
				for off := part * step; off < len(want); off += 8 * step {
					if _, err := target.WriteAt(t.Context(), want[off:min(off+step, len(want))], int64(off)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		require.NoError(t, target.Commit(t.Context()))
		checkImage(t, path, want, fmt.Sprintf("compress %v", compress))
	}
}

// TestCreateSparse: a large disk with little data takes little space and time.
func TestCreateSparse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new.qcow2")
	const size = 8 << 40
	target, err := qcow2.Create(path, size, nil)
	require.NoError(t, err)
	defer target.Close()
	require.NoError(t, target.Mark(t.Context(), pipe.Extent{Len: size, Kind: pipe.Zero}))
	for _, off := range []int64{0, 3<<40 + 12345, size - 10} {
		_, err = target.WriteAt(t.Context(), []byte("0123456789"), off)
		require.NoError(t, err)
	}
	require.NoError(t, target.Mark(t.Context(), pipe.Extent{Off: 1 << 20, Len: 1 << 40, Kind: pipe.Zero}))
	require.NoError(t, target.Commit(t.Context()))

	fi, err := os.Stat(path)
	require.NoError(t, err)
	require.Less(t, fi.Size(), int64(2<<20))
	img, err := qcow2.Open(t.Context(), path, nil)
	require.NoError(t, err)
	defer img.Close()
	b := make([]byte, 10)
	_, err = img.ReadAt(t.Context(), b, 3<<40+12345)
	require.NoError(t, err)
	require.Equal(t, "0123456789", string(b))
	require.Len(t, extents(t, img, 0, size), 5)
}

// TestCreatePublishes: as for every disk file, an image appears at Commit or not at all, and replaces nothing.
func TestCreatePublishes(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "new.qcow2")
	target, err := qcow2.Create(path, 1<<20, nil)
	require.NoError(t, err)
	require.NoFileExists(t, path)
	require.NoError(t, target.Close())
	require.NoError(t, target.Close())
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)

	require.NoError(t, os.WriteFile(path, []byte("mine"), 0o600))
	_, err = qcow2.Create(path, 1<<20, nil)
	require.ErrorIs(t, err, fs.ErrExist)
	opts := &qcow2.CreateOptions{}
	opts.Overwrite = true
	target, err = qcow2.Create(path, 1<<20, opts)
	require.NoError(t, err)
	require.NoError(t, target.Commit(t.Context()))
	require.ErrorIs(t, target.Commit(t.Context()), fs.ErrClosed)
	checkImage(t, path, make([]byte, 1<<20), "overwritten")
}

func TestCreateRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new.qcow2")
	for name, bad := range map[string]struct {
		size int64
		opts qcow2.CreateOptions
	}{
		"negative":       {size: -512},
		"long":           {size: 1 << 62},
		"no power":       {size: 512, opts: qcow2.CreateOptions{ClusterSize: 3000}},
		"small clusters": {size: 512, opts: qcow2.CreateOptions{ClusterSize: 256}},
		"large clusters": {size: 512, opts: qcow2.CreateOptions{ClusterSize: 4 << 20}},
		"large disk":     {size: 1 << 40, opts: qcow2.CreateOptions{ClusterSize: 512}},
		"compression":    {size: 512, opts: qcow2.CreateOptions{Compression: 9}},
	} {
		_, err := qcow2.Create(path, bad.size, &bad.opts)
		require.ErrorIs(t, err, fs.ErrInvalid, name)
	}
	target, err := qcow2.Create(path, 1<<20, nil)
	require.NoError(t, err)
	defer target.Close()
	_, err = target.WriteAt(t.Context(), make([]byte, 2), 1<<20-1)
	require.ErrorIs(t, err, fs.ErrInvalid)
	require.ErrorIs(t, target.Mark(t.Context(), pipe.Extent{Len: 1, Kind: pipe.Data}), fs.ErrInvalid)
	require.ErrorIs(t, target.Mark(t.Context(), pipe.Extent{Len: 1, Kind: pipe.Unchanged}), diskfile.ErrNoBase)
}
