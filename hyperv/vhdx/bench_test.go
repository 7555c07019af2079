package vhdx_test

import (
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/vhdx"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

const (
	benchSize = 256 << 20
	benchStep = 1 << 20
)

func readSteps(b *testing.B, img pipe.Image) {
	b.SetBytes(benchSize)
	p := make([]byte, benchStep)
	for b.Loop() {
		for off := int64(0); off < benchSize; off += benchStep {
			_, err := img.ReadAt(b.Context(), p, off)
			require.NoError(b, err)
		}
	}
}

// benchChain is a raw file, a flat VHDX and a chain of three with the same bytes; in the chain each child has a third of
// the disk, in pieces.
func benchChain(b testing.TB, piece int) (raw, flat, chain string) {
	dir := b.TempDir()
	data := make([]byte, benchSize)
	rand.NewChaCha8([32]byte{2}).Read(data)
	raw, flat = filepath.Join(dir, "raw"), filepath.Join(dir, "flat.vhdx")
	require.NoError(b, os.WriteFile(raw, data, 0o600))
	create(b, flat, benchSize, nil, func(w pipe.ExtentTarget) {
		for off := 0; off < benchSize; off += benchStep {
			put(b, w, data[off:off+benchStep], int64(off))
		}
	})
	parent := ""
	for i, name := range []string{"a.vhdx", "b.avhdx", "c.avhdx"} {
		chain = filepath.Join(dir, name)
		create(b, chain, benchSize, &vhdx.CreateOptions{Parent: parent}, func(w pipe.ExtentTarget) {
			for n := 0; n*piece < benchSize; n++ {
				if i == 0 || n%3 == i {
					put(b, w, data[n*piece:(n+1)*piece], int64(n*piece))
				}
			}
		})
		parent = chain
	}
	return raw, flat, chain
}

// BenchmarkRead reads from the page cache in steps of 1 MiB.
func BenchmarkRead(b *testing.B) {
	raw, flat, chain := benchChain(b, 64<<10)
	b.Run("raw", func(b *testing.B) {
		img, err := diskfile.Open(raw, nil)
		require.NoError(b, err)
		defer img.Close()
		readSteps(b, img)
	})
	for _, path := range []string{flat, chain} {
		b.Run(filepath.Base(path), func(b *testing.B) {
			img, err := vhdx.Open(b.Context(), path, nil)
			require.NoError(b, err)
			defer img.Close()
			readSteps(b, img)
		})
	}
}

// BenchmarkConvert makes a raw file of a VHDX: ours of the chain of three and of a flat one, and qemu-img's of the flat
// one, since it opens no chains. Both leave the result to the page cache.
func BenchmarkConvert(b *testing.B) {
	_, flat, chain := benchChain(b, 64<<10)
	for _, path := range []string{flat, chain} {
		b.Run(filepath.Base(path), func(b *testing.B) {
			b.SetBytes(benchSize)
			out := filepath.Join(b.TempDir(), "out")
			for b.Loop() {
				convert(b, path, out)
			}
		})
	}
	b.Run("qemu-img", func(b *testing.B) {
		needs(b, "qemu-img")
		b.SetBytes(benchSize)
		out := filepath.Join(b.TempDir(), "out")
		for b.Loop() {
			require.NoError(b, exec.CommandContext(b.Context(), "qemu-img", "convert", "-f", "vhdx", "-O", "raw", flat, out).Run())
		}
	})
}

// convert copies into a file that is there already or is made, as qemu-img does, without a sync.
func convert(b testing.TB, from, to string) {
	img, err := vhdx.Open(b.Context(), from, nil)
	require.NoError(b, err)
	defer img.Close()
	require.NoError(b, os.WriteFile(to, nil, 0o600))
	require.NoError(b, os.Truncate(to, img.Size()))
	f, err := os.OpenFile(to, os.O_RDWR, 0)
	require.NoError(b, err)
	defer f.Close()
	_, err = pipe.Copy(b.Context(), unsynced{f, img.Size()}, img, nil)
	require.NoError(b, err)
}

type unsynced struct {
	*os.File
	size int64
}

func (u unsynced) Size() int64 { return u.size }

func (u unsynced) WriteAt(_ context.Context, p []byte, off int64) (int, error) {
	return u.File.WriteAt(p, off)
}

func (u unsynced) Commit(context.Context) error { return nil }
