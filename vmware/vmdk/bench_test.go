package vmdk_test

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/vmware/vmdk"
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

func benchDisk(b *testing.B, kind vmdk.Type, data []byte) string {
	path := filepath.Join(b.TempDir(), "disk.vmdk")
	writeSteps(b, path, kind, data)
	return path
}

// writeSteps copies as pipe.Copy does, several blocks at once.
func writeSteps(b *testing.B, path string, kind vmdk.Type, data []byte) {
	opts := &vmdk.CreateOptions{Type: kind}
	opts.Overwrite = true
	target, err := vmdk.Create(b.Context(), path, int64(len(data)), opts)
	require.NoError(b, err)
	defer target.Close()
	_, err = pipe.Copy(b.Context(), target, pipe.FromReaderAt(readerAt(data), int64(len(data))), nil)
	require.NoError(b, err)
	require.NoError(b, target.Commit(b.Context()))
}

type readerAt []byte

func (r readerAt) ReadAt(p []byte, off int64) (int, error) { return copy(p, r[off:]), nil }

// BenchmarkRead reads from the page cache: we in steps of 1 MiB by one goroutine and as pipe.Copy does, qemu-img dd.
func BenchmarkRead(b *testing.B) {
	data := benchData()
	for _, kind := range []vmdk.Type{vmdk.MonolithicFlat, vmdk.MonolithicSparse, vmdk.StreamOptimized} {
		path := benchDisk(b, kind, data)
		b.Run(string(kind)+"/steps", func(b *testing.B) {
			b.SetBytes(benchSize)
			p := make([]byte, benchStep)
			for b.Loop() {
				img, err := vmdk.Open(b.Context(), path, nil)
				require.NoError(b, err)
				for off := int64(0); off < benchSize; off += benchStep {
					_, err := img.ReadAt(b.Context(), p, off)
					require.NoError(b, err)
				}
				require.NoError(b, img.Close())
			}
		})
		b.Run(string(kind)+"/copy", func(b *testing.B) {
			b.SetBytes(benchSize)
			for b.Loop() {
				img, err := vmdk.Open(b.Context(), path, nil)
				require.NoError(b, err)
				_, err = pipe.Copy(b.Context(), pipe.NewMemory(img.Size()), img, nil)
				require.NoError(b, err)
				require.NoError(b, img.Close())
			}
		})
		b.Run(string(kind)+"/qemu-img", func(b *testing.B) {
			needs(b, "qemu-img")
			b.SetBytes(benchSize)
			raw := filepath.Join(b.TempDir(), "raw")
			for b.Loop() {
				require.NoError(b, exec.Command("qemu-img", "convert", "-f", "vmdk", "-O", "raw", path, raw).Run())
			}
		})
	}
}

// BenchmarkWrite writes and commits.
func BenchmarkWrite(b *testing.B) {
	data := benchData()
	raw := filepath.Join(b.TempDir(), "raw")
	require.NoError(b, os.WriteFile(raw, data, 0o600))
	for _, kind := range []vmdk.Type{vmdk.MonolithicFlat, vmdk.MonolithicSparse, vmdk.StreamOptimized} {
		path := filepath.Join(b.TempDir(), "disk.vmdk")
		b.Run(string(kind)+"/copy", func(b *testing.B) {
			b.SetBytes(benchSize)
			for b.Loop() {
				writeSteps(b, path, kind, data)
			}
		})
		b.Run(string(kind)+"/qemu-img", func(b *testing.B) {
			needs(b, "qemu-img")
			b.SetBytes(benchSize)
			for b.Loop() {
				require.NoError(b, exec.Command("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat="+string(kind), raw, path).Run())
			}
		})
	}
}
