package qcow2_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/qcow2"
)

// bitmapOf are the extents of a bitmap, which cover the disk.
func bitmapOf(t *testing.T, img *qcow2.Image, name string) []pipe.Extent {
	t.Helper()
	var all []pipe.Extent
	at := int64(0)
	for e, err := range img.BitmapExtents(t.Context(), name) {
		require.NoError(t, err)
		require.Equal(t, at, e.Off)
		require.Positive(t, e.Len)
		if len(all) > 0 {
			require.NotEqual(t, all[len(all)-1].Kind, e.Kind, "neighbours differ")
		}
		at = e.End()
		all = append(all, e)
	}
	require.Equal(t, img.Size(), at)
	return all
}

func bitmapError(img *qcow2.Image, name string) error {
	for _, err := range img.BitmapExtents(background, name) {
		if err != nil {
			return err
		}
	}
	return nil
}

func openImage(t *testing.T, path string) *qcow2.Image {
	t.Helper()
	img, err := qcow2.Open(t.Context(), path, nil)
	require.NoError(t, err)
	t.Cleanup(func() { img.Close() })
	return img
}

// nbdBitmap is what QEMU tells by NBD that a bitmap holds.
func nbdBitmap(t *testing.T, path, name string) []pipe.Extent {
	t.Helper()
	var list []struct{ Offset, Length, Type int64 }
	out := run(t, "nbdinfo", "--json", "--map=qemu:dirty-bitmap:"+name, "--", "[", "qemu-nbd", "-r", "-f", "qcow2", "-B", name, path, "]")
	require.NoError(t, json.Unmarshal([]byte(out), &list), out)
	var all []pipe.Extent
	for _, e := range list {
		kind := pipe.Unchanged
		if e.Type&1 != 0 {
			kind = pipe.Data
		}
		all = appendExtent(all, pipe.Extent{Off: e.Offset, Len: e.Length, Kind: kind})
	}
	return all
}

// TestBitmaps: random disks, clusters and granularities; what was written while a bitmap was enabled is what it tells,
// as QEMU's own NBD server has it.
func TestBitmaps(t *testing.T) {
	needs(t, "qemu-img", "qemu-io", "qemu-nbd", "nbdinfo")
	rounds := 6
	if longTier() {
		rounds = 60
	}
	for seed := range rounds {
		rng := rand.New(rand.NewPCG(uint64(seed), 77))
		path := filepath.Join(t.TempDir(), "disk.qcow2")
		size := (1 + rng.Int64N(1<<rng.IntN(17))) * 512
		run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", fmt.Sprintf("cluster_size=%d", 512<<rng.IntN(8)), path, fmt.Sprint(size))
		names := []string{"first", "zweite", "with space"}
		for _, name := range names {
			run(t, "qemu-img", "bitmap", "-f", "qcow2", "--add", "-g", fmt.Sprint(512<<rng.IntN(8)), path, name)
			var writes []string
			for range rng.IntN(20) {
				off := rng.Int64N(size)
				n := 1 + rng.Int64N(min(size-off, 1<<rng.IntN(20)))
				writes = append(writes, fmt.Sprintf("%s %d %d", []string{"write", "write -z", "discard"}[rng.IntN(3)], off, n))
			}
			if len(writes) > 0 {
				qemuIO(t, path, writes...)
			}
		}
		img := openImage(t, path)
		for _, name := range names {
			require.Equal(t, nbdBitmap(t, path, name), bitmapOf(t, img, name), "seed %d bitmap %s", seed, name)
		}
		listed := qemuBitmaps(t, path)
		require.Equal(t, listed, img.Info().Bitmaps)
		require.ErrorIs(t, bitmapError(img, "none"), fs.ErrNotExist)
	}
}

// qemuBitmaps is QEMU's own list.
func qemuBitmaps(t *testing.T, path string) []qcow2.Bitmap {
	t.Helper()
	var info struct {
		Specific struct {
			Data struct {
				Bitmaps []struct {
					Name        string
					Granularity int64
					Flags       []string
				}
			}
		} `json:"format-specific"`
	}
	require.NoError(t, json.Unmarshal([]byte(run(t, "qemu-img", "info", "-U", "--output=json", path)), &info))
	var all []qcow2.Bitmap
	for _, b := range info.Specific.Data.Bitmaps {
		all = append(all, qcow2.Bitmap{Name: b.Name, Granularity: b.Granularity,
			InUse: slices.Contains(b.Flags, "in-use"), Auto: slices.Contains(b.Flags, "auto")})
	}
	return all
}

// TestLargeBitmap: a bitmap of a disk of 1 TiB is mostly nowhere, and found quickly.
func TestLargeBitmap(t *testing.T) {
	needs(t, "qemu-img", "qemu-io", "qemu-nbd", "nbdinfo")
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", path, "1T")
	run(t, "qemu-img", "bitmap", "-f", "qcow2", "--add", path, "b")
	qemuIO(t, path, "write 300G 1M", "write 1023G 64k", "write 0 1", "discard 500G 70G")
	require.Equal(t, nbdBitmap(t, path, "b"), bitmapOf(t, openImage(t, path), "b"))
}

// TestBitmapInUse: the bitmap of a QEMU that runs, or was killed, is not believed; nor any after a program that knows
// no bitmaps has written.
func TestBitmapInUse(t *testing.T) {
	needs(t, "qemu-img", "qemu-io")
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
	run(t, "qemu-img", "bitmap", "-f", "qcow2", "--add", path, "b")
	require.NoError(t, bitmapError(openImage(t, path), "b"))

	cmd := exec.Command("qemu-io", "-f", "qcow2", path)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = in.Write([]byte("write 0 64k\n"))
	require.NoError(t, err)
	for got := ""; !slices.Contains([]byte(got), '\n'); {
		b := make([]byte, 100)
		n, err := out.Read(b)
		require.NoError(t, err)
		got += string(b[:n])
	}
	live := openImage(t, path)
	require.ErrorIs(t, bitmapError(live, "b"), qcow2.ErrBitmapInUse)
	require.NoError(t, cmd.Process.Kill())
	cmd.Wait()
	dead := openImage(t, path)
	require.True(t, dead.Info().Bitmaps[0].InUse)
	require.Equal(t, qemuBitmaps(t, path), dead.Info().Bitmaps)
	require.ErrorIs(t, bitmapError(dead, "b"), qcow2.ErrBitmapInUse)
}

// forgedBits is an image with one bitmap, "b": of 16 sectors the 1st and the 10th are dirty. Its directory, table and
// bits are in clusters of 512 bytes at the end of the file, in this order.
func forgedBits() (f *forged, directory, table int) {
	f = forgeOf(3, 9, false)
	f.b = append(f.b, make([]byte, -len(f.b)&511)...)
	directory = len(f.b)
	table = directory + 512
	f.b = append(f.b, make([]byte, 3*512)...)
	f.u64(88, 1).extension(0x23852875, "\x00\x00\x00\x01"+zeros(11)+"\x20"+zeros(8)).u64(120+16, uint64(directory))
	f.u64(directory, uint64(table)).u32(directory+8, 1).u32(directory+12, 2).u32(directory+16, 1<<24|9<<16|1)
	f.b[directory+24] = 'b'
	f.u64(table, uint64(table+512))
	f.b[table+512], f.b[table+513] = 1, 2
	return f, directory, table
}

// TestForgedBitmap: unbent it is right; bent, every lie is a typed error.
func TestForgedBitmap(t *testing.T) {
	f, _, _ := forgedBits()
	img, err := f.open()
	require.NoError(t, err)
	d, u := pipe.Data, pipe.Unchanged
	require.Equal(t, []pipe.Extent{
		{Off: 0, Len: 512, Kind: d}, {Off: 512, Len: 8 * 512, Kind: u}, {Off: 9 * 512, Len: 512, Kind: d}, {Off: 10 * 512, Len: 6 * 512, Kind: u},
	}, bitmapOf(t, img, "b"))

	f, _, table := forgedBits()
	img, err = f.u64(table, 1).open()
	require.NoError(t, err)
	require.Equal(t, []pipe.Extent{{Off: 0, Len: 8192, Kind: d}}, bitmapOf(t, img, "b"), "all ones")
	img, err = f.u64(table, 0).open()
	require.NoError(t, err)
	require.Equal(t, []pipe.Extent{{Off: 0, Len: 8192, Kind: u}}, bitmapOf(t, img, "b"), "all zeros")
	img, err = f.u64(88, 0).open()
	require.NoError(t, err)
	require.ErrorIs(t, bitmapError(img, "b"), fs.ErrNotExist, "the extension is stale")

	corrupt, unsupported := &qcow2.CorruptError{}, &qcow2.UnsupportedError{}
	for name, c := range map[string]struct {
		bend func(f *forged, directory, table int)
		want error
	}{
		"granularity too fine":      {func(f *forged, d, _ int) { f.b[d+17] = 8 }, unsupported},
		"another type":              {func(f *forged, d, _ int) { f.b[d+16] = 2 }, unsupported},
		"unknown flag":              {func(f *forged, d, _ int) { f.u32(d+12, 1<<3) }, unsupported},
		"extra data":                {func(f *forged, d, _ int) { f.u64(128, 64).u32(d+20, 8); f.b[d+24], f.b[d+32] = 0, 'b' }, unsupported},
		"table too long":            {func(f *forged, d, _ int) { f.u32(d+8, 2) }, corrupt},
		"no table":                  {func(f *forged, d, _ int) { f.u32(d+8, 0) }, corrupt},
		"table at the header":       {func(f *forged, d, _ int) { f.u64(d, 0) }, corrupt},
		"table between clusters":    {func(f *forged, d, tb int) { f.u64(d, uint64(tb+8)) }, corrupt},
		"table outside":             {func(f *forged, d, _ int) { f.u64(d, 1<<62) }, corrupt},
		"bits outside":              {func(f *forged, _, tb int) { f.u64(tb, 1<<40) }, corrupt},
		"bits in the header":        {func(f *forged, _, tb int) { f.u64(tb, 1<<63) }, corrupt},
		"bits and all ones":         {func(f *forged, _, tb int) { f.u64(tb, uint64(tb+512)|1) }, corrupt},
		"reserved bits of an entry": {func(f *forged, _, tb int) { f.u64(tb, uint64(tb+512)|2) }, corrupt},
		"bits cut off":              {func(f *forged, _, tb int) { f.b = f.b[:tb+512+100] }, corrupt},
	} {
		f, directory, table := forgedBits()
		c.bend(f, directory, table)
		img, err := f.open()
		require.NoError(t, err, name)
		require.IsType(t, c.want, bitmapError(img, "b"), name)
	}

	f, directory, _ := forgedBits()
	f.u32(120, 2).u64(120+8, 64)
	copy(f.b[directory+32:], f.b[directory:directory+32])
	img, err = f.open()
	require.NoError(t, err)
	require.IsType(t, corrupt, bitmapError(img, "b"), "two of one name")
}

// TestBitmapBound: a bitmap that QEMU itself would not read is refused before any of it is.
func TestBitmapBound(t *testing.T) {
	f := forgeOf(3, 21, false)
	f.b = append(f.b, make([]byte, -len(f.b)&(f.cluster-1))...)
	directory := len(f.b)
	f.b = append(f.b, make([]byte, 512)...)
	f.u64(24, 1<<45).u32(36, 64) // 32 TiB by 512 bytes: 8 GiB of bits
	f.u64(88, 1).extension(0x23852875, "\x00\x00\x00\x01"+zeros(11)+"\x20"+zeros(8)).u64(120+16, uint64(directory))
	f.u64(directory, uint64(f.cluster)).u32(directory+8, 1<<12).u32(directory+16, 1<<24|9<<16|1)
	f.b[directory+24] = 'b'
	img, err := f.open()
	require.NoError(t, err)
	var unsupported *qcow2.UnsupportedError
	require.ErrorAs(t, bitmapError(img, "b"), &unsupported)
}
