package qcow2_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
	"github.com/hikae/hikae/pipe/qcow2"
)

const (
	benchSize = 256 << 20
	benchStep = 1 << 20
)

// benchData is data that compresses to about a half.
func benchData() []byte {
	b := make([]byte, benchSize)
	rand.NewChaCha8([32]byte{2}).Read(b)
	for i := range b {
		if i>>5&1 == 0 {
			b[i] = 'x'
		}
	}
	return b
}

func writeSteps(b *testing.B, target pipe.Target, data []byte) {
	for off := 0; off < len(data); off += benchStep {
		_, err := target.WriteAt(b.Context(), data[off:off+benchStep], int64(off))
		require.NoError(b, err)
	}
	require.NoError(b, target.Commit(b.Context()))
}

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

// BenchmarkRead reads from the page cache in steps of 1 MiB.
func BenchmarkRead(b *testing.B) {
	data := benchData()
	b.Run("raw", func(b *testing.B) {
		path := filepath.Join(b.TempDir(), "disk")
		require.NoError(b, os.WriteFile(path, data, 0o600))
		img, err := diskfile.Open(path, nil)
		require.NoError(b, err)
		defer img.Close()
		readSteps(b, img)
	})
	for name, opts := range map[string]*qcow2.CreateOptions{
		"plain": {}, "plain-4k": {ClusterSize: 4096}, "zlib": {Compress: true}, "zstd": {Compress: true, Compression: qcow2.Zstd},
	} {
		b.Run(name, func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "disk")
			target, err := qcow2.Create(path, benchSize, opts)
			require.NoError(b, err)
			writeSteps(b, target, data)
			img, err := qcow2.Open(b.Context(), path, nil)
			require.NoError(b, err)
			defer img.Close()
			readSteps(b, img)
		})
	}
}

// BenchmarkWrite writes in steps of 1 MiB and commits.
func BenchmarkWrite(b *testing.B) {
	data := benchData()
	b.Run("raw", func(b *testing.B) {
		b.SetBytes(benchSize)
		for b.Loop() {
			target, err := diskfile.Create(filepath.Join(b.TempDir(), "disk"), benchSize, &diskfile.CreateOptions{Overwrite: true})
			require.NoError(b, err)
			writeSteps(b, target, data)
		}
	})
	for name, opts := range map[string]*qcow2.CreateOptions{
		"plain": {}, "zlib": {Compress: true}, "zstd": {Compress: true, Compression: qcow2.Zstd},
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(benchSize)
			for b.Loop() {
				opts.Overwrite = true
				target, err := qcow2.Create(filepath.Join(b.TempDir(), "disk"), benchSize, opts)
				require.NoError(b, err)
				writeSteps(b, target, data)
			}
		})
	}
}
