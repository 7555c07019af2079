package vhdx_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/hyperv/vhdx"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// longTier reports whether tests may take minutes.
func longTier() bool {
	tier := os.Getenv("HIKAE_TEST_TIER")
	return tier == "long" || tier == "release"
}

// clipped is the first n bytes of an image.
type clipped struct {
	pipe.Image
	n int64
}

func (c clipped) Size() int64 { return c.n }

func (c clipped) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off >= c.n {
		return 0, map[bool]error{false: io.EOF}[len(p) == 0]
	}
	want := p[:min(int64(len(p)), c.n-max(off, 0))]
	n, err := c.Image.ReadAt(ctx, want, off)
	if err == nil && len(want) < len(p) {
		err = io.EOF
	}
	return n, err
}

// requireContent compares an image with bytes, whole and by its extents.
func requireContent(t testing.TB, img pipe.Image, want []byte) {
	t.Helper()
	require.Equal(t, int64(len(want)), img.Size())
	got := make([]byte, 1<<20)
	for off := 0; off < len(want); off += len(got) {
		p := got[:min(len(got), len(want)-off)]
		_, err := img.ReadAt(t.Context(), p, int64(off))
		require.NoError(t, err)
		if !bytes.Equal(p, want[off:off+len(p)]) {
			for i := range p {
				require.Equal(t, want[off+i], p[i], "byte %d", off+i)
			}
		}
	}
	at := int64(0)
	for e, err := range pipe.Extents(t.Context(), img, 0, img.Size()) {
		require.NoError(t, err)
		require.Equal(t, at, e.Off)
		if at = e.End(); e.Kind == pipe.Zero {
			require.Zero(t, len(bytes.TrimLeft(want[e.Off:e.End()], "\x00")), "%v is not zero", e)
		}
	}
	require.Equal(t, img.Size(), at)
}

// create makes a disk by hand.
func create(t testing.TB, path string, size int64, opts *vhdx.CreateOptions, write func(pipe.ExtentTarget)) {
	t.Helper()
	target, err := vhdx.Create(t.Context(), path, size, opts)
	require.NoError(t, err)
	defer target.Close()
	if write != nil {
		write(target)
	}
	require.NoError(t, target.Commit(t.Context()))
}

func put(t testing.TB, target pipe.Target, p []byte, off int64) {
	t.Helper()
	n, err := target.WriteAt(t.Context(), p, off)
	require.NoError(t, err)
	require.Equal(t, len(p), n)
}

func open(t testing.TB, path string, opts *vhdx.Options) *vhdx.Image {
	t.Helper()
	img, err := vhdx.Open(t.Context(), path, opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, img.Close()) })
	return img
}

// noise is n bytes of which none is zero.
func noise(r *rand.Rand, n int) []byte {
	b := make([]byte, n+8)
	for i := 0; i < n; i += 8 {
		le.PutUint64(b[i:], r.Uint64()|0x0101010101010101)
	}
	return b[:n]
}

// The suite of pipetest holds every kind of target, and by way of it every kind of image.
func TestConformance(t *testing.T) {
	dir := t.TempDir()
	n := 0
	path := func(ending string) string {
		n++
		return filepath.Join(dir, string(rune('a'+n%26))+"-"+string(rune('0'+n/26%10))+string(rune('0'+n/260))+ending)
	}
	for name, opts := range map[string]vhdx.CreateOptions{
		"dynamic": {BlockSize: 1 << 20}, "fixed": {Type: vhdx.Fixed, BlockSize: 1 << 20}, "4096": {SectorSize: 4096, BlockSize: 2 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			pipetest.TestTarget(t, func(t testing.TB, size int64) (pipe.Target, func() pipe.Image) {
				file := path(".vhdx")
				target, err := vhdx.Create(t.Context(), file, size, &opts)
				require.NoError(t, err)
				return target, func() pipe.Image {
					img, err := vhdx.Open(t.Context(), file, nil)
					require.NoError(t, err)
					if img.Size() == size {
						return img
					}
					return clipped{img, size}
				}
			})
		})
	}
	t.Run("differencing", func(t *testing.T) {
		pipetest.TestTarget(t, func(t testing.TB, size int64) (pipe.Target, func() pipe.Image) {
			parent, file := path("-parent.vhdx"), path(".avhdx")
			create(t, parent, size, &vhdx.CreateOptions{BlockSize: 1 << 20}, nil)
			target, err := vhdx.Create(t.Context(), file, size, &vhdx.CreateOptions{Parent: parent, BlockSize: 1 << 20})
			require.NoError(t, err)
			return childOfZeros{target, size}, func() pipe.Image {
				img, err := vhdx.Open(t.Context(), file, nil)
				require.NoError(t, err)
				if img.Size() == size {
					return img
				}
				return clipped{img, size}
			}
		})
	})
	for name, opts := range map[string]vhdx.CreateOptions{"vhd dynamic": {BlockSize: 64 << 10}, "vhd fixed": {Type: vhdx.Fixed}} {
		t.Run(name, func(t *testing.T) {
			pipetest.TestTarget(t, func(t testing.TB, size int64) (pipe.Target, func() pipe.Image) {
				file := path(".vhd")
				target, err := vhdx.CreateVHD(t.Context(), file, size, &opts)
				require.NoError(t, err)
				return target, func() pipe.Image {
					img, err := vhdx.Open(t.Context(), file, nil)
					require.NoError(t, err)
					if img.Size() == size {
						return img
					}
					return clipped{img, size}
				}
			})
		})
	}
}

// childOfZeros is a differencing target in a suite for targets without a base.
type childOfZeros struct {
	*vhdx.Target
	size int64
}

func (c childOfZeros) Size() int64 { return c.size }

func (c childOfZeros) Mark(ctx context.Context, e pipe.Extent) error {
	if e.Kind == pipe.Unchanged {
		return context.Canceled
	}
	return c.Target.Mark(ctx, e)
}
