//go:build unix

package pipe_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/stretchr/testify/require"
)

// benchSize is small by default: the buffers of a copy then still show, some 10 ms for fresh memory.
var benchSize = int64(256 << 20)

func init() {
	if tier := os.Getenv("HIKAE_TEST_TIER"); tier == "long" || tier == "release" {
		benchSize = 1 << 30
	}
}

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

// wanted is the processor time that the threads had or waited for: on a machine with other work it says, better than
// what was had, whether the copy keeps all processors busy. Zero where the kernel does not tell.
func wanted() (sum time.Duration) {
	files, _ := filepath.Glob("/proc/self/task/*/schedstat")
	for _, name := range files {
		text, _ := os.ReadFile(name)
		var run, wait int64
		if _, err := fmt.Sscan(string(text), &run, &wait); err == nil {
			sum += time.Duration(run + wait)
		}
	}
	return sum
}

// BenchmarkCopy reports, beside speed, the processor time, and the share of the processors that the copy used or
// wanted.
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
				cpu, want, wall := cpuTime(), wanted(), time.Now()
				for b.Loop() {
					_, err := pipe.Copy(context.Background(), target(), img, &pipe.CopyOptions{Compression: level})
					require.NoError(b, err)
				}
				used, claimed, elapsed := cpuTime()-cpu, wanted()-want, time.Since(wall)
				b.ReportMetric(float64(used.Milliseconds())/float64(b.N), "cpu-ms/op")
				all := float64(elapsed) * float64(runtime.GOMAXPROCS(0)) / 100
				b.ReportMetric(float64(used)/all, "%busy")
				b.ReportMetric(float64(claimed)/all, "%wanted")
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

// BenchmarkParts is what the parts of a copy cost without an engine between them: on each processor a loop that reads,
// fingerprints and encodes. A copy into a null target should cost no more processor time.
func BenchmarkParts(b *testing.B) {
	img := benchFile(b)
	for _, level := range []pipe.Compression{pipe.None, pipe.Fast, pipe.Default} {
		b.Run(string(level), func(b *testing.B) {
			b.SetBytes(benchSize)
			b.ReportAllocs()
			cpu := cpuTime()
			for b.Loop() {
				enc, err := pipe.NewEncoder(level, 256<<10)
				require.NoError(b, err)
				var next atomic.Int64
				var seen sync.Map
				var group sync.WaitGroup
				for range runtime.GOMAXPROCS(0) {
					group.Go(func() { parts(b, img, enc, &next, &seen) })
				}
				group.Wait()
			}
			b.ReportMetric(float64((cpuTime()-cpu).Milliseconds())/float64(b.N), "cpu-ms/op")
		})
	}
}

func parts(b *testing.B, img pipe.Image, enc *pipe.Encoder, next *atomic.Int64, seen *sync.Map) {
	target, zero := pipe.NewNull(benchSize, 0), make([]byte, 256<<10)
	p, out := make([]byte, 1<<20), make([]byte, 0, 512<<10)
	for {
		off := next.Add(int64(len(p))) - int64(len(p))
		if off >= benchSize {
			return
		}
		_, err := img.ReadAt(context.Background(), p, off)
		require.NoError(b, err)
		for at := 0; at < len(p); at += len(zero) {
			block := p[at:][:len(zero)]
			if bytes.Equal(block, zero) {
				continue
			}
			if _, known := seen.LoadOrStore(target.Fingerprint(block), true); !known {
				enc.Encode(out, block)
			}
		}
	}
}
