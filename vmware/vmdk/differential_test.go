package vmdk_test

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/vmware/vmdk"
)

// seedsOf runs a test for a row of seeds: a few, or in the long tier many that start somewhere else each time.
func seedsOf(t *testing.T, few, many int, test func(t *testing.T, rng *rand.Rand)) {
	first := uint64(1)
	if longTier() {
		first, few = rand.Uint64N(1<<40), many
	}
	for i := range few {
		seed := first + uint64(i)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			test(t, rand.New(rand.NewPCG(seed, 11)))
		})
	}
}

// TestRagged reads disks of which extents end within a grain, which QEMU does not.
func TestRagged(t *testing.T) {
	seedsOf(t, 12, 500, func(t *testing.T, rng *rand.Rand) {
		d := (&forger{t: t, rng: rng, dir: t.TempDir(), ragged: true}).chain()
		compare(t, d.path, d.content, d.story, rng)
	})
}

// TestLikeQEMU reads chains of random layout, of every form, and compares content with what was put in and with what
// QEMU reads.
func TestLikeQEMU(t *testing.T) {
	needs(t, "qemu-img")
	seedsOf(t, 40, 3600, func(t *testing.T, rng *rand.Rand) {
		d := (&forger{t: t, rng: rng, dir: t.TempDir()}).chain()
		compare(t, d.path, d.content, d.story, rng)
		if at := firstDifference(d.content, qemuContent(t, d.path)); at >= 0 {
			t.Fatalf("QEMU reads something else at %d\n%s", at, d.story)
		}
	})
}

func compare(t *testing.T, path string, want []byte, story string, rng *rand.Rand) {
	img, err := vmdk.Open(t.Context(), path, nil)
	require.NoError(t, err, "%s", story)
	defer func() { require.NoError(t, img.Close()) }()
	require.Equal(t, int64(len(want)), img.Size(), "%s", story)
	for _, piece := range []int{1 << 20, 512 + rng.IntN(99_999)} {
		if at := firstDifference(want, readAll(t, img, piece)); at >= 0 {
			t.Fatalf("differs at %d, read by %d\n%s", at, piece, story)
		}
	}
	requireExtents(t, img, want, story)
	pipetest.TestImage(t, img, pipetest.Bytes(want))
}

// TestOfQEMU reads chains that QEMU made and wrote to.
func TestOfQEMU(t *testing.T) {
	needs(t, "qemu-img", "qemu-io")
	seedsOf(t, 10, 500, func(t *testing.T, rng *rand.Rand) {
		path, story := qemuChain(t, rng)
		compare(t, path, qemuContent(t, path), story, rng)
	})
}

// qemuChain is a disk of a random subformat, and up to three deltas on it.
func qemuChain(t *testing.T, rng *rand.Rand) (path, story string) {
	dir := t.TempDir()
	size := 512 * (1 + rng.Int64N(1<<(4+rng.IntN(11))))
	formats := []string{"monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized"}
	for i := range 1 + rng.IntN(4) {
		format := formats[rng.IntN(len(formats))]
		args := []string{"qemu-img", "create", "-q", "-f", "vmdk"}
		if i > 0 {
			format = "monolithicSparse"
			args = append(args, "-F", "vmdk", "-b", filepath.Base(path))
		}
		options := "subformat=" + format
		if format == "monolithicSparse" && rng.IntN(2) == 0 {
			options += ",zeroed_grain=on"
		}
		path = filepath.Join(dir, fmt.Sprintf("disk%d.vmdk", i))
		run(t, append(args, "-o", options, path, fmt.Sprint(size))...)
		commands := []string{"qemu-io", "-f", "vmdk"}
		grains := rng.Perm(int(size+65535) / 65536)
		for k := range rng.IntN(12) {
			off := 512 * rng.Int64N(size/512)
			n := min(512*(1+rng.Int64N(1<<rng.IntN(10))), size-off)
			command := fmt.Sprintf("write -P %d %d %d", 1+rng.IntN(255), off, n)
			if format == "streamOptimized" { // whole grains, each once
				if k >= len(grains) {
					break
				}
				off = int64(grains[k]) * 65536
				command = fmt.Sprintf("write -P %d %d %d", 1+rng.IntN(255), off, min(65536, size-off))
			} else if rng.IntN(4) == 0 {
				command = fmt.Sprintf("write -z %d %d", off, n)
			}
			commands = append(commands, "-c", command)
		}
		out, _ := tryRun(append(commands, path)...)
		require.NotContains(t, out, "can't open", "%v", commands)
		story += fmt.Sprintf("%s %d %s %q\n", filepath.Base(path), size, options, commands[3:])
	}
	return path, story
}
