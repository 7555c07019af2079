package vhdx_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/vhdx"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

// forgetting is a target that is as fast as none.
type forgetting int64

func (f forgetting) Size() int64 { return int64(f) }

func (f forgetting) WriteAt(_ context.Context, p []byte, _ int64) (int, error) { return len(p), nil }
func (f forgetting) Commit(context.Context) error                              { return nil }
func (f forgetting) Close() error                                              { return nil }

// Copying out of a chain of three that has its pieces of 1 MiB by turns is at least 80 % as fast as out of a raw file with the same
// bytes. With pieces of 64 KiB it is less from a page cache, where every call to the system counts; the bar there only tells when
// it gets worse. And a flat VHDX becomes a raw file at least 1.5 times as fast as qemu-img makes one. Medians of pairs, from the
// page cache. R092.
func TestSpeed(t *testing.T) {
	if !longTier() {
		t.Skip("a figure of the long tier")
	}
	out := filepath.Join(t.TempDir(), "out")
	copied := func(open func() (pipe.Image, error)) time.Duration {
		img, err := open()
		require.NoError(t, err)
		defer img.Close()
		begun := time.Now()
		_, err = pipe.Copy(t.Context(), forgetting(img.Size()), img, nil)
		require.NoError(t, err)
		return time.Since(begun)
	}
	median := func(name string, pairs int, theirs, ours func() time.Duration) float64 {
		var ratios []float64
		for range pairs {
			a, b := theirs(), ours()
			ratios = append(ratios, a.Seconds()/b.Seconds())
		}
		slices.Sort(ratios)
		t.Logf("%s: %.2f times as fast (%.2f to %.2f)", name, ratios[pairs/2], ratios[0], ratios[pairs-1])
		return ratios[pairs/2]
	}
	var flat string
	for piece, bar := range map[int]float64{64 << 10: 0.4, 1 << 20: 0.8} {
		raw, one, chain := benchChain(t, piece)
		flat = one
		ratio := median(fmt.Sprintf("chain of three in pieces of %d KiB, by raw", piece>>10), 31, func() time.Duration {
			return copied(func() (pipe.Image, error) { return diskfile.Open(raw, nil) })
		}, func() time.Duration {
			return copied(func() (pipe.Image, error) { return vhdx.Open(t.Context(), chain, nil) })
		})
		require.GreaterOrEqual(t, ratio, bar)
	}
	needs(t, "qemu-img")
	asQEMU := median("flat to raw, by qemu-img", 7, func() time.Duration {
		begun := time.Now()
		require.NoError(t, exec.CommandContext(t.Context(), "qemu-img", "convert", "-f", "vhdx", "-O", "raw", flat, out).Run())
		return time.Since(begun)
	}, func() time.Duration {
		require.NoError(t, os.RemoveAll(out))
		begun := time.Now()
		convert(t, flat, out)
		return time.Since(begun)
	})
	require.GreaterOrEqual(t, asQEMU, 1.5)
}
