package ext_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/exclude/ext"
	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// fragment gives every group of a volume without checksums some hundred runs of used blocks, and its descriptor the right count.
func fragment(t testing.TB, img string, blocks int64) {
	t.Helper()
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	const perGroup, descSize, bs = 32768, 64, 4096
	groups := blocks / perGroup
	descriptors := make([]byte, groups*descSize)
	_, err = f.ReadAt(descriptors, bs)
	require.NoError(t, err)
	rng, bitmap := rand.New(rand.NewPCG(3, 4)), make([]byte, bs)
	for g := range groups {
		d := descriptors[g*descSize:]
		at := (int64(binary.LittleEndian.Uint32(d)) | int64(binary.LittleEndian.Uint32(d[0x20:]))<<32) * bs
		_, err := f.ReadAt(bitmap, at)
		require.NoError(t, err)
		for range 100 {
			from := 1024 + rng.IntN(2900)
			for i := range 1 + rng.IntN(30) {
				bitmap[from+i] |= byte(rng.Uint32() | rng.Uint32())
			}
		}
		free := 0
		for _, b := range bitmap {
			for i := range 8 {
				free += int(b>>i&1 ^ 1)
			}
		}
		_, err = f.WriteAt(bitmap, at)
		require.NoError(t, err)
		binary.LittleEndian.PutUint16(d[0xc:], uint16(free))
		binary.LittleEndian.PutUint16(d[0x2c:], uint16(free>>16))
	}
	_, err = f.WriteAt(descriptors, bs)
	require.NoError(t, err)
}

// analyse opens a volume, lists what is free, and says how long that took and how much memory there is of ours at most.
func analyse(t testing.TB, img string) (ranges int, took time.Duration, sysMiB uint64) {
	t.Helper()
	vol := volume(t, img)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	f, err := ext.Open(t.Context(), vol)
	require.NoError(t, err)
	require.Empty(t, f.Info().Doubt)
	for _, err := range f.Free(t.Context()) {
		if err != nil { // a require for each of millions would be most of the time
			require.NoError(t, err)
		}
		ranges++
	}
	took = time.Since(start)
	runtime.ReadMemStats(&after)
	return ranges, took, (after.HeapSys - before.HeapSys) >> 20
}

// A volume of 2 TiB of which every group has a bitmap, full of holes (issue 8: 30 s and 256 MiB).
func TestTwoTiB(t *testing.T) {
	if !longTier() {
		t.Skip("writes 300 MB: in the long tier")
	}
	img := shape{size: 2 << 20, args: "-t ext4 -O ^metadata_csum,^has_journal,^resize_inode -N 524288"}.make(t, "")
	fragment(t, img, 2<<40/4096)
	ranges, took, heap := analyse(t, img)
	t.Logf("2 TiB: %d ranges in %v, %d MiB more of memory", ranges, took, heap)
	require.Greater(t, ranges, 1<<20)
	require.Less(t, took, 30*time.Second)
	require.Less(t, heap, uint64(256))
}

// 8 GiB with a hundred thousand files (issue 8: 300 ms).
func TestEightGiB(t *testing.T) {
	if !longTier() {
		t.Skip("makes 100,000 files: in the long tier")
	}
	dir := t.TempDir()
	for d := range 200 {
		sub := fmt.Sprintf("%s/%d", dir, d)
		require.NoError(t, os.Mkdir(sub, 0o700))
		for n := range 500 {
			require.NoError(t, os.WriteFile(fmt.Sprintf("%s/file-%d", sub, n), []byte(sub), 0o600))
		}
	}
	img := shape{size: 8 << 10, args: "-t ext4"}.make(t, dir)
	_, took, heap := analyse(t, img)
	t.Logf("8 GiB: %v, %d MiB more of memory", took, heap)
	require.Less(t, took, 300*time.Millisecond)

	f, start, files := open(t, img), time.Now(), 0
	require.NoError(t, walk(t, f, f.Root(), func(fsys.Entry) error { files++; return nil }))
	t.Logf("%d names in %v", files, time.Since(start))
	require.Greater(t, files, 100_000)
}

func walk(t testing.TB, f fsys.FileSystem, dir fsys.Node, visit func(fsys.Entry) error) error {
	t.Helper()
	for e, err := range f.ReadDir(t.Context(), dir) {
		if err == nil {
			err = visit(e)
		}
		if err == nil && e.Type == fs.ModeDir {
			err = walk(t, f, e.Node, visit)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// One file of 1 GiB streams nearly as fast as the image (issue 8: 60 %).
func TestStream(t *testing.T) {
	if !longTier() {
		t.Skip("writes 1 GiB: in the long tier")
	}
	for _, args := range []string{"-t ext4", "-t ext3"} {
		dir := t.TempDir()
		big, err := os.Create(filepath.Join(dir, "big"))
		require.NoError(t, err)
		rng, p := rand.NewChaCha8([32]byte{}), make([]byte, 1<<20)
		for range 1024 {
			_, _ = rng.Read(p)
			_, err := big.Write(p)
			require.NoError(t, err)
		}
		require.NoError(t, big.Close())
		img := shape{size: 1200, args: args}.make(t, dir)
		f, vol := open(t, img), volume(t, img)
		node := find(t, f, f.Root(), "big")
		stream := func(read func(p []byte, off int64) (int, error)) time.Duration {
			start := time.Now()
			for off := int64(0); off < 1<<30; off += int64(len(p)) {
				_, err := read(p, off)
				require.True(t, err == nil || err == io.EOF, err)
			}
			return time.Since(start)
		}
		raw := func(p []byte, off int64) (int, error) { return vol.ReadAt(t.Context(), p, off) }
		file := func(p []byte, off int64) (int, error) { return f.ReadAt(t.Context(), node, p, off) }
		a, b := stream(raw), stream(file)
		for range 4 { // the machine may be busy with something else: the best of each counts
			a, b = min(a, stream(raw)), min(b, stream(file))
		}
		t.Logf("%s: raw %v, file %v: %d %%", args, a, b, a*100/b)
		require.Less(t, b, a*100/60)
	}
}
