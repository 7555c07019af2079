package vmdk_test

import (
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/vmware/vmdk"
)

var types = []vmdk.Type{vmdk.MonolithicSparse, vmdk.MonolithicFlat, vmdk.VMFS, vmdk.StreamOptimized}

// TestTarget is the suite for all targets, for each type that we write.
func TestTarget(t *testing.T) {
	for _, kind := range types {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			pipetest.TestTarget(t, func(t testing.TB, size int64) (pipe.Target, func() pipe.Image) {
				path := filepath.Join(t.TempDir(), "disk.vmdk")
				target, err := vmdk.Create(t.Context(), path, size, &vmdk.CreateOptions{Type: kind})
				require.NoError(t, err)
				return target, func() pipe.Image {
					img, err := vmdk.Open(t.Context(), path, nil)
					require.NoError(t, err)
					t.Cleanup(func() { require.NoError(t, img.Close()) })
					exact, err := pipe.Section(img, 0, size) // the disk has whole sectors
					require.NoError(t, err)
					return exact
				}
			})
		})
	}
}

// TestCreateRandom writes disks by random writes and marks, in any order and over each other, and reads them back with
// our reader and with QEMU.
func TestCreateRandom(t *testing.T) {
	needs(t, "qemu-img")
	seedsOf(t, 16, 1500, createRandom)
}

func createRandom(t *testing.T, rng *rand.Rand) {
	path := filepath.Join(t.TempDir(), "new.vmdk")
	size := 1 + rng.Int64N(1<<(8+rng.IntN(15)))
	kind := types[rng.IntN(len(types))]
	target, err := vmdk.Create(t.Context(), path, size, &vmdk.CreateOptions{Type: kind})
	require.NoError(t, err)
	defer target.Close()
	want := make([]byte, (size+511)/512*512)
	align := []int64{1, 512, 4096, 65536}[rng.IntN(4)]
	g := &forger{t: t, rng: rng}
	ordered := rng.IntN(2) == 0
	for off := int64(0); ; {
		if ordered {
			off += align * rng.Int64N(4)
		} else if off = rng.Int64N(size) / align * align; rng.IntN(12) == 0 {
			break
		}
		n := min(align*(1+rng.Int64N(8)), size-off)
		if n <= 0 {
			break
		}
		p := want[off : off+n]
		if rng.IntN(4) == 0 {
			clear(p)
			require.NoError(t, target.Mark(t.Context(), pipe.Extent{Off: off, Len: n, Kind: pipe.Swap}))
		} else {
			g.fill(p)
			m, err := target.WriteAt(t.Context(), p, off)
			require.NoError(t, err)
			require.Equal(t, len(p), m)
		}
		if off += n; rng.IntN(500) == 0 {
			break
		}
	}
	require.NoError(t, target.Commit(t.Context()))
	story := string(kind)
	compare(t, path, want, story, rng)
	if at := firstDifference(want, qemuContent(t, path)); at >= 0 {
		t.Fatalf("QEMU reads something else at %d of a %s of %d", at, kind, size)
	}
	if kind == vmdk.MonolithicSparse || kind == vmdk.StreamOptimized {
		run(t, "qemu-img", "check", "-q", "-f", "vmdk", path)
	}
	if kind == vmdk.StreamOptimized {
		requireStream(t, path, want)
	}
}

// TestCreateConcurrent writes the two halves of every grain from different goroutines.
func TestCreateConcurrent(t *testing.T) {
	for _, kind := range types {
		path := filepath.Join(t.TempDir(), "new.vmdk")
		want := make([]byte, 9<<20+512)
		rand.NewChaCha8([32]byte{1}).Read(want[:4<<20])
		target, err := vmdk.Create(t.Context(), path, int64(len(want)), &vmdk.CreateOptions{Type: kind})
		require.NoError(t, err)
		defer target.Close()
		var group sync.WaitGroup
		errs := make([]error, 2)
		const half = 32 << 10
		for k := range errs {
			group.Go(func() {
				for off := k * half; off < len(want) && errs[k] == nil; off += 2 * half {
					_, errs[k] = target.WriteAt(t.Context(), want[off:min(off+half, len(want))], int64(off))
				}
			})
		}
		group.Wait()
		require.NoError(t, errs[0])
		require.NoError(t, errs[1])
		require.NoError(t, target.Commit(t.Context()))
		img, err := vmdk.Open(t.Context(), path, nil)
		require.NoError(t, err)
		require.Equal(t, -1, firstDifference(want, readAll(t, img, 1<<20)), "%s", kind)
		require.NoError(t, img.Close())
	}
}

// TestCreateRefuses: what a descriptor cannot say, sizes that the format does not have, files that are there.
func TestCreateRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, test := range map[string]struct {
		path string
		size int64
		opts vmdk.CreateOptions
	}{
		"negative":      {"a.vmdk", -1, vmdk.CreateOptions{}},
		"too large":     {"a.vmdk", 9 << 40, vmdk.CreateOptions{}},
		"quote in name": {"a\"b.vmdk", 512, vmdk.CreateOptions{}},
		"line in ddb":   {"a.vmdk", 512, vmdk.CreateOptions{DDB: map[string]string{"uuid": "x\nRW 1 FLAT \"/etc/shadow\""}}},
		"key of ddb":    {"a.vmdk", 512, vmdk.CreateOptions{DDB: map[string]string{"a = b": "x"}}},
		"unknown type":  {"a.vmdk", 512, vmdk.CreateOptions{Type: "fullDevice"}},
	} {
		_, err := vmdk.Create(t.Context(), filepath.Join(dir, test.path), test.size, &test.opts)
		require.ErrorIs(t, err, fs.ErrInvalid, name)
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "there-flat.vmdk"), nil, 0o600))
	_, err := vmdk.Create(t.Context(), filepath.Join(dir, "there.vmdk"), 512, &vmdk.CreateOptions{Type: vmdk.VMFS})
	require.ErrorIs(t, err, fs.ErrExist)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1, "nothing is left of what was refused")
}
