package nbd_test

import (
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/nbd"
)

// The bars: the client reads at 90 % of nbdcopy's speed or more, from the same server; and nbdcopy reads from our server
// at 70 % of the speed of pipe.Copy or more, of the same image. Compare the pairs:
//
//	go test ./pipe/nbd -run '^$' -bench . -benchtime 5x

const benchSize = 256 << 20

// benchFile is a file of content that is not zero.
func benchFile(b *testing.B) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "disk.raw")
	f, err := os.Create(path)
	require.NoError(b, err)
	p := make([]byte, 1<<20)
	random{}.ReadAt(p, 0)
	for range benchSize / len(p) {
		_, err := f.Write(p)
		require.NoError(b, err)
	}
	require.NoError(b, f.Close())
	return path
}

func BenchmarkRead(b *testing.B) {
	socket := background(b, "nbdkit", "-f", "-U", "SOCKET", "file", benchFile(b))
	b.Run("our client", func(b *testing.B) {
		b.SetBytes(benchSize)
		for range b.N {
			c, err := nbd.Dial(b.Context(), unixURI(socket, ""), nil)
			require.NoError(b, err)
			readAll(b, c)
			require.NoError(b, c.Close())
		}
	})
	b.Run("nbdcopy", func(b *testing.B) {
		needs(b, "nbdcopy")
		b.SetBytes(benchSize)
		for range b.N {
			run(b, "nbdcopy", unixURI(socket, ""), "null:")
		}
	})
}

// readAll reads as pipe.Copy does: four readers, 1 MiB at a time.
func readAll(b *testing.B, img pipe.Image) {
	var next atomic.Int64
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			p := make([]byte, 1<<20)
			for off := next.Add(1<<20) - 1<<20; off < img.Size(); off = next.Add(1<<20) - 1<<20 {
				if _, err := img.ReadAt(b.Context(), p, off); err != nil {
					b.Error(err)
				}
			}
		})
	}
	group.Wait()
}

func BenchmarkServe(b *testing.B) {
	needs(b, "nbdcopy")
	f, err := os.Open(benchFile(b))
	require.NoError(b, err)
	defer f.Close()
	img := pipe.FromReaderAt(f, benchSize)
	uri := serve(b, nil, nbd.Export{Image: img})
	b.Run("nbdcopy", func(b *testing.B) {
		b.SetBytes(benchSize)
		for range b.N {
			run(b, "nbdcopy", uri(""), "null:")
		}
	})
	b.Run("pipe.Copy", func(b *testing.B) {
		b.SetBytes(benchSize)
		for range b.N {
			_, err := pipe.Copy(b.Context(), pipe.NewNull(img.Size(), 0), img, nil)
			require.NoError(b, err)
		}
	})
}
