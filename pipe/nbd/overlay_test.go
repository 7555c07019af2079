package nbd_test

import (
	"context"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/nbd"
	"github.com/hikae/hikae/pipe/pipetest"
)

// Random writes and zeros over a base leave what a plain disk would hold; so does the file, opened again, and the base
// is as it was.
func TestOverlayIsAPlainDisk(t *testing.T) {
	for _, size := range []int64{1, 65535, 65537, 1<<20 + 513} {
		path := filepath.Join(t.TempDir(), "scratch")
		base := sparse(uint64(size), size)
		disk, err := nbd.OpenOverlay(path, base, nil)
		require.NoError(t, err)
		want := make([]byte, size)
		_, err = base.ReadAt(t.Context(), want, 0)
		require.NoError(t, err)
		r := rand.New(rand.NewPCG(1, uint64(size)))
		for i := range 60 {
			off := r.Int64N(size)
			n := min(size-off, r.Int64N(200_000))
			if p := want[off : off+n]; i%3 == 0 {
				clear(p)
				require.NoError(t, disk.Zero(t.Context(), off, n))
			} else {
				for j := range p {
					p[j] = byte(r.Uint32())
				}
				_, err := disk.WriteAt(t.Context(), p, off)
				require.NoError(t, err)
			}
		}
		pipetest.TestImage(t, disk, pipetest.Bytes(want))
		require.NoError(t, disk.Close())
		again, err := nbd.OpenOverlay(path, base, nil)
		require.NoError(t, err)
		pipetest.TestImage(t, again, pipetest.Bytes(want))
		require.NoError(t, again.Close())
		require.NoError(t, again.Close())
		_, err = again.WriteAt(t.Context(), []byte{1}, 0)
		require.ErrorIs(t, err, fs.ErrClosed)
	}
}

// Writers side by side in one block lose nothing to each other's filling up.
func TestOverlayWritersShareBlocks(t *testing.T) {
	const size, part = 256 << 10, 512
	disk, err := nbd.OpenOverlay(filepath.Join(t.TempDir(), "scratch"), sparse(1, size), nil)
	require.NoError(t, err)
	defer disk.Close()
	var group sync.WaitGroup
	for g := range int64(8) {
		group.Go(func() {
			for off := g * part; off < size; off += 8 * part {
				b := make([]byte, part)
				for i := range b {
					b[i] = byte(g + 1)
				}
				if _, err := disk.WriteAt(context.Background(), b, off); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	b := make([]byte, size)
	_, err = disk.ReadAt(t.Context(), b, 0)
	require.NoError(t, err)
	for i := range b {
		require.Equal(t, byte(i/part%8+1), b[i], "byte %d", i)
	}
}

// What was flushed is in the file as it stands on the disk; what was not flushed is the base's, never something else.
func TestOverlayAfterACrash(t *testing.T) {
	const block = 64 << 10
	path := filepath.Join(t.TempDir(), "scratch")
	base := pipetest.NewPattern(5, 4*block)
	disk, err := nbd.OpenOverlay(path, base, nil)
	require.NoError(t, err)
	defer disk.Close()
	one := make([]byte, 100)
	for i := range one {
		one[i] = 1
	}
	_, err = disk.WriteAt(t.Context(), one, 10)
	require.NoError(t, err)
	require.NoError(t, disk.Flush(t.Context()))
	_, err = disk.WriteAt(t.Context(), one, block+10) // not flushed: its block is not in the map
	require.NoError(t, err)
	require.NoError(t, disk.Zero(t.Context(), 2*block, block))
	copied := filepath.Join(t.TempDir(), "after") // what another program finds in the file
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(copied, b, 0o600))
	after, err := nbd.OpenOverlay(copied, base, nil)
	require.NoError(t, err)
	defer after.Close()
	want := make([]byte, 4*block)
	_, err = base.ReadAt(t.Context(), want, 0)
	require.NoError(t, err)
	copy(want[10:], one)
	pipetest.TestImage(t, after, pipetest.Bytes(want))
}

// A scratch file goes with one base, one program at a time, and a damaged one is refused. A map of any bytes does no
// harm beyond the disk itself.
func TestOverlayRefusals(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "scratch")
	base := sparse(1, 300_000)
	disk, err := nbd.OpenOverlay(path, base, &nbd.OverlayOptions{Identity: "a"})
	require.NoError(t, err)
	if runtime.GOOS == "linux" || runtime.GOOS == "darwin" {
		_, err = nbd.OpenOverlay(path, base, &nbd.OverlayOptions{Identity: "a"})
		require.ErrorIs(t, err, nbd.ErrInUse)
	}
	_, err = disk.WriteAt(t.Context(), make([]byte, 2), 299_999)
	require.ErrorIs(t, err, fs.ErrInvalid)
	require.ErrorIs(t, disk.Zero(t.Context(), 1<<62, 1<<62), fs.ErrInvalid)
	require.NoError(t, disk.Close())
	_, err = nbd.OpenOverlay(path, base, &nbd.OverlayOptions{Identity: "b"})
	require.ErrorIs(t, err, nbd.ErrOtherBase)
	_, err = nbd.OpenOverlay(path, sparse(1, 300_001), &nbd.OverlayOptions{Identity: "a"})
	require.ErrorIs(t, err, nbd.ErrOtherBase)
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	for name, change := range map[string]func([]byte) []byte{
		"another file": func([]byte) []byte { return []byte("hello") }, "no magic": func(b []byte) []byte { b[0] = 'x'; return b },
		"flipped bit": func(b []byte) []byte { b[17] ^= 1; return b }, "cut": func(b []byte) []byte { return b[:len(b)-1] },
	} {
		other := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(other, change(append([]byte{}, good...)), 0o600))
		_, err = nbd.OpenOverlay(other, base, &nbd.OverlayOptions{Identity: "a"})
		require.ErrorIs(t, err, nbd.ErrNotOverlay, name)
	}
	for i := 4096; i < 8192; i++ {
		good[i] = 0xff // a state that does not exist
	}
	other := filepath.Join(dir, "map")
	require.NoError(t, os.WriteFile(other, good, 0o600))
	odd, err := nbd.OpenOverlay(other, base, &nbd.OverlayOptions{Identity: "a"})
	require.NoError(t, err)
	defer odd.Close()
	pipetest.TestImage(t, odd, base)
	_, err = nbd.OpenOverlay(dir, base, nil)
	require.Error(t, err)
}

// The scratch file of a huge disk is small, and zeroing gives its room back.
func TestOverlayIsSparse(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("counts blocks as Linux does")
	}
	path := filepath.Join(t.TempDir(), "scratch")
	disk, err := nbd.OpenOverlay(path, pipe.NewMemory(1<<40), nil)
	require.NoError(t, err)
	defer disk.Close()
	b := make([]byte, 8<<20)
	b[0], b[4<<20] = 1, 1
	_, err = disk.WriteAt(t.Context(), b, 1<<39)
	require.NoError(t, err)
	require.NoError(t, disk.Flush(t.Context()))
	full := allocated(t, path)
	require.Less(t, full, int64(9<<20))
	require.NoError(t, disk.Zero(t.Context(), 1<<39, 8<<20))
	require.NoError(t, disk.Flush(t.Context()))
	require.Less(t, allocated(t, path), full-7<<20)
}
