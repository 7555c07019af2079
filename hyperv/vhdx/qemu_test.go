package vhdx_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/vhdx"
)

// needs skips a test that cannot run without a program.
func needs(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is not installed", p)
		}
	}
}

func run(t testing.TB, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	require.NoError(t, err, "%s\n%s", strings.Join(args, " "), out)
	return string(out)
}

// What we write, QEMU reads, and finds nothing wrong with; also where the log is still to be applied.
func TestQEMUReadsOurs(t *testing.T) {
	needs(t, "qemu-img")
	dir := t.TempDir()
	rounds := max(map[string]int{"long": 60, "release": 1000}[os.Getenv("HIKAE_TEST_TIER")], 2) // of five files
	for seed := range rounds {
		r := rand.New(rand.NewPCG(uint64(seed), 3))
		const size = 5<<20 + 512
		for name, opts := range map[string]vhdx.CreateOptions{
			"dynamic": {BlockSize: 1 << (20 + r.IntN(4))}, "fixed": {Type: vhdx.Fixed, BlockSize: 1 << 20}, "large": {},
			"vhd": {BlockSize: 1 << (16 + r.IntN(6))}, "vhd-fixed": {Type: vhdx.Fixed},
		} {
			m := &model{size: size, windows: []int64{0}, content: [][]byte{make([]byte, size)}}
			path, format := filepath.Join(dir, fmt.Sprintf("%d-%s", seed, name)), "vhdx"
			if strings.HasPrefix(name, "vhd-") || name == "vhd" {
				format = "vpc"
				target, err := vhdx.CreateVHD(t.Context(), path, size, &opts)
				require.NoError(t, err)
				for range 12 {
					m.step(t, r, target, nil, 512)
				}
				require.NoError(t, target.Commit(t.Context()))
			} else {
				target, err := vhdx.Create(t.Context(), path, size, &opts)
				require.NoError(t, err)
				for range 12 {
					m.step(t, r, target, nil, 512)
				}
				require.NoError(t, target.Commit(t.Context()))
				run(t, "qemu-img", "check", "-f", "vhdx", path)
			}
			requireQEMU(t, path, format, m.content[0])
			before, err := vhdx.Open(t.Context(), path, nil)
			require.NoError(t, err)
			requireContent(t, before, m.content[0])
			require.NoError(t, before.Close())
			if format == "vpc" {
				continue
			}
			d, err := vhdx.OpenDisk(t.Context(), path, nil)
			require.NoError(t, err)
			for range 6 {
				m.step(t, r, d, nil, 512)
				require.NoError(t, d.Flush(t.Context()))
			}
			require.NoError(t, d.Close()) // as a crash would
			img, err := vhdx.Open(t.Context(), path, nil)
			require.NoError(t, err)
			requireContent(t, img, m.content[0])
			require.NoError(t, img.Close())
			if img.Info().LogReplayed {
				run(t, "qemu-img", "check", "-f", "vhdx", "-r", "all", path) // it applies the log
			}
			requireQEMU(t, path, format, m.content[0])
		}
	}
}

func requireQEMU(t testing.TB, path, format string, want []byte) {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "raw")
	run(t, "qemu-img", "convert", "-f", format, "-O", "raw", path, raw)
	got, err := os.ReadFile(raw)
	require.NoError(t, err)
	require.Equal(t, len(want), len(got))
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("%s: QEMU reads %#x at %d, want %#x", path, got[i], i, want[i])
		}
	}
	require.NoError(t, os.Remove(raw))
}

// What QEMU writes, we read.
func TestQEMUWrites(t *testing.T) {
	needs(t, "qemu-img")
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(4, 4))
	const size = 9 << 20
	want := make([]byte, size)
	for range 6 {
		off := r.IntN(size - 400_000)
		copy(want[off:], noise(r, 1+r.IntN(400_000)))
	}
	raw := filepath.Join(dir, "raw")
	require.NoError(t, os.WriteFile(raw, want, 0o600))
	for _, args := range []string{
		"vhdx", "vhdx subformat=fixed", "vhdx block_size=1M", "vhdx block_size=16M,log_size=2M",
		"vpc force_size=on", "vpc force_size=on,subformat=fixed",
	} {
		format, opts, _ := strings.Cut(args, " ")
		path := filepath.Join(dir, "disk")
		cmd := []string{"qemu-img", "convert", "-f", "raw", "-O", format}
		if opts != "" {
			cmd = append(cmd, "-o", opts)
		}
		run(t, append(cmd, raw, path)...)
		img, err := vhdx.Open(t.Context(), path, nil)
		require.NoError(t, err, args)
		requireContent(t, img, want)
		require.NoError(t, img.Close())
	}
}
