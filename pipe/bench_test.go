//go:build unix

package pipe_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/stretchr/testify/require"
)

const benchSize = 256 << 20

// benchFile is a pattern as a file in the page cache.
func benchFile(b *testing.B) pipe.Image {
	b.Helper()
	f, err := os.Create(filepath.Join(b.TempDir(), "disk"))
	require.NoError(b, err)
	b.Cleanup(func() { f.Close() })
	p := make([]byte, 1<<20)
	src := pipetest.NewPattern(1, benchSize)
	for off := int64(0); off < benchSize; off += int64(len(p)) {
		_, err = src.ReadAt(context.Background(), p, off)
		require.NoError(b, err)
		_, err = f.WriteAt(p, off)
		require.NoError(b, err)
	}
	return pipe.FromReaderAt(f, benchSize)
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkCopy reports, beside speed, the processor time per byte and the share of the processors that was busy.
func BenchmarkCopy(b *testing.B) {
	img := benchFile(b)
	for _, level := range []pipe.Compression{pipe.None, pipe.Fast, pipe.Default} {
		for name, target := range map[string]func() pipe.Target{
			"null":   func() pipe.Target { return pipe.NewNull(benchSize, 0) },
			"memory": func() pipe.Target { return memoryDisk(b) },
		} {
			b.Run(fmt.Sprintf("%s/%s", level, name), func(b *testing.B) {
				b.SetBytes(benchSize)
				b.ReportAllocs()
				cpu, wall := cpuTime(), time.Now()
				for b.Loop() {
					_, err := pipe.Copy(context.Background(), target(), img, &pipe.CopyOptions{Compression: level})
					require.NoError(b, err)
				}
				used, elapsed := cpuTime()-cpu, time.Since(wall)
				b.ReportMetric(float64(used.Milliseconds())/float64(b.N), "cpu-ms/op")
				b.ReportMetric(100*float64(used)/float64(elapsed)/float64(runtime.GOMAXPROCS(0)), "%busy")
			})
		}
	}
}

func memoryDisk(b *testing.B) pipe.Target {
	w, err := pipetest.NewBackend(256<<10).Begin(context.Background(), "vm", nil)
	require.NoError(b, err)
	t, err := w.Disk(context.Background(), "disk", benchSize)
	require.NoError(b, err)
	return t
}

// BenchmarkParts is what the parts of a copy cost alone, on one processor: read, find zeros, fingerprint, encode. A copy
// into a null target should cost their sum.
func BenchmarkParts(b *testing.B) {
	img, target := benchFile(b), pipe.NewNull(benchSize, 0)
	for _, level := range []pipe.Compression{pipe.None, pipe.Fast, pipe.Default} {
		b.Run(string(level), func(b *testing.B) {
			enc, err := pipe.NewEncoder(level, 256<<10)
			require.NoError(b, err)
			p, out := make([]byte, 1<<20), make([]byte, 0, 512<<10)
			b.SetBytes(benchSize)
			b.ReportAllocs()
			cpu := cpuTime()
			for b.Loop() {
				seen := map[pipe.ID]bool{}
				for off := int64(0); off < benchSize; off += int64(len(p)) {
					_, err := img.ReadAt(context.Background(), p, off)
					require.NoError(b, err)
					for at := 0; at < len(p); at += 256 << 10 {
						block := p[at:][:256<<10]
						if id := target.Fingerprint(block); !seen[id] {
							seen[id] = true
							enc.Encode(out, block)
						}
					}
				}
			}
			b.ReportMetric(float64((cpuTime()-cpu).Milliseconds())/float64(b.N), "cpu-ms/op")
		})
	}
}
